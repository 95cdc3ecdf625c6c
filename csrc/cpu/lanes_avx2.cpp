namespace {
constexpr int kWide = 8;
}
#include "lanes.inc"

namespace uapfast::lanes {

const Kernels& Avx2() { return kTable; }

}  // namespace uapfast::lanes
