// SPDX-License-Identifier: Apache-2.0
#include "convert/error_feedback.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "tensor/orthonormal.h"

namespace nfloat {
namespace {

constexpr size_t kLanes = 8;
constexpr int64_t kMostRank = 512;

float dot(const float* a, const float* b, size_t width) noexcept {
  float sums[kLanes] = {};
  for (size_t i = 0; i < width; i += kLanes)
    for (size_t lane = 0; lane < kLanes; ++lane) sums[lane] += a[i + lane] * b[i + lane];
  float sum = 0;
  for (const float lane : sums) sum += lane;
  return sum;
}

}  // namespace

bool ErrorFeedback::fits(const LoraDelta& delta) noexcept {
  return delta.rank > 0 && delta.rank <= kMostRank && delta.cols > 1 && delta.factors.empty() &&
         delta.whole == nullptr;
}

ErrorFeedback::ErrorFeedback(const LoraDelta& delta, const Codebook& codebook) : cols_(delta.cols) {
  std::vector<double> down(delta.down.begin(), delta.down.begin() + delta.rank * delta.cols);
  const std::vector<int64_t> rows = orthonormalize_rows(down, cols_);
  width_ = (rows.size() + kLanes - 1) / kLanes * kLanes;
  mu_ = 4 * static_cast<double>(cols_) / static_cast<double>(std::max<size_t>(1, rows.size()));
  basis_.resize(static_cast<size_t>(cols_) * width_);
  squares_.resize(static_cast<size_t>(cols_));
  for (size_t k = 0; k < rows.size(); ++k)
    for (size_t i = 0; i < squares_.size(); ++i)
      basis_[i * width_ + k] = static_cast<float>(down[static_cast<size_t>(rows[k]) * squares_.size() + i]);
  for (size_t i = 0; i < squares_.size(); ++i) {
    const float* column = basis_.data() + i * width_;
    squares_[i] = dot(column, column, width_);
  }
  const size_t count = codebook.levels.size();
  code_of_rank_.resize(count);
  std::iota(code_of_rank_.begin(), code_of_rank_.end(), uint8_t{0});
  std::stable_sort(code_of_rank_.begin(), code_of_rank_.end(),
                   [&](uint8_t a, uint8_t b) { return codebook.levels[a] < codebook.levels[b]; });
  rank_of_code_.resize(count);
  for (size_t rank = 0; rank < count; ++rank) {
    rank_of_code_[code_of_rank_[rank]] = static_cast<uint8_t>(rank);
    levels_.push_back(codebook.levels[code_of_rank_[rank]]);
  }
}

void ErrorFeedback::refine(std::span<const float> values, const float* scales, int64_t block_size,
                           uint8_t* codes) const {
  const auto cols = static_cast<size_t>(cols_);
  std::vector<float> error(cols), along(width_);
  std::vector<uint8_t> ranks(cols);
  for (size_t begin = 0; begin + cols <= values.size(); begin += cols) {
    const auto scale = [&](size_t i) { return scales[(begin + i) / static_cast<size_t>(block_size)]; };
    std::fill(along.begin(), along.end(), 0.0f);
    const auto add = [&](size_t i, float change) {
      const float* column = basis_.data() + i * width_;
      for (size_t k = 0; k < width_; ++k) along[k] += change * column[k];
    };
    for (size_t i = 0; i < cols; ++i) {
      const uint8_t pair = codes[(begin + i) / 2];
      ranks[i] = rank_of_code_[(begin + i) % 2 == 0 ? pair >> 4 : pair & 15];
      error[i] = levels_[ranks[i]] * scale(i) - values[begin + i];
      add(i, error[i]);
    }
    for (const double part : {0.0625, 0.25, 1.0}) {
      const auto mu = static_cast<float>(mu_ * part);
      for (size_t i = 0; i < cols; ++i) {
        const float pull = error[i] + mu * dot(along.data(), basis_.data() + i * width_, width_);
        const float stiffness = 1 + mu * squares_[i];
        float best = 0, change = 0;
        uint8_t to = ranks[i];
        for (const int step : {-1, 1}) {
          int rank = ranks[i] + step;
          // FP4 has its zero twice.
          while (rank >= 0 && rank < static_cast<int>(levels_.size()) &&
                 levels_[static_cast<size_t>(rank)] == levels_[ranks[i]])
            rank += step;
          if (rank < 0 || rank >= static_cast<int>(levels_.size())) continue;
          const float by = (levels_[static_cast<size_t>(rank)] - levels_[ranks[i]]) * scale(i);
          const float cost = by * (2 * pull + by * stiffness);
          if (!(cost < best)) continue;
          best = cost;
          change = by;
          to = static_cast<uint8_t>(rank);
        }
        if (to == ranks[i]) continue;
        ranks[i] = to;
        error[i] += change;
        add(i, change);
      }
    }
    for (size_t i = 0; i < cols; ++i) {
      uint8_t& pair = codes[(begin + i) / 2];
      const uint8_t code = code_of_rank_[ranks[i]];
      pair = static_cast<uint8_t>((begin + i) % 2 == 0 ? (pair & 15) | code << 4 : (pair & 0xF0) | code);
    }
  }
}

}  // namespace nfloat
