// SPDX-License-Identifier: Apache-2.0
#include "bridge/gguf_plan.h"
#include "calibrate/stream.h"
#include "model/layer_reader.h"
#include "model/loader.h"
#include "nfloat/imatrix.h"

namespace nfloat {
namespace {

// Sums of the squares of what each product of a layer sees.
class SquareCollector : public LinearObserver {
 public:
  struct Sums {
    std::vector<double> squares;
    int64_t tokens = 0;
  };

  void input(const LinearId& id, const ActivationRows& x) override {
    if (id.role == LinearRole::kRouter) return;
    Sums& own = sums[id];
    own.squares.resize(static_cast<size_t>(x.width));
    own.tokens += x.rows;
    for (int64_t row = 0; row < x.rows; ++row)
      for (int64_t j = 0; j < x.width; ++j) {
        const double value = x.data[row * x.stride + j];
        own.squares[static_cast<size_t>(j)] += value * value;
      }
  }

  std::map<LinearId, Sums> sums;
};

void add_tensor(const SquareCollector::Sums* sums, size_t columns, ColumnImportance& to) {
  if (sums == nullptr) {
    to.sums.insert(to.sums.end(), columns, 0.0f);
    to.counts.push_back(0);
    return;
  }
  for (const double square : sums->squares) to.sums.push_back(static_cast<float>(square));
  to.counts.push_back(static_cast<float>(sums->tokens));
}

}  // namespace

ImportanceMatrix measure_importance(std::shared_ptr<const Checkpoint> checkpoint, const ModelConfig& config,
                                    std::span<const std::vector<int32_t>> windows,
                                    const ImportanceOptions& options) {
  const CancelScope cancel(options.cancelled);
  const GgufPlan plan = plan_gguf(*checkpoint, config, "", std::nullopt, "");
  ModelOptions own;
  own.stream_layers = true;
  own.device = "cpu";
  own.precision = Precision::kF32;
  own.threads = thread_count(options.threads);
  const Model model = Model::load(checkpoint, config, own);
  const LayerReader reader(checkpoint, config, model.options());
  ImportanceMatrix result;
  TokenSequences sequences;
  for (const std::vector<int32_t>& window : windows) {
    sequences.emplace_back(window);
    result.chunk_tokens = std::max(result.chunk_tokens, static_cast<uint32_t>(window.size()));
  }
  result.chunks = static_cast<uint32_t>(windows.size());
  Workspace workspace;
  Stream stream(model, sequences, workspace, own.threads);
  std::map<std::string, SquareCollector::Sums> found;  // by name in the checkpoint
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    if (options.progress) options.progress(layer, config.layers);
    SquareCollector collector;
    stream.advance(layer, reader.layer(layer), &collector);
    for (const auto& [id, sums] : collector.sums)
      for (const std::string& name : reader.tensors_of(id)) found[name] = sums;
  }
  if (options.progress) options.progress(config.layers, config.layers);
  for (const GgufTarget& target : plan.targets) {
    bool any = false;
    for (const GgufSource& source : target.sources) any = any || found.contains(source.name);
    if (!any) continue;
    ColumnImportance& to = result.tensors[target.name];
    for (const GgufSource& source : target.sources) {
      const auto place = found.find(source.name);
      add_tensor(place == found.end() ? nullptr : &place->second, static_cast<size_t>(target.cols), to);
    }
  }
  return result;
}

}  // namespace nfloat
