// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "base/fail.h"
#include "nfloat/budget.h"

namespace nfloat {
namespace {

// Of a safetensors header: a tensor's entry beside its name, and what stands for all.
constexpr uint64_t kEntryBytes = 120, kHeaderBytes = 4096;

uint64_t file_bytes(const QuantizationPlan& plan) {
  uint64_t bytes = plan.bytes_after + kHeaderBytes;
  for (const TensorPlan& tensor : plan.tensors) {
    constexpr uint64_t kMostTensors = 6;  // codes, scales and their companions
    bytes += (tensor.quantize ? kMostTensors : 1) * (tensor.input.name.size() + kEntryBytes);
  }
  return bytes;
}

class Chooser {
 public:
  explicit Chooser(std::span<const WeightSensitivity> weights) : weights_(weights), at_(weights.size(), 0) {
    for (const WeightSensitivity& weight : weights_) bytes_ += weight.choices.front().bytes;
  }

  uint64_t bytes() const noexcept { return bytes_; }
  double divergence() const noexcept {
    double sum = 0;
    for (size_t i = 0; i < at_.size(); ++i) sum += weights_[i].choices[at_[i]].divergence;
    return sum;
  }

  // The step that gains most for its bytes, of those that do not go beyond `most`; false: there is none.
  bool step(uint64_t most) {
    double best = 0;
    size_t weight = 0, choice = 0;
    for (size_t i = 0; i < at_.size(); ++i)
      for (size_t j = at_[i] + 1; j < weights_[i].choices.size(); ++j) {
        const BlockChoice& from = weights_[i].choices[at_[i]];
        const BlockChoice& to = weights_[i].choices[j];
        if (to.bytes <= from.bytes || bytes_ - from.bytes + to.bytes > most) continue;
        const double gain = (from.divergence - to.divergence) / static_cast<double>(to.bytes - from.bytes);
        if (gain <= best) continue;
        best = gain;
        weight = i;
        choice = j;
      }
    if (best <= 0) return false;
    move(weight, choice);
    return true;
  }

  // The largest step back that keeps the divergence below `most`; false: there is none.
  bool step_back(double most) {
    const double present = divergence();
    uint64_t best = 0;
    size_t weight = 0;
    for (size_t i = 0; i < at_.size(); ++i) {
      if (at_[i] == 0) continue;
      const BlockChoice& from = weights_[i].choices[at_[i]];
      const BlockChoice& to = weights_[i].choices[at_[i] - 1];
      if (present - from.divergence + to.divergence > most || from.bytes - to.bytes <= best) continue;
      best = from.bytes - to.bytes;
      weight = i;
    }
    if (best == 0) return false;
    move(weight, at_[weight] - 1);
    return true;
  }

  std::map<std::string, int64_t> sizes() const {
    std::map<std::string, int64_t> sizes;
    for (size_t i = 0; i < at_.size(); ++i)
      for (const std::string& name : weights_[i].names) sizes[name] = weights_[i].choices[at_[i]].block_size;
    return sizes;
  }

 private:
  void move(size_t weight, size_t choice) {
    const BlockChoice& from = weights_[weight].choices[at_[weight]];
    const BlockChoice& to = weights_[weight].choices[choice];
    bytes_ = bytes_ - from.bytes + to.bytes;
    at_[weight] = choice;
  }

  const std::span<const WeightSensitivity> weights_;
  std::vector<size_t> at_;  // the choice of each
  uint64_t bytes_ = 0;
};

BlockSizes within_bytes(std::span<const WeightSensitivity> weights, uint64_t most) {
  Chooser chooser(weights);
  while (chooser.step(most)) {
  }
  return {chooser.sizes(), chooser.divergence(), 0};
}

int64_t parameters_of(const Checkpoint& checkpoint, std::span<const WeightSensitivity> weights) {
  int64_t count = 0;
  for (const WeightSensitivity& weight : weights)
    for (const std::string& name : weight.names) count += checkpoint.find(name)->shape.elements();
  return count;
}

// The sizes, and what the plan makes of them: loaders may read an entry of the list of plain modules as the
// name of another one, which then stays plain too.
struct Planned {
  BlockSizes chosen;
  uint64_t matrices = 0, files = 0;  // bytes
};
Planned planned(const Checkpoint& checkpoint, std::span<const WeightSensitivity> weights,
                const QuantizeCheckpointOptions& quantize, BlockSizes chosen) {
  QuantizeCheckpointOptions own = quantize;
  own.block_sizes = chosen.sizes;
  const QuantizationPlan plan = plan_quantization(checkpoint, own);
  Planned result{.chosen = std::move(chosen), .matrices = 0, .files = file_bytes(plan)};
  for (const TensorPlan& tensor : plan.tensors)
    if (result.chosen.sizes.contains(tensor.input.name)) result.matrices += tensor.bytes_after;
  const auto count = static_cast<double>(std::max<int64_t>(1, parameters_of(checkpoint, weights)));
  result.chosen.bits = 8 * static_cast<double>(result.matrices) / count;
  return result;
}

}  // namespace

BlockSizes choose_block_sizes(const Checkpoint& checkpoint, std::span<const WeightSensitivity> weights,
                              const QuantizeCheckpointOptions& quantize, const QuantizationLimit& limit) {
  if (weights.empty()) fail(ErrorCode::kInvalidArgument, "{}: nothing to quantize", checkpoint.path());
  const bool one = limit.bytes.has_value() + limit.bits.has_value() + limit.divergence.has_value() == 1;
  if (!one) fail(ErrorCode::kInvalidArgument, "one limit is expected: bytes, bits or divergence");
  if (limit.divergence) {
    Chooser chooser(weights);
    const auto no_end = static_cast<uint64_t>(1) << 62;
    while (chooser.divergence() > *limit.divergence && chooser.step(no_end)) {
    }
    while (chooser.step_back(*limit.divergence)) {
    }
    return planned(checkpoint, weights, quantize, {chooser.sizes(), chooser.divergence(), 0}).chosen;
  }
  const auto count = static_cast<double>(parameters_of(checkpoint, weights));
  const uint64_t most = limit.bytes ? *limit.bytes : static_cast<uint64_t>(*limit.bits * count / 8);
  const uint64_t least = Chooser(weights).bytes();
  const auto used = [&](const Planned& plan) { return limit.bytes ? plan.files : plan.matrices; };
  const Planned smallest = planned(checkpoint, weights, quantize, within_bytes(weights, least));
  if (used(smallest) > most) {
    if (limit.bytes)
      fail(ErrorCode::kInvalidArgument, "{}: does not fit into {} bytes: {} is the least", checkpoint.path(),
           most, smallest.files);
    fail(ErrorCode::kInvalidArgument, "{}: {:.3f} bits a weight is the least, {:.3f} were asked for",
         checkpoint.path(), smallest.chosen.bits, *limit.bits);
  }
  uint64_t room = least + (most - used(smallest));
  for (;;) {
    Planned found = planned(checkpoint, weights, quantize, within_bytes(weights, room));
    if (used(found) <= most) return found.chosen;
    const uint64_t over = used(found) - most;
    room = room > least + over ? room - over : least;
  }
}

double calibrated_share(int level) noexcept {
  return level <= 1 ? .52 : level == 2 ? .42 : .38;
}

}  // namespace nfloat
