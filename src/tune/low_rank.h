// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TUNE_LOW_RANK_H_
#define NFLOAT_TUNE_LOW_RANK_H_

#include <cstdint>
#include <functional>
#include <span>

#include "tune/adapter.h"
#include "tune/frozen.h"
#include "tune/kept_rows.h"
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

// A x of the modules of one group: each [rows][padded rank], or in halves all of them side by side.
struct LowRows {
  std::span<float* const> each = {};
  HalfRows together = {};
};

// Sum of the modules' padded ranks: the width of the latter.
int64_t padded_ranks(std::span<const LoraModule> modules) noexcept;

// z = A x, [rows][padded rank].
void low_rank_down(const LoraModule& module, ConstRows x, int64_t rows, float* z, int threads);
// y += weight * scale * B z, at the module's place in the outputs of its group.
void low_rank_up(const LoraModule& module, const float* z, int64_t rows, float weight, Rows y, int threads);

// DoRA: y = factors * (y - bias) + bias at the module's place; nothing for other modules.
void apply_factors(const LoraModule& module, std::span<const float> bias, int64_t rows, Rows y, int threads);

// The products of one group of matrices with its adapters, forwards and backwards, and their buffers.
class AdaptedProducts {
 public:
  // For `rows` rows and a model whose matrices are on `device`. With `halves` the rows are of bf16 where they
  // may be, `widest` the widest LowRows; else `widest` is the widest padded rank.
  AdaptedProducts(Device& device, const PassOptions& options, bool halves, int64_t rows, int64_t widest,
                  int64_t widest_input);

  void set_dropout(const DropoutKey& key) noexcept { dropout_ = key; }

  // y = W x + b, plus scale * B A x of each module; z keeps A x.
  void forward(const LinearGroup& group, std::span<LoraModule> modules, const KeptRows& x, int64_t rows,
               const KeptRows& y, const LowRows& z);
  // z alone.
  void down(std::span<LoraModule> modules, const KeptRows& x, int64_t rows, const LowRows& z);
  // Adds to the modules' gradients; dx, unless it is not kept, is the gradient of x, and may lie where x does
  // in halves. `y` is what forward() gave; of DoRA only, which changes dy.
  void backward(const LinearGroup& group, std::span<LoraModule> modules, const KeptRows& x, int64_t rows,
                const KeptRows& dy, const KeptRows& y, const LowRows& z, const KeptRows& dx);

 private:
  float drop_scale(const LoraModule& module, int64_t row, int64_t column) const noexcept;
  ConstRows dropped(const LoraModule& module, ConstRows x, int64_t rows);

  // Of rows in halves (low_rank_pairs.cpp).
  static int64_t turned_pairs(int64_t rows, int64_t width) noexcept;
  int64_t turn(HalfRows from, int64_t width, int64_t rows, uint32_t* to) const;
  // z = A x of all modules, or with `gradients` scale * B^T of theirs.
  void down_pairs(std::span<const LoraModule> modules, HalfRows x, int64_t rows, bool gradients,
                  HalfRows z) const;
  void forward_pairs(const LinearGroup& group, std::span<LoraModule> modules, HalfRows x, int64_t rows,
                     const KeptRows& y, HalfRows z);
  void backward_pairs(const LinearGroup& group, std::span<LoraModule> modules, HalfRows x, int64_t rows,
                      HalfRows dy, HalfRows y, HalfRows z, const KeptRows& dx);

  PassOptions options_;
  DropoutKey dropout_;
  FrozenProducts frozen_;
  PackedGradients packed_;  // of halves
  FloatMemory t_;           // dy B, [rows][padded rank]
  HalfRows t_halves_;
  FloatMemory turned_;
  FloatMemory dropped_;  // [rows][inputs], only with dropout
  FloatMemory dropped_gradient_;
};

}  // namespace nfloat

#endif  // NFLOAT_TUNE_LOW_RANK_H_
