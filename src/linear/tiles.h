// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_LINEAR_TILES_H_
#define NFLOAT_LINEAR_TILES_H_

#include "linear/state.h"

// Products of many rows on the processor's matrix unit, in bf16 with float32 sums.
namespace nfloat {

// Whether this machine has one and a product of m rows in this precision is faster there.
bool tiles_serve(Precision precision, int64_t m) noexcept;
bool tiles_serve(const DenseMatrix::State& matrix, Precision precision, int64_t m) noexcept;

// The same for int8 in exact integer sums.
bool byte_tiles_serve(const PackedMatrix::State& matrix, Precision precision, int64_t m) noexcept;
void byte_tiled(const PackedMatrix::State& matrix, Activations::State& x, float* y, int64_t y_stride,
                const LinearOptions& options);

void tiled(const PackedMatrix::State& matrix, Activations::State& x, float* y, int64_t y_stride,
           const LinearOptions& options);
void tiled(const DenseMatrix::State& matrix, Activations::State& x, float* y, int64_t y_stride,
           const LinearOptions& options);

}  // namespace nfloat

#endif  // NFLOAT_LINEAR_TILES_H_
