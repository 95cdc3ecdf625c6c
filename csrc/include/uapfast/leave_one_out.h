// Leave-one-out scores of suspects before a pool; see uapfast/ops/leave_one_out.py, which says what is computed.
//
// All double but `some`, contiguous. M models, I of them innocents, N = M + 1, S rounds (I, and one more unless
// `alone`), Q = pieces * candidates. Same bits for any number of threads and any company, and at the levels avx2 and
// avx512.
#pragma once

#include <cstdint>

#include "uapfast/status.h"

namespace uapfast {

struct LeaveOneOutArgs {
  const double* products;     // [suspects, views, N]
  const int64_t* some;        // [I] rows of the innocents
  const double* mean;         // [views, M] of a model's products with the innocents
  const double* total;        // [M, M] products over all views, from the innocents' mean, as all below
  const double* values;       // [I] squared lengths of the innocents' principal directions
  const double* vectors;      // [I, I] coefficients of the directions, a column each
  const double* along;        // [I, M] the models along the directions, times lengths
  const double* squares;      // [views, I] of the innocents
  const double* middle;       // [views, M] the pool's part of the origin with the models
  const double* back;         // [views, I, I] innocents along the directions
  const double* middle_back;  // [views, I] the pool's part of the origin
  const double* seen;         // [views, I, Q] innocents with the parts' pool
  const double* middle_seen;  // [views, Q]
  const double* parts;        // [Q, N] coefficients
  const double* weights;      // [pieces]
  const double* origin;       // [N] coefficients
  double* out;                // [suspects, S, views, candidates]
  int64_t suspects, views, models, innocents, pieces, candidates;
  bool freed, alone;
  double shrink, rounding, noise;
};

namespace cpu {
Status LeaveOneOut(const LeaveOneOutArgs& args, int threads, int level);
}

}  // namespace uapfast
