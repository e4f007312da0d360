// Where samples fall, and how a group of lanes shares that work.
//
// A group of GROUP lanes (a power of two up to a warp) serves one head of one query; each lane holds COUNT of its channels.
// Lane i works out the samples i, i + GROUP, …; shuffles hand each to the whole group.

#pragma once

#include "sizes.h"

#include <cstdint>

namespace mask2former_ext::cuda {

// A sample's four corners: top left, top right, bottom left, bottom right. Those outside the level have weight zero and are
// not read.
template <typename A, typename Index>
struct Sample {
  Index pixel;   // of the top left corner, in the image's S pixels; corners outside make no sense
  int stride;    // pixels to the row below
  int inside;    // bit c: corner c lies inside
  A dx, dy;      // from the top left corner, in pixels
  A weight;      // attention
};

template <typename A, typename Index>
__device__ __forceinline__ Sample<A, Index> locate(
    const Sizes& sizes, int level, const A* __restrict__ location, const A* __restrict__ weight) {
  const int height = sizes.height[level], width = sizes.width[level];
  const A x = location[0] * static_cast<A>(width) - static_cast<A>(0.5);
  const A y = location[1] * static_cast<A>(height) - static_cast<A>(0.5);
  Sample<A, Index> sample{};
  sample.stride = width;
  sample.weight = *weight;
  // Written so that NaN counts as outside.
  if (x > A(-1) && y > A(-1) && x < static_cast<A>(width) && y < static_cast<A>(height)) {
    const A left = floor(x), top = floor(y);
    const int column = static_cast<int>(left), row = static_cast<int>(top);
    sample.dx = x - left;
    sample.dy = y - top;
    sample.pixel = static_cast<Index>(sizes.start[level]) + static_cast<Index>(row) * width + column;
    const int columns = (column >= 0) | (column + 1 < width) << 1;
    sample.inside = (row >= 0 ? columns : 0) | (row + 1 < height ? columns << 2 : 0);
  }
  return sample;
}

template <typename A, typename Index>
__device__ __forceinline__ Sample<A, Index> broadcast(
    const Sample<A, Index>& sample, unsigned mask, int lane, int group) {
  Sample<A, Index> result;
  result.pixel = __shfl_sync(mask, sample.pixel, lane, group);
  result.stride = __shfl_sync(mask, sample.stride, lane, group);
  result.inside = __shfl_sync(mask, sample.inside, lane, group);
  result.dx = __shfl_sync(mask, sample.dx, lane, group);
  result.dy = __shfl_sync(mask, sample.dy, lane, group);
  result.weight = __shfl_sync(mask, sample.weight, lane, group);
  return result;
}

template <typename A, typename Index>
__device__ __forceinline__ Index corner_pixel(const Sample<A, Index>& sample, int corner) {
  return sample.pixel + (corner & 1) + (corner >> 1) * sample.stride;
}

template <typename A, typename Index>
__device__ __forceinline__ A corner_weight(const Sample<A, Index>& sample, int corner) {
  return (corner & 1 ? sample.dx : A(1) - sample.dx) * (corner >> 1 ? sample.dy : A(1) - sample.dy);
}

template <int GROUP, typename A>
__device__ __forceinline__ A sum_over_group(A x, unsigned mask) {
#pragma unroll
  for (int step = GROUP / 2; step > 0; step /= 2) {
    x += __shfl_xor_sync(mask, x, step, GROUP);
  }
  return x;
}

// The lanes of a warp that are at work: rows end within a warp, but groups are never split.
template <int GROUP>
__device__ __forceinline__ unsigned group_mask() {
  if constexpr (GROUP == 32) {
    return 0xffffffffu;
  } else {
    return ((1u << GROUP) - 1) << (threadIdx.x % 32 / GROUP * GROUP);
  }
}

}  // namespace mask2former_ext::cuda
