// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_BASE_JSON_H_
#define NFLOAT_BASE_JSON_H_

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <iosfwd>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "nfloat/api.h"
#include "nfloat/error.h"

namespace nfloat {

// Text that is not JSON, or a value that is not what was asked for.
struct NFLOAT_API JsonError : Error {
  explicit JsonError(const std::string& what) : Error(ErrorCode::kMalformedFile, what) {}
};

// What Json::parse takes at most: JsonError beyond, before the memory is spent.
struct JsonLimits {
  int depth = 256;  // of arrays and objects in one another
  size_t values = SIZE_MAX;
  size_t bytes = SIZE_MAX;  // of the text
  // NaN, Infinity and -Infinity are numbers, as Python's json reads and writes them: parse_json and
  // parse_json_object, which read files that Python wrote, set it.
  bool python_numbers = false;
  // Two members of one object with one name are refused: in what a person or a client writes for nfloat one
  // of them is a mistake. Files that the field shares (config.json, tokenizer.json) stay as Python's json
  // reads them.
  bool unique_names = false;
};

// A JSON value (RFC 8259). Objects keep the order of their text; of two members with one name the last value
// counts, in the place of the first. nlohmann-json, whose templates take seconds to compile, parses and
// escapes behind this class, in json.cpp alone. Copying, destroying and dumping recurse: JsonLimits bounds
// what comes from files.
class NFLOAT_API Json {
 public:
  using Array = std::vector<Json>;
  using Member = std::pair<std::string, Json>;
  using Object = std::vector<Member>;

  Json() noexcept;  // null
  Json(std::nullptr_t) noexcept : Json() {}
  template <std::same_as<bool> T>
  Json(T value) : Json(Value(std::in_place_type<bool>, value)) {}
  template <typename T>
  requires(std::integral<T> && !std::same_as<T, bool> && !std::same_as<T, char>) Json(T value)
      : Json(value < 0 ? Value(std::in_place_type<int64_t>, static_cast<int64_t>(value))
                       : Value(std::in_place_type<uint64_t>, static_cast<uint64_t>(value))) {}
  template <std::floating_point T>
  Json(T value) : Json(Value(std::in_place_type<double>, static_cast<double>(value))) {}
  Json(const char* text);
  Json(std::string_view text);
  Json(std::string text);
  template <typename T>
  Json(const std::vector<T>& values) : Json(array()) {
    for (const auto& value : values) push_back(Json(static_cast<const T&>(value)));
  }
  template <typename T, size_t N>
  Json(const std::array<T, N>& values) : Json(array()) {
    for (const T& value : values) push_back(Json(value));
  }
  template <typename T, typename Less>
  Json(const std::map<std::string, T, Less>& members) : Json(object()) {
    for (const auto& [name, value] : members) (*this)[name] = value;
  }
  // {{"name", value}, ...} is an object, anything else in braces an array.
  Json(std::initializer_list<Json> values);

  Json(const Json&);
  Json(Json&&) noexcept;
  Json& operator=(const Json&);
  Json& operator=(Json&&) noexcept;
  ~Json();

  static Json array(std::initializer_list<Json> values = {});
  static Json object();
  // Throws JsonError, which says where.
  static Json parse(std::string_view text, const JsonLimits& limits = {});

  bool is_null() const noexcept;
  bool is_boolean() const noexcept;
  bool is_number() const noexcept;
  bool is_number_integer() const noexcept;   // without fraction or exponent, within int64 or uint64
  bool is_number_unsigned() const noexcept;  // and not negative
  bool is_number_float() const noexcept;
  bool is_string() const noexcept;
  bool is_array() const noexcept;
  bool is_object() const noexcept;
  const char* type_name() const noexcept;

  // Numbers, text, bool or vectors of those. Throws JsonError for another type, or a number that T cannot
  // hold.
  template <typename T>
  T get() const {
    if constexpr (std::same_as<T, bool>) {
      return boolean();
    } else if constexpr (std::integral<T>) {
      return is_number_unsigned() ? narrowed<T>(natural()) : narrowed<T>(integer());
    } else if constexpr (std::floating_point<T>) {
      return static_cast<T>(number());
    } else if constexpr (std::same_as<T, std::string>) {
      return text();
    } else {
      T values;
      for (const Json& value : items_of_array()) values.push_back(value.get<typename T::value_type>());
      return values;
    }
  }
  template <typename T>
  void get_to(T& value) const {
    value = get<T>();
  }
  template <typename T, size_t N>
  void get_to(std::array<T, N>& values) const {
    for (size_t i = 0; i < N; ++i) at(i).get_to(values[i]);
  }
  const std::string& text() const;  // of a string; throws JsonError

