// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <numeric>

#include "checkpoint/safetensors_header.h"
#include "checkpoint/safetensors_writer.h"
#include "nfloat/checkpoint.h"
#include "support/files.h"

namespace nfloat {
namespace {

using testing::safetensors_bytes;

SafetensorsHeader parse(const std::string& header, size_t data_bytes) {
  const std::string bytes = safetensors_bytes(header, std::string(data_bytes, 'x'));
  return parse_safetensors_header(bytes, bytes.size(), "file");
}

TEST(SafetensorsHeader, ReadsTensorsInOffsetOrderAndMetadata) {
  const SafetensorsHeader header = parse(
      R"({"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},"__metadata__":{"format":"pt"},)"
      R"("a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"none":{"dtype":"U8","shape":[0,7],"data_offsets":[16,16]}}   )",
      16);
  ASSERT_EQ(header.tensors.size(), 3u);
  EXPECT_EQ(header.tensors[0].name, "a");
  EXPECT_EQ(header.tensors[0].shape.rank(), 0u);
  EXPECT_EQ(header.tensors[1].name, "b");
  EXPECT_EQ(header.tensors[1].bytes, 12u);
  EXPECT_EQ(header.tensors[1].shape, Shape({2, 3}));
  EXPECT_EQ(header.tensors[2].bytes, 0u);
  EXPECT_EQ(header.metadata.at("format"), "pt");
}

struct Lie {
  const char* header;
  size_t data_bytes;
  const char* said;
};

TEST(SafetensorsHeader, NamesEveryWayToLie) {
  const Lie lies[] = {
      {"[]", 0, "does not begin with '{'"},
      {"", 0, "does not begin with '{'"},
      {"{", 0, "not JSON"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}} x)", 4, "not JSON"},
      {R"({"a":1})", 0, "a number"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
       8, "'a' appears twice"},
      {R"({"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 4, "'dtype' appears twice"},
      {R"({"a":{"dtype":"F32","shape":[1]}})", 4, "no 'data_offsets'"},
      {R"({"a":{"shape":[1],"data_offsets":[0,4]}})", 4, "no 'dtype'"},
      {R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", 4, "no 'shape'"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"more":1}})", 4, "unknown key 'more'"},
      {R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4, "negative number -1"},
      {R"({"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}})", 4, "a fraction"},
      {R"({"a":{"dtype":"F32","shape":[[1]],"data_offsets":[0,4]}})", 4, "an array"},
      {R"({"a":{"dtype":"F32","shape":{"b":1},"data_offsets":[0,4]}})", 4, "a nested object"},
      {R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}})", 4, "overflows"},
      {R"({"a":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4]}})", 4, "too large"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4, "hold 4 bytes"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4, "data_offsets [4, 0]"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4, "has 1 numbers"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 4, "truncated"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}})",
       6, "overlapping"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[6,10]}})",
       10, "leaving a gap"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 7, "belong to none"},
      {R"({"__metadata__":{"a":1}})", 0, "expected strings"},
      {R"({"__metadata__":{"a":{"b":"c"}}})", 0, "a nested object"},
      {R"({"__metadata__":{"a":"b","a":"c"}})", 0, "appears twice"},
  };
  for (const Lie& lie : lies) {
    EXPECT_NFLOAT_ERROR(parse(lie.header, lie.data_bytes), ErrorCode::kMalformedFile, lie.said);
  }
  EXPECT_NFLOAT_ERROR(parse(R"({"a":{"dtype":"Q4","shape":[1],"data_offsets":[0,4]}})", 4),
                      ErrorCode::kUnsupported, "unknown dtype 'Q4'");
}

TEST(SafetensorsHeader, ListsUnknownTypesWhereItIsAsked) {
  const auto list = [](const std::string& header, size_t data_bytes) {
    const std::string bytes = safetensors_bytes(header, std::string(data_bytes, 'x'));
    return parse_safetensors_header(bytes, bytes.size(), "file", true);
  };
  const SafetensorsHeader header = list(
      R"({"a":{"shape":[3],"data_offsets":[0,5],"dtype":"Q4"},"b":{"data_offsets":[5,9],"shape":[1],"dtype":"F32"},)"
      R"("c":{"dtype":"f32","shape":[0,2],"data_offsets":[9,9]}})",
      9);
  ASSERT_EQ(header.tensors.size(), 3u);
  EXPECT_EQ(header.unknown, (std::map<std::string, std::string>{{"a", "Q4"}, {"c", "f32"}}));
  for (const TensorInfo& tensor : header.tensors)
    EXPECT_EQ(tensor.bytes, tensor.name == "a" ? 5u : tensor.name == "b" ? 4u : 0u);
  const std::pair<const char*, const char*> lies[] = {
      {R"({"a":{"dtype":"Q4","shape":[41],"data_offsets":[0,5]}})", "cannot be of shape [41]"},
      {R"({"a":{"dtype":"Q4","shape":[0],"data_offsets":[0,5]}})", "cannot be of shape [0]"},
      {R"({"a":{"dtype":"Q4","shape":[4294967296,4294967296],"data_offsets":[0,5]}})", "overflows"},
      {R"({"a":{"dtype":"Q4","shape":[1],"data_offsets":[5,0]}})", "backwards"},
      {R"({"a":{"dtype":"Q4","shape":[1],"data_offsets":[1,5]}})", "leaving a gap"},
      {R"({"a":{"dtype":"Q4","shape":[1],"data_offsets":[0,4]}})", "belong to none"}};
  for (const auto& lie : lies) EXPECT_NFLOAT_ERROR(list(lie.first, 5), ErrorCode::kMalformedFile, lie.second);
  EXPECT_NFLOAT_ERROR(
      list(R"({"a":{"dtype":")" + std::string(5000, 'Q') + R"(","shape":[1],"data_offsets":[0,5]}})", 5),
      ErrorCode::kMalformedFile, "5000 bytes");
}

