// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_GGUF_ENCODE_K_H_
#define NFLOAT_GGUF_ENCODE_K_H_

#include <cstdint>

namespace nfloat {

// One super-block of 256 weights to the bytes of its type. Scales (and minima) come from a search that
// minimises the sum of squared errors, each times its importance (null: all alike; else not negative, one a
// weight); the layout is the one that decode_gguf reads. The same bytes on every
// machine. Weights that are not finite give some bytes, whose values are not all finite or not those weights.
void encode_q4_k(const float* x, const float* importance, uint8_t* block) noexcept;    // 144 bytes
void encode_q5_k(const float* x, const float* importance, uint8_t* block) noexcept;    // 176
void encode_q6_k(const float* x, const float* importance, uint8_t* block) noexcept;    // 210
void encode_iq4_xs(const float* x, const float* importance, uint8_t* block) noexcept;  // 136

}  // namespace nfloat

#endif  // NFLOAT_GGUF_ENCODE_K_H_
