// SPDX-License-Identifier: Apache-2.0
#include "base/fail.h"
#include "base/fnv.h"
#include "base/parallel.h"
#include "base/state_of.h"
#include "evaluate/distribution.h"
#include "evaluate/reference_file.h"
#include "nfloat/sampler.h"

namespace nfloat {
namespace {

struct Sum {
  double total = 0, squares = 0;
  void add(double value) noexcept {
    total += value;
    squares += value * value;
  }
  double mean(double count) const noexcept { return total / count; }
  double error(double count) const noexcept {
    const double m = mean(count);
    return count > 1 ? std::sqrt(std::max(0.0, squares / count - m * m) / (count - 1)) : 0;
  }
};

// Per token what two distributions have to say of each other.
class Comparison {
 public:
  explicit Comparison(int64_t tokens) {
    for (auto* list : {&reference_loss_, &loss_, &kl_}) list->resize(static_cast<size_t>(tokens));
    same_.resize(static_cast<size_t>(tokens));
  }

  void set(int64_t token, const ReferenceToken& reference, std::span<const float> logits,
           int32_t target) noexcept {
    const auto i = static_cast<size_t>(token);
    reference_loss_[i] = reference.loss;
    loss_[i] = -log_probability(logits, target);
    kl_[i] = kl_divergence(reference.logits, logits);
    same_[i] = reference.top == most_likely(logits);
  }

  // The perplexity over the first `count` tokens.
  double perplexity(int64_t count) const noexcept {
    double sum = 0;
    for (size_t i = 0; i < static_cast<size_t>(count); ++i) sum += loss_[i];
    return std::exp(sum / static_cast<double>(count));
  }

  DivergenceResult result(size_t windows) const {
    DivergenceResult result;
    const auto count = static_cast<double>(kl_.size());
    result.tokens = static_cast<int64_t>(kl_.size());
    LossMean reference, model;
    Sum kl, ratio, delta, delta_squared, same;
    double products = 0;
    for (size_t i = 0; i < kl_.size(); ++i) {
      reference.add(reference_loss_[i]);
      model.add(loss_[i]);
      products += reference_loss_[i] * loss_[i];
      kl.add(kl_[i]);
      ratio.add(loss_[i] - reference_loss_[i]);
      const double change = std::exp(-loss_[i]) - std::exp(-reference_loss_[i]);
      delta.add(change);
      delta_squared.add(change * change);
      same.add(same_[i]);
    }
    result.reference = reference.result(windows);
    result.model = model.result(windows);
    result.mean_kl = kl.mean(count);
    result.mean_kl_error = kl.error(count);
    result.log_ratio = ratio.mean(count);
    result.log_ratio_error = ratio.error(count);
    const double scatter = result.reference.standard_error * result.model.standard_error * (count - 1);
    result.correlation =
        scatter > 0 ? (products / count - result.reference.mean_loss * result.model.mean_loss) / scatter : 1;
    result.mean_delta_p = delta.mean(count);
    result.mean_delta_p_error = delta.error(count);
    result.rms_delta_p = std::sqrt(delta_squared.mean(count));
    if (result.rms_delta_p > 0)
      result.rms_delta_p_error = delta_squared.error(count) / (2 * result.rms_delta_p);
    result.same_top = same.mean(count);
    result.same_top_error = same.error(count);
    std::vector<double> sorted = kl_;
    std::sort(sorted.begin(), sorted.end());
    const auto quantile = [&](double share) {
      return sorted[std::min(sorted.size() - 1, static_cast<size_t>(count * share))];
    };
    result.median_kl = quantile(0.5);
    result.kl_90 = quantile(0.9);
    result.kl_95 = quantile(0.95);
    result.kl_99 = quantile(0.99);
    result.kl_999 = quantile(0.999);
    result.max_kl = sorted.back();
    result.token_kl.assign(kl_.begin(), kl_.end());
    result.token_loss.assign(loss_.begin(), loss_.end());
    return result;
  }

 private:
  std::vector<double> reference_loss_, loss_, kl_;
  std::vector<uint8_t> same_;
};

}  // namespace

double kl_divergence(std::span<const float> p, std::span<const float> q) noexcept {
  const double p_top = *std::max_element(p.begin(), p.end()), q_top = *std::max_element(q.begin(), q.end());
  double p_sum = 0, q_sum = 0, weighted = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const double a = static_cast<double>(p[i]) - p_top, b = static_cast<double>(q[i]) - q_top;
    const double e = std::exp(a);
    p_sum += e;
    q_sum += std::exp(b);
    weighted += e * (a - b);
  }
  return std::max(0.0, weighted / p_sum - std::log(p_sum) + std::log(q_sum));
}

void collect_rows(std::span<const WindowBatch> batches, const RunBatch& run, const VisitRows& visit,
                  const TokensDone& done) {
  constexpr size_t kPortionBytes = size_t{32} << 20;
  TokenRows rows;
  int64_t seen = 0;
  const auto flush = [&] {
    if (rows.targets.empty()) return;
    visit(rows);
    rows.first = seen;
    rows.logits.clear();
    rows.targets.clear();
  };
  for (const WindowBatch& batch : batches) {
    run(batch, [&](size_t entry, int64_t index, std::span<const float> logits) {
      const Window& window = batch[entry];
      if (index < window.first) return;
      rows.logits.insert(rows.logits.end(), logits.begin(), logits.end());
      rows.targets.push_back(window.targets[static_cast<size_t>(index)]);
      ++seen;
      if (rows.logits.size() * sizeof(float) >= kPortionBytes) flush();
    });
    flush();
    done(seen);
  }
}

