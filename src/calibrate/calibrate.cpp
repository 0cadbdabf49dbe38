// SPDX-License-Identifier: Apache-2.0
#include "nfloat/calibrate.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "base/fail.h"
#include "base/parallel.h"
#include "bridge/gguf_plan.h"
#include "calibrate/cancel.h"
#include "calibrate/distill.h"
#include "calibrate/estimate.h"
#include "calibrate/inputs.h"
#include "calibrate/matrix.h"
#include "calibrate/stream.h"
#include "calibrate/super_coding.h"
#include "model/finite.h"
#include "model/layer_reader.h"
#include "model/loader.h"

namespace nfloat {
namespace {

constexpr int64_t kHeldShare = 10;                     // every tenth window
constexpr size_t kMostHeldLogits = size_t{256} << 20;  // bytes of logits of the held-back windows
constexpr int64_t kStartTokens = 65536;                // that levels 1 and 2 see before level 3
constexpr float kCorrection = .75f;                    // alpha of corrected_target

class Calibrator {
 public:
  Calibrator(std::shared_ptr<const Checkpoint> checkpoint, const ModelConfig& config,
             std::span<const std::vector<int32_t>> windows, const QuantizeCheckpointOptions& quantize,
             const CalibrationOptions& options)
      : checkpoint_(std::move(checkpoint)),
        options_(options),
        threads_(thread_count(options.threads)),
        model_(Model::load(checkpoint_, config, model_options(nullptr))),
        reader_(checkpoint_, config, model_.options()),
        calibrated_(
            checkpoint_, config,
            model_options([this](const std::string& name, std::span<float> weights, int64_t, int64_t) {
              const auto found = layer_.tensors.find(name);
              if (found != layer_.tensors.end()) decode(found->second, weights);
              const auto rows = layer_.blocks.find(name);
              if (rows != layer_.blocks.end()) decode_rows(rows->second, weights, threads_);
            })),
        plain_(checkpoint_, config,
               model_options([this](const std::string& name, std::span<float> weights, int64_t rows,
                                    int64_t columns) { round_plainly(name, weights, rows, columns); })) {
    if (!options.gguf) matrix_.codebook = make_codebook(quantize.format);
    matrix_.whole = !options.fast;
    matrix_.sweeps = 4;
    matrix_.threads = threads_;
    if (options.gguf)
      want_blocks(*options.gguf, config);
    else
      for (const TensorPlan& plan : plan_quantization(*checkpoint_, quantize).tensors)
        if (plan.quantize && plan.input.shape.rank() == 2)
          wanted_[plan.input.name] = {plan.input.dtype, plan.block_size, std::nullopt};
    const auto vocabulary = static_cast<size_t>(config.vocabulary);
    size_t held_tokens = 0;
    for (size_t i = 0; i < windows.size(); ++i) {
      const bool room = (held_tokens + windows[i].size()) * vocabulary * sizeof(float) <= kMostHeldLogits;
      const bool hold =
          static_cast<int64_t>(i) % kHeldShare == kHeldShare - 1 || (i == 1 && windows.size() < kHeldShare);
      if (hold && (room || held_.empty())) {
        held_.emplace_back(windows[i]);
        held_tokens += windows[i].size();
      } else {
        trained_.emplace_back(windows[i]);
      }
    }
    if (trained_.empty() || held_.empty())
      fail(ErrorCode::kInvalidArgument,
           "the text gives {} windows: at least two are needed, one of them to judge the result",
           windows.size());
    take_beside();
    if (options_.level < 3) return;
    double weights = 0;
    for (const auto& [name, wanted] : wanted_)
      weights += static_cast<double>(checkpoint_->find(name)->shape.elements());
    distillation_ = plan_distillation(config, weights, trained_, held_);
    check_available_memory(distillation_.memory_bytes, "calibration at level 3 of this model");
  }

  Calibration run() {
    quantize_layers();
    if (options_.level >= 3) follow_gradients();
    return std::move(result_);
  }

