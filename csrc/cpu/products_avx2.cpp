// products.h with AVX2 and FMA: 4 x 3 sums, 3 columns and 1 row fill the 16 registers.
#include <immintrin.h>

#include "products.h"

namespace uapfast::products {
namespace {

using Vec = __m256d;
constexpr int kWide = 4, kTileRows = 4, kTileVecs = 3;

inline Vec Load(const double* x) { return _mm256_loadu_pd(x); }
inline Vec Load(const float* x) { return _mm256_cvtps_pd(_mm_loadu_ps(x)); }
inline void Store(double* at, const Vec& x) { _mm256_storeu_pd(at, x); }
inline Vec Spread(double x) { return _mm256_set1_pd(x); }
inline Vec MulAdd(const Vec& a, const Vec& b, const Vec& c) { return _mm256_fmadd_pd(a, b, c); }

#include "products.inc"

}  // namespace

const Kernels& Avx2() { return kTable; }

}  // namespace uapfast::products
