// The forward kernel.

#pragma once

#include "sampling.cuh"
#include "tiles.cuh"
#include "vectors.cuh"

namespace mask2former_ext::cuda {

// Blocks are laid out as (tile, head, image). Heads wider than a group, which then takes one channel a lane, are done in runs.
template <typename T, typename Index, int COUNT, int GROUP>
__global__ void __launch_bounds__(Tile<GROUP>::kThreads, Tile<GROUP>::kBlocks) forward_kernel(
    const __grid_constant__ Sizes sizes,
    const T* __restrict__ value,
    const Accumulator<T>* __restrict__ locations,
    const Accumulator<T>* __restrict__ weights,
    T* __restrict__ output) {
  using A = Accumulator<T>;
  const int lane = threadIdx.x % GROUP;
  const int head = blockIdx.y;
  const int64_t query = find_query<GROUP>(sizes);
  if (!__any_sync(kWholeWarp, query >= 0)) {
    return;
  }
  const int samples = sizes.levels * sizes.points;

  for (int64_t image = blockIdx.z; image < sizes.batch; image += gridDim.z) {
    const int64_t row = (image * sizes.queries + query) * sizes.heads + head;
    const char* image_value = reinterpret_cast<const char*>(value + image * sizes.pixels * sizes.heads * sizes.channels);
    for (int run = 0; run < (COUNT > 1 ? 1 : sizes.channels); run += GROUP) {
      const int channel = run + lane * COUNT;
      const bool has_channels = COUNT > 1 || channel < sizes.channels;
      const Addresses<T, Index, COUNT> addresses(sizes, head, channel);
      const A* level_locations = locations + 2 * (row * samples + lane);
      const A* level_weights = weights + row * samples + lane;
      A sums[COUNT] = {};
      Packed<T, COUNT> packed[4] = {};  // a corner outside keeps what was there before: its factor is zero
      for (int level = 0; level < sizes.levels; ++level) {
        const Index line_step = sizes.width[level] * addresses.pixel_step;
        for (int first = 0; first < sizes.points; first += GROUP) {
          Sample<A, Index> mine{};
          if (query >= 0 && first + lane < sizes.points) {
            mine = locate<A, Index>(
                sizes, level, addresses.pixel_step, level_locations + 2 * first, level_weights + first);
          }
          const int count = min(GROUP, sizes.points - first);
#pragma unroll 1
          for (int i = 0; i < count; ++i) {
            const Corners<A, Index> corners = broadcast<GROUP>(mine.corners, i);
            const Index top_left = addresses.channels(corners.top_left);
#pragma unroll
            for (int corner = 0; corner < 4; ++corner) {
              if (has_channels && corners.inside(corner)) {
                packed[corner] = *reinterpret_cast<const Packed<T, COUNT>*>(
                    image_value + addresses.bytes(addresses.corner(top_left, corner, line_step)));
              }
            }
#pragma unroll
            for (int corner = 0; corner < 4; ++corner) {
              A channels[COUNT];
              unpack<T, COUNT>(packed[corner], channels);
#pragma unroll
              for (int c = 0; c < COUNT; ++c) {
                sums[c] += corners.factors[corner] * channels[c];
              }
            }
          }
        }
        level_locations += 2 * sizes.points;
        level_weights += sizes.points;
      }
      if (query >= 0 && has_channels) {
        store<T, COUNT>(output + row * sizes.channels + channel, sums);
      }
    }
  }
}

}  // namespace mask2former_ext::cuda
