// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <functional>
#include <tuple>

#include "base/fail.h"
#include "base/parallel.h"
#include "calibrate/inputs.h"
#include "calibrate/matrix.h"
#include "calibrate/stream.h"
#include "model/layer_reader.h"
#include "model/loader.h"
#include "nfloat/budget.h"

namespace nfloat {
namespace {

constexpr size_t kMostLogits = size_t{256} << 20;  // bytes of logits of the tokens that judge

// Enough windows from all over the text, at least one.
TokenSequences some_of(std::span<const std::vector<int32_t>> windows, int64_t tokens, int64_t vocabulary) {
  int64_t all = 0;
  for (const auto& window : windows) all += std::ssize(window);
  const auto room = static_cast<int64_t>(kMostLogits / sizeof(float)) / std::max<int64_t>(1, vocabulary);
  const int64_t wanted = std::min(tokens, room);
  TokenSequences chosen;
  int64_t seen = 0, taken = 0;
  for (const auto& window : windows) {
    // Whenever the share of what was taken falls behind.
    const bool behind = static_cast<double>(taken) * static_cast<double>(all) <=
                        static_cast<double>(seen) * static_cast<double>(wanted);
    seen += std::ssize(window);
    if (window.empty() || !behind || taken >= wanted) continue;
    chosen.emplace_back(window);
    taken += std::ssize(window);
  }
  if (chosen.empty()) fail(ErrorCode::kInvalidArgument, "the text gives no tokens to judge weights by");
  return chosen;
}

class SensitivityRun {
 public:
  SensitivityRun(std::shared_ptr<const Checkpoint> checkpoint, const ModelConfig& config,
                 std::span<const std::vector<int32_t>> windows, const QuantizeCheckpointOptions& quantize,
                 const SensitivityOptions& options)
      : checkpoint_(std::move(checkpoint)),
        options_(options),
        threads_(thread_count(options.threads)),
        codebook_(make_codebook(quantize.format)),
        model_(Model::load(checkpoint_, config, model_options(false))),
        reader_(checkpoint_, config, model_.options()),
        changed_(checkpoint_, config, model_options(true)),
        sequences_(some_of(windows, options.tokens, config.vocabulary)) {
    if (options_.block_sizes.empty()) fail(ErrorCode::kInvalidArgument, "no block sizes to choose from");
    std::sort(options_.block_sizes.begin(), options_.block_sizes.end(), std::greater<>());
    options_.block_sizes.erase(std::unique(options_.block_sizes.begin(), options_.block_sizes.end()),
                               options_.block_sizes.end());
    sizes_.resize(options_.block_sizes.size());
    for (size_t i = 0; i < sizes_.size(); ++i) {
      QuantizeCheckpointOptions own = quantize;
      own.quantize.block_size = options_.block_sizes[i];
      own.block_sizes.clear();
      for (const TensorPlan& plan : plan_quantization(*checkpoint_, own).tensors)
        if (plan.quantize && plan.input.shape.rank() == 2) sizes_[i][plan.input.name] = plan.bytes_after;
    }
  }

  std::vector<WeightSensitivity> run() {
    const int64_t layers = model_.config().layers;
    Stream original(model_, sequences_, workspace_, threads_);
    std::vector<std::vector<Unit>> units;
    for (int64_t layer = 0; layer < layers; ++layer) {
      HessianCollector collector(threads_);
      before_.push_back(original.kept_states());
      original.advance(layer, reader_.layer(layer), &collector);
      units.push_back(units_of(collector));
      count_ += std::ssize(units.back());
    }
    const std::vector<float> expected = original.logits();
    std::vector<WeightSensitivity> result;
    for (int64_t layer = 0; layer < layers; ++layer) {
      judge(layer, units[static_cast<size_t>(layer)], original, expected);
      before_[static_cast<size_t>(layer)] = {};
      for (Unit& unit : units[static_cast<size_t>(layer)]) result.push_back(std::move(unit.weight));
    }
    if (options_.progress) options_.progress(count_, count_);
    return result;
  }

 private:
  struct Unit {
    WeightSensitivity weight;
    std::vector<double> losses;  // what each choice changes in the weight's products
  };

  ModelOptions model_options(bool changes) const {
    ModelOptions options;
    options.stream_layers = true;
    options.device = "cpu";
    options.precision = Precision::kF32;
    options.threads = threads_;
    if (changes)
      options.transform = [this](const std::string& name, std::span<float> weights, int64_t rows,
                                 int64_t columns) {
        if (std::find(at_work_.begin(), at_work_.end(), name) == at_work_.end()) return;
        dequantize_blockwise(rounded(weights, rows, columns, middle()), DType::kF32,
                             std::as_writable_bytes(weights), threads_);
      };
    return options;
  }

