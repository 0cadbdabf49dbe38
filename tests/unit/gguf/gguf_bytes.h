// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TESTS_GGUF_BYTES_H_
#define NFLOAT_TESTS_GGUF_BYTES_H_

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

namespace nfloat::testing {

// Puts the bytes of a GGUF file together, right or wrong, as its test says.
struct GgufBytes {
  std::string bytes;

  template <typename T>
  GgufBytes& put(T value) {
    bytes.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }
  GgufBytes& text(std::string_view value) {
    put<uint64_t>(value.size());
    bytes += value;
    return *this;
  }
  GgufBytes& start(uint64_t tensors, uint64_t values, uint32_t version = 3) {
    bytes += "GGUF";
    return put(version).put(tensors).put(values);
  }
  GgufBytes& integer(std::string_view key, uint32_t value) { return text(key).put<uint32_t>(4).put(value); }
  GgufBytes& string(std::string_view key, std::string_view value) {
    return text(key).put<uint32_t>(8).text(value);
  }
  // `dims` innermost first, as the file has them.
  GgufBytes& tensor(std::string_view name, std::initializer_list<uint64_t> dims, uint32_t type,
                    uint64_t offset) {
    text(name).put(static_cast<uint32_t>(dims.size()));
    for (const uint64_t dim : dims) put(dim);
    return put(type).put(offset);
  }
  GgufBytes& data(size_t count, size_t alignment = 32) {
    bytes.resize((bytes.size() + alignment - 1) / alignment * alignment);
    for (size_t i = 0; i < count; ++i) bytes += static_cast<char>(i);
    return *this;
  }
  std::span<const std::byte> span() const { return std::as_bytes(std::span(bytes)); }
};

}  // namespace nfloat::testing

#endif  // NFLOAT_TESTS_GGUF_BYTES_H_
