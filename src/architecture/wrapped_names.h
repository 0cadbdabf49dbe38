// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ARCHITECTURE_WRAPPED_NAMES_H_
#define NFLOAT_ARCHITECTURE_WRAPPED_NAMES_H_

#include <array>
#include <string>
#include <string_view>

// Names of one tensor in the releases of its model's classes: modules that only wrap the model may stand
// before it, or not.
namespace nfloat {

// What the names of a language model begin with where it is a part of another model.
inline constexpr std::array<std::string_view, 2> kPartPrefixes{"language_model.model.",
                                                               "model.language_model."};
// What the output embedding's name begins with there, if anything.
inline constexpr std::string_view kHeadPrefix = "language_model.";

// Without the modules that wrap the model: the same for all names of a tensor.
std::string core_name(std::string_view tensor);

// What the output embedding `module` is called in a checkpoint whose table of tokens is `embedding`.
std::string head_beside(std::string_view embedding, std::string_view module);

// Buffers that old checkpoints carry along: masks and frequencies.
bool is_buffer(std::string_view tensor) noexcept;

}  // namespace nfloat

#endif  // NFLOAT_ARCHITECTURE_WRAPPED_NAMES_H_
