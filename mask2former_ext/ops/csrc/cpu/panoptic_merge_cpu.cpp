// One step of the panoptic merge on the CPU: every pixel goes to the mask that is its best so far. Dispatch key CPU.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>

namespace mask2former_ext::cpu {

namespace {

// Pixels worth a thread's start; few enough for a count of 32 bits, which the compiler can keep in vectors.
constexpr int64_t kGrain = 1 << 15;

// Counts the pixels inside the mask.
int32_t merge(
    const float* __restrict__ probability,
    float* __restrict__ best,
    int32_t* __restrict__ owner,
    float score,
    int32_t rank,
    int64_t pixels) {
  const float half = 0.5f * score;
  int32_t area = 0;
  for (int64_t i = 0; i < pixels; ++i) {
    const float product = probability[i] * score;
    const bool better = product > best[i];
    best[i] = better ? product : best[i];
    owner[i] = better ? rank : owner[i];
    area += product >= half ? 1 : 0;
  }
  return area;
}

void check(const at::Tensor& probability, const at::Tensor& best, const at::Tensor& owner) {
  TORCH_CHECK_VALUE(
      probability.scalar_type() == at::kFloat && best.scalar_type() == at::kFloat && owner.scalar_type() == at::kInt,
      "panoptic_merge: probability and best must be float32 and owner int32, got ", probability.scalar_type(), ", ",
      best.scalar_type(), " and ", owner.scalar_type());
  TORCH_CHECK_VALUE(
      probability.sizes() == best.sizes() && probability.sizes() == owner.sizes(),
      "panoptic_merge: probability, best and owner must be of one shape, got ", probability.sizes(), ", ",
      best.sizes(), " and ", owner.sizes());
  TORCH_CHECK_VALUE(
      best.is_contiguous() && owner.is_contiguous(), "panoptic_merge: best and owner must be contiguous");
}

}  // namespace

at::Tensor panoptic_merge(
    const at::Tensor& probability,
    at::Tensor& best,
    at::Tensor& owner,
    const at::Tensor& score,
    int64_t rank) {
  check(probability, best, owner);
  const at::Tensor probabilities = probability.contiguous();
  const float factor = score.item<float>();
  const float* const source = probabilities.const_data_ptr<float>();
  float* const products = best.mutable_data_ptr<float>();
  int32_t* const owners = owner.mutable_data_ptr<int32_t>();
  std::atomic<int64_t> area{0};
  at::parallel_for(0, probabilities.numel(), kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t start = begin; start < end; start += kGrain) {
      area += merge(
          source + start,
          products + start,
          owners + start,
          factor,
          static_cast<int32_t>(rank),
          std::min(kGrain, end - start));
    }
  });
  return at::scalar_tensor(area.load(), at::kLong);
}

}  // namespace mask2former_ext::cpu

TORCH_LIBRARY_IMPL(mask2former_ext, CPU, library) {
  library.impl("panoptic_merge", &mask2former_ext::cpu::panoptic_merge);
}
