// The operator on tensors: threads, layouts, empty inputs, and refusals of whatever a kernel could not trust.

#include "../../../mask2former_ext/ops/csrc/problem.h"
#include "check.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <array>
#include <functional>
#include <tuple>

namespace mask2former_ext::cpu {

// Registered for the dispatcher, so no header declares them.
using at::Tensor;
Tensor ms_deform_attn(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&);
std::tuple<Tensor, Tensor, Tensor> ms_deform_attn_backward(
    const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&);
Tensor ms_deform_attn_fused(
    const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&);
std::tuple<Tensor, Tensor, Tensor, Tensor> ms_deform_attn_fused_backward(
    const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&);

namespace {

using Inputs = std::array<Tensor, 6>;  // value, spatial_shapes, level_start_index, locations, weights, grad_output

Inputs make_inputs(
    int64_t batch, int64_t queries, int64_t heads, int64_t channels, int64_t points, at::ScalarType type) {
  const auto doubles = at::TensorOptions(at::kDouble);
  return {
      (at::rand({batch, 48, heads, channels}, doubles) - 0.5).to(type),
      at::tensor({5, 7, 3, 4, 1, 1}, at::TensorOptions(at::kLong)).view({3, 2}),
      at::tensor({0, 35, 47}, at::TensorOptions(at::kLong)),
      (at::rand({batch, queries, heads, 3, points, 2}, doubles) * 1.6 - 0.3).to(accumulation_type(type)),
      at::rand({batch, queries, heads, 3, points}, doubles).to(accumulation_type(type)),
      (at::rand({batch, queries, heads * channels}, doubles) - 0.5).to(type)};
}

// Results of all four functions; locations serve as offsets and weights as logits of the fused ones.
std::vector<Tensor> run(const Inputs& x, int64_t coordinates) {
  const Tensor reference = at::full({x[3].size(0), x[3].size(1), x[3].size(3), coordinates}, 0.4, x[3].options());
  const auto [value, locations, weights] = ms_deform_attn_backward(x[5], x[0], x[1], x[2], x[3], x[4]);
  const auto [fused_value, points, offsets, logits] =
      ms_deform_attn_fused_backward(x[5], x[0], x[1], x[2], reference, x[3], x[4]);
  return {
      ms_deform_attn(x[0], x[1], x[2], x[3], x[4]), value, locations, weights,
      ms_deform_attn_fused(x[0], x[1], x[2], reference, x[3], x[4]), fused_value, points, offsets, logits};
}

double difference(const Tensor& a, const Tensor& b) {
  return a.numel() == 0 ? 0.0 : (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

void test_types_and_threads() {
  for (at::ScalarType type : {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf}) {
    const double tolerance = type == at::kDouble ? 0 : type == at::kFloat ? 1e-4 : 0.1;
    for (int64_t channels : {5, 32, 64}) {
      const Inputs inputs = make_inputs(2, 100, 3, channels, 2, type);
      Inputs wide = inputs, strided = inputs;
      for (int i : {0, 3, 4, 5}) {
        wide[i] = inputs[i].to(at::kDouble);
        strided[i] = inputs[i].transpose(0, 1).contiguous().transpose(0, 1);
      }
      at::set_num_threads(1);
      const std::vector<Tensor> once = run(inputs, 4), exact = run(wide, 4);
      at::set_num_threads(4);
      const std::vector<Tensor> again = run(strided, 4);
      for (size_t i = 0; i < once.size(); ++i) {
        check::that(once[i].equal(again[i]), "result " + std::to_string(i) + " changes with threads or layout");
        const double allowed = tolerance * std::max(1.0, exact[i].abs().max().item<double>());
        check::that(difference(once[i], exact[i]) <= allowed, "result " + std::to_string(i) + " against float64");
      }
    }
  }
}

void test_empty() {
  const std::vector<std::array<int64_t, 3>> sizes{{0, 3, 2}, {2, 0, 2}, {2, 3, 0}, {0, 0, 0}};  // B, Q, P
  for (const auto& [batch, queries, points] : sizes) {
    for (at::ScalarType type : {at::kFloat, at::kHalf}) {
      for (const Tensor& result : run(make_inputs(batch, queries, 3, 32, points, type), 2)) {
        check::that(result.numel() == 0 || result.abs().max().item<double>() == 0, "an empty input gives a result");
      }
    }
  }
}

struct Refusal {
  const char* message;
  std::function<void(Inputs&)> change;
};

void test_refusals() {
  const std::vector<Refusal> refusals{
      {"value must be float32", [](Inputs& x) { x[0] = x[0].to(at::kLong); }},
      {"value must be B x S x M x D", [](Inputs& x) { x[0] = x[0][0]; }},
      {"value must be B x S x M x D", [](Inputs& x) { x[0] = x[0].narrow(3, 0, 0); }},
      {"the levels hold 48 pixels", [](Inputs& x) { x[0] = at::zeros({2, 49, 3, 32}); }},
      {"hold 48 pixels, but value has only 47", [](Inputs& x) { x[0] = x[0].narrow(1, 0, 47); }},
      {"must be int64", [](Inputs& x) { x[1] = x[1].to(at::kFloat); }},
      {"L x 2", [](Inputs& x) { x[1] = x[1].narrow(1, 0, 1); }},
      {"at least one level", [](Inputs& x) { x[1] = x[1].narrow(0, 0, 0); }},
      {"has height", [](Inputs& x) { x[1] = at::full({3, 2}, int64_t(1) << 62, x[1].options()); }},
      {"has height -5", [](Inputs& x) { x[1] = -x[1]; }},
      {"one entry for each", [](Inputs& x) { x[2] = x[2].narrow(0, 0, 2); }},
      {"level_start_index says 1", [](Inputs& x) { x[2] = x[2] + 1; }},
      {"level_start_index says -", [](Inputs& x) { x[2] = x[2] - (int64_t(1) << 62); }},
      {"sampling_locations must be B x Q", [](Inputs& x) { x[3] = x[3].narrow(0, 0, 1); }},
      {"sampling_locations must be B x Q", [](Inputs& x) { x[3] = x[3].narrow(2, 0, 2); }},
      {"sampling_locations must be B x Q", [](Inputs& x) { x[3] = x[3].narrow(5, 0, 1); }},
      {"sampling_locations must be float32", [](Inputs& x) { x[3] = x[3].to(at::kInt); }},
      {"attention_weights must be B x Q", [](Inputs& x) { x[4] = x[4].narrow(1, 0, 3); }},
      {"attention_weights must be B x Q", [](Inputs& x) { x[4] = x[4].narrow(4, 0, 1); }},
      {"grad_output must be B x Q", [](Inputs& x) { x[5] = x[5].narrow(2, 0, 95); }},
      {"grad_output must be B x Q", [](Inputs& x) { x[5] = x[5].narrow(0, 0, 1); }},
      {"grad_output must be B x Q", [](Inputs& x) { x[5] = x[5][0]; }},
  };
  for (const Refusal& refusal : refusals) {
    Inputs inputs = make_inputs(2, 4, 3, 32, 2, at::kFloat);
    refusal.change(inputs);
    std::string message = "nothing";
    try {
      ms_deform_attn_backward(inputs[5], inputs[0], inputs[1], inputs[2], inputs[3], inputs[4]);
    } catch (const c10::ValueError& error) {
      message = error.what_without_backtrace();
    }
    const bool is_named = message.find(refusal.message) != std::string::npos;
    check::that(is_named, std::string(refusal.message) + " expected, got " + message);
  }
}

void test_fused_refusals() {
  const Inputs x = make_inputs(2, 4, 3, 32, 2, at::kFloat);
  const std::vector<std::vector<int64_t>> shapes{{2, 4, 3, 3}, {2, 4, 2, 2}, {1, 4, 3, 2}, {2, 4, 3}};
  for (const std::vector<int64_t>& shape : shapes) {
    bool refused = false;
    try {
      ms_deform_attn_fused(x[0], x[1], x[2], at::zeros(shape), x[3], x[4]);
    } catch (const c10::ValueError&) {
      refused = true;
    }
    check::that(refused, "reference points of another shape are refused");
  }
}

}  // namespace

void test_operator() {
  test_types_and_threads();
  test_empty();
  test_refusals();
  test_fused_refusals();
}

}  // namespace mask2former_ext::cpu
