// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_MODEL_LAYER_EXECUTOR_H_
#define NFLOAT_MODEL_LAYER_EXECUTOR_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include "engine/layer_engine.h"
#include "model/kv_cache.h"
#include "model/model_state.h"
#include "model/rope.h"
#include "model/workspace.h"

namespace nfloat {

// Consecutive tokens of one sequence inside the rows of a pass.
struct Segment {
  KvCache* cache = nullptr;  // has room for its tokens
  // Reserved for its positions; null where no layer has that embedding.
  const RopeTable* rope = nullptr;
  const RopeTable* local_rope = nullptr;
  int64_t row = 0;  // its first row; the segments of a pass lie one after the other
  int64_t rows = 0;
  int64_t position = 0;              // of its first token
  LinearObserver* beside = nullptr;  // sees the products of its rows: adapters of one sequence
};

// Tokens whose embeddings are wanted, the first of them at `position`.
struct TokenRun {
  std::span<const int32_t> tokens;
  int64_t position = 0;
};

struct RunOptions {
  Precision precision = Precision::kBF16;
  std::optional<Precision> many_rows_precision = std::nullopt;  // of products of more than one row
  int threads = 0;
  bool expect_finite = false;  // a hidden state or logit that is not finite throws kNotFinite
  LinearObserver* observer = nullptr;
  // A layer ends once its observer has seen the input of this product, x being left in between: for who needs
  // no more than the inputs. The experts of a mixture are not stopped at.
  std::optional<LinearRole> until = std::nullopt;
  // Looked at before each product of a layer and before logits: true throws kInterrupted. Outlives the
  // executor.
  const std::function<bool()>* cancelled = nullptr;

  Precision of_rows(int64_t rows) const noexcept {
    return rows > 1 ? many_rows_precision.value_or(precision) : precision;
  }
};

// Runs the parts of a model on rows of hidden states by the steps of the workspace's engine: what is computed
// is said here, how by the engine. At most as many rows as the workspace is reserved for. `x` names rows
// [rows][hidden] of the engine and may be workspace.x.
class LayerExecutor {
 public:
  LayerExecutor(const Model::State& model, Workspace& workspace, const RunOptions& options) noexcept;

  // x = what the first layer reads: embeddings, and learned positions where the family has them.
  void embed(std::span<const TokenRun> runs, const BufferRows& x);

  // Replaces x by what layer number `layer`, with these weights, makes of it. Its keys and values go to place
  // `cache_layer` of the segments' caches: the layer's number in a cache of the whole model.
  void layer(int64_t layer, const LayerWeights& weights, std::span<const Segment> segments,
             const BufferRows& x, int64_t cache_layer);

  // Makes the hidden state of one token, the first row of x, row `slot` of the next call of head().
  // Overwrites the workspace's `normed`.
  void select(const BufferRows& x, int64_t slot);
  // Logits [count][vocabulary] of the rows selected into [0, count), of which the `best` largest of a row are
  // enough (BatchEntry::best); valid until the next step.
  const float* head(int64_t count, int64_t best);

  // To be called when a pass is done, unless head() came last: throws kNotFinite where expect_finite is asked
  // for and an engine whose steps run later has found a number that is not finite. The first of them is
  // named.
  void settle();

 private:
  class Pass;  // one call of layer()

  void expect_wanted() const;  // throws where the caller cancelled
  NormStep norm_step(const NormWeights& weights) const noexcept;
  void expect_finite(int64_t layer, const BufferRows& rows, int64_t count, int64_t width,
                     const char* what) const;

  const Model::State& model_;
  const ModelConfig& config_;
  Workspace& workspace_;
  LayerEngine& engine_;
  RunOptions options_;
};

}  // namespace nfloat

#endif  // NFLOAT_MODEL_LAYER_EXECUTOR_H_
