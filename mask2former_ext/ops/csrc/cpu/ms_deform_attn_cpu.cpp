// Multi-scale deformable attention on the CPU: dispatch key CPU.

#include "../problem.h"
#include "kernels.h"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

namespace mask2former_ext::cpu {

namespace {

// A chunk of rows worth a thread's start.
constexpr int64_t kForwardGrain = 64;

template <typename T, typename A>
struct Kernels {
  decltype(&baseline::forward<T, A>) forward;
  decltype(&baseline::forward_fused<T, A>) forward_fused;
  decltype(&baseline::backward<T, A>) backward;
  decltype(&baseline::project<A>) project;
  decltype(&baseline::backward_project<A>) backward_project;
};

#define KERNELS(CAPABILITY)                                                                        \
  {CAPABILITY::forward<T, A>, CAPABILITY::forward_fused<T, A>, CAPABILITY::backward<T, A>,         \
   CAPABILITY::project<A>, CAPABILITY::backward_project<A>}

// The widest instruction set that this processor has.
template <typename T, typename A>
Kernels<T, A> choose_kernels() {
#ifdef MASK2FORMER_EXT_X86_KERNELS
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    return KERNELS(avx512);
  }
  if (has_avx2) {
    return KERNELS(avx2);
  }
#endif
  return KERNELS(baseline);
}
#undef KERNELS

template <typename T>
using AccumulatorOf = std::conditional_t<std::is_same_v<T, double>, double, float>;

}  // namespace

at::Tensor ms_deform_attn(
    const at::Tensor& value,
    const at::Tensor& spatial_shapes,
    const at::Tensor& level_start_index,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights) {
  const Problem problem =
      check_inputs(value, spatial_shapes, level_start_index, sampling_locations, attention_weights);
  const at::ScalarType sum_type = accumulation_type(value.scalar_type());
  const at::Tensor values = value.contiguous();
  const at::Tensor locations = sampling_locations.to(sum_type).contiguous();
  const at::Tensor weights = attention_weights.to(sum_type).contiguous();
  at::Tensor output = at::empty({problem.batch, problem.queries, problem.heads * problem.channels}, value.options());
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, value.scalar_type(), "ms_deform_attn", [&] {
    using sum_t = AccumulatorOf<scalar_t>;
    const ForwardArrays<scalar_t, sum_t> arrays{
        values.const_data_ptr<scalar_t>(),
        locations.const_data_ptr<sum_t>(),
        weights.const_data_ptr<sum_t>(),
        output.mutable_data_ptr<scalar_t>()};
    const auto kernels = choose_kernels<scalar_t, sum_t>();
    const int64_t rows = problem.batch * problem.heads * problem.queries;
    at::parallel_for(0, rows, kForwardGrain, [&](int64_t begin, int64_t end) {
      kernels.forward(problem, arrays, begin, end);
    });
  });
  return output;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> ms_deform_attn_backward(
    const at::Tensor& grad_output,
    const at::Tensor& value,
    const at::Tensor& spatial_shapes,
    const at::Tensor& level_start_index,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights) {
  const Problem problem = check_backward_inputs(
      grad_output, value, spatial_shapes, level_start_index, sampling_locations, attention_weights);
  const at::ScalarType sum_type = accumulation_type(value.scalar_type());
  const at::Tensor grads = grad_output.to(value.scalar_type()).contiguous();
  const at::Tensor values = value.contiguous();
  const at::Tensor locations = sampling_locations.to(sum_type).contiguous();
  const at::Tensor weights = attention_weights.to(sum_type).contiguous();
  at::Tensor grad_value = at::zeros(value.sizes(), value.options());
  at::Tensor grad_locations = at::empty(locations.sizes(), locations.options());
  at::Tensor grad_weights = at::empty(weights.sizes(), weights.options());
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, value.scalar_type(), "ms_deform_attn_backward", [&] {
    using sum_t = AccumulatorOf<scalar_t>;
    const BackwardArrays<scalar_t, sum_t> arrays{
        grads.const_data_ptr<scalar_t>(),
        values.const_data_ptr<scalar_t>(),
        locations.const_data_ptr<sum_t>(),
        weights.const_data_ptr<sum_t>(),
        grad_value.mutable_data_ptr<scalar_t>(),
        grad_locations.mutable_data_ptr<sum_t>(),
        grad_weights.mutable_data_ptr<sum_t>()};
    const auto kernels = choose_kernels<scalar_t, sum_t>();
    const int64_t tasks = problem.batch * problem.heads * problem.num_levels();
    at::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) { kernels.backward(problem, arrays, begin, end); });
  });
  return {grad_value, grad_locations.to(sampling_locations.scalar_type()), grad_weights.to(attention_weights.scalar_type())};
}

