#include "uapfast/features.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <new>
#include <vector>

#include "lanes.h"
#include "parallel.h"

namespace uapfast::cpu {
namespace {

using lanes::kRows;

// The answers of one model to one block of one group of views: what is fitted to them, and what becomes of them.
// Logarithms lie in blocks of kRows rows side by side, [block][classes][kRows]; rows without an answer are left out.
class Item {
 public:
  Item(const FeaturesArgs& args, const lanes::Kernels& kernels) : args_(args), kernels_(kernels) {
    int64_t most = 0;
    for (int64_t g = 0; g < args.count; ++g) most = std::max(most, args.groups[g]);
    const int64_t rows = most * args.points, wide = (rows + kRows - 1) / kRows * kRows;
    at_.reserve(static_cast<size_t>(rows));
    logs_.reset(new float[static_cast<size_t>((wide + 2 * kRows + 1) * args.classes)]);
    double_.reset(new double[static_cast<size_t>((kRows + 1) * args.classes)]);
    e_ = logs_.get() + wide * args.classes;
    other_ = e_ + kRows * args.classes;
    bent_ = other_ + kRows * args.classes;
    mass_ = double_.get();
    bias_ = mass_ + kRows * args.classes;
  }

  // Views `first` .. `first + views - 1`, which are those of group `group`.
  void Run(int64_t model, int64_t group, int64_t first, int64_t views, int64_t block) {
    const int64_t classes = args_.classes;
    origin_ = args_.origin;
    source_ = args_.answers + model * args_.views * args_.blocks * args_.points * classes;
    out_ = args_.out + (source_ - args_.answers);
    target_ = args_.target[group * args_.blocks + block];
    prior_ = args_.prior + (group * args_.blocks + block) * classes;
    at_.clear();
    for (int64_t view = first; view < first + views; ++view) {
      for (int64_t point = 0; point < args_.points; ++point) {
        const int64_t at = ((view * args_.blocks + block) * args_.points + point) * classes;
        const float* p = source_ + at;
        if (std::any_of(p, p + classes, [](float x) { return x != 0.0f; })) {
          at_.push_back(at);
        } else {
          std::fill(out_ + at, out_ + at + classes, 0.0f);
        }
      }
    }
    if (at_.empty()) return;
    Load();
    std::fill(bias_, bias_ + classes, 0.0);
    t_ = 1.0;
    for (int64_t step = 0; step < args_.steps; ++step) {
      Heat();
      Heat();
      Shift();
    }
    Write();
  }

 private:
  int64_t Rows() const { return static_cast<int64_t>(at_.size()); }

  // body(first row, rows, their logarithms, which of the lanes are rows)
  template <typename Body>
  void Each(const Body& body) {
    for (int64_t k = 0; k < args_.classes; ++k) bent_[k] = static_cast<float>(bias_[k]);
    for (int64_t row = 0; row < Rows(); row += kRows) {
      const int64_t count = std::min<int64_t>(kRows, Rows() - row);
      body(row, count, logs_.get() + row * args_.classes, kLive + kRows - count);
    }
  }

  // Columns `from` of up to kRows rows of `source`, side by side; idle lanes are 1.
  void Gather(const float* source, int64_t row, int64_t count, float* block) const {
    const int64_t classes = args_.classes;
    if (count < kRows) std::fill(block, block + classes * kRows, 1.0f);
    for (int64_t j = 0; j < count; ++j) {
      const float* p = source + at_[static_cast<size_t>(row + j)];
      for (int64_t k = 0; k < classes; ++k) block[k * kRows + j] = p[k];
    }
  }

  void Load() {
    for (int64_t row = 0; row < Rows(); row += kRows) {
      float* block = logs_.get() + row * args_.classes;
      Gather(source_, row, std::min<int64_t>(kRows, Rows() - row), block);
      kernels_.logs(block, args_.classes, static_cast<float>(args_.least));
    }
  }

  // One step of Newton's for the mean largest probability, in log t.
  void Heat() {
    double high[kRows] = {}, gain[kRows] = {}, sum = 0, slope = 0;
    Each([&](int64_t, int64_t, const float* x, const float* live) {
      kernels_.heat(x, args_.classes, static_cast<float>(t_), bent_, live, high, gain);
    });
    for (int j = 0; j < kRows; ++j) {
      sum += high[j];
      slope += gain[j];
    }
    const double rows = static_cast<double>(Rows());
    const double step = std::clamp((target_ - sum / rows) / std::max(t_ * (slope / rows), 1e-9), -0.7, 0.7);
    t_ = std::clamp(t_ * std::exp(step), args_.low, args_.high);
  }

