// SPDX-License-Identifier: Apache-2.0
// Every way a safetensors file can lie: a sentence that names the file and the lie, in bounded time and
// memory.
#include <gtest/gtest.h>

#include "base/json.h"
#include "cli/checkpoint_maker.h"
#include "cli/process.h"
#include "support/sanitizer.h"

namespace nfloat::cli_test {
namespace {

using HostileSafetensors = Cli;

struct Lie {
  std::string what;
  std::string bytes;
  std::vector<std::string> words;  // the complaint names these, besides the file
};

std::string data(size_t bytes) {
  return std::string(bytes, '\0');
}

std::vector<Lie> lies() {
  const std::string good = plain_file(8, 8);
  std::string huge_length = good;
  huge_length[7] = '\x7f';
  std::string long_length = good;
  long_length[2] = '\x10';
  const std::string w = entry("w", "F32", {2, 2}, 0, 16);
  return {
      {"empty", "", {"0 bytes"}},
      {"seven bytes", "1234567", {"7 bytes"}},
      {"no header", safetensors_bytes("", ""), {}},
      {"text", "PK\x03\x04 this is a zip file and not a model at all", {"safetensors"}},
      {"length of 2^62", huge_length, {}},
      {"length beyond the file", long_length, {"truncated"}},
      {"half of it", good.substr(0, good.size() / 2), {"weight"}},
      {"one byte short", good.substr(0, good.size() - 1), {"weight"}},
      {"one byte more", good + "x", {"1 bytes"}},
      {"header cut", good.substr(0, 20), {"truncated"}},
      {"not JSON", safetensors_bytes("{\"w\":{\"dtype\":", data(16)), {"JSON"}},
      {"invalid UTF-8",
       safetensors_bytes("{\"\xff\xfe\":{}}", data(16)),
       {"a byte that is not UTF-8, byte 3"}},
      {"an array", safetensors_bytes("[1,2,3]", data(16)), {}},
      {"garbage behind", safetensors_bytes("{" + w + "} true", data(16)), {"JSON"}},
      {"no dtype",
       safetensors_bytes("{\"w\":{\"shape\":[4],\"data_offsets\":[0,16]}}", data(16)),
       {"w", "dtype"}},
      {"no shape",
       safetensors_bytes("{\"w\":{\"dtype\":\"F32\",\"data_offsets\":[0,16]}}", data(16)),
       {"shape"}},
      {"no offsets",
       safetensors_bytes("{\"w\":{\"dtype\":\"F32\",\"shape\":[4]}}", data(16)),
       {"data_offsets"}},
      {"three offsets",
       safetensors_bytes("{\"w\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16,16]}}", data(16)),
       {"data_offsets"}},
      {"unknown dtype of more elements than bits",
       safetensors_bytes("{" + entry("w", "F7", {int64_t{1} << 62}, 0, 16) + "}", data(16)),
       {"w"}},
      {"unknown dtype beyond the end",
       safetensors_bytes("{" + entry("w", "F7", {2, 2}, 0, 32) + "}", data(16)),
       {"w"}},
      {"negative dimension",
       safetensors_bytes("{" + entry("w", "F32", {-2, 2}, 0, 16) + "}", data(16)),
       {"w", "-2"}},
      {"fraction",
       safetensors_bytes("{\"w\":{\"dtype\":\"F32\",\"shape\":[1.5],\"data_offsets\":[0,16]}}", data(16)),
       {"w"}},
      {"overflowing shape",
       safetensors_bytes("{" + entry("w", "F32", {int64_t{1} << 40, int64_t{1} << 40}, 0, 16) + "}",
                         data(16)),
       {"w", "overflow"}},
      {"shape and length disagree",
       safetensors_bytes("{" + entry("w", "F32", {2, 3}, 0, 16) + "}", data(16)),
       {"w", "24"}},
      {"offsets backwards", safetensors_bytes("{" + entry("w", "F32", {2, 2}, 16, 0) + "}", data(16)), {"w"}},
      {"offset beyond 2^63",
       safetensors_bytes("{\"w\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[18446744073709551600,"
                         "18446744073709551615]}}",
                         data(16)),
       {"w"}},
      {"beyond the end", safetensors_bytes("{" + entry("w", "F32", {2, 2}, 16, 32) + "}", data(16)), {"w"}},
      {"gap",
       safetensors_bytes("{" + w + "," + entry("v", "F32", {2, 2}, 20, 36) + "}", data(36)),
       {"v", "gap"}},
      {"overlap",
       safetensors_bytes("{" + w + "," + entry("v", "F32", {2, 2}, 8, 24) + "}", data(24)),
       {"v", "overlap"}},
      {"gap in front",
       safetensors_bytes("{" + entry("w", "F32", {2, 2}, 4, 20) + "}", data(20)),
       {"w", "gap"}},
      {"the same name twice",
       safetensors_bytes("{" + w + "," + entry("w", "F32", {2, 2}, 16, 32) + "}", data(32)),
       {"w", "twice"}},
      {"metadata of numbers",
       safetensors_bytes("{\"__metadata__\":{\"a\":1}," + w + "}", data(16)),
       {"__metadata__"}},
      {"rank of 1000",
       safetensors_bytes("{" + entry("w", "F32", std::vector<int64_t>(1000, 1), 0, 4) + "}", data(4)),
       {"w"}},
      {"deep nesting",
       safetensors_bytes("{\"w\":" + std::string(1 << 20, '[') + std::string(1 << 20, ']') + "}", ""),
       {"w"}},
      {"deep objects",
       safetensors_bytes(
           [] {
             std::string text;
             for (int i = 0; i < 100000; ++i) text += "{\"a\":";
             return text;
           }(),
           ""),
       {}},
  };
}

TEST_F(HostileSafetensors, EachLieIsNamed) {
  for (const Lie& lie : lies()) {
    SCOPED_TRACE(lie.what);
    const std::string in = path("in.safetensors"), out = path("out.safetensors");
    write_file(in, lie.bytes);
    std::vector<std::string> words = lie.words;
    words.push_back("in.safetensors");
    for (const std::vector<std::string>& command : std::vector<std::vector<std::string>>{
             {"quantize", in, out}, {"dequantize", in, out}, {"inspect", in}}) {
      const Result result = nfloat(command);
      expect_complaint(result, words);
      EXPECT_LT(result.err.size(), 1000u) << "a hostile name floods the terminal";
      EXPECT_LT(result.processor_seconds, 5);
    }
    EXPECT_FALSE(std::filesystem::exists(out));
    EXPECT_TRUE(temporaries(folder_).empty());
  }
}

// A type that is not known can be listed, and nothing else; its name and the tensor's move no cursor and
// flood nothing.
TEST_F(HostileSafetensors, UnknownTypesAreListedAndNothingElse) {
  const std::string in = path("in.safetensors"), out = path("out.safetensors");
  const std::string long_type(3000, 'F');
  write_file(
      in,
      safetensors_bytes(
          "{" + entry("w", "F7", {2, 3}, 0, 5) + "," + entry("v", "F32", {2, 2}, 5, 21) + "," +
              entry("x\\u001b[2J" + std::string(3000, 'x'), "\\u001b[31mF9" + long_type, {4}, 21, 25) + "}",
          data(25)));
  const Result shown = nfloat({"inspect", in});
  ASSERT_TRUE(shown.ok()) << shown;
  for (const char* word : {"F7", "[2, 3]", "5 B", "unknown", "F32", "\\x1b[31mF9",
                           "2 tensors of a type that nfloat does not know ('F7' of 'w'): no command can use"})
    EXPECT_NE(shown.out.find(word), std::string::npos) << word << shown;
  EXPECT_EQ(shown.out.find('\x1b'), std::string::npos) << shown;
  EXPECT_LT(shown.out.size(), 5000u) << shown;
  const Result json = nfloat({"inspect", in, "--json"});
  ASSERT_TRUE(json.ok()) << json;
  const Json tensors = Json::parse(json.out).at("tensors");
  ASSERT_EQ(tensors.size(), 3u);
  EXPECT_EQ(tensors[0].at("layout"), "plain");
  EXPECT_EQ(tensors[1].at("name"), "w");
  EXPECT_EQ(tensors[1].at("dtype"), "F7");
  EXPECT_EQ(tensors[1].at("layout"), "unknown");
  EXPECT_EQ(tensors[1].at("bytes"), 5);
  EXPECT_EQ(tensors[2].at("dtype"), "\x1b[31mF9" + long_type);
  write_file(path("good.safetensors"), plain_file(8, 8));
  for (const std::vector<std::string>& command :
       std::vector<std::vector<std::string>>{{"quantize", in, out},
                                             {"dequantize", in, out},
                                             {"convert", in, path("out")},
                                             {"analyze", in},
                                             {"inspect", in, "--check"},
                                             {"inspect", in, "--against", path("good.safetensors")}})
    expect_complaint(nfloat(command), {"in.safetensors", "'w'", "unknown dtype 'F7'"});
  const Result original = nfloat({"inspect", path("good.safetensors"), "--against", in});
  EXPECT_EQ(original.exit_code, 1) << original;
  EXPECT_NE(original.err.find("'w': unknown dtype 'F7'"), std::string::npos) << original;
  EXPECT_FALSE(std::filesystem::exists(out));
}

TEST_F(HostileSafetensors, UnknownTypesInShardsAreListed) {
  std::filesystem::create_directory(path("in"));
  const std::string first = "model-00001-of-00002.safetensors", second = "model-00002-of-00002.safetensors";
  write_file(path("in/" + first), safetensors_bytes("{" + entry("w", "F7", {8}, 0, 7) + "}", data(7)));
  write_file(path("in/" + second), safetensors_bytes("{" + entry("v", "F32", {2}, 0, 8) + "}", data(8)));
  const std::string index = path("in/model.safetensors.index.json");
  write_file(index, R"({"weight_map": {"w": ")" + first + R"(", "v": ")" + second + "\"}}");
  const Result shown = nfloat({"inspect", path("in")});
  ASSERT_TRUE(shown.ok()) << shown;
  EXPECT_NE(shown.out.find("1 tensor of a type"), std::string::npos) << shown;
  write_file(index, R"({"weight_map": {"w": ")" + second + R"(", "v": ")" + second + "\"}}");
  expect_complaint(nfloat({"inspect", path("in")}), {"'w'", second, "does not have it"});
}

// 100 MB of header is the format's own limit: read in bounded memory, one byte more is refused unread.
TEST_F(HostileSafetensors, HeadersOf100Megabytes) {
  const std::string in = path("in.safetensors");
  std::string header = "{\"__metadata__\":{";
  for (int i = 0; header.size() < 99'999'000; ++i) {
    header += (i > 0 ? ",\"k" : "\"k") + std::to_string(i) + "\":\"" + std::string(900, 'v') + "\"";
  }
  header += "}," + entry("w", "F32", {2, 2}, 0, 12) + "}";
  write_file(in, safetensors_bytes(header, data(12)));
  const Result result = nfloat({"inspect", in});
  expect_complaint(result, {"in.safetensors", "w"});
  if (!nfloat::testing::kSanitized) {
    EXPECT_LT(result.peak_bytes, 512 << 20);
  }
  header.resize(100'000'001, ' ');
  write_file(in, safetensors_bytes(header, data(12)));
  expect_complaint(nfloat({"inspect", in}), {"in.safetensors", "100000000"});
}

}  // namespace
}  // namespace nfloat::cli_test
