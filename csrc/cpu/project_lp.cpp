#include "uapfast/project_lp.h"

#include <cmath>
#include <cstring>
#include <limits>

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

// The tau with sum max(y_i - tau, 0) = eps over y_i = |x_i| - top <= 0, by Newton steps from below
// (Michelot, JOTA 1986; Held, Wolfe, Crowder 1974): each step drops the values not above the last tau.
// Steps over the whole row beat a list of survivors and Condat's single pass: they run at the speed of
// memory without a branch, and some ten of them do. `sum` is that of all |x_i|.
template <typename T>
double Threshold(const rows::Kernels<T>& kernels, const T* x, int64_t n, double top, double sum, double eps) {
  int64_t count = n;
  // Less the rounding of a sum of all, since a start above tau would end the loop too early.
  double tau = (sum - static_cast<double>(n) * top - eps) / static_cast<double>(n) - 1e-9 * top;
  if (tau < -eps) tau = -eps;  // what the largest value alone gives
  for (bool first = true;; first = false) {
    int64_t above = 0;
    const double rest = kernels.above(x, n, top, tau, &above);
    if (!first && above >= count) return tau;
    count = above;
    tau = (rest - eps) / static_cast<double>(count);
  }
}

template <typename T>
void Fill(T* out, int64_t n, T value) {
  for (int64_t i = 0; i < n; ++i) out[i] = value;
}

template <typename T>
void ProjectRow(const rows::Kernels<T>& kernels, const T* x, T* out, int64_t n, double eps, Norm norm) {
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
    kernels.soft(x, n, top, Threshold(kernels, x, n, top, sum, eps * kInside<T>), out);
  }
}

template <typename T>
Status Run(const ProjectLpArgs& args, int threads, Level level) {
  const auto& kernels = rows::For<T>(level);
  const auto body = [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      ProjectRow<T>(kernels, static_cast<const T*>(args.source) + row * args.source_stride,
                    static_cast<T*>(args.target) + row * args.target_stride, args.cols, args.eps, args.norm);
    }
  };
  const int64_t passes = args.norm == Norm::kLinf ? 2 : (args.norm == Norm::kL2 ? 3 : 16);
  ParallelFor(args.rows, args.cols * passes * static_cast<int64_t>(sizeof(T)), threads, body);
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
