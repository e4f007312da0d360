// Bilinear samples. Included by kernels_impl.h, without a guard.

// Samples of one head, worked out a vector of them at a time: set each, then locate all. What lies behind the last one fills
// the vector.
template <typename A>
class Samples {
 public:
  // level_of(sample) is the level that the sample is of.
  template <typename LevelOf>
  Samples(int64_t count, LevelOf level_of)
      : count_(count),
        padded_((count + kLanes<A> - 1) / kLanes<A> * kLanes<A>),
        numbers_(kNumbers * padded_),
        integers_(kIntegers * padded_) {
    for (int64_t i = 0; i < padded_; ++i) {
      const Level level = i < count ? level_of(i) : Level{1, 1, 0};
      number(kX)[i] = number(kY)[i] = number(kWeight)[i] = 0;
      number(kHeight)[i] = static_cast<A>(level.height);
      number(kWidth)[i] = static_cast<A>(level.width);
      integer(kRows)[i] = static_cast<Integer<A>>(level.height);
      integer(kColumns)[i] = static_cast<Integer<A>>(level.width);
      integer(kStart)[i] = static_cast<Integer<A>>(level.start);
    }
  }

  void set(int64_t sample, const A* location, A weight) {
    number(kX)[sample] = location[0];
    number(kY)[sample] = location[1];
    number(kWeight)[sample] = weight;
  }
  void locate() {
    for (int64_t i = 0; i < padded_; i += kLanes<A>) {
      locate_vector(i);
    }
  }

  int64_t count() const {
    return count_;
  }
  // Bit c: corner c lies inside the level.
  int inside(int64_t sample) const {
    return static_cast<int>(integers_.data()[kInside * padded_ + sample]);
  }
  // Of the top left corner, in the image; outside where that corner is.
  int64_t pixel(int64_t sample) const {
    return integers_.data()[kPixel * padded_ + sample];
  }
  int64_t width(int64_t sample) const {
    return integers_.data()[kColumns * padded_ + sample];
  }
  // Attention times bilinear weight.
  A factor(int corner, int64_t sample) const {
    return numbers_.data()[(kFactors + corner) * padded_ + sample];
  }
  // Of all samples, and of what fills the last vector.
  int64_t padded() const {
    return padded_;
  }
  const A* weights() const {
    return numbers_.data() + kWeight * padded_;
  }
  const A* heights() const {
    return numbers_.data() + kHeight * padded_;
  }
  const A* widths() const {
    return numbers_.data() + kWidth * padded_;
  }
  // From the top left corner, in pixels; of a sample outside zero.
  const A* dx() const {
    return numbers_.data() + kDx * padded_;
  }
  const A* dy() const {
    return numbers_.data() + kDy * padded_;
  }

 private:
  enum { kX, kY, kWeight, kHeight, kWidth, kDx, kDy, kFactors, kNumbers = kFactors + 4 };
  enum { kRows, kColumns, kStart, kPixel, kInside, kIntegers };

  A* number(int64_t field) {
    return numbers_.data() + field * padded_;
  }
  Integer<A>* integer(int64_t field) {
    return integers_.data() + field * padded_;
  }

  void locate_vector(int64_t i) {
    const Vector<A> height = load(number(kHeight) + i), width = load(number(kWidth) + i);
    const Integers<A> rows = load(integer(kRows) + i), columns = load(integer(kColumns) + i);
    const Vector<A> zero = {};
    Vector<A> x = load(number(kX) + i) * width - A(0.5);
    Vector<A> y = load(number(kY) + i) * height - A(0.5);
    // Written so that NaN counts as outside.
    const Integers<A> any = (x > A(-1)) & (y > A(-1)) & (x < width) & (y < height);
    x = any ? x : zero;
    y = any ? y : zero;
    const Integers<A> column = floor_to_integers<A>(x), row = floor_to_integers<A>(y);
    const Vector<A> dx = x - __builtin_convertvector(column, Vector<A>);
    const Vector<A> dy = y - __builtin_convertvector(row, Vector<A>);
    const Integers<A> left = any & (column >= 0), right = any & (column + 1 < columns);
    const Integers<A> top = row >= 0, bottom = row + 1 < rows;
    const Integers<A> inside = (left & top & 1) | (right & top & 2) | (left & bottom & 4) | (right & bottom & 8);
    const Integers<A> pixel = load(integer(kStart) + i) + row * columns + column;
    store(integer(kInside) + i, inside);
    store(integer(kPixel) + i, pixel);
    const Vector<A> weight = load(number(kWeight) + i);
    const Vector<A> above = weight * (A(1) - dy), below = weight * dy;
    store(number(kFactors) + i, Vector<A>(above * (A(1) - dx)));
    store(number(kFactors + 1) + i, Vector<A>(above * dx));
    store(number(kFactors + 2) + i, Vector<A>(below * (A(1) - dx)));
    store(number(kFactors + 3) + i, Vector<A>(below * dx));
    store(number(kDx) + i, dx);
    store(number(kDy) + i, dy);
  }

  int64_t count_, padded_;
  Buffer<A> numbers_;
  Buffer<Integer<A>> integers_;
};

// Calls use(corner) for each corner that is inside. Almost all samples have all four.
template <typename Use>
inline void for_each_corner(int inside, Use use) {
  if (inside == 15) {
    for (int corner = 0; corner < 4; ++corner) {
      use(corner);
    }
    return;
  }
  for (int corner = 0; corner < 4; ++corner) {
    if (inside >> corner & 1) {
      use(corner);
    }
  }
}
