namespace {
constexpr int kWide = 16;
}
#include "lanes.inc"

namespace uapfast::lanes {

const Kernels& Avx512() { return kTable; }

}  // namespace uapfast::lanes
