// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TUNE_LOFTQ_H_
#define NFLOAT_TUNE_LOFTQ_H_

#include "nfloat/checkpoint.h"
#include "tune/adapter.h"

namespace nfloat {

// Starts each pair at what quantization lost: scale * B A is W - Q to the adapter's rank, W the matrix of
// `original` and Q the model's (LoftQ, Li et al. 2023, with the 4-bit weights kept as they are). The singular
// vectors are found by subspace iteration from `seed`; the same bits for any number of threads. Throws
// kMalformedFile (matrices that the original does not have, or of another shape), kInvalidArgument (nothing
// was lost), naming file and tensor.
void start_from_residual(Adapter& adapter, const Model::State& model, const Checkpoint& original,
                         uint64_t seed, int threads);

}  // namespace nfloat

#endif  // NFLOAT_TUNE_LOFTQ_H_
