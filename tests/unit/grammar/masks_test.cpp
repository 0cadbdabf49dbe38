// SPDX-License-Identifier: Apache-2.0
#include "grammar/masks.h"

#include <gtest/gtest.h>

#include <array>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "base/json.h"
#include "grammar/plain_step.h"
#include "grammar/regex.h"
#include "grammar/schema.h"
#include "nfloat/error.h"

namespace nfloat {
namespace {

using grammar::Builder;
using grammar::Edge;
using grammar::Net;

// What a net means, followed without numbers for states, classes of bytes or anything kept: sets of places in
// the net with the rules that are open there, each with where it goes on and what it has left.
class NetText {
 public:
  explicit NetText(const Net& net) : net_(&net) { enter({net.rules[0].begin, {}}); }

  NetText then(std::string_view text) const {
    NetText next = *this;
    for (const char c : text) next = next.step(static_cast<unsigned char>(c));
    return next;
  }
  bool alive() const { return ended_ || !places_.empty(); }
  bool ended() const { return ended_; }

 private:
  using Open = std::array<int32_t, 4>;  // target, rule, least, most
  using Place = std::pair<int32_t, std::vector<Open>>;

  NetText step(int byte) const {
    NetText next = *this;
    next.places_.clear();
    next.seen_.clear();
    next.ended_ = false;
    for (const auto& [state, open] : places_)
      for (const Edge& edge : net_->edges[static_cast<size_t>(state)])
        if (edge.kind == Edge::Kind::kBytes && byte >= edge.low && byte <= edge.high)
          next.enter({edge.target, open});
    return next;
  }
  void repeat(int32_t target, int32_t rule, int32_t least, int32_t most, const std::vector<Open>& open) {
    if (least <= 0) enter({target, open});
    if (most == 0) return;
    std::vector<Open> inner = open;
    inner.push_back({target, rule, least, most});
    enter({net_->rules[static_cast<size_t>(rule)].begin, std::move(inner)});
  }
  void enter(const Place& place) {
    if (!seen_.insert(place).second) return;
    const auto& [state, open] = place;
    for (const grammar::Rule& rule : net_->rules) {
      if (rule.end != state) continue;
      if (open.empty()) {
        ended_ = true;
        continue;
      }
      const auto [target, again, least, most] = open.back();
      repeat(target, again, std::max(least - 1, 0), most < 0 ? -1 : most - 1, {open.begin(), open.end() - 1});
    }
    for (const Edge& edge : net_->edges[static_cast<size_t>(state)]) {
      if (edge.kind == Edge::Kind::kEmpty) enter({edge.target, open});
      if (edge.kind == Edge::Kind::kRepeat) repeat(edge.target, edge.rule, edge.least, edge.most, open);
      if (edge.kind == Edge::Kind::kBytes) places_.insert(place);
    }
  }

