// SPDX-License-Identifier: Apache-2.0
#include "grammar/schema.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>
#include <set>

#include "base/fail.h"
#include "grammar/numbers.h"
#include "grammar/regex.h"

namespace nfloat::grammar {
namespace {

constexpr int kDeepestSchema = 64;
constexpr int32_t kMostCount = 1'000'000;

// Keywords that say nothing about which values there are.
const std::set<std::string, std::less<>> kNotes{
    "$schema",  "$id",        "$comment", "$anchor",   "title", "description", "default",
    "examples", "deprecated", "readOnly", "writeOnly", "$defs", "definitions", "strict"};
const std::set<std::string, std::less<>> kKnown{"type",
                                                "properties",
                                                "required",
                                                "additionalProperties",
                                                "enum",
                                                "const",
                                                "items",
                                                "prefixItems",
                                                "minItems",
                                                "maxItems",
                                                "anyOf",
                                                "allOf",
                                                "$ref",
                                                "minLength",
                                                "maxLength",
                                                "pattern",
                                                "minimum",
                                                "maximum",
                                                "exclusiveMinimum",
                                                "exclusiveMaximum",
                                                "format"};

// The keywords of each type.
const std::map<std::string, std::set<std::string, std::less<>>, std::less<>> kOfType{
    {"object", {"properties", "required", "additionalProperties"}},
    {"array", {"items", "prefixItems", "minItems", "maxItems"}},
    {"string", {"minLength", "maxLength", "pattern", "format"}},
    {"number", {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}},
    {"integer", {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}},
    {"boolean", {}},
    {"null", {}}};

const char* format_expression(std::string_view name) noexcept {
#define NFLOAT_DATE "[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])"
#define NFLOAT_TIME \
  "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
  if (name == "date") return NFLOAT_DATE;
  if (name == "time") return NFLOAT_TIME;
  if (name == "date-time") return NFLOAT_DATE "T" NFLOAT_TIME;
#undef NFLOAT_DATE
#undef NFLOAT_TIME
  if (name == "uuid") return "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";
  if (name == "ipv4")
    return "((25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])\\.){3}(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9]"
           ")";
  if (name == "email")
    return "[a-zA-Z0-9_+-]{1,32}(\\.[a-zA-Z0-9_+-]{1,32}){0,3}@[a-zA-Z0-9]([a-zA-Z0-9-]{0,30}[a-zA-Z0-9])?("
           "\\.[a-zA-Z]{2,16}){1,3}";
  return nullptr;
}

// The text of a URI's fragment; nothing: a % without two hexadecimal digits.
std::optional<std::string> percent_decoded(std::string_view fragment) {
  std::string text;
  for (size_t i = 0; i < fragment.size(); ++i) {
    if (fragment[i] != '%') {
      text += fragment[i];
      continue;
    }
    unsigned code = 0;
    const std::string_view digits = fragment.substr(i + 1, 2);
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), code, 16);
    if (error != std::errc() || digits.size() != 2 || end != digits.data() + 2) return std::nullopt;
    text += static_cast<char>(code);
    i += 2;
  }
  return text;
}

std::string type_of(const Json& value) {
  if (value.is_null()) return "null";
  if (value.is_boolean()) return "boolean";
  if (value.is_string()) return "string";
  if (value.is_array()) return "array";
  if (value.is_object()) return "object";
  const double number = value.get<double>();
  return std::floor(number) >= number ? "integer" : "number";
}

}  // namespace

std::string canonical_json(const Json& value) {
  std::string out;
  if (value.is_object()) {
    for (const auto& [name, member] : value.items())
      out += (out.empty() ? "" : ", ") + Json(name).dump() + ": " + canonical_json(member);
    return "{" + out + "}";
  }
  if (value.is_array()) {
    for (const Json& one : value) out += (out.empty() ? "" : ", ") + canonical_json(one);
    return "[" + out + "]";
  }
  return value.dump();
}

void SchemaCompiler::bad(const std::string& path, const std::string& what) const {
  fail(ErrorCode::kInvalidArgument, "{}{}: {}", place_, path, what);
}

void SchemaCompiler::unsupported(const std::string& path, const std::string& what) const {
  fail(ErrorCode::kUnsupported, "{}{}: {} is not supported", place_, path, what);
}

