namespace {
constexpr int kWide = 4;
}
#include "lanes.inc"

namespace uapfast::lanes {

const Kernels& Scalar() { return kTable; }

}  // namespace uapfast::lanes
