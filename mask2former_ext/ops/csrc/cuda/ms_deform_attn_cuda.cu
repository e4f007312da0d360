// Multi-scale deformable attention on NVIDIA GPUs: dispatch key CUDA.

#include "sampling.cuh"
#include "vectors.cuh"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/Dispatch.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <limits>

namespace mask2former_ext::cuda {

Sizes::Sizes(const Problem& problem)
    : rows(problem.batch * problem.queries * problem.heads),
      pixels(problem.pixels),
      queries(problem.queries),
      heads(static_cast<int>(problem.heads)),
      channels(static_cast<int>(problem.channels)),
      levels(static_cast<int>(problem.num_levels())),
      points(static_cast<int>(problem.points)) {
  TORCH_CHECK_VALUE(
      levels <= kMaxLevels, "ms_deform_attn: at most ", kMaxLevels, " levels on CUDA devices, got ", levels);
  for (int i = 0; i < levels; ++i) {
    height[i] = static_cast<int>(problem.levels[i].height);
    width[i] = static_cast<int>(problem.levels[i].width);
    start[i] = problem.levels[i].start;
  }
}

namespace {

constexpr int kThreads = 256;

// Each row, one head of one query, is one group's. STEP channels lie between a lane's runs of COUNT when a head is wider than
// the group; else the loop over runs ends after one turn.
template <typename T, typename Index, int COUNT, int GROUP>
__global__ void __launch_bounds__(kThreads) forward_kernel(
    const __grid_constant__ Sizes sizes,
    const T* __restrict__ value,
    const Accumulator<T>* __restrict__ locations,
    const Accumulator<T>* __restrict__ weights,
    T* __restrict__ output) {
  using A = Accumulator<T>;
  constexpr int kStep = COUNT * GROUP;
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / GROUP;
  if (row >= sizes.rows) {
    return;
  }
  const int lane = threadIdx.x % GROUP;
  const unsigned mask = group_mask<GROUP>();
  const int head = static_cast<int>(row % sizes.heads);
  const int64_t image = row / sizes.heads / sizes.queries;
  const Index pixel_stride = static_cast<Index>(sizes.heads) * sizes.channels;
  const T* image_value = value + image * sizes.pixels * pixel_stride + head * sizes.channels;
  const int samples = sizes.levels * sizes.points;
  const A* row_locations = locations + row * samples * 2;
  const A* row_weights = weights + row * samples;

  for (int first_channel = lane * COUNT; first_channel - lane * COUNT < sizes.channels; first_channel += kStep) {
    const bool has_channels = first_channel < sizes.channels;
    A sums[COUNT] = {};
    for (int first = 0; first < samples; first += GROUP) {
      Sample<A, Index> mine{};
      if (first + lane < samples) {
        mine = locate<A, Index>(
            sizes, (first + lane) / sizes.points, row_locations + 2 * (first + lane), row_weights + first + lane);
      }
      const int count = min(GROUP, samples - first);
      for (int i = 0; i < count; ++i) {
        const Sample<A, Index> sample = broadcast(mine, mask, i, GROUP);
#pragma unroll
        for (int corner = 0; corner < 4; ++corner) {
          if (has_channels && (sample.inside >> corner & 1)) {
            A channels[COUNT];
            load<T, COUNT>(image_value + corner_pixel(sample, corner) * pixel_stride + first_channel, channels);
            const A factor = sample.weight * corner_weight(sample, corner);
#pragma unroll
            for (int c = 0; c < COUNT; ++c) {
              sums[c] += factor * channels[c];
            }
          }
        }
      }
    }
    if (has_channels) {
      store<T, COUNT>(output + row * sizes.channels + first_channel, sums);
    }
  }
}

// Adds to grad_value in float. Sums depend in their last bits on the order that the hardware takes.
template <typename A>
struct FloatingAdder {
  A* grad_value;

  template <int COUNT>
  __device__ __forceinline__ void add(int64_t index, const A (&x)[COUNT]) const {
    add_atomically(grad_value + index, x);
  }
};

// Adds to grad_value in 64-bit fixed point, where order makes no difference.
template <typename A>
struct FixedPointAdder {
  unsigned long long* grad_value;
  const double* scale;  // one number, on the device