at::Tensor ms_deform_attn_fused(
    const at::Tensor& value,
    const at::Tensor& spatial_shapes,
    const at::Tensor& level_start_index,
    const at::Tensor& reference_points,
    const at::Tensor& sampling_offsets,
    const at::Tensor& attention_logits) {
  const Problem problem = check_fused_inputs(
      value, spatial_shapes, level_start_index, reference_points, sampling_offsets, attention_logits);
  const at::ScalarType sum_type = accumulation_type(value.scalar_type());
  const at::Tensor values = value.contiguous();
  const at::Tensor reference = reference_points.to(sum_type).contiguous();
  const at::Tensor offsets = sampling_offsets.to(sum_type).contiguous();
  const at::Tensor logits = attention_logits.to(sum_type).contiguous();
  at::Tensor output = at::empty({problem.batch, problem.queries, problem.heads * problem.channels}, value.options());
  if (problem.samples() == 0) {
    return output.zero_();
  }
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, value.scalar_type(), "ms_deform_attn_fused", [&] {
    using sum_t = AccumulatorOf<scalar_t>;
    const ForwardArrays<scalar_t, sum_t> arrays{
        values.const_data_ptr<scalar_t>(), nullptr, nullptr, output.mutable_data_ptr<scalar_t>()};
    const Projections<sum_t> projections{
        reference.const_data_ptr<sum_t>(),
        reference.size(3),
        offsets.const_data_ptr<sum_t>(),
        logits.const_data_ptr<sum_t>()};
    const auto kernels = choose_kernels<scalar_t, sum_t>();
    const int64_t rows = problem.batch * problem.heads * problem.queries;
    at::parallel_for(0, rows, kForwardGrain, [&](int64_t begin, int64_t end) {
      kernels.forward_fused(problem, arrays, projections, begin, end);
    });
  });
  return output;
}

// Locations and weights are computed again, then the plain backward runs, then the gradients go on to what they came from.
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> ms_deform_attn_fused_backward(
    const at::Tensor& grad_output,
    const at::Tensor& value,
    const at::Tensor& spatial_shapes,
    const at::Tensor& level_start_index,
    const at::Tensor& reference_points,
    const at::Tensor& sampling_offsets,
    const at::Tensor& attention_logits) {
  const Problem problem = check_fused_inputs(
      value, spatial_shapes, level_start_index, reference_points, sampling_offsets, attention_logits);
  check_grad_output(problem, grad_output, value);
  const at::ScalarType sum_type = accumulation_type(value.scalar_type());
  const at::Tensor reference = reference_points.to(sum_type).contiguous();
  const at::Tensor offsets = sampling_offsets.to(sum_type).contiguous();
  const at::Tensor logits = attention_logits.to(sum_type).contiguous();
  at::Tensor grad_reference = at::zeros(reference.sizes(), reference.options());
  if (problem.samples() == 0) {
    return {
        at::zeros(value.sizes(), value.options()),
        grad_reference.to(reference_points.scalar_type()),
        at::zeros(sampling_offsets.sizes(), sampling_offsets.options()),
        at::zeros(attention_logits.sizes(), attention_logits.options())};
  }
  at::Tensor locations = at::empty(offsets.sizes(), offsets.options());
  at::Tensor weights = at::empty(logits.sizes(), logits.options());
  const int64_t queries = problem.batch * problem.queries;
  at::Tensor grad_value, grad_locations, grad_weights;
  AT_DISPATCH_FLOATING_TYPES(sum_type, "ms_deform_attn_fused_backward", [&] {
    const Projections<scalar_t> projections{
        reference.const_data_ptr<scalar_t>(),
        reference.size(3),
        offsets.const_data_ptr<scalar_t>(),
        logits.const_data_ptr<scalar_t>()};
    const auto kernels = choose_kernels<scalar_t, scalar_t>();
    at::parallel_for(0, queries * problem.heads, kForwardGrain, [&](int64_t begin, int64_t end) {
      kernels.project(
          problem,
          projections,
          locations.mutable_data_ptr<scalar_t>(),
          weights.mutable_data_ptr<scalar_t>(),
          begin,
          end);
    });
    std::tie(grad_value, grad_locations, grad_weights) =
        ms_deform_attn_backward(grad_output, value, spatial_shapes, level_start_index, locations, weights);
    const ProjectionGradients<scalar_t> gradients{
        weights.const_data_ptr<scalar_t>(),
        grad_locations.const_data_ptr<scalar_t>(),
        grad_weights.const_data_ptr<scalar_t>(),
        grad_reference.mutable_data_ptr<scalar_t>(),
        grad_locations.mutable_data_ptr<scalar_t>(),
        grad_weights.mutable_data_ptr<scalar_t>()};
    at::parallel_for(0, queries, kForwardGrain / 8, [&](int64_t begin, int64_t end) {
      kernels.backward_project(problem, projections, gradients, begin, end);
    });
  });
  return {
      grad_value,
      grad_reference.to(reference_points.scalar_type()),
      grad_locations.to(sampling_offsets.scalar_type()),
      grad_weights.to(attention_logits.scalar_type())};
}

}  // namespace mask2former_ext::cpu

TORCH_LIBRARY_IMPL(mask2former_ext, CPU, library) {
  library.impl("ms_deform_attn", &mask2former_ext::cpu::ms_deform_attn);
  library.impl("ms_deform_attn_backward", &mask2former_ext::cpu::ms_deform_attn_backward);
  library.impl("ms_deform_attn_fused", &mask2former_ext::cpu::ms_deform_attn_fused);
  library.impl("ms_deform_attn_fused_backward", &mask2former_ext::cpu::ms_deform_attn_fused_backward);
}
