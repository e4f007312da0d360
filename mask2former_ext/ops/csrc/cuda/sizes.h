// Sizes of a call as kernels take them: by value, so that nothing waits for a copy.

#pragma once

#include "../problem.h"

#include <c10/util/Exception.h>

#include <cstdint>

namespace mask2former_ext::cuda {

constexpr int kMaxLevels = 64;  // more than any model has

struct Sizes {
  int64_t batch, pixels, queries;
  int heads, channels, levels, points;
  bool queries_are_pixels;  // one for each pixel of the levels, in their order, as in an encoder
  int height[kMaxLevels], width[kMaxLevels], start[kMaxLevels];

  explicit Sizes(const Problem& problem)
      : batch(problem.batch),
        pixels(problem.pixels),
        queries(problem.queries),
        heads(static_cast<int>(problem.heads)),
        channels(static_cast<int>(problem.channels)),
        levels(static_cast<int>(problem.num_levels())),
        points(static_cast<int>(problem.points)),
        queries_are_pixels(problem.queries == problem.pixels) {
    TORCH_CHECK_VALUE(
        levels <= kMaxLevels, "ms_deform_attn: at most ", kMaxLevels, " levels on CUDA devices, got ", levels);
    for (int i = 0; i < levels; ++i) {
      height[i] = static_cast<int>(problem.levels[i].height);
      width[i] = static_cast<int>(problem.levels[i].width);
      start[i] = static_cast<int>(problem.levels[i].start);
    }
  }

  bool has_rows() const {
    return batch > 0 && queries > 0;
  }
};

}  // namespace mask2former_ext::cuda
