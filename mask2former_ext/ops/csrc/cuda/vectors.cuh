// Sixteen bytes of channels at once, in registers as numbers of the accumulation type.

#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <type_traits>

namespace mask2former_ext::cuda {

template <typename T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

// COUNT neighbouring channels as they lie in memory; 16 bytes, one load or store, where they fill them. Kept in words: halves
// kept one by one cost an instruction more each to take out.
template <typename T, int COUNT>
struct alignas(sizeof(T) * COUNT) Packed {
  using Word = std::conditional_t<sizeof(T) * COUNT % 4 == 0, uint32_t, uint16_t>;
  Word words[sizeof(T) * COUNT / sizeof(Word)];
};

template <typename T, int COUNT>
__device__ __forceinline__ void unpack(const Packed<T, COUNT>& packed, Accumulator<T> (&target)[COUNT]) {
  if constexpr (std::is_same_v<T, c10::BFloat16> && COUNT % 2 == 0) {
    // A bfloat16 is the upper half of a float.
#pragma unroll
    for (int i = 0; i < COUNT / 2; ++i) {
      const uint32_t low = packed.words[i] << 16, high = packed.words[i] & 0xffff0000u;
      memcpy(&target[2 * i], &low, sizeof(float));
      memcpy(&target[2 * i + 1], &high, sizeof(float));
    }
  } else {
    T channels[COUNT];
    memcpy(channels, packed.words, sizeof(channels));
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
      target[i] = static_cast<Accumulator<T>>(channels[i]);
    }
  }
}

template <typename T, int COUNT>
__device__ __forceinline__ void load(const T* source, Accumulator<T> (&target)[COUNT]) {
  const Packed<T, COUNT> packed = *reinterpret_cast<const Packed<T, COUNT>*>(source);
  unpack<T, COUNT>(packed, target);
}

template <typename T, int COUNT>
__device__ __forceinline__ void store(T* target, const Accumulator<T> (&source)[COUNT]) {
  T channels[COUNT];
#pragma unroll
  for (int i = 0; i < COUNT; ++i) {
    channels[i] = static_cast<T>(source[i]);
  }
  Packed<T, COUNT> packed;
  memcpy(packed.words, channels, sizeof(channels));
  *reinterpret_cast<Packed<T, COUNT>*>(target) = packed;
}

// target[i] += source[i], atomically for each i.
template <typename A, int COUNT>
__device__ __forceinline__ void add_atomically(A* target, const A (&source)[COUNT]) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  if constexpr (std::is_same_v<A, float> && COUNT % 4 == 0) {
#pragma unroll
    for (int i = 0; i < COUNT; i += 4) {
      atomicAdd(
          reinterpret_cast<float4*>(target + i), make_float4(source[i], source[i + 1], source[i + 2], source[i + 3]));
    }
  } else
#endif
  {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
      atomicAdd(target + i, source[i]);
    }
  }
}

}  // namespace mask2former_ext::cuda
