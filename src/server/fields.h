// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_SERVER_FIELDS_H_
#define NFLOAT_SERVER_FIELDS_H_

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>

#include "base/json.h"
#include "server/api_error.h"

namespace nfloat {

// Typed, bounded access to the fields of a request; null means absent. Errors name the field.
class Fields {
 public:
  explicit Fields(const Json& object) : object_(object) {}

  const Json* get(const char* name) const {
    const Json* found = object_.find(name);
    return found == nullptr || found->is_null() ? nullptr : found;
  }
  std::optional<double> number(const char* name, double low, double high) const {
    const Json* value = get(name);
    if (value == nullptr) return std::nullopt;
    const double found = value->is_number() ? value->get<double>() : NAN;
    if (!(found >= low && found <= high))
      bad_field(name, "{} is {}, expected a number from {} to {}", name, shown(*value), low, high);
    return found;
  }
  std::optional<int64_t> integer(const char* name, int64_t low, int64_t high) const {
    const Json* value = get(name);
    if (value == nullptr) return std::nullopt;
    if (!value->is_number_integer() ||
        (value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) ||
        value->get<int64_t>() < low || value->get<int64_t>() > high)
      bad_field(name, "{} is {}, expected an integer from {} to {}", name, shown(*value), low, high);
    return value->get<int64_t>();
  }
  bool boolean(const char* name, bool otherwise = false) const {
    const Json* value = get(name);
    if (value == nullptr) return otherwise;
    if (!value->is_boolean()) bad_field(name, "{} is {}, expected true or false", name, shown(*value));
    return value->get<bool>();
  }
  std::string text(const char* name, const std::string& otherwise = "") const {
    const Json* value = get(name);
    if (value == nullptr) return otherwise;
    if (!value->is_string()) bad_field(name, "{} is {}, expected a string", name, shown(*value));
    return value->text();
  }
  const Json* object(const char* name) const {
    const Json* value = get(name);
    if (value != nullptr && !value->is_object())
      bad_field(name, "{} is {}, expected an object", name, shown(*value));
    return value;
  }
  const Json* array(const char* name) const {
    const Json* value = get(name);
    if (value != nullptr && !value->is_array())
      bad_field(name, "{} is {}, expected a list", name, shown(*value));
    return value;
  }

  // Short enough for a message.
  static std::string shown(const Json& value) {
    if (value.is_object()) return "an object";
    if (value.is_array()) return "a list";
    const std::string text = value.dump(-1, Json::Invalid::kReplaceAndEscape);
    return text.size() <= 40 ? text : text.substr(0, 40) + "...";
  }

 private:
  const Json& object_;
};

}  // namespace nfloat

#endif  // NFLOAT_SERVER_FIELDS_H_
