// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_KERNELS_TILE_CONFIG_H_
#define NFLOAT_KERNELS_TILE_CONFIG_H_

#include <cstdint>

namespace nfloat::kernels {

inline constexpr int kRowBytes = 64;

// The layout that ldtilecfg reads: palette 1, eight tiles of 16 rows of 64 bytes. Use constants of it: GCC
// does not see that the instruction reads more than a pointer's worth.
struct TileConfig {
  uint8_t palette = 1, start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

}  // namespace nfloat::kernels

#endif  // NFLOAT_KERNELS_TILE_CONFIG_H_
