// SPDX-License-Identifier: Apache-2.0
#include "evaluate/layer_sweep.h"

#include <algorithm>

#include "base/fail.h"
#include "base/parallel.h"
#include "model/session_state.h"

namespace nfloat {
namespace {

int64_t inputs_of(std::span<const Window> windows) noexcept {
  int64_t total = 0;
  for (const Window& window : windows) total += static_cast<int64_t>(window.input.size());
  return total;
}

RunOptions run_options(const Model& model, const SessionOptions& options) {
  return {.precision = options.precision.value_or(model.options().precision),
          .threads = thread_count(options.threads != 0 ? options.threads : model.options().threads),
          .expect_finite = options.expect_finite};
}

}  // namespace

LayerSweep::LayerSweep(const Model& model, std::span<const Window> windows, const SessionOptions& options,
                       int64_t versions, uint64_t memory_bytes)
    : model_(model),
      batches_(cut_batches(windows)),
      cancelled_(options.cancelled),
      options_(run_options(model, options)),
      type_(resolved_cache(options.kv_cache, options_.precision)),
      pool_(one_layer_pages(model.config(), type_)),
      versions_(versions),
      tokens_(inputs_of(windows)),
      states_(versions, tokens_, model.config().hidden, memory_bytes) {}

void LayerSweep::over(int64_t version, const WindowBatch& batch, int64_t first, const Work& work) {
  if (cancelled_ && cancelled_()) fail(ErrorCode::kInterrupted, "cancelled by the caller");
  std::vector<std::span<const int32_t>> inputs;
  inputs.reserve(batch.size());
  for (const Window& window : batch) inputs.emplace_back(window.input);
  const SequencePass pass(model_, inputs, type_, pool_);
  workspace_.reserve(model_.config(), std::min(pass.rows(), kMaxRows), options_.threads);
  LayerExecutor executor(model_.state(), workspace_, options_);
  work(pass, executor, states_.open(version, first, pass.rows()));
}

void LayerSweep::embed() {
  int64_t first = 0;
  for (const WindowBatch& batch : batches_) {
    std::vector<float> embedded;
    over(0, batch, first, [&](const SequencePass& pass, LayerExecutor& executor, float* x) {
      pass.embed(executor, x);
      embedded.assign(x, x + pass.rows() * model_.config().hidden);
    });
    states_.keep();
    for (int64_t version = 1; version < versions_; ++version) {
      std::copy(embedded.begin(), embedded.end(), states_.open(version, first, inputs_of(batch)));
      states_.keep();
    }
    first += inputs_of(batch);
  }
}

void LayerSweep::layer(int64_t version, int64_t layer, const LayerWeights& weights, int64_t from,
                       const TokensDone& done) {
  int64_t first = 0;
  for (const WindowBatch& batch : batches_) {
    if (first < from) {
      first += inputs_of(batch);
      continue;
    }
    over(version, batch, first, [&](const SequencePass& pass, LayerExecutor& executor, float* x) {
      pass.layer(executor, layer, weights, x);
    });
    states_.keep();
    first += inputs_of(batch);
    done(first);
  }
}

RowSource LayerSweep::rows(int64_t version) {
  return [this, version](const VisitRows& visit, const TokensDone& done) {
    int64_t first = 0;
    collect_rows(
        batches_,
        [&](const WindowBatch& batch, const LogitsVisitor& visitor) {
          over(version, batch, first, [&](const SequencePass& pass, LayerExecutor& executor, float* x) {
            pass.logits(executor, x, visitor);
          });
          first += inputs_of(batch);
        },
        visit, done);
  };
}

}  // namespace nfloat
