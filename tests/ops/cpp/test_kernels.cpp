// The CPU kernels of each instruction set that this processor has, on raw memory, against nested loops.

#include "../../../mask2former_ext/ops/csrc/cpu/kernels.h"
#include "cases.h"
#include "check.h"
#include "naive.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

namespace mask2former_ext::cpu {

namespace {

using cases::Case;
using cases::describe;
using cases::make_problem;
using check::Array;

template <typename T, typename A>
struct Variant {
  const char* name;
  decltype(&baseline::forward<T, A>) forward;
  decltype(&baseline::forward_fused<T, A>) forward_fused;
  decltype(&baseline::backward<T, A>) backward;
  decltype(&baseline::project<A>) project;
  decltype(&baseline::backward_project<A>) backward_project;
};

#define VARIANT(CAPABILITY)                                                                                  \
  Variant<T, A> {                                                                                            \
    #CAPABILITY, CAPABILITY::forward<T, A>, CAPABILITY::forward_fused<T, A>, CAPABILITY::backward<T, A>,     \
        CAPABILITY::project<A>, CAPABILITY::backward_project<A>                                              \
  }

template <typename T, typename A>
std::vector<Variant<T, A>> variants() {
  std::vector<Variant<T, A>> result{VARIANT(baseline)};
#ifdef MASK2FORMER_EXT_X86_KERNELS
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c")) {
    result.push_back(VARIANT(avx2));
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
      result.push_back(VARIANT(avx512));
    }
  }
#endif
  return result;
}
#undef VARIANT

// Rows, in two calls: the first must leave the rows of the second alone.
template <typename Run, typename T>
void run_in_two(Run run, int64_t rows, const Array<T>& written, const std::string& what) {
  run(0, rows / 3);
  int64_t untouched = 0;
  for (double number : written.numbers()) {
    untouched += std::isnan(number);
  }
  const int64_t a_row = rows > 0 ? static_cast<int64_t>(written.numbers().size()) / rows : 0;
  check::that(untouched == (rows - rows / 3) * a_row, what + ": wrote rows of another call");
  run(rows / 3, rows);
}

template <typename T, typename A>
void test_plain(const Case& c, const Variant<T, A>& kernels, const naive::Inputs& inputs, double tolerance) {
  const Problem& p = c.problem;
  const Array<T> value(inputs.value), grad_output(inputs.grad_output);
  const Array<A> locations(inputs.locations), weights(inputs.weights);
  const Array<T> output(inputs.grad_output.size());
  const std::string forward = describe(c, kernels.name, "forward"), backward = describe(c, kernels.name, "backward");
  const ForwardArrays<T, A> arrays{value.data(), locations.data(), weights.data(), output.data()};
  run_in_two(
      [&](int64_t begin, int64_t end) { kernels.forward(p, arrays, begin, end); },
      p.batch * p.heads * p.queries, output, forward);
  check::close(output.numbers(), naive::forward(p, inputs), tolerance, forward);

  Array<T> grad_value(inputs.value.size());
  const Array<A> grad_locations(inputs.locations.size()), grad_weights(inputs.weights.size());
  grad_value.fill(0);
  const BackwardArrays<T, A> grads{
      grad_output.data(), value.data(), locations.data(), weights.data(),
      grad_value.data(), grad_locations.data(), grad_weights.data()};
  run_in_two(
      [&](int64_t begin, int64_t end) { kernels.backward(p, grads, begin, end); },
      p.batch * p.heads * p.num_levels(), grad_weights, backward);
  const naive::Gradients expected = naive::backward(p, inputs);
  check::close(grad_value.numbers(), expected.value, tolerance, backward + ": value");
  check::close(grad_locations.numbers(), expected.locations, 4 * tolerance, backward + ": locations");
  check::close(grad_weights.numbers(), expected.weights, tolerance, backward + ": weights");
}

