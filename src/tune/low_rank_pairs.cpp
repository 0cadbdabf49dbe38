// SPDX-License-Identifier: Apache-2.0
// The products of adapters in pairs of bf16, sums in float32 (kernels/train.h). What is added to the products
// of the frozen matrices joins their sums before these are stored.
#include <algorithm>

#include "base/float16.h"
#include "base/parallel.h"
#include "tune/low_rank.h"

namespace nfloat {
namespace {

constexpr int64_t kRowsTogether = 96;  // whose down products are rounded at a time
constexpr int64_t kStripRows = 512;    // a strip of so many fills two thirds of the first cache
constexpr int64_t kPanel = 16;

uint32_t pair_of(float low, float high) noexcept {
  return static_cast<uint32_t>(float_to_bf16(low)) | static_cast<uint32_t>(float_to_bf16(high)) << 16;
}

// scale * B z of one part.
class UpTail final : public PairTail {
 public:
  UpTail(const LoraModule& module, HalfRows z, int64_t column)
      : PairTail(z.pairs(0, column), z.pair_stride(), module.padded_rank() / 2), module_(module) {}
  void fill(int64_t column, int64_t count, uint32_t* strip) const noexcept override {
    const int64_t rank = module_.rank(), columns = kernels::table().train.pairs->columns;
    const float* b = module_.b.data() + column * rank;
    const auto at = [&](int64_t c, int64_t r) { return r < rank ? module_.scale() * b[c * rank + r] : 0.0f; };
    for (int64_t l = 0; l < pairs(); ++l)
      for (int64_t c = 0; c < count; ++c) strip[l * columns + c] = pair_of(at(c, 2 * l), at(c, 2 * l + 1));
  }

 private:
  const LoraModule& module_;
};

// A^T t of all modules of a group.
class InputTail final : public PairTail {
 public:
  InputTail(std::span<const LoraModule> modules, HalfRows t, int64_t width)
      : PairTail(t.pairs(0), t.pair_stride(), width / 2), modules_(modules) {}
  void fill(int64_t column, int64_t count, uint32_t* strip) const noexcept override {
    const int64_t columns = kernels::table().train.pairs->columns;
    for (const LoraModule& module : modules_) {
      const float* a = module.a.data() + column;
      const int64_t rank = module.rank(), in = module.at().in;
      const auto at = [&](int64_t r, int64_t c) { return r < rank ? a[r * in + c] : 0.0f; };
      for (int64_t l = 0; l < module.padded_rank() / 2; ++l, strip += columns)
        for (int64_t c = 0; c < count; ++c) strip[c] = pair_of(at(2 * l, c), at(2 * l + 1, c));
    }
  }

