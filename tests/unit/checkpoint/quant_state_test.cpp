// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/quant_state.h"

#include <gtest/gtest.h>

#include "support/files.h"

namespace nfloat {
namespace {

TEST(QuantState, TextIsBitsandbytes) {
  const char* nested =
      R"({"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [128, 192], "nested_blocksize": 256, )"
      R"("nested_dtype": "float32", "nested_offset": 0.05176003649830818})";
  const QuantState state = parse_quant_state(nested, "file");
  EXPECT_EQ(format_quant_state(state), nested);
  EXPECT_EQ(state.shape, Shape({128, 192}));
  EXPECT_EQ(state.dtype, DType::kBF16);
  EXPECT_TRUE(state.nested);
  const char* flat = R"({"quant_type": "fp4", "blocksize": 4096, "dtype": "float32", "shape": [5, 77]})";
  EXPECT_EQ(format_quant_state(parse_quant_state(flat, "file")), flat);
}

TEST(QuantState, FloatsArePrintedAsPythonDoes) {
  QuantState state;
  state.quant_type = "nf4";
  state.shape = Shape({1, 1});
  state.nested = true;
  const std::pair<float, const char*> cases[] = {{0.0f, "0.0"},
                                                 {1.0f, "1.0"},
                                                 {1e-5f, "9.999999747378752e-06"},
                                                 {-2.5f, "-2.5"},
                                                 {1e20f, "1.0000000200408773e+20"}};
  for (const auto& [value, text] : cases) {
    state.nested_offset = value;
    const std::string json = format_quant_state(state);
    EXPECT_TRUE(json.ends_with(std::string("\"nested_offset\": ") + text + "}")) << json;
    EXPECT_EQ(parse_quant_state(json, "file").nested_offset, value);
  }
}

TEST(QuantState, NamesWhatIsWrong) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "not valid JSON"},
      {"[1]", "not a JSON object"},
      {"{\"quant_type\": \"nf4\"", "not valid JSON"},
      {R"({"quant_type": "nf5", "blocksize": 64, "dtype": "float32", "shape": [1]})",
       "quant_type is \"nf5\""},
      {R"({"blocksize": 64, "dtype": "float32", "shape": [1]})", "no 'quant_type'"},
      {R"({"quant_type": "nf4", "blocksize": 0, "dtype": "float32", "shape": [1]})", "'blocksize' is 0"},
      {R"({"quant_type": "nf4", "blocksize": -64, "dtype": "float32", "shape": [1]})", "'blocksize' is -64"},
      {R"({"quant_type": "nf4", "blocksize": 1e300, "dtype": "float32", "shape": [1]})", "'blocksize'"},
      {R"({"quant_type": "nf4", "blocksize": 64, "dtype": "int8", "shape": [1]})", "dtype is \"int8\""},
      {R"({"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": 5})", "shape is not a list"},
      {R"({"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": []})", "shape is not a list"},
      {R"({"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [-1]})", "dimension"},
      {R"({"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [4294967296, 4294967296]})",
       "overflows"},
      {R"({"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [1], "nested_blocksize": 256})",
       "no 'nested_offset'"},
      {R"({"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [1], "nested_blocksize": 256, "nested_offset": 1e300})",
       "nested_offset is not a finite number"},
  };
  for (const auto& entry : cases) {
    EXPECT_NFLOAT_ERROR(parse_quant_state(entry.first, "file"), ErrorCode::kMalformedFile, entry.second);
  }
  EXPECT_NFLOAT_ERROR(parse_quant_state(std::string(1 << 17, ' ') + "{}", "file"), ErrorCode::kMalformedFile,
                      "bytes");
  const std::string deep = std::string(30'000, '[') + std::string(30'000, ']');
  EXPECT_NFLOAT_ERROR(parse_quant_state(deep, "file"), ErrorCode::kMalformedFile,
                      "nested deeper than 8 levels");
  EXPECT_NFLOAT_ERROR(parse_quant_state("{\"quant_type\": " + deep + "}", "file"), ErrorCode::kMalformedFile,
                      "nested deeper than 8 levels");
}

}  // namespace
}  // namespace nfloat
