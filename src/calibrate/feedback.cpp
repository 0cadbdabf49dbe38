// SPDX-License-Identifier: Apache-2.0
#include "base/parallel.h"
#include "calibrate/block_work.h"

namespace nfloat {
namespace {

constexpr int kLanes = 8;
// Scales are looked for from this share of the largest magnitude to that one.
constexpr float kLeastShare = .55f, kMostShare = 1.15f, kUsualShare = .9f;

struct Candidate {
  float loss;
  uint8_t code;
};

class Feedback {
 public:
  Feedback(std::span<const float> weights, const HessianFactor& factor, const Levels& levels,
           const StoredScales& scales, int finalists, Coding& coding)
      : weights_(weights),
        upper_(factor.upper),
        levels_(levels),
        scales_(scales),
        finalists_(static_cast<size_t>(std::clamp(finalists, 1, kLanes))),
        coding_(coding),
        columns_(coding.columns),
        inverse_diagonal_(static_cast<size_t>(columns_)) {
    for (int64_t j = 0; j < columns_; ++j)
      inverse_diagonal_[static_cast<size_t>(j)] = 1 / upper_[static_cast<size_t>(j * columns_ + j)];
  }

  void run(int64_t unit) {
    first_row_ = unit * coding_.unit_rows();
    const int64_t rows = std::min(coding_.unit_rows(), coding_.rows - first_row_);
    const auto from =
        weights_.subspan(static_cast<size_t>(first_row_ * columns_), static_cast<size_t>(rows * columns_));
    target_.assign(from.begin(), from.end());
    const auto [first, last] = coding_.blocks_of_unit(unit);
    for (int64_t block = first; block < last; ++block) code(block);
  }

 private:
  float* row(const BlockPart& part) { return target_.data() + (part.row - first_row_) * columns_; }

  void code(int64_t block) {
    coding_.parts_of(block, parts_);
    values_.clear();
    weight_.clear();
    for (const BlockPart& part : parts_)
      for (int64_t j = part.begin; j < part.end; ++j) {
        values_.push_back(row(part)[j]);
        weight_.push_back(inverse_diagonal_[static_cast<size_t>(j)]);
      }
    choose_candidates(block);
    const int best = candidates_.size() > 1 ? judge(block) : candidates_[0].code;
    coding_.scale_codes[static_cast<size_t>(block)] = static_cast<uint8_t>(best);
    settle(scales_.at(block, best));
  }

  void choose_candidates(int64_t block) {
    float most = 0;
    for (const float value : values_) most = std::max(most, std::fabs(value));
    candidates_.clear();
    for (int code = 0; code < 256; ++code) {
      const float scale = scales_.at(block, code), size = std::fabs(scale);
      if (size > 0 && size >= kLeastShare * most && size <= kMostShare * most)
        candidates_.push_back({cheap_loss(scale), static_cast<uint8_t>(code)});
    }
    if (candidates_.empty())
      candidates_.push_back({0, static_cast<uint8_t>(scales_.nearest(block, kUsualShare * most))});
    const size_t kept = std::min(finalists_, candidates_.size());
    std::partial_sort(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(kept),
                      candidates_.end(), [](const Candidate& a, const Candidate& b) {
                        return a.loss < b.loss || (a.loss == b.loss && a.code < b.code);
                      });
    candidates_.resize(kept);
  }

  // Without feedback.
  float cheap_loss(float scale) const noexcept {
    const float inverse = 1 / scale;
    float sums[kLanes] = {};
    size_t i = 0;
    for (; i + kLanes <= values_.size(); i += kLanes) {
      float x[kLanes], level[kLanes];
      for (size_t l = 0; l < kLanes; ++l) x[l] = values_[i + l] * inverse;
      nearest_levels<kLanes>(levels_, x, level);
      for (size_t l = 0; l < kLanes; ++l) {
        const float e = (values_[i + l] - scale * level[l]) * weight_[i + l];
        sums[l] += e * e;
      }
    }
    float sum = 0;
    for (; i < values_.size(); ++i) {
      const float level = levels_.level[static_cast<size_t>(levels_.nearest(values_[i] * inverse))];
      const float e = (values_[i] - scale * level) * weight_[i];
      sum += e * e;
    }
    for (const float part : sums) sum += part;
    return sum;
  }

