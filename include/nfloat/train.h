// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TRAIN_H_
#define NFLOAT_TRAIN_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "nfloat/api.h"
#include "nfloat/model.h"

// Low-rank adapters trained beside a frozen model (LoRA; on a 4-bit model QLoRA, Dettmers et al. 2023).
namespace nfloat {

// How the learning rate goes on behind the warm-up, as Transformers has them: linearly or along a cosine to
// 0 at the last step, or not at all, then without a warm-up.
enum class TrainSchedule : uint8_t { kLinear, kCosine, kConstant };

// What the forward pass keeps for the backward pass: everything; no norms and activations; only the inputs
// of the layers. The results are the same bits.
enum class Recompute : uint8_t { kNone, kCheap, kFull };

// What is made small: -log p of the rows' tokens; or, of pairs of answers to one prompt, of which one is
// preferred, the losses of DPO (Rafailov et al. 2023; the reference is the model without its adapter) and
// ORPO (Hong et al. 2024).
enum class TrainObjective : uint8_t { kTokens, kDpo, kOrpo };

struct TrainOptions {
  TrainObjective objective = TrainObjective::kTokens;
  double beta = 0.1;  // DPO: how much the reference holds; ORPO: the weight of the odds ratio, its lambda
  double label_smoothing = 0;  // DPO: the share of pairs that are taken to be the wrong way round

  // The adapter: y = W x + scale * B A x, scale = alpha / rank, or alpha / sqrt(rank) rank-stabilized.
  int64_t rank = 16;
  double alpha = 32;
  bool rank_stabilized = false;
  // Trained lengths of the rows of W + scale * B A beside their directions (DoRA, Liu et al. 2024).
  bool dora = false;
  double dropout = 0;  // of the inputs of A
  // Names or ends of names of matrices ("q_proj"), or expressions matched whole; empty: every matrix of the
  // layers.
  std::vector<std::string> targets;
  std::vector<int64_t> layers;  // empty: all
  // By module: an expression for the name or its end behind a dot; the first that matches counts.
  std::vector<std::pair<std::string, double>> rank_pattern, alpha_pattern;

  // Batches. Rows of the data longer than `length` tokens are cut.
  int64_t length = 1024;
  bool packing = true;  // as many whole rows as fit `length` are one row of a batch; they never see another
  bool shuffle = true;
  int64_t rows_per_batch = 0;  // that go through the model together; 0: by tokens_per_step
  int64_t accumulate = 0;      // batches a step; 0: by tokens_per_step
  int64_t tokens_per_step = 4096;

  int64_t steps = -1;  // -1: by epochs
  double epochs = 1;

  // AdamW as torch.optim has it; the norm of all gradients is clipped first (0: never).
  double learning_rate = 2e-4;
  double lora_plus = 1;  // the rate of B over that of A
  TrainSchedule schedule = TrainSchedule::kCosine;
  int64_t warmup_steps = -1;  // -1: by warmup_share
  double warmup_share = 0.03;
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8, weight_decay = 0;
  double clip = 1;

