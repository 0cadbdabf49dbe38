// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_MODEL_FINITE_H_
#define NFLOAT_MODEL_FINITE_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "model/model_state.h"

namespace nfloat {

// The index of the first NaN or infinity, -1 where there is none.
int64_t first_not_finite(std::span<const float> values) noexcept;

// What makes values of `layer` not finite, as ": tensor 'NAME' holds NaN at index 5"; empty for a GGUF file.
// `layer` is -1 for the embeddings, the number of layers for the head. Reads the layer's tensors.
std::string not_finite_cause(const Checkpoint& checkpoint, int64_t layer);

// The same of whatever is computed from the whole model. Reads all of it.
std::string not_finite_cause(const Checkpoint& checkpoint);

// Throws kNotFinite, naming `where` ("row 3 of the data") and the first token whose embedding is not finite.
void expect_finite_embeddings(const Model::State& model, std::span<const int32_t> tokens,
                              std::string_view where);

// Throws kNotFinite: `what` ("the hidden state after its attention") of `layer` is not finite; the tensor
// that holds a NaN or an infinity is named, of the layer or of what comes before, or that all of them are
// finite.
[[noreturn]] void fail_not_finite(const Model::State& model, int64_t layer, std::string_view what);

}  // namespace nfloat

#endif  // NFLOAT_MODEL_FINITE_H_
