// rows.h with AVX2. No FMA: d * d is exact in double, and the rest must give the bits of rows.cpp.
// Nothing inline is shared with other files: the linker could keep the AVX2 copy for everyone.
#include <immintrin.h>

#include "rows.h"

namespace uapfast::rows {
namespace {

struct Lanes {
  __m256d v[4];
};

inline Lanes Zero() {
  return {{_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd()}};
}

inline __m256d Low(__m256 x) { return _mm256_cvtps_pd(_mm256_castps256_ps128(x)); }
inline __m256d High(__m256 x) { return _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1)); }

template <bool kSquare>
inline void Add(Lanes& lanes, int half, __m256 x) {
  __m256d low = Low(x), high = High(x);
  if (kSquare) {
    low = _mm256_mul_pd(low, low);
    high = _mm256_mul_pd(high, high);
  }
  lanes.v[2 * half] = _mm256_add_pd(lanes.v[2 * half], low);
  lanes.v[2 * half + 1] = _mm256_add_pd(lanes.v[2 * half + 1], high);
}

inline double Reduce(const Lanes& lanes) {
  const __m256d low = _mm256_add_pd(lanes.v[0], lanes.v[2]);   // lanes 0..3 + 8..11
  const __m256d high = _mm256_add_pd(lanes.v[1], lanes.v[3]);  // lanes 4..7 + 12..15
  const __m256d four = _mm256_add_pd(low, high);
  const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
  return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}

inline __m256 Abs(__m256 x) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x); }

// The last n % 16 elements, zeros behind them: adding 0.0 changes no lane.
inline void Tail(const float* x, int64_t n, float* sixteen) {
  for (int64_t i = 0; i < kLanes; ++i) sixteen[i] = i < n ? x[i] : 0.0f;
}

double AbsSum(const float* x, int64_t n, float* max) {
  Lanes lanes = Zero();
  __m256 top = _mm256_setzero_ps();
  alignas(32) float rest[kLanes];
  for (int64_t i = 0; i < n; i += kLanes) {
    const float* at = x + i;
    if (n - i < kLanes) {
      Tail(at, n - i, rest);
      at = rest;
    }
    const __m256 first = Abs(_mm256_loadu_ps(at)), second = Abs(_mm256_loadu_ps(at + 8));
    Add<false>(lanes, 0, first);
    Add<false>(lanes, 1, second);
    top = _mm256_max_ps(_mm256_max_ps(first, second), top);
  }
  alignas(32) float tops[8];
  _mm256_store_ps(tops, top);
  float best = 0;
  for (float value : tops) best = value > best ? value : best;
  *max = best;
  return Reduce(lanes);
}

double Above(const float* x, int64_t n, double top, double tau, int64_t* count) {
  Lanes sums = Zero(), counts = Zero();
  const __m256d t = _mm256_set1_pd(top), u = _mm256_set1_pd(tau), one = _mm256_set1_pd(1.0);
  const auto add = [&](int at, __m256d size) {
    const __m256d y = _mm256_sub_pd(size, t);
    const __m256d mask = _mm256_cmp_pd(y, u, _CMP_GT_OQ);
    sums.v[at] = _mm256_add_pd(sums.v[at], _mm256_and_pd(mask, y));
    counts.v[at] = _mm256_add_pd(counts.v[at], _mm256_and_pd(mask, one));
  };
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const __m256 first = Abs(_mm256_loadu_ps(x + i)), second = Abs(_mm256_loadu_ps(x + i + 8));
    add(0, Low(first));
    add(1, High(first));
    add(2, Low(second));
    add(3, High(second));
  }
  int64_t found = static_cast<int64_t>(Reduce(counts));
  alignas(32) double rest[kLanes];
  for (int j = 0; j < 4; ++j) _mm256_store_pd(rest + 4 * j, sums.v[j]);
  for (int j = 0; i < n; ++i, ++j) {
    const double y = static_cast<double>(__builtin_fabsf(x[i])) - top;
    found += y > tau;
    rest[j] += y > tau ? y : 0.0;
  }
  for (int j = 0; j < 4; ++j) sums.v[j] = _mm256_load_pd(rest + 4 * j);
  *count = found;
  return Reduce(sums);
}

