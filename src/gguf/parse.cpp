// SPDX-License-Identifier: Apache-2.0
#include "gguf/parse.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <unordered_set>

#include "base/fail.h"
#include "nfloat/text.h"

namespace nfloat {
namespace {

constexpr uint64_t kLeastValueBytes = 8 + 4 + 1;       // key length, type, one byte
constexpr uint64_t kLeastTensorBytes = 8 + 4 + 4 + 8;  // name length, rank, type, offset
constexpr uint64_t kMaxKeyBytes = 65535;

size_t value_bytes(GgufValueType type) noexcept {
  switch (type) {
    case GgufValueType::kU8:
    case GgufValueType::kI8:
    case GgufValueType::kBool:
      return 1;
    case GgufValueType::kU16:
    case GgufValueType::kI16:
      return 2;
    case GgufValueType::kU32:
    case GgufValueType::kI32:
    case GgufValueType::kF32:
      return 4;
    default:
      return 8;
  }
}

// Names come from the file: what is not printable is not shown.
// At most `most` bytes of UTF-8 text, not ending inside of a character.
std::string shown(std::string_view name) {
  return printable(name, 80);
}

class Parser {
 public:
  Parser(std::span<const std::byte> file, const std::string& source) : file_(file), source_(source) {}

  GgufHeader run() {
    read_beginning();
    const uint64_t tensors = count("tensors", kLeastTensorBytes);
    const uint64_t values = count("metadata entries", kLeastValueBytes);
    read_metadata(values);
    read_tensors(tensors);
    place_tensors();
    return std::move(header_);
  }

 private:
  template <typename... Args>
  [[noreturn]] void bad(fmt::format_string<Args...> format, Args&&... args) const {
    throw Error(ErrorCode::kMalformedFile, fmt::format("{}: byte {}: {}", source_, at_,
                                                       fmt::format(format, std::forward<Args>(args)...)));
  }

  std::span<const std::byte> take(uint64_t bytes, std::string_view what) {
    if (bytes > file_.size() - at_)
      bad("{} takes {} bytes, the file has {} left", what, bytes, file_.size() - at_);
    const auto taken = file_.subspan(at_, bytes);
    at_ += bytes;
    return taken;
  }

  template <typename T>
  T number(std::string_view what) {
    T value;
    std::memcpy(&value, take(sizeof(T), what).data(), sizeof(T));
    return value;
  }

  std::string_view text(std::string_view what, uint64_t most) {
    const auto length = number<uint64_t>(what);
    if (length > most) bad("{} of {} bytes, at most {} are allowed", what, length, most);
    const auto bytes = take(length, what);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }

  // A count that what is left of the file can hold.
  uint64_t count(std::string_view what, uint64_t least_bytes) {
    const auto value = number<uint64_t>(what);
    if (value > (file_.size() - at_) / least_bytes)
      bad("{} {} in a file with {} bytes left", value, what, file_.size() - at_);
    return value;
  }

  void read_beginning() {
    const auto magic = take(kGgufMagic.size(), "the magic number");
    if (std::memcmp(magic.data(), kGgufMagic.data(), kGgufMagic.size()) != 0)
      fail(ErrorCode::kMalformedFile, "{}: not a GGUF file: it does not begin with \"GGUF\"", source_);
    header_.version = number<uint32_t>("the version");
    if (header_.version == 2 || header_.version == 3) return;
    if (header_.version != 0 && (header_.version & 0xffff) == 0)
      fail(ErrorCode::kUnsupported, "{}: a big-endian GGUF file; little endian is read", source_);
    fail(ErrorCode::kUnsupported, "{}: GGUF version {}; versions 2 and 3 are read", source_, header_.version);
  }

  void read_value(GgufValue& value, const std::string& what) {
    if (value.type == GgufValueType::kString) {
      value.strings.reserve(value.count);
      for (uint64_t i = 0; i < value.count; ++i)
        value.strings.push_back(text(what, std::numeric_limits<uint64_t>::max()));
      return;
    }
    value.bytes = take(value.count * value_bytes(value.type), what);
    if (value.type == GgufValueType::kBool &&
        std::any_of(value.bytes.begin(), value.bytes.end(), [](std::byte b) { return b > std::byte{1}; }))
      bad("{}: a flag that is neither 0 nor 1", what);
  }