 private:
  // What the levels see beside the windows; of level 3 the start sees as large a share of it as of them.
  void take_beside() {
    CalibrationReport& report = result_.report;
    int64_t started = 0, started_beside = 0;
    for (const auto& window : trained_) {
      report.tokens += std::ssize(window);
      if (options_.level >= 3 && started >= kStartTokens) continue;
      started_.push_back(window);
      started += std::ssize(window);
    }
    for (const auto& window : options_.beside) report.beside_tokens += std::ssize(window);
    for (const auto& window : options_.beside) {
      trained_.emplace_back(window);
      if (started_beside * report.tokens >= started * report.beside_tokens) continue;
      started_.emplace_back(window);
      started_beside += std::ssize(window);
    }
  }

  // A matrix that is quantized.
  struct Wanted {
    DType dtype = DType::kBF16;
    int64_t block_size = 0;
    std::optional<GgufType> gguf;  // then not the others
  };
  bool keeps() const noexcept { return options_.keep_tensors || options_.level >= 3; }
  using Transform = decltype(ModelOptions::transform);

  void quantize_layers() {
    const int64_t layers = model_.config().layers;
    if (options_.earlier_layers > layers)
      fail(ErrorCode::kMalformedFile, "{} layers were calibrated before, the model has {}",
           options_.earlier_layers, layers);
    if (options_.estimated) options_.estimated(estimate());
    const std::string folder = states_bytes() > options_.states_in_memory ? options_.states_folder : "";
    const auto stream = [&](const TokenSequences& tokens) {
      return std::make_unique<Stream>(model_, tokens, workspace_, threads_, folder);
    };
    const auto original = stream(started_), quantized = options_.level >= 2 ? stream(started_) : nullptr;
    const auto held = stream(held_), held_result = stream(held_), held_plain = stream(held_);
    result_.report.held_tokens = held->rows();
    for (int64_t layer = 0; layer < layers; ++layer) {
      if (options_.progress) options_.progress(layer, layers);
      std::optional<LayerWeights> weights(reader_.layer(layer));
      layer_ = {};
      try {
        if (layer < options_.earlier_layers)
          take_earlier(layer, *weights, *original);
        else if (quantized)
          sequential_layer(layer, *weights, *original, *quantized);
        else
          independent_layer(layer, *weights, *original);
      } catch (const Error& error) {
        if (error.code() != ErrorCode::kNotFinite) throw;
        fail(error.code(), "layer {}: {}{}", layer, error.what(), not_finite_cause(*checkpoint_, layer));
      }
      add_to_report(layer < options_.earlier_layers);
      held->advance(layer, *weights);
      weights.reset();  // there is room for one layer
      weights.emplace(calibrated_.layer(layer));
      if (quantized) quantized->advance(layer, *weights);
      held_result->advance(layer, *weights);
      weights.reset();
      weights.emplace(plain_.layer(layer));
      held_plain->advance(layer, *weights);
      if (!keeps()) continue;
      result_.tensors.merge(layer_.tensors);
      result_.blocks.merge(layer_.blocks);
    }
    if (options_.progress) options_.progress(layers, layers);
    const std::vector<float> expected = held->logits();
    const auto width = static_cast<size_t>(model_.config().vocabulary);
    result_.report.kl = mean_divergence(expected, held_result->logits(), width, threads_);
    result_.report.plain_kl = mean_divergence(expected, held_plain->logits(), width, threads_);
  }

  void follow_gradients() {
    CalibrationReport& report = result_.report;
    Distilled distilled = distill({.checkpoint = checkpoint_,
                                   .config = model_.config(),
                                   .start = result_.tensors,
                                   .trained = trained_,
                                   .held = held_,
                                   .threads = threads_},
                                  distillation_, options_.distilling);
    report.start_kl = report.kl;
    if (distilled.steps == 0) return;
    report.kl = distilled.kl;
    report.steps = distilled.steps;
    report.changed_codes = distilled.changed_codes;
    result_.tensors = std::move(distilled.tensors);
    result_.norms = std::move(distilled.norms);
  }

  // Of the hidden states of all streams.
  uint64_t states_bytes() const {
    uint64_t tokens = 0;
    for (const auto& window : started_) tokens += window.size() * (options_.level >= 2 ? 2 : 1);
    for (const auto& window : held_) tokens += window.size() * 3;
    return tokens * static_cast<uint64_t>(model_.config().hidden) * sizeof(float);
  }