int32_t SchemaCompiler::count(const Json& schema, const char* keyword, int32_t otherwise,
                              const std::string& path) const {
  const Json* found = schema.find(keyword);
  if (found == nullptr) return otherwise;
  const double value = found->is_number() ? found->get<double>() : -1;
  if (!(value >= 0 && value <= kMostCount && std::floor(value) >= value))
    bad(path, fmt::format("{} is not a count of at most {}", keyword, kMostCount));
  return static_cast<int32_t>(value);
}

void SchemaCompiler::check_keywords(const Json& schema, const std::string& path) const {
  for (const auto& [name, value] : schema.items()) {
    if (kNotes.count(name) != 0 || kKnown.count(name) != 0) continue;
    // What is true of every value that is made.
    if (name == "uniqueItems" && value.is_boolean() && !value.get<bool>()) continue;
    unsupported(path, "the keyword " + name);
  }
}

Piece SchemaCompiler::value(const Json& schema, const std::string& path) {
  if (schema.is_boolean()) return schema.get<bool>() ? any_value() : builder_.either({});
  if (!schema.is_object()) bad(path, "a schema is an object");
  if (++depth_ > kDeepestSchema) unsupported(path, "a schema so deep");
  struct Leave {
    int& depth;
    ~Leave() { --depth; }
  } leave{depth_};
  check_keywords(schema, path);
  const auto alone = [&](const char* keyword) {
    for (const auto& [name, ignored] : schema.items())
      if (name != keyword && kNotes.count(name) == 0 &&
          !(name == "type" && std::string_view(keyword) != "$ref"))
        unsupported(path, name + " beside " + keyword);
  };
  if (const Json* target = schema.find("$ref")) {
    alone("$ref");
    if (!target->is_string()) bad(path, "$ref is not a string");
    return reference(target->text(), path);
  }
  for (const char* keyword : {"anyOf", "allOf"}) {
    const Json* list = schema.find(keyword);
    if (list == nullptr) continue;
    alone(keyword);
    if (!list->is_array() || list->empty()) bad(path, std::string(keyword) + " is not a list of schemas");
    if (schema.contains("type")) unsupported(path, std::string("type beside ") + keyword);
    if (std::string_view(keyword) == "allOf" && list->size() > 1)
      unsupported(path, "allOf of several schemas");
    std::vector<Piece> pieces;
    for (size_t i = 0; i < list->size(); ++i)
      pieces.push_back(value((*list)[i], fmt::format("{}/{}/{}", path, keyword, i)));
    return builder_.either(pieces);
  }
  if (schema.contains("enum") || schema.contains("const")) return literals(schema, path);
  std::vector<std::string> types;
  if (const Json* type = schema.find("type")) {
    if (type->is_string())
      types.push_back(type->text());
    else if (type->is_array() && !type->empty())
      for (const Json& one : *type) types.push_back(one.is_string() ? one.text() : "?");
    else
      bad(path, "type is not a name or a list of names");
  } else {
    // The keywords of one type alone say which it is; a schema without any takes every value.
    for (const auto& [name, keywords] : kOfType) {
      if (name == "integer") continue;
      for (const std::string& keyword : keywords)
        if (schema.contains(keyword) && (types.empty() || types.back() != name)) types.push_back(name);
    }
    if (types.empty()) return any_value();
    if (types.size() > 1) unsupported(path, "keywords of several types without a type");
  }
  std::vector<Piece> pieces;
  for (const std::string& type : types) pieces.push_back(of_type(schema, type, path));
  return pieces.size() == 1 ? pieces[0] : builder_.either(pieces);
}

Piece SchemaCompiler::of_type(const Json& schema, const std::string& type, const std::string& path) {
  if (kOfType.count(type) == 0) bad(path, "there is no type " + type);
  if (type == "object") return object(schema, path);
  if (type == "array") return array(schema, path);
  if (type == "string") return text(schema, path);
  if (type == "boolean") return builder_.either({builder_.literal("true"), builder_.literal("false")});
  if (type == "null") return builder_.literal("null");
  // Ranges of numbers take many states, and members often have the same.
  std::string key = type;
  for (const char* keyword : {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}) {
    key += ' ';
    if (const Json* bound = schema.find(keyword)) key += bound->dump();
  }
  const auto [known, added] = rules_.try_emplace(key, -1);
  if (added) {
    const Piece piece = number(schema, type == "integer", path);
    known->second = builder_.declare();
    builder_.define(known->second, piece);
  }
  return builder_.call(known->second);
}

