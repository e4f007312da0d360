// Where samples fall, and how a group of lanes shares that work.
//
// A group of GROUP lanes (a power of two up to a warp) serves one head of one query; each lane holds COUNT of its channels.
// Lane i works out the points i, i + GROUP, … of a level; shuffles hand each to the whole group. All lanes of a warp take part
// in every shuffle, those of groups without a query too.

#pragma once

#include "sizes.h"
#include "vectors.cuh"

#include <cstdint>

namespace mask2former_ext::cuda {

constexpr unsigned kWholeWarp = 0xffffffffu;

// How an image's values are addressed: in units of COUNT channels, of which addresses hold the sixteenfold. That leaves four
// bits for flags, and where units have 16 bytes it is the offset in bytes. Addresses wrap around, so that the corner beside
// one that lies before the first pixel is right.
template <typename T, typename Index, int COUNT>
struct Addresses {
  Index pixel_step;  // to the next pixel
  Index lane;        // from a pixel's first channel to this lane's

  __device__ __forceinline__ Addresses(const Sizes& sizes, int head, int channel)
      : pixel_step(static_cast<Index>(sizes.heads) * (sizes.channels / COUNT) * 16),
        lane(static_cast<Index>(head * (sizes.channels / COUNT) + channel / COUNT) * 16) {}

  // Of a pixel's channels of this lane; flags are taken off.
  __device__ __forceinline__ Index channels(Index pixel_and_flags) const {
    return (pixel_and_flags & ~Index(15)) + lane;
  }
  __device__ __forceinline__ Index corner(Index top_left, int corner, Index line_step) const {
    return top_left + (corner & 1 ? pixel_step : 0) + (corner >> 1 ? line_step : 0);
  }
  // From the start of the image.
  static __device__ __forceinline__ Index bytes(Index address) {
    return sizeof(T) * COUNT == 16 ? address : (address >> 4) * static_cast<Index>(sizeof(T) * COUNT);
  }
};

// What every lane of a group has to know of a sample: its four corners, top left, top right, bottom left, bottom right.
template <typename A, typename Index>
struct Corners {
  Index top_left;  // address of the top left corner's pixel + bit c for each corner c inside the level; no other is read
  A factors[4];    // attention times bilinear weight, zero outside

  __device__ __forceinline__ bool inside(int corner) const {
    return top_left >> corner & 1;
  }
};

// What the lane that worked a sample out keeps of it.
template <typename A, typename Index>
struct Sample {
  Corners<A, Index> corners;
  A dx, dy;  // from the top left corner, in pixels
  A weight;  // attention
};

template <typename A, typename Index>
__device__ __forceinline__ Sample<A, Index> locate(
    const Sizes& sizes, int level, Index pixel_step, const A* __restrict__ location, const A* __restrict__ weight) {
  const int height = sizes.height[level], width = sizes.width[level];
  A x = location[0] * static_cast<A>(width) - static_cast<A>(0.5);
  A y = location[1] * static_cast<A>(height) - static_cast<A>(0.5);
  // NaN is not near. There is no branch, so that the weight is on its way while the location is looked at.
  const bool is_near = x > A(-1) && y > A(-1) && x < static_cast<A>(width) && y < static_cast<A>(height);
  x = is_near ? x : A(0);  // finite, so that a factor of zero makes nothing of it
  y = is_near ? y : A(0);
  const A left = floor(x), top = floor(y);
  const int column = static_cast<int>(left), row = static_cast<int>(top);
  const bool has_left = column >= 0, has_right = column + 1 < width;
  const bool has_top = is_near && row >= 0, has_bottom = is_near && row + 1 < height;
  const int columns = has_left | has_right << 1;
  const Index pixel = static_cast<Index>(sizes.start[level]) + static_cast<Index>(row) * width + column;

  Sample<A, Index> sample;
  sample.dx = x - left;
  sample.dy = y - top;
  sample.weight = *weight;
  const A left_weight = has_left ? A(1) - sample.dx : A(0), right_weight = has_right ? sample.dx : A(0);
  const A top_weight = has_top ? sample.weight * (A(1) - sample.dy) : A(0);
  const A bottom_weight = has_bottom ? sample.weight * sample.dy : A(0);
  sample.corners.top_left = pixel * pixel_step + ((has_top ? columns : 0) | (has_bottom ? columns << 2 : 0));
  sample.corners.factors[0] = top_weight * left_weight;
  sample.corners.factors[1] = top_weight * right_weight;
  sample.corners.factors[2] = bottom_weight * left_weight;
  sample.corners.factors[3] = bottom_weight * right_weight;
  return sample;
}

template <int GROUP, typename A, typename Index>
__device__ __forceinline__ Corners<A, Index> broadcast(const Corners<A, Index>& corners, int lane) {
  Corners<A, Index> result;
  result.top_left = __shfl_sync(kWholeWarp, corners.top_left, lane, GROUP);
#pragma unroll
  for (int corner = 0; corner < 4; ++corner) {
    result.factors[corner] = __shfl_sync(kWholeWarp, corners.factors[corner], lane, GROUP);
  }
  return result;
}

template <int GROUP, typename A>
__device__ __forceinline__ A sum_over_group(A x) {
#pragma unroll
  for (int step = GROUP / 2; step > 0; step /= 2) {
    x += __shfl_xor_sync(kWholeWarp, x, step, GROUP);
  }
  return x;
}

}  // namespace mask2former_ext::cuda
