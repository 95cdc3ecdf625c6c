// Features of answers: brought to one confidence and class balance, roots, residuals, clipped; see
// uapfast/ops/features.py.
//
// answers and out float32 [models, views, blocks, points, classes], contiguous; origin the same without models;
// groups int64 [count], views of each, that add to `views`; target double [count, blocks]; prior double
// [count, blocks, classes], positive. Passes over rows are in float32, their sums and the temperature and biases
// in double. Same bits for any number of threads and any level.
#pragma once

#include <cstdint>

#include "uapfast/status.h"

namespace uapfast {

struct FeaturesArgs {
  const float* answers;
  const double* target;
  const double* prior;
  const float* origin;
  const int64_t* groups;
  float* out;
  int64_t models, views, blocks, points, classes, count;
  int64_t steps;     // alternations of temperature (twice) and biases
  double least;      // probabilities below it count as it
  double low, high;  // of the inverse temperature
  double bias;       // largest, either way
  double floor;      // least probability after scaling
  double root;       // 3 for cube roots
  double clip;       // length from which a residual counts hardly more; infinite: residuals as they are
};

namespace cpu {
Status Features(const FeaturesArgs& args, int threads, int level);
}

}  // namespace uapfast