Piece SchemaCompiler::literals(const Json& schema, const std::string& path) {
  std::vector<Json> values;
  if (const Json* list = schema.find("enum")) {
    if (!list->is_array() || list->empty()) bad(path, "enum is not a list of values");
    for (const Json& one : *list) values.push_back(one);
  }
  if (const Json* one = schema.find("const")) {
    if (values.empty() || std::find(values.begin(), values.end(), *one) != values.end())
      values = {*one};
    else
      bad(path, "const is not in enum");
  }
  for (const auto& [name, ignored] : schema.items())
    if (kNotes.count(name) == 0 && name != "enum" && name != "const" && name != "type")
      unsupported(path, name + " beside enum or const");
  std::vector<std::string> texts;
  const Json* type = schema.find("type");
  for (const Json& one : values) {
    const std::string kind = type_of(one);
    const auto fits = [&](const Json& name) {
      return name == kind.c_str() || (kind == "integer" && name == "number");
    };
    if (type != nullptr && !(type->is_array() ? std::any_of(type->begin(), type->end(), fits) : fits(*type)))
      continue;
    texts.push_back(canonical_json(one));
  }
  if (texts.empty()) bad(path, "no value of enum has its type");
  return builder_.one_of(texts);
}

Piece SchemaCompiler::reference(const std::string& target, const std::string& path) {
  if (!target.starts_with('#')) unsupported(path, "a $ref to " + target);
  if (const auto known = rules_.find(target); known != rules_.end()) return builder_.call(known->second);
  const Json* at = &root_;
  const std::optional<std::string> pointer = percent_decoded(target.substr(1));
  if (!pointer) bad(path, "$ref has a % without two hexadecimal digits: " + target);
  for (size_t begin = 0; begin < pointer->size();) {
    if ((*pointer)[begin] != '/') bad(path, "$ref is not a JSON pointer: " + target);
    const size_t end = std::min(pointer->find('/', begin + 1), pointer->size());
    std::string name = pointer->substr(begin + 1, end - begin - 1);
    for (size_t i = name.find('~'); i != std::string::npos; i = name.find('~', i + 1)) {
      const char code = i + 1 < name.size() ? name[i + 1] : ' ';
      if (code != '0' && code != '1') bad(path, "$ref has a ~ without 0 or 1: " + target);
      name.replace(i, 2, code == '0' ? "~" : "/");
    }
    const Json* next = at->is_object() ? at->find(name) : nullptr;
    if (next == nullptr && at->is_array() && !name.empty() && name.size() < 7 &&
        std::all_of(name.begin(), name.end(), [](char c) { return c >= '0' && c <= '9'; }) &&
        static_cast<size_t>(std::stoi(name)) < at->size())
      next = &(*at)[static_cast<size_t>(std::stoi(name))];
    if (next == nullptr) bad(path, "$ref leads to nothing: " + target);
    at = next;
    begin = end;
  }
  const int32_t rule = builder_.declare();
  rules_[target] = rule;
  builder_.define(rule, value(*at, target));
  return builder_.call(rule);
}

Piece SchemaCompiler::any_value() {
  if (value_rule_ < 0) {
    value_rule_ = builder_.declare();
    const Json nothing = Json::object();
    std::vector<Piece> pieces{any_object(), array(nothing, "#"), any_text(), any_number(builder_)};
    for (const char* name : {"true", "false", "null"}) pieces.push_back(builder_.literal(name));
    builder_.define(value_rule_, builder_.either(pieces));
  }
  return builder_.call(value_rule_);
}

Piece SchemaCompiler::quoted(Piece body) {
  return builder_.sequence({builder_.literal("\""), body, builder_.literal("\"")});
}

Piece SchemaCompiler::any_text() {
  return text(Json::object(), "#");
}

Piece SchemaCompiler::any_object() {
  const Piece member = builder_.sequence({any_text(), builder_.literal(": "), any_value()});
  const int32_t rule = builder_.declare();
  builder_.define(rule, member);
  const Piece more = builder_.repeat(builder_.sequence({builder_.literal(", "), builder_.call(rule)}), 0, -1);
  return builder_.sequence(
      {builder_.literal("{"),
       builder_.either({builder_.empty(), builder_.sequence({builder_.call(rule), more})}),
       builder_.literal("}")});
}

