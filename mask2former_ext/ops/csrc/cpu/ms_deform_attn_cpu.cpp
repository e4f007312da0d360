// Multi-scale deformable attention on the CPU: dispatch key CPU.

#include "../problem.h"
#include "kernels.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

namespace mask2former_ext::cpu {

namespace {

// A chunk of rows worth a thread's start.
constexpr int64_t kForwardGrain = 64;

template <typename T, typename A>
struct Kernels {
  void (*forward)(const Problem&, const ForwardArrays<T, A>&, int64_t, int64_t);
  void (*backward)(const Problem&, const BackwardArrays<T, A>&, int64_t, int64_t);
};

// The widest instruction set that this processor has.
template <typename T, typename A>
Kernels<T, A> choose_kernels() {
#ifdef MASK2FORMER_EXT_X86_KERNELS
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    return {avx512::forward<T, A>, avx512::backward<T, A>};
  }
  if (has_avx2) {
    return {avx2::forward<T, A>, avx2::backward<T, A>};
  }
#endif
  return {baseline::forward<T, A>, baseline::backward<T, A>};
}

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

}  // namespace mask2former_ext::cpu

TORCH_LIBRARY_IMPL(mask2former_ext, CPU, library) {
  library.impl("ms_deform_attn", &mask2former_ext::cpu::ms_deform_attn);
  library.impl("ms_deform_attn_backward", &mask2former_ext::cpu::ms_deform_attn_backward);
}
