// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/json_at.h"

namespace nfloat {
namespace {

constexpr size_t kMaxBytes = size_t{256} << 20;
constexpr size_t kMaxValues = 12'000'000;
constexpr int kMaxDepth = 64;
constexpr size_t kShown = 60;

// Counts before anything is built: a document of brackets costs 50 times its size in memory.
void check_bounds(std::string_view text, const std::string& source) {
  check_json_size(text.size(), source);
  int depth = 0;
  size_t values = 1;
  bool quoted = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '\\')
        ++i;
      else if (c == '"')
        quoted = false;
      continue;
    }
    if (c == '"') quoted = true;
    if (c == '[' || c == '{') ++depth;
    if (c == ']' || c == '}') --depth;
    if (c == '[' || c == '{' || c == ',' || c == ':') ++values;
    if (depth > kMaxDepth)
      fail(ErrorCode::kMalformedFile, "{}: JSON nested deeper than {} levels at byte {}", source, kMaxDepth,
           i);
    if (values > kMaxValues)
      fail(ErrorCode::kMalformedFile, "{}: more than {} JSON values", source, kMaxValues);
  }
}

std::string shown(const nlohmann::json& value) {
  if (value.is_array()) return fmt::format("an array of {}", value.size());
  if (value.is_object()) return fmt::format("an object of {} keys", value.size());
  std::string text = value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  return text.size() <= kShown ? text : text.substr(0, kShown) + "...";
}

}  // namespace

void check_json_size(size_t bytes, const std::string& source) {
  if (bytes > kMaxBytes)
    fail(ErrorCode::kMalformedFile, "{}: {} bytes, expected at most {}", source, bytes, kMaxBytes);
}

nlohmann::json parse_tokenizer_json(std::string_view text, const std::string& source) {
  check_bounds(text, source);
  try {
    return nlohmann::json::parse(text);
  } catch (const nlohmann::json::exception& error) {
    constexpr size_t kMost = 200;
    fail(ErrorCode::kMalformedFile, "{}: not valid JSON: {}", source,
         std::string(error.what()).substr(0, kMost));
  }
}

JsonAt JsonAt::operator[](const char* key) const {
  const nlohmann::json& parent = object();
  const auto found = parent.find(key);
  return {found == parent.end() ? nullptr : &*found, source_, path_.empty() ? key : path_ + "." + key};
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

const nlohmann::json& JsonAt::object() const {
  if (!present() || !value_->is_object()) wrong("an object");
  return *value_;
}

const std::string& JsonAt::text() const {
  if (!present() || !value_->is_string()) wrong("a string");
  return value_->get_ref<const std::string&>();
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
