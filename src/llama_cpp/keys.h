// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_LLAMA_CPP_KEYS_H_
#define NFLOAT_LLAMA_CPP_KEYS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "gguf/writer.h"
#include "nfloat/gguf.h"

namespace nfloat {

// The shortest decimal number that is this value as a float: 1e-5, not 9.99999974e-06.
double shortest(double value);

// What a file says of its model: "context_length" is its "llama.context_length".
class ModelKeys {
 public:
  explicit ModelKeys(const GgufFile& file)
      : file_(file), architecture_(file.text_or("general.architecture", "")) {}

  const GgufFile& file() const noexcept { return file_; }
  const std::string& source() const { return file_.files()[0]; }
  std::string key(std::string_view name) const { return architecture_ + "." + std::string(name); }
  const GgufValue* find(std::string_view name) const { return file_.find_value(key(name)); }
  bool has(std::string_view name) const { return find(name) != nullptr; }
  int64_t integer(std::string_view name, int64_t otherwise) const {
    return file_.integer_or(key(name), otherwise);
  }
  // Finite. Throws kMalformedFile naming the key.
  double number(std::string_view name, double otherwise) const;
  std::string text(std::string_view name, std::string_view otherwise) const {
    return file_.text_or(key(name), otherwise);
  }
  // At least 1. Throws kMalformedFile naming the key.
  int64_t required(std::string_view name) const;

 private:
  const GgufFile& file_;
  const std::string architecture_;
};

// A vector of metadata that GGUF keeps as a tensor: divisors of the rotary frequencies.
struct MetadataTensor {
  std::string name;
  std::vector<float> values;
};

// The same keys on their way into a file.
class ModelKeyWriter {
 public:
  ModelKeyWriter(GgufMetadata& metadata, std::vector<MetadataTensor>& tensors,
                 std::vector<std::string>& notes, std::string_view architecture)
      : out_(metadata), tensors_(tensors), notes_(notes), architecture_(architecture) {}

  void integer(std::string_view name, int64_t value) { out_.u32(key(name), static_cast<uint32_t>(value)); }
  void number(std::string_view name, double value) { out_.f32(key(name), static_cast<float>(value)); }
  void text(std::string_view name, std::string_view value) { out_.text(key(name), value); }
  void flag(std::string_view name, bool value) { out_.flag(key(name), value); }
  void flags(std::string_view name, const std::vector<bool>& values) { out_.flags(key(name), values); }
  void tensor(std::string name, std::vector<float> values) {
    tensors_.push_back({std::move(name), std::move(values)});
  }
  // What llama.cpp computes otherwise.
  void note(std::string text) { notes_.push_back(std::move(text)); }
  // Throws kUnsupported: llama.cpp's graph of the architecture has no such thing.
  [[noreturn]] void refuse(const std::string& what) const;

 private:
  std::string key(std::string_view name) const { return architecture_ + "." + std::string(name); }

  GgufMetadata& out_;
  std::vector<MetadataTensor>& tensors_;
  std::vector<std::string>& notes_;
  const std::string architecture_;
};

}  // namespace nfloat

#endif  // NFLOAT_LLAMA_CPP_KEYS_H_
