// SPDX-License-Identifier: Apache-2.0
#include <map>

#include "base/parallel.h"
#include "calibrate/block_work.h"

namespace nfloat {
namespace {

constexpr int kBlocksAtOnce = 16;
constexpr int kSteps = 3;  // of stored scales to either side that a block tries, and their negatives
constexpr double kWorthwhile = 1e-5;  // share of a block's loss that a new coding has to win

// Of the columns [begin, end): the upper triangular U with U^T U = the inverse of H there.
using Range = std::pair<int64_t, int64_t>;
using RangeFactors = std::map<Range, std::vector<float>>;

std::vector<float> factor_of(const SquareMatrix& h, int64_t columns, const Range& range) {
  const int64_t n = range.second - range.first;
  const auto at = [n](int64_t i, int64_t j) { return static_cast<size_t>(i * n + j); };
  std::vector<double> lower(static_cast<size_t>(n * n)), upper(lower.size()), inverse(lower.size());
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j <= i; ++j) {
      double sum = h[static_cast<size_t>((range.second - 1 - i) * columns + range.second - 1 - j)];
      for (int64_t p = 0; p < j; ++p) sum -= lower[at(i, p)] * lower[at(j, p)];
      lower[at(i, j)] = i == j ? std::sqrt(std::max(sum, 1e-300)) : sum / lower[at(j, j)];
    }
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j <= i; ++j) upper[at(n - 1 - i, n - 1 - j)] = lower[at(i, j)];
  for (int64_t i = n - 1; i >= 0; --i) {
    inverse[at(i, i)] = 1;
    for (int64_t p = i + 1; p < n; ++p)
      for (int64_t j = p; j < n; ++j) inverse[at(i, j)] -= upper[at(i, p)] * inverse[at(p, j)];
    for (int64_t j = i; j < n; ++j) inverse[at(i, j)] /= upper[at(i, i)];
  }
  return {inverse.begin(), inverse.end()};
}

class Descent {
 public:
  Descent(const HessianFactor& factor, const RangeFactors& ranges, const Levels& levels,
          const StoredScales& scales, bool whole, Coding& coding, std::span<float> gradient)
      : h_(factor.damped),
        ranges_(ranges),
        levels_(levels),
        scales_(scales),
        whole_(whole),
        coding_(coding),
        gradient_(gradient),
        columns_(coding.columns) {}

  void run(int64_t unit) {
    const auto [first, last] = coding_.blocks_of_unit(unit);
    for (int64_t block = first; block < last; ++block) {
      coding_.parts_of(block, parts_);
      scale_alone(block);
      if (whole_) whole_block(block);
      single_codes(block);
    }
  }

 private:
  float scale(int64_t block) const noexcept {
    return scales_.at(block, coding_.scale_codes[static_cast<size_t>(block)]);
  }
  uint8_t& place(const BlockPart& part, int64_t column) {
    return coding_.places[static_cast<size_t>(part.row * columns_ + column)];
  }
  float level(const BlockPart& part, int64_t column) { return levels_.level[place(part, column)]; }
  float* gradient(const BlockPart& part) { return gradient_.data() + part.row * columns_; }

  // A weight of the row has changed by `change`.
  void moved(const BlockPart& part, int64_t column, float change) noexcept {
    float* g = gradient(part);
    const float* h = h_.data() + column * columns_;
    for (int64_t k = 0; k < columns_; ++k) g[k] += change * h[k];
  }

