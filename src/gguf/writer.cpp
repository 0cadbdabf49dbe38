// SPDX-License-Identifier: Apache-2.0
#include "gguf/writer.h"

#include "gguf/parse.h"

namespace nfloat {
namespace {

template <typename T>
void put(std::string& to, T value) {
  to.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void put_text(std::string& to, std::string_view text) {
  put<uint64_t>(to, text.size());
  to += text;
}

constexpr uint64_t aligned(uint64_t bytes) noexcept {
  return (bytes + kGgufDefaultAlignment - 1) / kGgufDefaultAlignment * kGgufDefaultAlignment;
}

}  // namespace

void GgufMetadata::begin(std::string_view key, GgufValueType type) {
  put_text(bytes_, key);
  put(bytes_, static_cast<uint32_t>(type));
  ++count_;
}

void GgufMetadata::begin_array(std::string_view key, GgufValueType type, uint64_t count) {
  begin(key, GgufValueType::kArray);
  put(bytes_, static_cast<uint32_t>(type));
  put(bytes_, count);
}

void GgufMetadata::text(std::string_view key, std::string_view value) {
  begin(key, GgufValueType::kString);
  put_text(bytes_, value);
}

void GgufMetadata::u16(std::string_view key, uint16_t value) {
  begin(key, GgufValueType::kU16);
  put(bytes_, value);
}

void GgufMetadata::u32(std::string_view key, uint32_t value) {
  begin(key, GgufValueType::kU32);
  put(bytes_, value);
}

void GgufMetadata::i32(std::string_view key, int32_t value) {
  begin(key, GgufValueType::kI32);
  put(bytes_, value);
}

void GgufMetadata::f32(std::string_view key, float value) {
  begin(key, GgufValueType::kF32);
  put(bytes_, value);
}

void GgufMetadata::flag(std::string_view key, bool value) {
  begin(key, GgufValueType::kBool);
  put(bytes_, static_cast<uint8_t>(value));
}

void GgufMetadata::flags(std::string_view key, const std::vector<bool>& values) {
  begin_array(key, GgufValueType::kBool, values.size());
  for (const bool value : values) put(bytes_, static_cast<uint8_t>(value));
}

void GgufMetadata::texts(std::string_view key, std::span<const std::string> values) {
  begin_array(key, GgufValueType::kString, values.size());
  for (const std::string& value : values) put_text(bytes_, value);
}

void GgufMetadata::numbers(std::string_view key, std::span<const float> values) {
  begin_array(key, GgufValueType::kF32, values.size());
  for (const float value : values) put(bytes_, value);
}

void GgufMetadata::integers(std::string_view key, std::span<const int32_t> values) {
  begin_array(key, GgufValueType::kI32, values.size());
  for (const int32_t value : values) put(bytes_, value);
}

void GgufMetadata::add(const GgufMetadata& other) {
  bytes_ += other.bytes_;
  count_ += other.count_;
}

uint64_t gguf_tensor_bytes(GgufType type, const Shape& shape) noexcept {
  const GgufTypeInfo& info = gguf_type_info(type);
  return static_cast<uint64_t>(shape.elements() / info.block_elements * info.block_bytes);
}

GgufWriter::GgufWriter(const std::string& path, const GgufMetadata& metadata,
                       const std::vector<Declared>& tensors, const std::string& begun)
    : file_(begun.empty() ? AtomicFile(path) : AtomicFile(path, begun)) {
  std::string header(kGgufMagic);
  put<uint32_t>(header, 3);
  put<uint64_t>(header, tensors.size());
  put(header, metadata.count());
  header += metadata.bytes();
  uint64_t end = 0;
  for (const Declared& tensor : tensors) {
    put_text(header, tensor.name);
    put(header, static_cast<uint32_t>(tensor.shape.rank()));
    for (size_t axis = tensor.shape.rank(); axis-- > 0;)
      put(header, static_cast<uint64_t>(tensor.shape[axis]));
    put(header, static_cast<uint32_t>(tensor.type));
    put(header, end);
    offsets_.push_back(end);
    end += aligned(gguf_tensor_bytes(tensor.type, tensor.shape));
  }
  header.resize(aligned(header.size()), '\0');
  for (uint64_t& offset : offsets_) offset += header.size();
  end_ = header.size() + end;
  if (!begun.empty()) return;
  file_.write_at(0, std::as_bytes(std::span(header)));
  // The padding behind the last tensor; that between tensors is a hole, which reads as zeros.
  if (end > 0) file_.write_at(end_ - 1, std::as_bytes(std::span("", 1)));
}

void GgufWriter::write(size_t index, uint64_t begin, std::span<const std::byte> bytes) {
  file_.write_at(offsets_[index] + begin, bytes);
}

}  // namespace nfloat
