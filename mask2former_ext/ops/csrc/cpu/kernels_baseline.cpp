// The kernels for any processor.

#include "kernels.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <type_traits>

#define CAPABILITY baseline
#include "kernels_impl.h"
