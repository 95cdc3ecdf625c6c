// products.h for any machine: pairs of doubles, which every x86-64 and arm64 has, through the compiler.
#include "products.h"

namespace uapfast::products {
namespace {

typedef double Vec __attribute__((vector_size(16)));
constexpr int kWide = 2, kTileRows = 4, kTileVecs = 2;

inline Vec Load(const double* x) { return Vec{x[0], x[1]}; }
inline Vec Load(const float* x) { return Vec{static_cast<double>(x[0]), static_cast<double>(x[1])}; }
inline void Store(double* at, const Vec& x) {
  at[0] = x[0];
  at[1] = x[1];
}
inline Vec Spread(double x) { return Vec{x, x}; }
inline Vec MulAdd(const Vec& a, const Vec& b, const Vec& c) { return a * b + c; }

#include "products.inc"

}  // namespace

const Kernels& Scalar() { return kTable; }

}  // namespace uapfast::products
