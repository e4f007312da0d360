// Sizes of calls that kernels are tested with.

#pragma once

#include "../../../mask2former_ext/ops/csrc/problem.h"
#include "check.h"
#include "naive.h"

#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace cases {

using mask2former_ext::Problem;

struct Case {
  Problem problem;
  double low, high;  // between which locations are drawn
  int64_t coordinates;
};

inline Problem make_problem(
    int64_t batch,
    int64_t heads,
    int64_t channels,
    int64_t queries,
    int64_t points,
    const std::vector<std::pair<int64_t, int64_t>>& sizes) {
  Problem problem{batch, 0, heads, channels, queries, points, {}};
  for (const auto& [height, width] : sizes) {
    problem.levels.push_back({height, width, problem.pixels});
    problem.pixels += height * width;
  }
  return problem;
}

inline std::string describe(const Case& c, const char* variant, const char* what) {
  const Problem& p = c.problem;
  std::string text = std::string(variant) + " " + what + ", B S M D Q L P =";
  for (int64_t size : {p.batch, p.pixels, p.heads, p.channels, p.queries, p.num_levels(), p.points}) {
    text += " " + std::to_string(size);
  }
  return text + ", locations in " + std::to_string(c.low) + " to " + std::to_string(c.high);
}

// Heads of all widths, levels and points of all numbers, batches and queries from none on.
inline std::vector<Case> all() {
  std::vector<Case> result;
  for (int64_t channels : {1, 2, 3, 7, 8, 9, 15, 16, 17, 24, 31, 32, 33, 63, 64, 65, 96, 127, 128}) {
    result.push_back({make_problem(2, 3, channels, 4, 2, {{5, 7}, {3, 4}, {1, 1}}), -0.3, 1.3, 2});
  }
  for (int64_t points = 0; points <= 8; ++points) {
    result.push_back({make_problem(1, 2, 32, 3, points, {{1, 6}, {6, 1}}), -3, 4, 4});
  }
  const std::vector<std::pair<int64_t, int64_t>> many{{1, 1}, {2, 2}, {1, 9}, {11, 1}, {6, 5}};
  for (size_t levels = 1; levels <= many.size(); ++levels) {
    result.push_back({make_problem(3, 1, 20, 5, 3, {many.begin(), many.begin() + levels}), 0, 1, 4});
  }
  // Queries that are the pixels, as in an encoder: levels of less than a tile of a block, of several, of one line.
  const std::vector<std::pair<int64_t, int64_t>> pyramid{{3, 5}, {9, 10}, {1, 6}};
  for (int64_t channels : {8, 32, 128}) {
    result.push_back({make_problem(1, 2, channels, 3 * 5 + 9 * 10 + 1 * 6, 1, pyramid), -0.2, 1.2, 2});
  }
  result.push_back({make_problem(33, 1, 8, 2, 1, {{2, 3}}), -0.5, 1.5, 2});
  result.push_back({make_problem(0, 2, 32, 3, 2, {{2, 3}}), 0, 1, 2});
  result.push_back({make_problem(2, 2, 32, 0, 2, {{2, 3}}), 0, 1, 2});
  return result;
}

// Locations that are not drawn but chosen.
struct Special {
  Problem problem;
  naive::Inputs inputs;
};

// In multiples of an eighth of a pixel: on corners, on edges, and exactly where samples begin to count.
inline Special on_edges(std::mt19937& generator) {
  constexpr int64_t kQueries = 97 * 3, kChannels = 17;
  Special special{
      make_problem(1, 1, kChannels, kQueries, 1, {{4, 8}}),
      {check::draw<float>(generator, 32 * kChannels, -1, 1), {}, std::vector<double>(kQueries, 0.5),
       check::draw<float>(generator, kQueries * kChannels, -1, 1)}};
  for (int i = 0; i < 97; ++i) {
    for (double y : {-0.125, 0.4375, 1.0}) {
      special.inputs.locations.insert(special.inputs.locations.end(), {(i - 16) / 64.0, y});
    }
  }
  return special;
}

// Far away, infinite and NaN, which count as outside; casting such a number to an integer would be undefined.
inline Special extreme(std::mt19937& generator) {
  const double infinity = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<double> extremes{1e30, -1e30, 3.4e38, -3.4e38, infinity, -infinity, nan, 0.5};
  constexpr int64_t kQueries = 64, kChannels = 33;
  Special special{
      make_problem(1, 1, kChannels, kQueries, 1, {{3, 5}}),
      {check::draw<float>(generator, 15 * kChannels, -1, 1), {}, std::vector<double>(kQueries, 1.0),
       check::draw<float>(generator, kQueries * kChannels, -1, 1)}};
  for (double x : extremes) {
    for (double y : extremes) {
      special.inputs.locations.insert(special.inputs.locations.end(), {x, y});
    }
  }
  return special;
}

}  // namespace cases
