// Sixteen bytes of channels at once, in registers as numbers of the accumulation type.

#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <type_traits>

namespace mask2former_ext::cuda {

template <typename T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

// COUNT neighbouring channels; one load or store of 16 bytes where they fill it.
template <typename T, int COUNT>
struct alignas(sizeof(T) * COUNT) Packed {
  T channels[COUNT];
};

template <typename T, int COUNT>
__device__ __forceinline__ void load(const T* source, Accumulator<T> (&target)[COUNT]) {
  const Packed<T, COUNT> packed = *reinterpret_cast<const Packed<T, COUNT>*>(source);
#pragma unroll
  for (int i = 0; i < COUNT; ++i) {
    target[i] = static_cast<Accumulator<T>>(packed.channels[i]);
  }
}

template <typename T, int COUNT>
__device__ __forceinline__ void store(T* target, const Accumulator<T> (&source)[COUNT]) {
  Packed<T, COUNT> packed;
#pragma unroll
  for (int i = 0; i < COUNT; ++i) {
    packed.channels[i] = static_cast<T>(source[i]);
  }
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
