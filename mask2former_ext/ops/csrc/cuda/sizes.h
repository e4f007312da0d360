// Sizes of a call as kernels take them: by value, so that nothing waits for a copy.

#pragma once

#include "../problem.h"

#include <c10/util/Exception.h>

#include <cstdint>

namespace mask2former_ext::cuda {

constexpr int kMaxLevels = 64;  // more than any model has

struct Sizes {
  int64_t rows;  // B·Q·M
  int64_t pixels, queries;
  int heads, channels, levels, points;
  int height[kMaxLevels], width[kMaxLevels];
  int64_t start[kMaxLevels];

  explicit Sizes(const Problem& problem)
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
};

}  // namespace mask2former_ext::cuda