template <bool kSquare, bool kDiff>
double Sum(const float* a, const float* b, int64_t n) {
  Lanes lanes = Zero();
  alignas(32) float rest_a[kLanes], rest_b[kLanes];
  for (int64_t i = 0; i < n; i += kLanes) {
    const float *at = a + i, *bt = kDiff ? b + i : nullptr;
    if (n - i < kLanes) {
      Tail(at, n - i, rest_a);
      at = rest_a;
      if (kDiff) {
        Tail(bt, n - i, rest_b);
        bt = rest_b;
      }
    }
    __m256 first = _mm256_loadu_ps(at), second = _mm256_loadu_ps(at + 8);
    if (kDiff) {
      first = _mm256_sub_ps(first, _mm256_loadu_ps(bt));
      second = _mm256_sub_ps(second, _mm256_loadu_ps(bt + 8));
    }
    Add<kSquare>(lanes, 0, kSquare ? first : Abs(first));
    Add<kSquare>(lanes, 1, kSquare ? second : Abs(second));
  }
  return Reduce(lanes);
}

double SquareSum(const float* x, int64_t n) { return Sum<true, false>(x, nullptr, n); }
double DiffAbsSum(const float* a, const float* b, int64_t n) { return Sum<false, true>(a, b, n); }
double DiffSquareSum(const float* a, const float* b, int64_t n) { return Sum<true, true>(a, b, n); }

// Eight of the elements at x, of which only the first n exist (n may be anything); zeros behind them.
inline __m256 Masked(const float* x, int64_t n) {
  alignas(32) static constexpr int32_t kOnesThenZeros[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
  const int64_t from = 8 - (n < 0 ? 0 : (n > 8 ? 8 : n));
  return _mm256_maskload_ps(x, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kOnesThenZeros + from)));
}

template <bool kSquare>
double QuickDiffSum(const float* a, const float* b, int64_t n) {
  constexpr int kParts = kQuickLanes / 8;
  Lanes lanes = Zero();
  for (; n > 0; n -= kQuickRun, a += kQuickRun, b += kQuickRun) {
    __m256 part[kParts];
    for (__m256& p : part) p = _mm256_setzero_ps();
    const auto add = [&part](int j, __m256 x, __m256 y) {
      const __m256 d = _mm256_sub_ps(x, y);
      part[j] = _mm256_add_ps(part[j], kSquare ? _mm256_mul_ps(d, d) : Abs(d));
    };
    const int64_t end = n < kQuickRun ? n : kQuickRun;
    int64_t i = 0;
    for (; i + kQuickLanes <= end; i += kQuickLanes) {
      for (int j = 0; j < kParts; ++j) add(j, _mm256_loadu_ps(a + i + 8 * j), _mm256_loadu_ps(b + i + 8 * j));
    }
    for (int j = 0; j < kParts; ++j) {
      if (i + 8 * j >= end) break;
      add(j, Masked(a + i + 8 * j, end - i - 8 * j), Masked(b + i + 8 * j, end - i - 8 * j));
    }
    for (int j = 0; j < kParts; ++j) Add<false>(lanes, j % 2, part[j]);
  }
  return Reduce(lanes);
}