  const Net* net_;
  std::set<Place> places_, seen_;
  bool ended_ = false;
};

// Bytes, words of one to many characters, such with quotes and commas, pieces of characters, long runs.
std::vector<std::string> words(uint64_t seed) {
  std::vector<std::string> all;
  for (int byte = 0; byte < 256; ++byte) all.emplace_back(1, static_cast<char>(byte));
  for (const size_t length : {15u, 16u, 17u, 31u, 32u, 33u, 34u, 40u, 64u, 70u}) {
    all.emplace_back(length, ' ');
    all.emplace_back(length, 'a');
    all.push_back(std::string(length - 1, 'b') + "\"");
  }
  for (const char* text :
       {"\", \"", "\": \"", "\"]", "\"}", "{\"", "\\n", "\\u00", "true", ", ", "12", "[1, 2", "\xc3", "\xa9",
        "\xe2\x82", "\xed\xa0", "\xf0\x9f\x99", "a\xc3", "\x82\xac\"", "-0."})
    all.emplace_back(text);
  static constexpr std::array<std::string_view, 12> kParts{
      "a", "bc", " ", "xyz", "Z", "7", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x99\x82", "\"", "\", \"", ","};
  std::mt19937_64 random(seed);
  for (int i = 0; i < 160; ++i) {
    std::string word;
    const size_t kinds = i % 4 == 0 ? kParts.size() : 9;
    for (size_t parts = 1 + random() % 9; parts > 0; --parts) word += kParts[random() % kinds];
    all.push_back(std::move(word));  // some are there twice
  }
  all.emplace_back();
  return all;
}

bool may(std::span<const uint64_t> mask, size_t token) {
  return token / 64 < mask.size() && (mask[token / 64] >> (token % 64) & 1) != 0;
}

// Walks at random; every mask must be what the net allows, token by token.
void check(const Net& net, const Grammar& grammar, uint64_t seed, const std::string& name) {
  const std::vector<std::string> tokens = words(seed % 3);
  const GrammarVocabulary vocabulary(tokens);
  std::mt19937_64 random(seed);
  for (int walk = 0; walk < 2; ++walk) {
    GrammarMatcher matcher(grammar, vocabulary, {});
    NetText text(net);
    std::string written;
    for (int i = 0; i < 25 && !matcher.must_end(); ++i) {
      const std::span<const uint64_t> mask = matcher.allowed();
      std::vector<size_t> allowed;
      for (size_t token = 0; token < tokens.size(); ++token) {
        const bool fits = !tokens[token].empty() && text.then(tokens[token]).alive();
        ASSERT_EQ(may(mask, token), fits) << name << ": '" << written << "', then '" << tokens[token] << "'";
        if (fits) allowed.push_back(token);
      }
      ASSERT_EQ(matcher.may_end(), text.ended()) << name << ": " << written;
      if (allowed.empty()) break;
      const size_t token = allowed[random() % allowed.size()];
      ASSERT_TRUE(matcher.accept(static_cast<int32_t>(token)));
      text = text.then(tokens[token]);
      written += tokens[token];
    }
  }
}

Json some_schema(std::mt19937_64& random, int depth) {
  const auto count = [&] { return std::array<int, 9>{0, 1, 2, 5, 15, 17, 33, 34, 60}[random() % 9]; };
  const auto bounds = [&](Json& schema, const char* least, const char* most) {
    const int a = count(), b = count();
    if (random() % 2 == 0) schema[least] = std::min(a, b);
    if (random() % 4 != 0) schema[most] = std::max(a, b);
  };
  Json schema;
  switch (random() % (depth > 0 ? 8 : 5)) {
    case 0:
    case 1:
      schema["type"] = "string";
      bounds(schema, "minLength", "maxLength");
      break;
    case 2:
      schema["enum"] = Json::array({"a", "abc", 7, nullptr, "\u20ac"});
      break;
    case 3:
      schema["type"] = random() % 2 == 0 ? "integer" : "boolean";
      break;
    case 4:
      schema["type"] = "string";
      schema["pattern"] = std::array<const char*, 4>{"^a*.{0,40}$", "^[a-z ]{2,40}$", "b.c",
                                                     "^(a?){3,12}\u20ac{0,9}$"}[random() % 4];
      break;
    case 5:
    case 6:
      schema["type"] = "array";
      schema["items"] = some_schema(random, depth - 1);
      bounds(schema, "minItems", "maxItems");
      break;
    default:
      if (random() % 2 == 0) {
        schema["anyOf"] = Json::array({some_schema(random, depth - 1), some_schema(random, depth - 1)});
      } else {
        schema["type"] = "object";
        schema["properties"]["a"] = some_schema(random, depth - 1);
        schema["properties"]["bc"] = some_schema(random, depth - 1);
        if (random() % 2 == 0) schema["required"] = Json::array({"a"});
      }
  }
  return schema;
}

TEST(Masks, AreWhatTheSchemaAllowsTokenByToken) {
  int checked = 0;
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    std::mt19937_64 random(seed);
    const std::string schema = some_schema(random, 2).dump();
    Builder builder;
    const Json json = Json::parse(schema);
    const Net net = builder.finish(grammar::SchemaCompiler(builder, json, "").compile());
    check(net, Grammar::from_json_schema(schema), seed, schema);
    if (HasFatalFailure()) return;
    ++checked;
  }
  EXPECT_EQ(checked, 60);
}

TEST(Masks, AreWhatTheExpressionAllowsTokenByToken) {
  uint64_t seed = 0;
  for (const char* expression : {".{0,40}", "[ab]{1,50}c", "(a|bc|xyz){33,35}", "(a{0,3}){4,12}b", "(.b)*",
                                 "(a?){36,40}b", "[^\"]{2,34}\"|a+", "(a*|.){1,12}", "[\\s\\S]{31,33}",
                                 "( |a)*", "(\xc3\xa9|a){0,33}.?", "((a?b?){2}){3,9}"}) {
    Builder builder;
    const Net net =
        builder.finish(grammar::regex(builder, expression, grammar::Spelling::kPlain, true, "regex"));
    check(net, Grammar::from_regex(expression), ++seed, expression);
    if (HasFatalFailure()) return;
  }
}

TEST(Masks, StatesThatNoTokenTellsApartShareThem) {
  constexpr int32_t kLongest = 32;
  const auto first_and_last = [&](const char* schema, const char* begin, const char* item, int times) {
    Builder builder;
    const Json json = Json::parse(schema);
    grammar::Automaton automaton(builder.finish(grammar::SchemaCompiler(builder, json, "").compile()));
    const auto take = [&](int32_t state, std::string_view text) {
      for (const char byte : text) state = automaton.step(state, static_cast<uint8_t>(byte));
      return state;
    };
    const int32_t first = take(automaton.start(), begin);
    int32_t last = first;
    for (int i = 0; i < times; ++i) last = take(last, item);
    EXPECT_NE(first, last);
    return std::pair(automaton.saturated(first, kLongest), automaton.saturated(last, kLongest));
  };
  const auto same = [&](auto... arguments) {
    const auto [first, last] = first_and_last(arguments...);
    return first == last;
  };
  // Characters may be a byte long, items here are four, with what is between them.
  EXPECT_TRUE(same(R"({"type": "string", "maxLength": 100})", "\"", "x", 67));
  EXPECT_FALSE(same(R"({"type": "string", "maxLength": 100})", "\"", "x", 68));
  EXPECT_TRUE(same(R"({"type": "string", "minLength": 100})", "\"", "x", 67));
  EXPECT_FALSE(same(R"({"type": "string", "minLength": 100})", "\"", "x", 68));
  const char* items = R"({"type": "array", "minItems": 50, "items": {"enum": [10, 200]}})";
  EXPECT_TRUE(same(items, "[10, ", "200, ", 38));
  EXPECT_FALSE(same(items, "[10, ", "200, ", 43));
}

TEST(Masks, ThoseThatAreKeptHaveABound) {
  std::vector<std::string> many = words(1);
  many.resize(size_t{1} << 22);  // half a MiB a mask
  const GrammarVocabulary large(many), small(words(2));
  const Grammar text = Grammar::from_regex("[ab]{0,40}c");
  for (int round = 0; round < 2; ++round) {
    GrammarMatcher matcher(text, large, {});
    for (int i = 0; i <= 40; ++i) {
      const std::span<const uint64_t> mask = matcher.allowed();
      for (const char byte : {'a', 'b', 'c', 'd'})
        EXPECT_EQ(may(mask, static_cast<size_t>(byte)), byte == 'c' || (byte < 'c' && i < 40));
      EXPECT_EQ(matcher.accept('a'), i < 40);
    }
  }
  // Another vocabulary gets masks of its own.
  GrammarMatcher other(text, small, {});
  EXPECT_EQ(other.allowed().size(), (words(2).size() + 63) / 64);
  EXPECT_TRUE(may(other.allowed(), 'c'));
}

TEST(Masks, PlainCharactersAreCounted) {
  const std::pair<std::string_view, int32_t> cases[] = {{"", 0},
                                                        {"a", 1},
                                                        {" ab~\x7f", 5},
                                                        {"\xc3\xa9x", 2},
                                                        {"\xe2\x82\xac", 1},
                                                        {"\xf0\x9f\x99\x82", 1},
                                                        {"\xc3", -1},
                                                        {"\xa9", -1},
                                                        {"\xe2\x82", -1},
                                                        {"\xed\xa0\x80", -1},
                                                        {"\xc0\x80", -1},
                                                        {"a\"", -1},
                                                        {"\\", -1},
                                                        {"a\n", -1},
                                                        {std::string_view("\0", 1), -1},
                                                        {"\xf4\x90\x80\x80", -1},
                                                        {"\xf0\x80\x80\x80", -1},
                                                        {"\xe0\x80\x80", -1},
                                                        {"\xff", -1}};
  for (const auto& [text, length] : cases) EXPECT_EQ(grammar::plain_length(text), length) << text;
}

TEST(Nets, KnowTheShortestTextsOfTheirRules) {
  const auto shortest = [](const char* expression) {
    Builder builder;
    return grammar::shortest_texts(
        builder.finish(grammar::regex(builder, expression, grammar::Spelling::kPlain, true, "regex")))[0];
  };
  EXPECT_EQ(shortest("abc|de"), 2);
  EXPECT_EQ(shortest("(ab){3,7}c?"), 6);
  EXPECT_EQ(shortest("((ab|c){4}d){5}"), 25);
  EXPECT_EQ(shortest("(a*b?)*"), 0);
  EXPECT_EQ(shortest("(\xe2\x82\xac|a{200}){2}"), 6);
  EXPECT_EQ(shortest("(((a{1000}){1000}){1000})"), grammar::kLongText);
}

}  // namespace
}  // namespace nfloat
