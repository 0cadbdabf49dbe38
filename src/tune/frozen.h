// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TUNE_FROZEN_H_
#define NFLOAT_TUNE_FROZEN_H_

#include <cstdint>
#include <memory>

#include "engine/layer_engine.h"
#include "engine/linear_group.h"
#include "linear/transposed.h"

namespace nfloat {

// Rows of a matrix in memory.
struct Rows {
  float* data = nullptr;
  int64_t stride = 0;
};
struct ConstRows {
  const float* data = nullptr;
  int64_t stride = 0;
};

// Products of rows in host memory with the frozen matrices of a model, on the device where these are: on
// another one than the CPU the rows go there and back. One thread at a time. Throw what the engines throw.
class FrozenProducts {
 public:
  // That a device is given together. More keep it no busier, would want memory there for all of them, and of
  // a whole long batch more than a step may have groups of or one piece of its memory holds.
  static constexpr int64_t kMostRows = 4096;

  // bf16: gradients, and weights that meet them, rounded to it. `precision`: of the forward products.
  FrozenProducts(Device& device, bool bf16, Precision precision, int threads);
  FrozenProducts(const FrozenProducts&) = delete;
  FrozenProducts& operator=(const FrozenProducts&) = delete;
  ~FrozenProducts();

  // y = W x + b of a group, the outputs of its matrices side by side.
  void multiply(const LinearGroup& group, ConstRows x, int64_t rows, Rows y);
  // dx = W^T dy, the sum over the group's matrices.
  void multiply_transposed(const LinearGroup& group, ConstRows dy, int64_t rows, Rows dx);
  // y = W x of one part in float32, without its bias.
  void multiply_part(const LinearGroup& group, size_t part, ConstRows x, int64_t rows, float* y);
  // Rows [first, first + count) of one part in float32, as level * scale: `to` is [count][inputs].
  void decode(const LinearGroup& group, size_t part, int64_t first, int64_t count, float* to);

 private:
  // Memory of the engine, which grows to the largest size seen.
  struct Place {
    BufferId buffer = BufferId::kNone;
    int64_t floats = 0;
  };
  BufferRows place(Place& own, int64_t rows, int64_t width);
  // Gives `rows` rows to the device, has `step` compute rows of `to_width` from them, and takes those; in
  // parts.
  template <typename Step>
  void through_device(ConstRows from, int64_t rows, int64_t width, Rows to, int64_t to_width, Step&& step);

  const bool bf16_;
  const Precision precision_;
  const int threads_;
  std::unique_ptr<LayerEngine> engine_;  // none: the matrices are the CPU's
  Place from_, to_;
  Activations activations_;
  PackedGradients packed_;
};

// body(row, values) for all rows of one part, in their order.
template <typename Body>
void over_decoded_rows(FrozenProducts& products, const LinearGroup& group, size_t part, Body&& body) {
  constexpr int64_t kTogether = 64;
  const int64_t rows = group.outputs(part), width = group.inputs();
  std::vector<float> values(static_cast<size_t>(kTogether * width));
  for (int64_t first = 0; first < rows; first += kTogether) {
    const int64_t count = rows - first < kTogether ? rows - first : kTogether;
    products.decode(group, part, first, count, values.data());
    for (int64_t row = 0; row < count; ++row) body(first + row, values.data() + row * width);
  }
}

}  // namespace nfloat

#endif  // NFLOAT_TUNE_FROZEN_H_
