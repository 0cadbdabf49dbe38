// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TOKENIZER_JSON_AT_H_
#define NFLOAT_TOKENIZER_JSON_AT_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/fail.h"
#include "base/json.h"

namespace nfloat {

// Parses a tokenizer's JSON in bounded memory: at most 256 MiB, 64 levels and 6 million values. Throws
// kMalformedFile naming `source`.
Json parse_tokenizer_json(std::string_view text, const std::string& source);

// The first of these bounds, for other texts of a tokenizer.
void check_json_size(size_t bytes, const std::string& source);

// A value of the file and the way to it ("model.merges[3]"), so that every error says where it is. Null and
// absent values are alike. Borrows the document and `source`.
class JsonAt {
 public:
  JsonAt(const Json& root, const std::string& source) : value_(&root), source_(&source) {}

  bool present() const noexcept { return value_ != nullptr && !value_->is_null(); }
  const Json& raw() const noexcept { return *value_; }
  std::string path() const { return path_.empty() ? "the file" : path_; }
  std::string where() const { return fmt::format("{}: {}", *source_, path()); }

  JsonAt operator[](const char* key) const;  // throws unless this is an object
  JsonAt element(size_t index) const;        // of an array; `index` is inside it
  std::vector<JsonAt> elements() const;      // throws unless this is an array
  const Json& object() const;                // throws unless this is an object
  const std::string& text() const;           // throws unless this is a string
  std::string text_or(const char* fallback) const;
  bool flag_or(bool fallback) const;
  int64_t integer(int64_t low, int64_t high) const;
  int64_t integer_or(int64_t low, int64_t high, int64_t fallback) const;

  // "tokenizer.json: model.merges[3] is 7, expected a string"
  [[noreturn]] void wrong(std::string_view expected) const;
  [[noreturn]] void unsupported(std::string_view what) const;
  // kMalformedFile with a sentence of the caller's.
  [[noreturn]] void malformed(std::string_view sentence) const;

 private:
  JsonAt(const Json* value, const std::string* source, std::string path)
      : value_(value), source_(source), path_(std::move(path)) {}

  const Json* value_;
  const std::string* source_;
  std::string path_;
};

}  // namespace nfloat

#endif  // NFLOAT_TOKENIZER_JSON_AT_H_
