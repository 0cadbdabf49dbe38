// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TUNE_PASS_H_
#define NFLOAT_TUNE_PASS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "model/model_state.h"
#include "tune/adapter.h"
#include "tune/attention.h"
#include "tune/batch.h"
#include "tune/gradient_observer.h"
#include "tune/kept_rows.h"
#include "tune/low_rank.h"
#include "tune/memory.h"

namespace nfloat {

// What the forward pass of a layer leaves for its backward pass; all of [rows][...]. What one product reads
// or gives is kept in the precision of products.
struct Tape {
  float* input = nullptr;     // the residual stream before the layer
  KeptRows attention_normed;  // where a norm stands before
  KeptRows projected;         // queries, keys and values as they come from the matrices
  float* log_sums = nullptr;
  KeptRows attended;
  KeptRows attention_added;        // before a norm that stands after
  float* attention_sum = nullptr;  // before a norm of the residual stream
  float* middle = nullptr;         // the residual stream between the blocks
  KeptRows mlp_normed;
  KeptRows gate_up;
  KeptRows activated;
  KeptRows mlp_added;
  float* mlp_sum = nullptr;
  std::vector<float*> z[kPlaces];  // A x of each module,
  HalfRows z_halves[kPlaces];      // or of all of them side by side

  LowRows low(Place place) const noexcept {
    const auto at = static_cast<size_t>(place);
    return {z[at], z_halves[at]};
  }
};

inline constexpr int64_t kPiece = 1024;  // numbers of a row that are gone through together

// Forward and backward passes of batches of at most `rows` rows through one model with one adapter.
class Pass {
 public:
  // `positions`: of the longest document; rotary embeddings that depend on the length take this one.
  Pass(const Model& model, Adapter& adapter, const PassOptions& options, int64_t rows, int64_t positions);

  // Sum of -log p over the batch's targets, in nats. Throws kNotFinite naming layer and row.
  double loss(const Batch& batch, bool with_adapter);
  // The same, and adds `weight` times its gradient to the adapter's gradients.
  double loss_and_gradients(const Batch& batch, double weight, const DropoutKey& dropout);

  // What the head reads of each row, [rows][hidden]: to compare other weights with, which the same model is
  // given in the meantime.
  void features(const Batch& batch, float* to);
  // Sum of D(expected || own) over all rows, in nats, `expected` having been given by features(). Labels do
  // not count.
  double divergence(const Batch& batch, const float* expected);
  // The same, and shows `weight` times its gradient to the observer.
  double divergence_and_gradients(const Batch& batch, const float* expected, double weight,
                                  GradientObserver& observer);

  // Sum of -log p of each document's targets.
  std::vector<double> document_losses(const Batch& batch, bool with_adapter);
  // From those sums, `weigh` says the weight of each document's gradient, zeros before; these are added.
  using Weigh = std::function<void(std::span<const double> losses, std::span<double> weights)>;
  void document_gradients(const Batch& batch, const Weigh& weigh, const DropoutKey& dropout);

  int64_t capacity() const noexcept { return capacity_; }
  uint64_t bytes() const noexcept { return bytes_; }
  Recompute recompute() const noexcept { return options_.recompute; }
  // Whether what products read and give is kept in bf16.
  bool keeps_halves() const noexcept { return halves_; }

 private:
  float* take(int64_t width);
  KeptRows keep(int64_t width);
  void make_tape(Tape& tape, bool shared_norms);
  void make_z(Tape& tape, int64_t layer);

  void begin(const Batch& batch);
  void embed(const Batch& batch);
  void forward_layers(bool keep);
  void forward_layer(int64_t layer, Tape& tape, float* output);
  void attention_block(int64_t layer, Tape& tape);
  void mlp_block(int64_t layer, Tape& tape, float* output);
  void recompute_cheap(int64_t layer, Tape& tape);
  void backward_layers();
  void expect_wanted() const;  // throws where the caller cancelled
  void backward_layer(int64_t layer, Tape& tape);
  void backward_mlp(int64_t layer, Tape& tape);
  void backward_attention(int64_t layer, Tape& tape);
  double head(const Batch& batch, double weight, bool gradients);
  std::vector<double> losses_by_document() const;
  void head_slice(int64_t first, int64_t count, double weight, bool gradients);
  // Logits of features, without scale and cap; of the targets' rows; and from their gradients to gradient_.
  void product_head(const float* features, int64_t count, float* logits);
  void head_logits(int64_t first, int64_t count);
  void head_backward(int64_t first, int64_t count);
  double divergence_head(const Batch& batch, const float* expected, double weight, bool gradients);
  void compare_logits(int64_t first, int64_t count, double weight, bool gradients);