  CalibrationEstimate estimate() const {
    CalibrationWork work{.level = options_.level,
                         .layers = model_.config().layers - options_.earlier_layers,
                         .all_layers = model_.config().layers,
                         .hidden = model_.config().hidden,
                         .attention = model_.config().heads * model_.config().head_dim,
                         .vocabulary = model_.config().vocabulary};
    for (const auto& window : started_) work.add_window(std::ssize(window), false);
    for (const auto& window : held_) work.add_window(std::ssize(window), true);
    // The first layer stands for all.
    const ExpertsConfig& experts = model_.config().experts;
    for (int64_t expert = -1; expert < experts.count; ++expert)
      for (const LinearRole role :
           {LinearRole::kQueryKeyValue, LinearRole::kOutput, LinearRole::kGateUp, LinearRole::kDown}) {
        if (expert >= 0 && role != LinearRole::kGateUp && role != LinearRole::kDown) continue;
        const double share =
            expert < 0 ? 1 : static_cast<double>(experts.chosen) / static_cast<double>(experts.count);
        const LinearId id{0, role, expert};
        for (const std::string& name : reader_.tensors_of(id))
          if (const TensorInfo* info = checkpoint_->find(name); info != nullptr && info->shape.rank() == 2) {
            const bool other_way = reader_.stored_transposed();
            work.add_matrix(id, info->shape[other_way ? 1 : 0], info->shape[other_way ? 0 : 1], share,
                            info->bytes);
          }
      }
    work.head_bytes = model_.memory().head_bytes;
    work.distilled_tokens = distillation_.tokens;
    work.distilled_bytes = distillation_.memory_bytes;
    work.keeps_codings = keeps();
    work.states_bytes = states_bytes();
    work.states_in_file = !options_.states_folder.empty() && work.states_bytes > options_.states_in_memory;
    return estimate_calibration(work, threads_);
  }

  ModelOptions model_options(Transform transform) const {
    ModelOptions options;
    options.stream_layers = true;
    options.device = "cpu";
    options.precision = Precision::kF32;
    options.threads = threads_;
    options.transform = std::move(transform);
    return options;
  }

  void decode(const QuantizedTensor& tensor, std::span<float> weights) const {
    dequantize_blockwise(tensor, DType::kF32, std::as_writable_bytes(weights), threads_);
  }

  void round_plainly(const std::string& name, std::span<float> weights, int64_t rows, int64_t columns) const {
    const auto wanted = wanted_.find(name);
    if (wanted == wanted_.end()) return;
    cancel_.expect_none();
    if (const auto& type = wanted->second.gguf)
      return decode_rows(encoded_rows(*type, weights, rows, columns, threads_), weights, threads_);
    QuantizeOptions options;
    options.block_size = wanted->second.block_size;
    options.scale = ScaleMethod::kSigned;
    options.double_quantization = true;
    options.threads = threads_;
    decode(
        quantize_blockwise({DType::kF32, {rows, columns}, std::as_bytes(weights)}, matrix_.codebook, options),
        weights);
  }

  // The matrices that a GGUF file has in blocks of 4 to 6 bits; embedding and head have others.
  void want_blocks(GgufType type, const ModelConfig& config) {
    if (!is_calibrated(type))
      fail(ErrorCode::kUnsupported, "{} is not calibrated: Q4_0, IQ4_NL, IQ4_XS, Q4_K, Q5_K and Q6_K are",
           gguf_type_info(type).name);
    for (const GgufTarget& target : plan_gguf(*checkpoint_, config, "", type, "").targets)
      for (const GgufSource& source : target.sources)
        if (is_calibrated(target.type) && checkpoint_->find(source.name)->shape.rank() == 2)
          wanted_[source.name] = {DType::kF32, 0, target.type};
  }
  static bool is_calibrated(GgufType type) noexcept {
    return type == GgufType::kQ4_0 || type == GgufType::kIQ4_NL || SuperFormat::knows(type);
  }

