// How contributions to the gradient of value add up, several rows to one pixel.

#pragma once

#include "../problem.h"
#include "vectors.cuh"

#include <ATen/ATen.h>

#include <cstdint>
#include <limits>

namespace mask2former_ext::cuda {

// Adds to grad_value in float. Sums depend in their last bits on the order that the hardware takes.
template <typename A>
struct FloatingAdder {
  A* grad_value;

  __device__ __forceinline__ FloatingAdder at(int64_t index) const {
    return {grad_value + index};
  }
  template <int COUNT>
  __device__ __forceinline__ void add(int64_t index, const A (&x)[COUNT]) const {
    add_atomically(grad_value + index, x);
  }
};

// Adds to grad_value in 64-bit fixed point, where order makes no difference.
template <typename A>
struct FixedPointAdder {
  unsigned long long* grad_value;
  const double* scale;  // one number, on the device

  __device__ __forceinline__ FixedPointAdder at(int64_t index) const {
    return {grad_value + index, scale};
  }
  template <int COUNT>
  __device__ __forceinline__ void add(int64_t index, const A (&x)[COUNT]) const {
    const double factor = *scale;
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
      const long long fixed = __double2ll_rn(static_cast<double>(x[i]) * factor);
      atomicAdd(grad_value + index + i, static_cast<unsigned long long>(fixed));
    }
  }
};

// The number that gradients are multiplied by in fixed point: no sum of a pixel's contributions can overflow 63 bits.
// A double on the device; NaN where the gradients are not finite, which then makes every result NaN.
inline at::Tensor fixed_point_scale(const Problem& problem, const at::Tensor& grad_output, const at::Tensor& weights) {
  const at::Tensor largest =
      grad_output.abs().amax().to(at::kDouble) * weights.abs().amax().to(at::kDouble) * (problem.queries * problem.points);
  const at::Tensor exponent = at::floor(61 - at::log2(at::clamp_min(largest, 1e-30)));
  return at::where(largest.isfinite(), at::exp2(exponent), std::numeric_limits<double>::quiet_NaN());
}

}  // namespace mask2former_ext::cuda
