// SPDX-License-Identifier: Apache-2.0
#include "model/experts.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/parallel.h"
#include "kernels/dispatch.h"

namespace nfloat {
namespace {

// gpt-oss: gate and up alternate; both are clamped, and up gets one more.
void clamped_swiglu(float* row, int64_t width, float limit) noexcept {
  constexpr float kSlope = 1.702f;
  for (int64_t i = 0; i < width; ++i) {
    const float gate = std::min(row[2 * i], limit);
    const float up = std::clamp(row[2 * i + 1], -limit, limit);
    row[i] = (up + 1) * gate / (1 + std::exp(-kSlope * gate));
  }
}

// Chooses the experts of a row of router logits: their numbers in ascending order, and their weights.
void choose(const ExpertsConfig& experts, const float* logits, int32_t* chosen, float* weights) noexcept {
  // Insertion keeps the largest first; of equal ones the first expert wins.
  int64_t count = 0;
  for (int64_t e = 0; e < experts.count; ++e) {
    int64_t place = count;
    while (place > 0 && logits[e] > logits[chosen[place - 1]]) --place;
    if (place == experts.chosen) continue;
    count = std::min(count + 1, experts.chosen);
    for (int64_t i = count - 1; i > place; --i) chosen[i] = chosen[i - 1];
    chosen[place] = static_cast<int32_t>(e);
  }
  const float largest = logits[chosen[0]];
  double total = 0;
  if (experts.normalize)
    for (int64_t i = 0; i < count; ++i) total += std::exp(static_cast<double>(logits[chosen[i]] - largest));
  else
    for (int64_t e = 0; e < experts.count; ++e) total += std::exp(static_cast<double>(logits[e] - largest));
  std::sort(chosen, chosen + count);
  for (int64_t i = 0; i < count; ++i)
    weights[i] = static_cast<float>(std::exp(static_cast<double>(logits[chosen[i]] - largest)) / total);
}

// Runs rows of x, which workspace.activations have been assigned, through one expert into `output`
// [rows][hidden].
void run_expert(const ModelConfig& config, LinearId id, const ExpertWeights& expert, Workspace& workspace,
                const ActivationRows& x, float* output, const RunOptions& options) {
  const int64_t width = config.experts.intermediate;
  id.role = LinearRole::kGateUp;
  apply_linear(expert.gate_up, id, workspace.activations, x, workspace.gate_up, 2 * width, options);
  activate_rows(config, true, workspace.gate_up, 2 * width, width, x.rows, options.threads);
  workspace.inner_activations.assign(workspace.gate_up, 2 * width, x.rows, width);
  id.role = LinearRole::kDown;
  apply_linear(expert.down, id, workspace.inner_activations, {workspace.gate_up, 2 * width, x.rows, width},
               output, config.hidden, options);
}

}  // namespace

void activate_rows(const ModelConfig& config, bool expert, float* gate_up, int64_t stride, int64_t width,
                   int64_t rows, int threads) noexcept {
  const kernels::TransformerKernels& kernels = kernels::table().transformer;
  const auto kind = static_cast<kernels::Activation>(config.activation);
  const auto limit = static_cast<float>(expert ? config.experts.limit : 0);
  const auto body = [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float* gate = gate_up + row * stride;
      if (limit > 0)
        clamped_swiglu(gate, width, limit);
      else
        kernels.activate(kind, gate, config.gated ? gate + width : nullptr, width);
    }
  };
  if (rows == 1) return body(0, 1);
  parallel_for(rows, 1, threads, body);
}

void mix_experts(const ModelConfig& config, int64_t layer, const LayerWeights& weights, Workspace& workspace,
                 int64_t rows, const RunOptions& options) {
  const int threads = options.threads;
  const ExpertsConfig& experts = config.experts;
  const int64_t hidden = config.hidden, chosen = experts.chosen;
  float* logits = workspace.router_logits;
  workspace.activations.assign(workspace.normed, hidden, rows, hidden);
  // A choice between experts that are nearly alike should not hang on rounding.
  RunOptions exact = options;
  exact.precision = Precision::kF32;
  exact.many_rows_precision = std::nullopt;
  apply_linear(weights.router, {layer, LinearRole::kRouter}, workspace.activations,
               {workspace.normed, hidden, rows, hidden}, logits, experts.count, exact);
  int32_t* numbers = workspace.chosen.data();
  float* shares = workspace.expert_shares.data();
  for (int64_t row = 0; row < rows; ++row)
    choose(experts, logits + row * experts.count, numbers + row * chosen, shares + row * chosen);
  std::memset(workspace.added, 0, static_cast<size_t>(rows * hidden) * sizeof(float));

  if (rows == 1) {  // the activations stay those of the router
    for (int64_t i = 0; i < chosen; ++i) {
      run_expert(config, {.layer = layer, .expert = numbers[i]},
                 weights.experts[static_cast<size_t>(numbers[i])], workspace,
                 {workspace.normed, hidden, 1, hidden}, workspace.expert_output, options);
      for (int64_t d = 0; d < hidden; ++d) workspace.added[d] += shares[i] * workspace.expert_output[d];
    }
    return;
  }
  std::vector<int64_t>& taken = workspace.expert_rows;  // places in `numbers`
  for (int64_t e = 0; e < experts.count; ++e) {
    taken.clear();
    for (int64_t i = 0; i < rows * chosen; ++i)
      if (numbers[i] == e) taken.push_back(i);
    if (taken.empty()) continue;
    const auto count = static_cast<int64_t>(taken.size());
    parallel_for(count, 1, threads, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        std::memcpy(workspace.expert_input + i * hidden,
                    workspace.normed + taken[static_cast<size_t>(i)] / chosen * hidden,
                    static_cast<size_t>(hidden) * sizeof(float));
    });
    workspace.activations.assign(workspace.expert_input, hidden, count, hidden);
    run_expert(config, {.layer = layer, .expert = e}, weights.experts[static_cast<size_t>(e)], workspace,
               {workspace.expert_input, hidden, count, hidden}, workspace.expert_output, options);
    parallel_for(count, 1, threads, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t place = taken[static_cast<size_t>(i)];
        float* sum = workspace.added + place / chosen * hidden;
        const float* own = workspace.expert_output + i * hidden;
        for (int64_t d = 0; d < hidden; ++d) sum[d] += shares[place] * own[d];
      }
    });
  }
}

}  // namespace nfloat
