// SPDX-License-Identifier: Apache-2.0
#include "base/json.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "nfloat/error.h"

namespace nfloat {
namespace {

using Oracle = nlohmann::ordered_json;

std::string message(const std::string& text, const JsonLimits& limits = {}) {
  try {
    Json::parse(text, limits);
  } catch (const JsonError& error) {
    return error.what();
  }
  return "";
}

TEST(Json, ReadsAndWritesAsNlohmannDoes) {
  const std::vector<std::string> texts = {"null",
                                          "true",
                                          "false",
                                          "0",
                                          "-0",
                                          "-0.0",
                                          "7",
                                          "-7",
                                          "1.0",
                                          "1e3",
                                          "0.1",
                                          "1e-7",
                                          "3.0e300",
                                          "-9223372036854775808",
                                          "9223372036854775807",
                                          "9223372036854775808",
                                          "18446744073709551615",
                                          "18446744073709551616",
                                          "123456789.123456789",
                                          R"("")",
                                          R"("plain")",
                                          R"("quote \" slash \\ / tab \t line \n bell \u0007 del \u007f")",
                                          R"("é ▁ 😀 \ud83d\ude00 \u0000")",
                                          "[]",
                                          "{}",
                                          "[[]]",
                                          "[{}]",
                                          "[1,[2,[3]],{\"a\":{\"b\":[]}}]",
                                          R"({"b":1,"a":[true,null,"x"],"":{"k":0.5}})",
                                          " [ 1 , 2 ]\n"};
  for (const std::string& text : texts) {
    const Oracle expected = Oracle::parse(text);
    const Json json = Json::parse(text);
    EXPECT_EQ(json.dump(), expected.dump()) << text;
    EXPECT_EQ(json.dump(2), expected.dump(2)) << text;
    EXPECT_EQ(json.dump(-1, Json::Invalid::kReplaceAndEscape),
              expected.dump(-1, ' ', true, Oracle::error_handler_t::replace))
        << text;
    EXPECT_EQ(Json::parse(json.dump()), json) << text;
    EXPECT_EQ(json.is_number_integer(), expected.is_number_integer()) << text;
    EXPECT_EQ(json.is_number_unsigned(), expected.is_number_unsigned() || text == "-0") << text;
    EXPECT_EQ(json.is_number_float(), expected.is_number_float()) << text;
    EXPECT_STREQ(json.type_name(), expected.type_name()) << text;
    EXPECT_EQ(json.size(), expected.size()) << text;
  }
  std::mt19937_64 random(1);
  for (int i = 0; i < 2000; ++i) {
    const double value = std::ldexp(static_cast<double>(random()), static_cast<int>(random() % 600) - 300);
    EXPECT_EQ(Json(value).dump(), Oracle(value).dump());
  }
  EXPECT_EQ(Json(std::numeric_limits<double>::quiet_NaN()).dump(), "null");
}

TEST(Json, RefusesWhatNlohmannRefuses) {
  for (const char* text :
       {"",        " ",           "[",        "{",     "]",   "[1,]",  "{\"a\"}", "{\"a\":}",
        "{1:2}",   "01",          "1.",       "+1",    ".5",  "nul",   "'a'",     "\"a",
        "\"\\x\"", "\"\\ud800\"", "\"\xff\"", "[1] 2", "NaN", "1e999", "// c\n1"}) {
    EXPECT_FALSE(Oracle::accept(text) && std::string(text) != "1e999") << text;
    EXPECT_NE(message(text), "") << text;
  }
  EXPECT_TRUE(message("[1,\n 2,,]").starts_with("not valid JSON: parse error at line 2, column 4"))
      << message("[1,\n 2,,]");
}

// Python's json takes the last; where a person or a client writes, one of the two is a mistake.
TEST(Json, NamesThatComeTwiceCountOnceOrAreRefused) {
  const Json last = Json::parse(R"({"a": 1, "b": {"c": 2, "c": 3}, "a": 4})");
  EXPECT_EQ(last.dump(), R"({"a":4,"b":{"c":3}})");
  const auto refused = [](const std::string& text) {
    try {
      Json::parse(text, {.unique_names = true});
    } catch (const JsonError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_EQ(refused(R"({"a": {"a": [{"a": 1}, {"a": 1}]}, "b": {"a": 1}, "A": null})"), "");
  for (const char* text : {R"({"a": 1, "a": 1})", R"([{"b": {"a": 1, "x": 2, "a": []}}])",
                           R"({"a": {}, "b": 1, "\u0061": {}})", R"({"a": null, "a": null})"})
    EXPECT_EQ(refused(text), "two members of one object have the name \"a\"") << text;
  std::string many = "{";
  for (int i = 0; i < 40; ++i) many += "\"n" + std::to_string(i) + "\": 0, ";
  EXPECT_EQ(refused(many + "\"m\": 0}"), "");
  EXPECT_EQ(refused(many + "\"n7\": 0}"), "two members of one object have the name \"n7\"");
  EXPECT_LT(refused("{\"" + std::string(9999, 'x') + "\":0,\"" + std::string(9999, 'x') + "\":0}").size(),
            200u);
}

TEST(Json, RefusesZeroBytes) {
  for (const std::string& text : {std::string("{}\0", 3), std::string("{}\0x{{{", 7), std::string("\0{}", 3),
                                  std::string("[1,\0]", 5), std::string("\"a\0b\"", 5)})
    EXPECT_THROW(Json::parse(text), JsonError) << ::testing::PrintToString(text);
  EXPECT_EQ(Json::parse(R"("a\u0000b")").get<std::string>(), std::string("a\0b", 3));
}

TEST(Json, StopsAtItsLimits) {
  const std::string deep = std::string(9, '[') + std::string(9, ']');
  EXPECT_EQ(message(deep, {.depth = 9}), "");
  EXPECT_EQ(message(deep, {.depth = 8}), "JSON nested deeper than 8 levels");
  EXPECT_EQ(message(std::string(1 << 20, '[')), "JSON nested deeper than 256 levels");
  EXPECT_EQ(message("[1,2,3]", {.values = 4}), "");
  EXPECT_EQ(message("[1,2,3]", {.values = 3}), "more than 3 JSON values");
  EXPECT_EQ(message("[1,2,3]", {.bytes = 7}), "");
  EXPECT_EQ(message("[1,2,3]", {.bytes = 6}), "7 bytes, expected at most 6");
  try {
    parse_json_object("[1]", "FILE");
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kMalformedFile);
    EXPECT_STREQ(error.what(), "FILE: not a JSON object");
  }
}

// Few members are compared one by one, many are found by bisection.
TEST(Json, OfEqualNamesTheLastValueCountsInTheFirstPlace) {
  for (const int others : {0, 5, 40, 3000}) {
    Oracle expected = Oracle::object();
    std::string text = "{";
    std::mt19937 random(static_cast<unsigned>(others));
    for (int i = 0; i < others + 7; ++i) {
      const std::string name = "n" + std::to_string(random() % static_cast<unsigned>(others + 4));
      text += (i == 0 ? "\"" : ",\"") + name + "\":" + std::to_string(i);
      expected[name] = i;
    }
    Json json = Json::parse(text + "}");
    ASSERT_EQ(json.dump(), expected.dump());
    const Json copy = json;
    for (const auto& [name, value] : expected.items()) {
      ASSERT_NE(json.find(name), nullptr);
      EXPECT_EQ(json.at(name).get<int>(), value.get<int>());
      EXPECT_EQ(copy[name].get<int>(), value.get<int>());
    }
    EXPECT_EQ(json.find("n"), nullptr);
    EXPECT_EQ(json.find("zz"), nullptr);
    for (int i = 0; i < others; ++i) {
      json["z" + std::to_string(i)] = i;
      expected["z" + std::to_string(i)] = i;
    }
    json["zz"] = 1;
    json.erase(expected.begin().key());
    expected["zz"] = 1;
    expected.erase(expected.begin());
    EXPECT_EQ(json.dump(), expected.dump());
    for (const auto& [name, value] : expected.items()) EXPECT_EQ(json.at(name).get<int>(), value.get<int>());
  }
}

TEST(Json, IsBuiltInPlace) {
  const std::map<std::string, int> map = {{"b", 2}, {"a", 1}};
  Json json = {{"text", "x"}, {"list", {1, 2.5, "three"}}, {"pair", Json::array({"a", 1})}, {"map", map}};
  json["deep"]["er"] = std::vector<std::string>{"p", "q"};
  json["grid"] = std::array<double, 2>{1, 2};
  json["flag"] = true;
  json["none"] = nullptr;
  json["more"].push_back(int8_t{-1});
  EXPECT_EQ(
      json.dump(),
      R"({"text":"x","list":[1,2.5,"three"],"pair":["a",1],"map":{"a":1,"b":2},"deep":{"er":["p","q"]},)"
      R"("grid":[1.0,2.0],"flag":true,"none":null,"more":[-1]})");
  Json moved = std::move(json);
  EXPECT_EQ(moved["list"][2].text(), "three");
  EXPECT_EQ(Json({}).dump(), "{}");
  EXPECT_EQ(Json::array({1}).dump(), "[1]");
}

TEST(Json, GivesOnlyWhatFits) {
  const Json json =
      Json::parse(R"({"n":300,"m":-1,"x":1.5,"huge":1e300,"big":18446744073709551615,"s":"t","l":[1,2]})");
  EXPECT_EQ(json["n"].get<int>(), 300);
  EXPECT_THROW(json["n"].get<uint8_t>(), JsonError);
  EXPECT_THROW(json["m"].get<uint64_t>(), JsonError);
  EXPECT_THROW(json["big"].get<int64_t>(), JsonError);
  EXPECT_THROW(json["huge"].get<int64_t>(), JsonError);
  EXPECT_EQ(json["big"].get<uint64_t>(), UINT64_MAX);
  EXPECT_EQ(json["n"].get<double>(), 300.0);
  EXPECT_EQ(json["x"].get<float>(), 1.5f);
  EXPECT_EQ(json["l"].get<std::vector<int>>(), (std::vector<int>{1, 2}));
  EXPECT_EQ(json.value("n", 1.0), 300.0);
  EXPECT_EQ(json.value("absent", 1.0), 1.0);
  for (const char* name : {"s", "l", "absent"}) {
    EXPECT_THROW(json[name].get<int>(), JsonError);
    EXPECT_THROW(json[name].get<bool>(), JsonError);
  }
  EXPECT_THROW(json["n"].text(), JsonError);
  EXPECT_THROW(json.at("absent"), JsonError);
  EXPECT_THROW(json["l"].at(2), JsonError);
  EXPECT_THROW(json["n"].get<std::vector<int>>(), JsonError);
  EXPECT_EQ(json["n"].begin(), json["n"].end());
  EXPECT_TRUE(json["l"].items().empty());
  EXPECT_THROW(Json(1)["name"] = 2, JsonError);
  EXPECT_THROW(Json(1).push_back(2), JsonError);
}

TEST(Json, ComparesByValue) {
  EXPECT_EQ(Json(1), Json(1u));
  EXPECT_EQ(Json(1), Json(1.0));
  EXPECT_NE(Json(1), Json(1.5));
  EXPECT_NE(Json(-1), Json(UINT64_MAX));
  EXPECT_NE(Json(1), Json("1"));
  EXPECT_NE(Json(0), Json(false));
  EXPECT_EQ(Json("a"), "a");
  EXPECT_NE(Json(), "a");
}

TEST(Json, TextThatIsNotUtf8) {
  const Json json = {{"k", std::string("a\xff z")}};
  EXPECT_THROW(json.dump(), JsonError);
  EXPECT_EQ(json.dump(-1, Json::Invalid::kReplace), "{\"k\":\"a\xef\xbf\xbd z\"}");
  EXPECT_EQ(json.dump(-1, Json::Invalid::kReplaceAndEscape), "{\"k\":\"a\\ufffd z\"}");
}

}  // namespace
}  // namespace nfloat
