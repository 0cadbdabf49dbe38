// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_LINEAR_TRANSPOSED_H_
#define NFLOAT_LINEAR_TRANSPOSED_H_

#include <cstdint>

#include "linear/state.h"
#include "nfloat/linear.h"

namespace nfloat {

// Gradients [m, n] of outputs as the products read them: where they are, or rounded to bf16 in memory that is
// reused.
class PackedGradients {
 public:
  // Row i at dy + i * stride, which must stay. `bf16`: rounded to it.
  void assign(const float* dy, int64_t stride, int64_t m, int64_t n, bool bf16, int threads);
  // Rows that lie in pairs already, pair_row_stride(n) apart or any even number of halves; an odd n has a
  // zero behind each row. For targets with pairs.
  void assign_halves(const uint16_t* dy, int64_t stride, int64_t m, int64_t n) noexcept;

  int64_t rows() const noexcept { return m_; }
  int64_t columns() const noexcept { return n_; }
  bool bf16() const noexcept { return bf16_; }
  // Whether they lie in pairs of bf16 (kernels/train.h): pair l of row i at pairs()[i * pair_stride() + l].
  bool in_pairs() const noexcept { return paired_; }
  const uint32_t* pairs() const noexcept { return reinterpret_cast<const uint32_t*>(data_); }
  int64_t pair_stride() const noexcept { return stride_; }
  // Else: element [row + i][column + l] at data[i * row_stride + l * column_stride], for the kernels'
  // product_rows rows from `row` on, a multiple of them.
  struct Place {
    const float* data;
    int64_t row_stride, column_stride;
  };
  Place at(int64_t row, int64_t column) const noexcept;

 private:
  void assign_pairs(const float* dy, int64_t stride, int threads);

  ReusedMemory memory_;
  const float* data_ = nullptr;
  int64_t m_ = 0, n_ = 0, stride_ = 0, group_ = 1;
  bool bf16_ = false, paired_ = false;
};

// Halves from a row of n to the next: whole lines, and no power of two, for the rows of a tile would push one
// another out of the first cache.
int64_t pair_row_stride(int64_t n) noexcept;

// More terms of a product in pairs, whose weights are made for each block.
class PairTail {
 public:
  // [rows][stride] pairs, of which `pairs` count.
  PairTail(const uint32_t* x, int64_t stride, int64_t pairs) noexcept
      : x_(x), stride_(stride), pairs_(pairs) {}
  virtual ~PairTail() = default;
  const uint32_t* x() const noexcept { return x_; }
  int64_t stride() const noexcept { return stride_; }
  int64_t pairs() const noexcept { return pairs_; }
  // Of `count` columns of the product: weights of column `column` + j to strip[l * columns of the kernel +
  // j].
  virtual void fill(int64_t column, int64_t count, uint32_t* strip) const noexcept = 0;

 private:
  const uint32_t* x_;
  int64_t stride_, pairs_;
};

// Where a product in pairs goes: y = factors * (x w^T + tail) + bias, each where it is there. One of `data`,
// `half`.
struct PairOutput {
  float* data = nullptr;
  uint16_t* half = nullptr;  // rounded to bf16; does not accumulate
  int64_t stride = 0;
  bool accumulate = false;
  const PairTail* tail = nullptr;
  const float* factors = nullptr;
  const float* bias = nullptr;

  PairOutput from_column(int64_t column) const noexcept {
    PairOutput result = *this;
    (half != nullptr ? static_cast<void>(result.half += column) : static_cast<void>(result.data += column));
    return result;
  }
};

// dx[i][k] = sum over n of dy[i][first + n] * w[n][k], plus what dx held when accumulating: the gradient that
// reaches the inputs of y = w x. float32, of weights decoded as level * scale; with gradients rounded to
// bf16, weights are too. The result does not depend on the number of threads. Nothing of the matrix's size is
// made: blocks of it are expanded and used for all rows. Throws kInvalidArgument when dy has fewer columns
// than the matrix's rows from `first` on.
void multiply_transposed(const PackedMatrix& matrix, const PackedGradients& dy, int64_t first, float* dx,
                         int64_t dx_stride, bool accumulate, int threads);
void multiply_transposed(const DenseMatrix& matrix, const PackedGradients& dy, int64_t first, float* dx,
                         int64_t dx_stride, bool accumulate, int threads);
// The same of gradients in pairs.
void multiply_transposed(const PackedMatrix& matrix, const PackedGradients& dy, int64_t first,
                         const PairOutput& dx, int threads);
void multiply_transposed(const DenseMatrix& matrix, const PackedGradients& dy, int64_t first,
                         const PairOutput& dx, int threads);

// The same of rows [m, rows of the matrix] at dy + i * stride, for products on their own: up to four rows are
// computed in float32 whatever `bf16` says, as fast as a few forward products, where blocks meet rows in
// whole octets.
void multiply_transposed(const PackedMatrix& matrix, const float* dy, int64_t stride, int64_t m, float* dx,
                         int64_t dx_stride, bool bf16, int threads);

// Whether the target and the matrix have the product below: targets that sum pairs of bf16 in one instruction
// and have no matrix unit, matrices whose rows are whole octets of 4-bit codes or of bf16.
bool target_multiplies_pairs() noexcept;
bool multiplies_pairs(const PackedMatrix& matrix) noexcept;
bool multiplies_pairs(const DenseMatrix& matrix) noexcept;

// y[i][n] = sum over k of x[i][k] * w[n][k], and what PairOutput says: x in pairs, weights rounded to bf16 as
// level * scale, sums in float32. For many rows: a block of the matrix is expanded for all of them. The
// result does not depend on the number of threads. Throws kInvalidArgument where x has another number of
// columns, or the matrix no such product.
void multiply_pairs(const PackedMatrix& matrix, const PackedGradients& x, const PairOutput& y, int threads);
void multiply_pairs(const DenseMatrix& matrix, const PackedGradients& x, const PairOutput& y, int threads);

}  // namespace nfloat

#endif  // NFLOAT_LINEAR_TRANSPOSED_H_
