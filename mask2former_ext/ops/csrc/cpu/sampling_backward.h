// Gradients of the samples of one head and level. Included by kernels_impl.h, without a guard.

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