  void scale_alone(int64_t block) {
    const float old = scale(block);
    double slope = 0, curvature = 0;
    for (const BlockPart& part : parts_) {
      const float* g = gradient(part);
      for (int64_t j = part.begin; j < part.end; ++j) {
        const float v = level(part, j);
        if (v == 0) continue;
        slope += static_cast<double>(v) * static_cast<double>(g[j]);
        const float* h = h_.data() + j * columns_;
        float sum = 0;
        for (int64_t k = part.begin; k < part.end; ++k) sum += h[k] * level(part, k);
        curvature += static_cast<double>(v) * static_cast<double>(sum);
      }
    }
    if (!(curvature > 0)) return;
    const int code = scales_.nearest(block, static_cast<float>(static_cast<double>(old) - slope / curvature));
    const float change = scales_.at(block, code) - old;
    if (change == 0 || !(2 * change * slope + change * change * curvature < 0)) return;
    coding_.scale_codes[static_cast<size_t>(block)] = static_cast<uint8_t>(code);
    for (const BlockPart& part : parts_)
      for (int64_t j = part.begin; j < part.end; ++j)
        if (const float v = level(part, j); v != 0) moved(part, j, change * v);
  }

  void whole_block(int64_t block) {
    const float old = scale(block);
    wanted_.clear();
    double present = 0;
    for (const BlockPart& part : parts_) {
      // The best continuous block against all others: q - H^-1 G, with H^-1 = U^T U.
      const int64_t n = part.end - part.begin;
      const float* u = ranges_.at({part.begin, part.end}).data();
      const float* g = gradient(part) + part.begin;
      half_.assign(static_cast<size_t>(n), 0.0f);
      for (int64_t i = 0; i < n; ++i) {
        float sum = 0;
        for (int64_t j = i; j < n; ++j) sum += u[i * n + j] * g[j];
        half_[static_cast<size_t>(i)] = sum;
      }
      const size_t first = wanted_.size();
      wanted_.resize(first + static_cast<size_t>(n), 0.0f);
      float* distance = wanted_.data() + first;
      for (int64_t i = 0; i < n; ++i)
        for (int64_t j = i; j < n; ++j) distance[j] += u[i * n + j] * half_[static_cast<size_t>(i)];
      for (int64_t j = 0; j < n; ++j) {
        present += static_cast<double>(distance[j]) * static_cast<double>(g[j]);
        distance[j] = old * level(part, part.begin + j) - distance[j];
      }
    }
    if (!(present > 0)) return;
    candidates_.clear();
    const int code = coding_.scale_codes[static_cast<size_t>(block)];
    for (int step = -kSteps; step <= kSteps; ++step)
      for (const int tried : {code + step, StoredScales::kMirror - (code + step)})
        if (tried >= 0 && tried < 256 && scales_.at(block, tried) != 0) candidates_.push_back(tried);
    if (candidates_.empty()) return;
    const auto [best, loss] = judge(block);
    if (loss < (1 - kWorthwhile) * present) accept(block, best, old);
  }

  std::pair<int, double> judge(int64_t block) {
    float scale[kBlocksAtOnce], inverse[kBlocksAtOnce], loss[kBlocksAtOnce] = {};
    for (size_t l = 0; l < kBlocksAtOnce; ++l) {
      scale[l] = scales_.at(block, candidates_[std::min(l, candidates_.size() - 1)]);
      inverse[l] = 1 / scale[l];
    }
    lanes_.resize(wanted_.size() * kBlocksAtOnce);
    for (size_t i = 0; i < wanted_.size(); ++i)
      for (size_t l = 0; l < kBlocksAtOnce; ++l) lanes_[i * kBlocksAtOnce + l] = wanted_[i];
    float* t = lanes_.data();
    for (const BlockPart& part : parts_) {
      const int64_t n = part.end - part.begin;
      const float* u = ranges_.at({part.begin, part.end}).data();
      for (int64_t j = 0; j < n; ++j, t += kBlocksAtOnce) {
        float x[kBlocksAtOnce], level[kBlocksAtOnce], error[kBlocksAtOnce];
        for (int l = 0; l < kBlocksAtOnce; ++l) x[l] = t[l] * inverse[l];
        nearest_levels<kBlocksAtOnce>(levels_, x, level);
        const float weight = 1 / u[j * n + j];
        for (int l = 0; l < kBlocksAtOnce; ++l) {
          error[l] = (t[l] - scale[l] * level[l]) * weight;
          loss[l] += error[l] * error[l];
        }
        float* behind = t + kBlocksAtOnce;
        for (int64_t k = j + 1; k < n; ++k, behind += kBlocksAtOnce)
          for (int l = 0; l < kBlocksAtOnce; ++l) behind[l] -= error[l] * u[j * n + k];
      }
    }
    size_t best = 0;
    for (size_t l = 1; l < candidates_.size(); ++l)
      if (loss[l] < loss[best]) best = l;
    return {candidates_[best], static_cast<double>(loss[best])};
  }

