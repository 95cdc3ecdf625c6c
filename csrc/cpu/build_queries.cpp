#include "uapfast/build_queries.h"

#include <algorithm>
#include <cmath>

#include "lanes.h"
#include "parallel.h"

namespace uapfast::cpu {
namespace {

constexpr int64_t kTile = 512;          // pixels interleaved at a time
constexpr int64_t kMaxInterleaved = 8;  // channels that the tile buffer holds; more go one by one

struct Work {
  const BuildQueriesArgs& args;
  const lanes::Kernels& kernels;

  // Pixels begin..begin+n of one channel of one image, under v or clean.
  void Plane(int64_t image, int64_t channel, const float* v, int64_t begin, int64_t n, float* out) const {
    const int64_t at = (image * args.channels + channel) * args.pixels + begin;
    const float mean = static_cast<float>(args.mean[channel]);
    const float scale = static_cast<float>(1.0 / args.std[channel]);
    const float* move = v ? v + channel * args.pixels + begin : nullptr;
    const float t = static_cast<float>(args.t);
    if (args.dtype == DType::kUInt8) {
      kernels.query_bytes(static_cast<const uint8_t*>(args.images) + at, move, n, t, mean, scale, out);
    } else {
      kernels.query_floats(static_cast<const float*>(args.images) + at, move, n, t, mean, scale, out);
    }
  }

  void Image(int64_t image, const float* v, float* out) const {
    if (!args.channels_last || args.channels == 1) {
      for (int64_t c = 0; c < args.channels; ++c) {
        Plane(image, c, v, 0, args.pixels, out + c * args.pixels);
      }
      return;
    }
    float tile[kMaxInterleaved][kTile];
    for (int64_t first = 0; first < args.channels; first += kMaxInterleaved) {
      const int64_t some = std::min(kMaxInterleaved, args.channels - first);
      for (int64_t begin = 0; begin < args.pixels; begin += kTile) {
        const int64_t n = std::min(kTile, args.pixels - begin);
        for (int64_t c = 0; c < some; ++c) Plane(image, first + c, v, begin, n, tile[c]);
        float* target = out + begin * args.channels + first;
        for (int64_t i = 0; i < n; ++i) {
          for (int64_t c = 0; c < some; ++c) target[i * args.channels + c] = tile[c][i];
        }
      }
    }
  }
};

}  // namespace

Status BuildQueries(const BuildQueriesArgs& args, int threads, int level) {
  UAPFAST_CHECK(args.count >= 0 && args.perturbations >= 0 && args.channels >= 0 && args.pixels >= 0,
                "build_queries: sizes must be >= 0");
  UAPFAST_CHECK(args.dtype == DType::kUInt8 || args.dtype == DType::kFloat32,
                "build_queries: images must be uint8 or float32, got code %d", static_cast<int>(args.dtype));
  Level chosen;
  UAPFAST_RETURN_IF_ERROR(ResolveLevel(level, &chosen));
  const int64_t size = args.channels * args.pixels;
  if (args.count == 0 || size == 0) return Status::Ok();
  UAPFAST_CHECK(args.images && args.out && args.mean && args.std, "build_queries: buffers must not be null");
  for (int64_t i = 0; args.assign != nullptr && i < args.count; ++i) {
    UAPFAST_CHECK(args.assign[i] >= 0 && args.assign[i] < args.perturbations,
                  "build_queries: assign must be in 0..%lld, got %lld",
                  static_cast<long long>(args.perturbations - 1), static_cast<long long>(args.assign[i]));
  }
  const Work work{args, lanes::For(chosen)};
  const int64_t moved = args.uaps == nullptr ? 0 : (args.assign ? 1 : args.perturbations);
  const int64_t bytes = size * (1 + 8 * moved + 4 * (args.clean ? 1 : 0));
  ParallelFor(args.count, bytes, threads, [&](int64_t begin, int64_t end) {
    for (int64_t image = begin; image < end; ++image) {
      float* out = args.out + image * size;
      if (args.clean) {
        work.Image(image, nullptr, out);
        out += args.count * size;
      }
      for (int64_t p = 0; p < moved; ++p, out += args.count * size) {
        work.Image(image, args.uaps + (args.assign ? args.assign[image] : p) * size, out);
      }
    }
  });
  return Status::Ok();
}

}  // namespace uapfast::cpu
