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

// Sums of half precisions are float.
template <typename T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

inline Vector<float> load(const float* source) {
  Vector<float> result;
  std::memcpy(&result, source, sizeof(result));
  return result;
}

inline Vector<double> load(const double* source) {
  Vector<double> result;
  std::memcpy(&result, source, sizeof(result));
  return result;
}

inline Vector<float> load(const c10::BFloat16* source) {
  typedef uint16_t Bits16 __attribute__((vector_size(32)));
  typedef uint32_t Bits32 __attribute__((vector_size(64)));
  Bits16 bits;
  std::memcpy(&bits, source, sizeof(bits));
  const Bits32 wide = __builtin_convertvector(bits, Bits32) << 16;
  Vector<float> result;
  std::memcpy(&result, &wide, sizeof(result));
  return result;
}

inline Vector<float> load(const c10::Half* source) {
  Vector<float> result;
#ifdef CAPABILITY_HAS_F16C
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

inline void store(c10::BFloat16* target, const Vector<float>& vector) {
  for (int i = 0; i < kLanes<float>; ++i) {
    target[i] = static_cast<c10::BFloat16>(vector[i]);
  }
}

inline void store(c10::Half* target, const Vector<float>& vector) {
  for (int i = 0; i < kLanes<float>; ++i) {
    target[i] = static_cast<c10::Half>(vector[i]);
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
