// Which instructions the CPU kernels use. Chosen once per call, outside every loop.
#pragma once

#include "uapfast/status.h"

namespace uapfast {

enum class Level : int { kScalar = 0, kAvx2 = 1, kAvx512 = 2 };
constexpr int kLevels = 3;
constexpr int kAuto = -1;

const char* LevelName(Level level);

// Whether this CPU, its operating system and this build all have the level.
bool LevelAvailable(Level level);

// The level to use: `requested` (a Level), or with kAuto what the environment variable UAPFAST_SIMD
// names (scalar, avx2, avx512, auto), or else the best available. An absent level is an error rather
// than a silent substitute.
Status ResolveLevel(int requested, Level* level);

}  // namespace uapfast
