// SPDX-License-Identifier: Apache-2.0
// A card as the engine sees it: memory, copies and the steps of a layer, all queued in order. Plain C++: what
// knows CUDA is behind it (card.cu), and so is the emulation of tests.
#ifndef NFLOAT_CUDA_CARD_H_
#define NFLOAT_CUDA_CARD_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace nfloat::gpu {

// How the weights of a matrix are stored.
enum class Storage : uint8_t { kF32, kF16, kBF16, kInt8, kCodes, kNestedCodes };

// A matrix in the memory of a card. Codes and their scales have the order of the file; other weights lie in
// rows of whole groups of eight, zeros behind the last column.
struct Weights {
  Storage storage = Storage::kF32;
  const void* elements = nullptr;  // on 16 bytes
  const void* scales = nullptr;    // floats; of nested codes bytes
  const float* nested_absmax = nullptr;
  const float* tables = nullptr;  // of codes: 16 levels, 256 of the nested map, the nested offset
  int64_t rows = 0, cols = 0;
  int64_t block = 1, nested_block = 1;  // weights of one scale; scales of a second-level one
  friend bool operator==(const Weights&, const Weights&) = default;
};
inline constexpr int64_t kLevelsAt = 0, kMapAt = 16, kOffsetAt = 272, kTableFloats = 273;

// y = W x + bias for x_rows rows of x. Transposed: y = W^T x, plus what y held where it says so; no bias.
struct ProductArguments {
  Weights weights{};
  const float* bias = nullptr;  // or none
  const float* x = nullptr;
  float* y = nullptr;
  int64_t x_rows = 0, x_stride = 0, y_stride = 0;
  bool accumulate = false;
  friend bool operator==(const ProductArguments&, const ProductArguments&) = default;
};

// One operation on all elements of rows; what one does not need is 0.
enum class RowsOperation : uint8_t {
  kCopy,        // to[row] = from[row]
  kGather,      // to[row] = from[list[row]]
  kScatterAdd,  // to[list[row]] += shares[row] * from[row]; no two the same
  kZero,
  kAdd,         // to += scale * from
  kAddToAll,    // to += the one row of from
  kEmbed,       // to = scale * to, + from where there is one
  kSoftcap,     // to = cap(scale * to)
  kFindBroken,  // the integer at `to` becomes 1 where a number of `from` is not finite
  kRound        // to, of bf16, = from; no strides in `to` but the width
};
struct RowsArguments {
  const float* from = nullptr;
  void* to = nullptr;
  const int32_t* list = nullptr;
  const float* shares = nullptr;
  int64_t rows = 0, width = 0, from_stride = 0, to_stride = 0;
  float scale = 0, cap = 0;
  friend bool operator==(const RowsArguments&, const RowsArguments&) = default;
};

// Parts of rows, `part_stride` apart; in place allowed. centred: layer norm, with or without a bias; else RMS
// norm. With one part: of from + scale * added, which takes the place of `from`, where there is `added`; and
// bf16 beside `to`, rows one behind the other, where there is `rounded`.
struct NormArguments {
  float* from = nullptr;
  float* to = nullptr;
  const float* weight = nullptr;
  const float* bias = nullptr;
  bool centred = false;
  int64_t rows = 0, parts = 0, width = 0, from_stride = 0, to_stride = 0, part_stride = 0;
  float epsilon = 0;
  const float* added = nullptr;
  int64_t added_stride = 0;
  float scale = 0;
  uint16_t* rounded = nullptr;
  friend bool operator==(const NormArguments&, const NormArguments&) = default;
};

// In place, of a row's first `width` floats; clamped (limit > 0): gate and up alternate. `rounded`: the same
// in bf16, rows one behind the other; or none.
enum class Gate : uint8_t { kSilu, kGelu, kGeluTanh, kQuickGelu, kRelu };
struct ActivateArguments {
  float* at = nullptr;
  int64_t rows = 0, width = 0, stride = 0;
  Gate kind = Gate::kSilu;
  bool gated = false;
  float limit = 0;
  uint16_t* rounded = nullptr;
  friend bool operator==(const ActivateArguments&, const ActivateArguments&) = default;
};

