// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>

#include "nfloat/error.h"
#include "nfloat/gguf.h"
#include "unit/gguf/gguf_bytes.h"

namespace nfloat {
namespace {

using testing::GgufBytes;

std::string error_of(const GgufBytes& made, ErrorCode expected = ErrorCode::kMalformedFile) {
  try {
    const GgufFile file(made.span(), "made.gguf");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), expected) << error.what();
    return error.what();
  }
  return "no error";
}

TEST(GgufFile, ReadsValuesAndTensors) {
  for (const uint32_t version : {2u, 3u}) {
    GgufBytes made;
    made.start(2, 5, version).string("general.architecture", "llama").integer("llama.block_count", 7);
    made.text("list").put<uint32_t>(9).put<uint32_t>(8).put<uint64_t>(2).text("a").text("bc");
    made.text("numbers").put<uint32_t>(9).put<uint32_t>(6).put<uint64_t>(2).put(1.5f).put(-2.0f);
    made.text("deep").put<uint32_t>(11).put<int64_t>(-5);
    made.tensor("x.weight", {32, 3}, 2, 0).tensor("y", {4}, 0, 64).data(64 + 16);
    const GgufFile file(made.span(), "made.gguf");
    EXPECT_EQ(file.version(), version);
    EXPECT_EQ(file.text_or("general.architecture", ""), "llama");
    EXPECT_EQ(file.integer_or("llama.block_count", 0), 7);
    EXPECT_EQ(file.integer_or("deep", 0), -5);
    EXPECT_EQ(file.integer_or("absent", 42), 42);
    EXPECT_EQ(file.find_value("list")->text(1), "bc");
    EXPECT_EQ(file.find_value("numbers")->number(1), -2.0);
    EXPECT_EQ(file.find_value("numbers")->to_string(), "[1.5, -2]");
    EXPECT_THROW(file.integer_or("general.architecture", 0), Error);
    ASSERT_EQ(file.tensors().size(), 2u);
    const GgufTensor& x = *file.find("x.weight");
    EXPECT_EQ(x.shape, (Shape{3, 32}));
    EXPECT_EQ(x.bytes, 54u);
    EXPECT_EQ(file.bytes(*file.find("y"))[0], std::byte{64});
  }
}

// The width holds for what is shown: an escape takes up to eight characters for a byte or two.
TEST(GgufFile, ShowsValuesWithinTheirWidth) {
  const std::string controls(100, '\x01'), marks = [] {
    std::string text;
    for (int i = 0; i < 50; ++i) text += "\u202e";
    return text;
  }();
  GgufBytes made;
  made.start(0, 5).string("exact", std::string(60, 'a')).string("longer", std::string(61, 'a'));
  made.string("controls", controls).string("marks", marks);
  made.text("list").put<uint32_t>(9).put<uint32_t>(8).put<uint64_t>(3).text(controls).text(marks).text("a");
  const GgufFile file(made.span(), "made.gguf");
  EXPECT_EQ(file.find_value("exact")->to_string(), '"' + std::string(60, 'a') + '"');
  EXPECT_EQ(file.find_value("longer")->to_string(), '"' + std::string(60, 'a') + "...\"");
  EXPECT_EQ(file.find_value("controls")->to_string(9), "\"\\x01\\x01...\"");
  for (const char* name : {"controls", "marks"}) EXPECT_LE(file.find_value(name)->to_string().size(), 65u);
  EXPECT_LE(file.find_value("list")->to_string().size(), 90u);
}

