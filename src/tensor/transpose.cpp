// SPDX-License-Identifier: Apache-2.0
#include "tensor/transpose.h"

#include <algorithm>
#include <cassert>
#include <cstring>

namespace nfloat {
namespace {

template <size_t kBytes>
void transpose_elements(const std::byte* from, std::byte* to, int64_t rows, int64_t columns) {
  constexpr int64_t kTile = 32;  // both sides of a tile stay in the first cache
  for (int64_t r0 = 0; r0 < rows; r0 += kTile)
    for (int64_t c0 = 0; c0 < columns; c0 += kTile)
      for (int64_t r = r0; r < std::min(rows, r0 + kTile); ++r)
        for (int64_t c = c0; c < std::min(columns, c0 + kTile); ++c)
          std::memcpy(to + static_cast<size_t>(c * rows + r) * kBytes,
                      from + static_cast<size_t>(r * columns + c) * kBytes, kBytes);
}

}  // namespace

void transpose(const std::byte* from, std::byte* to, int64_t rows, int64_t columns, size_t element_bytes) {
  switch (element_bytes) {
    case 1:
      return transpose_elements<1>(from, to, rows, columns);
    case 2:
      return transpose_elements<2>(from, to, rows, columns);
    case 4:
      return transpose_elements<4>(from, to, rows, columns);
    default:
      assert(element_bytes == 8);
      return transpose_elements<8>(from, to, rows, columns);
  }
}

}  // namespace nfloat
