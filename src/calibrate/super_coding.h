// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CALIBRATE_SUPER_CODING_H_
#define NFLOAT_CALIBRATE_SUPER_CODING_H_

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "calibrate/matrix.h"
#include "gguf/super_block.h"
#include "kernels/calibrate.h"
#include "nfloat/gguf.h"

// llama.cpp's super-blocks of 256 weights by error feedback and descent. A block is a scale and a minimum,
// each a whole multiple of a float16 of its super-block; the two multiples are one candidate.
namespace nfloat {

// Q4_K, Q5_K, Q6_K and IQ4_XS: a weight is scale * level - minimum.
struct SuperFormat {
  // Throws kUnsupported for other types.
  explicit SuperFormat(GgufType type);
  static bool knows(GgufType type) noexcept;

  GgufType type;
  int64_t block = 32;        // weights of one scale
  int32_t steps = 0;         // levels are 0 to steps; 0: those of `table`
  int least = 0, most = 63;  // multiples of a scale
  bool minima = false;       // multiples of 0 to kMostMinimum of a factor of their own
  float offset = 0;          // without: the minimum is so many times the scale
  // Scales are looked for where the levels reach from this share of the block's span to that one.
  float least_share = 0, most_share = 0;
  kernels::CodeTable table = {};

  static constexpr int kMostMinimum = 63;

  float level(int code) const noexcept { return steps > 0 ? static_cast<float>(code) : table.levels[code]; }
  int highest_code() const noexcept { return steps > 0 ? steps : 15; }
  int64_t blocks() const noexcept { return kSuperBlock / block; }
};

// The multiples of a block.
struct SuperScale {
  int scale = 0, minimum = 0;
};

// A matrix at work.
struct SuperCoding {
  int64_t rows = 0, columns = 0;   // columns a multiple of kSuperBlock
  std::vector<SuperBlock> blocks;  // [rows][columns / kSuperBlock]

  int64_t row_blocks() const noexcept { return columns / kSuperBlock; }
  SuperBlock& at(int64_t row, int64_t super) {
    return blocks[static_cast<size_t>(row * row_blocks() + super)];
  }
  const SuperBlock& at(int64_t row, int64_t super) const {
    return blocks[static_cast<size_t>(row * row_blocks() + super)];
  }
};

// What the multiples of a block stand for.
struct BlockValues {
  BlockValues(const SuperFormat& format, const SuperBlock& super, SuperScale multiples) noexcept;

  float scale = 0, minimum = 0;
  float inverse() const noexcept { return scale != 0 ? 1 / scale : 0.0f; }
};

// Every block in order by the candidate that loses least with feedback; factors of a super-block for what the
// errors before it have made of its weights. The same for every number of threads.
void feed_back(std::span<const float> weights, const HessianFactor& factor, const SuperFormat& format,
               int finalists, int threads, SuperCoding& coding);

// Sweeps over all blocks, each changed where tr(R H R^T) falls: multiples for the codes as they are, then
// (`whole`) the block anew with the multiples around, then single codes.
void descend(std::span<const float> weights, const HessianFactor& factor, const SuperFormat& format,
             bool whole, int sweeps, int threads, SuperCoding& coding);

// Rows in the bytes of the type.
std::vector<std::byte> bytes_of(const SuperCoding& coding, const SuperFormat& format);

}  // namespace nfloat

#endif  // NFLOAT_CALIBRATE_SUPER_CODING_H_
