#include "uapfast/fingerprint_rows.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#include <new>

#include "lanes.h"
#include "parallel.h"

namespace uapfast::cpu {
namespace {

using lanes::kRows;

// The top_k largest of one row in falling order, the lower class first among equals: each value is
// compared with the smallest kept, few get past that.
void Top(const float* x, const float* log_probs, int64_t classes, int64_t top_k, float* values,
         int64_t* where) {
  int64_t kept = 0;
  for (int64_t k = 0; k < classes; ++k) {
    if (kept == top_k && !(x[k] > x[where[kept - 1]])) continue;
    int64_t at = kept == top_k ? kept - 1 : kept++;
    for (; at > 0 && x[k] > x[where[at - 1]]; --at) where[at] = where[at - 1];
    where[at] = k;
  }
  for (int64_t i = 0; i < top_k; ++i) values[i] = log_probs[where[i]];
}

struct Work {
  const FingerprintRowsArgs& args;
  const lanes::Kernels& kernels;

  void Finish(int64_t row, float best, float second, int32_t label, double sum) const {
    const float* x = args.logits + row * args.classes;
    float* out = args.log_probs + row * args.classes;
    float* top_values = args.top_log_probs + row * args.top_k;
    int64_t* top_classes = args.top_classes + row * args.top_k;
    if (!(sum >= 0)) {  // NaN: there is no softmax
      const float nan = std::numeric_limits<float>::quiet_NaN();
      for (int64_t k = 0; k < args.classes; ++k) out[k] = nan;
      for (int64_t i = 0; i < args.top_k; ++i) {
        top_values[i] = nan;
        top_classes[i] = -1;
      }
      args.labels[row] = -1;
      args.margins[row] = nan;
      return;
    }
    const float log_sum = static_cast<float>(std::log(sum));
    for (int64_t k = 0; k < args.classes; ++k) out[k] = (x[k] - best) - log_sum;
    args.labels[row] = label;
    args.margins[row] = best - second;
    if (args.top_k > 0) Top(x, out, args.classes, args.top_k, top_values, top_classes);
  }

  // Up to kRows rows, side by side in `block` ([classes][kRows]); idle lanes repeat the first row.
  void Block(int64_t row, int64_t count, float* block) const {
    float best[kRows], second[kRows];
    int32_t label[kRows];
    double sum[kRows];
    for (int64_t j = 0; j < kRows; ++j) {
      const float* x = args.logits + (row + (j < count ? j : 0)) * args.classes;
      for (int64_t k = 0; k < args.classes; ++k) block[k * kRows + j] = x[k];
    }
    kernels.row_stats(block, args.classes, best, second, label, sum);
    for (int64_t j = 0; j < count; ++j) Finish(row + j, best[j], second[j], label[j], sum[j]);
  }
};

}  // namespace

Status FingerprintRows(const FingerprintRowsArgs& args, int threads, int level) {
  UAPFAST_CHECK(args.rows >= 0 && args.classes >= 1 && args.classes <= std::numeric_limits<int32_t>::max(),
                "fingerprint_rows: logits must have shape [rows >= 0, classes >= 1], got [%lld, %lld]",
                static_cast<long long>(args.rows), static_cast<long long>(args.classes));
  UAPFAST_CHECK(args.top_k >= 0 && args.top_k <= args.classes, "fingerprint_rows: top_k must be in 0..%lld",
                static_cast<long long>(args.classes));
  Level chosen;
  UAPFAST_RETURN_IF_ERROR(ResolveLevel(level, &chosen));
  if (args.rows == 0) return Status::Ok();
  UAPFAST_CHECK(args.logits && args.log_probs && args.labels && args.margins,
                "fingerprint_rows: buffers must not be null");
  const Work work{args, lanes::For(chosen)};
  const int64_t blocks = (args.rows + kRows - 1) / kRows;
  std::atomic<bool> out_of_memory{false};
  ParallelFor(blocks, 8 * kRows * args.classes, threads, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<float[]> block(new (std::nothrow) float[static_cast<size_t>(args.classes) * kRows]);
    if (!block) {
      out_of_memory = true;
      return;
    }
    for (int64_t b = begin; b < end; ++b) {
      work.Block(b * kRows, std::min<int64_t>(kRows, args.rows - b * kRows), block.get());
    }
  });
  if (out_of_memory)
    return Status::Error(Code::kOutOfMemory, "fingerprint_rows: no memory for a block of rows");
  return Status::Ok();
}

}  // namespace uapfast::cpu
