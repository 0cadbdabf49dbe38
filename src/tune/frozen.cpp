// SPDX-License-Identifier: Apache-2.0
#include "tune/frozen.h"

#include <algorithm>
#include <vector>

#include "base/parallel.h"

namespace nfloat {

FrozenProducts::FrozenProducts(Device& device, bool bf16, Precision precision, int threads)
    : bf16_(bf16), precision_(precision), threads_(threads) {
  if (device.name() == "cpu") return;
  engine_ = device.engine();
  engine_->use_threads(threads);
}

FrozenProducts::~FrozenProducts() {
  if (engine_ == nullptr) return;
  engine_->drop(from_.buffer);
  engine_->drop(to_.buffer);
}

BufferRows FrozenProducts::place(Place& own, int64_t rows, int64_t width) {
  if (own.floats < rows * width) {
    engine_->drop(own.buffer);
    own = {};
    own.buffer = engine_->make(rows * width);
    own.floats = rows * width;
  }
  return {own.buffer, 0, width};
}

template <typename Step>
void FrozenProducts::through_device(ConstRows from, int64_t rows, int64_t width, Rows to, int64_t to_width,
                                    Step&& step) {
  for (int64_t first = 0; first < rows; first += kMostRows) {
    const int64_t part = std::min(kMostRows, rows - first);
    const auto copy = [&](ConstRows source, Rows target, int64_t count) {
      parallel_for(part, 1, threads_, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row)
          std::copy_n(source.data + row * source.stride, count, target.data + row * target.stride);
      });
    };
    const BufferRows there = place(from_, part, width), back = place(to_, part, to_width);
    copy({from.data + first * from.stride, from.stride}, {engine_->host(there, part, width), width}, width);
    engine_->write(there, part, width);
    step(there, back, part);
    copy({engine_->read(back, part, to_width), to_width}, {to.data + first * to.stride, to.stride}, to_width);
  }
}

void FrozenProducts::multiply(const LinearGroup& group, ConstRows x, int64_t rows, Rows y) {
  if (engine_ != nullptr)
    return through_device(x, rows, group.inputs(), y, group.outputs(),
                          [&](const BufferRows& from, const BufferRows& to, int64_t part) {
                            engine_->multiply(group, from, to, part, precision_);
                          });
  if (bf16_ && group.multiplies_pairs()) {
    packed_.assign(x.data, x.stride, rows, group.inputs(), true, threads_);
    return group.apply_pairs(packed_, y.data, y.stride, threads_);
  }
  activations_.assign(x.data, x.stride, rows, group.inputs());
  group.apply(activations_, y.data, y.stride, precision_, threads_);
}

void FrozenProducts::multiply_transposed(const LinearGroup& group, ConstRows dy, int64_t rows, Rows dx) {
  if (engine_ != nullptr)
    return through_device(dy, rows, group.outputs(), dx, group.inputs(),
                          [&](const BufferRows& from, const BufferRows& to, int64_t part) {
                            engine_->multiply_transposed(group, from, to, part,
                                                         bf16_ ? Precision::kBF16 : Precision::kF32);
                          });
  packed_.assign(dy.data, dy.stride, rows, group.outputs(), bf16_, threads_);
  group.apply_transposed(packed_, 0, dx.data, dx.stride, false, threads_);
}

void FrozenProducts::multiply_part(const LinearGroup& group, size_t part, ConstRows x, int64_t rows,
                                   float* y) {
  const int64_t outputs = group.outputs(part), all = group.outputs();
  if (engine_ == nullptr) {
    activations_.assign(x.data, x.stride, rows, group.inputs());
    return group.apply_part(part, activations_, y, outputs, Precision::kF32, threads_);
  }
  int64_t first = 0;
  for (size_t before = 0; before < part; ++before) first += group.outputs(before);
  std::vector<float> whole(static_cast<size_t>(rows * all));
  through_device(x, rows, group.inputs(), {whole.data(), all}, all,
                 [&](const BufferRows& from, const BufferRows& to, int64_t together) {
                   engine_->multiply(group, from, to, together, Precision::kF32);
                 });
  const Constant& bias = group.bias(part);
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t o = 0; o < outputs; ++o)
      y[row * outputs + o] =
          whole[static_cast<size_t>(row * all + first + o)] - (bias.empty() ? 0.0f : bias.data()[o]);
}

// A device gives rows of W as gradients of unit vectors: one factor is 1, the others 0, which rounds nothing.
void FrozenProducts::decode(const LinearGroup& group, size_t part, int64_t first, int64_t count, float* to) {
  const int64_t inputs = group.inputs(), all = group.outputs();
  if (engine_ == nullptr) {
    for (int64_t row = 0; row < count; ++row) group.dequantize_row(part, first + row, to + row * inputs);
    return;
  }
  for (size_t before = 0; before < part; ++before) first += group.outputs(before);
  std::vector<float> units(static_cast<size_t>(count * all));
  for (int64_t row = 0; row < count; ++row) units[static_cast<size_t>(row * all + first + row)] = 1;
  through_device({units.data(), all}, count, all, {to, inputs}, inputs,
                 [&](const BufferRows& from, const BufferRows& back, int64_t together) {
                   engine_->multiply_transposed(group, from, back, together, Precision::kF32);
                 });
}

}  // namespace nfloat