 private:
  std::span<const LoraModule> modules_;
};

// Columns [0, padded rank) of `to` = x times the weights as LoraModule packs them, for some rows.
void multiply_down(const uint32_t* x, int64_t stride, int64_t pairs, const uint32_t* weights, int64_t padded,
                   int64_t rows, float* sums, int64_t sums_stride) noexcept {
  const kernels::PairKernels& kernels = *kernels::table().train.pairs;
  for (int64_t column = 0; column < padded; column += kernels.columns) {
    const int64_t width = std::min<int64_t>(kernels.columns, padded - column);
    kernels.product({.a = x,
                     .a_row = stride,
                     .b = weights + column * pairs,
                     .b_row = width,
                     .c = sums + column,
                     .c_stride = sums_stride,
                     .m = rows,
                     .n = width,
                     .pairs = pairs});
  }
}

// gradient[r][c] += scale * sum over rows of z[row][r] * x[row][c]; z turned to strips of pairs of rows.
struct Outer {
  const uint32_t* z;
  int64_t z_strip;  // pairs of a strip of 32 columns
  int64_t z_column;
  int64_t rank;
  float* gradient;
  int64_t width;
  float scale;
};

// For the columns [column, column + count) of x, at most a strip of them.
void add_outer(const Outer& one, const uint32_t* strip, int64_t first_pair, int64_t pairs, int64_t column,
               int64_t count) noexcept {
  const kernels::PairKernels& kernels = *kernels::table().train.pairs;
  for (int64_t r = 0; r < one.rank;) {
    const int64_t at = one.z_column + r, in_strip = at % kernels.columns;
    const int64_t rows = std::min(one.rank - r, kernels.columns - in_strip);
    kernels.product(
        {.a = one.z + at / kernels.columns * one.z_strip + first_pair * kernels.columns + in_strip,
         .a_row = 1,
         .a_column = kernels.columns,
         .b = strip,
         .b_row = kernels.columns,
         .c = one.gradient + r * one.width + column,
         .c_stride = one.width,
         .m = rows,
         .n = count,
         .pairs = pairs,
         .alpha = one.scale,
         .accumulate = true});
    r += rows;
  }
}

void add_outers(std::span<const Outer> all, HalfRows x, int64_t first, int64_t width, int64_t rows,
                int threads) {
  const kernels::PairKernels& kernels = *kernels::table().train.pairs;
  const int64_t columns = kernels.columns;
  parallel_for((width + columns - 1) / columns, 1, threads, [&](int64_t begin, int64_t end) {
    auto* strip = reinterpret_cast<uint32_t*>(
        thread_scratch(static_cast<size_t>(kStripRows / 2 * columns) * sizeof(uint32_t)));
    for (int64_t s = begin; s < end; ++s) {
      const int64_t column = s * columns, count = std::min(columns, width - column);
      for (int64_t row = 0; row < rows; row += kStripRows) {
        const int64_t together = std::min(kStripRows, rows - row);
        kernels.pair_rows(x.at(row, first + column), x.stride, together, count, strip);
        for (const Outer& one : all) add_outer(one, strip, row / 2, (together + 1) / 2, column, count);
      }
    }
  });
}

}  // namespace

int64_t padded_ranks(std::span<const LoraModule> modules) noexcept {
  int64_t sum = 0;
  for (const LoraModule& module : modules) sum += module.padded_rank();
  return sum;
}

int64_t AdaptedProducts::turned_pairs(int64_t rows, int64_t width) noexcept {
  constexpr int64_t kTwoPanels = 2 * kPanel;
  return (width + kTwoPanels - 1) / kTwoPanels * kTwoPanels * ((rows + 1) / 2);
}

// Rows of halves to strips of pairs of rows; returns the pairs of a strip.
int64_t AdaptedProducts::turn(HalfRows from, int64_t width, int64_t rows, uint32_t* to) const {
  const kernels::PairKernels& kernels = *kernels::table().train.pairs;
  const int64_t strip = (rows + 1) / 2 * kernels.columns;
  parallel_for(rows, kStripRows / 4, options_.threads, [&](int64_t begin, int64_t end) {
    for (int64_t column = 0; column < width; column += kernels.columns)
      kernels.pair_rows(from.at(begin, column), from.stride, end - begin,
                        std::min<int64_t>(kernels.columns, width - column),
                        to + column / kernels.columns * strip + begin / 2 * kernels.columns);
  });
  return strip;
}

void AdaptedProducts::down_pairs(std::span<const LoraModule> modules, HalfRows x, int64_t rows,
                                 bool gradients, HalfRows z) const {
  const int64_t width = padded_ranks(modules);
  if (width == 0) return;
  parallel_for(rows, kRowsTogether, options_.threads, [&](int64_t begin, int64_t end) {
    float* sums =
        reinterpret_cast<float*>(thread_scratch(static_cast<size_t>(kRowsTogether * width) * sizeof(float)));
    for (int64_t row = begin; row < end; row += kRowsTogether) {
      const int64_t together = std::min(kRowsTogether, end - row);
      int64_t column = 0;
      for (const LoraModule& module : modules) {
        const LinearModule& at = module.at();
        const int64_t from = gradients ? at.first : 0, terms = gradients ? at.out : at.in;
        multiply_down(x.pairs(row, from), x.pair_stride(), terms / 2,
                      gradients ? module.b_pairs() : module.a_pairs(), module.padded_rank(), together,
                      sums + column, width);
        column += module.padded_rank();
      }
      for (int64_t i = 0; i < together; ++i)
        kernels::table().train.pairs->round_row(sums + i * width, width, z.at(row + i));
    }
  });
}

void AdaptedProducts::forward_pairs(const LinearGroup& group, std::span<LoraModule> modules, HalfRows x,
                                    int64_t rows, const KeptRows& y, HalfRows z) {
  packed_.assign_halves(x.data, x.stride, rows, group.inputs());
  down_pairs(modules, x, rows, false, z);
  const PairOutput all{.data = y.data, .half = y.half, .stride = y.stride};
  int64_t first = 0, column = 0;
  for (size_t part = 0; part < group.parts(); first += group.outputs(part++)) {
    PairOutput own = all.from_column(first);
    const auto module = std::find_if(modules.begin(), modules.end(),
                                     [&](const LoraModule& m) { return m.at().part == part; });
    if (module == modules.end()) {
      group.apply_pairs(part, packed_, own, options_.threads);
      continue;
    }
    const UpTail tail(*module, z, column);
    own.tail = &tail;
    if (module->dora()) own.factors = module->factors.data();
    group.apply_pairs(part, packed_, own, options_.threads);
    column += module->padded_rank();
  }
}

// The magnitudes' gradient, and dy to that of W x + scale * B A x.
static void factors_backward(LoraModule& module, std::span<const float> bias, int64_t rows, HalfRows dy,
                             HalfRows y, int threads) {
  if (!module.dora()) return;
  const int64_t first = module.at().first;
  parallel_for(module.at().out, 2 * kPanel, threads, [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      const auto at = static_cast<size_t>(o);
      const float fixed = bias.empty() ? 0.0f : bias[at], factor = module.factors[at];
      double sum = 0;
      for (int64_t row = 0; row < rows; ++row) {
        uint16_t& half = *dy.at(row, first + o);
        const float d = bf16_to_float(half);
        sum += static_cast<double>(d) * static_cast<double>(bf16_to_float(*y.at(row, first + o)) - fixed);
        half = float_to_bf16(d * factor);
      }
      if (module.magnitude[at] != 0.0f)
        module.magnitude_gradient[at] += static_cast<float>(sum / static_cast<double>(module.magnitude[at]));
    }
  });
}

