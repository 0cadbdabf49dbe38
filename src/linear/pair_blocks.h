// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_LINEAR_PAIR_BLOCKS_H_
#define NFLOAT_LINEAR_PAIR_BLOCKS_H_

#include <cstdint>

#include "kernels/gemm.h"
#include "linear/transposed.h"

// Products with blocks of a matrix that are expanded to pairs of bf16 and used for all rows, forwards and
// transposed. Only for targets with such kernels.
namespace nfloat {

inline constexpr int64_t kChunkRows = 96;  // that are gone through with one block, in the second cache
inline constexpr int64_t kWideBlockColumns = 128;
// An expanded panel, and its scales.
inline constexpr int64_t kScratchFloats = kernels::kPanelRows * kWideBlockColumns * 2;

// Where the elements of an expanded block lie: strips of as many columns as the product takes together, each
// row by row.
struct Strips {
  int64_t width;  // of a strip; whole octets
  int64_t rows;
  int64_t pitch;  // rows from a strip to the next, at least `rows`
  float* at(float* block, int64_t row, int64_t column) const noexcept {
    return block + (column / width * pitch + row) * width + column % width;
  }
  // Of pairs of rows: the one that begins with an even row.
  uint32_t* pairs_at(float* block, int64_t row, int64_t column) const noexcept {
    return reinterpret_cast<uint32_t*>(at(block, 0, column)) + row / 2 * width;
  }
  // Octets from column on that lie in one strip.
  int64_t octets_from(int64_t column) const noexcept { return (width - column % width) / kernels::kOctet; }
};

// Where blocks come from: of the terms [first, first + strips.rows) of each sum, the columns
// [column, column + columns). `first` and `column` are multiples of a panel.
class PairSource {
 public:
  virtual ~PairSource() = default;
  // To strips of pairs of terms; with `odd`, 0 or 1, that many terms of zero before them, and one behind
  // where they come to an odd number.
  virtual void pairs(int64_t first, int64_t column, int64_t columns, int64_t odd, const Strips& strips,
                     float* scratch, float* block) const noexcept = 0;
};

// y[i][c] = sum over t < terms of x[i][first + t] * the source's [t][c], and what PairOutput says. x in
// pairs. The same bits for any number of threads.
void multiply_pair_blocks(const PairSource& source, int64_t terms, int64_t columns, const PackedGradients& x,
                          int64_t first, const PairOutput& y, int threads);

}  // namespace nfloat

#endif  // NFLOAT_LINEAR_PAIR_BLOCKS_H_