  GgufValueType value_type(const std::string& what) {
    const auto type = number<uint32_t>(what);
    if (type > static_cast<uint32_t>(GgufValueType::kF64)) bad("{}: value type {} is not known", what, type);
    return static_cast<GgufValueType>(type);
  }

  void read_metadata(uint64_t values) {
    std::unordered_set<std::string_view> keys;
    for (uint64_t i = 0; i < values; ++i) {
      GgufValue value;
      value.key = text("a metadata key", kMaxKeyBytes);
      if (value.key.empty()) bad("a metadata key without a name");
      const std::string what = fmt::format("metadata \"{}\"", shown(value.key));
      if (!keys.insert(value.key).second) bad("{} appears twice", what);
      value.type = value_type(what);
      if (value.type == GgufValueType::kArray) {
        value.is_array = true;
        value.type = value_type(what);
        if (value.type == GgufValueType::kArray)
          fail(ErrorCode::kUnsupported, "{}: byte {}: {} is an array of arrays", source_, at_, what);
        value.count = count("elements", value_bytes(value.type));
      }
      read_value(value, what);
      if (value.key == "general.alignment") read_alignment(value);
      header_.metadata.push_back(std::move(value));
    }
  }

  void read_alignment(const GgufValue& value) {
    const int64_t alignment = value.is_array || !value.is_integer() ? 0 : value.integer();
    if (alignment < 1 || alignment > (int64_t{1} << 30) ||
        !std::has_single_bit(static_cast<uint64_t>(alignment)))
      bad("general.alignment is {}, expected a power of two", value.to_string());
    header_.alignment = static_cast<uint32_t>(alignment);
  }

  void read_tensors(uint64_t tensors) {
    std::unordered_set<std::string_view> names;
    for (uint64_t i = 0; i < tensors; ++i) {
      GgufTensor tensor;
      const std::string_view name = text("a tensor's name", kGgufMaxNameBytes);
      tensor.name = name;
      const std::string what = fmt::format("tensor '{}'", shown(name));
      if (!names.insert(name).second) bad("{} appears twice", what);
      const auto rank = number<uint32_t>(what);
      if (rank == 0 || rank > kGgufMaxDimensions)
        bad("{} has {} dimensions, 1 to {} are allowed", what, rank, kGgufMaxDimensions);
      std::vector<int64_t> dims(rank);
      uint64_t elements = 1;
      for (uint32_t axis = 0; axis < rank; ++axis) {
        const auto dim = number<uint64_t>(what);
        if (dim == 0) bad("{} has a dimension of 0", what);
        if (dim > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) / 8 / elements)
          bad("{}: its dimensions overflow", what);
        elements *= dim;
        dims[rank - 1 - axis] = static_cast<int64_t>(dim);
      }
      const auto type = number<uint32_t>(what);
      const GgufTypeInfo* info = find_gguf_type(type);
      if (info == nullptr)
        fail(ErrorCode::kUnsupported, "{}: byte {}: {} is of type {}, which this version does not know",
             source_, at_, what, type);
      tensor.type = info->type;
      if (dims.back() % info->block_elements != 0)
        bad("{} has rows of {} elements, {} needs a multiple of {}", what, dims.back(), info->name,
            info->block_elements);
      tensor.bytes =
          elements / static_cast<uint64_t>(info->block_elements) * static_cast<uint64_t>(info->block_bytes);
      tensor.shape = Shape(std::move(dims));
      tensor.offset = number<uint64_t>(what);
      if (tensor.offset % header_.alignment != 0)
        bad("{} is at offset {}, not a multiple of the alignment {}", what, tensor.offset, header_.alignment);
      header_.tensors.push_back(std::move(tensor));
    }
  }

