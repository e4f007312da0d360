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
  T* data() {
    return data_;
  }

 private:
  T* data_;
};

inline int64_t largest_level(const Problem& problem) {
  int64_t largest = 0;
  for (const Level& level : problem.levels) {
    largest = std::max(largest, level.height * level.width);
  }
  return largest;
}

// Corners of a sample: top left, top right, bottom left, bottom right.
template <typename A>
struct Sample {
  int64_t pixel[4];  // in the level; of a corner outside the level any pixel inside, at weight zero
  bool inside[4];
  A weight[4];       // bilinear
  A dx, dy;          // distance from the top left corner, in pixels
  bool any;          // whether any corner is inside
};

template <typename A>
inline Sample<A> locate(const Level& level, const A* location) {
  Sample<A> sample;
  const A x = location[0] * static_cast<A>(level.width) - A(0.5);
  const A y = location[1] * static_cast<A>(level.height) - A(0.5);
  // Written so that NaN counts as outside.
  sample.any = x > A(-1) && y > A(-1) && x < static_cast<A>(level.width) && y < static_cast<A>(level.height);
  if (!sample.any) {
    return sample;
  }
  const A left = std::floor(x), top = std::floor(y);
  const int64_t column = static_cast<int64_t>(left), row = static_cast<int64_t>(top);
  sample.dx = x - left;
  sample.dy = y - top;
  const bool columns[2] = {column >= 0, column + 1 < level.width};
  const bool rows[2] = {row >= 0, row + 1 < level.height};
  const A horizontal[2] = {A(1) - sample.dx, sample.dx};
  const A vertical[2] = {A(1) - sample.dy, sample.dy};
  for (int corner = 0; corner < 4; ++corner) {
    const int right = corner & 1, bottom = corner >> 1;
    sample.inside[corner] = columns[right] && rows[bottom];
    sample.pixel[corner] = sample.inside[corner] ? (row + bottom) * level.width + column + right : 0;
    sample.weight[corner] = horizontal[right] * vertical[bottom];
  }
  return sample;
}

// A corner of a sample that counts: where its channels lie, and by how much they are multiplied.
template <typename T, typename A>
struct Term {
  const T* channels;
  A factor;
};

// VECTORS vectors of channels at once, their sums in registers.
template <int VECTORS, typename T, typename A>
inline void sum_terms(const Term<T, A>* terms, int64_t count, int64_t offset, T* output) {
  Vector<A> sums[VECTORS] = {};
  for (int64_t i = 0; i < count; ++i) {
    const T* channels = terms[i].channels + offset;
    for (int v = 0; v < VECTORS; ++v) {
      sums[v] += terms[i].factor * load(channels + v * kLanes<A>);
    }
  }
  for (int v = 0; v < VECTORS; ++v) {
    store(output + offset + v * kLanes<A>, sums[v]);
  }
}

template <typename T, typename A>
inline void sum_all_terms(const Term<T, A>* terms, int64_t count, int64_t channels, T* output) {
  int64_t offset = 0;
  for (; offset + 4 * kLanes<A> <= channels; offset += 4 * kLanes<A>) {
    sum_terms<4>(terms, count, offset, output);
  }
  for (; offset + 2 * kLanes<A> <= channels; offset += 2 * kLanes<A>) {
    sum_terms<2>(terms, count, offset, output);
  }
  for (; offset + kLanes<A> <= channels; offset += kLanes<A>) {
    sum_terms<1>(terms, count, offset, output);
  }
  for (; offset < channels; ++offset) {
    A total = 0;
    for (int64_t i = 0; i < count; ++i) {
      total += terms[i].factor * static_cast<A>(terms[i].channels[offset]);
    }
    output[offset] = static_cast<T>(total);
  }
}

// What one corner of a sample contributes to the gradients: adds factor · grad to grad_value, and returns grad · value,
// summed over channels. VECTORS > 0 says that there are so many vectors of channels, which then stay in registers.
template <int VECTORS, typename T, typename A>
inline A backward_corner(const T* grad, const T* value, A* grad_value, A factor, int64_t channels) {
  Vector<A> products = {};
  const int64_t vectorised = VECTORS > 0 ? VECTORS * kLanes<A> : channels / kLanes<A> * kLanes<A>;
  for (int64_t offset = 0; offset < vectorised; offset += kLanes<A>) {
    const Vector<A> grads = load(grad + offset);
    products += grads * load(value + offset);
    store(grad_value + offset, Vector<A>(load(grad_value + offset) + factor * grads));
  }
  A product = sum(products);
  for (int64_t channel = vectorised; VECTORS == 0 && channel < channels; ++channel) {
    const A grad_channel = static_cast<A>(grad[channel]);
    product += grad_channel * static_cast<A>(value[channel]);
    grad_value[channel] += factor * grad_channel;
  }
  return product;
}

