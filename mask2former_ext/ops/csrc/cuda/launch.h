// How kernels are launched: how many threads, how many of them share a head, how wide an index is.

#pragma once

#include "sizes.h"

#include <cstdint>
#include <limits>
#include <type_traits>

namespace mask2former_ext::cuda {

constexpr int kThreads = 256;

inline unsigned blocks_for(const Sizes& sizes, int group) {
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
inline bool fits_int(const Problem& problem) {
  return problem.pixels * problem.heads * problem.channels <= std::numeric_limits<int>::max();
}

template <typename Run>
void with_index_type(const Problem& problem, Run run) {
  if (fits_int(problem)) {
    run(int32_t{});
  } else {
    run(int64_t{});
  }
}

}  // namespace mask2former_ext::cuda
