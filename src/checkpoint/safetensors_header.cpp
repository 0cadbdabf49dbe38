// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/safetensors_header.h"

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <unordered_set>

#include "base/fail.h"
#include "base/other_content.h"
#include "nfloat/text.h"

namespace nfloat {
namespace {

constexpr size_t kMaxRank = 16;
constexpr size_t kMaxNameBytes = 4096;

// What a message shows of a name that a hostile file chose.
std::string shown(std::string_view name) {
  std::string text(name.substr(0, 120));
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  return name.size() > 120 ? text + "..." : text;
}

// Walks {"name": {"dtype": s, "shape": [n...], "data_offsets": [a, b]}, "__metadata__": {s: s}} without
// building a document: memory stays proportional to the tensors found, nesting deeper than the format's is an
// error at once.
class HeaderHandler : public nlohmann::json_sax<nlohmann::json> {
 public:
  HeaderHandler(const std::string& path, bool list_unknown) : path_(path), list_unknown_(list_unknown) {}

  SafetensorsHeader take() { return std::move(header_); }

  bool null() override { return unexpected("null"); }
  bool boolean(bool) override { return unexpected("a boolean"); }
  bool number_float(double, const std::string&) override { return unexpected("a fraction"); }
  bool binary(nlohmann::json::binary_t&) override { return unexpected("binary data"); }
  bool number_integer(int64_t value) override {
    bad("tensor '{}': negative number {} in '{}'", shown(tensor_.name), value, field_);
  }

  bool number_unsigned(uint64_t value) override {
    if (!in_array_) return unexpected("a number");
    if (value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      bad("tensor '{}': {} in '{}' is too large", shown(tensor_.name), value, field_);
    }
    numbers_.push_back(static_cast<int64_t>(value));
    if (numbers_.size() > kMaxRank)
      bad("tensor '{}': more than {} numbers in '{}'", shown(tensor_.name), kMaxRank, field_);
    return true;
  }

  bool string(std::string& value) override {
    if (depth_ == 2 && in_metadata_) {
      header_.metadata[field_] = value;
      return true;
    }
    if (depth_ != 2 || in_array_ || field_ != "dtype") return unexpected("a string");
    known_ = parse_dtype(value, &tensor_.dtype) && dtype_name(tensor_.dtype) == value;
    if (!known_) {
      if (!list_unknown_)
        fail(ErrorCode::kUnsupported, "{}: tensor '{}': unknown dtype '{}'", path_, shown(tensor_.name),
             shown(value));
      if (value.size() > kMaxNameBytes)
        bad("tensor '{}': a dtype of {} bytes", shown(tensor_.name), value.size());
      header_.unknown[tensor_.name] = value;
    }
    has_dtype_ = true;
    return true;
  }

  bool start_object(size_t) override {
    if (in_array_ || depth_ >= 2 || in_metadata_value()) return unexpected("a nested object");
    ++depth_;
    if (depth_ == 2) has_dtype_ = has_shape_ = has_offsets_ = false;
    return true;
  }

  bool key(std::string& name) override {
    if (name.size() > kMaxNameBytes) bad("a name of {} bytes", name.size());
    if (depth_ == 1) {
      if (!names_.insert(name).second) bad("tensor '{}' appears twice", shown(name));
      in_metadata_ = name == "__metadata__";
      tensor_ = {};
      tensor_.name = name;
      return true;
    }
    field_ = name;
    if (in_metadata_) {
      if (header_.metadata.contains(name)) bad("metadata key '{}' appears twice", shown(name));
      return true;
    }
    const bool repeated = (name == "dtype" && has_dtype_) || (name == "shape" && has_shape_) ||
                          (name == "data_offsets" && has_offsets_);
    if (repeated) bad("tensor '{}': '{}' appears twice", shown(tensor_.name), name);
    if (name != "dtype" && name != "shape" && name != "data_offsets") {
      bad("tensor '{}': unknown key '{}'", shown(tensor_.name), shown(name));
    }
    return true;
  }

  bool end_object() override {
    if (depth_ == 2 && !in_metadata_) finish_tensor();
    --depth_;
    return true;
  }