TEST(GgufFile, NamesWhatIsWrong) {
  const auto expect = [](const GgufBytes& made, const char* part,
                         ErrorCode code = ErrorCode::kMalformedFile) {
    const std::string text = error_of(made, code);
    EXPECT_NE(text.find(part), std::string::npos) << text;
  };
  GgufBytes other;
  other.bytes = "GGML00000000";
  expect(other, "does not begin with");
  expect(GgufBytes().start(0, 0, 1), "version 1", ErrorCode::kUnsupported);
  expect(GgufBytes().start(0, 0, 0x03000000), "big-endian", ErrorCode::kUnsupported);
  expect(GgufBytes().start(uint64_t{1} << 60, 0), "1152921504606846976 tensors");
  expect(GgufBytes().start(0, ~uint64_t{0}), "metadata entries");
  expect(GgufBytes().start(0, 1).put(~uint64_t{0}).data(32), "a metadata key of");
  expect(GgufBytes().start(0, 2).integer("twice", 1).integer("twice", 2), "\"twice\" appears twice");
  expect(GgufBytes().start(0, 1).text("k").put<uint32_t>(13).data(8), "value type 13");
  expect(GgufBytes().start(0, 1).text("k").put<uint32_t>(7).put<uint8_t>(2), "neither 0 nor 1");
  expect(GgufBytes().start(0, 1).text("k").put<uint32_t>(8).put(~uint64_t{0}).data(8), "the file has");
  expect(GgufBytes().start(0, 1).text("k").put<uint32_t>(9).put<uint32_t>(4).put(~uint64_t{0}), "elements");
  expect(GgufBytes().start(0, 1).text("k").put<uint32_t>(9).put<uint32_t>(9).put<uint64_t>(1).data(16),
         "array of arrays", ErrorCode::kUnsupported);
  expect(GgufBytes().start(0, 1).integer("general.alignment", 24), "general.alignment is 24");
  expect(GgufBytes().start(0, 1).integer("general.alignment", 0), "general.alignment is 0");

  const auto one = [](std::initializer_list<uint64_t> dims, uint32_t type, uint64_t offset) {
    return GgufBytes().start(1, 0).tensor("t", dims, type, offset).data(128);
  };
  expect(one({}, 0, 0), "0 dimensions");
  expect(one({1, 1, 1, 1, 1}, 0, 0), "5 dimensions");
  expect(one({4, 0}, 0, 0), "dimension of 0");
  expect(one({uint64_t{1} << 40, uint64_t{1} << 40}, 0, 0), "overflow");
  expect(one({33}, 2, 0), "multiple of 32");
  expect(one({4}, 99, 0), "type 99", ErrorCode::kUnsupported);
  expect(one({4}, 0, 7), "alignment");
  expect(one({33}, 0, 0), "of a data section of 128");
  expect(one({4}, 0, uint64_t{1} << 63), "data section");
  expect(GgufBytes().start(2, 0).tensor("t", {4}, 0, 0).tensor("t", {4}, 0, 32).data(64), "appears twice");
  expect(GgufBytes().start(2, 0).tensor("a", {16}, 0, 0).tensor("b", {4}, 0, 32).data(128), "overlap");
}

TEST(GgufFile, EveryPrefixIsAnErrorAndNotACrash) {
  GgufBytes made;
  made.start(1, 2).string("k", "value").integer("n", 1).tensor("t", {32}, 8, 0).data(34);
  EXPECT_EQ(error_of(made), "no error");
  for (size_t length = 0; length < made.bytes.size(); ++length) {
    GgufBytes cut;
    cut.bytes = made.bytes.substr(0, length);
    EXPECT_NE(error_of(cut), "no error") << length;
  }
}

TEST(GgufFile, OpensAllParts) {
  const std::string base = ::testing::TempDir() + "nfloat-parts-" + std::to_string(::getpid());
  const auto part = [&](int number) { return base + "-0000" + std::to_string(number) + "-of-00002.gguf"; };
  for (uint32_t i = 0; i < 2; ++i) {
    GgufBytes made;
    made.start(1, 3).integer("split.no", i).integer("split.count", 2).integer("split.tensors.count", 2);
    made.tensor(i == 0 ? "first" : "second", {4}, 0, 0).data(16);
    std::ofstream(part(static_cast<int>(i) + 1), std::ios::binary) << made.bytes;
  }
  const GgufFile file(part(2));
  EXPECT_EQ(file.files().size(), 2u);
  ASSERT_EQ(file.tensors().size(), 2u);
  EXPECT_EQ(file.find("second")->file, 1u);
  std::remove(part(2).c_str());
  EXPECT_THROW(GgufFile{part(1)}, Error);
  std::remove(part(1).c_str());
}

}  // namespace
}  // namespace nfloat
