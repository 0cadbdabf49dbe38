// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/json_at.h"

namespace nfloat {
namespace {

constexpr size_t kMaxBytes = size_t{256} << 20;
constexpr size_t kMaxValues = 6'000'000;
constexpr int kMaxDepth = 64;
constexpr size_t kShown = 60;

std::string shown(const Json& value) {
  if (value.is_array()) return fmt::format("an array of {}", value.size());
  if (value.is_object()) return fmt::format("an object of {} keys", value.size());
  std::string text = value.dump(-1, Json::Invalid::kReplaceAndEscape);
  return text.size() <= kShown ? text : text.substr(0, kShown) + "...";
}

}  // namespace

void check_json_size(size_t bytes, const std::string& source) {
  if (bytes > kMaxBytes)
    fail(ErrorCode::kMalformedFile, "{}: {} bytes, expected at most {}", source, bytes, kMaxBytes);
}

Json parse_tokenizer_json(std::string_view text, const std::string& source) {
  return parse_json(text, source, {.depth = kMaxDepth, .values = kMaxValues, .bytes = kMaxBytes});
}

JsonAt JsonAt::operator[](const char* key) const {
  return {object().find(key), source_, path_.empty() ? key : path_ + "." + key};
}

JsonAt JsonAt::element(size_t index) const {
  return {&(*value_)[index], source_, fmt::format("{}[{}]", path_, index)};
}

std::vector<JsonAt> JsonAt::elements() const {
  if (!present() || !value_->is_array()) wrong("an array");
  std::vector<JsonAt> all;
  all.reserve(value_->size());
  for (size_t i = 0; i < value_->size(); ++i) all.push_back(element(i));
  return all;
}

const Json& JsonAt::object() const {
  if (!present() || !value_->is_object()) wrong("an object");
  return *value_;
}

const std::string& JsonAt::text() const {
  if (!present() || !value_->is_string()) wrong("a string");
  return value_->text();
}

std::string JsonAt::text_or(const char* fallback) const {
  return present() ? text() : fallback;
}

bool JsonAt::flag_or(bool fallback) const {
  if (!present()) return fallback;
  if (!value_->is_boolean()) wrong("true or false");
  return value_->get<bool>();
}

int64_t JsonAt::integer(int64_t low, int64_t high) const {
  const bool fits =
      present() && value_->is_number_integer() &&
      (!value_->is_number_unsigned() || value_->get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX));
  if (!fits || value_->get<int64_t>() < low || value_->get<int64_t>() > high)
    wrong(fmt::format("an integer from {} to {}", low, high));
  return value_->get<int64_t>();
}

int64_t JsonAt::integer_or(int64_t low, int64_t high, int64_t fallback) const {
  return present() ? integer(low, high) : fallback;
}

void JsonAt::wrong(std::string_view expected) const {
  fail(ErrorCode::kMalformedFile, "{}: {} is {}, expected {}", *source_, path(),
       present() ? shown(*value_) : "missing", expected);
}

void JsonAt::unsupported(std::string_view what) const {
  fail(ErrorCode::kUnsupported, "{}: {}: {}", *source_, path(), what);
}

void JsonAt::malformed(std::string_view sentence) const {
  fail(ErrorCode::kMalformedFile, "{}: {}: {}", *source_, path(), sentence);
}

}  // namespace nfloat
