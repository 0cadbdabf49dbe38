// SPDX-License-Identifier: Apache-2.0
// Every way a safetensors file can lie: a sentence that names the file and the lie, in bounded time and
// memory.
#include <gtest/gtest.h>

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
      {"invalid UTF-8", safetensors_bytes("{\"\xff\xfe\":{}}", data(16)), {"JSON"}},
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
      {"unknown dtype",
       safetensors_bytes("{" + entry("w", "F7", {2, 2}, 0, 16) + "}", data(16)),
       {"w", "F7"}},
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
      EXPECT_LT(result.seconds, 5);
    }
    EXPECT_FALSE(std::filesystem::exists(out));
    EXPECT_TRUE(temporaries(folder_).empty());
  }
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