  size_t size() const noexcept;  // of an array or object; 0 for null, 1 for others
  bool empty() const noexcept { return size() == 0; }

  // Arrays: their values. Nothing to iterate over for other types.
  const Json* begin() const noexcept;
  const Json* end() const noexcept;
  const Json& operator[](size_t index) const;  // throws JsonError past the end
  Json& operator[](size_t index);
  void push_back(Json value);  // null becomes an array
  const Json& front() const { return (*this)[0]; }

  // Objects: members in order, none for other types.
  const Object& items() const noexcept;
  const Json* find(std::string_view name) const noexcept;  // null when there is none
  bool contains(std::string_view name) const noexcept { return find(name) != nullptr; }
  const Json& at(std::string_view name) const;  // throws JsonError when there is none
  const Json& at(size_t index) const { return (*this)[index]; }
  template <std::convertible_to<std::string_view> Name>
  const Json& operator[](const Name& name) const {  // null when there is none
    return member(name);
  }
  template <std::convertible_to<std::string_view> Name>
  Json& operator[](const Name& name) {  // makes it; null becomes an object
    return member(name);
  }
  void erase(std::string_view name);
  template <typename T>
  T value(std::string_view name, const T& otherwise) const {
    const Json* found = find(name);
    return found == nullptr ? otherwise : found->get<T>();
  }

  // Numbers are equal by value.
  bool operator==(const Json& other) const noexcept;

  // Bytes that are not UTF-8; and whether the output is ASCII.
  enum class Invalid { kRefuse, kReplace, kReplaceAndEscape };
  // What a number that is not finite becomes: null, as RFC 8259 has none, or Python's NaN, Infinity,
  // -Infinity.
  enum class NotFinite { kNull, kPython };
  // One line, or lines indented by `indent` from 0 on. Throws JsonError for text that is not UTF-8 unless it
  // is to become U+FFFD.
  std::string dump(int indent = -1, Invalid invalid = Invalid::kRefuse,
                   NotFinite not_finite = NotFinite::kNull) const;

 private:
  // In order; many are found by an index of names that grows with them.
  struct Index;
  struct Members {
    Members() noexcept;
    Members(const Members& other);
    Members(Members&&) noexcept;
    Members& operator=(const Members& other);
    Members& operator=(Members&&) noexcept;
    ~Members();
    bool operator==(const Members& other) const { return list == other.list; }

    const Json* find(std::string_view name) const noexcept;
    Json& add(std::string_view name);  // that is not there
    void erase(std::string_view name);
    void make_index();

    Object list;
    std::unique_ptr<Index> index;
  };
  using Value = std::variant<std::monostate, bool, int64_t, uint64_t, double, std::string, Array, Members>;
  friend class JsonBuilder;

  explicit Json(Value value) noexcept;
  [[noreturn]] void is_not(const char* wanted) const;
  [[noreturn]] static void does_not_fit();
  template <typename T, typename From>
  static T narrowed(From value) {
    if (!std::in_range<T>(value)) does_not_fit();
    return static_cast<T>(value);
  }
  const Json& member(std::string_view name) const;
  Json& member(std::string_view name);
  Members& members();  // null becomes an object; throws JsonError for other types
  bool boolean() const;
  int64_t integer() const;
  uint64_t natural() const;
  double number() const;
  const Array& items_of_array() const;
  void write(std::string& out, int indent, int level, Invalid invalid, NotFinite not_finite) const;

  Value value_;
};

// On one line; bytes that are not UTF-8 become U+FFFD.
NFLOAT_API std::ostream& operator<<(std::ostream& out, const Json& json);

// A file's text. Throws kMalformedFile naming `source` for what Json::parse refuses and, parse_json_object,
// for what is not an object.
NFLOAT_API Json parse_json(std::string_view text, const std::string& source, const JsonLimits& limits = {});
NFLOAT_API Json parse_json_object(std::string_view text, const std::string& source,
                                  const JsonLimits& limits = {});

// The string under `key`, `otherwise` when it is absent or of another type.
NFLOAT_API std::string text_of(const Json& object, std::string_view key, const std::string& otherwise = {});

}  // namespace nfloat

#endif  // NFLOAT_BASE_JSON_H_