// States for "no member yet" and "some members", so that a comma stands between two of them.
Piece SchemaCompiler::object(const Json& schema, const std::string& path) {
  const Json* properties = schema.find("properties");
  const Json* required = schema.find("required");
  const Json* additional = schema.find("additionalProperties");
  if (properties != nullptr && !properties->is_object()) bad(path, "properties is not an object");
  if (required != nullptr && !required->is_array()) bad(path, "required is not a list");
  if (additional != nullptr && !additional->is_boolean() && !additional->is_object())
    bad(path, "additionalProperties is not a schema");
  const bool closed = additional != nullptr && additional->is_boolean() && !additional->get<bool>();
  std::set<std::string> needed;
  std::vector<std::pair<std::string, Piece>> members;
  if (properties != nullptr)
    for (const auto& [name, member] : properties->items())
      members.emplace_back(name, value(member, fmt::format("{}/properties/{}", path, name)));
  const auto other = [&] {
    return additional == nullptr ? any_value() : value(*additional, path + "/additionalProperties");
  };
  if (required != nullptr)
    for (const Json& name : *required) {
      if (!name.is_string()) bad(path, "required holds what is not a name");
      needed.insert(name.text());
      if (properties != nullptr && properties->contains(name.text())) continue;
      if (closed) bad(path, name.text() + " is required, but not allowed");
      members.emplace_back(name.text(), other());
    }
  if (members.empty()) {
    if (closed) return builder_.literal("{}");
    const int32_t rule = builder_.declare();
    builder_.define(rule, builder_.sequence({any_text(), builder_.literal(": "), other()}));
    const Piece more =
        builder_.repeat(builder_.sequence({builder_.literal(", "), builder_.call(rule)}), 0, -1);
    return builder_.sequence(
        {builder_.literal("{"),
         builder_.either({builder_.empty(), builder_.sequence({builder_.call(rule), more})}),
         builder_.literal("}")});
  }
  const Piece begin = builder_.literal("{"), end = builder_.literal("}");
  int32_t none = begin.end, some = builder_.state();
  for (const auto& [name, content] : members) {
    const int32_t rule = builder_.declare();
    builder_.define(rule, builder_.sequence({builder_.literal(Json(name).dump() + ": "), content}));
    const Piece first = builder_.call(rule);
    const Piece later = builder_.sequence({builder_.literal(", "), builder_.call(rule)});
    const int32_t next_none = builder_.state(), next_some = builder_.state();
    builder_.connect(none, first.begin);
    builder_.connect(first.end, next_some);
    builder_.connect(some, later.begin);
    builder_.connect(later.end, next_some);
    if (needed.count(name) == 0) {
      builder_.connect(none, next_none);
      builder_.connect(some, next_some);
    }
    none = next_none;
    some = next_some;
  }
  builder_.connect(none, end.begin);
  builder_.connect(some, end.begin);
  return {begin.begin, end.end};
}

Piece SchemaCompiler::array(const Json& schema, const std::string& path) {
  const Json* prefix = schema.find("prefixItems");
  const Json* items = schema.find("items");
  const int32_t least = count(schema, "minItems", 0, path), most = count(schema, "maxItems", -1, path);
  if (most >= 0 && most < least) bad(path, "maxItems is less than minItems");
  if (prefix != nullptr && !prefix->is_array()) bad(path, "prefixItems is not a list");
  if (items != nullptr && !items->is_object() && !items->is_boolean()) bad(path, "items is not a schema");
  const bool closed = items != nullptr && items->is_boolean() && !items->get<bool>();
  const auto fixed = prefix == nullptr ? 0 : static_cast<int32_t>(prefix->size());
  if (closed && least > fixed) bad(path, "minItems is more than the items that are allowed");
  const Piece begin = builder_.literal("["), end = builder_.literal("]");
  int32_t at = begin.end;
  for (int32_t i = 0; i < fixed && (most < 0 || i < most); ++i) {
    if (i >= least) builder_.connect(at, end.begin);
    const Piece one = value((*prefix)[static_cast<size_t>(i)], fmt::format("{}/prefixItems/{}", path, i));
    const Piece with = i == 0 ? one : builder_.sequence({builder_.literal(", "), one});
    builder_.connect(at, with.begin);
    at = with.end;
  }
  const int32_t left = most < 0 ? -1 : most - fixed;
  if (closed || (most >= 0 && left <= 0)) {
    builder_.connect(at, end.begin);
    return {begin.begin, end.end};
  }
  if (least <= fixed) builder_.connect(at, end.begin);
  const int32_t rule = builder_.declare();
  builder_.define(rule, items == nullptr ? any_value() : value(*items, path + "/items"));
  const Piece first =
      fixed == 0 ? builder_.call(rule) : builder_.sequence({builder_.literal(", "), builder_.call(rule)});
  const Piece more = builder_.repeat(builder_.sequence({builder_.literal(", "), builder_.call(rule)}),
                                     std::max(least - fixed - 1, 0), left < 0 ? -1 : left - 1);
  builder_.connect(at, first.begin);
  builder_.connect(first.end, more.begin);
  builder_.connect(more.end, end.begin);
  return {begin.begin, end.end};
}

