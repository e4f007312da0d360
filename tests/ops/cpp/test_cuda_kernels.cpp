// The CUDA kernels, run on the CPU lane by lane, against nested loops: their arithmetic, their memory and their shuffles.
// What a GPU adds to that, its compiler, its order of atomic additions and its speed, is not tested here.

#include "cuda_on_cpu.h"

#include "../../../mask2former_ext/ops/csrc/cuda/backward.cuh"
#include "../../../mask2former_ext/ops/csrc/cuda/forward.cuh"
#include "../../../mask2former_ext/ops/csrc/cuda/grad_value.cuh"
#include "cases.h"
#include "check.h"
#include "naive.h"

namespace mask2former_ext::cuda {

namespace {

using cases::Case;
using check::Array;

template <typename T, typename Index>
void run_forward(const Problem& p, const Array<T>& value, const naive::Inputs& inputs, const Array<T>& output) {
  using A = Accumulator<T>;
  const Sizes sizes(p);
  const Array<A> locations(inputs.locations), weights(inputs.weights);
  choose_group<T>(sizes.channels, true, [&](auto count, auto group) {
    cuda_on_cpu::launch(
        forward_kernel<T, Index, count.value, group.value>, blocks_for(sizes, group.value), kThreads, sizes,
        value.data(), locations.data(), weights.data(), output.data());
  });
}

template <typename T>
struct Arrays {
  using A = Accumulator<T>;
  Array<T> value, grad_output;
  Array<A> locations, weights, grad_locations, grad_weights;

  explicit Arrays(const naive::Inputs& inputs)
      : value(inputs.value),
        grad_output(inputs.grad_output),
        locations(inputs.locations),
        weights(inputs.weights),
        grad_locations(static_cast<int64_t>(inputs.locations.size())),
        grad_weights(static_cast<int64_t>(inputs.weights.size())) {}
};

template <typename T, typename Index, typename Adder>
void run_backward(const Problem& p, const Arrays<T>& arrays, const Adder& adder) {
  const Sizes sizes(p);
  choose_group<T>(sizes.channels, true, [&](auto count, auto group) {
    cuda_on_cpu::launch(
        backward_kernel<T, Index, count.value, group.value, Adder>, blocks_for(sizes, group.value), kThreads, sizes,
        arrays.grad_output.data(), arrays.value.data(), arrays.locations.data(), arrays.weights.data(), adder,
        arrays.grad_locations.data(), arrays.grad_weights.data());
  });
}

template <typename T>
void check_gradients(
    const Arrays<T>& arrays,
    const std::vector<double>& grad_value,
    const naive::Gradients& expected,
    double tolerance,
    const std::string& what) {
  check::close(grad_value, expected.value, tolerance, what + ": value");
  check::close(arrays.grad_locations.numbers(), expected.locations, 4 * tolerance, what + ": locations");
  check::close(arrays.grad_weights.numbers(), expected.weights, tolerance, what + ": weights");
}

template <typename T, typename Index>
void test_floating(const Case& c, const naive::Inputs& inputs, const naive::Gradients& expected, double tolerance) {
  using A = Accumulator<T>;
  const Problem& p = c.problem;
  const Arrays<T> arrays(inputs);
  const Array<A> grad_value(std::vector<double>(inputs.value.size(), 0));
  run_backward<T, Index>(p, arrays, FloatingAdder<A>{grad_value.data()});
  check_gradients(arrays, grad_value.numbers(), expected, tolerance, describe(c, "CUDA", "backward"));
}

// Sums are whole numbers, which no order changes, and cannot overflow.
template <typename T, typename Index>
void test_fixed_point(const Case& c, const naive::Inputs& inputs, const naive::Gradients& expected, double tolerance) {
  using A = Accumulator<T>;
  const Problem& p = c.problem;
  const auto as_tensor = [](std::vector<double> numbers) { return at::tensor(numbers, at::kDouble); };
  const at::Tensor scale = fixed_point_scale(p, as_tensor(inputs.grad_output), as_tensor(inputs.weights));
  const Arrays<T> arrays(inputs);
  std::vector<unsigned long long> sums(inputs.value.size(), 0);
  run_backward<T, Index>(p, arrays, FixedPointAdder<A>{sums.data(), scale.const_data_ptr<double>()});
  std::vector<double> grad_value;
  for (unsigned long long sum : sums) {
    grad_value.push_back(static_cast<double>(static_cast<long long>(sum)) / scale.item<double>());
  }
  check_gradients(arrays, grad_value, expected, tolerance, describe(c, "CUDA", "deterministic backward"));
}

template <typename T>
void test_case(const Case& c, double tolerance, std::mt19937& generator) {
  using A = Accumulator<T>;
  const Problem& p = c.problem;
  const int64_t rows = p.batch * p.queries * p.heads, samples = rows * p.samples();
  const naive::Inputs inputs{
      check::draw<T>(generator, p.batch * p.pixels * p.heads * p.channels, -1, 1),
      check::draw<A>(generator, 2 * samples, c.low, c.high),
      check::draw<A>(generator, samples, 0, 1),
      check::draw<T>(generator, rows * p.channels, -1, 1)};
  if (rows == 0) {
    return;  // nothing is launched
  }
  const Array<T> value(inputs.value);
  const auto expected = naive::forward(p, inputs);
  const Array<T> narrow(inputs.grad_output.size()), wide(inputs.grad_output.size());
  run_forward<T, int32_t>(p, value, inputs, narrow);
  run_forward<T, int64_t>(p, value, inputs, wide);
  check::close(narrow.numbers(), expected, tolerance, describe(c, "CUDA", "forward"));
  check::that(narrow.numbers() == wide.numbers(), describe(c, "CUDA", "forward with wide indices"));
  if (samples > 0) {
    const naive::Gradients gradients = naive::backward(p, inputs);
    test_floating<T, int32_t>(c, inputs, gradients, tolerance);
    if (std::is_same_v<T, float>) {
      test_floating<T, int64_t>(c, inputs, gradients, tolerance);
    }
    test_fixed_point<T, int32_t>(c, inputs, gradients, tolerance);
  }
}

}  // namespace

void test_kernels() {
  std::mt19937 generator(0);
  for (const Case& c : cases::all()) {
    test_case<float>(c, 1e-5, generator);
    test_case<double>(c, 1e-12, generator);
    test_case<c10::BFloat16>(c, 1.0 / 200, generator);
    test_case<c10::Half>(c, 1.0 / 1600, generator);
  }
  std::printf("CUDA kernels, run on the CPU\n");
}

}  // namespace mask2former_ext::cuda
