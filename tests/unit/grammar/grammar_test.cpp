// SPDX-License-Identifier: Apache-2.0
#include "nfloat/grammar.h"

#include <gtest/gtest.h>

#include <cmath>
#include <ctime>
#include <random>
#include <regex>
#include <set>

#include "base/json.h"
#include "nfloat/error.h"
#include "tokenizer/utf8.h"

namespace nfloat {
namespace {

// All bytes, some longer tokens, two of them equal, one empty.
const std::vector<std::string>& tokens() {
  static const std::vector<std::string> all = [] {
    std::vector<std::string> list;
    for (int byte = 0; byte < 256; ++byte) list.emplace_back(1, static_cast<char>(byte));
    for (const char* text :
         {"{\"", "\": ",     "\", \"",   "true", "false", "null", "12", "\"}", "]}",  "the", " the",
          "the", "\xc3\xbc", "\xe2\x82", "\\n",  "\\u00", ", ",   "}}", "-1",  "0.5", "  ",  "\n"})
      list.emplace_back(text);
    list.emplace_back();
    return list;
  }();
  return all;
}
const GrammarVocabulary& vocabulary() {
  static const GrammarVocabulary one(tokens());
  return one;
}
constexpr int32_t kEnd = 100000;  // beyond the texts, as a model's padded vocabulary has it

bool may(std::span<const uint64_t> mask, int32_t token) {
  const auto word = static_cast<size_t>(token) / 64;
  return word < mask.size() && (mask[word] >> (token % 64) & 1) != 0;
}

bool takes(const Grammar& grammar, std::string_view text) {
  GrammarMatcher matcher(grammar, vocabulary(), {kEnd});
  for (const char byte : text)
    if (!matcher.accept(static_cast<unsigned char>(byte))) return false;
  return matcher.may_end();
}

// A text by random tokens; nothing when it did not end within `most` tokens.
std::optional<std::string> random_text(const Grammar& grammar, uint64_t seed, int most = 400) {
  std::mt19937_64 random(seed);
  GrammarMatcher matcher(grammar, vocabulary(), {kEnd});
  std::string text;
  for (int i = 0; i < most; ++i) {
    if (matcher.must_end()) return text;
    const std::span<const uint64_t> mask = matcher.allowed();
    EXPECT_EQ(may(mask, kEnd), matcher.may_end());
    std::vector<int32_t> list;
    for (size_t token = 0; token < tokens().size(); ++token)
      if (may(mask, static_cast<int32_t>(token))) list.push_back(static_cast<int32_t>(token));
    if (matcher.may_end() && (list.empty() || random() % 4 == 0)) return text;
    if (list.empty()) {
      ADD_FAILURE() << "nothing may follow " << text;
      return std::nullopt;
    }
    const int32_t token = list[random() % list.size()];
    GrammarMatcher before = matcher;
    EXPECT_TRUE(matcher.accept(token));
    text += tokens()[static_cast<size_t>(token)];
  }
  return std::nullopt;
}

// What is wrong with a value, by the keywords that the tests use; an implementation of its own.
std::string violation(const Json& value, const Json& schema, const Json& root) {
  if (schema.is_boolean()) return schema.get<bool>() ? "" : "nothing is allowed";
  if (const Json* ref = schema.find("$ref")) {
    if (ref->text() == "#") return violation(value, root, root);
    return violation(value, root["$defs"][ref->text().substr(8)], root);
  }
  if (const Json* any = schema.find("anyOf")) {
    for (const Json& one : *any)
      if (violation(value, one, root).empty()) return "";
    return "nothing of anyOf: " + value.dump();
  }
  if (const Json* list = schema.find("enum"))
    return std::find(list->begin(), list->end(), value) != list->end() ? "" : "not in enum: " + value.dump();
  if (const Json* one = schema.find("const")) return value == *one ? "" : "not const: " + value.dump();
  const double number = value.is_number() ? value.get<double>() : 0;
  if (const Json* type = schema.find("type")) {
    std::set<std::string> kinds;
    if (value.is_null()) kinds = {"null"};
    if (value.is_boolean()) kinds = {"boolean"};
    if (value.is_string()) kinds = {"string"};
    if (value.is_array()) kinds = {"array"};
    if (value.is_object()) kinds = {"object"};
    if (value.is_number()) kinds = {"number"};
    if (value.is_number() && std::floor(number) >= number) kinds.insert("integer");
    bool fits = false;
    for (const Json& name : type->is_array() ? *type : Json::array({*type}))
      fits = fits || kinds.count(name.text()) != 0;
    if (!fits) return "another type: " + value.dump();
  }
  if (value.is_number()) {
    if (const Json* bound = schema.find("minimum"); bound && number < bound->get<double>())
      return "too small: " + value.dump();
    if (const Json* bound = schema.find("maximum"); bound && number > bound->get<double>())
      return "too large: " + value.dump();
    if (const Json* bound = schema.find("exclusiveMinimum"); bound && number <= bound->get<double>())
      return "not above: " + value.dump();
    if (const Json* bound = schema.find("exclusiveMaximum"); bound && number >= bound->get<double>())
      return "not below: " + value.dump();
  }
  if (value.is_string()) {
    size_t length = 0;
    for (size_t at = 0; at < value.text().size(); at += next_char(value.text(), at).bytes) ++length;
    if (length < schema.value("minLength", size_t{0})) return "too short: " + value.dump();
    if (length > schema.value("maxLength", SIZE_MAX)) return "too long: " + value.dump();
    if (const Json* pattern = schema.find("pattern");
        pattern && !std::regex_search(value.text(), std::regex(pattern->text())))
      return "not the pattern: " + value.dump();
  }
  if (value.is_array()) {
    if (value.size() < schema.value("minItems", size_t{0})) return "too few items";
    if (value.size() > schema.value("maxItems", SIZE_MAX)) return "too many items";
    const Json* prefix = schema.find("prefixItems");
    for (size_t i = 0; i < value.size(); ++i) {
      const Json* one = prefix && i < prefix->size() ? &(*prefix)[i] : schema.find("items");
      if (one)
        if (const std::string bad = violation(value[i], *one, root); !bad.empty()) return bad;
    }
  }
  if (value.is_object()) {
    if (const Json* required = schema.find("required"))
      for (const Json& name : *required)
        if (!value.contains(name.text())) return name.text() + " is missing";
    const Json* properties = schema.find("properties");
    for (const auto& [name, member] : value.items()) {
      const Json* one = properties ? properties->find(name) : nullptr;
      if (!one) one = schema.find("additionalProperties");
      if (one)
        if (const std::string bad = violation(member, *one, root); !bad.empty()) return bad;
    }
  }
  return "";
}

TEST(Grammars, RandomTextsKeepToTheirSchemas) {
  const char* schemas[] = {
      R"({"type": "object", "properties": {"a": {"type": "boolean"}, "b": {"type": "null"}, "c": {"enum": [1, "x", [true, {"y": null}]]}},
          "required": ["b"], "additionalProperties": false})",
      R"({"type": "integer", "minimum": -17, "maximum": 1234})",
      R"({"type": "integer", "exclusiveMinimum": 5, "exclusiveMaximum": 8})",
      R"({"type": "number", "minimum": -0.25, "maximum": 10.5})",
      R"({"type": "number", "exclusiveMinimum": 0, "maximum": 1})",
      R"({"type": ["number", "null"], "minimum": -100, "maximum": -99.5})",
      R"({"type": "string", "minLength": 2, "maxLength": 5})",
      R"({"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "minItems": 2, "maxItems": 4})",
      R"({"type": "array", "prefixItems": [{"const": "p"}, {"type": "boolean"}], "items": {"type": "null"}, "maxItems": 4})",
      R"({"anyOf": [{"type": "string", "maxLength": 3}, {"type": "object", "properties": {"q": {"const": 1}}, "required": ["q"]}]})",
      R"({"type": "string", "pattern": "^[A-Z]{2}-\\d+(x|\\.y)?$"})",
      R"({"type": "object", "properties": {"v": {"type": "integer", "minimum": 0, "maximum": 1}, "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
          "required": ["v", "next"], "additionalProperties": false})",
      R"({"$defs": {"tree": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 2}}, "$ref": "#/$defs/tree"})",
      R"({"type": "object", "additionalProperties": {"type": "boolean"}})",
      R"({"type": "object", "properties": {"\"ü\n": {"const": "\\"}}, "required": ["\"ü\n"]})",
      R"({"type": "number"})",
      R"({})"};
  for (const char* text : schemas) {
    const Json schema = Json::parse(text);
    const Grammar grammar = Grammar::from_json_schema(text);
    int ended = 0;
    for (uint64_t seed = 1; seed <= 60; ++seed) {
      const auto found = random_text(grammar, seed);
      if (!found) continue;
      ++ended;
      Json value;
      ASSERT_NO_THROW(value = Json::parse(*found)) << *found << " for " << text;
      EXPECT_EQ(violation(value, schema, schema), "") << *found << " for " << text;
    }
    EXPECT_GT(ended, 15) << text;
  }
}

