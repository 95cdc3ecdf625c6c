// Element types as they cross the boundary.
#pragma once

namespace uapfast {

enum class DType : int { kFloat32 = 0, kFloat64 = 1, kFloat16 = 2, kBFloat16 = 3, kUInt8 = 4 };

// The ball of project_lp and the norm that deepfool_step measures its step in.
enum class Norm : int { kL1 = 1, kL2 = 2, kLinf = 0 };

}  // namespace uapfast
