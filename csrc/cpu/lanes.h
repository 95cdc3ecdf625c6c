// Inner loops that the compiler vectorises: lanes.inc, compiled once per SIMD level. No operation is
// reordered or contracted, so every level returns the same bits.
#pragma once

#include <cstdint>

#include "uapfast/simd.h"

namespace uapfast::lanes {

constexpr int kRows = 16;  // rows of answers worked on side by side

struct Kernels {
  // out_i = (clamp(x_i [+ t v_i]) - mean) * scale; v may be null; bytes are divided by 255 first
  void (*query_bytes)(const uint8_t* x, const float* v, int64_t n, float t, float mean, float scale,
                      float* out);
  void (*query_floats)(const float* x, const float* v, int64_t n, float t, float mean, float scale,
                       float* out);
  // All below: kRows rows side by side, x [classes][kRows].
  // x = log(max(x, least)); NaN and infinities stay
  void (*logs)(float* x, int64_t classes, float least);
  // Of the softmax of y = t x + b: high += the largest, gain += that times (x where y is largest, minus the mean of
  // x), each row in its lane and times `live` (0 or 1)
  void (*heat)(const float* x, int64_t classes, float t, const float* b, const float* live, double* high,
               double* gain);
  // mass [classes][kRows] += that softmax; e: [classes][kRows] of scratch
  void (*shift)(const float* x, int64_t classes, float t, const float* b, const float* live, float* e, double* mass);
  // out = r / sqrt(|r|^2 + clip^2), r = max(that softmax to the power, least) - origin, origin [classes][kRows]; an
  // infinite clip: r itself
  void (*roots)(const float* x, int64_t classes, float t, const float* b, float power, float least, float clip,
                const float* origin, float* out);
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

}  // namespace uapfast::lanes