// What attention knows of a row: its pages, its angles, its position.
struct RowPlace {
  std::byte* const* pages;
  const float* angles;  // cosines, then sines
  int64_t position;
};

// Elements of keys and values. In a page a head has, as words of 4 bytes: keys [words of a key][positions],
// values [positions][words], and of int8 a scale for each key and for each value.
enum class Cache : uint8_t { kF32, kF16, kInt8 };
inline constexpr int64_t kPagePositions = 128, kMostHead = 512;
inline constexpr int64_t in_word(Cache type) noexcept {
  return type == Cache::kF32 ? 1 : type == Cache::kF16 ? 2 : 4;
}
inline constexpr int64_t head_words(Cache type, int64_t head) noexcept {
  const int64_t words = (head + in_word(type) - 1) / in_word(type);
  return kPagePositions * (2 * words + (type == Cache::kInt8 ? 2 : 0));
}

inline constexpr int64_t kPromptRows = 16;  // of one sequence, from which on attention may go in tiles

struct AttentionArguments {
  const float* projected = nullptr;
  float* attended = nullptr;
  const RowPlace* places = nullptr;  // of each row
  const float* sinks = nullptr;      // one a query head, or none
  Cache type = Cache::kF16;
  int64_t rows = 0, projected_stride = 0, attended_stride = 0;
  bool one_sequence = false;                  // its rows have one position after the other
  int32_t heads = 0, kv_heads = 0, head = 0;  // head: numbers, at most kMostHead
  int32_t query_stride = 0, key_at = 0, key_stride = 0, value_after_key = 0;
  int64_t first_word = 0;  // of the layer in a page
  int64_t most_pages = 1;  // that a row of them sees
  int32_t turned = 0;      // numbers of a head that its angles turn
  int64_t window = 0;      // positions that a row sees, its own the last; 0: all
  float scale = 1, softcap = 0;
  uint16_t* rounded =
      nullptr;  // what is attended in bf16 too, rows one behind the other; of fewer than kPromptRows
  friend bool operator==(const AttentionArguments&, const AttentionArguments&) = default;
};

// Between weights and 4-bit codes by absmax, in blocks of 2^block_shift. What is written does not depend on
// what was there. Weights on 16 bytes, codes on 4.
enum class Element : uint8_t { kF32, kF16, kBF16 };
struct BlocksArguments {
  Element element = Element::kF32;
  void* weights = nullptr;
  uint8_t* codes = nullptr;  // two a byte
  float* scales = nullptr;
  const float* levels = nullptr;                   // 16; of dequantize()
  const float* thresholds = nullptr;               // 15, ascending; of quantize()
  const uint8_t* code_of_rank = nullptr;           // 16
  unsigned long long* first_not_finite = nullptr;  // all ones before; its block's codes are then undefined
  int64_t elements = 0;
  int block_shift = 0;  // kLeastBlockShift to kMostBlockShift
  friend bool operator==(const BlocksArguments&, const BlocksArguments&) = default;
};
inline constexpr int kLeastBlockShift = 4, kMostBlockShift = 12;

// What is queued runs in the order of the calls; memory that it uses is not given back, and host memory not
// touched, before wait(). Any number of threads. Where one step fails, wait() says so ever after.
class Card {
 public:
  virtual ~Card() = default;
  virtual const std::string& model() const noexcept = 0;  // as its driver says it
  virtual uint64_t free_bytes() const noexcept = 0;
  virtual uint64_t total_bytes() const noexcept = 0;  // used or not
  // Whether tokens run as graphs: "none yet", "in use", "failed (REASON)"; the last one ever after.
  virtual std::string graphs() const = 0;

