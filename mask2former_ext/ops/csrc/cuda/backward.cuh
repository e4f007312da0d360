// The backward kernel.

#pragma once

#include "launch.h"
#include "sampling.cuh"
#include "vectors.cuh"

namespace mask2former_ext::cuda {

// Rows are shared out as in the forward kernel. Adder, of grad_value.cuh, takes what belongs to the gradient of value.
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

}  // namespace mask2former_ext::cuda
