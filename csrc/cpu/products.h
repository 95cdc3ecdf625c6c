// Small matrix products in double, per SIMD level: products.inc, compiled once per level. Every element of a result
// is one sum in one order, so tiles and vector widths change no bit.
#pragma once

#include <cstdint>

#include "uapfast/simd.h"

namespace uapfast::products {

constexpr int kWidth = 8;   // columns of `multiply` come in multiples of this
constexpr int kLanes = 16;  // of a dot product: element i goes to lane i % kLanes, and lanes are added in order
constexpr int kRows = 8;    // rows that `dots` takes at once

struct Kernels {
  // c[i][j] (+)= sum over p < k of a[i * row_stride + p * step] * b[p * ldb + j], i < m, j < n; n a multiple of kWidth.
  // The scalar level has no fused multiply-add and rounds twice where the others round once.
  void (*multiply)(const double* a, int64_t row_stride, int64_t step, int64_t m, const double* b, int64_t ldb,
                   int64_t n, int64_t k, double* c, int64_t ldc, bool add);
  // out[i * stride + j] = a[i] . b[j] for i < m <= kRows, j < n; rows of `size`, `a_step` and `b_step` apart.
  // Products of float32 are exact in double: all levels give the same bits.
  void (*dots)(const float* a, int64_t a_step, int64_t m, const float* b, int64_t b_step, int64_t n, int64_t size,
               double* out, int64_t stride);
};

const Kernels& Scalar();
#if defined(UAPFAST_X86)
const Kernels& Avx2();
const Kernels& Avx512();
#endif

inline const Kernels& For(Level level) {
#if defined(UAPFAST_X86)
  if (level == Level::kAvx512) return Avx512();
  if (level == Level::kAvx2) return Avx2();
#endif
  (void)level;
  return Scalar();
}

}  // namespace uapfast::products
