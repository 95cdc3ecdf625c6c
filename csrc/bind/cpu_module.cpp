#include "common.h"
#include "uapfast/deepfool_step.h"
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
}
