// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_GGUF_SUPER_BLOCK_H_
#define NFLOAT_GGUF_SUPER_BLOCK_H_

#include <cstdint>

#include "nfloat/gguf.h"

namespace nfloat {

inline constexpr int kSuperBlock = 256;  // weights

// What the bytes of a super-block of Q4_K, Q5_K, Q6_K or IQ4_XS say. A weight is
//   Q4_K, Q5_K: scale * scales[b] * code - minimum * minima[b], b one of 8 blocks of 32
//   Q6_K: scale * scales[b] * (code - 32), b one of 16 blocks of 16
//   IQ4_XS: scale * scales[b] * the level of the code (kIq4NlLevels), b one of 8 blocks of 32
struct SuperBlock {
  uint16_t scale = 0, minimum = 0;  // float16
  int8_t scales[16] = {};           // 0 to 63; of Q6_K -128 to 127, of IQ4_XS -32 to 31
  uint8_t minima[8] = {};           // 0 to 63
  uint8_t codes[kSuperBlock] = {};  // of 4, 5 or 6 bits
};

// By the search of encode_gguf: `importance` as encode_k.h says, or null.
void search_super_block(GgufType type, const float* x, const float* importance, SuperBlock& found) noexcept;

// gguf_type_info(type).block_bytes bytes.
void put_super_block(GgufType type, const SuperBlock& block, uint8_t* bytes) noexcept;

}  // namespace nfloat

#endif  // NFLOAT_GGUF_SUPER_BLOCK_H_