RowSource rows_of(const Model& model, SequenceRunner& runner, std::span<const Window> windows) {
  return [&, windows](const VisitRows& visit, const TokensDone& done) {
    collect_rows(
        cut_batches(model, windows),
        [&](const WindowBatch& batch, const LogitsVisitor& visitor) {
          visit_windows(runner, batch, visitor);
        },
        visit, done);
  };
}

uint64_t windows_hash(std::span<const Window> windows) noexcept {
  uint64_t hash = kFnvStart;
  const auto add = [&hash](uint64_t value) { hash = fnv_step(hash, value); };
  for (const Window& window : windows) {
    add(static_cast<uint64_t>(window.first));
    for (const int32_t token : window.input) add(static_cast<uint32_t>(token));
    for (const int32_t token : window.targets) add(static_cast<uint32_t>(token));
  }
  return hash;
}

DivergenceResult divergence(const Model& reference, const Model& model, std::span<const int32_t> tokens,
                            const PerplexityOptions& options, std::optional<Precision> reference_precision) {
  if (reference.config().vocabulary != model.config().vocabulary)
    fail(ErrorCode::kInvalidArgument, "vocabularies of {} and {} tokens have no common distribution",
         reference.config().vocabulary, model.config().vocabulary);
  const PerplexityOptions own = resolved(model, options);
  const std::vector<Window> windows = cut_windows(tokens, own);
  const int64_t total = tokens_to_score(windows);
  SessionOptions reference_options = session_options(own);
  reference_options.precision = reference_precision;
  SequenceRunner reference_runner(reference, reference_options), runner(model, session_options(own));
  Comparison comparison(total);
  std::vector<float> kept;
  int64_t first = 0;
  // One window a time: the reference's logits of a whole window are held.
  for (size_t w = 0; w < windows.size(); ++w) {
    const std::span<const Window> one(&windows[w], 1);
    kept.clear();
    visit_windows(reference_runner, one, [&](size_t, int64_t index, std::span<const float> logits) {
      if (index >= one[0].first) kept.insert(kept.end(), logits.begin(), logits.end());
    });
    rows_of(model, runner, one)(
        [&](TokenRows& rows) {
          parallel_for(static_cast<int64_t>(rows.targets.size()), 4, 0, [&](int64_t begin, int64_t end) {
            for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i) {
              const std::span<const float> logits = rows.row(i);
              const std::span<const float> expected = std::span<const float>(kept).subspan(
                  (static_cast<size_t>(rows.first) + i) * logits.size(), logits.size());
              comparison.set(first + rows.first + static_cast<int64_t>(i),
                             {expected, -log_probability(expected, rows.targets[i]), most_likely(expected)},
                             logits, rows.targets[i]);
            }
          });
        },
        [](int64_t) {});
    first += windows[w].scored();
    if (own.progress) own.progress(first, total, comparison.perplexity(first));
  }
  return comparison.result(windows.size());
}

DivergenceResult divergence(const ReferenceDistributions& reference, const Model& model,
                            std::span<const int32_t> tokens, const PerplexityOptions& options) {
  const PerplexityOptions own = resolved(model, options);
  const std::vector<Window> windows = cut_windows(tokens, own);
  SequenceRunner runner(model, session_options(own));
  return divergence(reference, model.config().vocabulary, windows, rows_of(model, runner, windows), own);
}

DivergenceResult divergence(const ReferenceDistributions& reference, int64_t vocabulary,
                            std::span<const Window> windows, const RowSource& rows_of_model,
                            const PerplexityOptions& options) {
  const ReferenceDistributions::State& file = state_of(reference);
  if (file.vocabulary != vocabulary)
    fail(ErrorCode::kInvalidArgument, "vocabularies of {} and {} tokens have no common distribution",
         file.vocabulary, vocabulary);
  const int64_t total = tokens_to_score(windows);
  if (total != file.tokens || windows_hash(windows) != file.windows_hash)
    fail(ErrorCode::kInvalidArgument, "{}: made for another text, tokenizer, protocol or context",
         file.file.path());
  Comparison comparison(total);
  rows_of_model(
      [&](TokenRows& rows) {
        parallel_for(static_cast<int64_t>(rows.targets.size()), 4, 0, [&](int64_t begin, int64_t end) {
          std::vector<float> expected(static_cast<size_t>(file.vocabulary));
          for (int64_t i = begin; i < end; ++i) {
            const auto token = file.read(rows.first + i, expected.data());
            const auto row = static_cast<size_t>(i);
            comparison.set(rows.first + i, {expected, token.loss, token.top}, rows.row(row),
                           rows.targets[row]);
          }
        });
      },
      [&](int64_t count) {
        if (options.progress && count > 0) options.progress(count, total, comparison.perplexity(count));
      });
  return comparison.result(windows.size());
}

}  // namespace nfloat