// out[0..n) = map(eight of a, eight of b); b may be null.
template <typename Map>
inline void Each(const float* a, const float* b, int64_t n, float* out, const Map& map) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    _mm256_storeu_ps(out + i, map(_mm256_loadu_ps(a + i), b ? _mm256_loadu_ps(b + i) : _mm256_setzero_ps()));
  }
  if (i == n) return;
  alignas(32) float rest[3][8] = {{0}};
  for (int64_t j = i; j < n; ++j) {
    rest[0][j - i] = a[j];
    if (b) rest[1][j - i] = b[j];
  }
  _mm256_store_ps(rest[2], map(_mm256_load_ps(rest[0]), _mm256_load_ps(rest[1])));
  for (int64_t j = i; j < n; ++j) out[j] = rest[2][j - i];
}

inline __m256 Join(__m256d low, __m256d high) {
  return _mm256_set_m128(_mm256_cvtpd_ps(high), _mm256_cvtpd_ps(low));
}

void Clamp(const float* x, int64_t n, float bound, float* out) {
  const __m256 high = _mm256_set1_ps(bound), low = _mm256_set1_ps(-bound);
  // min and max return their second operand where one is NaN: x, so NaN stays.
  Each(x, nullptr, n, out, [=](__m256 a, __m256) { return _mm256_min_ps(high, _mm256_max_ps(low, a)); });
}

void Scale(const float* x, int64_t n, double factor, float* out) {
  const __m256d f = _mm256_set1_pd(factor);
  Each(x, nullptr, n, out,
       [=](__m256 a, __m256) { return Join(_mm256_mul_pd(Low(a), f), _mm256_mul_pd(High(a), f)); });
}

void Soft(const float* x, int64_t n, double top, double tau, float* out) {
  const __m256d t = _mm256_set1_pd(top), u = _mm256_set1_pd(tau), zero = _mm256_setzero_pd();
  const __m256 sign = _mm256_set1_ps(-0.0f);
  Each(x, nullptr, n, out, [=](__m256 a, __m256) {
    const __m256 size = Abs(a);
    const __m256d low = _mm256_max_pd(_mm256_sub_pd(_mm256_sub_pd(Low(size), t), u), zero);
    const __m256d high = _mm256_max_pd(_mm256_sub_pd(_mm256_sub_pd(High(size), t), u), zero);
    return _mm256_or_ps(Join(low, high), _mm256_and_ps(sign, a));
  });
}

void DiffScale(const float* a, const float* b, int64_t n, double factor, float* out) {
  const __m256d f = _mm256_set1_pd(factor);
  Each(a, b, n, out, [=](__m256 x, __m256 y) {
    const __m256 d = _mm256_sub_ps(x, y);
    return Join(_mm256_mul_pd(Low(d), f), _mm256_mul_pd(High(d), f));
  });
}

void QuickDiffScale(const float* a, const float* b, int64_t n, float factor, float* out) {
  const __m256 f = _mm256_set1_ps(factor);
  Each(a, b, n, out, [=](__m256 x, __m256 y) { return _mm256_mul_ps(_mm256_sub_ps(x, y), f); });
}

void DiffSign(const float* a, const float* b, int64_t n, double factor, float* out) {
  const __m256 plus = _mm256_set1_ps(static_cast<float>(factor)), zero = _mm256_setzero_ps();
  const __m256 minus = _mm256_xor_ps(plus, _mm256_set1_ps(-0.0f));
  Each(a, b, n, out, [=](__m256 x, __m256 y) {
    const __m256 d = _mm256_sub_ps(x, y);
    return _mm256_or_ps(_mm256_and_ps(_mm256_cmp_ps(d, zero, _CMP_GT_OQ), plus),
                        _mm256_and_ps(_mm256_cmp_ps(d, zero, _CMP_LT_OQ), minus));
  });
}

}  // namespace

const Kernels<float>& Avx2Kernels() {
  static constexpr Kernels<float> table = {
      AbsSum, Above, SquareSum, DiffAbsSum, DiffSquareSum, QuickDiffSum<false>, QuickDiffSum<true>,
      Clamp,  Scale, Soft,      DiffScale,  DiffSign,      QuickDiffScale};
  return table;
}

}  // namespace uapfast::rows
