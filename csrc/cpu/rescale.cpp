#include "uapfast/rescale.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <new>

#include "lanes.h"
#include "parallel.h"

namespace uapfast::cpu {
namespace {

using lanes::kRows;

// One item: its logarithms in blocks of kRows rows side by side ([block][classes][kRows]), and what is fitted.
class Fit {
 public:
  Fit(const RescaleArgs& args, const lanes::Kernels& kernels, int64_t item, float* logs, float* e, float* bent,
      double* bias, double* mass)
      : args_(args), kernels_(kernels), logs_(logs), e_(e), bent_(bent), bias_(bias), mass_(mass),
        target_(args.target[item]), prior_(args.prior + item * args.classes),
        source_(args.probabilities + item * args.rows * args.classes),
        out_(args.out + item * args.rows * args.classes) {}

  void Run() {
    Load();
    std::fill(bias_, bias_ + args_.classes, 0.0);
    for (int64_t step = 0; step < args_.steps; ++step) {
      Heat();
      Heat();
      Shift();
    }
    Each([&](int64_t row, int64_t count, const float* high, const float*) {
      for (int64_t j = 0; j < count; ++j) {
        float* target = out_ + (row + j) * args_.classes;
        for (int64_t k = 0; k < args_.classes; ++k) target[k] = e_[k * kRows + j] * high[j];
      }
    });
  }

 private:
  void Load() {
    const float least = static_cast<float>(args_.least);
    const int64_t blocks = (args_.rows + kRows - 1) / kRows;
    std::fill(logs_, logs_ + blocks * args_.classes * kRows, 0.0f);  // lanes beyond the last row stay finite
    for (int64_t row = 0; row < args_.rows; ++row) {
      float* block = logs_ + row / kRows * args_.classes * kRows + row % kRows;
      const float* p = source_ + row * args_.classes;
      for (int64_t k = 0; k < args_.classes; ++k) block[k * kRows] = std::log(p[k] < least ? least : p[k]);
    }
  }

  // body(first row, rows, largest softmax of each, what slope there is) after each block; e_ is its exponentials.
  template <typename Body>
  void Each(const Body& body) {
    for (int64_t k = 0; k < args_.classes; ++k) bent_[k] = static_cast<float>(bias_[k]);
    float high[kRows], away[kRows];
    for (int64_t row = 0; row < args_.rows; row += kRows) {
      kernels_.bend(logs_ + row * args_.classes, args_.classes, static_cast<float>(t_), bent_, e_, high, away);
      body(row, std::min<int64_t>(kRows, args_.rows - row), high, away);
    }
  }

  // One step of Newton's for the mean largest probability, in log t.
  void Heat() {
    double sum = 0, gain = 0;
    Each([&](int64_t, int64_t count, const float* high, const float* away) {
      for (int64_t j = 0; j < count; ++j) {
        sum += static_cast<double>(high[j]);
        gain += static_cast<double>(high[j]) * static_cast<double>(away[j]);
      }
    });
    const double rows = static_cast<double>(args_.rows);
    const double slope = std::max(t_ * (gain / rows), 1e-9);
    const double step = std::clamp((target_ - sum / rows) / slope, -0.7, 0.7);
    t_ = std::clamp(t_ * std::exp(step), args_.low, args_.high);
  }

  // One step of the biases towards the class frequencies; a uniform row more on both sides keeps it short.
  void Shift() {
    std::fill(mass_, mass_ + args_.classes, 0.0);
    Each([&](int64_t, int64_t count, const float* high, const float*) {
      for (int64_t k = 0; k < args_.classes; ++k) {
        for (int64_t j = 0; j < count; ++j) mass_[k] += static_cast<double>(e_[k * kRows + j] * high[j]);
      }
    });
    const double rows = static_cast<double>(args_.rows), one = 1.0 / static_cast<double>(args_.classes);
    double mean = 0;
    for (int64_t k = 0; k < args_.classes; ++k) {
      bias_[k] += std::log((rows * prior_[k] + one) / (mass_[k] + one));
      mean += bias_[k] * one;
    }
    for (int64_t k = 0; k < args_.classes; ++k) {
      bias_[k] = std::clamp(bias_[k] - mean, -args_.bias, args_.bias);
    }
  }

  const RescaleArgs& args_;
  const lanes::Kernels& kernels_;
  float *logs_, *e_, *bent_;
  double *bias_, *mass_;
  const double target_;
  const double* prior_;
  const float* source_;
  float* out_;
  double t_ = 1.0;
};

}  // namespace

Status Rescale(const RescaleArgs& args, int threads, int level) {
  UAPFAST_CHECK(args.items >= 0 && args.rows >= 0 && args.classes >= 1,
                "rescale: probabilities must have shape [items >= 0, rows >= 0, classes >= 1], got "
                "[%lld, %lld, %lld]",
                static_cast<long long>(args.items), static_cast<long long>(args.rows),
                static_cast<long long>(args.classes));
  UAPFAST_CHECK(args.steps >= 0 && args.least > 0 && 0 < args.low && args.low <= args.high && args.bias >= 0,
                "rescale: steps, least, range and bias must not be negative, nor the range empty");
  Level chosen;
  UAPFAST_RETURN_IF_ERROR(ResolveLevel(level, &chosen));
  if (args.items == 0 || args.rows == 0) return Status::Ok();
  UAPFAST_CHECK(args.probabilities && args.target && args.prior && args.out, "rescale: buffers must not be null");
  const lanes::Kernels& kernels = lanes::For(chosen);
  const int64_t blocks = (args.rows + kRows - 1) / kRows;
  const auto floats = static_cast<size_t>((blocks + 1) * kRows * args.classes + args.classes);
  const auto doubles = static_cast<size_t>(2 * args.classes);
  std::atomic<bool> out_of_memory{false};
  ParallelFor(args.items, 64 * args.rows * args.classes, threads, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<float[]> single(new (std::nothrow) float[floats]);
    const std::unique_ptr<double[]> twice(new (std::nothrow) double[doubles]);
    if (!single || !twice) {
      out_of_memory = true;
      return;
    }
    float* e = single.get() + blocks * kRows * args.classes;
    float* bent = e + kRows * args.classes;
    for (int64_t item = begin; item < end; ++item) {
      Fit(args, kernels, item, single.get(), e, bent, twice.get(), twice.get() + args.classes).Run();
    }
  });
  if (out_of_memory) return Status::Error(Code::kOutOfMemory, "rescale: no memory for the logarithms");
  return Status::Ok();
}

}  // namespace uapfast::cpu
