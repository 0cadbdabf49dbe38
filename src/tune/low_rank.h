// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TUNE_LOW_RANK_H_
#define NFLOAT_TUNE_LOW_RANK_H_

#include <cstdint>
#include <functional>
#include <span>

#include "engine/linear_group.h"
#include "linear/transposed.h"
#include "tune/adapter.h"
#include "tune/memory.h"

namespace nfloat {

// How a pass computes.
struct PassOptions {
  bool bf16 = false;                      // gradients and weights of transposed products rounded to bf16
  Precision precision = Precision::kF32;  // of the forward products with frozen weights
  Recompute recompute = Recompute::kNone;
  double dropout = 0;
  uint64_t seed = 0;
  int threads = 1;
  // Asked before each layer, forward and backward, and each slice of the head; true ends the pass with
  // kInterrupted.
  std::function<bool()> cancelled = nullptr;
};

// Which dropout mask: everything that it depends on but the module, the row and the column.
struct DropoutKey {
  bool active = false;
  uint64_t step = 0, batch = 0;
};

// Rows of a matrix in memory.
struct Rows {
  float* data = nullptr;
  int64_t stride = 0;
};
struct ConstRows {
  const float* data = nullptr;
  int64_t stride = 0;
};

// y = W x + b of a group of frozen matrices; the last two are memory to pack x in, one of them used.
void multiply_frozen(const LinearGroup& group, ConstRows x, int64_t rows, Rows y, const PassOptions& options,
                     PackedGradients& packed, Activations& activations);

// z = A x, [rows][padded rank].
void low_rank_down(const LoraModule& module, ConstRows x, int64_t rows, float* z, int threads);
// y += weight * scale * B z, at the module's place in the outputs of its group.
void low_rank_up(const LoraModule& module, const float* z, int64_t rows, float weight, Rows y, int threads);

// DoRA: y = factors * (y - bias) + bias at the module's place; nothing for other modules.
void apply_factors(const LoraModule& module, std::span<const float> bias, int64_t rows, Rows y, int threads);

// The products of one group of matrices with its adapters, forwards and backwards, and their buffers.
class AdaptedProducts {
 public:
  AdaptedProducts(const PassOptions& options, int64_t rows, int64_t widest_rank, int64_t widest_input);

  void set_dropout(const DropoutKey& key) noexcept { dropout_ = key; }

  // y = W x + b, plus scale * B A x of each module; z[i] keeps A x of module i, [rows][padded rank].
  void forward(const LinearGroup& group, std::span<LoraModule> modules, ConstRows x, int64_t rows, Rows y,
               std::span<float* const> z);
  // z alone.
  void down(std::span<LoraModule> modules, ConstRows x, int64_t rows, std::span<float* const> z);
  // Adds to the modules' gradients; dx, unless its data is null, is the gradient of x. `y` is what forward()
  // gave; of DoRA only, which changes dy.
  void backward(const LinearGroup& group, std::span<LoraModule> modules, ConstRows x, int64_t rows, Rows dy,
                ConstRows y, std::span<float* const> z, Rows dx);

 private:
  float drop_scale(const LoraModule& module, int64_t row, int64_t column) const noexcept;
  ConstRows dropped(const LoraModule& module, ConstRows x, int64_t rows);

  PassOptions options_;
  DropoutKey dropout_;
  Activations activations_;
  PackedGradients packed_;
  FloatMemory t_;        // dy B, [rows][padded rank]
  FloatMemory dropped_;  // [rows][inputs], only with dropout
  FloatMemory dropped_gradient_;
};

}  // namespace nfloat

#endif  // NFLOAT_TUNE_LOW_RANK_H_
