// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ENGINE_LINEAR_ID_H_
#define NFLOAT_ENGINE_LINEAR_ID_H_

#include <compare>
#include <cstdint>

namespace nfloat {

// The products of a layer: matrices with one input stand together.
enum class LinearRole : uint8_t { kQueryKeyValue, kOutput, kGateUp, kDown, kRouter };

// Which product of a model. Those of the experts of a mixture carry the expert's number.
struct LinearId {
  int64_t layer = 0;
  LinearRole role = LinearRole::kQueryKeyValue;
  int64_t expert = -1;

  friend auto operator<=>(const LinearId&, const LinearId&) = default;
};

// `rows` rows of `width` floats that begin `stride` floats apart.
struct ActivationRows {
  const float* data = nullptr;
  int64_t stride = 0;
  int64_t rows = 0;
  int64_t width = 0;
};

// Sees the products of the layers as they are computed, from the thread that runs the pass: statistics of the
// inputs, adapters beside the weights. May throw, which ends the pass.
class LinearObserver {
 public:
  virtual ~LinearObserver() = default;
  // Before the product. Rows of experts are those that chose the expert.
  virtual void input(const LinearId& id, const ActivationRows& x) = 0;
  // After the product: `y` has its outputs side by side, one row `y_stride` floats after the other, and may
  // be changed.
  virtual void output(const LinearId& id, const ActivationRows& x, float* y, int64_t y_stride) {
    static_cast<void>(id), static_cast<void>(x), static_cast<void>(y), static_cast<void>(y_stride);
  }
};

// Who sees the products of a pass: `beside` changes the outputs first.
struct Watch {
  LinearObserver* observer = nullptr;
  LinearObserver* beside = nullptr;

  bool any() const noexcept { return observer != nullptr || beside != nullptr; }
  void input(const LinearId& id, const ActivationRows& x) const {
    if (observer != nullptr) observer->input(id, x);
  }
  void output(const LinearId& id, const ActivationRows& x, float* y, int64_t y_stride) const {
    if (beside != nullptr) beside->output(id, x, y, y_stride);
    if (observer != nullptr) observer->output(id, x, y, y_stride);
  }
};

}  // namespace nfloat

#endif  // NFLOAT_ENGINE_LINEAR_ID_H_
