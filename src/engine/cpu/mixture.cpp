// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "engine/cpu/cpu_engine.h"
#include "engine/expert_choice.h"

namespace nfloat {

class CpuEngine::Mixture {
 public:
  Mixture(CpuEngine& engine, const MixtureStep& step, const BufferRows& normed, const BufferRows& added,
          int64_t rows)
      : engine_(engine),
        memory_(engine.mixture_),
        step_(step),
        rows_(rows),
        experts_(static_cast<int64_t>(step.experts.size())),
        hidden_(step.router->inputs()),
        width_(step.activation.width),
        gate_up_stride_(step.experts[0].gate_up.outputs()),
        normed_{engine.at(normed), normed.stride, rows, hidden_},
        added_(engine.at(added)),
        added_stride_(added.stride) {
    const int64_t logits = whole_lines(rows * experts_), states = whole_lines(rows * hidden_);
    logits_ = grown(memory_.floats, logits + 2 * states + rows * gate_up_stride_);
    input_ = logits_ + logits;
    output_ = input_ + states;
    gate_up_ = output_ + states;
    const auto places = static_cast<size_t>(rows * step.chosen);
    if (memory_.chosen.size() < places) memory_.chosen.resize(places);
    if (memory_.shares.size() < places) memory_.shares.resize(places);
  }

  void run() {
    route();
    for (int64_t row = 0; row < rows_; ++row)
      std::memset(added_ + row * added_stride_, 0, static_cast<size_t>(hidden_) * sizeof(float));
    if (rows_ == 1) return mix_one();
    const std::span<const int32_t> chosen(memory_.chosen.data(), static_cast<size_t>(rows_ * step_.chosen));
    const ExpertGroups groups = group_by_expert(chosen, experts_, memory_.taken);
    for (int64_t e = 0; e < experts_; ++e)
      if (const std::span<const int64_t> taken = groups.of(e); !taken.empty()) mix_rows(e, taken);
  }

 private:
  void product(const LinearGroup& group, const LinearId& id, Activations& activations,
               const ActivationRows& x, float* y, int64_t y_stride, Precision precision) {
    step_.watch.input(id, x);
    engine_.product(group, activations, y, y_stride, x.rows, precision);
    step_.watch.output(id, x, y, y_stride);
  }

  void route() {
    engine_.activations_.assign(normed_.data, normed_.stride, rows_, hidden_);
    // A choice between experts that are nearly alike should not hang on rounding.
    product(*step_.router, {step_.layer, LinearRole::kRouter}, engine_.activations_, normed_, logits_,
            experts_, Precision::kF32);
    for (int64_t row = 0; row < rows_; ++row)
      choose_experts(step_, logits_ + row * experts_, memory_.chosen.data() + row * step_.chosen,
                     memory_.shares.data() + row * step_.chosen);
  }

  // Runs rows of x, which the activations have been assigned, through one expert into output_.
  void run_expert(int64_t number, const ActivationRows& x) {
    const ExpertWeights& expert = step_.experts[static_cast<size_t>(number)];
    const Precision precision = x.rows > 1 ? step_.many_rows_precision : step_.precision;
    product(expert.gate_up, {step_.layer, LinearRole::kGateUp, number}, engine_.activations_, x, gate_up_,
            gate_up_stride_, precision);
    engine_.activate(step_.activation, gate_up_, gate_up_stride_, x.rows);
    memory_.inner.assign(gate_up_, gate_up_stride_, x.rows, width_);
    product(expert.down, {step_.layer, LinearRole::kDown, number}, memory_.inner,
            {gate_up_, gate_up_stride_, x.rows, width_}, output_, hidden_, precision);
  }

  // The activations stay those of the router.
  void mix_one() {
    for (int64_t i = 0; i < step_.chosen; ++i) {
      run_expert(memory_.chosen[static_cast<size_t>(i)], normed_);
      const float share = memory_.shares[static_cast<size_t>(i)];
      for (int64_t d = 0; d < hidden_; ++d) added_[d] += share * output_[d];
    }
  }

  void mix_rows(int64_t number, std::span<const int64_t> taken) {
    const auto count = static_cast<int64_t>(taken.size());
    parallel_for(count, 1, engine_.threads_, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        std::memcpy(input_ + i * hidden_,
                    normed_.data + taken[static_cast<size_t>(i)] / step_.chosen * normed_.stride,
                    static_cast<size_t>(hidden_) * sizeof(float));
    });
    engine_.activations_.assign(input_, hidden_, count, hidden_);
    run_expert(number, {input_, hidden_, count, hidden_});
    parallel_for(count, 1, engine_.threads_, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t place = taken[static_cast<size_t>(i)];
        const float share = memory_.shares[static_cast<size_t>(place)];
        float* sum = added_ + place / step_.chosen * added_stride_;
        const float* own = output_ + i * hidden_;
        for (int64_t d = 0; d < hidden_; ++d) sum[d] += share * own[d];
      }
    });
  }

  CpuEngine& engine_;
  MixtureMemory& memory_;
  const MixtureStep& step_;
  const int64_t rows_, experts_, hidden_, width_, gate_up_stride_;
  const ActivationRows normed_;
  float* const added_;
  const int64_t added_stride_;
  float *logits_ = nullptr, *input_ = nullptr, *output_ = nullptr, *gate_up_ = nullptr;
};

void CpuEngine::mix(const MixtureStep& step, const BufferRows& normed, const BufferRows& added,
                    int64_t rows) {
  Mixture(*this, step, normed, added, rows).run();
}

}  // namespace nfloat
