#include "uapfast/project_lp.h"

#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <new>

#include "parallel.h"
#include "rows.h"

namespace uapfast::cpu {
namespace {

template <typename T>
T LargestNotAbove(double eps) {
  T value = static_cast<T>(eps);
  if (static_cast<double>(value) > eps) value = std::nextafter(value, T{0});
  return value;
}

// Relative room that keeps a row inside the ball after each element has been rounded to T.
template <typename T>
constexpr double kInside = 1.0 - std::numeric_limits<T>::epsilon();

// The tau with sum max(y_i - tau, 0) = eps over y_i = |x_i| - top <= 0. Only y_i > -eps can be
// positive after the subtraction, since tau >= -eps. `y` has room for n values.
template <typename T>
double Threshold(const T* x, int64_t n, double top, double eps, double* y) {
  int64_t count = 0;
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double value = static_cast<double>(std::fabs(x[i])) - top;
    y[count] = value;
    const bool keep = value > -eps;
    count += keep;
    sum += keep ? value : 0;
  }
  double tau = (sum - eps) / static_cast<double>(count);
  for (;;) {  // each turn drops at least one value: what is below tau stays below the next, larger one
    int64_t kept = 0;
    sum = 0;
    for (int64_t i = 0; i < count; ++i) {
      const double value = y[i];
      y[kept] = value;
      const bool keep = value > tau;
      kept += keep;
      sum += keep ? value : 0;
    }
    if (kept == count) return tau;
    count = kept;
    tau = (sum - eps) / static_cast<double>(count);
  }
}

template <typename T>
void Fill(T* out, int64_t n, T value) {
  for (int64_t i = 0; i < n; ++i) out[i] = value;
}

template <typename T>
void ProjectRow(const rows::Kernels<T>& kernels, const T* x, T* out, int64_t n, double eps, Norm norm,
                double* scratch) {
  if (norm == Norm::kLinf) {
    kernels.clamp(x, n, LargestNotAbove<T>(eps), out);
    return;
  }
  T top = 0;
  const double sum = norm == Norm::kL1 ? kernels.abs_sum(x, n, &top) : kernels.square_sum(x, n);
  const double size = norm == Norm::kL1 ? sum : std::sqrt(sum);
  if (!std::isfinite(size)) {
    Fill(out, n, std::numeric_limits<T>::quiet_NaN());
  } else if (size <= eps) {
    if (x != out) std::memcpy(out, x, static_cast<size_t>(n) * sizeof(T));
  } else if (eps == 0) {
    Fill(out, n, T{0});
  } else if (norm == Norm::kL2) {
    kernels.scale(x, n, eps * kInside<T> / size, out);
  } else {
    kernels.soft(x, n, top, Threshold(x, n, top, eps * kInside<T>, scratch), out);
  }
}

template <typename T>
Status Run(const ProjectLpArgs& args, int threads, Level level) {
  const auto& kernels = rows::For<T>(level);
  std::atomic<bool> out_of_memory{false};
  const auto body = [&](int64_t begin, int64_t end) {
    std::unique_ptr<double[]> scratch;
    if (args.norm == Norm::kL1) {
      scratch.reset(new (std::nothrow) double[static_cast<size_t>(args.cols) + 1]);
      if (!scratch) {
        out_of_memory = true;
        return;
      }
    }
    for (int64_t row = begin; row < end; ++row) {
      ProjectRow<T>(kernels, static_cast<const T*>(args.source) + row * args.source_stride,
                    static_cast<T*>(args.target) + row * args.target_stride, args.cols, args.eps, args.norm,
                    scratch.get());
    }
  };
  const int64_t passes = args.norm == Norm::kLinf ? 2 : (args.norm == Norm::kL2 ? 3 : 8);
  ParallelFor(args.rows, args.cols * passes * static_cast<int64_t>(sizeof(T)), threads, body);
  if (out_of_memory) {
    return Status::Error(Code::kOutOfMemory, "project_lp: no memory for %lld doubles",
                         static_cast<long long>(args.cols));
  }
  return Status::Ok();
}

}  // namespace

Status ProjectLp(const ProjectLpArgs& args, int threads, int level) {
  UAPFAST_CHECK(args.rows >= 0 && args.cols >= 0, "project_lp: delta must have sizes >= 0, got [%lld, %lld]",
                static_cast<long long>(args.rows), static_cast<long long>(args.cols));
  UAPFAST_CHECK(std::isfinite(args.eps) && args.eps >= 0, "project_lp: eps must be finite and >= 0, got %g",
                args.eps);
  Level chosen;
  UAPFAST_RETURN_IF_ERROR(ResolveLevel(level, &chosen));
  if (args.rows == 0 || args.cols == 0) return Status::Ok();
  UAPFAST_CHECK(args.source != nullptr && args.target != nullptr, "project_lp: buffers must not be null");
  switch (args.dtype) {
    case DType::kFloat32:
      return Run<float>(args, threads, chosen);
    case DType::kFloat64:
      return Run<double>(args, threads, chosen);
    default:
      return Status::Error(Code::kInvalidArgument,
                           "project_lp: dtype must be float32 or float64, got code %d",
                           static_cast<int>(args.dtype));
  }
}

}  // namespace uapfast::cpu
