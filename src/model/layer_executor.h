// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_MODEL_LAYER_EXECUTOR_H_
#define NFLOAT_MODEL_LAYER_EXECUTOR_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <span>

#include "kernels/dispatch.h"
#include "model/kv_cache.h"
#include "model/linear_id.h"
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
  LinearObserver* beside = nullptr;  // the model's, set by the executor
  // Looked at before each layer and before logits: true throws kInterrupted. Outlives the executor.
  const std::function<bool()>* cancelled = nullptr;

  Precision of_rows(int64_t rows) const noexcept {
    return rows > 1 ? many_rows_precision.value_or(precision) : precision;
  }
};

// y[row][0..outputs) = W x[row] + bias for all rows of `x`, which `activations` have been assigned, shown to
// the observer before and after.
void apply_linear(const LinearGroup& group, const LinearId& id, Activations& activations,
                  const ActivationRows& x, float* y, int64_t y_stride, const RunOptions& options);

// Runs the parts of a model on rows of float32 hidden states: at most as many rows and threads as the
// workspace is reserved for. `x` is [rows][hidden] and may be workspace.x.
class LayerExecutor {
 public:
  LayerExecutor(const Model::State& model, Workspace& workspace, const RunOptions& options) noexcept;

  // x = what the first layer reads: embeddings, and learned positions where the family has them.
  void embed(std::span<const TokenRun> runs, float* x);

  // Replaces x by what layer number `layer`, with these weights, makes of it. Its keys and values go to place
  // `cache_layer` of the segments' caches: the layer's number in a cache of the whole model.
  void layer(int64_t layer, const LayerWeights& weights, std::span<const Segment> segments, float* x,
             int64_t cache_layer);

  // Makes the hidden state of one token, `x` [hidden], row `slot` of the next call of head(). Overwrites the
  // workspace's `normed`.
  void select(const float* x, int64_t slot) noexcept;
  // Logits [count][vocabulary] of the rows selected into [0, count).
  void head(int64_t count, float* logits);

 private:
  struct Pass;  // one call of layer()

  void expect_wanted() const;  // throws where the caller cancelled
  void expect_finite(int64_t layer, const float* values, int64_t count, const char* what) const;

  const Model::State& model_;
  const ModelConfig& config_;
  Workspace& workspace_;
  const kernels::TransformerKernels& kernels_;
  RunOptions options_;
};

}  // namespace nfloat

#endif  // NFLOAT_MODEL_LAYER_EXECUTOR_H_
