// Clean and perturbed images: clamp(x) and clamp(x + t v), then (value - mean) / std, in one pass.
//
// images [count, channels, pixels], uint8 (divided by 255) or float32; uaps float32 [perturbations,
// channels, pixels] or null; assign int64 [count] in 0..perturbations-1, or null: every image with every
// perturbation. out: float32 [slots, count, channels, pixels], or [slots, count, pixels, channels] for
// channels_last, slots = clean + (no uaps: 0, assign: 1, else perturbations). mean and std: `channels`
// doubles each. Everything contiguous. NaN stays. Same bits for any number of threads and any level.
#pragma once

#include <cstdint>

#include "uapfast/dtype.h"
#include "uapfast/status.h"

namespace uapfast {

struct BuildQueriesArgs {
  const void* images;
  const float* uaps;
  const int64_t* assign;
  float* out;
  const double* mean;
  const double* std;
  DType dtype;  // of images: float32 or uint8
  int64_t count, perturbations, channels, pixels;
  double t;
  bool channels_last, clean;
};

namespace cpu {
Status BuildQueries(const BuildQueriesArgs& args, int threads, int level);
}

}  // namespace uapfast