template <typename T, typename A>
void test_fused(
    const Case& c,
    const Variant<T, A>& kernels,
    naive::Inputs inputs,
    const naive::Projections& numbers,
    double tolerance) {
  const Problem& p = c.problem;
  naive::project(p, numbers, inputs);
  const Array<T> value(inputs.value), output(inputs.grad_output.size());
  const Array<A> reference(numbers.reference), offsets(numbers.offsets), logits(numbers.logits);
  const Projections<A> projections{reference.data(), numbers.coordinates, offsets.data(), logits.data()};
  const ForwardArrays<T, A> arrays{value.data(), nullptr, nullptr, output.data()};
  const std::string fused = describe(c, kernels.name, "fused");
  run_in_two(
      [&](int64_t begin, int64_t end) { kernels.forward_fused(p, arrays, projections, begin, end); },
      p.batch * p.heads * p.queries, output, fused);
  check::close(output.numbers(), naive::forward(p, inputs), tolerance, fused);

  const Array<A> locations(inputs.locations.size()), weights(inputs.weights.size());
  run_in_two(
      [&](int64_t begin, int64_t end) {
        kernels.project(p, projections, locations.data(), weights.data(), begin, end);
      },
      p.batch * p.heads * p.queries, weights, fused + ": project");
  const double sum_tolerance = std::is_same_v<A, double> ? 1e-12 : 1e-5;
  check::close(locations.numbers(), inputs.locations, sum_tolerance, fused + ": locations");
  check::close(weights.numbers(), inputs.weights, sum_tolerance, fused + ": weights");

  // in place, as the operator does it
  naive::Gradients grads = naive::backward(p, inputs);
  const Array<A> grad_locations(grads.locations), grad_weights(grads.weights), grad_reference(numbers.reference.size());
  const ProjectionGradients<A> gradients{
      weights.data(), grad_locations.data(), grad_weights.data(),
      grad_reference.data(), grad_locations.data(), grad_weights.data()};
  run_in_two(
      [&](int64_t begin, int64_t end) { kernels.backward_project(p, projections, gradients, begin, end); },
      p.batch * p.queries, grad_reference, fused + ": backward");
  const naive::Projections expected = naive::backward_project(p, numbers, inputs.weights, grads);
  check::close(grad_reference.numbers(), expected.reference, 10 * sum_tolerance, fused + ": reference points");
  check::close(grad_locations.numbers(), expected.offsets, 10 * sum_tolerance, fused + ": offsets");
  check::close(grad_weights.numbers(), expected.logits, 10 * sum_tolerance, fused + ": logits");
}

template <typename T, typename A>
void test_case(const Case& c, double tolerance, std::mt19937& generator) {
  const Problem& p = c.problem;
  const int64_t rows = p.batch * p.queries * p.heads, samples = rows * p.samples();
  naive::Inputs inputs{
      check::draw<T>(generator, p.batch * p.pixels * p.heads * p.channels, -1, 1),
      check::draw<A>(generator, 2 * samples, c.low, c.high),
      check::draw<A>(generator, samples, 0, 1),
      check::draw<T>(generator, rows * p.channels, -1, 1)};
  const naive::Projections projections{
      c.coordinates,
      check::draw<A>(generator, p.batch * p.queries * p.num_levels() * c.coordinates, c.low, c.high),
      check::draw<A>(generator, 2 * samples, -2, 2),
      check::draw<A>(generator, samples, -5, 5)};
  for (const Variant<T, A>& kernels : variants<T, A>()) {
    test_plain(c, kernels, inputs, tolerance);
    if (p.samples() > 0) {
      test_fused(c, kernels, inputs, projections, tolerance);
    }
  }
}

void test_case_of_all_types(const Case& c, std::mt19937& generator) {
  test_case<float, float>(c, 1e-5, generator);
  test_case<double, double>(c, 1e-12, generator);
  test_case<c10::BFloat16, float>(c, 1.0 / 200, generator);
  test_case<c10::Half, float>(c, 1.0 / 1600, generator);
}

// At single precision's tolerance, whose locations both types are given.
template <typename A>
void test_special(const cases::Special& special) {
  for (const Variant<A, A>& kernels : variants<A, A>()) {
    test_plain({special.problem, 0, 0, 2}, kernels, special.inputs, 1e-5);
  }
}

}  // namespace

void test_kernels() {
  std::mt19937 generator(0);
  for (const Case& c : cases::all()) {
    test_case_of_all_types(c, generator);
  }
  for (const cases::Special& special : {cases::on_edges(generator), cases::extreme(generator)}) {
    test_special<float>(special);
    test_special<double>(special);
  }
  std::printf("kernels:");
  for (const auto& kernels : variants<float, float>()) {
    std::printf(" %s", kernels.name);
  }
  std::printf("\n");
}

}  // namespace mask2former_ext::cpu