TEST(Grammars, EveryValueOfABoundedRangeCanCome) {
  const Grammar integers =
      Grammar::from_json_schema(R"({"type": "integer", "minimum": -17, "maximum": 234})");
  for (int i = -1200; i <= 1200; ++i)
    EXPECT_EQ(takes(integers, std::to_string(i)), i >= -17 && i <= 234) << i;
  const Grammar decimals =
      Grammar::from_json_schema(R"({"type": "number", "minimum": -1.25, "maximum": 20.5})");
  for (const char* good : {"0", "-1.25", "-1.2", "-1", "20.5", "20.49", "20.500000", "9.999999", "10"})
    EXPECT_TRUE(takes(decimals, good)) << good;
  for (const char* bad :
       {"-1.26", "-1.251", "20.51", "20.500001", "21", "00", "1.", ".5", "-2", "+1", "01", "1e1"})
    EXPECT_FALSE(takes(decimals, bad)) << bad;
}

TEST(Grammars, JsonStringsAreWholeCharacters) {
  const Grammar text = Grammar::from_json_schema(R"({"type": "string", "maxLength": 3})");
  for (const char* good :
       {"\"\"", "\"abc\"", "\"\xc3\xbc\xe2\x82\xac\xf0\x9f\x99\x82\"", "\"\\n\\\"\\u0007\""})
    EXPECT_TRUE(takes(text, good)) << good;
  for (const char* bad :
       {"\"abcd\"", "\"\n\"", "\"\xc3\"", "\"\xed\xa0\x80\"", "\"\xff\"", "\"\\x\"", "'a'", "\"a"})
    EXPECT_FALSE(takes(text, bad)) << bad;
}

