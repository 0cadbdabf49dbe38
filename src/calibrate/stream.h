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
#include "calibrate/states.h"
#include "evaluate/distribution.h"
#include "model/sequence_pass.h"
#include "tensor/floats.h"
#include "tensor/transpose.h"

namespace nfloat {

// The hidden states of some sequences between two layers of one version of the model. Only those of one chunk
// are in the engine at a time.
class Stream {
 public:
  // `folder`: where a file of the states lies; empty: they are in memory.
  Stream(const Model& model, const TokenSequences& sequences, Workspace& workspace, int threads,
         const std::string& folder = {})
      : model_(model),
        pass_(model, sequences, KvCacheType::kF32),
        workspace_(workspace),
        threads_(threads),
        states_(pass_.rows(), model.config().hidden, folder) {
    for (size_t chunk = 0; chunk < pass_.chunks(); ++chunk) {
      firsts_.push_back(chunk == 0 ? 0 : firsts_.back() + pass_.rows_of(chunk - 1));
      LayerExecutor executor = make({});
      pass_.embed(executor, chunk, room());
      put(chunk);
    }
  }

  int64_t rows() const noexcept { return pass_.rows(); }
  size_t chunks() const noexcept { return pass_.chunks(); }

  // Takes the states through a layer.
  void advance(int64_t layer, const LayerWeights& weights, LinearObserver* observer = nullptr) {
    CancelObserver asking(observer);
    for (size_t chunk = 0; chunk < chunks(); ++chunk) {
      LayerExecutor executor = make({.observer = &asking});
      take(chunk);
      pass_.layer(executor, layer, weights, chunk, room());
      put(chunk);
    }
  }
  // Shows what a product of the layer would see of a chunk; those before it were shown before.
  void look(int64_t layer, const LayerWeights& weights, LinearObserver& observer,
            std::optional<LinearRole> until, size_t chunk) {
    CancelObserver asking(&observer);
    LayerExecutor executor = make({.observer = &asking, .until = until});
    take(chunk);
    pass_.layer(executor, layer, weights, chunk, room());
  }
  std::vector<float> logits() {
    std::vector<float> all;
    const Cancel cancel;
    for (size_t chunk = 0; chunk < chunks(); ++chunk) {
      LayerExecutor executor = make({});
      take(chunk);
      pass_.logits(executor, chunk, room(), [&](size_t, int64_t, std::span<const float> row) {
        cancel.expect_none();
        all.insert(all.end(), row.begin(), row.end());
      });
    }
    return all;
  }
  // The states as they are, to set them again.
  States kept_states() const { return states_.copied(); }
  void set_states(const States& kept) { states_ = kept.copied(); }
  void swap_states(States& other) noexcept { std::swap(states_, other); }

 private:
  LayerExecutor make(RunOptions options) {
    options.precision = Precision::kF32;
    options.threads = threads_;
    options.expect_finite = !options.until;
    const int64_t rows = std::min(pass_.rows(), kMaxRows);
    workspace_.reserve(state_of(model_), rows);
    if (x_.count() == 0) x_ = {workspace_.engine, rows, model_.config().hidden};
    return LayerExecutor(state_of(model_), workspace_, options);
  }
  const BufferRows& room() const noexcept { return x_.all(); }
  void take(size_t chunk) {
    const int64_t rows = pass_.rows_of(chunk), width = model_.config().hidden;
    states_.read(firsts_[chunk], rows, workspace_.engine->host(room(), rows, width));
    workspace_.engine->write(room(), rows, width);
  }
  void put(size_t chunk) {
    const int64_t rows = pass_.rows_of(chunk);
    states_.write(firsts_[chunk], rows, workspace_.engine->read(room(), rows, model_.config().hidden));
  }

  const Model& model_;
  const SequencePass pass_;
  Workspace& workspace_;
  const int threads_;
  States states_;
  std::vector<int64_t> firsts_;  // rows, of the chunks
  OwnedRows x_;                  // those of a chunk at work
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
