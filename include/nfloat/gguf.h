// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_GGUF_H_
#define NFLOAT_GGUF_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nfloat/api.h"
#include "nfloat/tensor.h"

// GGUF, the file format of llama.cpp and its relatives: versions 2 and 3, little endian.
namespace nfloat {

// How a tensor's elements are stored, with the numbers that the format gives the types.
enum class GgufType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kIQ4_NL = 20,
  kIQ4_XS = 23,
  kI8 = 24,
  kI16 = 25,
  kI32 = 26,
  kI64 = 27,
  kF64 = 28,
  kBF16 = 30,
  kMXFP4 = 39,
};

struct GgufTypeInfo {
  GgufType type;
  std::string_view name;   // "Q4_K"
  int64_t block_elements;  // consecutive elements of a row that are coded together; 1 for plain types
  int64_t block_bytes;
};

// Null for a type that this version does not know.
NFLOAT_API const GgufTypeInfo* find_gguf_type(uint32_t type) noexcept;
// By name, any case ("q4_k", "iq4_nl"). Null when there is none.
NFLOAT_API const GgufTypeInfo* find_gguf_type(std::string_view name) noexcept;
NFLOAT_API const GgufTypeInfo& gguf_type_info(GgufType type) noexcept;

// Whether values of this type can be decoded to floats: all but the integer types.
NFLOAT_API bool is_decodable(GgufType type) noexcept;
// Decodes whole blocks to float32: `output` holds a multiple of block_elements floats, `blocks` their bytes,
// at any address. The same bits as ggml's reference decoders give. Throws kInvalidArgument for lengths that
// disagree and for integer types.
NFLOAT_API void decode_gguf(GgufType type, std::span<const std::byte> blocks, std::span<float> output);

// Whether encode_gguf knows the type: F32, F16, BF16, Q8_0, Q4_0, IQ4_NL, Q4_K, Q5_K, Q6_K, IQ4_XS.
NFLOAT_API bool is_encodable(GgufType type) noexcept;
// The reverse: rounds `weights` (whole blocks). Q8_0, Q4_0 and IQ4_NL as ggml's reference quantizers do
// without an importance matrix, to the byte; Q4_K, Q5_K, Q6_K and IQ4_XS by a search of its own for the least
// squared error. The same bytes on every machine. Throws kInvalidArgument for lengths that disagree and for
// types that are not encodable. Values must be finite. `importance`: one number a column, none negative, by
// which the squared errors of a row's weights count in the search for scales; empty: as said. Without use in
// plain types and Q8_0.
NFLOAT_API void encode_gguf(GgufType type, std::span<const float> weights, std::span<std::byte> output,
                            std::span<const float> importance = {});

// A matrix in the bytes of a type, row by row.
struct GgufMatrix {
  GgufType type = GgufType::kF32;
  int64_t rows = 0, columns = 0;
  std::vector<std::byte> bytes;
};

// The 16 values that the codes of a 4-bit type stand for, before the block's scale (Q4_0: -8 to 7); empty for
// a type that is not a code table and a scale for every 32 elements.
NFLOAT_API std::span<const float> gguf_levels(GgufType type) noexcept;

// Types of metadata values, with the format's numbers.
enum class GgufValueType : uint32_t {
  kU8 = 0,
  kI8 = 1,
  kU16 = 2,
  kI16 = 3,
  kU32 = 4,
  kI32 = 5,
  kF32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kU64 = 10,
  kI64 = 11,
  kF64 = 12,
};
NFLOAT_API std::string_view gguf_value_type_name(GgufValueType type) noexcept;

// One metadata entry: a single value, or an array of values of one type. Borrows the file.
class NFLOAT_API GgufValue {
 public:
  std::string_view key;
  GgufValueType type = GgufValueType::kU8;  // of the value, or of an array's elements
  bool is_array = false;
  uint64_t count = 1;                     // of elements; 1 for a single value
  std::span<const std::byte> bytes;       // of numbers and flags
  std::vector<std::string_view> strings;  // of texts

  bool is_text() const noexcept { return type == GgufValueType::kString; }
  bool is_integer() const noexcept;
  bool is_float() const noexcept { return type == GgufValueType::kF32 || type == GgufValueType::kF64; }
  // Element `index` as a number: integers above 2^63 - 1 become 2^63 - 1; flags 0 and 1; texts 0.
  int64_t integer(uint64_t index = 0) const noexcept;
  double number(uint64_t index = 0) const noexcept;
  // The text; empty if the value is a number.
  std::string_view text(uint64_t index = 0) const noexcept;
  // For display: "32", "\"llama\"", "[32000 texts]", cut to about `width` characters.
  std::string to_string(size_t width = 60) const;
};

struct GgufTensor {
  std::string name;
  GgufType type = GgufType::kF32;
  Shape shape;          // outermost first, as in all of nfloat; the file stores it innermost first
  size_t file = 0;      // index into GgufFile::files()
  uint64_t offset = 0;  // of its first byte in that file
  uint64_t bytes = 0;
};

// A GGUF file opened for reading, mapped. Everything is checked before the first use: counts, lengths, types,
// shapes, offsets, alignment, overlaps, names that repeat. Of a file in parts ("...-00001-of-00003.gguf") any
// part may be named; all are opened. Throws kMalformedFile naming file and place, kNotFound for a missing
// part, kUnsupported (version 1, big endian, a tensor type that is not known, nested arrays).
class NFLOAT_API GgufFile {
 public:
  explicit GgufFile(const std::string& path);
  // One whole file in memory, which must outlive this object; `source` names it in errors.
  GgufFile(std::span<const std::byte> bytes, const std::string& source);
  GgufFile(GgufFile&&) noexcept;
  GgufFile& operator=(GgufFile&&) noexcept;
  ~GgufFile();

  const std::vector<std::string>& files() const noexcept;
  uint32_t version() const noexcept;
  uint32_t alignment() const noexcept;  // of the first file
  // Of the first file, in its order.
  const std::vector<GgufValue>& metadata() const noexcept;
  const GgufValue* find_value(std::string_view key) const noexcept;  // null when there is none
  // In file order.
  const std::vector<GgufTensor>& tensors() const noexcept;
  const GgufTensor* find(std::string_view name) const noexcept;

  std::span<const std::byte> bytes(const GgufTensor& tensor) const;
  // Drops the pages of `range` from resident memory.
  void release(std::span<const std::byte> range) const noexcept;

  // The value, or the default if it is absent. Throws kMalformedFile for a value of another kind.
  std::string text_or(std::string_view key, std::string_view otherwise) const;
  int64_t integer_or(std::string_view key, int64_t otherwise) const;
  double number_or(std::string_view key, double otherwise) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Whether a path names a GGUF file, judged by its ending.
NFLOAT_API bool is_gguf_path(std::string_view path) noexcept;

}  // namespace nfloat

#endif  // NFLOAT_GGUF_H_