  bool start_array(size_t) override {
    if (depth_ != 2 || in_array_ || in_metadata_ || field_ == "dtype") return unexpected("an array");
    in_array_ = true;
    numbers_.clear();
    return true;
  }

  bool end_array() override {
    in_array_ = false;
    if (field_ == "shape") {
      tensor_.shape = Shape(numbers_);
      has_shape_ = true;
    } else {
      if (numbers_.size() != 2) {
        bad("tensor '{}': data_offsets has {} numbers, expected 2", shown(tensor_.name), numbers_.size());
      }
      begin_ = static_cast<uint64_t>(numbers_[0]);
      end_ = static_cast<uint64_t>(numbers_[1]);
      has_offsets_ = true;
    }
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception& error) override {
    std::string what = error.what();
    if (what.find("UTF-8") != std::string::npos)
      bad("the header has a byte that is not UTF-8, byte {} of it", position);
    // Behind "[json.exception...] parse error at line 1, column ...: syntax error while parsing ... - ".
    const size_t reason = what.find(" - ");
    if (reason != std::string::npos) what.erase(0, reason + 3);
    bad("the header is not JSON at byte {}: {}", position, shown(what));
  }

 private:
  template <typename... Args>
  [[noreturn]] void bad(fmt::format_string<Args...> format, Args&&... args) const {
    throw Error(ErrorCode::kMalformedFile, path_ + ": " + fmt::format(format, std::forward<Args>(args)...));
  }

  bool in_metadata_value() const { return depth_ == 2 && in_metadata_; }

  [[noreturn]] bool unexpected(const char* what) const {
    if (depth_ == 0) bad("the header is {}, expected an object", what);
    if (in_metadata_) bad("__metadata__ holds {}, expected strings", what);
    bad("tensor '{}': {} where the format has none (in '{}')", shown(tensor_.name), what, shown(field_));
  }

  void finish_tensor() {
    if (!has_dtype_ || !has_shape_ || !has_offsets_) {
      bad("tensor '{}': no '{}'", shown(tensor_.name),
          !has_dtype_   ? "dtype"
          : !has_shape_ ? "shape"
                        : "data_offsets");
    }
    uint64_t bits = known_ ? dtype_bits(tensor_.dtype) : 1;
    for (int64_t dim : tensor_.shape.dims()) {
      if (__builtin_mul_overflow(bits, static_cast<uint64_t>(dim), &bits) ||
          bits > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
        // A zero further on would make the product small again; no real tensor has such dimensions.
        bad("tensor '{}': shape {} overflows", shown(tensor_.name), tensor_.shape.to_string());
      }
    }
    if (known_ && bits % 8 != 0)
      bad("tensor '{}': shape {} of {} ends inside a byte", shown(tensor_.name), tensor_.shape.to_string(),
          dtype_name(tensor_.dtype));
    if (!known_ && begin_ > end_)
      bad("tensor '{}': data_offsets [{}, {}] go backwards", shown(tensor_.name), begin_, end_);
    const uint64_t bytes = known_ ? bits / 8 : end_ - begin_;
    // Here `bits` is the number of elements, and no type is smaller than one.
    if (!known_ && ((bits + 7) / 8 > bytes || (bits == 0 && bytes > 0)))
      bad("tensor '{}': {} bytes cannot be of shape {}", shown(tensor_.name), bytes,
          tensor_.shape.to_string());
    if (begin_ > end_ || end_ - begin_ != bytes) {
      bad("tensor '{}': data_offsets [{}, {}] hold {} bytes, shape {} of {} needs {}", shown(tensor_.name),
          begin_, end_, static_cast<int64_t>(end_ - begin_), tensor_.shape.to_string(),
          dtype_name(tensor_.dtype), bytes);
    }
    tensor_.offset = begin_;
    tensor_.bytes = bytes;
    header_.tensors.push_back(std::move(tensor_));
    tensor_ = {};
  }