  // The block size whose divergence is measured.
  int64_t middle() const noexcept { return options_.block_sizes[options_.block_sizes.size() / 2]; }

  QuantizedTensor rounded(std::span<const float> weights, int64_t rows, int64_t columns,
                          int64_t block_size) const {
    QuantizeOptions options;
    options.block_size = block_size;
    options.scale = ScaleMethod::kSigned;
    options.double_quantization = true;
    options.threads = threads_;
    return quantize_blockwise({DType::kF32, {rows, columns}, std::as_bytes(weights)}, codebook_, options);
  }

  std::vector<Unit> units_of(HessianCollector& collector) const {
    // By the product, and the weight's place in it: experts stand for one another.
    std::map<std::tuple<LinearRole, bool, size_t>, Unit> units;
    for (auto& [id, sums] : collector.sums) {
      const HessianFactor seen{.size = sums.width(),
                               .damping = kDamping,
                               .damped = damped(sums.mean(), sums.width(), kDamping),
                               .upper = {}};
      const std::vector<std::string> names = reader_.tensors_of(id);
      for (size_t i = 0; i < names.size(); ++i)
        if (sizes_[0].contains(names[i])) add_choices(names[i], seen, units[{id.role, id.expert >= 0, i}]);
    }
    std::vector<Unit> result;
    for (auto& [place, unit] : units) result.push_back(std::move(unit));
    return result;
  }

  void add_choices(const std::string& name, const HessianFactor& seen, Unit& unit) const {
    const std::vector<float> weights = stored_matrix(*checkpoint_, name, reader_.stored_transposed());
    const int64_t rows = std::ssize(weights) / seen.size;
    std::vector<BlockChoice>& choices = unit.weight.choices;
    unit.weight.names.push_back(name);
    choices.resize(sizes_.size() + 1);
    unit.losses.resize(choices.size());
    for (size_t i = 0; i < sizes_.size(); ++i) {
      choices[i].block_size = options_.block_sizes[i];
      choices[i].bytes += sizes_[i].at(name);
      const QuantizedTensor tensor = rounded(weights, rows, seen.size, choices[i].block_size);
      unit.losses[i] += proxy_loss(tensor, weights, rows, seen, threads_);
    }
    choices.back().bytes += checkpoint_->find(name)->bytes;
  }

  // Each unit of the layer alone, all together through the layers behind.
  void judge(int64_t layer, std::vector<Unit>& units, Stream& stream, const std::vector<float>& expected) {
    std::vector<States> versions;
    for (const Unit& unit : units) {
      if (options_.progress) options_.progress(done_++, count_);
      at_work_ = unit.weight.names;
      stream.set_states(before_[static_cast<size_t>(layer)]);
      stream.advance(layer, changed_.layer(layer));
      versions.push_back(stream.kept_states());
    }
    for (int64_t behind = layer + 1; behind < model_.config().layers && !versions.empty(); ++behind) {
      const LayerWeights weights = reader_.layer(behind);
      for (States& version : versions) {
        stream.swap_states(version);
        stream.advance(behind, weights);
        stream.swap_states(version);
      }
    }
    for (size_t i = 0; i < units.size(); ++i) {
      stream.swap_states(versions[i]);
      const double found = mean_divergence(expected, stream.logits(),
                                           static_cast<size_t>(model_.config().vocabulary), threads_);
      const std::vector<double>& losses = units[i].losses;
      const double measured = losses[sizes_.size() / 2];
      for (size_t j = 0; j < losses.size(); ++j)
        units[i].weight.choices[j].divergence =
            measured > 0 ? std::max(found, 0.0) * losses[j] / measured : 0;
    }
  }

  const std::shared_ptr<const Checkpoint> checkpoint_;
  SensitivityOptions options_;
  const int threads_;
  const Codebook codebook_;
  const Model model_;
  const LayerReader reader_, changed_;
  const TokenSequences sequences_;
  std::vector<std::map<std::string, uint64_t>> sizes_;  // bytes of each weight, by block size
  std::vector<States> before_;                          // states before each layer
  std::vector<std::string> at_work_;
  Workspace workspace_;
  int64_t done_ = 0, count_ = 0;
};

}  // namespace

std::vector<WeightSensitivity> measure_sensitivity(std::shared_ptr<const Checkpoint> checkpoint,
                                                   const ModelConfig& config,
                                                   std::span<const std::vector<int32_t>> windows,
                                                   const QuantizeCheckpointOptions& quantize,
                                                   const SensitivityOptions& options) {
  const CancelScope cancel(options.cancelled);
  return SensitivityRun(std::move(checkpoint), config, windows, quantize, options).run();
}

}  // namespace nfloat
