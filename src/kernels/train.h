// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_KERNELS_TRAIN_H_
#define NFLOAT_KERNELS_TRAIN_H_

#include <cstdint>

#include "kernels/attention.h"
#include "kernels/gemm.h"

// What training needs beyond the forward pass, in float32. A result does not depend on how a product is cut
// into rows and columns: each element is a sum in ascending order of k, 256 products at a time.
namespace nfloat::kernels {

// c[i][j] = alpha * sum over l of a[i * a_row + l * a_column] * b[l * b_stride + j], plus c[i][j] when
// accumulating.
struct ProductArgs {
  const float* a;
  int64_t a_row, a_column;
  const float* b;
  int64_t b_stride;
  float* c;
  int64_t c_stride;
  int64_t m, n, k;
  float alpha = 1;
  bool accumulate = false;
};

// Of one row of gradients: what `panels` panels of packed octets (gemm.h) add to the sums of their columns,
// sums[8 * octet + column][lane] += sum over p of factors[p][lane] * level of the code, in ascending order of
// p. Lanes are the 16 rows of a panel; a factor is the row's gradient times its scale.
struct ColumnSumsArgs {
  const uint8_t* codes;  // of the first panel
  int64_t panel_bytes;   // from a panel to the next
  int64_t panels, octets;
  const LevelTables* levels;
  const float* factors;  // [panels][16]
  float* sums;           // [octets * 8][16]
};

// c[i][j] = alpha * sum over l of both products of the pairs a[i * a_row + l * a_column] and b[l * b_row +
// j], plus c[i][j] when accumulating; pairs of bf16, sums in float32, ascending in l.
struct PairProductArgs {
  const uint32_t* a;
  int64_t a_row;
  int64_t a_column = 1;
  const uint32_t* b;  // rows of PairKernels::columns, or of half as many for an n up to that
  int64_t b_row;
  float* c;
  int64_t c_stride;
  int64_t m, n, pairs;  // n at most PairKernels::columns
  float alpha = 1;
  bool accumulate = false;
};

// Products of bf16 on processors that sum pairs of them in one instruction: twice the rate of float32.
struct PairKernels {
  int rows, columns;  // that the product takes together
  void (*product)(const PairProductArgs&) noexcept;
  // Float32 to bf16, to nearest even; denormals become zero.
  void (*round_row)(const float* x, int64_t count, uint16_t* output) noexcept;
  void (*widen_row)(const uint16_t* x, int64_t count, float* output) noexcept;
  // Of two rows of float32, rounded so: pairs of the numbers that lie below one another.
  void (*pair_floats)(const float* x, const float* y, int64_t count, uint32_t* output) noexcept;
  // Of rows of bf16 at x + i * stride: rows 2l and 2l + 1 to pairs output[l * columns + j], j < count, zero
  // for the other j up to `columns` and for a row that is not there.
  void (*pair_rows)(const uint16_t* x, int64_t stride, int64_t rows, int64_t count,
                    uint32_t* output) noexcept;
  // Rows of pairs at x + i * stride, turned: output[l * columns + i], zero for i from `rows` on.
  void (*turn_pairs)(const uint32_t* x, int64_t stride, int64_t rows, int64_t pairs,
                     uint32_t* output) noexcept;
  // Rows 2l and 2l + 1 of float32 [2 * pairs][columns], rounded so, to pairs [pairs][columns], the first in
  // the lower half; `output` may be where `rows` begin.
  void (*pair_weights)(const float* rows, int64_t pairs, uint32_t* output) noexcept;
  // Of the 16 rows of a panel, `octets` octets (gemm.h) to pairs: those of rows 2l and 2l + 1 go to
  // output[l * columns], 8 columns an octet. The numbers are those that pair_weights makes of float32:
  // packed codes times the scales of their rows [16];
  void (*pair_codes)(const uint8_t* packed, int64_t octets, const LevelTables&, const float* scales,
                     uint32_t* output) noexcept;
  // and octets of bf16 as they are; of these denormals stay.
  void (*pair_halves)(const uint8_t* halves, int64_t octets, uint32_t* output) noexcept;
  // The same to pairs of columns: those of columns 2l and 2l + 1 of the octets to output[l * columns], a row
  // each, 16 of them.
  void (*pair_columns)(const uint8_t* packed, int64_t octets, const LevelTables&, const float* scales,
                       uint32_t* output) noexcept;
  void (*pair_half_columns)(const uint8_t* halves, int64_t octets, uint32_t* output) noexcept;
};

struct TrainKernels {
  // Rows of `a` and columns of `b` that the product takes together: packed in such groups they are read in
  // order.
  int product_rows, product_columns;
  void (*product)(const ProductArgs&) noexcept;
  void (*column_sums)(const ColumnSumsArgs&) noexcept;
  const PairKernels* pairs;  // null where there is no such instruction
  // Expanded octets (gemm.h: float32, column by column, 16 rows a column) times the scales of their rows,
  // [octets / octets_per_group][16] or null for 1, to rows: output[r * stride + column] for r < rows.
  void (*panel_rows)(const float* expanded, int64_t octets, const float* scales, int64_t octets_per_group,
                     int64_t rows, float* output, int64_t stride) noexcept;
  // x[i] = exp(x[i] - shift); returns the sum.
  float (*exponentials)(float* x, float shift, int64_t count) noexcept;
  float (*largest)(const float* x, int64_t count) noexcept;
  float (*dot)(const float* x, const float* y, int64_t count) noexcept;
  // Of y = activation(gate) * up (up null: 1) and the gradient dy of y: gradients of gate and up.
  void (*activate_backward)(Activation activation, const float* gate, const float* up, const float* dy,
                            float* dgate, float* dup, int64_t count) noexcept;
  // Of y = rms_norm(x) * weight: dx = (accumulate: +) the gradient of x.
  void (*rms_norm_backward)(const float* x, const float* weight, float epsilon, int64_t count,
                            const float* dy, float* dx, bool accumulate) noexcept;
  void (*layer_norm_backward)(const float* x, const float* weight, float epsilon, int64_t count,
                              const float* dy, float* dx, bool accumulate) noexcept;
};

}  // namespace nfloat::kernels

#endif  // NFLOAT_KERNELS_TRAIN_H_