  // The finalist that loses least when each column's error goes to those behind it in the block.
  int judge(int64_t block) {
    float scale[kLanes], inverse[kLanes], loss[kLanes] = {};
    for (size_t l = 0; l < kLanes; ++l) {
      scale[l] = scales_.at(block, candidates_[std::min(l, candidates_.size() - 1)].code);
      inverse[l] = 1 / scale[l];
    }
    lanes_.resize(values_.size() * kLanes);
    for (size_t i = 0; i < values_.size(); ++i)
      for (size_t l = 0; l < kLanes; ++l) lanes_[i * kLanes + l] = values_[i];
    float* t = lanes_.data();
    for (const BlockPart& part : parts_) {
      for (int64_t j = part.begin; j < part.end; ++j, t += kLanes) {
        const float* u = upper_.data() + j * columns_;
        float x[kLanes], level[kLanes], error[kLanes];
        for (int l = 0; l < kLanes; ++l) x[l] = t[l] * inverse[l];
        nearest_levels<kLanes>(levels_, x, level);
        for (int l = 0; l < kLanes; ++l) {
          error[l] = (t[l] - scale[l] * level[l]) * inverse_diagonal_[static_cast<size_t>(j)];
          loss[l] += error[l] * error[l];
        }
        float* behind = t + kLanes;
        for (int64_t k = j + 1; k < part.end; ++k, behind += kLanes)
          for (int l = 0; l < kLanes; ++l) behind[l] -= error[l] * u[k];
      }
    }
    size_t best = 0;
    for (size_t l = 1; l < candidates_.size(); ++l)
      if (loss[l] < loss[best]) best = l;
    return candidates_[best].code;
  }

  // Codes of the block at this scale; its errors go on to all columns behind.
  void settle(float scale) {
    const float inverse = 1 / scale;
    for (const BlockPart& part : parts_) {
      float* t = row(part);
      errors_.clear();
      for (int64_t j = part.begin; j < part.end; ++j) {
        const int place = levels_.nearest(t[j] * inverse);
        coding_.places[static_cast<size_t>(part.row * columns_ + j)] = static_cast<uint8_t>(place);
        const float error = (t[j] - scale * levels_.level[static_cast<size_t>(place)]) *
                            inverse_diagonal_[static_cast<size_t>(j)];
        errors_.push_back(error);
        const float* u = upper_.data() + j * columns_;
        for (int64_t k = j + 1; k < part.end; ++k) t[k] -= error * u[k];
      }
      feed_on(part, t);
    }
  }

  // t[k] -= sum of errors[j] U[j][k] over the columns k behind the part, four rows of U at a time.
  void feed_on(const BlockPart& part, float* t) const noexcept {
    const float* u = upper_.data() + part.begin * columns_;
    size_t j = 0;
    for (; j + 4 <= errors_.size(); j += 4, u += 4 * columns_) {
      const float a = errors_[j], b = errors_[j + 1], c = errors_[j + 2], d = errors_[j + 3];
      const float *ua = u, *ub = u + columns_, *uc = u + 2 * columns_, *ud = u + 3 * columns_;
      for (int64_t k = part.end; k < columns_; ++k) t[k] -= (a * ua[k] + b * ub[k]) + (c * uc[k] + d * ud[k]);
    }
    for (; j < errors_.size(); ++j, u += columns_)
      for (int64_t k = part.end; k < columns_; ++k) t[k] -= errors_[j] * u[k];
  }

  const std::span<const float> weights_;
  const SquareMatrix& upper_;
  const Levels& levels_;
  const StoredScales& scales_;
  const size_t finalists_;
  Coding& coding_;
  const int64_t columns_;
  std::vector<float> inverse_diagonal_;
  int64_t first_row_ = 0;
  std::vector<float> target_, values_, weight_, lanes_, errors_;
  std::vector<BlockPart> parts_;
  std::vector<Candidate> candidates_;
};

}  // namespace

void feed_back(std::span<const float> weights, const HessianFactor& factor, const Levels& levels,
               const StoredScales& scales, int finalists, int threads, Coding& coding) {
  parallel_for(coding.units(), 1, threads, [&](int64_t begin, int64_t end) {
    Feedback feedback(weights, factor, levels, scales, finalists, coding);
    for (int64_t unit = begin; unit < end; ++unit) feedback.run(unit);
  });
}

}  // namespace nfloat
