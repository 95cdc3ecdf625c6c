// Probabilities brought to a mean confidence and to class frequencies; see uapfast/ops/rescale.py.
//
// probabilities and out float32 [items, rows, classes], contiguous; target double [items]; prior double
// [items, classes], positive. Passes over rows are in float32, their sums and the temperature and biases in
// double. Same bits for any number of threads and any level.
#pragma once

#include <cstdint>

#include "uapfast/status.h"

namespace uapfast {

struct RescaleArgs {
  const float* probabilities;
  const double* target;
  const double* prior;
  float* out;
  int64_t items, rows, classes;
  int64_t steps;     // alternations of temperature (twice) and biases
  double least;      // probabilities below it count as it
  double low, high;  // of the inverse temperature
  double bias;       // largest, either way
};

namespace cpu {
Status Rescale(const RescaleArgs& args, int threads, int level);
}

}  // namespace uapfast
