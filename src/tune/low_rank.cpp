// SPDX-License-Identifier: Apache-2.0
#include "tune/low_rank.h"

#include <algorithm>

#include "base/parallel.h"
#include "kernels/dispatch.h"
#include "tune/random.h"

namespace nfloat {
namespace {

constexpr int64_t kRowGrain = 12;  // a multiple of what the products take together
constexpr int64_t kColumnGrain = 64;
constexpr int64_t kWideRows = 2 * kRowGrain;

// c = alpha * a b (+ c) with rows of c shared out; `together`: rows that are gone along from end to end at a
// time, a multiple of the grain, 0 for all. Wide rows of c are read and written in order with few.
void by_rows(kernels::ProductArgs args, int threads, int64_t together = 0) {
  parallel_for(args.m, kRowGrain, threads, [&](int64_t begin, int64_t end) {
    const int64_t step = together > 0 ? together : end - begin;
    for (int64_t row = begin; row < end; row += step) {
      kernels::ProductArgs own = args;
      own.a += row * args.a_row;
      own.c += row * args.c_stride;
      own.m = std::min(step, end - row);
      kernels::table().train.product(own);
    }
  });
}

// The same with columns of c shared out.
void by_columns(kernels::ProductArgs args, int threads) {
  parallel_for(args.n, kColumnGrain, threads, [&](int64_t begin, int64_t end) {
    kernels::ProductArgs own = args;
    own.b += begin;
    own.c += begin;
    own.n = end - begin;
    kernels::table().train.product(own);
  });
}

}  // namespace

void low_rank_down(const LoraModule& module, ConstRows x, int64_t rows, float* z, int threads) {
  by_rows({.a = x.data,
           .a_row = x.stride,
           .a_column = 1,
           .b = module.a_transposed(),
           .b_stride = module.padded_rank(),
           .c = z,
           .c_stride = module.padded_rank(),
           .m = rows,
           .n = module.padded_rank(),
           .k = module.at().in},
          threads);
}

void low_rank_up(const LoraModule& module, const float* z, int64_t rows, float weight, Rows y, int threads) {
  by_rows({.a = z,
           .a_row = module.padded_rank(),
           .a_column = 1,
           .b = module.b_transposed(),
           .b_stride = module.at().out,
           .c = y.data + module.at().first,
           .c_stride = y.stride,
           .m = rows,
           .n = module.at().out,
           .k = module.rank(),
           .alpha = weight * module.scale(),
           .accumulate = true},
          threads, kWideRows);
}

void apply_factors(const LoraModule& module, std::span<const float> bias, int64_t rows, Rows y, int threads) {
  if (!module.dora()) return;
  const float* factors = module.factors.data();
  parallel_for(rows, 1, threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float* to = y.data + row * y.stride + module.at().first;
      for (int64_t o = 0; o < module.at().out; ++o) {
        const float fixed = bias.empty() ? 0.0f : bias[static_cast<size_t>(o)];
        to[o] = factors[o] * (to[o] - fixed) + fixed;
      }
    }
  });
}

// The magnitudes' gradient, and dy to that of W x + scale * B A x.
static void factors_backward(LoraModule& module, std::span<const float> bias, int64_t rows, Rows dy,
                             ConstRows y, int threads) {
  if (!module.dora()) return;
  const int64_t first = module.at().first;
  parallel_for(module.at().out, kColumnGrain, threads, [&](int64_t begin, int64_t end) {
    for (int64_t o = begin; o < end; ++o) {
      const auto at = static_cast<size_t>(o);
      const float fixed = bias.empty() ? 0.0f : bias[at], factor = module.factors[at];
      double sum = 0;
      for (int64_t row = 0; row < rows; ++row) {
        float& d = dy.data[row * dy.stride + first + o];
        sum += static_cast<double>(d) * static_cast<double>(y.data[row * y.stride + first + o] - fixed);
        d *= factor;
      }
      if (module.magnitude[at] != 0.0f)
        module.magnitude_gradient[at] += static_cast<float>(sum / static_cast<double>(module.magnitude[at]));
    }
  });
}

AdaptedProducts::AdaptedProducts(Device& device, const PassOptions& options, bool halves, int64_t rows,
                                 int64_t widest, int64_t widest_input)
    : options_(options), frozen_(device, options.bf16, options.precision, options.threads) {
  if (halves) {
    t_halves_.stride = pair_row_stride(widest);
    t_ = FloatMemory(rows * t_halves_.stride / 2);
    t_halves_.data = reinterpret_cast<uint16_t*>(t_.data());
    turned_ = FloatMemory(turned_pairs(rows, widest));
    return;
  }
  t_ = FloatMemory(rows * widest);
  if (options.dropout <= 0) return;
  dropped_ = FloatMemory(rows * widest_input);
  dropped_gradient_ = FloatMemory(rows * widest_input);
}

