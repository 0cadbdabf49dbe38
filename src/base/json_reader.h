// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_BASE_JSON_READER_H_
#define NFLOAT_BASE_JSON_READER_H_

#include <cmath>
#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/fail.h"
#include "base/json.h"

namespace nfloat {

// Parses a small configuration file: at most 1 MiB and 32 levels deep. An object, or kMalformedFile naming
// `source`.
Json parse_small_json(std::string_view text, const std::string& source);

// One JSON object with typed, bounded access; errors name the file and the key.
class JsonReader {
 public:
  JsonReader(const Json& object, const std::string& source, std::string prefix = "")
      : object_(object), source_(source), prefix_(std::move(prefix)) {}

  // Puts the keys that are asked for from now on into `asked`, which has to live as long.
  void remember(std::set<std::string, std::less<>>* asked) { asked_ = asked; }

  const Json* get(const char* key) const {
    if (asked_ != nullptr) asked_->insert(key);
    const Json* found = object_.find(key);
    return found == nullptr || found->is_null() ? nullptr : found;
  }

  int64_t integer(const char* key, int64_t low, int64_t high, const int64_t* fallback = nullptr) const {
    const Json* value = get(key);
    if (value == nullptr && fallback != nullptr) return *fallback;
    if (value == nullptr) missing(key);
    // A value beyond int64 parses as unsigned or as a double and fails here too.
    if (!value->is_number_integer() ||
        (value->is_number_unsigned() && value->get<uint64_t>() > uint64_t{1} << 62) ||
        value->get<int64_t>() < low || value->get<int64_t>() > high)
      fail(ErrorCode::kMalformedFile, "{}: \"{}{}\" is {}, expected an integer from {} to {}", source_,
           prefix_, key, shown(*value), low, high);
    return value->get<int64_t>();
  }
  int64_t integer_or(const char* key, int64_t low, int64_t high, int64_t fallback) const {
    return integer(key, low, high, &fallback);
  }

  double number(const char* key, double low, double high, const double* fallback = nullptr) const {
    const Json* value = get(key);
    if (value == nullptr && fallback != nullptr) return *fallback;
    if (value == nullptr) missing(key);
    const double found = value->is_number() ? value->get<double>() : NAN;
    if (!(found >= low && found <= high))
      fail(ErrorCode::kMalformedFile, "{}: \"{}{}\" is {}, expected a number from {} to {}", source_, prefix_,
           key, shown(*value), low, high);
    return found;
  }
  double number_or(const char* key, double low, double high, double fallback) const {
    return number(key, low, high, &fallback);
  }

  bool boolean_or(const char* key, bool fallback) const {
    const Json* value = get(key);
    if (value == nullptr) return fallback;
    if (!value->is_boolean())
      fail(ErrorCode::kMalformedFile, "{}: \"{}{}\" is {}, expected true or false", source_, prefix_, key,
           shown(*value));
    return value->get<bool>();
  }

  std::string text_or(const char* key, const char* fallback) const {
    const Json* value = get(key);
    if (value == nullptr) return fallback;
    if (!value->is_string())
      fail(ErrorCode::kMalformedFile, "{}: \"{}{}\" is {}, expected a string", source_, prefix_, key,
           shown(*value));
    return value->get<std::string>();
  }

  // One id or a list of ids below `vocabulary`; none when the key is absent.
  std::vector<int32_t> token_ids(const char* key, int64_t vocabulary) const {
    std::vector<int32_t> ids;
    const Json* value = get(key);
    if (value == nullptr) return ids;
    const Json list = value->is_array() ? *value : Json::array({*value});
    for (const Json& id : list) {
      const Json one{{key, id}};
      ids.push_back(static_cast<int32_t>(JsonReader(one, source_, prefix_).integer(key, 0, vocabulary - 1)));
    }
    return ids;
  }

  const std::string& source() const { return source_; }

  static std::string shown(const Json& value) {
    constexpr size_t kMost = 60;
    std::string text = value.dump(-1, Json::Invalid::kReplaceAndEscape);
    return text.size() <= kMost ? text : text.substr(0, kMost) + "...";
  }

 private:
  [[noreturn]] void missing(const char* key) const {
    fail(ErrorCode::kMalformedFile, "{}: \"{}{}\" is missing", source_, prefix_, key);
  }

  const Json& object_;
  const std::string& source_;
  std::string prefix_;
  std::set<std::string, std::less<>>* asked_ = nullptr;
};

}  // namespace nfloat

#endif  // NFLOAT_BASE_JSON_READER_H_
