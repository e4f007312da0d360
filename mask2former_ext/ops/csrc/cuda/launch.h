// How kernels are launched: how many lanes share a head, how wide an address is, how many blocks there are.

#pragma once

#include "sizes.h"
#include "tiles.cuh"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>

namespace mask2former_ext::cuda {

// Blocks as (tile, head, image).
struct Grid {
  unsigned x, y, z;
};

// As many blocks along y and z as GPUs take: there may be more images, which kernels go through in turns.
template <int GROUP>
Grid grid_of(const Sizes& sizes) {
  constexpr int kMost = 65535;
  const int64_t tiles = count_tiles<GROUP>(sizes);
  TORCH_CHECK_VALUE(
      tiles <= std::numeric_limits<int>::max(), "ms_deform_attn: ", sizes.queries, " queries are too many for one launch");
  TORCH_CHECK_VALUE(
      sizes.heads <= kMost, "ms_deform_attn: at most ", kMost, " heads on CUDA devices, got ", sizes.heads);
  return {
      static_cast<unsigned>(tiles),
      static_cast<unsigned>(sizes.heads),
      static_cast<unsigned>(std::min<int64_t>(sizes.batch, kMost))};
}

template <int VALUE>
using Constant = std::integral_constant<int, VALUE>;

// Calls launch(COUNT, GROUP, Index()) with how many channels a lane takes at once, how many lanes share a head, and the type of
// addresses within an image. Here alone is that choice made: 16 bytes a lane where heads are 8 to 128 wide in powers of two and
// lie on 16-byte borders, else one channel; 32 bits where they suffice.
template <typename T, typename Launch>
void choose_variant(const Sizes& sizes, bool aligned, Launch launch) {
  const auto with_addresses = [&](auto count, auto group) {
    const int64_t units = sizes.pixels * sizes.heads * (sizes.channels / count.value);
    if (units <= std::numeric_limits<uint32_t>::max() / 16) {
      launch(count, group, uint32_t{});
    } else {
      launch(count, group, uint64_t{});
    }
  };
  constexpr int kCount = 16 / sizeof(T);
  if (aligned && sizes.channels % kCount == 0) {
    switch (sizes.channels / kCount) {
      case 1:
        return with_addresses(Constant<kCount>{}, Constant<1>{});
      case 2:
        return with_addresses(Constant<kCount>{}, Constant<2>{});
      case 4:
        return with_addresses(Constant<kCount>{}, Constant<4>{});
      case 8:
        return with_addresses(Constant<kCount>{}, Constant<8>{});
      case 16:
        return with_addresses(Constant<kCount>{}, Constant<16>{});
      case 32:
        return with_addresses(Constant<kCount>{}, Constant<32>{});
    }
  }
  with_addresses(Constant<1>{}, Constant<32>{});
}

}  // namespace mask2former_ext::cuda
