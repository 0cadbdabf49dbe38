// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/fail.h"
#include "kernels/dispatch.h"
#include "model/finite.h"
#include "tune/pass-inl.h"

namespace nfloat {

// Cross-entropy over the rows that are targets, a slice at a time: nothing of the size rows x vocabulary is
// made. With gradients, gradient_ becomes that of the last layer's output, weight times each target's own.
double Pass::head(const Batch& batch, double weight, bool gradients) {
  if (gradients) std::memset(gradient_, 0, static_cast<size_t>(rows_ * config_.hidden) * sizeof(float));
  losses_.assign(targets_.size(), 0.0);
  const auto count = static_cast<int64_t>(targets_.size());
  for (int64_t first = 0; first < count; first += slice_) {
    expect_wanted();
    head_slice(first, std::min(slice_, count - first), weight, gradients);
  }
  double sum = 0;
  for (const double loss : losses_) sum += loss;
  if (!std::isfinite(sum)) fail_not_finite(batch);
  return sum;
}

void Pass::product_head(const float* features, int64_t count, float* logits) {
  const int64_t hidden = config_.hidden, embedding = config_.embedding_size;
  const int64_t width = embedding > 0 ? embedding : hidden;
  if (embedding > 0) {
    head_products_.multiply(state_.project_out, {features, hidden}, count, {head_projected_, embedding});
    features = head_projected_;
  }
  head_products_.multiply(state_.head, {features, width}, count, {logits, config_.vocabulary});
}

void Pass::head_logits(int64_t first, int64_t count) {
  const kernels::TransformerKernels& kernels = kernels::table().transformer;
  const int64_t hidden = config_.hidden;
  const auto epsilon = static_cast<float>(config_.norm_epsilon);
  const NormWeights& norm = state_.final_norm;
  parallel_for(count, 1, options_.threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* from = inputs_.back() + targets_[static_cast<size_t>(first + i)].row * hidden;
      float* to = head_normed_ + i * hidden;
      if (!config_.final_norm)
        std::copy(from, from + hidden, to);
      else if (config_.norm == NormKind::kLayer)
        kernels.layer_norm(from, norm.weight.data(), norm.bias.data(), epsilon, hidden, to);
      else
        kernels.rms_norm(from, norm.weight.data(), epsilon, hidden, to);
    }
  });
  product_head(head_normed_, count, logits_);
}

void Pass::head_slice(int64_t first, int64_t count, double weight, bool gradients) {
  const kernels::KernelTable& table = kernels::table();
  const int64_t vocabulary = config_.vocabulary;
  const auto over = [&](auto&& body) {
    parallel_for(count, 1, options_.threads, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) body(i);
    });
  };
  head_logits(first, count);
  const auto scale = static_cast<float>(config_.logit_scale);
  const auto cap = static_cast<float>(config_.logit_softcap);
  over([&](int64_t i) {
    float* logits = logits_ + i * vocabulary;
    const Target& target = targets_[static_cast<size_t>(first + i)];
    if (scale != 1.0f)
      for (int64_t j = 0; j < vocabulary; ++j) logits[j] *= scale;
    if (cap > 0) table.transformer.softcap(logits, cap, vocabulary);
    const float most = table.train.largest(logits, vocabulary);
    const double total = table.transformer.sum_exp(logits, most, vocabulary);
    losses_[static_cast<size_t>(first + i)] =
        std::log(total) + static_cast<double>(most) - static_cast<double>(logits[target.token]);
    if (!gradients) return;
    const float log_sum = most + static_cast<float>(std::log(total));
    const float at_target = logits[target.token];
    const float factor = static_cast<float>(weight * target.weight) * scale;
    if (cap > 0) {
      for (int64_t j = 0; j < vocabulary; ++j) {
        const float x = logits[j], p = std::exp(x - log_sum) - (j == target.token ? 1.0f : 0.0f);
        logits[j] = p * factor * (1 - x / cap * (x / cap));
      }
      return;
    }
    table.train.exponentials(logits, log_sum, vocabulary);
    logits[target.token] = std::expm1(at_target - log_sum);
    for (int64_t j = 0; j < vocabulary; ++j) logits[j] *= factor;
  });
  if (gradients) head_backward(first, count);
}

// From the gradients in logits_.
void Pass::head_backward(int64_t first, int64_t count) {
  const kernels::TrainKernels& train = kernels::table().train;
  const int64_t hidden = config_.hidden, vocabulary = config_.vocabulary, embedding = config_.embedding_size;
  const auto epsilon = static_cast<float>(config_.norm_epsilon);
  const NormWeights& norm = state_.final_norm;
  float* d_features = embedding > 0 ? d_projected_ : d_normed_;
  head_products_.multiply_transposed(state_.head, {logits_, vocabulary}, count,
                                     {d_features, embedding > 0 ? embedding : hidden});
  if (embedding > 0)
    head_products_.multiply_transposed(state_.project_out, {d_projected_, embedding}, count,
                                       {d_normed_, hidden});
  // The rows of a divergence follow one another.
  if (observer_ != nullptr && config_.final_norm)
    observer_->norm(norm, {inputs_.back() + targets_[static_cast<size_t>(first)].row * hidden, hidden},
                    {d_normed_, hidden}, count);
  const auto back = config_.norm == NormKind::kLayer ? train.layer_norm_backward : train.rms_norm_backward;
  parallel_for(count, 1, options_.threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t at = targets_[static_cast<size_t>(first + i)].row * hidden;
      if (config_.final_norm)
        back(inputs_.back() + at, norm.weight.data(), epsilon, hidden, d_normed_ + i * hidden, gradient_ + at,
             false);
      else
        std::copy(d_normed_ + i * hidden, d_normed_ + (i + 1) * hidden, gradient_ + at);
    }
  });
}

void Pass::fail_not_finite(const Batch& batch) const {
  const int64_t hidden = config_.hidden;
  const auto place_of = [&](int64_t at) {
    int64_t source = 0;
    for (const Document& document : batch.documents)
      if (at >= document.begin && at < document.begin + document.length) source = document.source;
    return fmt::format("row {} of the data", source + 1);
  };
  const auto cause = [&](int64_t layer) {
    return state_.checkpoint == nullptr ? std::string() : not_finite_cause(*state_.checkpoint, layer);
  };
  for (const Document& document : batch.documents)
    expect_finite_embeddings(
        state_,
        std::span(batch.tokens)
            .subspan(static_cast<size_t>(document.begin), static_cast<size_t>(document.length)),
        place_of(document.begin));
  // Without gradients the streams of the layers take turns in two places: which is whose is not known then.
  for (size_t layer = 0; layer < inputs_.size() && kept_; ++layer) {
    const int64_t at = first_not_finite({inputs_[layer], static_cast<size_t>(rows_ * hidden)});
    if (at >= 0)
      fail(ErrorCode::kNotFinite, "{}: {} is not finite{}", place_of(at / hidden),
           layer == 0 ? std::string("its embedding")
                      : fmt::format("the hidden state behind layer {}", layer - 1),
           cause(static_cast<int64_t>(layer) - 1));
  }
  for (size_t i = 0; i < losses_.size(); ++i)
    if (!std::isfinite(losses_[i]))
      fail(ErrorCode::kNotFinite, "{}: a logit is not finite{}", place_of(targets_[i].row),
           !kept_ && state_.checkpoint != nullptr ? not_finite_cause(*state_.checkpoint)
                                                  : cause(config_.layers));
  fail(ErrorCode::kNotFinite, "the loss is not finite{}", cause(config_.layers));
}

}  // namespace nfloat
