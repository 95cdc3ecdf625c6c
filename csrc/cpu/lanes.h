// Inner loops that the compiler vectorises: lanes.inc, compiled once per SIMD level. No operation is
// reordered or contracted, so every level returns the same bits.
#pragma once

#include <cstdint>

#include "uapfast/simd.h"

namespace uapfast::lanes {

constexpr int kRows = 16;   // rows of logits worked on side by side
constexpr int kChunk = 32;  // classes summed in float32 before the sum goes to double

struct Kernels {
  // out_i = (clamp(x_i [+ t v_i]) - mean) * scale; v may be null; bytes are divided by 255 first
  void (*query_bytes)(const uint8_t* x, const float* v, int64_t n, float t, float mean, float scale,
                      float* out);
  void (*query_floats)(const float* x, const float* v, int64_t n, float t, float mean, float scale,
                       float* out);
  // x: [classes][kRows]. best, second: the largest and the second largest; label: the first of the best;
  // sum: of exp(x - best), NaN if the row has no softmax
  void (*row_stats)(const float* x, int64_t classes, float* best, float* second, int32_t* label, double* sum);
  // x: [classes][kRows] logarithms. e: exp(y - max y) of y = t x + b, [classes][kRows]; high: the largest softmax
  // of y; away: x where y is largest, minus the mean of x by that softmax
  void (*bend)(const float* x, int64_t classes, float t, const float* b, float* e, float* high, float* away);
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