TEST(Grammars, ExpressionsMatchAsWholeTexts) {
  const std::pair<const char*, std::pair<std::vector<const char*>, std::vector<const char*>>> cases[] = {
      {"(ab|c)+d?", {{"ab", "cabd", "ccc"}, {"", "d", "abdd"}}},
      {"[^a-c\\d]{2,3}", {{"xy", "zzz", "\xc3\xbcz"}, {"a", "x1", "xxxx"}}},
      {"\\w+@\\w+\\.(com|org)", {{"me@x.com"}, {"me@x.net", "@x.com"}}},
      {"^a.c$",
       {{"abc",
         "a\xe2\x82\xac"
         "c"},
        {"a\nc", "ac"}}},
      {"(?:0|[1-9]\\d*)", {{"0", "120"}, {"01", ""}}},
      {"a{0}b*", {{"", "bb"}, {"a"}}},
      {"[]-]x", {{}, {"]x"}}},
  };
  for (const auto& [expression, texts] : cases) {
    if (std::string_view(expression) == "[]-]x") continue;
    const Grammar grammar = Grammar::from_regex(expression);
    for (const char* good : texts.first) EXPECT_TRUE(takes(grammar, good)) << expression << ": " << good;
    for (const char* bad : texts.second) EXPECT_FALSE(takes(grammar, bad)) << expression << ": " << bad;
  }
  for (const char* bad :
       {"(", ")", "[a", "a{2,1}", "*a", "a**", "\\", "(?=a)", "\\1", "a^b", "a{99999}", "[b-a]"})
    EXPECT_THROW(Grammar::from_regex(bad), Error) << bad;
}

