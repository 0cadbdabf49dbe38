// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_KERNELS_CALIBRATE_H_
#define NFLOAT_KERNELS_CALIBRATE_H_

#include <cstdint>

#include "kernels/quantize.h"

// The inner loops of calibration: blocks coded column by column, the error of each column passed on to those
// behind it. Sixteen problems side by side, one a lane; `sets` of sixteen after each other. Every target
// gives the same bits: float32 operations in one order, none fused.
namespace nfloat::kernels {

// Of levels that are whole numbers, ranks are kStepBits plus the level: as a float, 1.5 * 2^23 plus it.
inline constexpr int32_t kStepBits = 0x4b400000;

// Lane l of column j lies at [j * 16 + l], a set behind a set.
struct ColumnsArgs {
  const CodeTable* table;
  int32_t steps = 0;      // not 0: no table, the levels are 0 to steps, less than 2^16
  float* work;            // [sets][columns][16]
  int32_t* ranks;         // [sets][columns][16]: rank of the level, in the low four bits; of steps as above
  const float* scales;    // [sets][16]
  const float* inverses;  // [sets][16]: 1 / scale
  const float* matrix;    // row i, column j at [i * stride + j]
  int64_t stride;
  const float* inverse_diagonal;  // [columns]: 1 / matrix[j][j]
  int64_t columns, sets;
};

// Of `rows` rows of values: how far each is from its coding by each of its candidate scales.
struct ScaleLossArgs {
  const CodeTable* table;
  int32_t steps = 0;              // as of ColumnsArgs
  const float* values;            // row r at [r * value_stride]
  const float* weights;           // [columns]
  const float* inverses;          // of the candidates, row r at [r * candidate_stride]
  const float* minima = nullptr;  // the same places: added to the values first; null: none
  float* losses;                  // the same places
  const int32_t* counts;          // candidates of each row; whole sixteens of them are read and written
  int64_t rows, columns, value_stride, candidate_stride;  // the last one a multiple of 16
};

struct CalibrateKernels {
  // losses += sum over the columns of ((value * inverse - nearest level) * weight)^2: without feedback, and
  // without the square of the scale.
  void (*scale_losses)(const ScaleLossArgs& args) noexcept;
  // `matrix` is upper triangular. In: work = targets. Each column in order is coded by the level nearest to
  // its target; work becomes error = (coded - target) * inverse_diagonal, and each column k behind gets
  // error * matrix[j][k] added to its target. losses[sets][16] += error^2.
  void (*feed_columns)(const ColumnsArgs& args, float* losses) noexcept;
  // `matrix` is symmetric. In: work = gradients, ranks = the present coding q. Each column in order moves to
  // the level nearest to q - gradient * inverse_diagonal; work becomes that change, and each column k behind
  // gets change * matrix[j][k] added to its gradient.
  void (*move_columns)(const ColumnsArgs& args) noexcept;
};

}  // namespace nfloat::kernels

#endif  // NFLOAT_KERNELS_CALIBRATE_H_