// 0 or 1 / (1 - p).
float AdaptedProducts::drop_scale(const LoraModule& module, int64_t row, int64_t column) const noexcept {
  const LinearModule& at = module.at();
  const uint64_t place = (static_cast<uint64_t>(at.layer) * kPlaces + static_cast<uint64_t>(at.place)) * 4 +
                         static_cast<uint64_t>(at.part);
  const uint64_t key = mixed(dropout_.step * 0x10001 + dropout_.batch) ^ mixed(place + 1);
  const uint64_t element =
      static_cast<uint64_t>(row) * static_cast<uint64_t>(at.in) + static_cast<uint64_t>(column);
  const bool kept = uniform(options_.seed, RandomUse::kDropout, key, element) >= options_.dropout;
  return kept ? static_cast<float>(1 / (1 - options_.dropout)) : 0.0f;
}

ConstRows AdaptedProducts::dropped(const LoraModule& module, ConstRows x, int64_t rows) {
  if (!dropout_.active || options_.dropout <= 0) return x;
  const int64_t in = module.at().in;
  float* to = dropped_.data();
  parallel_for(rows, 1, options_.threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t i = 0; i < in; ++i)
        to[row * in + i] = x.data[row * x.stride + i] * drop_scale(module, row, i);
  });
  return {to, in};
}

void AdaptedProducts::down(std::span<LoraModule> modules, const KeptRows& x, int64_t rows, const LowRows& z) {
  if (x.half != nullptr) return down_pairs(modules, x.halves(), rows, false, z.together);
  for (size_t i = 0; i < modules.size(); ++i) {
    const LoraModule& module = modules[i];
    low_rank_down(module, dropped(module, {x.data, x.stride}, rows), rows, z.each[i], options_.threads);
  }
}

void AdaptedProducts::forward(const LinearGroup& group, std::span<LoraModule> modules, const KeptRows& x,
                              int64_t rows, const KeptRows& y, const LowRows& z) {
  if (x.half != nullptr) return forward_pairs(group, modules, x.halves(), rows, y, z.together);
  const Rows to{y.data, y.stride};
  frozen_.multiply(group, {x.data, x.stride}, rows, to);
  down(modules, x, rows, z);
  for (size_t i = 0; i < modules.size(); ++i) {
    low_rank_up(modules[i], z.each[i], rows, 1.0f, to, options_.threads);
    apply_factors(modules[i], group.bias(modules[i].at().part), rows, to, options_.threads);
  }
}

void AdaptedProducts::backward(const LinearGroup& group, std::span<LoraModule> modules,
                               const KeptRows& x_rows, int64_t rows, const KeptRows& dy_rows,
                               const KeptRows& y_rows, const LowRows& z, const KeptRows& dx) {
  if (dy_rows.half != nullptr)
    return backward_pairs(group, modules, x_rows.halves(), rows, dy_rows.halves(), y_rows.halves(),
                          z.together, dx);
  const Rows dy{dy_rows.data, dy_rows.stride};
  const ConstRows x{x_rows.data, x_rows.stride}, y{y_rows.data, y_rows.stride};
  for (LoraModule& module : modules)
    factors_backward(module, group.bias(module.at().part), rows, dy, y, options_.threads);
  if (dx.data != nullptr)
    frozen_.multiply_transposed(group, {dy.data, dy.stride}, rows, {dx.data, dx.stride});
  for (size_t i = 0; i < modules.size(); ++i) {
    LoraModule& module = modules[i];
    const LinearModule& at = module.at();
    const int64_t padded = module.padded_rank();
    const float* own = dy.data + at.first;
    by_rows({.a = own,
             .a_row = dy.stride,
             .a_column = 1,
             .b = module.b_padded(),
             .b_stride = padded,
             .c = t_.data(),
             .c_stride = padded,
             .m = rows,
             .n = padded,
             .k = at.out},
            options_.threads);
    by_columns({.a = z.each[i],
                .a_row = 1,
                .a_column = padded,
                .b = own,
                .b_stride = dy.stride,
                .c = module.b_transposed_gradient.data(),
                .c_stride = at.out,
                .m = module.rank(),
                .n = at.out,
                .k = rows,
                .alpha = module.scale(),
                .accumulate = true},
               options_.threads);
    const ConstRows input = dropped(module, x, rows);
    by_columns({.a = t_.data(),
                .a_row = 1,
                .a_column = padded,
                .b = input.data,
                .b_stride = input.stride,
                .c = module.a_gradient.data(),
                .c_stride = at.in,
                .m = module.rank(),
                .n = at.in,
                .k = rows,
                .alpha = module.scale(),
                .accumulate = true},
               options_.threads);
    if (dx.data == nullptr) continue;
    const bool drops = dropout_.active && options_.dropout > 0;
    by_rows({.a = t_.data(),
             .a_row = padded,
             .a_column = 1,
             .b = module.a.data(),
             .b_stride = at.in,
             .c = drops ? dropped_gradient_.data() : dx.data,
             .c_stride = drops ? at.in : dx.stride,
             .m = rows,
             .n = at.in,
             .k = module.rank(),
             .alpha = module.scale(),
             .accumulate = !drops},
            options_.threads, kWideRows);
    if (!drops) continue;
    const float* gradient = dropped_gradient_.data();
    parallel_for(rows, 1, options_.threads, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row)
        for (int64_t k = 0; k < at.in; ++k)
          dx.data[row * dx.stride + k] += gradient[row * at.in + k] * drop_scale(module, row, k);
    });
  }
}

}  // namespace nfloat
