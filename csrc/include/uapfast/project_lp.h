// The nearest points, in the Euclidean sense, of an Lp ball around 0: one row, one projection.
//
// For each row x of `source` ([rows, cols], row stride `source_stride`), `target` gets
//   Linf: min(max(x_i, -e), e), e the largest T not above eps; NaN stays where it is
//   L2:   x if its norm is <= eps, else x * (eps (1 - 2u) / norm)
//   L1:   x if its norm is <= eps, else sign(x_i) max(|x_i| - theta, 0), the norm being eps (1 - 2u)
// with u the unit roundoff of T: the result lies inside the ball in exact arithmetic, and projecting
// it again changes nothing. L1 and L2: a row with a NaN or an infinity becomes NaN.
// L1 after Michelot (1986), on |x| - max|x|, so that nothing cancels.
//
// source, target: may be the same buffer. eps: finite, >= 0. Same bits for any number of threads and,
// on the CPU, for any level.
#pragma once

#include <cstdint>

#include "uapfast/dtype.h"
#include "uapfast/status.h"

namespace uapfast {

struct ProjectLpArgs {
  const void* source;
  void* target;
  DType dtype;                                       // float32, float64; CUDA: also float16, bfloat16
  int64_t rows, cols, source_stride, target_stride;  // in elements
  double eps;
  Norm norm;
};

namespace cpu {
Status ProjectLp(const ProjectLpArgs& args, int threads, int level);
}
namespace cuda {
Status ProjectLp(const ProjectLpArgs& args, int device, void* stream);
}

}  // namespace uapfast
