// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TUNE_GRADIENT_OBSERVER_H_
#define NFLOAT_TUNE_GRADIENT_OBSERVER_H_

#include <cstdint>

#include "model/model_state.h"
#include "tune/adapter.h"
#include "tune/low_rank.h"

namespace nfloat {

// Sees in a backward pass what the gradients of the model's own weights are made of, from the last layer to
// the first. What is shown is valid during the call.
class GradientObserver {
 public:
  virtual ~GradientObserver() = default;
  // Of y = W x of a group of matrices: its inputs and the gradients of its outputs. The pass does not read
  // these weights again.
  virtual void product(int64_t layer, Place place, ConstRows x, ConstRows dy, int64_t rows) = 0;
  // Of y = normalized(x) * norm.weight, as wide as the weight; once or several times for one norm.
  virtual void norm(const NormWeights& norm, ConstRows x, ConstRows dy, int64_t rows) = 0;
};

}  // namespace nfloat

#endif  // NFLOAT_TUNE_GRADIENT_OBSERVER_H_
