#include "uapfast/leave_one_out.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <new>

#include "parallel.h"
#include "rounds.h"

namespace uapfast::cpu {
namespace {

using namespace rounds;

class Suspect {
 public:
  explicit Suspect(const Shared& shared)
      : s_(shared), a_(shared.args), own_(a_.views, a_.models), some_(a_.views, s_.n), across_(a_.views, s_.n),
        seen_(a_.views, s_.Q), along_(s_.n, s_.N), squares_(s_.n, s_.N), part_along_(s_.n, s_.Q),
        pair_along_(s_.n, s_.pairs * a_.candidates), shares_(s_.rounds, s_.n), lengths_(s_.rounds, s_.N),
        pair_(s_.rounds, s_.pairs * a_.candidates), inner_(s_.rounds + 2, s_.N), template_(s_.n, a_.candidates + 3),
        round_(a_.views, s_.n), found_(a_.views, a_.candidates + 3), middle_(a_.views, a_.models),
        square_(static_cast<size_t>(a_.views)), beside_(square_), center_(square_),
        ridge_(static_cast<size_t>(s_.rounds)), largest_(ridge_), weights_(static_cast<size_t>(s_.Q)) {
    for (Change& change : changes_) {
      change.sign.resize(static_cast<size_t>(s_.rounds));
      change.pull.resize(static_cast<size_t>(3 * s_.rounds));
      change.inner = Rows(s_.rounds, s_.N);
      change.taken = Rows(s_.rounds, s_.n);
      change.shadow = Rows(s_.rounds, s_.Q);
    }
  }

  void Run(int64_t suspect) {
    Center(a_.products + suspect * a_.views * s_.N);
    Combine();
    Ridge();
    count_ = 0;
    LeaveOut();
    if (!a_.alone) LetIn();
    Squares();
    if (a_.freed) Free();
    for (int64_t c = 0; c < count_; ++c) {
      s_.Multiply(changes_[c].inner[0], changes_[c].inner.Width(), s_.rounds, s_.parts, s_.N, changes_[c].shadow);
    }
    s_.Multiply(shares_[0], shares_.Width(), s_.rounds, pair_along_, s_.n, pair_);
    double* out = a_.out + suspect * s_.rounds * a_.views * a_.candidates;
    for (int64_t round = 0; round < s_.rounds; ++round) {
      Weigh(round);
      Score(round, out + round * a_.views * a_.candidates);
    }
  }

 private:
  bool Own(int64_t round) const { return round == s_.n; }  // the suspect's

  // The suspect's products from the innocents' mean.
  void Center(const double* products) {
    const int64_t models = a_.models;
    total_.assign(static_cast<size_t>(s_.N), 0.0);
    const double largest = LargestOf(products, a_.views * s_.N, s_.scale);
    noise_ = std::max(largest * a_.noise, std::numeric_limits<double>::min());
    scale_ = largest * static_cast<double>(a_.views);
    for (int64_t v = 0; v < a_.views; ++v) {
      const double* p = products + v * s_.N;
      double mean = 0;
      for (int64_t i = 0; i < s_.n; ++i) mean += p[a_.some[i]];
      mean /= static_cast<double>(s_.n);
      for (int64_t m = 0; m < models; ++m) {
        own_[v][m] = a_.alone ? 0.0 : p[m] - mean - a_.mean[v * models + m] + s_.grand[v];
        total_[m] += own_[v][m];
      }
      square_[v] = a_.alone ? 0.0 : p[models] - 2.0 * mean + s_.grand[v];
      total_[models] += square_[v];
      for (int64_t i = 0; i < s_.n; ++i) some_[v][i] = own_[v][a_.some[i]];
      beside_[v] = Dot(own_[v], a_.origin, models) + s_.last * square_[v];
      for (int64_t m = 0; m < models; ++m) middle_[v][m] = a_.middle[v * models + m] + s_.last * own_[v][m];
      center_[v] = Dot(middle_[v], a_.origin, models) + s_.last * beside_[v];
    }
    s_.Multiply(some_[0], some_.Width(), a_.views, s_.vectors, s_.n, across_);
    s_.Multiply(own_[0], own_.Width(), a_.views, s_.parts, models, seen_);
  }