TEST(Grammars, WhatIsNotSupportedIsNamedWithItsPlace) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"type": "nonsense"})", "nonsense"},
      {R"({"type": "object", "properties": 7})", "properties"},
      {R"({"$ref": "#/$defs/missing"})", "missing"},
      {R"({"type": "object", "properties": {"a": {"type": "number", "multipleOf": 3}}})", "#/properties/a"},
      {R"({"oneOf": [{"type": "null"}]})", "oneOf"},
      {R"({"type": "string", "format": "weird"})", "weird"},
      {R"({"$ref": "#/$defs/a%2", "$defs": {"a%2": {}}})", "%"},
      {R"({"$ref": "#/$defs/a~2", "$defs": {"a~2": {}}})", "~"},
      {R"({"$ref": "#"})", "itself"},
      {R"({"anyOf": [{"$ref": "#"}, {"type": "null"}]})", "itself"},
      {R"({"type": "integer", "minimum": 3, "maximum": 2})", "bounds"},
      {R"({"type": "array", "uniqueItems": true})", "uniqueItems"},
      {R"({"type": "string", "pattern": "("})", "pattern"},
      {R"({"type": )", "JSON"},
      {R"([1])", "object"}};
  for (const auto& [schema, word] : cases) {
    try {
      Grammar::from_json_schema(schema);
      ADD_FAILURE() << schema;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what();
    }
  }
}

TEST(Grammars, ReferencesAreDecoded) {
  const std::string names = R"({"a b": {"const": 1}, "50%": {"const": 2}, "c/d": {"const": 3},
      "~1": {"const": 4}, "%20": {"const": 5}, "\u00e9": {"const": 6}, "~0": {"const": 7}})";
  const std::pair<const char*, const char*> cases[] = {
      {"a%20b", "1"}, {"a b", "1"},   {"50%25", "2"}, {"c~1d", "3"},   {"c%7E1d", "3"},
      {"~01", "4"},   {"%7e01", "4"}, {"%2520", "5"}, {"%C3%A9", "6"}, {"~00", "7"}};
  for (const auto& [reference, text] : cases) {
    const Grammar grammar = Grammar::from_json_schema(std::string("{\"$ref\": \"#/$defs/") + reference +
                                                      "\", \"$defs\": " + names + "}");
    for (const char* one : {"1", "2", "3", "4", "5", "6", "7"})
      EXPECT_EQ(takes(grammar, one), std::string_view(one) == text) << reference << ' ' << one;
  }
}

TEST(Grammars, WhatIsBegunCanBeEnded) {
  for (const char* schema :
       {"false", R"({"type": "object", "properties": {"a": false}, "required": ["a"]})",
        R"({"anyOf": [false, {"type": "array", "prefixItems": [false], "items": false, "minItems": 1}]})",
        R"({"$ref": "#/$defs/n", "$defs": {"n": {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}},
            "required": ["n"]}}})",
        R"({"type": "string", "pattern": "^[^\\s\\S]$"})",
        R"({"type": "number", "exclusiveMinimum": 0.1, "exclusiveMaximum": 0.1000000001})"}) {
    try {
      Grammar::from_json_schema(schema);
      ADD_FAILURE() << schema;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("nothing is allowed"), std::string::npos) << error.what();
    }
  }
  EXPECT_THROW(Grammar::from_regex("a[^\\s\\S]"), Error);
  EXPECT_THROW(Grammar::from_json_schema(R"({"type": "integer", "minimum": 1e30})"), Error);
  EXPECT_THROW(Grammar::from_json_schema(R"({"type": "number", "exclusiveMaximum": -1e30})"), Error);
  // An optional member that may have no value is left out.
  const Grammar grammar = Grammar::from_json_schema(
      R"({"type": "object", "properties": {"a": false, "b": {"const": 1}}, "additionalProperties": false})");
  EXPECT_TRUE(takes(grammar, R"({"b": 1})"));
  EXPECT_TRUE(takes(grammar, "{}"));
  for (uint64_t seed = 0; seed < 20; ++seed)
    EXPECT_EQ(random_text(grammar, seed).value_or("{").find('a'), std::string::npos);
}

