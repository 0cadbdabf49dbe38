// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/json.h"
#include "kernels/dispatch.h"
#include "nfloat/checkpoint.h"
#include "nfloat/quantize.h"
#include "quantize/blocks.h"
#include "support/files.h"
#include "support/paths.h"

// Byte for byte what bitsandbytes' own code wrote, through the public functions.
namespace nfloat {
namespace {

const std::filesystem::path kGolden =
    std::filesystem::path(testing::source_path("/tests/golden/bitsandbytes"));

std::vector<std::string> golden_cases() {
  std::vector<std::string> names;
  for (const auto& entry : Json::parse(testing::read_file(kGolden / "cases.json")))
    names.push_back(entry.at("case").text());
  return names;
}

template <typename T>
std::vector<T> values_of(const TensorView& view) {
  std::vector<T> values(view.bytes.size() / sizeof(T));
  std::memcpy(values.data(), view.bytes.data(), values.size() * sizeof(T));
  return values;
}

uint32_t bits_of(float value) {
  return std::bit_cast<uint32_t>(value);
}

class Golden : public ::testing::TestWithParam<std::string> {
 protected:
  const Checkpoint file_{(kGolden / (GetParam() + ".safetensors")).string()};
  const QuantizedView expected_ = file_.quantized("weight");
  const TensorView input_ = file_.view("input");
  const TensorView output_ = file_.view("dequantized");
  const Codebook codebook_ = make_codebook(expected_.quant_type, expected_.block_size);
};

TEST_P(Golden, TheBytesOfBitsandbytes) {
  const QuantizedTensor made = quantize_blockwise(
      input_, codebook_, {.block_size = expected_.block_size, .double_quantization = expected_.nested});
  EXPECT_EQ(made.codes, values_of<uint8_t>(expected_.codes));
  EXPECT_EQ(made.codebook.levels, values_of<float>(expected_.quant_map));
  if (expected_.nested) {
    EXPECT_EQ(made.nested.codes, values_of<uint8_t>(expected_.absmax));
    EXPECT_EQ(made.nested.absmax, values_of<float>(expected_.nested_absmax));
    EXPECT_EQ(bits_of(made.nested.offset), bits_of(expected_.nested_offset));
  } else {
    EXPECT_EQ(made.scales, values_of<float>(expected_.absmax));
  }
  std::vector<std::byte> output(output_.bytes.size());
  dequantize_blockwise(made, output_.dtype, output);
  EXPECT_EQ(std::memcmp(output.data(), output_.bytes.data(), output.size()), 0);
}

TEST_P(Golden, TheSameBytesOnEveryTarget) {
  const kernels::CodeTable table = make_code_table(codebook_);
  const kernels::ElementType type = input_.dtype == DType::kF32   ? kernels::ElementType::kF32
                                    : input_.dtype == DType::kF16 ? kernels::ElementType::kF16
                                                                  : kernels::ElementType::kBF16;
  const int64_t elements = input_.elements();
  const auto blocks = static_cast<size_t>((elements + expected_.block_size - 1) / expected_.block_size);
  for (const kernels::KernelTable* target : kernels::runnable_tables()) {
    SCOPED_TRACE(target->name);
    std::vector<uint8_t> codes(static_cast<size_t>((elements + 1) / 2));
    std::vector<float> scales(blocks);
    const kernels::BlocksArgs args{input_.data(), type, elements, expected_.block_size, &table};
    EXPECT_EQ(target->quantize.quantize(args, scales.data(), codes.data()), -1);
    EXPECT_EQ(codes, values_of<uint8_t>(expected_.codes));
    if (expected_.nested) continue;
    EXPECT_EQ(scales, values_of<float>(expected_.absmax));
    std::vector<std::byte> output(output_.bytes.size());
    target->quantize.decode(
        {codes.data(), scales.data(), &table, elements, expected_.block_size, type, output.data(), false});
    EXPECT_EQ(std::memcmp(output.data(), output_.bytes.data(), output.size()), 0);
  }
}

INSTANTIATE_TEST_SUITE_P(AllCases, Golden, ::testing::ValuesIn(golden_cases()),
                         [](const auto& instance) { return instance.param; });

}  // namespace
}  // namespace nfloat
