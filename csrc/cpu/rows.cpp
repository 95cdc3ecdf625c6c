// The scalar truth of rows.h, and the choice of a table.
#include "rows.h"

#include <cmath>

namespace uapfast::rows {
namespace {

double Reduce(double* lane) {
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int j = 0; j < width; ++j) lane[j] += lane[j + width];
  }
  return lane[0];
}

// Sum of term(i) over 0..n in the lane order of rows.h.
template <typename Term>
inline double LaneSum(int64_t n, const Term& term) {
  double lane[kLanes] = {0};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) lane[j] += term(i + j);
  }
  for (int j = 0; i < n; ++i, ++j) lane[j] += term(i);
  return Reduce(lane);
}

template <typename T>
double AbsSum(const T* x, int64_t n, T* max) {
  T top = 0;
  for (int64_t i = 0; i < n; ++i) top = std::fabs(x[i]) > top ? std::fabs(x[i]) : top;
  *max = top;
  return LaneSum(n, [x](int64_t i) { return static_cast<double>(std::fabs(x[i])); });
}

template <typename T>
double Above(const T* x, int64_t n, double top, double tau, int64_t* count) {
  int64_t found = 0;
  for (int64_t i = 0; i < n; ++i) found += static_cast<double>(std::fabs(x[i])) - top > tau;
  *count = found;
  return LaneSum(n, [x, top, tau](int64_t i) {
    const double y = static_cast<double>(std::fabs(x[i])) - top;
    return y > tau ? y : 0.0;
  });
}

template <typename T>
double SquareSum(const T* x, int64_t n) {
  return LaneSum(n, [x](int64_t i) { return static_cast<double>(x[i]) * static_cast<double>(x[i]); });
}

template <typename T>
double DiffAbsSum(const T* a, const T* b, int64_t n) {
  return LaneSum(n, [a, b](int64_t i) { return static_cast<double>(std::fabs(a[i] - b[i])); });
}

template <typename T>
double DiffSquareSum(const T* a, const T* b, int64_t n) {
  return LaneSum(n, [a, b](int64_t i) {
    const double d = static_cast<double>(a[i] - b[i]);
    return d * d;
  });
}

template <bool kSquare>
double QuickDiffSum(const float* a, const float* b, int64_t n) {
  double lane[kLanes] = {0};
  for (; n > 0; n -= kQuickRun, a += kQuickRun, b += kQuickRun) {
    float part[kQuickLanes] = {0};
    const auto add = [&part](int j, float d) { part[j] += kSquare ? d * d : std::fabs(d); };
    const int64_t end = n < kQuickRun ? n : kQuickRun;
    int64_t i = 0;
    for (; i + kQuickLanes <= end; i += kQuickLanes) {
      for (int j = 0; j < kQuickLanes; ++j) add(j, a[i + j] - b[i + j]);
    }
    for (int j = 0; i < end; ++i, ++j) add(j, a[i] - b[i]);
    for (int j = 0; j < kQuickLanes; ++j) lane[j % kLanes] += static_cast<double>(part[j]);
  }
  return Reduce(lane);
}

template <typename T>
void Clamp(const T* x, int64_t n, T bound, T* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = x[i] > bound ? bound : (x[i] < -bound ? -bound : x[i]);
}

template <typename T>
void Scale(const T* x, int64_t n, double factor, T* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<T>(static_cast<double>(x[i]) * factor);
}

template <typename T>
void Soft(const T* x, int64_t n, double top, double tau, T* out) {
  for (int64_t i = 0; i < n; ++i) {
    const double rest = (static_cast<double>(std::fabs(x[i])) - top) - tau;
    out[i] = std::copysign(static_cast<T>(rest > 0 ? rest : 0), x[i]);
  }
}

template <typename T>
void DiffScale(const T* a, const T* b, int64_t n, double factor, T* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = static_cast<T>(static_cast<double>(a[i] - b[i]) * factor);
}

template <typename T>
void QuickDiffScale(const T* a, const T* b, int64_t n, T factor, T* out) {
  for (int64_t i = 0; i < n; ++i) out[i] = (a[i] - b[i]) * factor;
}

template <typename T>
void DiffSign(const T* a, const T* b, int64_t n, double factor, T* out) {
  const T plus = static_cast<T>(factor);
  for (int64_t i = 0; i < n; ++i) {
    const T d = a[i] - b[i];
    out[i] = d > 0 ? plus : (d < 0 ? -plus : T{0});
  }
}

}  // namespace

template <>
const Kernels<float>& ScalarKernels<float>() {
  using T = float;
  static constexpr Kernels<T> table = {
      AbsSum<T>,           Above<T>,           SquareSum<T>,     DiffAbsSum<T>, DiffSquareSum<T>,
      QuickDiffSum<false>, QuickDiffSum<true>, Clamp<T>,         Scale<T>,      Soft<T>,
      DiffScale<T>,        DiffSign<T>,        QuickDiffScale<T>};
  return table;
}

template <>
const Kernels<double>& ScalarKernels<double>() {
  using T = double;  // nothing is quicker there
  static constexpr Kernels<T> table = {
      AbsSum<T>, Above<T>, SquareSum<T>, DiffAbsSum<T>, DiffSquareSum<T>, DiffAbsSum<T>,    DiffSquareSum<T>,
      Clamp<T>,  Scale<T>, Soft<T>,      DiffScale<T>,  DiffSign<T>,      QuickDiffScale<T>};
  return table;
}

template <>
const Kernels<double>& For<double>(Level) {
  return ScalarKernels<double>();
}

template <>
const Kernels<float>& For<float>(Level level) {
#if defined(UAPFAST_X86)
  if (level != Level::kScalar) return Avx2Kernels();
#endif
  (void)level;
  return ScalarKernels<float>();
}

}  // namespace uapfast::rows
