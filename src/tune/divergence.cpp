// SPDX-License-Identifier: Apache-2.0
// The divergence of a model's predictions from those of another version of it.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "kernels/dispatch.h"
#include "tune/pass-inl.h"

namespace nfloat {
namespace {

constexpr int64_t kSpan = 512;  // logits at work

}  // namespace

void Pass::features(const Batch& batch, float* to) {
  products_.set_dropout({});
  begin(batch);
  embed(batch);
  forward_layers(false);
  if (config_.final_norm) return normalize_rows(state_.final_norm, stream(inputs_.back()), stream(to));
  std::memcpy(to, inputs_.back(), static_cast<size_t>(rows_ * config_.hidden) * sizeof(float));
}

double Pass::divergence(const Batch& batch, const float* expected) {
  products_.set_dropout({});
  begin(batch);
  embed(batch);
  forward_layers(false);
  return divergence_head(batch, expected, 0, false);
}

double Pass::divergence_and_gradients(const Batch& batch, const float* expected, double weight,
                                      GradientObserver& observer) {
  products_.set_dropout({});
  begin(batch);
  embed(batch);
  forward_layers(true);
  observer_ = &observer;
  const double sum = divergence_head(batch, expected, weight, true);
  backward_layers();
  observer_ = nullptr;
  return sum;
}

double Pass::divergence_head(const Batch& batch, const float* expected, double weight, bool gradients) {
  targets_.clear();
  for (int64_t row = 0; row < rows_; ++row) targets_.push_back({row, 0, 0});
  losses_.assign(targets_.size(), 0.0);
  if (expected_logits_ == nullptr) {
    memory_.emplace_back(slice_ * config_.vocabulary);
    bytes_ += memory_.back().bytes();
    expected_logits_ = memory_.back().data();
  }
  for (int64_t first = 0; first < rows_; first += slice_) {
    expect_wanted();
    const int64_t count = std::min(slice_, rows_ - first);
    product_head(expected + first * config_.hidden, count, expected_logits_);
    head_logits(first, count);
    compare_logits(first, count, weight, gradients);
    if (gradients) head_backward(first, count);
  }
  double sum = 0;
  for (const double loss : losses_) sum += loss;
  if (!std::isfinite(sum)) fail_not_finite(batch);
  return sum;
}

// Of D(p || q), p by expected_logits_ and q by logits_: the values, and in logits_ the gradients.
void Pass::compare_logits(int64_t first, int64_t count, double weight, bool gradients) {
  const kernels::KernelTable& table = kernels::table();
  const int64_t vocabulary = config_.vocabulary;
  const auto scale = static_cast<float>(config_.logit_scale);
  const auto cap = static_cast<float>(config_.logit_softcap);
  const auto factor = static_cast<float>(weight) * scale;
  // Scales and caps, and returns log(sum(exp)).
  const auto finish = [&](float* logits) {
    if (scale != 1.0f)
      for (int64_t j = 0; j < vocabulary; ++j) logits[j] *= scale;
    if (cap > 0) table.transformer.softcap(logits, cap, vocabulary);
    const float most = table.train.largest(logits, vocabulary);
    return static_cast<double>(most) + std::log(table.transformer.sum_exp(logits, most, vocabulary));
  };
  parallel_for(count, 1, options_.threads, [&](int64_t begin, int64_t end) {
    std::array<float, kSpan> p, q;
    for (int64_t i = begin; i < end; ++i) {
      float *own = logits_ + i * vocabulary, *wanted = expected_logits_ + i * vocabulary;
      const double own_sum = finish(own), wanted_sum = finish(wanted);
      double loss = 0;
      for (int64_t at = 0; at < vocabulary; at += kSpan) {
        const int64_t length = std::min(kSpan, vocabulary - at);
        std::copy(wanted + at, wanted + at + length, p.begin());
        table.train.exponentials(p.data(), static_cast<float>(wanted_sum), length);
        const double apart = own_sum - wanted_sum;
        for (int64_t j = 0; j < length; ++j)
          loss += static_cast<double>(p[static_cast<size_t>(j)]) *
                  (static_cast<double>(wanted[at + j]) - static_cast<double>(own[at + j]) + apart);
        if (!gradients) continue;
        std::copy(own + at, own + at + length, q.begin());
        table.train.exponentials(q.data(), static_cast<float>(own_sum), length);
        for (int64_t j = 0; j < length; ++j) {
          const auto k = static_cast<size_t>(j);
          const float x = own[at + j], bent = cap > 0 ? 1 - x / cap * (x / cap) : 1.0f;
          own[at + j] = (q[k] - p[k]) * factor * bent;
        }
      }
      losses_[static_cast<size_t>(first + i)] = loss;
    }
  });
}

}  // namespace nfloat
