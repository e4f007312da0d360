// The backward kernel.

#pragma once

#include "sampling.cuh"
#include "tiles.cuh"
#include "vectors.cuh"

namespace mask2former_ext::cuda {

// Rows are shared out as in the forward kernel. Adder, of grad_value.cuh, takes what belongs to the gradient of value.
template <typename T, typename Index, int COUNT, int GROUP, typename Adder>
__global__ void __launch_bounds__(Tile<GROUP>::kThreads, Tile<GROUP>::kBlocks) backward_kernel(
    const __grid_constant__ Sizes sizes,
    const T* __restrict__ grad_output,
    const T* __restrict__ value,
    const Accumulator<T>* __restrict__ locations,
    const Accumulator<T>* __restrict__ weights,
    const Adder adder,
    Accumulator<T>* __restrict__ grad_locations,
    Accumulator<T>* __restrict__ grad_weights) {
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
    const int64_t image_start = image * sizes.pixels * sizes.heads * sizes.channels;
    const char* image_value = reinterpret_cast<const char*>(value + image_start);
    const Adder image_adder = adder.at(image_start);
    for (int run = 0; run < (COUNT > 1 ? 1 : sizes.channels); run += GROUP) {
      const int channel = run + lane * COUNT;
      const bool has_channels = COUNT > 1 || channel < sizes.channels;
      const Addresses<T, Index, COUNT> addresses(sizes, head, channel);
      int64_t index = row * samples + lane;  // of this lane's first point of the level
      A grads[COUNT] = {};
      if (query >= 0 && has_channels) {
        load<T, COUNT>(grad_output + row * sizes.channels + channel, grads);
      }
      for (int level = 0; level < sizes.levels; ++level, index += sizes.points) {
        const Index line_step = sizes.width[level] * addresses.pixel_step;
        for (int first = 0; first < sizes.points; first += GROUP) {
          Sample<A, Index> mine{};
          const bool has_sample = query >= 0 && first + lane < sizes.points;
          if (has_sample) {
            mine = locate<A, Index>(
                sizes, level, addresses.pixel_step, locations + 2 * (index + first), weights + index + first);
          }
          A my_products[4] = {};
          const int count = min(GROUP, sizes.points - first);
#pragma unroll 1
          for (int i = 0; i < count; ++i) {
            const Corners<A, Index> corners = broadcast<GROUP>(mine.corners, i);
            const Index top_left = addresses.channels(corners.top_left);
            Index bytes[4];
            Packed<T, COUNT> packed[4] = {};
#pragma unroll
            for (int corner = 0; corner < 4; ++corner) {
              bytes[corner] = addresses.bytes(addresses.corner(top_left, corner, line_step));
              if (has_channels && corners.inside(corner)) {
                packed[corner] = *reinterpret_cast<const Packed<T, COUNT>*>(image_value + bytes[corner]);
              }
            }
#pragma unroll
            for (int corner = 0; corner < 4; ++corner) {
              A channels[COUNT], contribution[COUNT], product = 0;
              unpack<T, COUNT>(packed[corner], channels);
#pragma unroll
              for (int c = 0; c < COUNT; ++c) {
                product += grads[c] * channels[c];
                contribution[c] = corners.factors[corner] * grads[c];
              }
              if (has_channels && corners.inside(corner)) {
                image_adder.add(bytes[corner] / sizeof(T), contribution);
              }
              product = sum_over_group<GROUP>(product);
              my_products[corner] = i == lane ? product : my_products[corner];
            }
          }
          if (has_sample) {
            const A(&p)[4] = my_products;
            const A dx = mine.dx, dy = mine.dy;
            const A top = (A(1) - dx) * p[0] + dx * p[1], bottom = (A(1) - dx) * p[2] + dx * p[3];
            const A grad_x = (A(1) - dy) * (p[1] - p[0]) + dy * (p[3] - p[2]);
            const A results[3] = {
                (A(1) - dy) * top + dy * bottom,
                mine.weight * grad_x * static_cast<A>(sizes.width[level]),
                mine.weight * (bottom - top) * static_cast<A>(sizes.height[level])};
            A* targets[3] = {
                grad_weights + index + first, grad_locations + 2 * (index + first), grad_locations + 2 * (index + first) + 1};
#pragma unroll
            for (int k = 0; k < 3; ++k) {
              *targets[k] = run == 0 ? results[k] : *targets[k] + results[k];
            }
          }
        }
      }
    }
  }
}

}  // namespace mask2former_ext::cuda
