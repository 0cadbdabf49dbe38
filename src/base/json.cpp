// SPDX-License-Identifier: Apache-2.0
#include "base/json.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <ostream>
#include <unordered_map>

#include "base/fail.h"
#include "base/other_content.h"
#include "base/string_hash.h"

namespace nfloat {
namespace {

using Backend = nlohmann::json;

constexpr size_t kMostShown = 60;  // bytes of a name in a message
constexpr size_t kFew = 16;        // members that are compared one by one instead of indexed

// "[json.exception.parse_error.101] parse error at ..." without the tag.
std::string plain_message(const std::exception& error) {
  const std::string_view text = error.what();
  const size_t end = text.find("] ");
  return std::string(text.starts_with('[') && end != std::string_view::npos ? text.substr(end + 2) : text);
}

void write_text(std::string& out, const std::string& text, Json::Invalid invalid) {
  const bool escape = invalid == Json::Invalid::kReplaceAndEscape;
  const bool plain =
      std::ranges::all_of(text, [](char c) { return c >= ' ' && c != '"' && c != '\\' && c < 127; });
  if (plain) {
    out.append(1, '"').append(text).append(1, '"');
    return;
  }
  try {
    out += Backend(text).dump(-1, ' ', escape,
                              invalid == Json::Invalid::kRefuse ? Backend::error_handler_t::strict
                                                                : Backend::error_handler_t::replace);
  } catch (const Backend::exception& error) {
    throw JsonError(plain_message(error));
  }
}

// The numbers that Python's json writes and RFC 8259 does not know, with the strings that stand for them
// while the parser reads the text. A string of the text that holds the mark stays a string: the mark is then
// longer.
class PythonNumbers {
 public:
  // `text` with those numbers as marked strings, or `text` itself where there are none.
  std::string_view replace(std::string_view text) {
    while (text.find(mark_) != std::string_view::npos) mark_ += '~';
    bool inside = false;
    size_t copied = 0;
    for (size_t i = 0; i < text.size(); ++i) {
      if (inside && text[i] == '\\')
        ++i;
      else if (text[i] == '"')
        inside = !inside;
      if (inside || i >= text.size()) continue;
      for (const std::string_view token : {"NaN", "Infinity", "-Infinity"}) {
        if (!text.substr(i).starts_with(token)) continue;
        replaced_.append(text.substr(copied, i - copied))
            .append(1, '"')
            .append(mark_)
            .append(token)
            .append(1, '"');
        copied = i + token.size();
        i = copied - 1;
        break;
      }
    }
    if (copied == 0) return text;
    replaced_ += text.substr(copied);
    return replaced_;
  }

  // The number that a string stands for, or none.
  std::optional<double> number(std::string_view text) const {
    if (replaced_.empty() || !text.starts_with(mark_)) return std::nullopt;
    constexpr double kInfinity = std::numeric_limits<double>::infinity();
    text.remove_prefix(mark_.size());
    return text == "NaN"           ? std::numeric_limits<double>::quiet_NaN()
           : text.starts_with('-') ? -kInfinity
                                   : kInfinity;
  }

 private:
  std::string mark_ = "~number ";
  std::string replaced_;
};

}  // namespace

// Takes the parser's events.
class JsonBuilder {
 public:
  JsonBuilder(const JsonLimits& limits, const PythonNumbers& numbers) : limits_(limits), numbers_(numbers) {}

  bool null() { return add(Json()); }
  bool boolean(bool value) { return add(Json(value)); }
  bool number_integer(int64_t value) { return add(Json(value)); }
  bool number_unsigned(uint64_t value) { return add(Json(value)); }
  bool number_float(double value, const std::string&) { return add(Json(value)); }
  bool string(std::string& value) {
    if (const auto number = numbers_.number(value)) return add(Json(*number));
    return add(Json(std::move(value)));
  }
  bool binary(Backend::binary_t&) { return false; }
  bool start_object(size_t) { return open(Json::object()); }
  bool start_array(size_t) { return open(Json::array()); }
  bool key(std::string& name) {
    const size_t before = open_.back()->size();
    member_ = &(*open_.back())[name];
    if (limits_.unique_names && open_.back()->size() == before)
      throw JsonError(
          fmt::format("two members of one object have the name {}",
                      Json(name).dump(-1, Json::Invalid::kReplaceAndEscape).substr(0, kMostShown)));
    return true;
  }
  bool end_object() { return close(); }
  bool end_array() { return close(); }
  bool parse_error(size_t, const std::string&, const Backend::exception& error) {
    throw JsonError("not valid JSON: " + plain_message(error));
  }