  const std::string& path_;
  SafetensorsHeader header_;
  std::unordered_set<std::string> names_;
  TensorInfo tensor_;
  std::string field_;
  std::vector<int64_t> numbers_;
  uint64_t begin_ = 0, end_ = 0;
  int depth_ = 0;
  bool in_metadata_ = false, in_array_ = false;
  const bool list_unknown_;
  bool known_ = true;  // the tensor's dtype
  bool has_dtype_ = false, has_shape_ = false, has_offsets_ = false;
};

}  // namespace

uint64_t safetensors_header_bytes(std::string_view first_8_bytes, uint64_t file_bytes,
                                  const std::string& path) {
  if (file_bytes < 8 || first_8_bytes.size() < 8) {
    fail(ErrorCode::kMalformedFile, "{}: {} bytes are too few for a safetensors file", path, file_bytes);
  }
  uint64_t length = 0;
  for (size_t i = 8; i-- > 0;) length = length << 8 | static_cast<unsigned char>(first_8_bytes[i]);
  const std::string_view other = other_content(first_8_bytes);
  if (length > kMaxHeaderBytes && !other.empty())
    fail(ErrorCode::kMalformedFile, "{}: {}; download the file again", path, other);
  if (first_8_bytes.starts_with("GGUF"))
    fail(ErrorCode::kMalformedFile, "{}: a GGUF file: let its name end in .gguf", path);
  if (length > kMaxHeaderBytes && (first_8_bytes.starts_with("{\"") || first_8_bytes.starts_with("{\n")))
    fail(ErrorCode::kMalformedFile, "{}: a JSON text, not weights; download the file again", path);
  if (length > kMaxHeaderBytes && looks_like_text(first_8_bytes))
    fail(ErrorCode::kMalformedFile, "{}: a text that begins with '{}', not weights", path,
         printable(first_8_bytes));
  if (length > kMaxHeaderBytes) {
    fail(ErrorCode::kMalformedFile,
         "{}: the header claims {} bytes, more than the format's limit of {}: not a safetensors file?", path,
         length, kMaxHeaderBytes);
  }
  if (length > file_bytes - 8) {
    fail(ErrorCode::kMalformedFile,
         "{}: truncated: the header claims {} bytes, the file has {} after the first 8", path, length,
         file_bytes - 8);
  }
  return length;
}

SafetensorsHeader parse_safetensors_header(std::string_view head, uint64_t file_bytes,
                                           const std::string& path, bool list_unknown) {
  const uint64_t length = safetensors_header_bytes(head, file_bytes, path);
  if (head.size() < 8 + length) {
    fail(ErrorCode::kMalformedFile, "{}: truncated: {} of {} header bytes", path, head.size() - 8, length);
  }
  const std::string_view json = head.substr(8, length);
  if (json.empty() || json.front() != '{') {
    fail(ErrorCode::kMalformedFile, "{}: the header does not begin with '{{': not a safetensors file?", path);
  }
  HeaderHandler handler(path, list_unknown);
  nlohmann::json::sax_parse(json.begin(), json.end(), &handler);
  SafetensorsHeader header = handler.take();

  // The data section is covered once and without gaps.
  std::stable_sort(header.tensors.begin(), header.tensors.end(),
                   [](const TensorInfo& a, const TensorInfo& b) {
                     return a.offset != b.offset ? a.offset < b.offset : a.bytes < b.bytes;
                   });
  const uint64_t data_bytes = file_bytes - 8 - length;
  uint64_t end = 0;
  const TensorInfo* previous = nullptr;
  for (TensorInfo& tensor : header.tensors) {
    if (tensor.offset + tensor.bytes > data_bytes) {
      fail(ErrorCode::kMalformedFile,
           "{}: truncated: tensor '{}' ends at byte {} of the data, the file has {}", path,
           shown(tensor.name), tensor.offset + tensor.bytes, data_bytes);
    }
    if (tensor.offset != end) {
      fail(ErrorCode::kMalformedFile,
           "{}: tensor '{}' begins at byte {} of the data, {} '{}' which ends at {}", path,
           shown(tensor.name), tensor.offset, tensor.offset < end ? "overlapping" : "leaving a gap after",
           previous == nullptr ? "the header" : shown(previous->name), end);
    }
    end += tensor.bytes;
    previous = &tensor;
  }
  if (end != data_bytes) {
    fail(ErrorCode::kMalformedFile, "{}: {} bytes after the last tensor belong to none", path,
         data_bytes - end);
  }
  for (TensorInfo& tensor : header.tensors) tensor.offset += 8 + length;
  return header;
}

}  // namespace nfloat