  // The pool with the suspect: everything over all views.
  void Combine() {
    const int64_t models = a_.models, C = a_.candidates, P = a_.pieces;
    std::vector<double> part(static_cast<size_t>(s_.Q), 0.0);  // of the suspect with the parts' pool
    for (int64_t v = 0; v < a_.views; ++v) {
      for (int64_t q = 0; q < s_.Q; ++q) {
        part[q] += seen_[v][q];
        seen_[v][q] += square_[v] * s_.parts[models][q];
      }
    }
    for (int64_t k = 0; k < s_.n; ++k) {
      double across = 0;
      for (int64_t v = 0; v < a_.views; ++v) across += across_[v][k];
      std::copy(a_.along + k * models, a_.along + (k + 1) * models, along_[k]);
      along_[k][models] = across;
      for (int64_t m = 0; m < s_.N; ++m) squares_[k][m] = along_[k][m] * along_[k][m];
      for (int64_t q = 0; q < s_.Q; ++q) part_along_[k][q] = s_.part_along[k][q] + across * s_.parts[models][q];
      for (int64_t p = 0, at = 0; p < P; ++p) {
        for (int64_t q = p; q < P; ++q, at += C) {
          for (int64_t c = 0; c < C; ++c) {
            pair_along_[k][at + c] = part_along_[k][p * C + c] * part_along_[k][q * C + c];
          }
        }
      }
    }
    pairs_.assign(static_cast<size_t>(s_.pairs * C), 0.0);
    for (int64_t p = 0, at = 0; p < P; ++p) {
      for (int64_t q = p; q < P; ++q, at += C) {
        for (int64_t c = 0; c < C; ++c) {
          const int64_t x = p * C + c, y = q * C + c;
          double sum = 0;
          for (int64_t m = 0; m < models; ++m) sum += s_.parts[m][x] * s_.part_inner[m][y];
          const double u = s_.parts[models][x], w = s_.parts[models][y];
          pairs_[at + c] = sum + u * part[y] + part[x] * w + u * w * total_[models];
        }
      }
    }
    // rows of the innocents, the suspect, the origin
    for (int64_t r = 0; r <= s_.n; ++r) {
      const double* row = r < s_.n ? a_.total + a_.some[r] * models : total_.data();
      std::copy(row, row + models, inner_[Row(r)]);
      inner_[Row(r)][models] = total_[r < s_.n ? a_.some[r] : models];
    }
    double* origin = inner_[s_.rounds + 1];
    for (int64_t m = 0; m < models; ++m) origin[m] = s_.origin_total[m] + s_.last * total_[m];
    origin[models] = Dot(total_.data(), a_.origin, models) + s_.last * total_[models];
  }

  // Where the products of innocent r, or (r = n) the suspect, stand.
  int64_t Row(int64_t r) const { return r < s_.n ? r : s_.rounds; }

  double Diagonal(int64_t m) const { return m < a_.models ? a_.total[m * (a_.models + 1)] : total_[m]; }

  void Ridge() {
    const double count = static_cast<double>(s_.n), mean = a_.alone ? 0.0 : 1.0 / (count + 1.0);
    const double square = total_[a_.models];
    double largest = 0, trace = 0;
    for (int64_t m = 0; m < s_.N; ++m) {
      largest = std::max(largest, Diagonal(m) - 2.0 * mean * total_[m] + mean * mean * square);
    }
    for (int64_t i = 0; i < s_.n; ++i) trace += Diagonal(a_.some[i]);
    const double least = std::max(a_.rounding * largest, noise_);
    for (int64_t r = 0; r < s_.rounds; ++r) {
      double part = trace;
      if (!Own(r)) {
        const double own = Diagonal(a_.some[r]);
        part -= count * s_.less * own;
        if (!a_.alone) {
          part += (count - 1.0) / count * (square + 2.0 * s_.less * total_[a_.some[r]] + s_.less * s_.less * own);
        }
      }
      ridge_[r] = std::max(a_.shrink * part, least);
      for (int64_t k = 0; k < s_.n; ++k) shares_[r][k] = 1.0 / (a_.values[k] + ridge_[r]);
    }
  }