  // What a run before has found.
  void take_earlier(int64_t layer, const LayerWeights& weights, Stream& original) {
    layer_ = options_.earlier(layer);
    for (auto& [name, tensor] : layer_.tensors) {
      const TensorInfo* info = checkpoint_->find(name);
      const auto wanted = wanted_.find(name);
      const bool fits = wanted != wanted_.end() && info != nullptr && !wanted->second.gguf &&
                        tensor.block_size == wanted->second.block_size &&
                        tensor.elements() == info->shape.elements();
      if (!fits) fail(ErrorCode::kMalformedFile, "{}: calibrated before for another model", name);
    }
    for (const auto& [name, rows] : layer_.blocks) {
      const TensorInfo* info = checkpoint_->find(name);
      const auto wanted = wanted_.find(name);
      if (wanted == wanted_.end() || info == nullptr || wanted->second.gguf != rows.type ||
          rows.rows * rows.columns != info->shape.elements() || rows.rows != rows_of(name))
        fail(ErrorCode::kMalformedFile, "{}: calibrated before for another model", name);
    }
    original.advance(layer, weights);
  }

  void add_to_report(bool earlier) {
    CalibrationReport& report = result_.report;
    report.tensors += std::ssize(layer_.tensors) + std::ssize(layer_.blocks);
    report.kept_plain += layer_.kept_plain;
    report.loss += layer_.loss;
    report.plain_loss += layer_.plain_loss;
    if (options_.finished && !earlier) options_.finished(layer_);
  }

  // Level 1: every product by the inputs of the original.
  void independent_layer(int64_t layer, const LayerWeights& weights, Stream& original) {
    HessianCollector collector(threads_);
    original.advance(layer, weights, &collector);
    quantize_all(collector, weights);
  }

  // Level 2: product after product, each by the inputs of the model quantized so far, with the weights
  // corrected for what those have lost.
  void sequential_layer(int64_t layer, const LayerWeights& weights, Stream& original, Stream& quantized) {
    const bool mixture = !weights.experts.empty();
    for (const LinearRole role :
         {LinearRole::kQueryKeyValue, LinearRole::kOutput, LinearRole::kGateUp, LinearRole::kDown}) {
      if (mixture && role == LinearRole::kGateUp) break;
      RowKeeper kept(role);
      PairCollector pairs(kept, threads_);
      std::optional<LayerWeights> coded(calibrated_.layer(layer));
      for (size_t chunk = 0; chunk < original.chunks(); ++chunk) {
        kept.begin_chunk();
        pairs.begin_chunk();
        original.look(layer, weights, kept, role, chunk);
        quantized.look(layer, *coded, pairs, role, chunk);
      }
      coded.reset();
      const int64_t tokens = pairs.own.rows();
      SquareMatrix hessian = pairs.own.take_mean(), difference = pairs.cross.take_mean();
      for (size_t i = 0; i < difference.size(); ++i) difference[i] -= hessian[i];
      const HessianFactor factor = factorize(std::move(hessian), kept.width, tokens, threads_);
      for (const std::string& name : reader_.tensors_of({layer, role}))
        if (wanted_.contains(name))
          quantize_one(
              name,
              corrected_target(weights_of(name), rows_of(name), difference, factor, kCorrection, threads_),
              factor);
    }
    if (mixture) {
      HessianCollector collector(threads_);
      const LayerWeights coded = calibrated_.layer(layer);
      for (size_t chunk = 0; chunk < quantized.chunks(); ++chunk)
        quantized.look(layer, coded, collector, std::nullopt, chunk);
      for (auto found = collector.sums.begin(); found != collector.sums.end();)
        found = found->first.expert < 0 ? collector.sums.erase(found) : std::next(found);
      quantize_all(collector, weights);
    }
    original.advance(layer, weights);
  }

