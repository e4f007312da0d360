// Multi-scale deformable attention on NVIDIA GPUs: dispatch key CUDA.

#include "backward.cuh"
#include "forward.cuh"
#include "grad_value.cuh"
#include "launch.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/Dispatch.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

namespace mask2former_ext::cuda {

namespace {

bool is_aligned(const at::Tensor& tensor) {
  return reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 == 0;
}

dim3 as_dim3(const Grid& grid) {
  return {grid.x, grid.y, grid.z};
}

}  // namespace

at::Tensor ms_deform_attn(
    const at::Tensor& value,
    const at::Tensor& spatial_shapes,
    const at::Tensor& level_start_index,
    const at::Tensor& sampling_locations,
    const at::Tensor& attention_weights) {
  const Problem problem =
      check_inputs(value, spatial_shapes, level_start_index, sampling_locations, attention_weights);
  const c10::cuda::CUDAGuard guard(value.device());
  const Sizes sizes(problem);
  const at::ScalarType sum_type = accumulation_type(value.scalar_type());
  const at::Tensor values = value.contiguous();
  const at::Tensor locations = sampling_locations.to(sum_type).contiguous();
  const at::Tensor weights = attention_weights.to(sum_type).contiguous();
  at::Tensor output = at::empty({problem.batch, problem.queries, problem.heads * problem.channels}, value.options());
  if (output.numel() == 0) {
    return output;
  }
  const auto stream = c10::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, value.scalar_type(), "ms_deform_attn", [&] {
    choose_variant<scalar_t>(sizes, is_aligned(values), [&](auto count, auto group, auto address) {
      forward_kernel<scalar_t, decltype(address), count.value, group.value>
          <<<as_dim3(grid_of<group.value>(sizes)), Tile<group.value>::kThreads, 0, stream>>>(
              sizes,
              values.const_data_ptr<scalar_t>(),
              locations.const_data_ptr<Accumulator<scalar_t>>(),
              weights.const_data_ptr<Accumulator<scalar_t>>(),
              output.mutable_data_ptr<scalar_t>());
      C10_CUDA_KERNEL_LAUNCH_CHECK();
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
  const c10::cuda::CUDAGuard guard(value.device());
  const Sizes sizes(problem);
  const at::ScalarType sum_type = accumulation_type(value.scalar_type());
  const at::Tensor grads = grad_output.to(value.scalar_type()).contiguous();
  const at::Tensor values = value.contiguous();
  const at::Tensor locations = sampling_locations.to(sum_type).contiguous();
  const at::Tensor weights = attention_weights.to(sum_type).contiguous();
  const bool deterministic = at::globalContext().deterministicAlgorithms();
  const bool has_rows = sizes.has_rows() && problem.samples() > 0;

  at::Tensor sums = at::zeros(value.sizes(), value.options().dtype(deterministic ? at::kLong : sum_type));
  at::Tensor grad_locations = at::empty(locations.sizes(), locations.options());
  at::Tensor grad_weights = at::empty(weights.sizes(), weights.options());
  at::Tensor scale;
  if (deterministic && has_rows) {
    scale = fixed_point_scale(problem, grads, weights);
  }
  const auto stream = c10::cuda::getCurrentCUDAStream();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, value.scalar_type(), "ms_deform_attn_backward", [&] {
    using sum_t = Accumulator<scalar_t>;
    const auto launch_with = [&](auto adder) {
      const bool aligned = is_aligned(values) && is_aligned(grads);
      choose_variant<scalar_t>(sizes, aligned, [&](auto count, auto group, auto address) {
        backward_kernel<scalar_t, decltype(address), count.value, group.value>
            <<<as_dim3(grid_of<group.value>(sizes)), Tile<group.value>::kThreads, 0, stream>>>(
                sizes,
                grads.const_data_ptr<scalar_t>(),
                values.const_data_ptr<scalar_t>(),
                locations.const_data_ptr<sum_t>(),
                weights.const_data_ptr<sum_t>(),
                adder,
                grad_locations.mutable_data_ptr<sum_t>(),
                grad_weights.mutable_data_ptr<sum_t>());
        C10_CUDA_KERNEL_LAUNCH_CHECK();
      });
    };
    if (!has_rows) {
      return;
    }
    if (deterministic) {
      launch_with(FixedPointAdder<sum_t>{
          reinterpret_cast<unsigned long long*>(sums.mutable_data_ptr<int64_t>()), scale.const_data_ptr<double>()});
    } else {
      launch_with(FloatingAdder<sum_t>{sums.mutable_data_ptr<sum_t>()});
    }
  });
  at::Tensor grad_value = scale.defined() ? sums.to(at::kDouble).div_(scale).to(value.scalar_type())
                                          : sums.to(value.scalar_type());
  return {
      grad_value,
      grad_locations.to(sampling_locations.scalar_type()),
      grad_weights.to(attention_weights.scalar_type())};
}

}  // namespace mask2former_ext::cuda

TORCH_LIBRARY_IMPL(mask2former_ext, CUDA, library) {
  library.impl("ms_deform_attn", &mask2former_ext::cuda::ms_deform_attn);
  library.impl("ms_deform_attn_backward", &mask2former_ext::cuda::ms_deform_attn_backward);
}