  // The product of the vector with products `inner` and another.
  double With(const double* inner, int64_t round, const Mix& mix) const {
    const int64_t model = Own(round) ? a_.models : a_.some[round];
    return mix.model * inner[model] + mix.suspect * inner[a_.models] + mix.origin * Dot(inner, a_.origin, s_.N);
  }

  // The vectors of all rounds whitened: their products with the models, as the next change.
  template <typename MixOf>
  Change& Whitened(const MixOf& mix_of) {
    Change& next = changes_[count_];
    for (int64_t r = 0; r < s_.rounds; ++r) {
      const Mix mix = mix_of(r);
      const int64_t model = Own(r) ? a_.models : a_.some[r];
      for (int64_t k = 0; k < s_.n; ++k) {
        const double* along = along_[k];
        double one = mix.model * along[model] + mix.suspect * along[a_.models];
        if (mix.origin != 0.0) one += mix.origin * origin_along_[k];
        next.taken[r][k] = -one * shares_[r][k];
      }
      const double *own = inner_[Row(r)], *suspect = inner_[s_.rounds], *origin = inner_[s_.rounds + 1];
      for (int64_t m = 0; m < s_.N; ++m) {
        next.inner[r][m] = mix.model * own[m] + mix.origin * origin[m] + mix.suspect * suspect[m];
      }
    }
    s_.Multiply(next.taken[0], next.taken.Width(), s_.rounds, along_, s_.n, next.inner, true);
    for (int64_t c = 0; c < count_; ++c) {
      const Change& change = changes_[c];
      for (int64_t r = 0; r < s_.rounds; ++r) {
        const double pull = change.sign[r] * With(change.inner[r], r, mix_of(r));
        next.pull[3 * r + c] = pull;
        for (int64_t m = 0; m < s_.N; ++m) next.inner[r][m] += pull * change.inner[r][m];
      }
    }
    ++count_;
    return next;
  }

  // Without the round's own innocent: in sums of what the ridge keeps, free of cancellation.
  void LeaveOut() {
    Change& change = changes_[count_++];
    const double factor = static_cast<double>(s_.n) * s_.less;
    for (int64_t k = 0; k < s_.n; ++k) origin_along_[k] = Dot(along_[k], a_.origin, s_.N);
    for (int64_t r = 0; r < s_.rounds; ++r) {
      double left = 0;
      for (int64_t k = 0; k < s_.n; ++k) {
        const double one = Own(r) ? 0.0 : s_.vectors[r][k], kept = one * (shares_[r][k] * ridge_[r]);
        change.taken[r][k] = kept;
        left += kept * one;
      }
      if (Own(r)) {  // nothing is left out of it
        change.sign[r] = 0.0;
        continue;
      }
      left = std::max(factor * left, ridge_[r] / (ridge_[r] + factor * Diagonal(a_.some[r])));  // its least value
      change.sign[r] = factor / ridge_[r] / left;
    }
    s_.Multiply(change.taken[0], change.taken.Width(), s_.rounds, along_, s_.n, change.inner);
  }

  Mix Came(int64_t round) const { return Own(round) ? Mix{0, 0, 0} : Mix{s_.less, 0.0, 1.0}; }
  Mix Way(int64_t round) const {
    if (a_.alone) return {s_.less, 1.0, 0.0};
    const double share = Own(round) ? 0.0 : 1.0 / static_cast<double>(s_.n);
    return {share, 1.0, -share};
  }

  // With the suspect.
  void LetIn() {
    const auto mix = [this](int64_t r) { return Came(r); };
    Change& change = Whitened(mix);
    const double share = 1.0 - 1.0 / static_cast<double>(s_.n);
    for (int64_t r = 0; r < s_.rounds; ++r) {
      const double square = std::max(With(change.inner[r], r, mix(r)), 0.0);
      change.sign[r] = Own(r) ? 0.0 : -share / (ridge_[r] + share * square);
    }
  }

