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

// What locations and weights are computed from in the fused operator. With 2 coordinates a reference point is (x, y) and
// offsets are in pixels of the level; with 4 it is a box (center x, center y, width, height) and offsets are in half boxes
// divided by P.
template <typename A>
struct Projections {
  const A* reference;  // B×Q×L×coordinates
  int64_t coordinates;
  const A* offsets;  // B×Q×M×L×P×2
  const A* logits;   // B×Q×M×L×P
};

template <typename A>
struct ProjectionGradients {
  const A* weights;           // of the forward pass, B×Q×M×L×P
  const A* grad_locations;    // B×Q×M×L×P×2
  const A* grad_weights;      // B×Q×M×L×P
  A* grad_reference;          // B×Q×L×coordinates
  A* grad_offsets;            // B×Q×M×L×P×2; may be grad_locations
  A* grad_logits;             // B×Q×M×L×P; may be grad_weights
};

// forward, forward_fused: rows [begin, end) of the B·M·Q (image, head, query) triples.
// backward: tasks [begin, end) of the B·M·L (image, head, level) triples; each writes memory of its own.
// project: rows [begin, end) of the B·Q·M (image, query, head) triples; writes their locations and weights.
// backward_project: rows [begin, end) of the B·Q (image, query) pairs.
#define DECLARE_KERNELS(CAPABILITY)                                                                               \
  namespace CAPABILITY {                                                                                          \
  template <typename T, typename A>                                                                               \
  void forward(const Problem& problem, const ForwardArrays<T, A>& arrays, int64_t begin, int64_t end);            \
  template <typename T, typename A>                                                                               \
  void forward_fused(                                                                                             \
      const Problem& problem,                                                                                     \
      const ForwardArrays<T, A>& arrays,                                                                          \
      const Projections<A>& projections,                                                                          \
      int64_t begin,                                                                                              \
      int64_t end);                                                                                               \
  template <typename T, typename A>                                                                               \
  void backward(const Problem& problem, const BackwardArrays<T, A>& arrays, int64_t begin, int64_t end);          \
  template <typename A>                                                                                           \
  void project(                                                                                                   \
      const Problem& problem,                                                                                     \
      const Projections<A>& projections,                                                                          \
      A* locations,                                                                                               \
      A* weights,                                                                                                 \
      int64_t begin,                                                                                              \
      int64_t end);                                                                                               \
  template <typename A>                                                                                           \
  void backward_project(                                                                                          \
      const Problem& problem,                                                                                     \
      const Projections<A>& projections,                                                                          \
      const ProjectionGradients<A>& gradients,                                                                    \
      int64_t begin,                                                                                              \
      int64_t end);                                                                                               \
  }

DECLARE_KERNELS(baseline)
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define MASK2FORMER_EXT_X86_KERNELS 1
DECLARE_KERNELS(avx2)
DECLARE_KERNELS(avx512)
#endif
#undef DECLARE_KERNELS

}  // namespace mask2former_ext::cpu