  Json take() { return std::move(root_); }

 private:
  // The place of the next value; a container stays where it is while it is open.
  Json* place(Json value) {
    if (++values_ > limits_.values) throw JsonError(fmt::format("more than {} JSON values", limits_.values));
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json& parent = *open_.back();
    if (parent.is_array()) return &std::get<Json::Array>(parent.value_).emplace_back(std::move(value));
    *member_ = std::move(value);
    return member_;
  }
  bool add(Json value) {
    place(std::move(value));
    return true;
  }
  bool open(Json value) {
    if (open_.size() >= static_cast<size_t>(limits_.depth))
      throw JsonError(fmt::format("JSON nested deeper than {} levels", limits_.depth));
    open_.push_back(place(std::move(value)));
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  JsonLimits limits_;
  const PythonNumbers& numbers_;
  size_t values_ = 0;
  Json root_;
  std::vector<Json*> open_;
  Json* member_ = nullptr;  // whose name came last
};

struct Json::Index : std::unordered_map<std::string, size_t, StringHash, std::equal_to<>> {};

Json::Members::Members() noexcept = default;
Json::Members::Members(const Members& other)
    : list(other.list), index(other.index ? std::make_unique<Index>(*other.index) : nullptr) {}
Json::Members::Members(Members&&) noexcept = default;
Json::Members& Json::Members::operator=(const Members& other) {
  return *this = Members(other);
}
Json::Members& Json::Members::operator=(Members&&) noexcept = default;
Json::Members::~Members() = default;

const Json* Json::Members::find(std::string_view name) const noexcept {
  if (index != nullptr) {
    const auto found = index->find(name);
    return found == index->end() ? nullptr : &list[found->second].second;
  }
  const auto found = std::ranges::find(list, name, &Member::first);
  return found == list.end() ? nullptr : &found->second;
}

Json& Json::Members::add(std::string_view name) {
  list.emplace_back(name, Json());
  if (index != nullptr)
    index->emplace(name, list.size() - 1);
  else if (list.size() > kFew)
    make_index();
  return list.back().second;
}

void Json::Members::erase(std::string_view name) {
  std::erase_if(list, [&](const Member& member) { return member.first == name; });
  if (index != nullptr) make_index();
}

void Json::Members::make_index() {
  index = std::make_unique<Index>();
  for (size_t i = 0; i < list.size(); ++i) index->emplace(list[i].first, i);
}

Json::Json() noexcept = default;
Json::Json(Value value) noexcept : value_(std::move(value)) {}
Json::Json(const char* text) : value_(std::string(text)) {}
Json::Json(std::string_view text) : value_(std::string(text)) {}
Json::Json(std::string text) : value_(std::move(text)) {}
Json::Json(const Json&) = default;
Json::Json(Json&&) noexcept = default;
Json& Json::operator=(const Json&) = default;
Json& Json::operator=(Json&&) noexcept = default;
Json::~Json() = default;

Json::Json(std::initializer_list<Json> values) {
  const bool pairs = std::all_of(values.begin(), values.end(), [](const Json& value) {
    return value.is_array() && value.size() == 2 && value[0].is_string();
  });
  if (!pairs) {
    value_ = Array(values);
    return;
  }
  value_ = Members();
  for (const Json& value : values) (*this)[value[0].text()] = value[1];
}

Json Json::array(std::initializer_list<Json> values) {
  return Json(Value(Array(values)));
}

Json Json::object() {
  return Json(Value(Members()));
}

Json Json::parse(std::string_view text, const JsonLimits& limits) {
  if (text.size() > limits.bytes)
    throw JsonError(fmt::format("{} bytes, expected at most {}", text.size(), limits.bytes));
  // The parser takes it for the end and looks no further; JSON has none, not even in strings.
  if (const size_t zero = text.find('\0'); zero != text.npos)
    throw JsonError(fmt::format("a zero byte at {}", zero));
  PythonNumbers numbers;
  if (limits.python_numbers) text = numbers.replace(text);
  JsonBuilder builder(limits, numbers);
  Backend::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

bool Json::is_null() const noexcept {
  return std::holds_alternative<std::monostate>(value_);
}
bool Json::is_boolean() const noexcept {
  return std::holds_alternative<bool>(value_);
}
bool Json::is_number() const noexcept {
  return is_number_integer() || is_number_float();
}
bool Json::is_number_integer() const noexcept {
  return std::holds_alternative<int64_t>(value_) || is_number_unsigned();
}
bool Json::is_number_unsigned() const noexcept {
  return std::holds_alternative<uint64_t>(value_);
}
bool Json::is_number_float() const noexcept {
  return std::holds_alternative<double>(value_);
}
bool Json::is_string() const noexcept {
  return std::holds_alternative<std::string>(value_);
}
bool Json::is_array() const noexcept {
  return std::holds_alternative<Array>(value_);
}
bool Json::is_object() const noexcept {
  return std::holds_alternative<Members>(value_);
}

const char* Json::type_name() const noexcept {
  constexpr const char* kNames[] = {"null",   "boolean", "number", "number",
                                    "number", "string",  "array",  "object"};
  return kNames[value_.index()];
}

void Json::is_not(const char* wanted) const {
  throw JsonError(fmt::format("{} where {} was expected", type_name(), wanted));
}

void Json::does_not_fit() {
  throw JsonError("a number is too large or has the wrong sign");
}

bool Json::boolean() const {
  if (!is_boolean()) is_not("true or false");
  return std::get<bool>(value_);
}

// A number with a fraction loses it.
int64_t Json::integer() const {
  if (const int64_t* value = std::get_if<int64_t>(&value_)) return *value;
  const double* value = std::get_if<double>(&value_);
  if (value == nullptr) is_not("number");
  if (!(*value >= -0x1p63 && *value < 0x1p63)) does_not_fit();
  return static_cast<int64_t>(*value);
}

uint64_t Json::natural() const {
  return std::get<uint64_t>(value_);
}

double Json::number() const {
  if (const double* value = std::get_if<double>(&value_)) return *value;
  if (const int64_t* value = std::get_if<int64_t>(&value_)) return static_cast<double>(*value);
  if (const uint64_t* value = std::get_if<uint64_t>(&value_)) return static_cast<double>(*value);
  is_not("number");
}

const std::string& Json::text() const {
  if (!is_string()) is_not("string");
  return std::get<std::string>(value_);
}

const Json::Array& Json::items_of_array() const {
  if (!is_array()) is_not("array");
  return std::get<Array>(value_);
}

size_t Json::size() const noexcept {
  if (const Array* values = std::get_if<Array>(&value_)) return values->size();
  if (is_object()) return items().size();
  return is_null() ? 0 : 1;
}

const Json* Json::begin() const noexcept {
  const Array* values = std::get_if<Array>(&value_);
  return values == nullptr ? nullptr : values->data();
}

const Json* Json::end() const noexcept {
  const Array* values = std::get_if<Array>(&value_);
  return values == nullptr ? nullptr : values->data() + values->size();
}

const Json& Json::operator[](size_t index) const {
  const Array& values = items_of_array();
  if (index >= values.size())
    throw JsonError(fmt::format("no element {} in an array of {}", index, values.size()));
  return values[index];
}

Json& Json::operator[](size_t index) {
  return const_cast<Json&>(std::as_const(*this)[index]);
}

void Json::push_back(Json value) {
  if (is_null()) value_ = Array();
  if (!is_array()) is_not("array");
  std::get<Array>(value_).push_back(std::move(value));
}

const Json::Object& Json::items() const noexcept {
  static const Object kNone;
  const Members* members = std::get_if<Members>(&value_);
  return members == nullptr ? kNone : members->list;
}

Json::Members& Json::members() {
  if (is_null()) value_ = Members();
  if (!is_object()) is_not("object");
  return std::get<Members>(value_);
}

const Json* Json::find(std::string_view name) const noexcept {
  const Members* members = std::get_if<Members>(&value_);
  return members == nullptr ? nullptr : members->find(name);
}

const Json& Json::at(std::string_view name) const {
  const Json* found = find(name);
  if (found == nullptr) throw JsonError(fmt::format("no \"{}\"", name));
  return *found;
}

const Json& Json::member(std::string_view name) const {
  static const Json kNull;
  const Json* found = find(name);
  return found == nullptr ? kNull : *found;
}

Json& Json::member(std::string_view name) {
  const Json* found = find(name);
  return found != nullptr ? const_cast<Json&>(*found) : members().add(name);
}

void Json::erase(std::string_view name) {
  members().erase(name);
}

bool Json::operator==(const Json& other) const noexcept {
  if (is_number() && other.is_number() && value_.index() != other.value_.index()) {
    // Integers of different signs are different; the rest compares as double.
    if (is_number_integer() && other.is_number_integer()) return false;
    return number() == other.number();
  }
  return value_ == other.value_;
}

std::string Json::dump(int indent, Invalid invalid, NotFinite not_finite) const {
  std::string out;
  write(out, indent, 0, invalid, not_finite);
  return out;
}

void Json::write(std::string& out, int indent, int level, Invalid invalid, NotFinite not_finite) const {
  const auto line = [&](int depth) {
    if (indent >= 0)
      out.append(1, '\n').append(static_cast<size_t>(indent) * static_cast<size_t>(depth), ' ');
  };
  if (const Array* values = std::get_if<Array>(&value_)) {
    out += '[';
    for (size_t i = 0; i < values->size(); ++i) {
      if (i > 0) out += ',';
      line(level + 1);
      (*values)[i].write(out, indent, level + 1, invalid, not_finite);
    }
    if (!values->empty()) line(level);
    out += ']';
  } else if (is_object()) {
    const Object& members = items();
    out += '{';
    for (size_t i = 0; i < members.size(); ++i) {
      if (i > 0) out += ',';
      line(level + 1);
      write_text(out, members[i].first, invalid);
      out += indent >= 0 ? ": " : ":";
      members[i].second.write(out, indent, level + 1, invalid, not_finite);
    }
    if (!members.empty()) line(level);
    out += '}';
  } else if (is_string()) {
    write_text(out, text(), invalid);
  } else if (is_number_float()) {
    const double value = number();
    if (not_finite == NotFinite::kPython && !std::isfinite(value))
      out += std::isnan(value) ? "NaN" : value < 0 ? "-Infinity" : "Infinity";
    else
      out += Backend(value).dump();
  } else if (is_number_unsigned()) {
    out += fmt::format("{}", natural());
  } else if (is_number_integer()) {
    out += fmt::format("{}", std::get<int64_t>(value_));
  } else {
    out += is_null() ? "null" : std::get<bool>(value_) ? "true" : "false";
  }
}

std::ostream& operator<<(std::ostream& out, const Json& json) {
  return out << json.dump(-1, Json::Invalid::kReplace);
}

Json parse_json(std::string_view text, const std::string& source, const JsonLimits& limits) {
  if (const std::string_view other = other_content(text); !other.empty())
    fail(ErrorCode::kMalformedFile, "{}: {}; download the file again", source, other);
  if (text.find_first_not_of(" \t\r\n") == std::string_view::npos)
    fail(ErrorCode::kMalformedFile, "{}: not valid JSON: it is empty", source);
  try {
    JsonLimits own = limits;
    own.python_numbers = true;
    return Json::parse(text, own);
  } catch (const JsonError& error) {
    constexpr size_t kMost = 200;  // the message quotes the text
    fail(ErrorCode::kMalformedFile, "{}: {}", source, std::string(error.what()).substr(0, kMost));
  }
}

Json parse_json_object(std::string_view text, const std::string& source, const JsonLimits& limits) {
  Json json = parse_json(text, source, limits);
  if (!json.is_object()) fail(ErrorCode::kMalformedFile, "{}: not a JSON object", source);
  return json;
}

std::string text_of(const Json& object, std::string_view key, const std::string& otherwise) {
  const Json* found = object.find(key);
  return found != nullptr && found->is_string() ? found->text() : otherwise;
}

}  // namespace nfloat
