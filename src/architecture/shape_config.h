// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ARCHITECTURE_SHAPE_CONFIG_H_
#define NFLOAT_ARCHITECTURE_SHAPE_CONFIG_H_

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"

namespace nfloat {

using AskedKeys = std::set<std::string, std::less<>>;

// Keys of a configuration that speak of shapes, are not switched off and are not among those asked for.
std::vector<std::string> unread_shape_keys(const Json& config, const AskedKeys& asked);

// Values of a configuration under the names that families give them; a family's default stands for what is
// absent, not for null. Remembers what was asked for.
class ShapeConfig {
 public:
  ShapeConfig(const Json& config, const Json& defaults, const std::string& path)
      : config_(config), defaults_(defaults), path_(path) {}

  using Keys = std::initializer_list<const char*>;

  std::optional<int64_t> find(Keys keys) const;

  int64_t get(Keys keys, int64_t otherwise) const { return find(keys).value_or(otherwise); }

  // At least 1.
  int64_t require(Keys keys) const;

  // A value that stands inside that of `key`. Throws as find does.
  int64_t size_of(const char* key, const Json& value) const;

  double number(Keys keys, double otherwise) const {
    const auto [key, found] = value(keys);
    return found != nullptr && found->is_number() ? found->get<double>() : otherwise;
  }

  bool flag(Keys keys, bool otherwise = false) const {
    const auto [key, found] = value(keys);
    return found != nullptr && found->is_boolean() ? found->get<bool>() : otherwise;
  }

  // A key of a family; null: never.
  bool switched(const char* key) const { return key != nullptr && flag({key}); }

  // A size that may be written as text ("auto"): then there is none.
  std::optional<int64_t> find_unless_text(Keys keys) const {
    const auto [key, found] = value(keys);
    return found != nullptr && found->is_string() ? std::nullopt : find(keys);
  }

  // Null when absent or of another type.
  const Json* array(Keys keys) const {
    const Json* found = value(keys).second;
    return found != nullptr && found->is_array() && !found->empty() ? found : nullptr;
  }

  std::string text(const char* key) const {
    const Json* found = value({key}).second;
    return found != nullptr && found->is_string() ? found->text() : std::string();
  }

  bool given(const char* key) const {
    asked_.insert(key);
    const Json* found = config_.find(key);
    return found != nullptr && !found->is_null();
  }

  bool has_inner(const char* key, const char* inner) const {
    const Json* found = value({key}).second;
    return found != nullptr && found->find(inner) != nullptr;
  }

  // Keys that speak of shapes and that nobody asked for.
  std::vector<std::string> unread() const { return unread_shape_keys(config_, asked_); }

  const std::string& path() const { return path_; }

 private:
  std::pair<const char*, const Json*> value(Keys keys) const;

  const Json& config_;
  const Json& defaults_;
  const std::string& path_;
  mutable AskedKeys asked_;
};

}  // namespace nfloat

#endif  // NFLOAT_ARCHITECTURE_SHAPE_CONFIG_H_
