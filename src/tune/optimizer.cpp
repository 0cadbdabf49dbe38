// SPDX-License-Identifier: Apache-2.0
#include "tune/optimizer.h"

#include <cmath>
#include <numbers>
#include <numeric>
#include <vector>

#include "base/parallel.h"

namespace nfloat {

double schedule_factor(TrainSchedule schedule, int64_t finished, int64_t warmup, int64_t total) noexcept {
  if (schedule == TrainSchedule::kConstant) return 1;
  if (finished < warmup) return static_cast<double>(finished) / static_cast<double>(warmup);
  if (finished >= total) return 0;
  const double done =
      static_cast<double>(finished - warmup) / static_cast<double>(std::max<int64_t>(1, total - warmup));
  return schedule == TrainSchedule::kLinear ? 1 - done : 0.5 * (1 + std::cos(std::numbers::pi * done));
}

double gradient_norm(const Adapter& adapter, int threads) {
  constexpr size_t kTensors = 3;
  std::vector<double> squares(kTensors * adapter.modules.size());
  parallel_for(static_cast<int64_t>(squares.size()), 1, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const LoraModule& module = adapter.modules[static_cast<size_t>(i) / kTensors];
      const std::vector<float>* const gradients[kTensors] = {
          &module.a_gradient, &module.b_transposed_gradient, &module.magnitude_gradient};
      double own = 0;
      for (const float value : *gradients[static_cast<size_t>(i) % kTensors])
        own += static_cast<double>(value) * static_cast<double>(value);
      squares[static_cast<size_t>(i)] = own;
    }
  });
  return std::sqrt(std::accumulate(squares.begin(), squares.end(), 0.0));
}

AdamW::AdamW(const Adapter& adapter, size_t rank, size_t ranks) : rank_(rank), ranks_(ranks) {
  for (size_t i = 0; i < adapter.modules.size(); ++i) {
    const LoraModule& module = adapter.modules[i];
    const auto zeros = [&](const std::vector<float>& like) {
      const size_t size = owns(i) ? like.size() : 0;
      return Moments{std::vector<float>(size), std::vector<float>(size)};
    };
    moments_.push_back({zeros(module.a), zeros(module.b), zeros(module.magnitude)});
  }
}

uint64_t AdamW::bytes() const noexcept {
  size_t floats = 0;
  for (const Pair& pair : moments_)
    for (const Moments* own : {&pair.a, &pair.b, &pair.magnitude}) floats += own->m.size() + own->v.size();
  return floats * sizeof(float);
}

void AdamW::step(Adapter& adapter, const TrainOptions& options, double rate, double rate_b, double factor,
                 int threads) {
  ++steps_;
  ++adapter.version;
  const double first = 1 - std::pow(options.beta1, static_cast<double>(steps_));
  const double second = std::sqrt(1 - std::pow(options.beta2, static_cast<double>(steps_)));
  const auto update = [&](float& p, float& m, float& v, float gradient, double own_rate) {
    const double g = static_cast<double>(gradient) * factor;
    const double moment = options.beta1 * static_cast<double>(m) + (1 - options.beta1) * g;
    const double square = options.beta2 * static_cast<double>(v) + (1 - options.beta2) * g * g;
    m = static_cast<float>(moment);
    v = static_cast<float>(square);
    p = static_cast<float>(static_cast<double>(p) * (1 - own_rate * options.weight_decay) -
                           own_rate / first * moment / (std::sqrt(square) / second + options.epsilon));
  };
  parallel_for(static_cast<int64_t>(adapter.modules.size()), 1, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (!owns(static_cast<size_t>(i))) continue;
      LoraModule& module = adapter.modules[static_cast<size_t>(i)];
      Pair& own = moments_[static_cast<size_t>(i)];
      for (size_t j = 0; j < module.a.size(); ++j)
        update(module.a[j], own.a.m[j], own.a.v[j], module.a_gradient[j], rate);
      const auto rank = static_cast<size_t>(module.rank()), out = static_cast<size_t>(module.at().out);
      for (size_t o = 0; o < out; ++o)
        for (size_t r = 0; r < rank; ++r) {
          const size_t j = o * rank + r;
          update(module.b[j], own.b.m[j], own.b.v[j], module.b_transposed_gradient[r * out + o], rate_b);
        }
      for (size_t j = 0; j < module.magnitude.size(); ++j)
        update(module.magnitude[j], own.magnitude.m[j], own.magnitude.v[j], module.magnitude_gradient[j],
               rate_b);
      module.refresh();
    }
  });
}

}  // namespace nfloat
