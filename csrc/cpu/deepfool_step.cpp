#include "uapfast/deepfool_step.h"

#include <cmath>
#include <limits>

#include "parallel.h"
#include "rows.h"

namespace uapfast::cpu {
namespace {

// Below this a float32 square may have lost digits to underflow, even where denormals are flushed.
constexpr double kSmallest = 1e-30;

// ||a - b||_2^2 or ||a - b||_1: in float32 lanes where that keeps the digits, else in double.
template <typename T>
double Distance(const rows::Kernels<T>& kernels, bool l2, const T* a, const T* b, int64_t n) {
  const double quick = (l2 ? kernels.quick_diff_square_sum : kernels.quick_diff_abs_sum)(a, b, n);
  if (std::isfinite(quick) && quick >= kSmallest * static_cast<double>(n)) return quick;
  return (l2 ? kernels.diff_square_sum : kernels.diff_abs_sum)(a, b, n);
}

// Nearest class of one sample; -1 if a value is not finite, the label itself if none can be reached.
// `factor` is what the difference of gradients (L2) or its sign (Linf) is multiplied by.
template <typename T>
int64_t Nearest(const rows::Kernels<T>& kernels, const DeepfoolStepArgs& args, const T* logits,
                const T* grads, int64_t label, double* factor) {
  const T* own = grads + label * args.grads_class_stride;
  const bool l2 = args.norm == Norm::kL2;
  double best = std::numeric_limits<double>::infinity();
  int64_t nearest = label;
  for (int64_t k = 0; k < args.classes; ++k) {
    if (k == label) continue;
    const double sum = Distance<T>(kernels, l2, grads + k * args.grads_class_stride, own, args.size);
    const double gap = std::fabs(static_cast<double>(logits[k]) - static_cast<double>(logits[label]));
    if (!std::isfinite(sum) || !std::isfinite(gap)) return -1;
    if (sum == 0) continue;
    const double distance = gap / (l2 ? std::sqrt(sum) : sum);
    if (distance < best) {
      best = distance;
      nearest = k;
      *factor = gap / sum;
    }
  }
  return nearest;
}

template <typename T>
void Sample(const rows::Kernels<T>& kernels, const DeepfoolStepArgs& args, int64_t b) {
  const T* logits = static_cast<const T*>(args.logits) + b * args.logits_stride;
  const T* grads = static_cast<const T*>(args.grads) + b * args.grads_batch_stride;
  T* step = static_cast<T*>(args.step) + b * args.size;
  const int64_t label = args.labels[b];
  double factor = 0;
  const int64_t nearest = Nearest<T>(kernels, args, logits, grads, label, &factor);
  args.nearest[b] = nearest;
  if (nearest == -1 || nearest == label) {
    const T value = nearest == -1 ? std::numeric_limits<T>::quiet_NaN() : T{0};
    for (int64_t i = 0; i < args.size; ++i) step[i] = value;
    return;
  }
  const T* other = grads + nearest * args.grads_class_stride;
  const T* own = grads + label * args.grads_class_stride;
  if (args.norm != Norm::kL2) {
    kernels.diff_sign(other, own, args.size, factor, step);
  } else if (factor > kSmallest && factor < 1 / kSmallest) {  // a normal float, and so is what it scales
    kernels.quick_diff_scale(other, own, args.size, static_cast<T>(factor), step);
  } else {
    kernels.diff_scale(other, own, args.size, factor, step);
  }
}

template <typename T>
Status Run(const DeepfoolStepArgs& args, int threads, Level level) {
  const auto& kernels = rows::For<T>(level);
  const int64_t bytes = (args.classes + 2) * args.size * static_cast<int64_t>(sizeof(T));
  ParallelFor(args.batch, bytes, threads, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) Sample<T>(kernels, args, b);
  });
  return Status::Ok();
}

}  // namespace

Status DeepfoolStep(const DeepfoolStepArgs& args, int threads, int level) {
  UAPFAST_CHECK(args.batch >= 0 && args.classes >= 2 && args.size >= 0,
                "deepfool_step: grads must have shape [B, K >= 2, D], got [%lld, %lld, %lld]",
                static_cast<long long>(args.batch), static_cast<long long>(args.classes),
                static_cast<long long>(args.size));
  UAPFAST_CHECK(args.norm == Norm::kL2 || args.norm == Norm::kLinf, "deepfool_step: p must be 2 or inf");
  Level chosen;
  UAPFAST_RETURN_IF_ERROR(ResolveLevel(level, &chosen));
  if (args.batch == 0) return Status::Ok();
  UAPFAST_CHECK(args.logits && args.labels && args.nearest, "deepfool_step: buffers must not be null");
  UAPFAST_CHECK(args.size == 0 || (args.grads && args.step), "deepfool_step: buffers must not be null");
  for (int64_t b = 0; b < args.batch; ++b) {
    UAPFAST_CHECK(args.labels[b] >= 0 && args.labels[b] < args.classes,
                  "deepfool_step: labels must be in 0..%lld, got %lld",
                  static_cast<long long>(args.classes - 1), static_cast<long long>(args.labels[b]));
  }
  switch (args.dtype) {
    case DType::kFloat32:
      return Run<float>(args, threads, chosen);
    case DType::kFloat64:
      return Run<double>(args, threads, chosen);
    default:
      return Status::Error(Code::kInvalidArgument,
                           "deepfool_step: dtype must be float32 or float64, got code %d",
                           static_cast<int>(args.dtype));
  }
}

}  // namespace uapfast::cpu
