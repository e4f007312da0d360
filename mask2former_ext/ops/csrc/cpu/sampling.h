// Bilinear samples of one level, and what becomes of them forwards. Included by kernels_impl.h, without a guard.

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