TEST(SafetensorsHeader, ChecksTheLengthBeforeReading) {
  const auto check = [](const std::string& bytes) { parse_safetensors_header(bytes, bytes.size(), "file"); };
  EXPECT_NFLOAT_ERROR(check("short"), ErrorCode::kMalformedFile, "too few");
  EXPECT_NFLOAT_ERROR(check(std::string("\xff\xff\xff\xff\xff\xff\xff\xff", 8) + "{}"),
                      ErrorCode::kMalformedFile, "limit");
  EXPECT_NFLOAT_ERROR(check(std::string("\x10\0\0\0\0\0\0\0", 8) + "{}"), ErrorCode::kMalformedFile,
                      "truncated");
}

TEST(SafetensorsHeader, DeepNestingEndsAtOnce) {
  const std::string deep(1'000'000, '[');
  EXPECT_NFLOAT_ERROR(parse("{\"a\":" + deep, 0), ErrorCode::kMalformedFile, "an array");
  std::string objects = "{";
  for (int i = 0; i < 100'000; ++i) objects += "\"a\":{";
  EXPECT_NFLOAT_ERROR(parse(objects, 0), ErrorCode::kMalformedFile, "unknown key");
}

TEST(SafetensorsHeader, EveryTruncationAndFlippedByteIsAnErrorOrAHeader) {
  const std::string good = safetensors_bytes(
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}})", "1234");
  for (size_t length = 0; length < good.size(); ++length) {
    const std::string cut = good.substr(0, length);
    EXPECT_THROW(parse_safetensors_header(cut, cut.size(), "file"), Error) << length;
  }
  for (size_t i = 0; i < good.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string flipped = good;
      flipped[i] = static_cast<char>(flipped[i] ^ (1 << bit));
      try {
        for (const TensorInfo& tensor : parse_safetensors_header(flipped, flipped.size(), "file").tensors) {
          EXPECT_LE(tensor.offset + tensor.bytes, flipped.size());
        }
      } catch (const Error&) {
        // refused by name
      }
    }
  }
}

class Writer : public testing::TemporaryFolder {};

TEST_F(Writer, WhatItWritesIsReadBackAligned) {
  const std::string file = path("out.safetensors");
  std::vector<uint8_t> bytes(7);
  std::iota(bytes.begin(), bytes.end(), uint8_t{1});
  const std::vector<float> floats = {1, 2, 3};
  {
    SafetensorsWriter writer(
        file, {{"bytes", DType::kU8, Shape({7})}, {"floats \"quoted\"\n", DType::kF32, Shape({3, 1})}},
        {"state.b", "state.a"});
    writer.write(1, 4, std::as_bytes(std::span(floats).subspan(1)));
    writer.write(0, 0, std::as_bytes(std::span(bytes)));
    writer.write(1, 0, std::as_bytes(std::span(floats).first(1)));
    writer.write_late("state.a", "{\"x\": 1}");
    EXPECT_THROW(writer.finish(), Error);  // state.b is missing
    writer.write_late("state.b", "{}");
    writer.finish();
    EXPECT_FALSE(std::filesystem::exists(file));
    writer.commit();
  }
  const Checkpoint checkpoint(file);
  EXPECT_EQ(checkpoint.tensors().size(), 4u);
  EXPECT_EQ(checkpoint.metadata(0).at("format"), "pt");
  const TensorView view = checkpoint.view("floats \"quoted\"\n");
  EXPECT_EQ(reinterpret_cast<uintptr_t>(view.bytes.data()) % alignof(float), 0u);
  EXPECT_EQ(std::memcmp(view.bytes.data(), floats.data(), view.bytes.size()), 0);
  EXPECT_EQ(std::memcmp(checkpoint.view("bytes").bytes.data(), bytes.data(), bytes.size()), 0);
  const TensorView state = checkpoint.view("state.a");
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(state.bytes.data()), state.bytes.size()), "{\"x\": 1}");
}

}  // namespace
}  // namespace nfloat
