// The CUDA kernels, run on the CPU lane by lane, against nested loops: their arithmetic, their memory and their shuffles.
// What a GPU adds to that, its compiler, its order of atomic additions and its speed, is not tested here.

#include "cuda_on_cpu.h"

#include "../../../mask2former_ext/ops/csrc/cuda/backward.cuh"
#include "../../../mask2former_ext/ops/csrc/cuda/forward.cuh"
#include "../../../mask2former_ext/ops/csrc/cuda/grad_value.cuh"
#include "../../../mask2former_ext/ops/csrc/cuda/launch.h"
#include "cases.h"
#include "check.h"
#include "naive.h"

namespace mask2former_ext::cuda {

namespace {

using cases::Case;
using check::Array;

// As many blocks as the operator launches, but for one image each: what it does with more images than GPUs take blocks.
template <int GROUP>
Grid grid_for_one_image(const Sizes& sizes) {
  Grid grid = grid_of<GROUP>(sizes);
  grid.z = 1;
  return grid;
}

template <typename T, typename Index>
void run_forward(const Problem& p, const Array<T>& value, const naive::Inputs& inputs, const Array<T>& output) {
  using A = Accumulator<T>;
  const Sizes sizes(p);
  const Array<A> locations(inputs.locations), weights(inputs.weights);
  choose_variant<T>(sizes, true, [&](auto count, auto group, auto) {
    cuda_on_cpu::launch(
        forward_kernel<T, Index, count.value, group.value>, grid_for_one_image<group.value>(sizes),
        Tile<group.value>::kThreads, sizes, value.data(), locations.data(), weights.data(), output.data());
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
  choose_variant<T>(sizes, true, [&](auto count, auto group, auto) {
    cuda_on_cpu::launch(
        backward_kernel<T, Index, count.value, group.value, Adder>, grid_of<group.value>(sizes),
        Tile<group.value>::kThreads, sizes, arrays.grad_output.data(), arrays.value.data(), arrays.locations.data(), arrays.weights.data(), adder,
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
void test_inputs(const Case& c, const naive::Inputs& inputs, double tolerance) {
  const Problem& p = c.problem;
  const Array<T> value(inputs.value);
  const auto expected = naive::forward(p, inputs);
  const bool is_float = std::is_same_v<T, float>;  // which stands for all where the type makes no difference
  const Array<T> output(inputs.grad_output.size()), wide(inputs.grad_output.size());
  run_forward<T, uint32_t>(p, value, inputs, output);
  check::close(output.numbers(), expected, tolerance, describe(c, "CUDA", "forward"));
  if (is_float) {
    run_forward<T, uint64_t>(p, value, inputs, wide);
    check::that(output.numbers() == wide.numbers(), describe(c, "CUDA", "forward with wide addresses"));
  }
  if (!inputs.weights.empty()) {
    const naive::Gradients gradients = naive::backward(p, inputs);
    test_floating<T, uint32_t>(c, inputs, gradients, tolerance);
    if (is_float) {
      test_floating<T, uint64_t>(c, inputs, gradients, tolerance);
    }
    if (is_float || std::is_same_v<T, double>) {
      test_fixed_point<T, uint32_t>(c, inputs, gradients, tolerance);
    }
  }
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
  if (rows > 0) {  // otherwise nothing is launched
    test_inputs<T>(c, inputs, tolerance);
  }
}

// Two pixels in a line, of which the left one alone counts: the right one is NaN, and samples lie left of the middle of the
// left one, or outside.
void test_pixels_outside() {
  const Problem p = cases::make_problem(1, 1, 32, 1, 2, {{1, 2}});
  std::vector<double> value(64, 3), grad_output(32, 1);
  std::fill(value.begin() + 32, value.end(), std::numeric_limits<double>::quiet_NaN());
  const naive::Inputs inputs{value, {0, 0.5, -2, 0.5}, {0.5, 1}, grad_output};
  const Array<float> output(32);
  run_forward<float, uint32_t>(p, Array<float>(value), inputs, output);
  check::close(output.numbers(), std::vector<double>(32, 0.75), 1e-6, "CUDA forward beside NaN");
  const Arrays<float> arrays(inputs);
  const Array<float> grad_value(std::vector<double>(64, 0));
  run_backward<float, uint32_t>(p, arrays, FloatingAdder<float>{grad_value.data()});
  std::vector<double> expected(64, 0);
  std::fill_n(expected.begin(), 32, 0.25);
  check::close(grad_value.numbers(), expected, 1e-6, "CUDA backward beside NaN: value");
  check::close(arrays.grad_weights.numbers(), {48, 0}, 1e-6, "CUDA backward beside NaN: weights");
  check::close(arrays.grad_locations.numbers(), {96, -24, 0, 0}, 1e-6, "CUDA backward beside NaN: locations");
}

}  // namespace

void test_kernels() {
  test_pixels_outside();
  std::mt19937 generator(0);
  for (const Case& c : cases::all()) {
    test_case<float>(c, 1e-5, generator);
    test_case<double>(c, 1e-12, generator);
    test_case<c10::BFloat16>(c, 1.0 / 200, generator);
    test_case<c10::Half>(c, 1.0 / 1600, generator);
  }
  for (const cases::Special& special : {cases::on_edges(generator), cases::extreme(generator)}) {
    test_inputs<float>({special.problem, 0, 0, 2}, special.inputs, 1e-5);
    test_inputs<double>({special.problem, 0, 0, 2}, special.inputs, 1e-5);
  }
  std::printf("CUDA kernels, run on the CPU\n");
}

}  // namespace mask2former_ext::cuda
