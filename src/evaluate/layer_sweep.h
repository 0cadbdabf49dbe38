// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_EVALUATE_LAYER_SWEEP_H_
#define NFLOAT_EVALUATE_LAYER_SWEEP_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "evaluate/distribution.h"
#include "evaluate/hidden_states.h"
#include "model/sequence_pass.h"

namespace nfloat {

// Versions of one model that differ in the weights of their layers, taken over the same windows one layer
// after the other, so that the weights of one layer of one version are all that is in memory. Windows go
// together as they do where the model is resident: the logits are the same bit for bit.
class LayerSweep {
 public:
  // Of `model`, whose layers are not used, come the embeddings and the head. `windows` must outlive the
  // sweep. Hidden states take memory up to `memory_bytes`, else a file (HiddenStates).
  LayerSweep(const Model& model, std::span<const Window> windows, const SessionOptions& options,
             int64_t versions, uint64_t memory_bytes);

  HiddenStates& states() noexcept { return states_; }
  int64_t tokens() const noexcept { return tokens_; }  // of all windows

  // The embeddings, of all versions.
  void embed();
  // Takes a version through a layer with these weights, but for its first `from` tokens, which went through
  // before; done(tokens) after each batch of windows. Throws kNotFinite.
  void layer(int64_t version, int64_t layer, const LayerWeights& weights, int64_t from,
             const TokensDone& done);
  // The logits that count of a version that was taken through all layers.
  RowSource rows(int64_t version);

 private:
  // x: rows of the engine; kept: the same rows between layers.
  using Work = std::function<void(const SequencePass& pass, LayerExecutor& executor, const BufferRows& x,
                                  float* kept)>;
  void over(int64_t version, const WindowBatch& batch, int64_t first, const Work& work);
  void load(const float* kept, const BufferRows& x, int64_t rows);
  void store(const BufferRows& x, float* kept, int64_t rows);

  const Model model_;
  const std::vector<WindowBatch> batches_;
  const std::function<bool()> cancelled_;
  const RunOptions options_;  // without cancelled_: a batch goes through a layer or does not
  const KvCacheType type_;
  const std::shared_ptr<PagePool> pool_;
  const int64_t versions_, tokens_;
  Workspace workspace_;
  OwnedRows x_;
  HiddenStates states_;
};

}  // namespace nfloat

#endif  // NFLOAT_EVALUATE_LAYER_SWEEP_H_
