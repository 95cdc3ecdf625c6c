// Features of rows of logits: log-softmax, label, margin, top-k; see uapfast/ops/fingerprint_rows.py.
//
// logits float32 [rows, classes], contiguous, classes >= 1; log_probs [rows, classes], labels and margins
// [rows], top_log_probs and top_classes [rows, top_k], 0 <= top_k <= classes; all written, none aliased.
// Sums in float32 over at most 32 classes, then double. Same bits for any number of threads and any level.
#pragma once

#include <cstdint>

#include "uapfast/status.h"

namespace uapfast {

struct FingerprintRowsArgs {
  const float* logits;
  float* log_probs;
  int64_t* labels;
  float* margins;
  float* top_log_probs;
  int64_t* top_classes;
  int64_t rows, classes, top_k;
};

namespace cpu {
Status FingerprintRows(const FingerprintRowsArgs& args, int threads, int level);
}

}  // namespace uapfast