  // Squared lengths of all models in the rounds, and the largest.
  void Squares() {
    s_.Multiply(shares_[0], shares_.Width(), s_.rounds, squares_, s_.n, lengths_);
    for (int64_t r = 0; r < s_.rounds; ++r) {
      double* row = lengths_[r];
      for (int64_t m = 0; m < s_.N; ++m) row[m] = Diagonal(m) - row[m];
    }
    for (int64_t c = 0; c < count_; ++c) Add(changes_[c]);
    Largest();
  }

  void Add(const Change& change) {
    for (int64_t r = 0; r < s_.rounds; ++r) {
      for (int64_t m = 0; m < s_.N; ++m) {
        lengths_[r][m] += change.sign[r] * (change.inner[r][m] * change.inner[r][m]);
      }
    }
  }

  // What lengths are held against: of the models, or the products that they are differences of.
  void Largest() {
    for (int64_t r = 0; r < s_.rounds; ++r) largest_[r] = LargestOf(lengths_[r], s_.N, scale_);
  }

  // Without the direction from the others' mean to the origin.
  void Free() {
    const auto mix = [this](int64_t r) { return Way(r); };
    Change& change = Whitened(mix);
    for (int64_t r = 0; r < s_.rounds; ++r) {
      const double length = Length(With(change.inner[r], r, mix(r)), largest_[r], a_.rounding);
      change.sign[r] = -1.0 / (length * length);
    }
    Add(change);
    Largest();
  }

  // What each part adds to the unit template of its candidate.
  void Weigh(int64_t round) {
    const int64_t C = a_.candidates, P = a_.pieces;
    for (int64_t c = 0; c < C; ++c) {
      double whole = 0;
      for (int64_t p = 0, at = c; p < P; ++p) {
        for (int64_t q = p; q < P; ++q, at += C) {
          double pair = pairs_[at] - pair_[round][at];
          for (int64_t j = 0; j < count_; ++j) {
            const double* shadow = changes_[j].shadow[round];
            pair += changes_[j].sign[round] * shadow[p * C + c] * shadow[q * C + c];
          }
          pair_[round][at] = pair;
          if (p == q) weights_[p * C + c] = a_.weights[p] / Length(pair, largest_[round], a_.rounding);
        }
      }
      for (int64_t p = 0, at = c; p < P; ++p) {
        for (int64_t q = p; q < P; ++q, at += C) {
          whole += (p == q ? 1.0 : 2.0) * weights_[p * C + c] * weights_[q * C + c] * pair_[round][at];
        }
      }
      const double length = Length(whole, largest_[round], a_.rounding);
      for (int64_t p = 0; p < P; ++p) weights_[p * C + c] /= length;
    }
  }

