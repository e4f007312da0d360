#include "problem.h"

#include <limits>

namespace mask2former_ext {

namespace {

std::vector<Level> read_levels(const at::Tensor& spatial_shapes, const at::Tensor& level_start_index, int64_t pixels) {
  for (const at::Tensor* tensor : {&spatial_shapes, &level_start_index}) {
    TORCH_CHECK_VALUE(
        tensor->scalar_type() == at::kLong || tensor->scalar_type() == at::kInt,
        "ms_deform_attn: spatial_shapes and level_start_index must be int64, got ",
        tensor->scalar_type());
  }
  TORCH_CHECK_VALUE(
      pixels <= std::numeric_limits<int32_t>::max(), "ms_deform_attn: ", pixels, " pixels are more than 2^31 - 1");
  TORCH_CHECK_VALUE(
      spatial_shapes.dim() == 2 && spatial_shapes.size(1) == 2 && spatial_shapes.size(0) > 0,
      "ms_deform_attn: spatial_shapes must be L x 2 (height, width) with at least one level, got shape ",
      spatial_shapes.sizes());
  TORCH_CHECK_VALUE(
      level_start_index.dim() == 1 && level_start_index.size(0) == spatial_shapes.size(0),
      "ms_deform_attn: level_start_index must have one entry for each of the ",
      spatial_shapes.size(0),
      " levels, got shape ",
      level_start_index.sizes());
  // A copy to the host where they lie on a GPU: callers who keep them on the CPU save the wait.
  const at::Tensor shapes = spatial_shapes.to(at::kCPU, at::kLong).contiguous();
  const at::Tensor starts = level_start_index.to(at::kCPU, at::kLong).contiguous();
  const int64_t* shape = shapes.const_data_ptr<int64_t>();
  const int64_t* start = starts.const_data_ptr<int64_t>();
  std::vector<Level> levels;
  int64_t next = 0;
  for (int64_t i = 0; i < shapes.size(0); ++i) {
    const Level level{shape[2 * i], shape[2 * i + 1], start[i]};
    TORCH_CHECK_VALUE(
        level.height > 0 && level.width > 0 && level.height <= pixels && level.width <= pixels,
        "ms_deform_attn: level ",
        i,
        " has height ",
        level.height,
        " and width ",
        level.width,
        ", but value holds ",
        pixels,
        " pixels in all");
    TORCH_CHECK_VALUE(
        level.start == next,
        "ms_deform_attn: level ",
        i,
        " starts at pixel ",
        next,
        " when levels lie end to end, but level_start_index says ",
        level.start);
    next += level.height * level.width;
    TORCH_CHECK_VALUE(
        next <= pixels, "ms_deform_attn: levels up to ", i, " hold ", next, " pixels, but value has only ", pixels);
    levels.push_back(level);
  }
  TORCH_CHECK_VALUE(next == pixels, "ms_deform_attn: the levels hold ", next, " pixels, but value has ", pixels);
  return levels;
}

void check_floating(const at::Tensor& tensor, const char* name, at::Device device) {
  const at::ScalarType type = tensor.scalar_type();
  TORCH_CHECK_VALUE(
      type == at::kFloat || type == at::kDouble || type == at::kHalf || type == at::kBFloat16,
      "ms_deform_attn: ",
      name,
      " must be float32, float64, float16 or bfloat16, got ",
      type);
  TORCH_CHECK_VALUE(
      tensor.device() == device, "ms_deform_attn: value is on ", device, ", but ", name, " on ", tensor.device());
}

}  // namespace

Problem check_inputs(
    const at::Tensor& value,
    const at::Tensor& spatial_shapes,
    const at::Tensor& level_start_index,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights) {
  check_floating(value, "value", value.device());
  check_floating(sampling_locations, "sampling_locations", value.device());
  check_floating(attention_weights, "attention_weights", value.device());
  TORCH_CHECK_VALUE(
      value.dim() == 4 && value.size(2) > 0 && value.size(3) > 0,
      "ms_deform_attn: value must be B x S x M x D with at least one head and channel, got shape ",
      value.sizes());
  Problem problem{value.size(0), value.size(1), value.size(2), value.size(3), 0, 0, {}};
  problem.levels = read_levels(spatial_shapes, level_start_index, problem.pixels);
  TORCH_CHECK_VALUE(
      sampling_locations.dim() == 6 && sampling_locations.size(0) == problem.batch &&
          sampling_locations.size(2) == problem.heads && sampling_locations.size(3) == problem.num_levels() &&
          sampling_locations.size(5) == 2,
      "ms_deform_attn: sampling_locations must be B x Q x M x L x P x 2 with B ",
      problem.batch,
      ", M ",
      problem.heads,
      " and L ",
      problem.num_levels(),
      " as value and spatial_shapes say, got shape ",
      sampling_locations.sizes());
  problem.queries = sampling_locations.size(1);
  problem.points = sampling_locations.size(4);
  TORCH_CHECK_VALUE(
      attention_weights.sizes() == sampling_locations.sizes().slice(0, 5),
      "ms_deform_attn: attention_weights must be B x Q x M x L x P like sampling_locations ",
      sampling_locations.sizes(),
      ", got shape ",
      attention_weights.sizes());
  return problem;
}

void check_grad_output(const Problem& problem, const at::Tensor& grad_output, const at::Tensor& value) {
  check_floating(grad_output, "grad_output", value.device());
  TORCH_CHECK_VALUE(
      grad_output.dim() == 3 && grad_output.size(0) == problem.batch && grad_output.size(1) == problem.queries &&
          grad_output.size(2) == problem.heads * problem.channels,
      "ms_deform_attn: grad_output must be B x Q x (M*D) = ",
      problem.batch,
      " x ",
      problem.queries,
      " x ",
      problem.heads * problem.channels,
      ", got shape ",
      grad_output.sizes());
}

Problem check_backward_inputs(
    const at::Tensor& grad_output,
    const at::Tensor& value,
    const at::Tensor& spatial_shapes,
    const at::Tensor& level_start_index,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights) {
  Problem problem = check_inputs(value, spatial_shapes, level_start_index, sampling_locations, attention_weights);
  check_grad_output(problem, grad_output, value);
  return problem;
}

Problem check_fused_inputs(
    const at::Tensor& value,
    const at::Tensor& spatial_shapes,
    const at::Tensor& level_start_index,
    const at::Tensor& reference_points,
    const at::Tensor& sampling_offsets,
    const at::Tensor& attention_logits) {
  Problem problem = check_inputs(value, spatial_shapes, level_start_index, sampling_offsets, attention_logits);
  check_floating(reference_points, "reference_points", value.device());
  TORCH_CHECK_VALUE(
      reference_points.dim() == 4 && reference_points.size(0) == problem.batch &&
          reference_points.size(1) == problem.queries && reference_points.size(2) == problem.num_levels() &&
          (reference_points.size(3) == 2 || reference_points.size(3) == 4),
      "ms_deform_attn: reference_points must be B x Q x L x 2 (or 4), here ",
      problem.batch,
      " x ",
      problem.queries,
      " x ",
      problem.num_levels(),
      " x 2, got shape ",
      reference_points.sizes());
  return problem;
}

}  // namespace mask2former_ext
