// Runs the tests of all files.

#include "check.h"

#include <ATen/ATen.h>

namespace mask2former_ext {

namespace cpu {
void test_kernels();
void test_operator();
}  // namespace cpu

namespace cuda {
void test_kernels();
}

}  // namespace mask2former_ext

int main() {
  // Otherwise a different seed each time: now and then a location would fall so near a pixel's edge that float32 and
  // float64 round it to different sides, where gradients jump.
  at::manual_seed(0);
  mask2former_ext::cpu::test_kernels();
  mask2former_ext::cuda::test_kernels();
  mask2former_ext::cpu::test_operator();
  std::printf("%lld checks passed, %lld failed\n", (long long)check::passed, (long long)check::failed);
  return check::failed != 0;
}
