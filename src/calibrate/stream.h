// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CALIBRATE_STREAM_H_
#define NFLOAT_CALIBRATE_STREAM_H_

#include <algorithm>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/parallel.h"
#include "base/state_of.h"
#include "calibrate/cancel.h"
#include "calibrate/distill.h"
#include "evaluate/distribution.h"
#include "model/sequence_pass.h"
#include "tensor/floats.h"
#include "tensor/transpose.h"

namespace nfloat {

// The hidden states of some sequences between two layers of one version of the model.
class Stream {
 public:
  Stream(const Model& model, const TokenSequences& sequences, Workspace& workspace, int threads)
      : model_(model), pass_(model, sequences, KvCacheType::kF32), workspace_(workspace), threads_(threads) {
    LayerExecutor executor = make({});
    x_ = room();
    pass_.embed(executor, x_.all());
  }

  // Takes the states through a layer.
  void advance(int64_t layer, const LayerWeights& weights, LinearObserver* observer = nullptr) {
    CancelObserver asking(observer);
    LayerExecutor executor = make({.observer = &asking});
    pass_.layer(executor, layer, weights, x_.all());
  }
  // Shows what a product of the layer would see.
  void look(int64_t layer, const LayerWeights& weights, LinearObserver& observer,
            std::optional<LinearRole> until) {
    CancelObserver asking(&observer);
    LayerExecutor executor = make({.observer = &asking, .until = until});
    if (copy_.count() == 0) copy_ = room();
    workspace_.engine->copy(x_.all(), copy_.all(), pass_.rows(), model_.config().hidden);
    pass_.layer(executor, layer, weights, copy_.all());
  }
  std::vector<float> logits() {
    std::vector<float> all;
    LayerExecutor executor = make({});
    const Cancel cancel;
    pass_.logits(executor, x_.all(), [&](size_t, int64_t, std::span<const float> row) {
      cancel.expect_none();
      all.insert(all.end(), row.begin(), row.end());
    });
    return all;
  }
  int64_t rows() const noexcept { return pass_.rows(); }
  // The states as they are, to set them again.
  OwnedRows kept_states() {
    OwnedRows kept = room();
    workspace_.engine->copy(x_.all(), kept.all(), pass_.rows(), model_.config().hidden);
    return kept;
  }
  void set_states(const OwnedRows& kept) {
    workspace_.engine->copy(kept.all(), x_.all(), pass_.rows(), model_.config().hidden);
  }
  void swap_states(OwnedRows& other) noexcept { std::swap(x_, other); }

 private:
  LayerExecutor make(RunOptions options) {
    options.precision = Precision::kF32;
    options.threads = threads_;
    options.expect_finite = !options.until;
    workspace_.reserve(state_of(model_), std::min(pass_.rows(), kMaxRows));
    return LayerExecutor(state_of(model_), workspace_, options);
  }
  OwnedRows room() const { return {workspace_.engine, pass_.rows(), model_.config().hidden}; }

  const Model& model_;
  const SequencePass pass_;
  Workspace& workspace_;
  const int threads_;
  OwnedRows x_, copy_;
};

// Mean KL in nats of `logits` from `expected`, both [rows][width]. The same for every number of threads.
inline double mean_divergence(const std::vector<float>& expected, const std::vector<float>& logits,
                              size_t width, int threads) {
  const auto rows = static_cast<int64_t>(expected.size() / width);
  std::vector<double> each(static_cast<size_t>(rows));
  const Cancel cancel;
  parallel_for(rows, 4, threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end && !cancel.asked(); ++row) {
      const auto at = static_cast<size_t>(row);
      each[at] = kl_divergence(std::span(expected).subspan(at * width, width),
                               std::span(logits).subspan(at * width, width));
    }
  });
  cancel.expect_none();
  double sum = 0;
  for (const double value : each) sum += value;
  return sum / static_cast<double>(rows);
}

// A matrix of the checkpoint in float32, [out][in]; `transposed_there`: it is stored [in][out].
inline std::vector<float> stored_matrix(const Checkpoint& checkpoint, const std::string& name,
                                        bool transposed_there) {
  const TensorView view = checkpoint.view(name);
  std::vector<float> values = floats_of(view);
  checkpoint.release(view);
  return transposed_there ? transposed(values, view.shape[0], view.shape[1]) : values;
}

}  // namespace nfloat

#endif  // NFLOAT_CALIBRATE_STREAM_H_