  std::span<LoraModule> modules(int64_t layer, Place place) noexcept;
  AttentionLayer attention_layer(int64_t layer) const;
  void normalize_rows(const NormWeights& norm, const KeptRows& from, const KeptRows& to);
  void activate_rows(const Tape& tape);
  void block_input(const NormWeights& norm, float* from, const KeptRows& to);
  KeptRows stream(float* rows) const noexcept { return {rows, nullptr, config_.hidden}; }
  float* mlp_stream(const Tape& tape) const noexcept {
    return config_.parallel_blocks ? tape.input : tape.middle;
  }
  // What the products of the blocks read.
  KeptRows attention_rows(const Tape& tape) const noexcept {
    return tape.attention_normed.is_kept() ? tape.attention_normed : stream(tape.input);
  }
  KeptRows mlp_rows(const Tape& tape) const noexcept {
    return tape.mlp_normed.is_kept() ? tape.mlp_normed : stream(mlp_stream(tape));
  }
  void normalize_backward(const NormWeights& norm, const float* x, const float* dy, float* dx,
                          bool accumulate);
  void product_backward(const LinearGroup& group, int64_t layer, Place place, const KeptRows& x,
                        const KeptRows& dy, const KeptRows& y, const LowRows& z, const KeptRows& dx);
  void add_block(const NormWeights& norm, const NormWeights& post_norm, const float* from,
                 const KeptRows& added, float* sum, float* to);
  // Gradient of what a block added, into d_added_; gradient_ becomes that of the stream beside it.
  void split_gradient(const NormWeights& norm, const NormWeights& post_norm, const KeptRows& kept_added,
                      const float* sum);
  void rotate_heads(int64_t layer, const KeptRows& projected);
  void rotate_back(int64_t layer, const KeptRows& projected);
  template <typename Body>
  void over_norms(const LayerWeights& weights, const Body& body) const;
  auto norm_backward() const noexcept {
    const kernels::TrainKernels& train = kernels::table().train;
    return config_.norm == NormKind::kLayer ? train.layer_norm_backward : train.rms_norm_backward;
  }
  bool norm_before() const noexcept {
    return config_.norm_place == NormPlace::kBefore || config_.norm_place == NormPlace::kAround;
  }
  template <typename Body>
  void over_rows(Body&& body) const;
  // body(row, scratch) with so many floats of scratch where rows are kept in halves.
  template <typename Body>
  void over_kept_rows(int64_t floats, Body&& body) const;
  [[noreturn]] void fail_not_finite(const Batch& batch) const;

  const Model model_;
  const Model::State& state_;
  const ModelConfig& config_;
  Adapter& adapter_;
  PassOptions options_;
  const bool halves_;  // whether what is kept for products is bf16
  AdaptedProducts products_;
  HeadPlaces places_;
  int64_t capacity_;
  uint64_t bytes_ = 0;
  std::vector<FloatMemory> memory_;

  std::shared_ptr<RopeTable> rope_, local_rope_;
  std::vector<float> rope_back_, local_rope_back_;  // the opposite angles

  std::vector<Tape> tapes_;     // one a layer, or one for all of them
  std::vector<float*> inputs_;  // of the layers and, last, of the head
  bool kept_ = false;           // of the batch at work: the inputs are those of the layers
  int64_t in_slot_ = -1;        // the layer whose values the one tape holds
  bool with_adapter_ = true;
  uint64_t factors_version_ = 0;  // of the adapter whose factors are made

  // Of the batch at work.
  int64_t rows_ = 0;
  std::vector<Document> documents_, longest_first_;
  std::vector<int64_t> positions_;  // by row
  struct Target {
    int64_t row;
    int32_t token;
    size_t document;
    double weight = 1;  // of its gradient, times that of the batch
  };
  std::vector<Target> targets_;

  KeptRows rotated_;           // [rows][projected]: queries and keys normed, scaled and rotated
  KeptRows d_rotated_;         // gradients of them, then of what the matrices gave; in halves where they lie
  float* added_ = nullptr;     // [rows][hidden]
  float* gradient_ = nullptr;  // of the residual stream
  KeptRows d_added_;           // of what a block added
  float* d_input_ = nullptr;   // of what a block read
  KeptRows d_attended_;        // [rows][query]
  // In halves these lie where what they are the gradients of did, unless DoRA reads that again.
  KeptRows d_activated_;  // [rows][intermediate]
  KeptRows d_gate_up_;
  float* embedded_ = nullptr;  // [rows][embedding_size]

  int64_t slice_ = 64;  // rows of logits that exist at once
  float *head_normed_ = nullptr, *head_projected_ = nullptr, *logits_ = nullptr, *d_projected_ = nullptr,
        *d_normed_ = nullptr;
  float* expected_logits_ = nullptr;  // of divergences, made for the first
  GradientObserver* observer_ = nullptr;
  std::vector<double> losses_;
  FrozenProducts head_products_;
};

}  // namespace nfloat

#endif  // NFLOAT_TUNE_PASS_H_