void AdaptedProducts::backward_pairs(const LinearGroup& group, std::span<LoraModule> modules, HalfRows x,
                                     int64_t rows, HalfRows dy, HalfRows y, HalfRows z, const KeptRows& dx) {
  for (LoraModule& module : modules)
    factors_backward(module, group.bias(module.at().part), rows, dy, y, options_.threads);
  const int64_t width = padded_ranks(modules);
  if (width > 0) {
    down_pairs(modules, dy, rows, true, t_halves_);
    auto* turned = reinterpret_cast<uint32_t*>(turned_.data());
    int64_t strip = turn(z, width, rows, turned), column = 0;
    for (LoraModule& module : modules) {
      const Outer one{
          turned,          strip,         column, module.rank(), module.b_transposed_gradient.data(),
          module.at().out, module.scale()};
      add_outers({&one, 1}, dy, module.at().first, module.at().out, rows, options_.threads);
      column += module.padded_rank();
    }
    strip = turn(t_halves_, width, rows, turned), column = 0;
    std::vector<Outer> all;
    for (LoraModule& module : modules) {
      all.push_back({turned, strip, column, module.rank(), module.a_gradient.data(), module.at().in, 1.0f});
      column += module.padded_rank();
    }
    add_outers(all, x, 0, group.inputs(), rows, options_.threads);
  }
  if (!dx.is_kept()) return;
  packed_.assign_halves(dy.data, dy.stride, rows, group.outputs());
  const InputTail tail(modules, t_halves_, width);
  group.apply_transposed(
      packed_, {.data = dx.data, .half = dx.half, .stride = dx.stride, .tail = width > 0 ? &tail : nullptr},
      options_.threads);
}

}  // namespace nfloat
