// SPDX-License-Identifier: Apache-2.0
// 8-bit floats with scales and MXFP4 are read as values; the expectations are written out by hand or computed
// from the definitions of the formats.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "nfloat/checkpoint.h"
#include "nfloat/error.h"
#include "support/files.h"

namespace nfloat {
namespace {

using testing::RawTensor;
using testing::write_file;
using testing::write_safetensors;

std::string float_bytes(const std::vector<float>& values) {
  std::string bytes(values.size() * sizeof(float), '\0');
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

RawTensor floats(const std::string& name, const std::vector<int64_t>& shape,
                 const std::vector<float>& values) {
  return {name, "F32", shape, float_bytes(values)};
}

RawTensor bytes(const std::string& name, const std::string& dtype, const std::vector<int64_t>& shape,
                const std::string& data) {
  return {name, dtype, shape, data};
}

class ForeignWeights : public testing::TemporaryFolder {
 protected:
  // The folder with these tensors; `config`: config.json, none when empty.
  std::string folder(const std::vector<RawTensor>& tensors, const std::string& config = "{}") {
    const auto inside = folder_ / std::to_string(++folders_);
    std::filesystem::create_directories(inside);
    if (!config.empty()) write_file(inside / "config.json", config);
    write_safetensors(inside / "model.safetensors", tensors);
    return inside.string();
  }

  static std::vector<float> values(const Checkpoint& checkpoint, const std::string& name) {
    const TensorView view = checkpoint.view(name);
    std::vector<float> result(static_cast<size_t>(view.elements()));
    convert_elements(view, DType::kF32, std::as_writable_bytes(std::span(result)));
    return result;
  }

 private:
  int folders_ = 0;
};

constexpr CheckpointOptions kFloats{.decoded = DType::kF32};
constexpr const char* kBlocksOfTwoByThree =
    R"({"quantization_config": {"quant_method": "fp8", "weight_block_size": [2, 3]}})";

// Codes of E4M3: 0x38 is 1, 0x40 2, 0xb0 -0.5, 0x7e 448, 0x01 2^-9, 0x08 2^-6, 0x3c 1.5, 0x80 -0.
TEST_F(ForeignWeights, BlocksOfFloat8WithOddEdges) {
  const Checkpoint checkpoint(
      folder({bytes("a.weight", "F8_E4M3", {3, 4}, "\x38\x40\xb0\x7e\x01\x08\x3c\x80\x38\x38\x38\x38"),
              floats("a.weight_scale_inv", {2, 2}, {2, 10, 0.5f, -4}), floats("norm.weight", {2}, {5, 6})},
             kBlocksOfTwoByThree),
      kFloats);
  EXPECT_EQ(checkpoint.weight_names(), (std::vector<std::string>{"a.weight", "norm.weight"}));
  EXPECT_EQ(
      values(checkpoint, "a.weight"),
      (std::vector<float>{2, 4, -1, 4480, 2 * 0.001953125f, 2 * 0.015625f, 3, -0.0f, 0.5f, 0.5f, 0.5f, -4}));
  EXPECT_EQ(values(checkpoint, "norm.weight"), (std::vector<float>{5, 6}));
  EXPECT_EQ(checkpoint.stored_type("a.weight"), "F8_E4M3");
  EXPECT_EQ(checkpoint.stored_bytes("a.weight"), 12u + 16u);
  EXPECT_EQ(checkpoint.find("a.weight_scale_inv"), nullptr);
  EXPECT_EQ(checkpoint.foreign_method(), "fp8");
  EXPECT_EQ(checkpoint.foreign_refusal(), "");
}

TEST_F(ForeignWeights, EveryPartOfATensorIsWhatTheWholeIs) {
  std::string codes, blocks;
  for (int i = 0; i < 7 * 11; ++i) codes += static_cast<char>(i * 5 % 120);
  std::vector<float> scales;
  for (int i = 0; i < 16; ++i) scales.push_back(0.25f + static_cast<float>(i));
  for (int i = 0; i < 2 * 3 * 2 * 16; ++i) blocks += static_cast<char>(i * 37);
  const Checkpoint checkpoint(
      folder({bytes("a.weight", "F8_E4M3", {7, 11}, codes), floats("a.weight_scale_inv", {4, 4}, scales),
              bytes("b_blocks", "U8", {2, 3, 2, 16}, blocks),
              bytes("b_scales", "U8", {2, 3, 2}, "\x7f\x80\x81\x7e\x7d\x7c\x7f\x80\x81\x7e\x7d\x7c")},
             kBlocksOfTwoByThree),
      kFloats);
  for (const char* name : {"a.weight", "b"}) {
    const std::vector<float> whole = values(checkpoint, name);
    for (size_t begin = 0; begin < whole.size(); begin += 3)
      for (size_t end = begin + 1; end <= whole.size(); end += 5) {
        std::vector<float> part(end - begin);
        checkpoint.read(*checkpoint.find(name), begin * 4, std::as_writable_bytes(std::span(part)));
        ASSERT_EQ(std::memcmp(part.data(), whole.data() + begin, part.size() * 4), 0)
            << name << " " << begin << " " << end;
      }
    std::vector<std::byte> half(2);
    EXPECT_THROW(checkpoint.read(*checkpoint.find(name), 2, half), Error);
  }
}

TEST_F(ForeignWeights, OneScaleForAllOrForEachRowOrForEachExpert) {
  const std::string twos = "\x40\x40\x40\x40\x40\x40";
  const Checkpoint checkpoint(
      folder({bytes("a.weight", "F8_E4M3", {2, 3}, twos), floats("a.weight_scale", {}, {3}),
              bytes("b.weight", "F8_E4M3", {2, 3}, twos), floats("b.weight_scale", {1}, {4}),
              bytes("c.weight", "F8_E4M3", {2, 3}, twos), floats("c.weight_scale", {2}, {1, 5}),
              bytes("d.weight", "F8_E4M3", {2, 3}, twos), floats("d.weight_scale", {2, 1}, {1, 5}),
              bytes("e.experts.down_proj", "F8_E4M3", {2, 1, 3}, twos),
              floats("e.experts.down_proj_scale", {2, 1, 3}, {1, 2, 3, 4, 5, 6}),
              bytes("f.weight", "F8_E4M3", {2, 1, 3}, twos), floats("f.weight_scale", {2}, {7, 8}),
              floats("a.input_scale", {}, {9}), floats("attn.k_scale", {}, {9})},
             R"({"quantization_config": {"quant_method": "compressed-tensors", "format": "float-quantized",
                 "config_groups": {"group_0": {"weights": {"type": "float", "num_bits": 8}}}}})"));
  EXPECT_EQ(checkpoint.foreign_refusal(), "");
  EXPECT_EQ(checkpoint.tensors().size(), 6u);
  EXPECT_EQ(checkpoint.find("a.weight")->dtype, DType::kBF16);
  EXPECT_EQ(values(checkpoint, "a.weight"), std::vector<float>(6, 6));
  EXPECT_EQ(values(checkpoint, "b.weight"), std::vector<float>(6, 8));
  EXPECT_EQ(values(checkpoint, "c.weight"), (std::vector<float>{2, 2, 2, 10, 10, 10}));
  EXPECT_EQ(values(checkpoint, "d.weight"), (std::vector<float>{2, 2, 2, 10, 10, 10}));
  EXPECT_EQ(values(checkpoint, "e.experts.down_proj"), (std::vector<float>{2, 4, 6, 8, 10, 12}));
  EXPECT_EQ(values(checkpoint, "f.weight"), (std::vector<float>{14, 14, 14, 16, 16, 16}));
}

// E8M0: 2^(code - 127), 255 is NaN. E5M2: 0x3c is 1, 0x7c infinity.
TEST_F(ForeignWeights, ScalesThatArePowersOfTwo) {
  const Checkpoint checkpoint(folder({bytes("a.weight", "F8_E4M3", {1, 4}, "\x38\x38\x40\x40"),
                                      bytes("a.weight_scale_inv", "F8_E8M0", {1, 2}, "\x7f\x82"),
                                      bytes("b.weight", "F8_E4M3", {1, 4}, "\x38\x38\x40\x40"),
                                      bytes("b.weight_scale_inv", "U8", {1, 2}, "\x7d\xff"),
                                      bytes("c.weight", "F8_E5M2", {2}, "\x3c\x7c"),
                                      bytes("c.weight_scale", "BF16", {1}, "\x40\x40")}),
                              kFloats);
  EXPECT_EQ(values(checkpoint, "a.weight"), (std::vector<float>{1, 1, 16, 16}));
  const std::vector<float> b = values(checkpoint, "b.weight");
  EXPECT_EQ(b[1], 0.25f);
  EXPECT_TRUE(std::isnan(b[2]));
  EXPECT_EQ(values(checkpoint, "c.weight"), (std::vector<float>{3, INFINITY}));
  // 255 is no exponent there either.
  const Checkpoint experts(folder({bytes("e_blocks", "U8", {1, 1, 1, 16}, std::string(16, '\x22')),
                                   bytes("e_scales", "U8", {1, 1, 1}, "\xff")}));
  EXPECT_TRUE(std::isnan(values(experts, "e")[0]));
}

TEST_F(ForeignWeights, Float8WithoutAnyScaleIsItsValues) {
  const RawTensor weight = bytes("a.weight", "F8_E5M2", {2}, "\x3c\xbe");
  EXPECT_EQ(values(Checkpoint(folder({weight}, "")), "a.weight"), (std::vector<float>{1, -1.5f}));
  // Unless something may scale it.
  for (const char* other : {"a.scale", "a.scales", "a.weight_my_scale"})
    EXPECT_NE(Checkpoint(folder({weight, floats(other, {1}, {1})})).foreign_refusal().find(other),
              std::string::npos);
  EXPECT_NE(
      Checkpoint(folder({weight}, kBlocksOfTwoByThree)).foreign_refusal().find("'a.weight' has no scale"),
      std::string::npos);
}

// Two experts of two outputs and 32 inputs: the first code of a pair is in the low nibble, the values are
// shown as [experts, in, out].
TEST_F(ForeignWeights, ExpertsInMxfp4) {
  std::string codes(2 * 2 * 16, '\0');
  codes[0] = '\x71';   // expert 0, output 0: 0.5, 6
  codes[16] = '\x0a';  // output 1: -1, 0
  codes[31] = '\xd8';  // output 1, inputs 30 and 31: -0, -3
  codes[47] = '\x20';  // expert 1, output 0: inputs 30 and 31: 0, 1
  const std::vector<RawTensor> tensors = {
      bytes("mlp.experts.down_proj_blocks", "U8", {2, 2, 1, 16}, codes),
      bytes("mlp.experts.down_proj_scales", "U8", {2, 2, 1}, std::string("\x7f\x81\x00\x7f", 4)),
      floats("mlp.experts.down_proj_bias", {2, 2}, {1, 2, 3, 4})};
  const std::string path = folder(tensors, R"({"quantization_config": {"quant_method": "mxfp4"}})");
  const Checkpoint checkpoint(path, kFloats);
  ASSERT_NE(checkpoint.find("mlp.experts.down_proj"), nullptr);
  EXPECT_EQ(checkpoint.find("mlp.experts.down_proj")->shape, Shape({2, 32, 2}));
  EXPECT_EQ(checkpoint.stored_type("mlp.experts.down_proj"), "MXFP4");
  EXPECT_EQ(checkpoint.stored_bytes("mlp.experts.down_proj"), 64u + 4u);
  const std::vector<float> got = values(checkpoint, "mlp.experts.down_proj");
  std::vector<float> expected(2 * 32 * 2);
  expected[0] = 0.5f;
  expected[1] = -4;
  expected[2] = 6;
  expected[61] = -0.0f;
  expected[63] = -12;
  expected[64 + 62] = std::ldexp(1.0f, -127);
  EXPECT_EQ(got, expected);
  EXPECT_TRUE(std::signbit(got[61]));

  const Checkpoint kept(path, {.keep_mxfp4 = true});
  EXPECT_EQ(kept.tensors().size(), 3u);
  EXPECT_EQ(kept.foreign_refusal(), "");
}

TEST_F(ForeignWeights, WhatIsNotClearIsRefusedByName) {
  const RawTensor weight = bytes("a.weight", "F8_E4M3", {6, 8}, std::string(48, '\x38'));
  const auto scale = [](const std::string& name, const std::vector<int64_t>& shape) {
    int64_t count = 1;
    for (const int64_t size : shape) count *= size;
    return floats(name, shape, std::vector<float>(static_cast<size_t>(count), 1));
  };
  const std::string eight = R"("weights": {"type": "float", "num_bits": 8})";
  const auto packed = [&](const std::string& inside) {
    return R"({"quantization_config": {"quant_method": "compressed-tensors", )" + inside + "}}";
  };
  struct Case {
    std::vector<RawTensor> tensors;
    std::string config, named;
  };
  const Case cases[] = {
      {{weight, scale("a.weight_scale_inv", {2, 2})}, "{}", "a.weight"},  // blocks of 3 rows, or of 4 and 2
      {{weight, scale("a.weight_scale_inv", {5, 5})}, kBlocksOfTwoByThree, "[5, 5]"},
      {{weight, scale("a.weight_scale_inv", {3, 2})},
       kBlocksOfTwoByThree,
       "blocks of 2 x 3"},  // not of 2 x 4
      {{weight, scale("a.weight_scale", {8})}, "{}", "a.weight_scale"},
      {{weight, scale("a.weight_scale", {}), scale("a.weight_scale_inv", {})}, "{}", "too"},
      {{weight, bytes("a.weight_scale", "I32", {1}, "abcd")}, "{}", "I32"},
      {{scale("a.weight_scale_inv", {2, 2})}, "{}", "'a.weight' is not there"},
      {{bytes("a.weight", "I8", {2}, "ab"), scale("a.weight_scale", {})}, "{}", "'a.weight' is I8"},
      {{bytes("a.weight", "U8", {2}, "ab"), scale("a.weight_scale", {}), scale("a.weight_scale_2", {})},
       "{}",
       "weight_scale"},
      {{weight, scale("a.weight_scale", {}), scale("a.weight_zero_point", {})}, "{}", "zero_point"},
      {{weight, scale("a.scale_weight", {})}, "{}", "scale_weight"},
      {{weight, scale("a.weight_scale", {}), scale("a.pre_quant_scale", {4})}, "{}", "a.pre_quant_scale"},
      {{bytes("a.W_q", "U8", {2}, "ab")}, "{}", "HQQ"},
      {{bytes("a.weight", "U32", {1}, "abcd"), scale("a.scales", {1}), scale("a.biases", {1})}, "{}", "MLX"},
      {{bytes("x.up_proj_blocks", "U8", {1, 1, 1, 16}, std::string(16, 'x'))}, "{}", "up_proj_blocks"},
      {{bytes("x.up_proj_scales", "U8", {1, 1, 1}, "x")}, "{}", "up_proj_scales"},
      {{bytes("x_blocks", "U8", {1, 1, 1, 8}, std::string(8, 'x')), bytes("x_scales", "U8", {1, 1, 1}, "x")},
       "{}",
       "[1, 1, 1, 8]"},
      {{weight, scale("a.weight_scale", {})}, packed(R"("format": "nvfp4-pack-quantized")"), "nvfp4"},
      {{weight, scale("a.weight_scale", {})},
       packed(R"("config_groups": {"group_0": {"weights": {"type": "int", "num_bits": 4}}})"),
       "int weights of 4"},
      {{weight, scale("a.weight_scale", {})},
       packed(R"("config_groups": {"g": {)" + eight +
              R"(}}, "transform_config": {"config_groups": {"R1": {}}})"),
       "transform_config"},
      {{weight, scale("a.weight_scale", {})},
       R"({"quantization_config": {"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"}})",
       "W4A8_AWQ"},
      {{weight, scale("a.weight_scale", {})},
       R"({"quantization_config": {"quant_method": "quark"}})",
       "quark"},
      {{scale("a.weight", {2})}, R"({"quantization_config": {"quant_method": "fbgemm_fp8"}})", "fbgemm_fp8"},
  };
  for (const Case& one : cases) {
    const Checkpoint checkpoint(folder(one.tensors, one.config));
    EXPECT_NE(checkpoint.foreign_refusal().find(one.named), std::string::npos)
        << one.named << ": " << checkpoint.foreign_refusal();
    EXPECT_EQ(checkpoint.tensors().size(), one.tensors.size()) << one.named;  // shown as they are
  }
}

// Weights and scales of plain models that only sound alike.
TEST_F(ForeignWeights, PlainModelsStayPlain) {
  const std::vector<RawTensor> tensors = {
      floats("logit_scale", {}, {1}),  floats("layer.gamma_scale", {1}, {1}),
      floats("layer.gamma", {1}, {1}), floats("vq.scales", {1}, {1}),
      floats("vq.weight", {1}, {1}),   bytes("mask_blocks", "U8", {1}, "x"),
      floats("attn.k_scale", {}, {1})};
  const Checkpoint checkpoint(folder(tensors));
  EXPECT_EQ(checkpoint.foreign_method(), "");
  EXPECT_EQ(checkpoint.foreign_refusal(), "");
  EXPECT_EQ(checkpoint.tensors().size(), tensors.size());
}

// Codes of bitsandbytes may lie in elements of any type.
TEST_F(ForeignWeights, CodesOfBitsandbytesAreNotFloats) {
  const Checkpoint checkpoint(folder({bytes("a.weight", "F8_E4M3", {2, 1}, "ab"),
                                      bytes("a.weight.quant_state.bitsandbytes__nf4", "U8", {2}, "{}")}));
  EXPECT_EQ(checkpoint.find("a.weight")->dtype, DType::kF8E4M3);
  EXPECT_EQ(checkpoint.foreign_refusal(), "");
}

}  // namespace
}  // namespace nfloat