  void accept(int64_t block, int code, float old) {
    const float scale = scales_.at(block, code), inverse = 1 / scale;
    coding_.scale_codes[static_cast<size_t>(block)] = static_cast<uint8_t>(code);
    float* t = wanted_.data();
    for (const BlockPart& part : parts_) {
      const int64_t n = part.end - part.begin;
      const float* u = ranges_.at({part.begin, part.end}).data();
      for (int64_t j = 0; j < n; ++j) {
        uint8_t& at = place(part, part.begin + j);
        const float before = old * levels_.level[at];
        at = static_cast<uint8_t>(levels_.nearest(t[j] * inverse));
        const float after = scale * levels_.level[at];
        const float error = (t[j] - after) / u[j * n + j];
        for (int64_t k = j + 1; k < n; ++k) t[k] -= error * u[j * n + k];
        if (after != before) moved(part, part.begin + j, after - before);
      }
      t += n;
    }
  }

  void single_codes(int64_t block) {
    const float scale = this->scale(block), inverse = 1 / scale;
    for (const BlockPart& part : parts_) {
      const float* g = gradient(part);
      for (int64_t j = part.begin; j < part.end; ++j) {
        uint8_t& at = place(part, j);
        const float q = scale * levels_.level[at];
        const float h = h_[static_cast<size_t>(j * columns_ + j)];
        const int better = levels_.nearest((q - g[j] / h) * inverse);
        const float change = scale * levels_.level[static_cast<size_t>(better)] - q;
        if (better == at || !(2 * change * g[j] + change * change * h < 0)) continue;
        at = static_cast<uint8_t>(better);
        moved(part, j, change);
      }
    }
  }

  const SquareMatrix& h_;
  const RangeFactors& ranges_;
  const Levels& levels_;
  const StoredScales& scales_;
  const bool whole_;
  Coding& coding_;
  const std::span<float> gradient_;
  const int64_t columns_;
  std::vector<BlockPart> parts_;
  std::vector<float> wanted_, half_, lanes_;
  std::vector<int> candidates_;
};

}  // namespace

void descend(const HessianFactor& factor, const Levels& levels, const StoredScales& scales, bool whole,
             int threads, Coding& coding, std::span<float> gradient) {
  RangeFactors ranges;
  if (whole) {
    std::vector<BlockPart> parts;
    std::vector<Range> wanted;
    const int64_t units = std::min<int64_t>(2, coding.units());  // the last one may be shorter
    for (int64_t i = 0; i < units; ++i) {
      const auto [first, last] = coding.blocks_of_unit(i == 0 ? 0 : coding.units() - 1);
      for (int64_t block = first; block < last; ++block) {
        coding.parts_of(block, parts);
        for (const BlockPart& part : parts)
          if (ranges.try_emplace({part.begin, part.end}).second) wanted.emplace_back(part.begin, part.end);
      }
    }
    parallel_for(static_cast<int64_t>(wanted.size()), 1, threads, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const Range& range = wanted[static_cast<size_t>(i)];
        ranges.at(range) = factor_of(factor.damped, coding.columns, range);
      }
    });
  }
  parallel_for(coding.units(), 1, threads, [&](int64_t begin, int64_t end) {
    Descent descent(factor, ranges, levels, scales, whole, coding, gradient);
    for (int64_t unit = begin; unit < end; ++unit) descent.run(unit);
  });
}

}  // namespace nfloat