  uint64_t seed = 0;
  bool bf16 = false;  // gradients and weights of the backward products rounded to bf16
  std::optional<Recompute> recompute = std::nullopt;  // unset: the first that the memory there is allows
  int threads = 0;
  // Each of these ranks computes some of the batches of a step, batch i rank i modulo their number, and all
  // make the step with the sum: all have the whole model and the same rows, and call step() together. The
  // losses are those of one process up to the rounding of sums. Only TrainObjective::kTokens. Null: this
  // process alone.
  std::shared_ptr<Ranks> ranks = nullptr;
};

// One row of training data. labels[t + 1] is what is to be predicted at t, -100 where nothing is; as long as
// `tokens`.
struct TrainRow {
  std::vector<int32_t> tokens, labels;
};

// Means over pairs.
struct TrainPreference {
  int64_t pairs = 0;
  double loss = 0;
  // Reward of the chosen answer over that of the rejected one: DPO: beta times the difference of
  // log p - log p of the reference; ORPO: beta times the difference of mean log p.
  double margin = 0;
  double accuracy = 0;              // share of pairs whose margin is above 0
  double chosen = 0, rejected = 0;  // log p of the answers; with ORPO a token
};

struct TrainStep {
  int64_t step = 0;      // from 1
  double loss = 0;       // nats a target, over the whole step; of pairs the mean over them
  double grad_norm = 0;  // before clipping
  double learning_rate = 0;
  int64_t tokens = 0;  // targets of the step
  int64_t rows = 0;    // tokens that went through the model
  double seconds = 0;
  std::optional<TrainPreference> preference = std::nullopt;  // of pairs
};

struct TrainLoss {
  double sum = 0;  // nats
  int64_t tokens = 0;
  double mean() const noexcept { return tokens == 0 ? 0 : sum / static_cast<double>(tokens); }
};

// Peak memory of a run, computed from the configuration.
struct TrainMemory {
  Recompute recompute = Recompute::kNone;
  int64_t rows = 0;            // tokens of the largest batch
  int64_t parameters = 0;      // trained numbers
  uint64_t model_bytes = 0;    // weights as they are packed, the head's copy and the embeddings
  uint64_t adapter_bytes = 0;  // with gradients, moments, layouts for products
  uint64_t pass_bytes = 0;     // what the forward pass keeps and the backward pass needs
  uint64_t working_bytes = 0;  // activations packed for products, threads' own, the program itself
  uint64_t device_bytes = 0;   // of another device, where products with frozen matrices run there
  uint64_t peak_bytes() const noexcept { return model_bytes + adapter_bytes + pass_bytes + working_bytes; }
};

// One entry a level. `weight_bits`: of the layers' matrices (NF4 in blocks of 64: 4.5); `plain`: of
// embeddings and head, and of matrices that are not quantized: more is kept of what products with f16 and f32
// weights read. Batches are as large as the options allow. `on_device`: the model is on another device than
// the CPU. Throws kUnsupported for mixtures, kInvalidArgument for targets.
NFLOAT_API std::vector<TrainMemory> plan_train_memory(const ModelConfig& config, const TrainOptions& options,
                                                      double weight_bits, DType plain = DType::kBF16,
                                                      bool on_device = false);

// One training run. The results do not depend on the number of threads; a run that was stopped, saved and
// resumed gives the same bits as one that was not.
class NFLOAT_API Trainer {
 public:
  // `model`: of any family whose layers are linear, 4-bit or plain. With DPO and ORPO rows 2 k and 2 k + 1
  // are a pair, the chosen and the rejected answer to the same prompt, each a whole row whose labels are the
  // answer; batches and steps count pairs. Throws kUnsupported (mixtures, int8 heads), kInvalidArgument
  // (options, tokens out of range, rows without a target).
  Trainer(const Model& model, std::vector<TrainRow> rows, const TrainOptions& options);
  Trainer(Trainer&&) noexcept;
  Trainer& operator=(Trainer&&) noexcept;
  ~Trainer();

  int64_t total_steps() const noexcept;
  int64_t finished_steps() const noexcept;
  int64_t parameters() const noexcept;  // trained numbers
  Recompute recompute() const;
  double epoch() const;  // passes over the data so far
  // Of the adapter, its optimizer (this rank's part, and what rank 0 gathers to save it) and the passes.
  uint64_t memory_bytes() const;

  // Starts from an adapter that PEFT or this class saved: its rank, alpha, scale and modules replace those
  // of the options. Before the first step, or behind the one that was meant to be the last, to evaluate what
  // was saved. Returns which pairs its configuration asks for and its file does not have, one sentence, which
  // are then not trained; empty where there are none. Throws kMalformedFile and so on, naming file and
  // tensor.
  std::string start_from(const std::string& folder);

  // Starts from what quantization lost: scale * B A is the nearest of its rank to W - Q, W the weights of the
  // plain model in `folder` (LoftQ with the 4-bit weights kept). Before the first step only. Throws
  // kMalformedFile (other shapes), kUnsupported (DoRA), kInvalidArgument (nothing was lost).
  void start_from_original(const std::string& folder);

  // The next step. Throws kNotFinite naming step and batch when the loss or a gradient is not finite; the
  // adapter is then as before the step. Throws kInvalidArgument after the last step.
  TrainStep step();

  // Of rows that are not trained on, -log p of their labels; the adapter may be left out.
  TrainLoss evaluate(std::span<const TrainRow> rows, bool with_adapter = true);
  // Of pairs that are not trained on. Throws kInvalidArgument where the run is not one of pairs.
  TrainPreference evaluate_pairs(std::span<const TrainRow> rows, bool with_adapter = true);
  // DPO: the reference's log-probabilities of all rows, which the first step computes otherwise; nothing
  // where they are known or not needed. They are kept with checkpoints. `progress`: called with pairs done
  // and pairs in all, may throw to cancel.
  void compute_reference(const std::function<void(int64_t, int64_t)>& progress = nullptr);

  // The gradients of the first batches that a step takes, to `path`: safetensors, names and shapes of the
  // adapter's tensors. Returns what step() would say of them. Nothing is changed.
  TrainStep dump_gradients(const std::string& path);

  // Writes adapter_model.safetensors and adapter_config.json to a folder that appears whole; `base` is the
  // name of the model in them.
  void save_adapter(const std::string& folder, const std::string& base) const;
  // The same with what resume() needs beside it. `note` is the caller's, UTF-8.
  // Of several ranks, called by all of them: rank 0 can save a checkpoint until the next step.
  void gather_state();
  void save_checkpoint(const std::string& folder, const std::string& base,
                       const std::string& note = "") const;
  // Goes on where the checkpoint was saved; returns its note. Throws kInvalidArgument when data or options
  // are others, kMalformedFile where a part of the checkpoint is missing.
  std::string resume(const std::string& folder);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace nfloat

#endif  // NFLOAT_TRAIN_H_