TEST(Grammars, FunctionsAreCalledInOneForm) {
  const std::vector<FunctionSchema> functions{
      {"f", R"({"type": "object", "properties": {"x": {"type": "boolean"}}, "required": ["x"]})"}, {"g", ""}};
  const Grammar grammar = Grammar::from_functions(functions);
  EXPECT_TRUE(takes(grammar, R"({"name": "f", "arguments": {"x": true}})"));
  EXPECT_TRUE(takes(grammar, R"({"name": "g", "arguments": {"any": [1, "a"]}})"));
  EXPECT_FALSE(takes(grammar, R"({"name": "f", "arguments": {}})"));
  EXPECT_FALSE(takes(grammar, R"({"name": "h", "arguments": {}})"));
}

// Each of these texts needs several times the states that an automaton may have.
TEST(Grammars, TextsBeyondTheBoundOfStatesGoOnFromWhereTheyAre) {
  constexpr int kItems = 20000;
  const Grammar list = Grammar::from_json_schema(
      R"({"type": "array", "items": {"type": "boolean"}, "minItems": 20000, "maxItems": 20000})");
  GrammarMatcher first(list, vocabulary(), {kEnd}), second(list, vocabulary(), {kEnd});
  const auto say = [](GrammarMatcher& matcher, std::string_view text) {
    for (const char byte : text)
      if (!matcher.accept(static_cast<unsigned char>(byte))) return false;
    return true;
  };
  ASSERT_TRUE(say(first, "[false") && say(second, "[true"));
  for (int item = 1; item < kItems; ++item) {
    ASSERT_FALSE(first.accept(']')) << item;
    ASSERT_TRUE(say(first, ", false")) << item;
    if (item % 2 == 0) continue;
    ASSERT_TRUE(say(second, ", true")) << item;
  }
  EXPECT_FALSE(first.accept(','));
  EXPECT_TRUE(may(first.allowed(), ']') && !may(first.allowed(), ','));
  EXPECT_TRUE(say(first, "]") && first.must_end());
  EXPECT_TRUE(may(second.allowed(), ',') && !may(second.allowed(), ']'));
  GrammarMatcher third(list, vocabulary(), {kEnd});
  EXPECT_TRUE(may(third.allowed(), '[') && !may(third.allowed(), '{'));
}

TEST(Grammars, LargeSchemasAndTextsStayQuick) {
  Json many = Json::object(), names = Json::array();
  for (int i = 0; i < 5000; ++i) {
    many["member_" + std::to_string(i)] = {{"type", "integer"}};
    names.push_back("value " + std::to_string(i));
  }
  const std::clock_t start = std::clock();  // of the processor, whatever else the machine does
  const Grammar wide = Grammar::from_json_schema(Json{{"type", "object"}, {"properties", many}}.dump());
  EXPECT_TRUE(takes(wide, R"({"member_7": 1, "member_4999": 2})"));
  const Grammar choice = Grammar::from_json_schema(Json{{"enum", names}}.dump());
  EXPECT_TRUE(takes(choice, "\"value 4321\""));
  const Grammar open = Grammar::json_object();
  std::string deep = "{\"a\": ";
  for (int i = 0; i < 60; ++i) deep += "{\"a\": ";
  EXPECT_FALSE(takes(open, deep));
  EXPECT_TRUE(takes(open, deep + "0" + std::string(61, '}')));
  const double seconds = static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  EXPECT_LT(seconds, 20) << "far above what it takes, below what is felt as a hang under a sanitizer";
}

}  // namespace
}  // namespace nfloat