  template <int COUNT>
  __device__ __forceinline__ void add(int64_t index, const A (&x)[COUNT]) const {
    const double factor = *scale;
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
      const long long fixed = __double2ll_rn(static_cast<double>(x[i]) * factor);
      atomicAdd(grad_value + index + i, static_cast<unsigned long long>(fixed));
    }
  }
};

template <typename T, typename Index, int COUNT, int GROUP, typename Adder>
__global__ void __launch_bounds__(kThreads) backward_kernel(
    const __grid_constant__ Sizes sizes,
    const T* __restrict__ grad_output,
    const T* __restrict__ value,
    const Accumulator<T>* __restrict__ locations,
    const Accumulator<T>* __restrict__ weights,
    const Adder adder,
    Accumulator<T>* __restrict__ grad_locations,
    Accumulator<T>* __restrict__ grad_weights) {
  using A = Accumulator<T>;
  constexpr int kStep = COUNT * GROUP;
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / GROUP;
  if (row >= sizes.rows) {
    return;
  }
  const int lane = threadIdx.x % GROUP;
  const unsigned mask = group_mask<GROUP>();
  const int head = static_cast<int>(row % sizes.heads);
  const int64_t image = row / sizes.heads / sizes.queries;
  const Index pixel_stride = static_cast<Index>(sizes.heads) * sizes.channels;
  const int64_t image_offset = image * sizes.pixels * pixel_stride + head * sizes.channels;
  const int samples = sizes.levels * sizes.points;
  const T* row_grad = grad_output + row * sizes.channels;

  for (int first = 0; first < samples; first += GROUP) {
    const int64_t my_index = row * samples + first + lane;
    const bool has_sample = first + lane < samples;
    const int my_level = has_sample ? (first + lane) / sizes.points : 0;
    Sample<A, Index> mine{};
    if (has_sample) {
      mine = locate<A, Index>(sizes, my_level, locations + 2 * my_index, weights + my_index);
    }
    A my_grad_weight = 0, my_grad_x = 0, my_grad_y = 0;
    const int count = min(GROUP, samples - first);
    for (int i = 0; i < count; ++i) {
      const Sample<A, Index> sample = broadcast(mine, mask, i, GROUP);
      A products[4] = {};  // of grad_output with each corner's value, over this lane's channels
      for (int channel = lane * COUNT; channel < sizes.channels; channel += kStep) {
        A grads[COUNT];
        load<T, COUNT>(row_grad + channel, grads);
#pragma unroll
        for (int corner = 0; corner < 4; ++corner) {
          if (sample.inside >> corner & 1) {
            const int64_t index = image_offset + corner_pixel(sample, corner) * pixel_stride + channel;
            A channels[COUNT];
            load<T, COUNT>(value + index, channels);
            const A factor = sample.weight * corner_weight(sample, corner);
            A contribution[COUNT];
#pragma unroll
            for (int c = 0; c < COUNT; ++c) {
              products[corner] += grads[c] * channels[c];
              contribution[c] = factor * grads[c];
            }
            adder.add(index, contribution);
          }
        }
      }
      A grad_weight = 0;
#pragma unroll
      for (int corner = 0; corner < 4; ++corner) {
        grad_weight += corner_weight(sample, corner) * products[corner];
      }
      const A grad_x = (A(1) - sample.dy) * (products[1] - products[0]) + sample.dy * (products[3] - products[2]);
      const A grad_y = (A(1) - sample.dx) * (products[2] - products[0]) + sample.dx * (products[3] - products[1]);
      const A sum_weight = sum_over_group<GROUP>(grad_weight, mask);
      const A sum_x = sum_over_group<GROUP>(grad_x, mask);
      const A sum_y = sum_over_group<GROUP>(grad_y, mask);
      if (i == lane) {
        my_grad_weight = sum_weight;
        my_grad_x = sum_x;
        my_grad_y = sum_y;
      }
    }
    if (has_sample) {
      grad_weights[my_index] = my_grad_weight;
      grad_locations[2 * my_index] = mine.weight * my_grad_x * static_cast<A>(sizes.width[my_level]);
      grad_locations[2 * my_index + 1] = mine.weight * my_grad_y * static_cast<A>(sizes.height[my_level]);
    }
  }
}

unsigned blocks_for(const Sizes& sizes, int group) {
  const int64_t blocks = (sizes.rows * group + kThreads - 1) / kThreads;
  TORCH_CHECK(
      blocks <= std::numeric_limits<int>::max(), "ms_deform_attn: ", sizes.rows, " rows are too many for one launch");
  return static_cast<unsigned>(blocks);
}

// Calls launch(COUNT, GROUP) with how many channels a lane takes at once and how many lanes share a head. Here alone is that
// choice made: 16 bytes a lane where heads are 8 to 128 wide in powers of two and lie on 16-byte borders, else one channel.
template <typename T, typename Launch>
void choose_group(int channels, bool aligned, Launch launch) {
  constexpr int kCount = 16 / sizeof(T);
  const int group = channels / kCount;
  if (aligned && channels % kCount == 0) {
    switch (group) {
      case 1:
        return launch(std::integral_constant<int, kCount>{}, std::integral_constant<int, 1>{});
      case 2:
        return launch(std::integral_constant<int, kCount>{}, std::integral_constant<int, 2>{});
      case 4:
        return launch(std::integral_constant<int, kCount>{}, std::integral_constant<int, 4>{});
      case 8:
        return launch(std::integral_constant<int, kCount>{}, std::integral_constant<int, 8>{});
      case 16:
        return launch(std::integral_constant<int, kCount>{}, std::integral_constant<int, 16>{});
      case 32:
        return launch(std::integral_constant<int, kCount>{}, std::integral_constant<int, 32>{});
    }
  }
  launch(std::integral_constant<int, 1>{}, std::integral_constant<int, 32>{});
}

// Whether an offset within one image fits 32 bits.
bool fits_int(const Problem& problem) {
  return problem.pixels * problem.heads * problem.channels <= std::numeric_limits<int>::max();
}

bool is_aligned(const at::Tensor& tensor) {
  return reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 == 0;
}

template <typename Run>
void with_index_type(const Problem& problem, Run run) {
  if (fits_int(problem)) {
    run(int32_t{});
  } else {
    run(int64_t{});
  }
}

// The number that gradients are multiplied by in fixed point: no sum of a pixel's contributions can overflow 63 bits.
// A double on the device; NaN where the gradients are not finite, which then makes every result NaN.
at::Tensor fixed_point_scale(const Problem& problem, const at::Tensor& grad_output, const at::Tensor& weights) {
  const at::Tensor largest =
      grad_output.abs().amax().to(at::kDouble) * weights.abs().amax().to(at::kDouble) * (problem.queries * problem.points);
  const at::Tensor exponent = at::floor(61 - at::log2(at::clamp_min(largest, 1e-30)));
  return at::where(largest.isfinite(), at::exp2(exponent), std::numeric_limits<double>::quiet_NaN());
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
    with_index_type(problem, [&](auto index) {
      choose_group<scalar_t>(sizes.channels, is_aligned(values), [&](auto count, auto group) {
        forward_kernel<scalar_t, decltype(index), count.value, group.value>
            <<<blocks_for(sizes, group.value), kThreads, 0, stream>>>(
                sizes,
                values.const_data_ptr<scalar_t>(),
                locations.const_data_ptr<Accumulator<scalar_t>>(),
                weights.const_data_ptr<Accumulator<scalar_t>>(),
                output.mutable_data_ptr<scalar_t>());
        C10_CUDA_KERNEL_LAUNCH_CHECK();
      });
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
  const bool has_rows = sizes.rows > 0 && problem.samples() > 0;

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
      with_index_type(problem, [&](auto index) {
        choose_group<scalar_t>(sizes.channels, is_aligned(values) && is_aligned(grads), [&](auto count, auto group) {
          backward_kernel<scalar_t, decltype(index), count.value, group.value>
              <<<blocks_for(sizes, group.value), kThreads, 0, stream>>>(
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
