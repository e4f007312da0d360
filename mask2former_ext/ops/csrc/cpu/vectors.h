// Vectors of one cache line in the compiler's own extension: it splits them into what the target has.
// Included once for each instruction set, inside its namespace and after its target pragma; no include guard for that.

template <typename T>
struct VectorOf;

template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(64)));
};

template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(64)));
};

template <typename T>
using Vector = typename VectorOf<T>::type;

template <typename T>
constexpr int kLanes = 64 / sizeof(T);

// As many integers of the same size; what comparisons of vectors give, -1 for true.
template <typename T>
using Integer = std::conditional_t<std::is_same_v<T, double>, int64_t, int32_t>;

template <>
struct VectorOf<int32_t> {
  typedef int32_t type __attribute__((vector_size(64)));
};

template <>
struct VectorOf<int64_t> {
  typedef int64_t type __attribute__((vector_size(64)));
};

template <typename T>
using Integers = Vector<Integer<T>>;

template <typename T>
inline Integers<T> floor_to_integers(const Vector<T>& vector) {
  const Integers<T> towards_zero = __builtin_convertvector(vector, Integers<T>);
  return towards_zero + (__builtin_convertvector(towards_zero, Vector<T>) > vector);
}

// Sums of half precisions are float.
template <typename T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <typename T>
inline Vector<T> load(const T* source) {
  Vector<T> result;
  std::memcpy(&result, source, sizeof(result));
  return result;
}

typedef uint16_t Bits16 __attribute__((vector_size(32)));
typedef uint32_t Bits32 __attribute__((vector_size(64)));

inline Vector<float> load(const c10::BFloat16* source) {
  Bits16 bits;
  std::memcpy(&bits, source, sizeof(bits));
  const Bits32 wide = __builtin_convertvector(bits, Bits32) << 16;
  Vector<float> result;
  std::memcpy(&result, &wide, sizeof(result));
  return result;
}

inline Vector<float> load(const c10::Half* source) {
  Vector<float> result;
#if defined(CAPABILITY_HAS_AVX512)
  const __m512 floats = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source)));
  std::memcpy(&result, &floats, sizeof(result));
#elif defined(CAPABILITY_HAS_F16C)
  for (int part = 0; part < 2; ++part) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(source) + part);
    const __m256 floats = _mm256_cvtph_ps(bits);
    std::memcpy(reinterpret_cast<char*>(&result) + 32 * part, &floats, sizeof(floats));
  }
#else
  for (int i = 0; i < kLanes<float>; ++i) {
    result[i] = static_cast<float>(source[i]);
  }
#endif
  return result;
}

template <typename T>
inline void store(T* target, const Vector<T>& vector) {
  std::memcpy(target, &vector, sizeof(vector));
}

// To the nearest number, of two to the even one.
inline void store(c10::BFloat16* target, const Vector<float>& vector) {
  Bits32 bits;
  std::memcpy(&bits, &vector, sizeof(bits));
  const Bits32 rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  const Bits32 quiet_nan = Bits32{} + 0x7fc0;  // rounding might carry a NaN on to infinity
  const Bits16 narrow = __builtin_convertvector(vector == vector ? rounded : quiet_nan, Bits16);
  std::memcpy(target, &narrow, sizeof(narrow));
}

inline void store(c10::Half* target, const Vector<float>& vector) {
#if defined(CAPABILITY_HAS_AVX512)
  __m512 floats;
  std::memcpy(&floats, &vector, sizeof(floats));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), _mm512_cvtps_ph(floats, _MM_FROUND_TO_NEAREST_INT));
#elif defined(CAPABILITY_HAS_F16C)
  for (int part = 0; part < 2; ++part) {
    __m256 floats;
    std::memcpy(&floats, reinterpret_cast<const char*>(&vector) + 32 * part, sizeof(floats));
    const __m128i bits = _mm256_cvtps_ph(floats, _MM_FROUND_TO_NEAREST_INT);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(target) + part, bits);
  }
#else
  for (int i = 0; i < kLanes<float>; ++i) {
    target[i] = static_cast<c10::Half>(vector[i]);
  }
#endif
}

template <typename T, typename A>
inline void convert(const A* source, int64_t count, T* target) {
  int64_t i = 0;
  for (; i + kLanes<A> <= count; i += kLanes<A>) {
    store(target + i, load(source + i));
  }
  for (; i < count; ++i) {
    target[i] = static_cast<T>(source[i]);
  }
}

// By halves, because a sum in order would wait for each addition.
inline float sum(const Vector<float>& vector) {
  typedef float Half __attribute__((vector_size(32)));
  typedef float Quarter __attribute__((vector_size(16)));
  Half halves[2];
  std::memcpy(halves, &vector, sizeof(halves));
  halves[0] += halves[1];
  Quarter quarters[2];
  std::memcpy(quarters, &halves[0], sizeof(quarters));
  quarters[0] += quarters[1];
  return (quarters[0][0] + quarters[0][2]) + (quarters[0][1] + quarters[0][3]);
}

inline double sum(const Vector<double>& vector) {
  typedef double Half __attribute__((vector_size(32)));
  Half halves[2];
  std::memcpy(halves, &vector, sizeof(halves));
  halves[0] += halves[1];
  return (halves[0][0] + halves[0][2]) + (halves[0][1] + halves[0][3]);
}
