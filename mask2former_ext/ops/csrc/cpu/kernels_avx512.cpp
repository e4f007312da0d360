// The kernels for x86-64 with AVX-512.

#include "kernels.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#ifdef MASK2FORMER_EXT_X86_KERNELS
#include <immintrin.h>

#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,prefer-vector-width=512")
// By name, because the compiler's own macro does not follow the pragma.
#define CAPABILITY_HAS_AVX512
#define CAPABILITY avx512
#include "kernels_impl.h"
#endif