  // One step of the biases towards the class frequencies; a uniform row more on both sides keeps it short.
  void Shift() {
    const int64_t classes = args_.classes;
    std::fill(mass_, mass_ + classes * kRows, 0.0);
    Each([&](int64_t, int64_t, const float* x, const float* live) {
      kernels_.shift(x, classes, static_cast<float>(t_), bent_, live, e_, mass_);
    });
    const double rows = static_cast<double>(Rows()), one = 1.0 / static_cast<double>(classes);
    double mean = 0;
    for (int64_t k = 0; k < classes; ++k) {
      double mass = 0;
      for (int64_t j = 0; j < kRows; ++j) mass += mass_[k * kRows + j];
      bias_[k] += std::log((rows * prior_[k] + one) / (mass + one));
      mean += bias_[k] * one;
    }
    for (int64_t k = 0; k < classes; ++k) bias_[k] = std::clamp(bias_[k] - mean, -args_.bias, args_.bias);
  }

  void Write() {
    const int64_t classes = args_.classes;
    const float least = static_cast<float>(std::pow(args_.floor, 1.0 / args_.root));
    const float power = static_cast<float>(1.0 / args_.root), clip = static_cast<float>(args_.clip);
    Each([&](int64_t row, int64_t count, const float* x, const float*) {
      Gather(origin_, row, count, other_);
      kernels_.roots(x, classes, static_cast<float>(t_), bent_, power, least, clip, other_, e_);
      for (int64_t j = 0; j < count; ++j) {
        float* target = out_ + at_[static_cast<size_t>(row + j)];
        for (int64_t k = 0; k < classes; ++k) target[k] = e_[k * kRows + j];
      }
    });
  }

  static constexpr float kLive[2 * kRows] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

  const FeaturesArgs& args_;
  const lanes::Kernels& kernels_;
  std::unique_ptr<float[]> logs_;
  std::unique_ptr<double[]> double_;
  std::vector<int64_t> at_;  // where rows with an answer begin
  float *e_, *other_, *bent_, *out_ = nullptr;
  double *mass_, *bias_;
  const float *source_ = nullptr, *origin_ = nullptr;
  const double* prior_ = nullptr;
  double target_ = 0, t_ = 1;
};

Status Checked(const FeaturesArgs& args) {
  UAPFAST_CHECK(args.models >= 0 && args.views >= 0 && args.blocks >= 0 && args.points >= 0 && args.classes >= 1 &&
                    args.count >= 0,
                "features: sizes must be >= 0, and classes >= 1");
  UAPFAST_CHECK(args.steps >= 0 && args.least > 0 && 0 < args.low && args.low <= args.high && args.bias >= 0 &&
                    args.floor >= 0 && args.root > 0 && args.clip > 0,
                "features: steps, least, range, bias, floor, root and clip must not be negative, nor the range empty");
  UAPFAST_CHECK(args.groups || args.count == 0, "features: groups must not be null");
  int64_t views = 0;
  for (int64_t g = 0; g < args.count; ++g) {
    UAPFAST_CHECK(args.groups[g] >= 1, "features: groups must have a view each");
    views += args.groups[g];
  }
  UAPFAST_CHECK(views == args.views, "features: groups must add to %lld views", static_cast<long long>(args.views));
  return Status::Ok();
}

}  // namespace

Status Features(const FeaturesArgs& args, int threads, int level) {
  UAPFAST_RETURN_IF_ERROR(Checked(args));
  Level chosen;
  UAPFAST_RETURN_IF_ERROR(ResolveLevel(level, &chosen));
  const int64_t each = args.count * args.blocks, items = args.models * each;
  if (items == 0 || args.points == 0) return Status::Ok();
  UAPFAST_CHECK(args.answers && args.target && args.prior && args.origin && args.out,
                "features: buffers must not be null");
  const lanes::Kernels& kernels = lanes::For(chosen);
  const int64_t bytes = 64 * args.views * args.blocks * args.points * args.classes / each;
  std::atomic<int64_t> next{0};  // groups are of unlike size: whoever is free takes the next item
  std::atomic<bool> out_of_memory{false};
  ParallelFor(items, std::max<int64_t>(bytes, 1), threads, [&](int64_t, int64_t) {
    try {
      Item item(args, kernels);
      for (int64_t i = items - 1 - next++; i >= 0; i = items - 1 - next++) {  // the last groups are the largest
        const int64_t group = i % args.count, block = i / args.count % args.blocks;
        int64_t first = 0;
        for (int64_t g = 0; g < group; ++g) first += args.groups[g];
        item.Run(i / each, group, first, args.groups[group], block);
      }
    } catch (const std::bad_alloc&) {
      out_of_memory = true;
    }
  });
  if (out_of_memory) return Status::Error(Code::kOutOfMemory, "features: no memory for the logarithms");
  return Status::Ok();
}

}  // namespace uapfast::cpu
