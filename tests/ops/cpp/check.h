// Checks that count and report instead of stopping, and arrays that end where their memory ends.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

namespace check {

inline int64_t passed = 0;
inline int64_t failed = 0;

inline void that(bool condition, const std::string& what) {
  ++(condition ? passed : failed);
  if (!condition && failed <= 20) {
    std::fprintf(stderr, "FAILED: %s\n", what.c_str());
  }
}

// One allocation of its own, of exactly this size: the address sanitizer reports a read or write beyond it.
template <typename T>
class Array {
 public:
  explicit Array(int64_t size) : size_(size), data_(new T[size]) {
    fill(std::numeric_limits<double>::quiet_NaN());
  }
  explicit Array(const std::vector<double>& numbers) : Array(static_cast<int64_t>(numbers.size())) {
    for (int64_t i = 0; i < size_; ++i) {
      data_[i] = static_cast<T>(numbers[i]);
    }
  }
  T* data() const {
    return data_.get();
  }
  void fill(double number) {
    for (int64_t i = 0; i < size_; ++i) {
      data_[i] = static_cast<T>(number);
    }
  }
  std::vector<double> numbers() const {
    std::vector<double> result;
    for (int64_t i = 0; i < size_; ++i) {
      result.push_back(static_cast<double>(data_[i]));
    }
    return result;
  }

 private:
  int64_t size_;
  std::unique_ptr<T[]> data_;
};

// The largest difference counts, relative to the largest number expected; NaN is never close.
inline void close(
    const std::vector<double>& actual, const std::vector<double>& expected, double tolerance, const std::string& what) {
  double scale = 1, worst = 0;
  bool finite = actual.size() == expected.size();
  for (size_t i = 0; finite && i < expected.size(); ++i) {
    scale = std::max(scale, std::abs(expected[i]));
    worst = std::max(worst, std::abs(actual[i] - expected[i]));
    finite = std::isfinite(actual[i]);
  }
  const std::string problem = finite ? ": differs by " + std::to_string(worst) : ": not finite";
  that(finite && worst <= tolerance * scale, what + problem);
}

// Numbers between low and high that T holds exactly.
template <typename T>
std::vector<double> draw(std::mt19937& generator, int64_t count, double low, double high) {
  std::uniform_real_distribution<double> uniform(low, high);
  std::vector<double> result;
  for (int64_t i = 0; i < count; ++i) {
    result.push_back(static_cast<double>(static_cast<T>(uniform(generator))));
  }
  return result;
}

}  // namespace check
