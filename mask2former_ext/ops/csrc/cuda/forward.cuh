// The forward kernel.

#pragma once

#include "launch.h"
#include "sampling.cuh"
#include "vectors.cuh"

namespace mask2former_ext::cuda {

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

}  // namespace mask2former_ext::cuda
