// Kernels on one contiguous row, per SIMD level, shared by the projections and the DeepFool step.
//
// Sums are defined, not just computed: element i goes to double lane i % 16, and the lanes are added
// pairwise (16 -> 8 -> 4 -> 2 -> 1). Squares of float32 differences are exact in double. Every level
// therefore returns the same bits, and float32 rows neither overflow nor underflow.
#pragma once

#include <cstdint>

#include "uapfast/simd.h"

namespace uapfast::rows {

constexpr int kLanes = 16;
constexpr int kQuickLanes = 64;      // of the quick sums: as many as hide an addition's latency
constexpr int64_t kQuickRun = 1024;  // elements that they add in T

template <typename T>
struct Kernels {
  // sum |x_i|, and max |x_i| (meaningless if the sum is NaN)
  double (*abs_sum)(const T* x, int64_t n, T* max);
  // sum of y_i = |x_i| - top over y_i > tau, in double; how many there are
  double (*above)(const T* x, int64_t n, double top, double tau, int64_t* count);
  // sum x_i^2
  double (*square_sum)(const T* x, int64_t n);
  // sum |a_i - b_i|; sum (a_i - b_i)^2: the difference rounded to T
  double (*diff_abs_sum)(const T* a, const T* b, int64_t n);
  double (*diff_square_sum)(const T* a, const T* b, int64_t n);
  // The same in T where it is float: element i of each run of kQuickRun goes to lane i % kQuickLanes, 16
  // elements a lane, and at the end of the run lane j to double lane j % 16. Twice the speed, an error of
  // some 1e-7; not finite where a lane overflows, too small where terms are below about 1e-38.
  double (*quick_diff_abs_sum)(const T* a, const T* b, int64_t n);
  double (*quick_diff_square_sum)(const T* a, const T* b, int64_t n);
  // out_i = min(max(x_i, -bound), bound); NaN stays
  void (*clamp)(const T* x, int64_t n, T bound, T* out);
  // out_i = x_i * factor, in double, rounded once
  void (*scale)(const T* x, int64_t n, double factor, T* out);
  // out_i = sign(x_i) * max((|x_i| - top) - tau, 0), in double, rounded once
  void (*soft)(const T* x, int64_t n, double top, double tau, T* out);
  // out_i = (a_i - b_i) * factor; out_i = sign(a_i - b_i) * factor, sign(0) = 0
  void (*diff_scale)(const T* a, const T* b, int64_t n, double factor, T* out);
  void (*diff_sign)(const T* a, const T* b, int64_t n, double factor, T* out);
  // out_i = (a_i - b_i) * factor in T: one rounding more
  void (*quick_diff_scale)(const T* a, const T* b, int64_t n, T factor, T* out);
};

template <typename T>
const Kernels<T>& ScalarKernels();
#if defined(UAPFAST_X86)
const Kernels<float>& Avx2Kernels();
#endif

// Table of a level. There is no AVX-512 table: these loops wait for memory, see docs/kernels.md.
template <typename T>
const Kernels<T>& For(Level level);

}  // namespace uapfast::rows
