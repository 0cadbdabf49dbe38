// SPDX-License-Identifier: Apache-2.0
#include "tune/train_memory.h"

#include <algorithm>

#include "base/parallel.h"
#include "kernels/dispatch.h"
#include "linear/pair_blocks.h"
#include "linear/transposed.h"
#include "model/embedding.h"
#include "tune/adapter.h"
#include "tune/attention.h"
#include "tune/frozen.h"
#include "tune/plan.h"

namespace nfloat {
namespace {

constexpr double kMostPackedBits = 8;  // below that a weight is one of 4 bits with its scale
constexpr double kBF16Bits = 16;
constexpr int64_t kOctet = 8;                 // columns of packed activations come in eights
constexpr uint64_t kProgramBytes = 20 << 20;  // code, libraries, tokenizer

struct Places {
  int64_t z = 0;         // floats a row of all modules' ranks; with one tape those of the widest layer
  int64_t widest = 1;    // padded rank
  int64_t together = 1;  // padded ranks of a group
};

Places places(const ModelConfig& config, std::span<const PlannedModule> modules, bool all, bool halves) {
  Places result;
  const auto layers = static_cast<size_t>(config.layers);
  for (const PlannedModule& module : modules) result.widest = std::max(result.widest, module.padded);
  for (size_t place = 0; place < kPlaces; ++place) {
    std::vector<int64_t> widest(layers), count(layers), sums(layers);
    for (const PlannedModule& module : modules) {
      if (static_cast<size_t>(module.place) != place) continue;
      const auto layer = static_cast<size_t>(module.layer);
      widest[layer] = std::max(widest[layer], module.padded);
      ++count[layer];
      sums[layer] += module.padded;
    }
    int64_t padded = 0, most = 0, together = 0;
    for (size_t layer = 0; layer < layers; ++layer) {
      const int64_t half = sums[layer] > 0 ? pair_row_stride(sums[layer]) / 2 : 0;
      if (all) result.z += halves ? half : widest[layer] * count[layer];
      padded = std::max(padded, widest[layer]);
      most = std::max(most, count[layer]);
      together = std::max(together, half);
      result.together = std::max(result.together, sums[layer]);
    }
    if (!all) result.z += halves ? together : padded * most;
  }
  return result;
}

}  // namespace

int64_t head_slice_rows(int64_t vocabulary) noexcept {
  constexpr int64_t kLargeVocabulary = 65536;
  return vocabulary > kLargeVocabulary ? 64 : 128;
}

bool halves_may_be_kept(const ModelConfig& config, double dropout) noexcept {
  const int64_t query = config.query_size();
  return target_multiplies_pairs() && dropout <= 0 && config.head_dim % 2 == 0 &&
         config.hidden % kOctet == 0 && query % kOctet == 0 && config.intermediate % kOctet == 0;
}

uint64_t pass_bytes(const ModelConfig& config, std::span<const PlannedModule> modules, bool dora, bool halves,
                    Recompute level, int64_t rows) {
  const bool all = level != Recompute::kFull, cheap = level == Recompute::kCheap;
  const bool before = config.norm_place == NormPlace::kBefore || config.norm_place == NormPlace::kAround;
  const bool post = config.norm_place == NormPlace::kAround || config.norm_place == NormPlace::kAfter;
  const bool after_residual = config.norm_place == NormPlace::kAfterResidual;
  const auto keep = [&](int64_t width) { return halves ? pair_row_stride(width) / 2 : width; };
  const int64_t hidden = config.hidden, query = keep(config.query_size());
  const int64_t projected = keep(config.query_size() + 2 * config.kv_size());
  const int64_t gate_up = keep((config.gated ? 2 : 1) * config.intermediate);
  const int64_t activated = keep(config.intermediate);
  const int64_t normed = (before || halves ? 2 * keep(hidden) : 0) + activated;
  const int64_t kept = projected + config.heads + query + hidden + gate_up +
                       (dora || post ? 2 * keep(hidden) : 0) + (after_residual ? 2 * hidden : 0);
  const int64_t tapes = all ? config.layers : 1;
  int64_t floats = (config.layers + 1) * hidden + tapes * kept + (cheap ? 1 : tapes) * normed +
                   places(config, modules, all, halves).z;
  floats += projected + 3 * hidden + keep(hidden) + query + config.embedding_size;
  if (!halves) floats += projected + activated;
  if (!halves || dora) floats += gate_up;
  const int64_t head = 2 * hidden + config.vocabulary + 2 * config.embedding_size;
  return static_cast<uint64_t>(rows * floats + head_slice_rows(config.vocabulary) * head) * sizeof(float);
}

std::vector<TrainMemory> plan_train_memory(const ModelConfig& config, const TrainOptions& options,
                                           double weight_bits, DType plain, bool on_device) {
  TrainMemory common;
  std::vector<PlannedModule> modules;
  // Whether products with the head and with the layers are in pairs, as multiplies_pairs() of their matrices.
  const bool in_pairs = options.bf16 && target_multiplies_pairs() && !on_device;
  const bool head_pairs = in_pairs && plain == DType::kBF16;
  const bool layer_pairs =
      in_pairs && (weight_bits < kMostPackedBits || (plain == DType::kBF16 && weight_bits == kBF16Bits));
  const bool halves = layer_pairs && halves_may_be_kept(config, options.dropout);
  uint64_t layouts = 0;  // bytes
  for (const LinearModule& module : chosen_modules(config, options)) {
    const int64_t rank = rank_of(module, options), padded = padded_rank(rank);
    modules.push_back({module.layer, module.place, padded});
    common.parameters += rank * (module.in + module.out) + (options.dora ? module.out : 0);
    layouts += halves ? static_cast<uint64_t>(padded * (module.in + module.out)) * 2
                      : static_cast<uint64_t>(padded * (module.in + module.out) + rank * module.out) * 4;
  }
  // Value, gradient and two moments of each.
  common.adapter_bytes = 4 * static_cast<uint64_t>(common.parameters) * sizeof(float) + layouts;

  int64_t linear = 0;
  for (const LinearModule& module : linear_modules(config)) linear += module.in * module.out;
  const int64_t width = config.embedding_size > 0 ? config.embedding_size : config.hidden;
  // The rows of the embedding are mapped, the head is packed from them or from its own. Of a large table
  // little is there at a time (Embedding::release).
  const auto table = static_cast<uint64_t>(config.vocabulary * width) * (plain == DType::kF32 ? 4 : 2);
  const uint64_t matrices = static_cast<uint64_t>(static_cast<double>(linear) * weight_bits / 8) + table;
  common.model_bytes = table < Embedding::kLarge ? table : Embedding::kLarge / 8;
  (on_device ? common.device_bytes : common.model_bytes) += matrices;

  const int64_t length = std::min(options.length, config.context);
  common.rows = length * rows_per_batch(options);
  if (options.objective != TrainObjective::kTokens) common.rows *= 2;
  const auto octets = [](int64_t columns) { return (columns + kOctet - 1) / kOctet * kOctet; };
  const int64_t widest_input = std::max({config.hidden, config.query_size(), config.intermediate});
  const Places low = places(config, modules, true, halves);
  const int64_t slice = head_slice_rows(config.vocabulary);
  const int threads = thread_count(options.threads);
  int64_t floats = 0;
  if (halves) {
    floats += common.rows * pair_row_stride(low.together) + slice * std::max(config.vocabulary, width) / 2;
    const auto attention =
        static_cast<int64_t>(pair_attention_bytes(config.head_dim, length, config.attention_softcap > 0));
    const int64_t block = (std::min<int64_t>(common.rows, 2048) + 512) * kWideBlockColumns;
    floats += threads * std::max(attention / 4, block);
  } else {
    floats += common.rows * low.widest;
    const int64_t gradients = std::max({(config.gated ? 2 : 1) * config.intermediate,
                                        config.query_size() + 2 * config.kv_size(), widest_input});
    const int64_t together = on_device ? std::min(common.rows, FrozenProducts::kMostRows) : common.rows;
    const int64_t packed = together * gradients + slice * std::max(config.vocabulary, width);
    if (on_device) {
      // What goes to the device and what comes back, there and in the host memory that it reads; bf16 beside.
      floats += 2 * packed;
      common.device_bytes +=
          static_cast<uint64_t>(2 * packed + (options.bf16 ? packed / 2 : 0)) * sizeof(float);
    } else {
      // Inputs packed for products; in pairs they lie where the gradients do.
      const bool pairs = options.bf16 && kernels::table().train.pairs != nullptr;
      if (!layer_pairs) floats += common.rows * octets(widest_input);
      if (options.bf16) floats += pairs ? packed / 2 : packed;
    }
    if (options.dropout > 0) floats += 2 * common.rows * widest_input;
    floats += threads * (2 * config.head_dim + 3 * kScoreRows) * (length + 32);
  }
  if (!head_pairs && !on_device) floats += slice * octets(width);
  common.working_bytes = static_cast<uint64_t>(floats) * sizeof(float) + kProgramBytes;

  std::vector<TrainMemory> result;
  for (const Recompute level : {Recompute::kNone, Recompute::kCheap, Recompute::kFull}) {
    TrainMemory one = common;
    one.recompute = level;
    one.pass_bytes = pass_bytes(config, modules, options.dora, halves, level, common.rows);
    result.push_back(one);
  }
  return result;
}

}  // namespace nfloat
