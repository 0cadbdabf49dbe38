// SPDX-License-Identifier: Apache-2.0
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
        hidden_(step.router->inputs()) {
    const auto places = static_cast<size_t>(rows * step.chosen);
    engine.chosen_.resize(places);
    engine.shares_.resize(places);
    // An expert may be chosen by all rows: what is grown for some waits for all that is queued.
    input_ = engine.scratch(engine.input_, rows, hidden_);
    gate_up_ = engine.scratch(engine.gate_up_, rows, step.experts[0].gate_up.outputs());
    output_ = engine.scratch(engine.output_, rows, hidden_);
  }

  void run() {
    route();
    over_rows(engine_.recorder_, RowsOperation::kZero,
              {.to = engine_.address(added_),
               .rows = static_cast<uint32_t>(rows_),
               .width = static_cast<uint32_t>(hidden_),
               .to_stride = static_cast<uint32_t>(added_.stride)});
    const auto experts = static_cast<int64_t>(step_.experts.size());
    const ExpertGroups groups = group_by_expert(engine_.chosen_, experts, engine_.taken_);
    for (int64_t e = 0; e < experts; ++e)
      if (const std::span<const int64_t> taken = groups.of(e); !taken.empty()) mix_rows(e, taken);
  }

 private:
  ActivationRows in_host(const BufferRows& rows, int64_t count, int64_t width) {
    return {engine_.read(rows, count, width), rows.stride, count, width};
  }

  void product(const LinearGroup& group, const LinearId& id, const BufferRows& x, int64_t rows, int64_t width,
               const BufferRows& y, Precision precision) {
    if (step_.watch.any()) step_.watch.input(id, in_host(x, rows, width));
    engine_.multiply(group, x, y, rows, precision);
    if (!step_.watch.any()) return;
    const ActivationRows seen = in_host(x, rows, width);
    step_.watch.output(id, seen, engine_.read(y, rows, group.outputs()), y.stride);
    engine_.write(y, rows, group.outputs());
  }

  void route() {
    const auto experts = static_cast<int64_t>(step_.experts.size());
    const BufferRows logits = engine_.scratch(engine_.logits_, rows_, experts);
    product(*step_.router, {step_.layer, LinearRole::kRouter}, normed_, rows_, hidden_, logits,
            Precision::kF32);
    const float* const found = engine_.read(logits, rows_, experts);
    for (int64_t row = 0; row < rows_; ++row)
      choose_experts(step_, found + row * experts, engine_.chosen_.data() + row * step_.chosen,
                     engine_.shares_.data() + row * step_.chosen);
  }

  void mix_rows(int64_t number, std::span<const int64_t> taken) {
    const ExpertWeights& expert = step_.experts[static_cast<size_t>(number)];
    const auto count = static_cast<int64_t>(taken.size());
    const auto rows = static_cast<uint32_t>(count), width = static_cast<uint32_t>(hidden_);
    Recorder& recorder = engine_.recorder_;
    const Recorder::Params gathered = list_of(taken);
    over_rows(recorder, RowsOperation::kGather,
              {.from = engine_.address(normed_),
               .to = engine_.address(input_),
               .list = gathered.address,
               .rows = rows,
               .width = width,
               .from_stride = static_cast<uint32_t>(normed_.stride),
               .to_stride = width});
    const Precision precision = count > 1 ? step_.many_rows_precision : step_.precision;
    product(expert.gate_up, {step_.layer, LinearRole::kGateUp, number}, input_, count, hidden_, gate_up_,
            precision);
    engine_.activate(step_.activation, gate_up_, count);
    product(expert.down, {step_.layer, LinearRole::kDown, number}, gate_up_, count, step_.activation.width,
            output_, precision);
    const Recorder::Params scattered = list_of(taken);  // a watcher may have waited meanwhile
    over_rows(recorder, RowsOperation::kScatterAdd,
              {.from = engine_.address(output_),
               .to = engine_.address(added_),
               .list = scattered.address,
               .shares = scattered.address + taken.size() * sizeof(uint32_t),
               .rows = rows,
               .width = width,
               .from_stride = width,
               .to_stride = static_cast<uint32_t>(added_.stride)});
  }

  // Rows, then the shares of this expert in them.
  Recorder::Params list_of(std::span<const int64_t> taken) {
    const Recorder::Params params = engine_.recorder_.params(taken.size() * 2 * sizeof(uint32_t));
    for (size_t i = 0; i < taken.size(); ++i) {
      const auto row = static_cast<uint32_t>(taken[i] / step_.chosen);
      std::memcpy(params.host + i * sizeof row, &row, sizeof row);
      std::memcpy(params.host + (taken.size() + i) * sizeof(float),
                  &engine_.shares_[static_cast<size_t>(taken[i])], sizeof(float));
    }
    return params;
  }

  VulkanEngine& engine_;
  const MixtureStep& step_;
  const BufferRows normed_, added_;
  const int64_t rows_, hidden_;
  BufferRows input_, gate_up_, output_;
};

void VulkanEngine::mix(const MixtureStep& step, const BufferRows& normed, const BufferRows& added,
                       int64_t rows) {
  Mixture(*this, step, normed, added, rows).run();
}

}  // namespace nfloat::vulkan
