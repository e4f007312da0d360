// The kernels' code. Included once for each instruction set with CAPABILITY defined; no include guard for that.

namespace mask2former_ext::cpu::CAPABILITY {

namespace {

#include "vectors.h"

// Memory for one thread. Not std::vector: its functions are shared between translation units, and the linker might keep
// the one that was compiled for this instruction set.
template <typename T>
class Buffer {
 public:
  explicit Buffer(int64_t size) : data_(static_cast<T*>(std::malloc(sizeof(T) * std::max<int64_t>(size, 1)))) {
    TORCH_CHECK(data_ != nullptr, "ms_deform_attn: out of memory for ", size, " elements");
  }
  ~Buffer() {
    std::free(data_);
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  T* data() const {
    return data_;
  }

 private:
  T* data_;
};

#include "samples.h"

#include "sampling_forward.h"

#include "sampling_backward.h"

inline int64_t largest_level(const Problem& problem) {
  int64_t largest = 0;
  for (const Level& level : problem.levels) {
    largest = std::max(largest, level.height * level.width);
  }
  return largest;
}

// Where a row lies in the arrays, the rows being counted head by head so that neighbours read neighbouring pixels.
struct Row {
  int64_t first_value;  // of the head's channels in the image's first pixel
  int64_t output;       // index among the B·Q·M rows of output, locations and weights
  int64_t query;        // index among the B·Q queries
};

inline Row find_row(const Problem& problem, int64_t row) {
  const int64_t query = row % problem.queries;
  const int64_t head = row / problem.queries % problem.heads;
  const int64_t image = row / (problem.queries * problem.heads);
  const int64_t image_query = image * problem.queries + query;
  return {
      (image * problem.pixels * problem.heads + head) * problem.channels,
      image_query * problem.heads + head,
      image_query};
}

}  // namespace

#include "projections.h"

template <typename T, typename A>
void forward(const Problem& problem, const ForwardArrays<T, A>& arrays, int64_t begin, int64_t end) {
  Samples<A> samples(problem.samples(), [&](int64_t i) { return problem.levels[i / problem.points]; });
  for (int64_t i = begin; i < end; ++i) {
    const Row row = find_row(problem, i);
    const int64_t first_sample = row.output * problem.samples();
    forward_row(
        samples,
        HeadValues<T>{arrays.value + row.first_value, problem.heads * problem.channels},
        problem.channels,
        arrays.locations + 2 * first_sample,
        arrays.weights + first_sample,
        arrays.output + row.output * problem.channels);
  }
}

template <typename T, typename A>
void forward_fused(
    const Problem& problem,
    const ForwardArrays<T, A>& arrays,
    const Projections<A>& projections,
    int64_t begin,
    int64_t end) {
  Samples<A> samples(problem.samples(), [&](int64_t i) { return problem.levels[i / problem.points]; });
  Buffer<A> locations(2 * problem.samples());
  Buffer<A> weights(problem.samples());
  for (int64_t i = begin; i < end; ++i) {
    const Row row = find_row(problem, i);
    const int64_t first_sample = row.output * problem.samples();
    project_row(
        problem,
        projections.coordinates,
        projections.reference + row.query * problem.num_levels() * projections.coordinates,
        projections.offsets + 2 * first_sample,
        projections.logits + first_sample,
        locations.data(),
        weights.data());
    forward_row(
        samples,
        HeadValues<T>{arrays.value + row.first_value, problem.heads * problem.channels},
        problem.channels,
        locations.data(),
        weights.data(),
        arrays.output + row.output * problem.channels);
  }
}

template <typename T, typename A>
void backward(const Problem& problem, const BackwardArrays<T, A>& arrays, int64_t begin, int64_t end) {
  constexpr bool kSumInPlace = std::is_same_v<T, A>;
  const int64_t row_stride = problem.heads * problem.channels;
  // grad_value of a level, where T is too coarse to sum in
  Buffer<A> sums(kSumInPlace ? 0 : largest_level(problem) * problem.channels);
  auto* const run = problem.channels == 2 * kLanes<A> ? backward_level<2, T, A>
      : problem.channels == 4 * kLanes<A>             ? backward_level<4, T, A>
                                                      : backward_level<0, T, A>;
  for (int64_t task = begin; task < end; ++task) {
    const int64_t level_index = task % problem.num_levels();
    const int64_t head = task / problem.num_levels() % problem.heads;
    const int64_t image = task / (problem.num_levels() * problem.heads);
    const Level& level = problem.levels[level_index];
    const int64_t first_pixel = (image * problem.pixels + level.start) * row_stride + head * problem.channels;
    const int64_t first_row = image * problem.queries * problem.heads + head;
    const int64_t first_sample = first_row * problem.samples() + level_index * problem.points;
    LevelSlice<T, A> slice{
        arrays.value + first_pixel,
        row_stride,
        sums.data(),
        problem.channels,
        arrays.grad_output + first_row * problem.channels,
        row_stride,
        arrays.locations + 2 * first_sample,
        arrays.weights + first_sample,
        arrays.grad_locations + 2 * first_sample,
        arrays.grad_weights + first_sample,
        problem.heads * problem.samples()};
    if constexpr (kSumInPlace) {
      slice.grad_value = arrays.grad_value + first_pixel;
      slice.grad_stride = row_stride;
      run(problem, level, slice);
    } else {
      const int64_t pixels = level.height * level.width;
      std::memset(sums.data(), 0, sizeof(A) * pixels * problem.channels);
      run(problem, level, slice);
      for (int64_t pixel = 0; pixel < pixels; ++pixel) {
        convert(
            sums.data() + pixel * problem.channels,
            problem.channels,
            arrays.grad_value + first_pixel + pixel * row_stride);
      }
    }
  }
}

#define INSTANTIATE(T, A)                                                                                  \
  template void forward<T, A>(const Problem&, const ForwardArrays<T, A>&, int64_t begin, int64_t end);     \
  template void forward_fused<T, A>(                                                                       \
      const Problem&, const ForwardArrays<T, A>&, const Projections<A>&, int64_t begin, int64_t end);      \
  template void backward<T, A>(const Problem&, const BackwardArrays<T, A>&, int64_t begin, int64_t end);
INSTANTIATE(float, float)
INSTANTIATE(double, double)
INSTANTIATE(c10::BFloat16, float)
INSTANTIATE(c10::Half, float)
#undef INSTANTIATE

#define INSTANTIATE(A)                                                                                    \
  template void project<A>(const Problem&, const Projections<A>&, A*, A*, int64_t begin, int64_t end);    \
  template void backward_project<A>(                                                                      \
      const Problem&, const Projections<A>&, const ProjectionGradients<A>&, int64_t begin, int64_t end);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace mask2former_ext::cpu::CAPABILITY