// One head and level of one image: where the arrays of the whole call keep it.
template <typename T, typename A>
struct LevelSlice {
  const T* value;
  int64_t value_stride;  // from pixel to pixel
  A* grad_value;
  int64_t grad_stride;
  const T* grad_output;  // of the first query
  int64_t query_stride;
  const A* locations;  // of the first query's first sample on this level
  const A* weights;
  A* grad_locations;
  A* grad_weights;
  int64_t sample_stride;  // from query to query
};

template <int VECTORS, typename T, typename A>
void backward_level(const Problem& problem, const Level& level, const LevelSlice<T, A>& slice) {
  for (int64_t query = 0; query < problem.queries; ++query) {
    const T* grad_output = slice.grad_output + query * slice.query_stride;
    for (int64_t point = 0; point < problem.points; ++point) {
      const int64_t i = query * slice.sample_stride + point;
      const Sample<A> sample = locate(level, slice.locations + 2 * i);
      const A weight = slice.weights[i];
      A products[4] = {0, 0, 0, 0};  // of grad_output with each corner's value
      for (int corner = 0; sample.any && corner < 4; ++corner) {
        if (sample.inside[corner]) {
          products[corner] = backward_corner<VECTORS>(
              grad_output,
              slice.value + sample.pixel[corner] * slice.value_stride,
              slice.grad_value + sample.pixel[corner] * slice.grad_stride,
              weight * sample.weight[corner],
              problem.channels);
        }
      }
      A grad_weight = 0, grad_x = 0, grad_y = 0;
      if (sample.any) {
        for (int corner = 0; corner < 4; ++corner) {
          grad_weight += sample.weight[corner] * products[corner];
        }
        grad_x = (A(1) - sample.dy) * (products[1] - products[0]) + sample.dy * (products[3] - products[2]);
        grad_y = (A(1) - sample.dx) * (products[2] - products[0]) + sample.dx * (products[3] - products[1]);
      }
      slice.grad_weights[i] = grad_weight;
      slice.grad_locations[2 * i] = weight * grad_x * static_cast<A>(level.width);
      slice.grad_locations[2 * i + 1] = weight * grad_y * static_cast<A>(level.height);
    }
  }
}

// Output of one head of one query, from its L·P locations and weights.
template <typename T, typename A>
inline void forward_row(
    const Problem& problem, const T* value, const A* location, const A* weight, Term<T, A>* terms, T* output) {
  const int64_t pixel_stride = problem.heads * problem.channels;
  int64_t count = 0;
  for (const Level& level : problem.levels) {
    const T* pixels = value + level.start * pixel_stride;
    for (int64_t point = 0; point < problem.points; ++point, location += 2, ++weight) {
      const Sample<A> sample = locate(level, location);
      for (int corner = 0; sample.any && corner < 4; ++corner) {
        terms[count] = {pixels + sample.pixel[corner] * pixel_stride, *weight * sample.weight[corner]};
        count += sample.inside[corner];
      }
    }
  }
  sum_all_terms(terms, count, problem.channels, output);
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

// Locations and softmax weights of one row from its reference points, offsets and logits.
template <typename A>
inline void project_row(
    const Problem& problem,
    int64_t coordinates,
    const A* reference,
    const A* offsets,
    const A* logits,
    A* locations,
    A* weights) {
  const int64_t samples = problem.samples();
  A largest = logits[0];
  for (int64_t i = 1; i < samples; ++i) {
    largest = logits[i] > largest ? logits[i] : largest;
  }
  A total = 0;
  for (int64_t i = 0; i < samples; ++i) {
    weights[i] = std::exp(logits[i] - largest);
    total += weights[i];
  }
  for (int64_t i = 0; i < samples; ++i) {
    weights[i] /= total;
  }
  for (const Level& level : problem.levels) {
    A scale[2] = {A(1) / static_cast<A>(level.width), A(1) / static_cast<A>(level.height)};
    if (coordinates == 4) {
      scale[0] = reference[2] * A(0.5) / static_cast<A>(problem.points);
      scale[1] = reference[3] * A(0.5) / static_cast<A>(problem.points);
    }
    for (int64_t i = 0; i < 2 * problem.points; ++i) {
      locations[i] = reference[i & 1] + offsets[i] * scale[i & 1];
    }
    reference += coordinates;
    offsets += 2 * problem.points;
    locations += 2 * problem.points;
  }
}

}  // namespace

