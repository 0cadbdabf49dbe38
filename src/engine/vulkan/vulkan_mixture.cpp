// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstring>

#include "engine/expert_choice.h"
#include "engine/vulkan/steps.h"
#include "engine/vulkan/vulkan_engine.h"

namespace nfloat::vulkan {

// The router's logits come to the host, which chooses; each chosen expert then runs on its rows.
class VulkanEngine::Mixture {
 public:
  Mixture(VulkanEngine& engine, const MixtureStep& step, const BufferRows& normed, const BufferRows& added,
          int64_t rows)
      : engine_(engine),
        step_(step),
        normed_(normed),
        added_(added),
        rows_(rows),
        hidden_(step.router->inputs()),
        chosen_(static_cast<size_t>(rows * step.chosen)),
        shares_(chosen_.size()) {}

  void run() {
    route();
    over_rows(engine_.recorder_, RowsOperation::kZero,
              {.to = engine_.address(added_),
               .rows = static_cast<uint32_t>(rows_),
               .width = static_cast<uint32_t>(hidden_),
               .to_stride = static_cast<uint32_t>(added_.stride)});
    std::vector<size_t> taken;  // places in `chosen_`
    for (size_t e = 0; e < step_.experts.size(); ++e) {
      taken.clear();
      for (size_t i = 0; i < chosen_.size(); ++i)
        if (static_cast<size_t>(chosen_[i]) == e) taken.push_back(i);
      if (!taken.empty()) mix_rows(e, taken);
    }
  }

 private:
  ActivationRows in_host(const BufferRows& rows, int64_t count, int64_t width) {
    return {engine_.read(rows, count, width), rows.stride, count, width};
  }

  void product(const LinearGroup& group, const LinearId& id, const BufferRows& x, int64_t rows, int64_t width,
               const BufferRows& y) {
    if (step_.watch.any()) step_.watch.input(id, in_host(x, rows, width));
    engine_.multiply(group, x, y, rows, Precision::kF32);
    if (!step_.watch.any()) return;
    const ActivationRows seen = in_host(x, rows, width);
    step_.watch.output(id, seen, engine_.read(y, rows, group.outputs()), y.stride);
    engine_.write(y, rows, group.outputs());
  }

  void route() {
    const auto experts = static_cast<int64_t>(step_.experts.size());
    const BufferRows logits = engine_.scratch(engine_.logits_, rows_, experts);
    product(*step_.router, {step_.layer, LinearRole::kRouter}, normed_, rows_, hidden_, logits);
    const float* const found = engine_.read(logits, rows_, experts);
    for (int64_t row = 0; row < rows_; ++row)
      choose_experts(step_, found + row * experts, chosen_.data() + row * step_.chosen,
                     shares_.data() + row * step_.chosen);
  }

  void mix_rows(size_t number, const std::vector<size_t>& taken) {
    const ExpertWeights& expert = step_.experts[number];
    const auto count = static_cast<int64_t>(taken.size());
    const auto rows = static_cast<uint32_t>(count), width = static_cast<uint32_t>(hidden_);
    const auto place = static_cast<int64_t>(number);
    const BufferRows input = engine_.scratch(engine_.input_, count, hidden_);
    const BufferRows gate_up = engine_.scratch(engine_.gate_up_, count, expert.gate_up.outputs());
    const BufferRows output = engine_.scratch(engine_.output_, count, hidden_);
    Recorder& recorder = engine_.recorder_;
    const Recorder::Params gathered = list_of(taken);
    over_rows(recorder, RowsOperation::kGather,
              {.from = engine_.address(normed_),
               .to = engine_.address(input),
               .list = gathered.address,
               .rows = rows,
               .width = width,
               .from_stride = static_cast<uint32_t>(normed_.stride),
               .to_stride = width});
    product(expert.gate_up, {step_.layer, LinearRole::kGateUp, place}, input, count, hidden_, gate_up);
    engine_.activate(step_.activation, gate_up, count);
    product(expert.down, {step_.layer, LinearRole::kDown, place}, gate_up, count, step_.activation.width,
            output);
    const Recorder::Params scattered = list_of(taken);  // a watcher may have waited meanwhile
    over_rows(recorder, RowsOperation::kScatterAdd,
              {.from = engine_.address(output),
               .to = engine_.address(added_),
               .list = scattered.address,
               .shares = scattered.address + taken.size() * sizeof(uint32_t),
               .rows = rows,
               .width = width,
               .from_stride = width,
               .to_stride = static_cast<uint32_t>(added_.stride)});
  }

  // Rows, then the shares of this expert in them.
  Recorder::Params list_of(const std::vector<size_t>& taken) {
    const Recorder::Params params = engine_.recorder_.params(taken.size() * 2 * sizeof(uint32_t));
    for (size_t i = 0; i < taken.size(); ++i) {
      const auto row = static_cast<uint32_t>(static_cast<int64_t>(taken[i]) / step_.chosen);
      std::memcpy(params.host + i * sizeof row, &row, sizeof row);
      std::memcpy(params.host + (taken.size() + i) * sizeof(float), &shares_[taken[i]], sizeof(float));
    }
    return params;
  }

  VulkanEngine& engine_;
  const MixtureStep& step_;
  const BufferRows normed_, added_;
  const int64_t rows_, hidden_;
  std::vector<int32_t> chosen_;
  std::vector<float> shares_;
};

void VulkanEngine::mix(const MixtureStep& step, const BufferRows& normed, const BufferRows& added,
                       int64_t rows) {
  Mixture(*this, step, normed, added, rows).run();
}

}  // namespace nfloat::vulkan