  // Offsets count from the data section, which begins at the next multiple of the alignment.
  void place_tensors() {
    if (header_.tensors.empty()) return;
    const uint64_t padding = (header_.alignment - at_ % header_.alignment) % header_.alignment;
    take(padding, "the padding before the data");
    const uint64_t data = at_, room = file_.size() - at_;
    for (GgufTensor& tensor : header_.tensors) {
      if (tensor.offset > room || tensor.bytes > room - tensor.offset)
        bad("tensor '{}' takes bytes {} to {} of a data section of {}", shown(tensor.name), tensor.offset,
            tensor.offset + std::min(tensor.bytes, ~tensor.offset), room);
      tensor.offset += data;
    }
    std::vector<const GgufTensor*> order;
    for (const GgufTensor& tensor : header_.tensors) order.push_back(&tensor);
    std::sort(order.begin(), order.end(),
              [](const GgufTensor* a, const GgufTensor* b) { return a->offset < b->offset; });
    for (size_t i = 1; i < order.size(); ++i) {
      if (order[i - 1]->offset + order[i - 1]->bytes > order[i]->offset)
        bad("tensors '{}' and '{}' overlap", shown(order[i - 1]->name), shown(order[i]->name));
    }
  }

  const std::span<const std::byte> file_;
  const std::string& source_;
  uint64_t at_ = 0;
  GgufHeader header_;
};

template <typename T>
T element(std::span<const std::byte> bytes, uint64_t index) noexcept {
  T value;
  std::memcpy(&value, bytes.data() + index * sizeof(T), sizeof(T));
  return value;
}

}  // namespace

GgufHeader parse_gguf_header(std::span<const std::byte> file, const std::string& source) {
  return Parser(file, source).run();
}

bool GgufValue::is_integer() const noexcept {
  return type != GgufValueType::kString && type != GgufValueType::kBool && !is_float();
}

int64_t GgufValue::integer(uint64_t index) const noexcept {
  switch (type) {
    case GgufValueType::kU8:
    case GgufValueType::kBool:
      return element<uint8_t>(bytes, index);
    case GgufValueType::kI8:
      return element<int8_t>(bytes, index);
    case GgufValueType::kU16:
      return element<uint16_t>(bytes, index);
    case GgufValueType::kI16:
      return element<int16_t>(bytes, index);
    case GgufValueType::kU32:
      return element<uint32_t>(bytes, index);
    case GgufValueType::kI32:
      return element<int32_t>(bytes, index);
    case GgufValueType::kU64:
      return static_cast<int64_t>(
          std::min<uint64_t>(element<uint64_t>(bytes, index), std::numeric_limits<int64_t>::max()));
    case GgufValueType::kI64:
      return element<int64_t>(bytes, index);
    case GgufValueType::kF32:
    case GgufValueType::kF64: {
      const double value = number(index);
      return value > -9e18 && value < 9e18 ? static_cast<int64_t>(value) : 0;
    }
    default:
      return 0;
  }
}

double GgufValue::number(uint64_t index) const noexcept {
  if (type == GgufValueType::kF32) return double{element<float>(bytes, index)};
  if (type == GgufValueType::kF64) return element<double>(bytes, index);
  if (type == GgufValueType::kU64) return static_cast<double>(element<uint64_t>(bytes, index));
  return static_cast<double>(integer(index));
}

std::string_view GgufValue::text(uint64_t index) const noexcept {
  return index < strings.size() ? strings[index] : std::string_view();
}

std::string_view gguf_value_type_name(GgufValueType type) noexcept {
  constexpr std::string_view kNames[] = {"u8",   "i8",   "u16",   "i16", "u32", "i32", "f32",
                                         "bool", "text", "array", "u64", "i64", "f64"};
  return kNames[static_cast<size_t>(type)];
}

std::string GgufValue::to_string(size_t width) const {
  const auto one = [&](uint64_t index) -> std::string {
    if (is_text()) return fmt::format("\"{}\"", printable(text(index), width));
    if (type == GgufValueType::kBool) return integer(index) != 0 ? "true" : "false";
    if (type == GgufValueType::kF32) return fmt::format("{}", element<float>(bytes, index));
    if (type == GgufValueType::kF64) return fmt::format("{}", element<double>(bytes, index));
    if (type == GgufValueType::kU64) return fmt::format("{}", element<uint64_t>(bytes, index));
    return fmt::format("{}", integer(index));
  };
  if (!is_array) return one(0);
  std::string list = "[";
  for (uint64_t i = 0; i < count; ++i) {
    if (list.size() > width / 2) return list + fmt::format("... {} in all]", count);
    list += one(i);
    if (i + 1 < count) list += ", ";
  }
  return list + "]";
}

}  // namespace nfloat