  void Score(int64_t round, double* out) {
    const int64_t C = a_.candidates, P = a_.pieces, n = s_.n, models = a_.models;
    const int64_t model = Own(round) ? models : a_.some[round];
    for (int64_t k = 0; k < n; ++k) {  // templates, then the changes' vectors
      double* row = template_[k];
      std::fill(row, row + C, 0.0);
      for (int64_t p = 0; p < P; ++p) {
        for (int64_t c = 0; c < C; ++c) row[c] -= weights_[p * C + c] * part_along_[k][p * C + c];
      }
      for (int64_t c = 0; c < C; ++c) row[c] *= shares_[round][k];
      for (int64_t j = 0; j < count_; ++j) row[C + j] = changes_[j].taken[round][k];
    }
    for (int64_t v = 0; v < a_.views; ++v) {
      const double* back = Own(round) ? across_[v] : a_.back + (v * n + round) * n;
      for (int64_t k = 0; k < n; ++k) {
        round_[v][k] = back[k] - (a_.middle_back[v * n + k] + s_.last * across_[v][k]);
      }
    }
    s_.Multiply(round_[0], round_.Width(), a_.views, template_, n, found_);
    const Mix residual{1.0, -1.0, 0.0};
    double square = inner_[Row(round)][model] - 2.0 * With(inner_[Row(round)], round, {0.0, 1.0, 0.0}) +
                    Dot(inner_[s_.rounds + 1], a_.origin, s_.N);
    for (int64_t k = 0; k < n; ++k) {
      const double one = along_[k][model] - origin_along_[k];
      square -= shares_[round][k] * (one * one);
    }
    pulls_.assign(static_cast<size_t>(3 * C), 0.0);
    for (int64_t j = 0; j < count_; ++j) {
      const Change& change = changes_[j];
      const double one = With(change.inner[round], round, residual);
      square += change.sign[round] * (one * one);
      for (int64_t c = 0; c < C; ++c) {
        for (int64_t p = 0; p < P; ++p) pulls_[j * C + c] += weights_[p * C + c] * change.shadow[round][p * C + c];
        pulls_[j * C + c] *= change.sign[round];
      }
    }
    const double scale = static_cast<double>(a_.views) / Length(square, largest_[round], a_.rounding);
    for (int64_t v = 0; v < a_.views; ++v) {
      double sees[3] = {};  // of each change
      for (int64_t j = 0; j < count_; ++j) {
        sees[j] = found_[v][C + j];
        if (j == 0) continue;
        const Mix mix = j == 1 && !a_.alone ? Came(round) : Way(round);
        const double own = Own(round) ? square_[v] - beside_[v] : a_.squares[v * n + round] - middle_[v][model];
        const double origin = (Own(round) ? beside_[v] : middle_[v][model]) - center_[v];
        const double suspect = (Own(round) ? square_[v] : own_[v][model]) - beside_[v];
        sees[j] += mix.model * own + mix.origin * origin + mix.suspect * suspect;
        for (int64_t i = 0; i < j; ++i) sees[j] += changes_[j].pull[3 * round + i] * sees[i];
      }
      for (int64_t c = 0; c < C; ++c) {
        double sum = found_[v][c];
        for (int64_t p = 0; p < P; ++p) {
          const int64_t q = p * C + c;
          const double last = s_.parts[models][q];
          double seen = Own(round) ? seen_[v][q] : a_.seen[(v * n + round) * s_.Q + q] + own_[v][model] * last;
          seen -= a_.middle_seen[v * s_.Q + q] + (beside_[v] - s_.last * square_[v]) * last + s_.last * seen_[v][q];
          sum += weights_[q] * seen;
        }
        for (int64_t j = 0; j < count_; ++j) sum += pulls_[j * C + c] * sees[j];
        out[v * C + c] = sum * scale;
      }
    }
  }

  const Shared& s_;
  const LeaveOneOutArgs& a_;
  Rows own_, some_, across_, seen_, along_, squares_, part_along_, pair_along_, shares_, lengths_, pair_, inner_;
  Rows template_, round_, found_, middle_;
  std::vector<double> square_, beside_, center_, ridge_, largest_, weights_, total_, pairs_, pulls_;
  std::vector<double> origin_along_ = std::vector<double>(static_cast<size_t>(s_.n));
  Change changes_[3];
  int64_t count_ = 0;
  double noise_ = 0, scale_ = 0;
};

}  // namespace

Status LeaveOneOut(const LeaveOneOutArgs& args, int threads, int level) {
  UAPFAST_RETURN_IF_ERROR(rounds::Checked(args));
  Level chosen;
  UAPFAST_RETURN_IF_ERROR(ResolveLevel(level, &chosen));
  if (args.suspects == 0) return Status::Ok();
  std::atomic<bool> out_of_memory{false};
  try {
    const Shared shared(args, products::For(chosen));
    const int64_t bytes = 8 * shared.rounds * args.views * shared.n * args.candidates;
    ParallelFor(args.suspects, bytes, threads, [&](int64_t begin, int64_t end) {
      try {
        Suspect suspect(shared);
        for (int64_t i = begin; i < end; ++i) suspect.Run(i);
      } catch (const std::bad_alloc&) {
        out_of_memory = true;
      }
    });
  } catch (const std::bad_alloc&) {
    out_of_memory = true;
  }
  return out_of_memory ? Status::Error(Code::kOutOfMemory, "leave_one_out: no memory for the rounds") : Status::Ok();
}

}  // namespace uapfast::cpu
