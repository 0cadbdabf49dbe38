// SPDX-License-Identifier: Apache-2.0
#include "tune/train_memory.h"

#include <algorithm>

#include "base/parallel.h"
#include "kernels/dispatch.h"
#include "linear/transposed.h"
#include "tune/adapter.h"
#include "tune/attention.h"
#include "tune/plan.h"

namespace nfloat {
namespace {

constexpr int64_t kOctet = 8;                 // columns of packed activations come in eights
constexpr uint64_t kProgramBytes = 12 << 20;  // code, libraries, tokenizer

struct Places {
  int64_t z = 0;       // padded ranks of all modules; with one tape those of the widest layer
  int64_t widest = 1;  // padded rank
};

Places places(const ModelConfig& config, std::span<const PlannedModule> modules, bool all) {
  Places result;
  std::vector<std::vector<size_t>> count(kPlaces, std::vector<size_t>(static_cast<size_t>(config.layers)));
  for (const PlannedModule& module : modules) {
    const auto place = static_cast<size_t>(module.place);
    result.widest = std::max(result.widest, module.padded);
    ++count[place][static_cast<size_t>(module.layer)];
  }
  for (size_t place = 0; place < kPlaces; ++place) {
    int64_t padded = 0;
    size_t most = 0;
    for (int64_t layer = 0; layer < config.layers; ++layer) {
      int64_t own = 0;
      for (const PlannedModule& module : modules)
        if (static_cast<size_t>(module.place) == place && module.layer == layer)
          own = std::max(own, module.padded);
      const size_t parts = count[place][static_cast<size_t>(layer)];
      if (all) result.z += own * static_cast<int64_t>(parts);
      padded = std::max(padded, own);
      most = std::max(most, parts);
    }
    if (!all) result.z += padded * static_cast<int64_t>(most);
  }
  return result;
}

}  // namespace

int64_t head_slice_rows(int64_t vocabulary) noexcept {
  constexpr int64_t kLargeVocabulary = 65536;
  return vocabulary > kLargeVocabulary ? 64 : 128;
}

uint64_t pass_bytes(const ModelConfig& config, std::span<const PlannedModule> modules, bool dora,
                    Recompute level, int64_t rows) {
  const bool all = level != Recompute::kFull, cheap = level == Recompute::kCheap;
  const bool before = config.norm_place == NormPlace::kBefore || config.norm_place == NormPlace::kAround;
  const bool post = config.norm_place == NormPlace::kAround || config.norm_place == NormPlace::kAfter;
  const int64_t hidden = config.hidden, query = config.query_size();
  const int64_t projected = query + 2 * config.kv_size();
  const int64_t gate_up = (config.gated ? 2 : 1) * config.intermediate;
  const int64_t normed = (before ? 2 * hidden : 0) + config.intermediate;
  const int64_t kept = projected + config.heads + query + hidden + gate_up + (dora || post ? 2 * hidden : 0) +
                       (config.norm_place == NormPlace::kAfterResidual ? 2 * hidden : 0);
  const int64_t tapes = all ? config.layers : 1;
  int64_t floats = (config.layers + 1) * hidden + tapes * kept + (cheap ? 1 : tapes) * normed +
                   places(config, modules, all).z;
  floats += 2 * projected + 4 * hidden + query + config.intermediate + gate_up + config.embedding_size;
  const int64_t head = 2 * hidden + config.vocabulary + 2 * config.embedding_size;
  return static_cast<uint64_t>(rows * floats + head_slice_rows(config.vocabulary) * head) * sizeof(float);
}

std::vector<TrainMemory> plan_train_memory(const ModelConfig& config, const TrainOptions& options,
                                           double weight_bits) {
  TrainMemory common;
  std::vector<PlannedModule> modules;
  uint64_t layouts = 0;
  for (const LinearModule& module : chosen_modules(config, options)) {
    const int64_t rank = rank_of(module, options), padded = padded_rank(rank);
    modules.push_back({module.layer, module.place, padded});
    common.parameters += rank * (module.in + module.out) + (options.dora ? module.out : 0);
    layouts += static_cast<uint64_t>(padded * (module.in + module.out) + rank * module.out);
  }
  // Value, gradient and two moments of each.
  common.adapter_bytes = (4 * static_cast<uint64_t>(common.parameters) + layouts) * sizeof(float);

  int64_t linear = 0;
  for (const LinearModule& module : linear_modules(config)) linear += module.in * module.out;
  const int64_t width = config.embedding_size > 0 ? config.embedding_size : config.hidden;
  // The rows of the embedding are mapped, the head is packed from them or from its own.
  common.model_bytes = static_cast<uint64_t>(static_cast<double>(linear) * weight_bits / 8) +
                       static_cast<uint64_t>(2 * 2 * config.vocabulary * width);

  const int64_t length = std::min(options.length, config.context);
  common.rows = length * rows_per_batch(options);
  if (options.objective != TrainObjective::kTokens) common.rows *= 2;
  const auto octets = [](int64_t columns) { return (columns + kOctet - 1) / kOctet * kOctet; };
  const int64_t widest_input = std::max({config.hidden, config.query_size(), config.intermediate});
  int64_t floats = common.rows * places(config, modules, true).widest;
  // Inputs packed for products, of the layers and of the head; in pairs they lie where the gradients do.
  const bool pairs = options.bf16 && kernels::table().train.pairs != nullptr;
  const int64_t slice = head_slice_rows(config.vocabulary);
  if (!pairs || !target_multiplies_pairs())
    floats += common.rows * octets(widest_input) + slice * octets(width);
  if (options.bf16) {
    const int64_t gradients = std::max({(config.gated ? 2 : 1) * config.intermediate,
                                        config.query_size() + 2 * config.kv_size(), widest_input});
    const int64_t packed = common.rows * gradients + slice * std::max(config.vocabulary, width);
    floats += pairs ? packed / 2 : packed;
  }
  if (options.dropout > 0) floats += 2 * common.rows * widest_input;
  const int threads = thread_count(options.threads);
  floats += threads * (2 * config.head_dim + 3 * kScoreRows) * (length + 32);
  common.working_bytes = static_cast<uint64_t>(floats) * sizeof(float) + kProgramBytes;

  std::vector<TrainMemory> result;
  for (const Recompute level : {Recompute::kNone, Recompute::kCheap, Recompute::kFull}) {
    TrainMemory one = common;
    one.recompute = level;
    one.pass_bytes = pass_bytes(config, modules, options.dora, level, common.rows);
    result.push_back(one);
  }
  return result;
}

}  // namespace nfloat