  // Memory of the card, on 256 bytes; null where it has no more. release() waits.
  virtual void* allocate(uint64_t bytes) noexcept = 0;
  virtual void release(void* memory) noexcept = 0;
  // Memory of the host that the card copies from and to while the host does other things.
  virtual void* allocate_host(uint64_t bytes) noexcept = 0;
  virtual void release_host(void* memory) noexcept = 0;

  // Queued: `rows` rows of `bytes` bytes, `to_stride` and `from_stride` bytes apart.
  virtual void copy_to_card(void* to, const void* from, uint64_t bytes, uint64_t rows = 1,
                            uint64_t to_stride = 0, uint64_t from_stride = 0) = 0;
  virtual void copy_to_host(void* to, const void* from, uint64_t bytes, uint64_t rows = 1,
                            uint64_t to_stride = 0, uint64_t from_stride = 0) = 0;
  virtual void copy_on_card(void* to, const void* from, uint64_t bytes) = 0;
  virtual void zero(void* memory, uint64_t bytes) = 0;
  // Done when it returns; any memory of the host.
  virtual void upload(void* to, const void* from, uint64_t bytes) = 0;
  // What has failed; empty: all that was queued is done.
  virtual std::string wait() = 0;

  // Queued, too.
  virtual void rows(RowsOperation operation, const RowsArguments& arguments) = 0;
  virtual void norm(const NormArguments& arguments) = 0;
  virtual void activate(const ActivateArguments& arguments) = 0;
  virtual void attend(const AttentionArguments& arguments) = 0;  // stores keys and values first
  // In float32. The bits of a row do not depend on the rows beside it.
  virtual void multiply(const ProductArguments& arguments) = 0;
  // On tensor cores: `x` in bf16, [x_rows][cols], on 16 bytes. Only where multiplies_bf16() is true. Up to
  // kFewRows rows do not change one another's bits, nor do more than those.
  static constexpr int64_t kFewRows = 8;
  virtual void multiply_bf16(const ProductArguments& arguments, const uint16_t* x) = 0;
  // With W^T, as multiply(). On tensor cores: `x` in bf16, rows `x_stride` of the arguments apart, a multiple
  // of 8, on 16 bytes; only where multiplies_transposed_bf16() is true.
  virtual void multiply_transposed(const ProductArguments& arguments) = 0;
  virtual void multiply_transposed_bf16(const ProductArguments& arguments, const uint16_t* x) = 0;
  // The CPU's bytes.
  virtual void quantize(const BlocksArguments& arguments) = 0;
  virtual void dequantize(const BlocksArguments& arguments) = 0;
};

// Codes in blocks that the kernels of tensor cores take: columns and blocks of whole 64.
inline bool is_tiled_code(const Weights& w) noexcept {
  const bool nested = w.storage == Storage::kNestedCodes;
  return (nested || w.storage == Storage::kCodes) && w.cols % 64 == 0 && w.block >= 64 &&
         (w.block & (w.block - 1)) == 0 && (!nested || w.nested_block == 256) &&
         w.rows * (w.cols / 64) < INT32_MAX;
}
// Plain weights that they take, of many rows of x.
inline bool is_plain_bf16(const Weights& w) noexcept {
  return w.storage == Storage::kBF16 && w.cols % 8 == 0;
}
inline bool multiplies_bf16(const Weights& w, int64_t x_rows) noexcept {
  return is_tiled_code(w) || (is_plain_bf16(w) && x_rows > Card::kFewRows);
}
inline bool multiplies_transposed_bf16(const Weights& w, int64_t x_rows) noexcept {
  return w.rows % 8 == 0 && multiplies_bf16(w, x_rows);
}

// The cards of compute capability 8.0 and later, in the driver's order; where there is none, the end of a
// sentence that says why. Only a card that is used is given a context.
struct FoundCards {
  std::vector<std::shared_ptr<Card>> cards;
  std::string why_none;
};
FoundCards open_cards();

}  // namespace nfloat::gpu

#endif  // NFLOAT_CUDA_CARD_H_
