// The operator as nested loops in double precision, for the tests: one corner at a time, weighted by a hat function.

#pragma once

#include "../../../mask2former_ext/ops/csrc/problem.h"

#include <cmath>
#include <vector>

namespace naive {

using mask2former_ext::Level;
using mask2former_ext::Problem;
using Numbers = std::vector<double>;

struct Inputs {
  Numbers value, locations, weights, grad_output;
};

struct Gradients {
  Numbers value, locations, weights;
};

// Calls visit(index of the corner's pixel in S, bilinear weight, its derivatives by x and y of the location) for each
// corner inside the level. A location outside by a pixel or more, or NaN, has none.
template <typename Visit>
void visit_corners(const Level& level, double location_x, double location_y, Visit visit) {
  const double x = location_x * level.width - 0.5, y = location_y * level.height - 0.5;
  if (!(x > -1 && y > -1 && x < level.width && y < level.height)) {
    return;
  }
  for (int64_t row = std::floor(y); row <= std::floor(y) + 1; ++row) {
    for (int64_t column = std::floor(x); column <= std::floor(x) + 1; ++column) {
      if (row >= 0 && row < level.height && column >= 0 && column < level.width) {
        const double horizontal = 1 - std::abs(x - column), vertical = 1 - std::abs(y - row);
        const double by_x = column > x ? 1 : -1, by_y = row > y ? 1 : -1;
        visit(
            level.start + row * level.width + column,
            horizontal * vertical,
            by_x * vertical * level.width,
            by_y * horizontal * level.height);
      }
    }
  }
}

// Calls visit(index of the sample, of the first channel in value, of the first channel in output, weight, its
// derivatives) for each corner of each sample.
template <typename Visit>
void visit_samples(const Problem& p, const Numbers& locations, Visit visit) {
  int64_t sample = 0;
  for (int64_t row = 0; row < p.batch * p.queries * p.heads; ++row) {
    const int64_t image = row / (p.queries * p.heads), head = row % p.heads;
    for (const Level& level : p.levels) {
      for (int64_t point = 0; point < p.points; ++point, ++sample) {
        visit_corners(
            level,
            locations[2 * sample],
            locations[2 * sample + 1],
            [&](int64_t pixel, double weight, double by_x, double by_y) {
              const int64_t first = ((image * p.pixels + pixel) * p.heads + head) * p.channels;
              visit(sample, first, row * p.channels, weight, by_x, by_y);
            });
      }
    }
  }
}

inline Numbers forward(const Problem& p, const Inputs& inputs) {
  Numbers output(p.batch * p.queries * p.heads * p.channels);
  visit_samples(
      p, inputs.locations, [&](int64_t sample, int64_t from, int64_t to, double weight, double, double) {
        for (int64_t channel = 0; channel < p.channels; ++channel) {
          output[to + channel] += inputs.weights[sample] * weight * inputs.value[from + channel];
        }
      });
  return output;
}

inline Gradients backward(const Problem& p, const Inputs& inputs) {
  Gradients grads{
      Numbers(inputs.value.size()), Numbers(inputs.locations.size()), Numbers(inputs.weights.size())};
  visit_samples(
      p, inputs.locations, [&](int64_t sample, int64_t from, int64_t to, double weight, double by_x, double by_y) {
        for (int64_t channel = 0; channel < p.channels; ++channel) {
          const double grad = inputs.grad_output[to + channel], value = inputs.value[from + channel];
          grads.value[from + channel] += grad * inputs.weights[sample] * weight;
          grads.weights[sample] += grad * weight * value;
          grads.locations[2 * sample] += grad * inputs.weights[sample] * by_x * value;
          grads.locations[2 * sample + 1] += grad * inputs.weights[sample] * by_y * value;
        }
      });
  return grads;
}

struct Projections {
  int64_t coordinates;
  Numbers reference, offsets, logits;
};

// What an offset of one is worth in x (axis 0) or y (axis 1) for sample i of the B·Q·M·L·P.
inline double offset_scale(const Problem& p, const Projections& projections, int64_t i, int axis) {
  const int64_t level = i / p.points % p.num_levels(), query = i / p.samples() / p.heads;
  const double size = axis == 0 ? p.levels[level].width : p.levels[level].height;
  const int64_t box = (query * p.num_levels() + level) * projections.coordinates;
  return projections.coordinates == 2 ? 1 / size : projections.reference[box + 2 + axis] / 2 / p.points;
}

// Sets the locations and weights of inputs.
inline void project(const Problem& p, const Projections& projections, Inputs& inputs) {
  inputs.locations = projections.offsets;
  inputs.weights = projections.logits;
  for (int64_t i = 0; i < static_cast<int64_t>(inputs.weights.size()); ++i) {
    const int64_t first = i / p.samples() * p.samples();
    double total = 0;
    for (int64_t j = first; j < first + p.samples(); ++j) {
      total += std::exp(projections.logits[j] - projections.logits[i]);
    }
    inputs.weights[i] = 1 / total;
    const int64_t level = i / p.points % p.num_levels(), query = i / p.samples() / p.heads;
    for (int axis = 0; axis < 2; ++axis) {
      inputs.locations[2 * i + axis] =
          projections.reference[(query * p.num_levels() + level) * projections.coordinates + axis] +
          projections.offsets[2 * i + axis] * offset_scale(p, projections, i, axis);
    }
  }
}

// From the gradients of locations and weights those of what they were projected from.
inline Projections backward_project(
    const Problem& p, const Projections& projections, const Numbers& weights, const Gradients& grads) {
  Projections result{
      projections.coordinates, Numbers(projections.reference.size()), grads.locations, Numbers(weights.size())};
  for (int64_t i = 0; i < static_cast<int64_t>(weights.size()); ++i) {
    const int64_t first = i / p.samples() * p.samples();
    for (int64_t j = first; j < first + p.samples(); ++j) {
      result.logits[i] += grads.weights[j] * weights[j] * ((i == j) - weights[i]);
    }
    const int64_t level = i / p.points % p.num_levels(), query = i / p.samples() / p.heads;
    const int64_t box = (query * p.num_levels() + level) * projections.coordinates;
    for (int axis = 0; axis < 2; ++axis) {
      const double grad = grads.locations[2 * i + axis];
      result.offsets[2 * i + axis] = grad * offset_scale(p, projections, i, axis);
      result.reference[box + axis] += grad;
      if (projections.coordinates == 4) {
        result.reference[box + 2 + axis] += grad * projections.offsets[2 * i + axis] / 2 / p.points;
      }
    }
  }
  return result;
}

}  // namespace naive
