#include "common.h"
#include "uapfast/build_queries.h"
#include "uapfast/deepfool_step.h"
#include "uapfast/features.h"
#include "uapfast/inner_products.h"
#include "uapfast/leave_one_out.h"
#include "uapfast/project_lp.h"
#include "uapfast/simd.h"

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

void Features(std::uintptr_t answers, std::uintptr_t target, std::uintptr_t prior, std::uintptr_t origin,
              std::uintptr_t groups, std::uintptr_t out, int64_t models, int64_t views, int64_t blocks, int64_t points,
              int64_t classes, int64_t count, int64_t steps, double least, double low, double high, double bias,
              double floor, double root, double clip, int threads, int level) {
  const FeaturesArgs args{Pointer<const float>(answers),
                          Pointer<const double>(target),
                          Pointer<const double>(prior),
                          Pointer<const float>(origin),
                          Pointer<const int64_t>(groups),
                          Pointer<float>(out),
                          models,
                          views,
                          blocks,
                          points,
                          classes,
                          count,
                          steps,
                          least,
                          low,
                          high,
                          bias,
                          floor,
                          root,
                          clip};
  Call([&] { return cpu::Features(args, threads, level); });
}

void InnerProducts(std::uintptr_t rows, std::uintptr_t pool, std::uintptr_t out, int64_t models, int64_t views,
                   int64_t pooled, int64_t size, int threads, int level) {
  const InnerProductsArgs args{Pointer<const float>(rows), Pointer<const float>(pool), Pointer<double>(out), models,
                               views,                      pooled,                     size};
  Call([&] { return cpu::InnerProducts(args, threads, level); });
}

void LeaveOneOut(const std::vector<std::uintptr_t>& tables, std::uintptr_t out, int64_t suspects, int64_t views,
                 int64_t models, int64_t innocents, int64_t pieces, int64_t candidates, bool freed, bool alone,
                 double shrink, double rounding, double noise, int threads, int level) {
  if (tables.size() != 16) throw std::invalid_argument("leave_one_out: tables must be 16");
  const auto at = [&](size_t i) { return Pointer<const double>(tables[i]); };
  const LeaveOneOutArgs args{at(0),    Pointer<const int64_t>(tables[1]),
                             at(2),    at(3),
                             at(4),    at(5),
                             at(6),    at(7),
                             at(8),    at(9),
                             at(10),   at(11),
                             at(12),   at(13),
                             at(14),   at(15),
                             Pointer<double>(out),
                             suspects, views,
                             models,   innocents,
                             pieces,   candidates,
                             freed,    alone,
                             shrink,   rounding,
                             noise};
  Call([&] { return cpu::LeaveOneOut(args, threads, level); });
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
  module.def("features", &bind::Features, py::arg("answers"), py::arg("target"), py::arg("prior"),
             py::arg("origin"), py::arg("groups"), py::arg("out"), py::arg("models"), py::arg("views"),
             py::arg("blocks"), py::arg("points"), py::arg("classes"), py::arg("count"), py::arg("steps"),
             py::arg("least"), py::arg("low"), py::arg("high"), py::arg("bias"), py::arg("floor"), py::arg("root"),
             py::arg("clip"), py::arg("threads"), py::arg("level"));
  module.def("inner_products", &bind::InnerProducts, py::arg("rows"), py::arg("pool"), py::arg("out"),
             py::arg("models"), py::arg("views"), py::arg("pooled"), py::arg("size"), py::arg("threads"),
             py::arg("level"));
  module.def("leave_one_out", &bind::LeaveOneOut, py::arg("tables"), py::arg("out"), py::arg("suspects"),
             py::arg("views"), py::arg("models"), py::arg("innocents"), py::arg("pieces"), py::arg("candidates"),
             py::arg("freed"), py::arg("alone"), py::arg("shrink"), py::arg("rounding"), py::arg("noise"),
             py::arg("threads"), py::arg("level"));
}