  void quantize_all(HessianCollector& collector, const LayerWeights& weights) {
    for (auto& [id, sums] : collector.sums)
      if (id.expert < 0) quantize_group(id, sums.take_mean(), sums.rows(), sums.width());
    if (weights.experts.empty()) return;
    const int64_t layer = collector.sums.begin()->first.layer;
    for (const LinearRole role : {LinearRole::kGateUp, LinearRole::kDown}) {
      SquareMatrix mean;  // of all experts
      int64_t rows = 0, width = 0;
      for (auto& [id, sums] : collector.sums) {
        if (id.expert < 0 || id.role != role) continue;
        const std::vector<float>& own = sums.sums();
        mean.resize(own.size());
        for (size_t i = 0; i < own.size(); ++i) mean[i] += own[i];
        rows += sums.rows();
        width = sums.width();
      }
      if (rows == 0) continue;
      for (float& value : mean) value /= static_cast<float>(rows);
      for (size_t expert = 0; expert < weights.experts.size(); ++expert) {
        const LinearId id{layer, role, static_cast<int64_t>(expert)};
        const auto found = collector.sums.find(id);
        const int64_t seen = found == collector.sums.end() ? 0 : found->second.rows();
        const std::vector<float> own = seen > 0 ? found->second.sums() : std::vector<float>();
        quantize_group(id, mixed_with_layer(own, seen, mean, width), std::max(seen, width), width);
        if (seen > 0) collector.sums.erase(found);
      }
    }
  }

  void quantize_group(const LinearId& id, SquareMatrix hessian, int64_t tokens, int64_t width) {
    std::vector<std::string> names;
    for (const std::string& name : reader_.tensors_of(id))
      if (wanted_.contains(name)) names.push_back(name);
    if (names.empty()) return;
    const HessianFactor factor = factorize(std::move(hessian), width, tokens, threads_);
    for (const std::string& name : names) quantize_one(name, weights_of(name), factor);
  }

  int64_t rows_of(const std::string& name) const {
    return checkpoint_->find(name)->shape[reader_.stored_transposed() ? 1 : 0];
  }

  std::vector<float> weights_of(const std::string& name) const {
    return stored_matrix(*checkpoint_, name, reader_.stored_transposed());
  }

  void quantize_one(const std::string& name, std::span<const float> target, const HessianFactor& factor) {
    const Wanted& wanted = wanted_.at(name);
    matrix_.block_size = wanted.block_size;
    matrix_.gguf = wanted.gguf;
    CalibratedMatrix matrix = calibrate_matrix(target, std::ssize(target) / factor.size, factor, matrix_);
    layer_.kept_plain += matrix.kept_plain ? 1 : 0;
    layer_.loss += matrix.loss;
    layer_.plain_loss += matrix.plain_loss;
    if (wanted.gguf) {
      layer_.blocks[name] = std::move(matrix.blocks);
      return;
    }
    matrix.tensor.dtype = wanted.dtype;
    layer_.tensors[name] = std::move(matrix.tensor);
  }

  const std::shared_ptr<const Checkpoint> checkpoint_;
  const CalibrationOptions options_;
  const Cancel cancel_;
  const int threads_;
  const Model model_;
  const LayerReader reader_, calibrated_, plain_;
  CalibratedOptions matrix_;
  DistillPlan distillation_;  // of level 3
  std::map<std::string, Wanted> wanted_;
  TokenSequences trained_, started_, held_;  // started_: of level 3, what its start sees
  Workspace workspace_;
  CalibratedLayer layer_;  // at work
  Calibration result_;
};

}  // namespace

Calibration calibrate(std::shared_ptr<const Checkpoint> checkpoint, const ModelConfig& config,
                      std::span<const std::vector<int32_t>> windows,
                      const QuantizeCheckpointOptions& quantize, const CalibrationOptions& options) {
  if (options.level < 1 || options.level > 3)
    fail(ErrorCode::kInvalidArgument, "calibration level {}: 1, 2 or 3 expected", options.level);
  if (options.gguf && options.level == 3)
    fail(ErrorCode::kUnsupported, "{}: calibrated at levels 1 and 2, not at 3",
         gguf_type_info(*options.gguf).name);
  if (options.earlier_layers > 0 && !options.earlier)
    fail(ErrorCode::kInvalidArgument, "{} earlier layers, and nothing that has them", options.earlier_layers);
  const CancelScope cancel(options.cancelled);
  return Calibrator(std::move(checkpoint), config, windows, quantize, options).run();
}

}  // namespace nfloat
