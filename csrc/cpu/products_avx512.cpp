// products.h with AVX-512: 8 x 3 sums, 3 columns and 1 row fill 28 of the 32 registers.
#include <immintrin.h>

#include "products.h"

namespace uapfast::products {
namespace {

using Vec = __m512d;
constexpr int kWide = 8, kTileRows = 8, kTileVecs = 3;

inline Vec Load(const double* x) { return _mm512_loadu_pd(x); }
// Masked by all ones: GCC 12 takes the source of the plain one for uninitialized.
inline Vec Load(const float* x) { return _mm512_maskz_cvtps_pd(0xFF, _mm256_loadu_ps(x)); }
inline void Store(double* at, const Vec& x) { _mm512_storeu_pd(at, x); }
inline Vec Spread(double x) { return _mm512_set1_pd(x); }
inline Vec MulAdd(const Vec& a, const Vec& b, const Vec& c) { return _mm512_fmadd_pd(a, b, c); }

#include "products.inc"

}  // namespace

const Kernels& Avx512() { return kTable; }

}  // namespace uapfast::products
