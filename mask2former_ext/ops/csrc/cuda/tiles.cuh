// Which block and which group of lanes serves which query.
//
// A block takes one head of the queries of one tile. Where queries are the pixels of the levels a tile is a square of them:
// neighbours sample neighbouring pixels, and a block that serves them together finds most of what it reads in its first-level
// cache. Other queries, whose places nobody knows, lie in tiles of one line.

#pragma once

#include "sizes.h"

#include <cstdint>

namespace mask2former_ext::cuda {

// Of blocks whose groups have GROUP lanes each.
template <int GROUP>
struct Tile {
  static constexpr int kRows = GROUP <= 8 ? 64 : 512 / GROUP;
  static constexpr int kThreads = kRows * GROUP;
  static constexpr int kBlocks = 1024 / kThreads;  // to a multiprocessor, at least: registers are shared out for that
  static constexpr int kHeight = kRows >= 64 ? 8 : 4;
  static constexpr int kWidth = kRows / kHeight;
};

constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

template <int GROUP>
int64_t count_tiles(const Sizes& sizes) {
  if (!sizes.queries_are_pixels) {
    return ceil_div(sizes.queries, Tile<GROUP>::kRows);
  }
  int64_t tiles = 0;
  for (int i = 0; i < sizes.levels; ++i) {
    tiles += ceil_div(sizes.height[i], Tile<GROUP>::kHeight) * ceil_div(sizes.width[i], Tile<GROUP>::kWidth);
  }
  return tiles;
}

// The query of this thread's group, or -1 where the tile reaches beyond the queries.
template <int GROUP>
__device__ __forceinline__ int64_t find_query(const Sizes& sizes) {
  using T = Tile<GROUP>;
  const int row = threadIdx.x / GROUP;
  if (!sizes.queries_are_pixels) {
    const int64_t query = static_cast<int64_t>(blockIdx.x) * T::kRows + row;
    return query < sizes.queries ? query : -1;
  }
  unsigned tile = blockIdx.x;
  for (int level = 0; level < sizes.levels; ++level) {
    const unsigned height = sizes.height[level], width = sizes.width[level];
    const unsigned columns = (width + T::kWidth - 1) / T::kWidth;
    const unsigned tiles = (height + T::kHeight - 1) / T::kHeight * columns;
    if (tile < tiles) {
      const unsigned y = tile / columns * T::kHeight + row / T::kWidth;
      const unsigned x = tile % columns * T::kWidth + row % T::kWidth;
      return y < height && x < width ? static_cast<int64_t>(sizes.start[level]) + y * width + x : -1;
    }
    tile -= tiles;
  }
  return -1;
}

}  // namespace mask2former_ext::cuda
