// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ENGINE_VULKAN_SHADERS_H_
#define NFLOAT_ENGINE_VULKAN_SHADERS_H_

#include <array>
#include <cstdint>
#include <span>

#include "kernels/attention.h"

// The programs of shaders/*.comp and the arguments that they take: structures here have the order and the
// sizes of the push constants there. An address is one of the device's memory.
namespace nfloat::vulkan {

enum class Shader : uint8_t {
  kProduct,
  kTiles,
  kHalves,
  kUnits,
  kTransposed,
  kRows,
  kNorm,
  kActivate,
  kStore,
  kAttend,
  kAttendTiles
};

// Values of a shader's specialization constants, 0 where it has fewer.
using Constants = std::array<uint32_t, 7>;

// SPIR-V, compiled when the library was built.
std::span<const uint32_t> code_of(Shader shader) noexcept;

using Address = uint64_t;

// How the weights of a product are stored.
enum class Storage : uint32_t { kF32, kF16, kBF16, kInt8, kCodes, kNestedCodes };

// product: constants {Storage, a word of codes has one row and one scale, rows of x at once, rows of x begin
// at 16 bytes}. A workgroup takes kProductThreads / subgroup * kProductRows rows of the matrix at a time.
inline constexpr uint32_t kProductThreads = 128, kProductRows = 4, kMostBatch = 8;
// tiles: constants {Storage, as above, levels in halves, as above}. A workgroup takes kTile rows of the
// matrix and kTile of x. Products of more rows than kMostFew.
// units: constants {Storage, as above, invocations of a sub-group, as above, rows of weights, rows of x and
// columns of a fragment}; the same on matrix units. x: rows from halves.
inline constexpr uint32_t kTile = 64, kTileDepth = 32, kMostFew = 32;
inline constexpr uint32_t kTileSharedBytes = 20480, kUnitsSharedBytes = 24576;  // at most
inline constexpr uint32_t kUnitThreads = 128;
struct ProductArguments {
  Address weights = 0, scales = 0, nested_absmax = 0, tables = 0, bias = 0, x = 0, y = 0, x_factors = 0;
  uint32_t rows = 0, cols = 0, x_rows = 0, x_stride = 0, y_stride = 0;
  uint32_t block = 0, nested_block = 0;  // weights of a scale; scales of a second-level one
  float nested_offset = 0;
  uint32_t biased = 0;
};

// halves: rows of float32 for units, a workgroup each.
struct HalvesArguments {
  Address from = 0, to = 0, factors = 0;
  uint32_t from_stride = 0, width = 0;
};

// transposed: constants {Storage, as above}, arguments as of product: x has `rows` numbers a row and y
// `cols`; biased: y is added to. A workgroup takes kTransposedColumns of them and kTransposedBatch rows of x.
inline constexpr uint32_t kTransposedColumns = 128, kTransposedBatch = 4;

// rows: constants {RowsOperation, four elements at a time}. One thread an element of `to`, or four.
enum class RowsOperation : uint32_t {
  kCopy,        // to[row] = from[row]
  kGather,      // to[row] = from[list[row]]
  kScatterAdd,  // to[list[row]] += shares[row] * from[row]; no two the same
  kZero,
  kAdd,        // to += scale * from
  kEmbed,      // to = scale * to, + from where there is one
  kSoftcap,    // to = cap(scale * to)
  kFindBroken  // flag[0] = 1 where a number of `from` is not finite
};
inline constexpr uint32_t kRowsThreads = 128;
struct RowsArguments {
  Address from = 0, to = 0, list = 0, shares = 0;
  uint32_t rows = 0, width = 0, from_stride = 0, to_stride = 0;
  float scale = 0, cap = 0;
  uint32_t has_from = 0;
};

// norm: a workgroup a part. constants {layer norm}.
struct NormArguments {
  Address from = 0, to = 0, weight = 0, bias = 0;
  uint32_t from_stride = 0, to_stride = 0, width = 0, part_stride = 0;
  float epsilon = 0;
};

// activate: constants {Activation, gated, clamped}; clamped: a workgroup a row.
inline constexpr uint32_t kActivateThreads = 128;
struct ActivateArguments {
  Address rows = 0;
  uint32_t stride = 0, width = 0;
  float limit = 0;
};

// What attention knows of a row: its pages, its angles, its position.
struct RowPlace {
  Address pages = 0, angles = 0;
  uint32_t position = 0, unused = 0;
};

// store and attend: constants {kernels::KvType, head_dim}; a workgroup a row and a key-value head, or a row
// and a head. In a page a head has, as words: keys [key words][positions], values [positions][key words], and
// of int8 a scale for each key and for each value.
// attend: a third constant, AttendStage; a part is kPartPages pages, and leaves head_dim + 2 floats.
enum class AttendStage : uint32_t { kAll, kOnePart, kMergeParts };
inline constexpr uint32_t kPartPages = 8;
inline constexpr uint32_t kMostHeadDim = 512;
inline constexpr int64_t head_bytes(kernels::KvType type, int64_t head_dim) noexcept {
  const int64_t in_word = type == kernels::KvType::kF32 ? 1 : type == kernels::KvType::kF16 ? 2 : 4;
  const int64_t words = 2 * ((head_dim + in_word - 1) / in_word) + (type == kernels::KvType::kInt8 ? 2 : 0);
  return kernels::kAttentionBlock * words * 4;
}

// attend_tiles: many rows of one sequence; constants as of store, then queries of a workgroup. A workgroup a
// tile of queries (of each row all query heads of a key-value head) and a key-value head; `rows` says how
// many.
inline constexpr int64_t kPromptRows = 16;  // of a sequence, at least: fewer fill less than half of a tile
inline constexpr uint32_t kTileQueries = 32, kMostTileNumbers = 4096;  // queries; times numbers of a head
inline constexpr int64_t attend_tile_bytes(uint32_t queries, int64_t head_dim) noexcept {
  // A query, its weights of a page, sums of sub-groups, and six numbers.
  return int64_t{queries} * ((head_dim + 3) / 4 * 4 + kernels::kAttentionBlock + 32 + 6) * 4;
}
// As many as `shared_bytes` hold; 0: not even four.
inline constexpr uint32_t attend_tile_queries(int64_t head_dim, uint32_t shared_bytes) noexcept {
  uint32_t queries = kTileQueries;
  while (queries >= 4 &&
         (attend_tile_bytes(queries, head_dim) > shared_bytes || queries * head_dim > kMostTileNumbers))
    queries /= 2;
  return queries >= 4 ? queries : 0;
}
struct AttentionArguments {
  Address projected = 0, attended = 0, places = 0, sinks = 0, partials = 0;
  uint32_t projected_stride = 0, attended_stride = 0;
  uint32_t group = 0;         // query heads of a key-value head
  uint32_t query_stride = 0;  // between heads
  uint32_t key_at = 0, key_stride = 0, value_after_key = 0;
  uint32_t head_words = 0, first_word = 0;  // of a head in a page; of the layer
  uint32_t turned = 0;                      // dims
  uint32_t window = 0;
  float scale = 0, softcap = 0;
  uint32_t has_sinks = 0, parts = 0, rows = 0;
};

}  // namespace nfloat::vulkan

#endif  // NFLOAT_ENGINE_VULKAN_SHADERS_H_
