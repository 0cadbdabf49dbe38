// SPDX-License-Identifier: Apache-2.0
#include "engine/card_engine.h"

#include "engine/expert_choice.h"

namespace nfloat {

class CardEngine::Mixture {
 public:
  Mixture(CardEngine& engine, const MixtureStep& step, const BufferRows& normed, const BufferRows& added,
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
    engine_.zero(added_, rows_, hidden_);
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
    const Precision precision = count > 1 ? step_.many_rows_precision : step_.precision;
    engine_.list_.clear();
    engine_.own_shares_.clear();
    for (const int64_t place : taken) {
      engine_.list_.push_back(static_cast<int32_t>(place / step_.chosen));
      engine_.own_shares_.push_back(engine_.shares_[static_cast<size_t>(place)]);
    }
    engine_.gather(normed_, engine_.list_, input_, hidden_);
    product(expert.gate_up, {step_.layer, LinearRole::kGateUp, number}, input_, count, hidden_, gate_up_,
            precision);
    engine_.activate(step_.activation, gate_up_, count);
    product(expert.down, {step_.layer, LinearRole::kDown, number}, gate_up_, count, step_.activation.width,
            output_, precision);
    engine_.scatter_add(output_, engine_.list_, engine_.own_shares_, added_, hidden_);
  }

  CardEngine& engine_;
  const MixtureStep& step_;
  const BufferRows normed_, added_;
  const int64_t rows_, hidden_;
  BufferRows input_, gate_up_, output_;
};

void CardEngine::mix(const MixtureStep& step, const BufferRows& normed, const BufferRows& added,
                     int64_t rows) {
  Mixture(*this, step, normed, added, rows).run();
}

BufferRows CardEngine::scratch(Scratch& own, int64_t rows, int64_t width) {
  if (own.floats < rows * width) {
    drop(own.buffer);
    own = {};
    own = {make(rows * width), rows * width};
  }
  return {own.buffer, 0, width};
}

}  // namespace nfloat
