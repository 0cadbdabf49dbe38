// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_GGUF_WRITER_H_
#define NFLOAT_GGUF_WRITER_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/atomic_file.h"
#include "nfloat/gguf.h"

namespace nfloat {

// Metadata entries, put together as the file will hold them.
class GgufMetadata {
 public:
  void text(std::string_view key, std::string_view value);
  void u16(std::string_view key, uint16_t value);
  void u32(std::string_view key, uint32_t value);
  void i32(std::string_view key, int32_t value);
  void f32(std::string_view key, float value);
  void flag(std::string_view key, bool value);
  void flags(std::string_view key, const std::vector<bool>& values);
  void texts(std::string_view key, std::span<const std::string> values);
  void numbers(std::string_view key, std::span<const float> values);
  void integers(std::string_view key, std::span<const int32_t> values);
  void add(const GgufMetadata& other);

  uint64_t count() const noexcept { return count_; }
  const std::string& bytes() const noexcept { return bytes_; }

 private:
  void begin(std::string_view key, GgufValueType type);
  void begin_array(std::string_view key, GgufValueType type, uint64_t count);
  std::string bytes_;
  uint64_t count_ = 0;
};

// Writes one GGUF file, version 3, as a stream: header first, then tensors in any order of ranges, from
// several threads. The file appears under its name with commit().
class GgufWriter {
 public:
  struct Declared {
    std::string name;
    GgufType type;
    Shape shape;  // outermost first
  };

  // `begun`: the temporary_path() of another process's writer with the same arguments, to write some of its
  // tensors; "": a file of its own.
  GgufWriter(const std::string& path, const GgufMetadata& metadata, const std::vector<Declared>& tensors,
             const std::string& begun = {});

  // Bytes of tensor `index` (as declared) from `begin` on.
  void write(size_t index, uint64_t begin, std::span<const std::byte> bytes);
  void sync() { file_.sync(); }
  void commit(Existing existing = Existing::kReplace) { file_.commit(existing); }
  uint64_t file_bytes() const noexcept { return end_; }
  const std::string& temporary_path() const noexcept { return file_.temporary_path(); }

 private:
  AtomicFile file_;
  std::vector<uint64_t> offsets_;  // in the file
  uint64_t end_ = 0;
};

// Of a declared tensor.
uint64_t gguf_tensor_bytes(GgufType type, const Shape& shape) noexcept;

}  // namespace nfloat

#endif  // NFLOAT_GGUF_WRITER_H_
