// What leave_one_out.cpp works on: small matrices, and what a call's suspects share.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "products.h"
#include "uapfast/leave_one_out.h"

namespace uapfast::cpu::rounds {

constexpr int64_t Padded(int64_t columns) {
  return (columns + products::kWidth - 1) / products::kWidth * products::kWidth;
}

// Rows of doubles, padded with columns of zeros.
class Rows {
 public:
  Rows() = default;
  Rows(int64_t rows, int64_t columns)
      : width_(Padded(columns)), values_(static_cast<size_t>(rows * Padded(columns)), 0.0) {}

  double* operator[](int64_t row) { return values_.data() + row * width_; }
  const double* operator[](int64_t row) const { return values_.data() + row * width_; }
  int64_t Width() const { return width_; }

 private:
  int64_t width_ = 0;
  std::vector<double> values_;
};

inline double Dot(const double* a, const double* b, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += a[i] * b[i];
  return sum;
}

// The largest magnitude, `least` at the least.
inline double LargestOf(const double* values, int64_t n, double least) {
  for (int64_t i = 0; i < n; ++i) least = std::max(least, std::abs(values[i]));
  return least;
}

// Squared lengths to lengths; infinite where rounding is all that is left of the largest.
inline double Length(double square, double largest, double rounding) {
  return square > rounding * std::max(largest, 0.0) ? std::sqrt(square) : std::numeric_limits<double>::infinity();
}

// What does not depend on a suspect, made once a call.
struct Shared {
  explicit Shared(const LeaveOneOutArgs& a, const products::Kernels& k)
      : args(a), kernels(k), n(a.innocents), N(a.models + 1), Q(a.pieces * a.candidates),
        rounds(n + (a.alone ? 0 : 1)), pairs(a.pieces * (a.pieces + 1) / 2), less(1.0 / std::max<int64_t>(n - 1, 1)),
        last(a.origin[a.models]), vectors(n, n), parts(N, Q), part_inner(a.models, Q), part_along(n, Q),
        origin_total(static_cast<size_t>(a.models)), grand(static_cast<size_t>(a.views)) {
    for (int64_t i = 0; i < n; ++i) std::copy(a.vectors + i * n, a.vectors + (i + 1) * n, vectors[i]);
    for (int64_t q = 0; q < Q; ++q) {
      for (int64_t m = 0; m < N; ++m) parts[m][q] = a.parts[q * N + m];
    }
    Multiply(a.total, a.models, a.models, parts, a.models, part_inner);
    Multiply(a.along, a.models, n, parts, a.models, part_along);
    for (int64_t m = 0; m < a.models; ++m) origin_total[m] = Dot(a.total + m * a.models, a.origin, a.models);
    for (int64_t v = 0; v < a.views; ++v) {
      double sum = 0;
      for (int64_t i = 0; i < n; ++i) sum += a.mean[v * a.models + a.some[i]];
      grand[v] = sum / static_cast<double>(n);
    }
    scale = LargestOf(a.mean, a.views * a.models, 0.0);
  }

  // out (+)= left [rows, inner] right [inner, ...], rows of `left` a stride apart
  void Multiply(const double* left, int64_t stride, int64_t rows, const Rows& right, int64_t inner, Rows& out,
                bool add = false) const {
    kernels.multiply(left, stride, 1, rows, right[0], right.Width(), right.Width(), inner, out[0], out.Width(), add);
  }

  const LeaveOneOutArgs& args;
  const products::Kernels& kernels;
  const int64_t n, N, Q, rounds, pairs;
  const double less, last;
  Rows vectors, parts, part_inner, part_along;
  std::vector<double> origin_total, grand;
  double scale = 0;  // of the products
};

// A vector of a round: so much of the round's own model, of the origin, of the suspect.
struct Mix {
  double model, origin, suspect;
};

struct Change {
  std::vector<double> sign;
  Rows inner, taken, shadow;
  std::vector<double> pull;  // [rounds][changes before]
};

inline Status Checked(const LeaveOneOutArgs& args) {
  UAPFAST_CHECK(args.suspects >= 0 && args.views >= 1 && args.models >= 1 && args.innocents >= 1 && args.pieces >= 1 &&
                    args.candidates >= 1,
                "leave_one_out: sizes must be >= 1, and suspects >= 0");
  if (args.suspects == 0) return Status::Ok();
  for (const void* table : {static_cast<const void*>(args.some), static_cast<const void*>(args.out)}) {
    UAPFAST_CHECK(table, "leave_one_out: buffers must not be null");
  }
  for (const double* table : {args.products, args.mean, args.total, args.values, args.vectors, args.along, args.squares,
                              args.middle, args.back, args.middle_back, args.seen, args.middle_seen, args.parts,
                              args.weights, args.origin}) {
    UAPFAST_CHECK(table, "leave_one_out: buffers must not be null");
  }
  for (int64_t i = 0; i < args.innocents; ++i) {
    UAPFAST_CHECK(args.some[i] >= 0 && args.some[i] < args.models, "leave_one_out: innocents must be models");
  }
  return Status::Ok();
}

}  // namespace uapfast::cpu::rounds
