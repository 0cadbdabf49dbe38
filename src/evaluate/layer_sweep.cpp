// SPDX-License-Identifier: Apache-2.0
#include "evaluate/layer_sweep.h"

#include <algorithm>

#include "base/fail.h"
#include "base/parallel.h"
#include "base/state_of.h"
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
      pool_(one_layer_pages(model, type_)),
      versions_(versions),
      tokens_(inputs_of(windows)),
      states_(versions, tokens_, model.config().hidden, memory_bytes) {}

void LayerSweep::over(int64_t version, const WindowBatch& batch, int64_t first, const Work& work) {
  if (cancelled_ && cancelled_()) fail(ErrorCode::kInterrupted, "cancelled by the caller");
  std::vector<std::span<const int32_t>> inputs;
  inputs.reserve(batch.size());
  for (const Window& window : batch) inputs.emplace_back(window.input);
  const SequencePass pass(model_, inputs, type_, pool_);
  workspace_.reserve(state_of(model_), std::min(pass.rows(), kMaxRows));
  LayerExecutor executor(state_of(model_), workspace_, options_);
  if (x_.count() < pass.rows()) {
    x_ = OwnedRows();
    x_ = OwnedRows(workspace_.engine, pass.rows(), model_.config().hidden);
  }
  work(pass, executor, x_.all(), states_.open(version, first, pass.rows()));
}

void LayerSweep::load(const float* kept, const BufferRows& x, int64_t rows) {
  const int64_t width = model_.config().hidden;
  std::copy(kept, kept + rows * width, workspace_.engine->host(x, rows, width));
  workspace_.engine->write(x, rows, width);
}

void LayerSweep::store(const BufferRows& x, float* kept, int64_t rows) {
  const int64_t width = model_.config().hidden;
  const float* from = workspace_.engine->read(x, rows, width);
  std::copy(from, from + rows * width, kept);
}

void LayerSweep::embed() {
  int64_t first = 0;
  for (const WindowBatch& batch : batches_) {
    std::vector<float> embedded;
    over(0, batch, first,
         [&](const SequencePass& pass, LayerExecutor& executor, const BufferRows& x, float* kept) {
           pass.embed(executor, x);
           store(x, kept, pass.rows());
           embedded.assign(kept, kept + pass.rows() * model_.config().hidden);
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
    over(version, batch, first,
         [&](const SequencePass& pass, LayerExecutor& executor, const BufferRows& x, float* kept) {
           load(kept, x, pass.rows());
           pass.layer(executor, layer, weights, x);
           store(x, kept, pass.rows());
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
          over(version, batch, first,
               [&](const SequencePass& pass, LayerExecutor& executor, const BufferRows& x, float* kept) {
                 load(kept, x, pass.rows());
                 pass.logits(executor, x, visitor);
               });
          first += inputs_of(batch);
        },
        visit, done);
  };
}

}  // namespace nfloat
