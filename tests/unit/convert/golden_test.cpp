// SPDX-License-Identifier: Apache-2.0
// Whole files against the tensors that bitsandbytes itself quantized (tests/golden/bitsandbytes).
#include <gtest/gtest.h>

#include "base/json.h"
#include "nfloat/convert.h"
#include "support/files.h"
#include "support/paths.h"

namespace nfloat {
namespace {

namespace fs = std::filesystem;

const fs::path kGolden = fs::path(testing::source_path("/tests/golden/bitsandbytes"));

std::vector<std::string> case_names() {
  const auto cases = Json::parse(testing::read_file(kGolden / "cases.json"));
  std::vector<std::string> names;
  for (const auto& entry : cases) names.push_back(entry["case"].text());
  return names;
}

class Golden : public testing::TemporaryFolder, public ::testing::WithParamInterface<std::string> {};

std::string bytes_of(const Checkpoint& checkpoint, const std::string& name) {
  const TensorView view = checkpoint.view(name);
  return {reinterpret_cast<const char*>(view.bytes.data()), view.bytes.size()};
}

TEST_P(Golden, FilesAreBitsandbytesByteForByte) {
  const Checkpoint golden((kGolden / (GetParam() + ".safetensors")).string());
  const QuantizedView expected = golden.quantized("weight");
  const TensorInfo& input_info = *golden.find("input");
  testing::write_safetensors(path("in.safetensors"), {{"weight", std::string(dtype_name(input_info.dtype)),
                                                       input_info.shape.dims(), bytes_of(golden, "input")}});
  const Checkpoint input(path("in.safetensors"));
  QuantizeCheckpointOptions options;
  options.format = expected.quant_type;
  options.quantize.block_size = expected.block_size;
  options.quantize.double_quantization = expected.nested;
  for (int threads : {1, 2}) {
    ConvertControl control;
    control.threads = threads;
    control.overwrite = true;
    quantize_checkpoint(input, path("out.safetensors"), options, control);
    const Checkpoint output(path("out.safetensors"));
    std::vector<std::string> names = golden.companions("weight");
    names.push_back("weight");
    for (const std::string& name : names) {
      ASSERT_NE(output.find(name), nullptr) << name;
      EXPECT_EQ(output.find(name)->dtype, golden.find(name)->dtype) << name;
      EXPECT_EQ(output.find(name)->shape, golden.find(name)->shape) << name;
      EXPECT_TRUE(bytes_of(output, name) == bytes_of(golden, name)) << name;
    }
    EXPECT_EQ(output.tensors().size(), names.size());
    dequantize_checkpoint(output, path("back.safetensors"), input_info.dtype, 5'000'000'000, control);
    const Checkpoint back(path("back.safetensors"));
    EXPECT_EQ(back.find("weight")->shape, input_info.shape);
    EXPECT_TRUE(bytes_of(back, "weight") == bytes_of(golden, "dequantized"));
  }
}

INSTANTIATE_TEST_SUITE_P(Bitsandbytes, Golden, ::testing::ValuesIn(case_names()),
                         [](const auto& parameter) { return parameter.param; });

TEST(GoldenCases, AreAllThere) {
  EXPECT_EQ(case_names().size(), 42u);
}

}  // namespace
}  // namespace nfloat
