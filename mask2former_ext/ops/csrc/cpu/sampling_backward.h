// Gradients of the samples of one head and level. Included by kernels_impl.h, without a guard.

// Gradients of the weights and locations of samples, worked out a vector of them at a time.
template <typename A>
class SampleGradients {
 public:
  explicit SampleGradients(const Samples<A>& samples) : samples_(samples), numbers_(kNumbers * samples.padded()) {
    std::memset(numbers_.data(), 0, sizeof(A) * kNumbers * samples.padded());
  }

  // The output's gradient times the corner's value, summed over channels; zero for a corner outside.
  void set_product(int corner, int64_t sample, A product) {
    number(kProducts + corner)[sample] = product;
  }
  void differentiate() {
    for (int64_t i = 0; i < samples_.padded(); i += kLanes<A>) {
      differentiate_vector(i);
    }
  }

  A of_weight(int64_t sample) const {
    return numbers_.data()[kWeight * samples_.padded() + sample];
  }
  A of_x(int64_t sample) const {
    return numbers_.data()[kX * samples_.padded() + sample];
  }
  A of_y(int64_t sample) const {
    return numbers_.data()[kY * samples_.padded() + sample];
  }

 private:
  enum { kWeight, kX, kY, kProducts, kNumbers = kProducts + 4 };

  A* number(int64_t field) {
    return numbers_.data() + field * samples_.padded();
  }

  void differentiate_vector(int64_t i) {
    Vector<A> products[4];
    for (int corner = 0; corner < 4; ++corner) {
      products[corner] = load(number(kProducts + corner) + i);
    }
    const Vector<A> dx = load(samples_.dx() + i), dy = load(samples_.dy() + i);
    const Vector<A> above = products[1] - products[0], below = products[3] - products[2];
    const Vector<A> top = products[0] + dx * above, bottom = products[2] + dx * below;
    const Vector<A> down = bottom - top;
    const Vector<A> weight = load(samples_.weights() + i);
    store(number(kWeight) + i, Vector<A>(top + dy * down));
    store(number(kX) + i, Vector<A>(weight * (above + dy * (below - above)) * load(samples_.widths() + i)));
    store(number(kY) + i, Vector<A>(weight * down * load(samples_.heights() + i)));
  }

  const Samples<A>& samples_;
  Buffer<A> numbers_;
};

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

// Queries whose samples are worked out together.
template <typename A>
inline int64_t queries_at_once(const Problem& problem) {
  return std::max<int64_t>(1, 4 * kLanes<A> / std::max<int64_t>(1, problem.points));
}

template <int VECTORS, typename T, typename A>
void backward_level(const Problem& problem, const Level& level, const LevelSlice<T, A>& slice) {
  const int64_t block = std::min(queries_at_once<A>(problem), problem.queries);
  Samples<A> samples(block * problem.points, [&](int64_t) { return Level{level.height, level.width, 0}; });
  SampleGradients<A> gradients(samples);
  for (int64_t first = 0; first < problem.queries; first += block) {
    const int64_t end = std::min(first + block, problem.queries);
    // Calls use(sample, query, where its arrays have it) for each sample of the block.
    const auto for_each_sample = [&](auto use) {
      int64_t sample = 0;
      for (int64_t query = first; query < end; ++query) {
        for (int64_t point = 0; point < problem.points; ++point, ++sample) {
          use(sample, query, query * slice.sample_stride + point);
        }
      }
    };
    for_each_sample([&](int64_t sample, int64_t, int64_t i) {
      samples.set(sample, slice.locations + 2 * i, slice.weights[i]);
    });
    samples.locate();
    for_each_sample([&](int64_t sample, int64_t query, int64_t) {
      const int inside = samples.inside(sample);
      const int64_t pixel = samples.pixel(sample);
      for (int corner = 0; corner < 4; ++corner) {
        const int64_t place = pixel + (corner & 1) + (corner >> 1) * level.width;
        const A product = inside >> corner & 1 ? backward_corner<VECTORS>(
                                                     slice.grad_output + query * slice.query_stride,
                                                     slice.value + place * slice.value_stride,
                                                     slice.grad_value + place * slice.grad_stride,
                                                     samples.factor(corner, sample),
                                                     problem.channels)
                                               : A(0);
        gradients.set_product(corner, sample, product);
      }
    });
    gradients.differentiate();
    for_each_sample([&](int64_t sample, int64_t, int64_t i) {
      slice.grad_weights[i] = gradients.of_weight(sample);
      slice.grad_locations[2 * i] = gradients.of_x(sample);
      slice.grad_locations[2 * i + 1] = gradients.of_y(sample);
    });
  }
}