template <typename T, typename A>
void forward(const Problem& problem, const ForwardArrays<T, A>& arrays, int64_t begin, int64_t end) {
  // one term more than there can be, because a corner is written before it is counted
  Buffer<Term<T, A>> terms(4 * problem.samples() + 1);
  for (int64_t i = begin; i < end; ++i) {
    const Row row = find_row(problem, i);
    const int64_t first_sample = row.output * problem.samples();
    forward_row(
        problem,
        arrays.value + row.first_value,
        arrays.locations + 2 * first_sample,
        arrays.weights + first_sample,
        terms.data(),
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
  Buffer<Term<T, A>> terms(4 * problem.samples() + 1);
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
        problem,
        arrays.value + row.first_value,
        locations.data(),
        weights.data(),
        terms.data(),
        arrays.output + row.output * problem.channels);
  }
}

template <typename A>
void project(
    const Problem& problem,
    const Projections<A>& projections,
    A* locations,
    A* weights,
    int64_t begin,
    int64_t end) {
  for (int64_t row = begin; row < end; ++row) {
    const int64_t first_sample = row * problem.samples();
    project_row(
        problem,
        projections.coordinates,
        projections.reference + row / problem.heads * problem.num_levels() * projections.coordinates,
        projections.offsets + 2 * first_sample,
        projections.logits + first_sample,
        locations + 2 * first_sample,
        weights + first_sample);
  }
}

template <typename A>
void backward_project(
    const Problem& problem,
    const Projections<A>& projections,
    const ProjectionGradients<A>& gradients,
    int64_t begin,
    int64_t end) {
  const int64_t samples = problem.samples(), coordinates = projections.coordinates;
  for (int64_t query = begin; query < end; ++query) {
    const A* reference = projections.reference + query * problem.num_levels() * coordinates;
    A* grad_reference = gradients.grad_reference + query * problem.num_levels() * coordinates;
    for (int64_t i = 0; i < problem.num_levels() * coordinates; ++i) {
      grad_reference[i] = 0;
    }
    for (int64_t row = query * problem.heads; row < (query + 1) * problem.heads; ++row) {
      const A* weights = gradients.weights + row * samples;
      const A* grad_weights = gradients.grad_weights + row * samples;
      A mean = 0;
      for (int64_t i = 0; i < samples; ++i) {
        mean += weights[i] * grad_weights[i];
      }
      for (int64_t i = 0; i < samples; ++i) {
        gradients.grad_logits[row * samples + i] = weights[i] * (grad_weights[i] - mean);
      }
      for (int64_t level = 0; level < problem.num_levels(); ++level) {
        const Level& shape = problem.levels[level];
        const A* box = reference + level * coordinates;
        A* grad_box = grad_reference + level * coordinates;
        const A half_share = A(0.5) / static_cast<A>(problem.points);
        const A scale[2] = {
            coordinates == 4 ? box[2] * half_share : A(1) / static_cast<A>(shape.width),
            coordinates == 4 ? box[3] * half_share : A(1) / static_cast<A>(shape.height)};
        const int64_t first = 2 * (row * samples + level * problem.points);
        for (int64_t i = 0; i < 2 * problem.points; ++i) {
          const A grad = gradients.grad_locations[first + i];
          grad_box[i & 1] += grad;
          if (coordinates == 4) {
            grad_box[2 + (i & 1)] += grad * projections.offsets[first + i] * half_share;
          }
          gradients.grad_offsets[first + i] = grad * scale[i & 1];
        }
      }
    }
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
      for (int64_t i = 0; i < pixels * problem.channels; ++i) {
        arrays.grad_value[first_pixel + i / problem.channels * row_stride + i % problem.channels] =
            static_cast<T>(sums.data()[i]);
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
