// What becomes of a row's samples forwards. Included by kernels_impl.h, without a guard.

// Where the values of a row's head begin, and how far from one pixel to the next.
template <typename T>
struct HeadValues {
  const T* first;
  int64_t pixel_stride;
};

// VECTORS vectors of channels at once, their sums in registers.
template <int VECTORS, typename T, typename A>
inline void sum_vectors(const Samples<A>& samples, const HeadValues<T>& values, int64_t offset, T* output) {
  Vector<A> sums[VECTORS] = {};
  for (int64_t i = 0; i < samples.count(); ++i) {
    const int64_t pixel = samples.pixel(i), width = samples.width(i);
    for_each_corner(samples.inside(i), [&](int corner) {
      const int64_t place = pixel + (corner & 1) + (corner >> 1) * width;
      const T* channels = values.first + place * values.pixel_stride + offset;
      const A factor = samples.factor(corner, i);
      for (int v = 0; v < VECTORS; ++v) {
        sums[v] += factor * load(channels + v * kLanes<A>);
      }
    });
  }
  for (int v = 0; v < VECTORS; ++v) {
    store(output + offset + v * kLanes<A>, sums[v]);
  }
}

template <typename T, typename A>
inline void sum_channel(const Samples<A>& samples, const HeadValues<T>& values, int64_t channel, T* output) {
  A total = 0;
  for (int64_t i = 0; i < samples.count(); ++i) {
    for_each_corner(samples.inside(i), [&](int corner) {
      const int64_t place = samples.pixel(i) + (corner & 1) + (corner >> 1) * samples.width(i);
      total += samples.factor(corner, i) * static_cast<A>(values.first[place * values.pixel_stride + channel]);
    });
  }
  output[channel] = static_cast<T>(total);
}

// Output of one head of one query, from its L·P locations and weights.
template <typename T, typename A>
inline void forward_row(
    Samples<A>& samples,
    const HeadValues<T>& values,
    int64_t channels,
    const A* location,
    const A* weight,
    T* output) {
  for (int64_t i = 0; i < samples.count(); ++i) {
    samples.set(i, location + 2 * i, weight[i]);
  }
  samples.locate();
  int64_t offset = 0;
  for (; offset + 4 * kLanes<A> <= channels; offset += 4 * kLanes<A>) {
    sum_vectors<4>(samples, values, offset, output);
  }
  for (; offset + 2 * kLanes<A> <= channels; offset += 2 * kLanes<A>) {
    sum_vectors<2>(samples, values, offset, output);
  }
  for (; offset + kLanes<A> <= channels; offset += kLanes<A>) {
    sum_vectors<1>(samples, values, offset, output);
  }
  for (; offset < channels; ++offset) {
    sum_channel(samples, values, offset, output);
  }
}
