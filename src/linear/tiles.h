// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_LINEAR_TILES_H_
#define NFLOAT_LINEAR_TILES_H_

#include "linear/state.h"

// Products of many rows on the processor's matrix unit: in bf16 with float32 sums, in int8 with exact ones of
// blocks.
namespace nfloat {

// Whether this machine has one and a product of m rows in this precision is faster there. Never in int8,
// whose rows have the same bits alone and among others: bf16 tiles round otherwise.
bool tiles_serve(Precision precision, int64_t m) noexcept;
bool tiles_serve(const DenseMatrix::State& matrix, Precision precision, int64_t m) noexcept;

// The same for int8 in exact integer sums, to the bits of fewer rows. `run_octets`: columns that are summed
// before they are added to y.
bool byte_tiles_serve(const PackedMatrix::State& matrix, Precision precision, int64_t m) noexcept;
void byte_tiled(const PackedMatrix::State& matrix, Activations::State& x, float* y, int64_t y_stride,
                const LinearOptions& options, int64_t run_octets);

void tiled(const PackedMatrix::State& matrix, Activations::State& x, float* y, int64_t y_stride,
           const LinearOptions& options);
void tiled(const DenseMatrix::State& matrix, Activations::State& x, float* y, int64_t y_stride,
           const LinearOptions& options);

}  // namespace nfloat

#endif  // NFLOAT_LINEAR_TILES_H_
