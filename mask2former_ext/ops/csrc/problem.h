// What one call of multi-scale deformable attention works on, checked.
//
// Shapes: B batch, S pixels of all levels together, M heads, D channels a head, Q queries, L levels, P points a level.

#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace mask2former_ext {

struct Level {
  int64_t height;
  int64_t width;
  int64_t start;  // of its first pixel in S
};

struct Problem {
  int64_t batch, pixels, heads, channels, queries, points;
  std::vector<Level> levels;

  int64_t num_levels() const {
    return static_cast<int64_t>(levels.size());
  }
  int64_t samples() const {  // that one head of one query takes
    return num_levels() * points;
  }
};

// Sizes of a call. Raises ValueError where shapes, dtypes, devices or level starts disagree, so that a kernel may trust them.
Problem check_inputs(
    const at::Tensor& value,
    const at::Tensor& spatial_shapes,
    const at::Tensor& level_start_index,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights);

// The same, and that grad_output is B×Q×(M·D) like the forward's result.
Problem check_backward_inputs(
    const at::Tensor& grad_output,
    const at::Tensor& value,
    const at::Tensor& spatial_shapes,
    const at::Tensor& level_start_index,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights);

// Sizes of a call of the fused operator, checked like those of the plain one.
Problem check_fused_inputs(
    const at::Tensor& value,
    const at::Tensor& spatial_shapes,
    const at::Tensor& level_start_index,
    const at::Tensor& reference_points,
    const at::Tensor& sampling_offsets,
    const at::Tensor& attention_logits);

// Raises ValueError unless grad_output is B×Q×(M·D), floating point and on the device of value.
void check_grad_output(const Problem& problem, const at::Tensor& grad_output, const at::Tensor& value);

// float32 for half precisions, else the type itself: what locations, weights and sums are computed in.
inline at::ScalarType accumulation_type(at::ScalarType type) {
  return type == at::kDouble ? at::kDouble : at::kFloat;
}

}  // namespace mask2former_ext
