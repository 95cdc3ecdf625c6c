#include "common.h"
#include "uapfast/build_queries.h"
#include "uapfast/deepfool_step.h"
#include "uapfast/fingerprint_rows.h"
#include "uapfast/project_lp.h"
#include "uapfast/rescale.h"
#include "uapfast/simd.h"
#include "uapfast/similarity_moments.h"

namespace uapfast::bind {
namespace {

py::list SimdLevels() {
  py::list names;
  for (int i = 0; i < kLevels; ++i) {
    if (LevelAvailable(static_cast<Level>(i))) names.append(LevelName(static_cast<Level>(i)));
  }
  return names;
}

const char* SimdLevel() {
  Level level = Level::kScalar;
  Raise(ResolveLevel(kAuto, &level));
  return LevelName(level);
}

void ProjectLp(std::uintptr_t source, std::uintptr_t target, int dtype, int64_t rows, int64_t cols,
               int64_t source_stride, int64_t target_stride, double eps, double p, int threads, int level) {
  const ProjectLpArgs args{Pointer(source),
                           Pointer(target),
                           static_cast<DType>(dtype),
                           rows,
                           cols,
                           source_stride,
                           target_stride,
                           eps,
                           NormOf(p)};
  Call([&] { return cpu::ProjectLp(args, threads, level); });
}

void DeepfoolStep(std::uintptr_t logits, std::uintptr_t grads, std::uintptr_t labels, std::uintptr_t step,
                  std::uintptr_t nearest, int dtype, int64_t batch, int64_t classes, int64_t size,
                  int64_t logits_stride, int64_t grads_batch_stride, int64_t grads_class_stride, double p,
                  int threads, int level) {
  const DeepfoolStepArgs args{Pointer(logits),
                              Pointer(grads),
                              Pointer<const int64_t>(labels),
                              Pointer(step),
                              Pointer<int64_t>(nearest),
                              static_cast<DType>(dtype),
                              batch,
                              classes,
                              size,
                              logits_stride,
                              grads_batch_stride,
                              grads_class_stride,
                              NormOf(p)};
  Call([&] { return cpu::DeepfoolStep(args, threads, level); });
}

void BuildQueries(std::uintptr_t images, std::uintptr_t uaps, std::uintptr_t assign, std::uintptr_t out,
                  std::uintptr_t mean, std::uintptr_t std, int dtype, int64_t count, int64_t perturbations,
                  int64_t channels, int64_t pixels, double t, bool channels_last, bool clean, int threads,
                  int level) {
  const BuildQueriesArgs args{Pointer(images),
                              Pointer<const float>(uaps),
                              Pointer<const int64_t>(assign),
                              Pointer<float>(out),
                              Pointer<const double>(mean),
                              Pointer<const double>(std),
                              static_cast<DType>(dtype),
                              count,
                              perturbations,
                              channels,
                              pixels,
                              t,
                              channels_last,
                              clean};
  Call([&] { return cpu::BuildQueries(args, threads, level); });
}

void FingerprintRows(std::uintptr_t logits, std::uintptr_t log_probs, std::uintptr_t labels,
                     std::uintptr_t margins, std::uintptr_t top_log_probs, std::uintptr_t top_classes,
                     int64_t rows, int64_t classes, int64_t top_k, int threads, int level) {
  const FingerprintRowsArgs args{Pointer<const float>(logits),
                                 Pointer<float>(log_probs),
                                 Pointer<int64_t>(labels),
                                 Pointer<float>(margins),
                                 Pointer<float>(top_log_probs),
                                 Pointer<int64_t>(top_classes),
                                 rows,
                                 classes,
                                 top_k};
  Call([&] { return cpu::FingerprintRows(args, threads, level); });
}

void Rescale(std::uintptr_t probabilities, std::uintptr_t target, std::uintptr_t prior, std::uintptr_t out,
             int64_t items, int64_t rows, int64_t classes, int64_t steps, double least, double low, double high,
             double bias, int threads, int level) {
  const RescaleArgs args{Pointer<const float>(probabilities),
                         Pointer<const double>(target),
                         Pointer<const double>(prior),
                         Pointer<float>(out),
                         items,
                         rows,
                         classes,
                         steps,
                         least,
                         low,
                         high,
                         bias};
  Call([&] { return cpu::Rescale(args, threads, level); });
}

void SimilarityMoments(std::uintptr_t a, std::uintptr_t b, std::uintptr_t mean, std::uintptr_t variance,
                       int dtype, int64_t suspects, int64_t candidates, int64_t a_views, int64_t b_views,
                       int64_t size, bool same_views, int threads, int level) {
  const SimilarityMomentsArgs args{
      Pointer(a), Pointer(b), Pointer(mean), Pointer(variance), static_cast<DType>(dtype),
      suspects,   candidates, a_views,       b_views,           size,
      same_views};
  Call([&] { return cpu::SimilarityMoments(args, threads, level); });
}

}  // namespace
}  // namespace uapfast::bind

