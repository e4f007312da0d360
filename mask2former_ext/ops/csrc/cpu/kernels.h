// Kernels on raw memory, compiled once for each instruction set (see kernels_*.cpp).

#pragma once

#include "../problem.h"

#include <cstdint>

namespace mask2former_ext::cpu {

// Contiguous arrays in the layouts of the operator; T is the type of value and output, A that of sums.
template <typename T, typename A>
struct ForwardArrays {
  const T* value;
  const A* locations;
  const A* weights;
  T* output;
};

template <typename T, typename A>
struct BackwardArrays {
  const T* grad_output;
  const T* value;
  const A* locations;
  const A* weights;
  T* grad_value;  // zero on entry
  A* grad_locations;
  A* grad_weights;
};

// forward: rows [begin, end) of the B·M·Q (image, head, query) triples.
// backward: tasks [begin, end) of the B·M·L (image, head, level) triples; each writes memory of its own.
#define DECLARE_KERNELS(CAPABILITY)                                                               \
  namespace CAPABILITY {                                                                          \
  template <typename T, typename A>                                                               \
  void forward(const Problem& problem, const ForwardArrays<T, A>& arrays, int64_t begin, int64_t end);   \
  template <typename T, typename A>                                                               \
  void backward(const Problem& problem, const BackwardArrays<T, A>& arrays, int64_t begin, int64_t end); \
  }

DECLARE_KERNELS(baseline)
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define MASK2FORMER_EXT_X86_KERNELS 1
DECLARE_KERNELS(avx2)
DECLARE_KERNELS(avx512)
#endif
#undef DECLARE_KERNELS

}  // namespace mask2former_ext::cpu