Piece SchemaCompiler::text(const Json& schema, const std::string& path) {
  const int32_t least = count(schema, "minLength", 0, path), most = count(schema, "maxLength", -1, path);
  if (most >= 0 && most < least) bad(path, "maxLength is less than minLength");
  const Json* pattern = schema.find("pattern");
  const Json* format = schema.find("format");
  if (pattern != nullptr || format != nullptr) {
    if (pattern != nullptr && format != nullptr) unsupported(path, "pattern beside format");
    if (least > 0 || most >= 0) unsupported(path, "a length beside pattern or format");
    const Json& given = pattern != nullptr ? *pattern : *format;
    if (!given.is_string()) bad(path, "pattern or format is not a string");
    if (pattern != nullptr)
      return quoted(regex(builder_, given.text(), Spelling::kJson, false, place_ + path + "/pattern"));
    const char* expression = format_expression(given.text());
    if (expression == nullptr) unsupported(path, "the format " + given.text());
    return quoted(regex(builder_, expression, Spelling::kJson, true, place_ + path + "/format"));
  }
  if (character_rule_ < 0) {
    character_rule_ = builder_.declare();
    builder_.define(character_rule_, builder_.characters(any_character(), Spelling::kJson));
  }
  return quoted(builder_.repeat(character_rule_, least, most));
}

Piece SchemaCompiler::number(const Json& schema, bool integer, const std::string& path) {
  const auto bound = [&](const char* keyword) -> const Json* {
    const Json* found = schema.find(keyword);
    if (found != nullptr && !found->is_number()) bad(path, std::string(keyword) + " is not a number");
    return found;
  };
  const Json *least = bound("minimum"), *most = bound("maximum"), *above = bound("exclusiveMinimum"),
             *below = bound("exclusiveMaximum");
  const bool bounded = least != nullptr || most != nullptr || above != nullptr || below != nullptr;
  if (!integer && !bounded) return any_number(builder_);
  const double far = integer ? static_cast<double>(kLargestInteger) : 1e9;
  double low = least != nullptr ? least->get<double>() : above != nullptr ? above->get<double>() : -far;
  double high = most != nullptr ? most->get<double>() : below != nullptr ? below->get<double>() : far;
  bool low_open = least == nullptr && above != nullptr, high_open = most == nullptr && below != nullptr;
  if (above != nullptr && above->get<double>() >= low) {
    low = above->get<double>();
    low_open = true;
  }
  if (below != nullptr && below->get<double>() <= high) {
    high = below->get<double>();
    high_open = true;
  }
  if (low > high || (low >= high && (low_open || high_open))) bad(path, "no number is between the bounds");
  const double limit = static_cast<double>(kLargestInteger);
  if (low > limit || high < -limit)
    bad(path, "the numbers between the bounds have more than the 15 digits that are written");
  if (!integer) return decimals(builder_, low, low_open, high, high_open);
  auto first = static_cast<int64_t>(std::ceil(std::clamp(low, -limit, limit)));
  auto last = static_cast<int64_t>(std::floor(std::clamp(high, -limit, limit)));
  if (low_open && static_cast<double>(first) <= low) ++first;
  if (high_open && static_cast<double>(last) >= high) --last;
  if (first > last) bad(path, "no integer is between the bounds");
  return integers(builder_, first, last);
}

}  // namespace nfloat::grammar