PYBIND11_MODULE(_cpu, module) {
  namespace bind = uapfast::bind;
  namespace py = pybind11;
  module.doc() = "CPU kernels of uapfast on raw addresses. Call them through uapfast.ops.";
  module.def("simd_levels", &bind::SimdLevels, "Levels that this CPU and build have, lowest first.");
  module.def("simd_level", &bind::SimdLevel, "The level in use (UAPFAST_SIMD forces it).");
  module.def("compiler", [] { return __VERSION__; }, "The compiler that built this.");
  module.def("project_lp", &bind::ProjectLp, py::arg("source"), py::arg("target"), py::arg("dtype"),
             py::arg("rows"), py::arg("cols"), py::arg("source_stride"), py::arg("target_stride"),
             py::arg("eps"), py::arg("p"), py::arg("threads"), py::arg("level"));
  module.def("deepfool_step", &bind::DeepfoolStep, py::arg("logits"), py::arg("grads"), py::arg("labels"),
             py::arg("step"), py::arg("nearest"), py::arg("dtype"), py::arg("batch"), py::arg("classes"),
             py::arg("size"), py::arg("logits_stride"), py::arg("grads_batch_stride"),
             py::arg("grads_class_stride"), py::arg("p"), py::arg("threads"), py::arg("level"));
  module.def("build_queries", &bind::BuildQueries, py::arg("images"), py::arg("uaps"), py::arg("assign"),
             py::arg("out"), py::arg("mean"), py::arg("std"), py::arg("dtype"), py::arg("count"),
             py::arg("perturbations"), py::arg("channels"), py::arg("pixels"), py::arg("t"),
             py::arg("channels_last"), py::arg("clean"), py::arg("threads"), py::arg("level"));
  module.def("fingerprint_rows", &bind::FingerprintRows, py::arg("logits"), py::arg("log_probs"),
             py::arg("labels"), py::arg("margins"), py::arg("top_log_probs"), py::arg("top_classes"),
             py::arg("rows"), py::arg("classes"), py::arg("top_k"), py::arg("threads"), py::arg("level"));
  module.def("rescale", &bind::Rescale, py::arg("probabilities"), py::arg("target"), py::arg("prior"),
             py::arg("out"), py::arg("items"), py::arg("rows"), py::arg("classes"), py::arg("steps"),
             py::arg("least"), py::arg("low"), py::arg("high"), py::arg("bias"), py::arg("threads"),
             py::arg("level"));
  module.def("similarity_moments", &bind::SimilarityMoments, py::arg("a"), py::arg("b"), py::arg("mean"),
             py::arg("variance"), py::arg("dtype"), py::arg("suspects"), py::arg("candidates"),
             py::arg("a_views"), py::arg("b_views"), py::arg("size"), py::arg("same_views"),
             py::arg("threads"), py::arg("level"));
}
