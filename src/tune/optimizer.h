// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TUNE_OPTIMIZER_H_
#define NFLOAT_TUNE_OPTIMIZER_H_

#include <cstdint>
#include <vector>

#include "nfloat/train.h"
#include "tune/adapter.h"

namespace nfloat {

// Factor of the learning rate in a step with `finished` steps before it, of `total` (Transformers'
// get_scheduler: "constant" has no warm-up).
double schedule_factor(TrainSchedule schedule, int64_t finished, int64_t warmup, int64_t total) noexcept;

// Euclidean norm over all gradients of the adapter, summed in double precision in one order.
double gradient_norm(const Adapter& adapter, int threads);

// AdamW as torch.optim.AdamW computes it, state in float32.
class AdamW {
 public:
  // Of `ranks` ranks this one has the state of the modules r, r + ranks, ... alone, and steps those.
  explicit AdamW(const Adapter& adapter, size_t rank = 0, size_t ranks = 1);

  // One step: p *= 1 - rate * decay; m, v; p -= rate / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + epsilon).
  // Gradients are multiplied by `factor` first. `rate_b`: that of B.
  void step(Adapter& adapter, const TrainOptions& options, double rate, double rate_b, double factor,
            int threads);

  struct Moments {
    std::vector<float> m, v;
  };
  struct Pair {
    Moments a, b, magnitude;
  };
  bool owns(size_t module) const noexcept { return module % ranks_ == rank_; }
  // Of modules of other ranks nothing.
  std::vector<Pair>& moments() noexcept { return moments_; }
  const std::vector<Pair>& moments() const noexcept { return moments_; }
  uint64_t bytes() const noexcept;  // of this rank's moments
  int64_t steps() const noexcept { return steps_; }
  void set_steps(int64_t steps) noexcept { steps_ = steps; }

 private:
  std::vector<Pair> moments_;  // by module
  int64_t steps_ = 0;
  size_t rank_ = 0, ranks_ = 1;
};

}  // namespace nfloat

#endif  // NFLOAT_TUNE_OPTIMIZER_H_
