// SPDX-License-Identifier: Apache-2.0
// Checkpoints quantized and decoded on a card (emulated) against the CPU: the files are equal, byte by byte.
#include "nfloat/convert.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>

#include "cuda/warp.h"
#include "engine/block_converter.h"
#include "nfloat/error.h"
#include "support/emulated_card.h"
#include "support/files.h"

namespace nfloat {
namespace {

constexpr const char* kCard = "cuda:emulated";

class OnACard : public testing::TemporaryFolder {
 protected:
  // Weights of every type; the last of odd size. Zeros, the smallest numbers and, with `bad`, a NaN.
  std::string weights(float bad = 0) {
    std::mt19937 generator(5);
    std::normal_distribution<float> normal(0.0f, 0.03f);
    std::vector<float> values(6 * 700 + 6);
    for (float& value : values) value = normal(generator);
    std::fill_n(values.begin() + 128, 64, 0.0f);
    std::fill_n(values.begin() + 192, 64, std::numeric_limits<float>::denorm_min());
    std::vector<uint16_t> bf16(33 * 70), f16(17 * 65);
    for (uint16_t& value : bf16)
      value = static_cast<uint16_t>(0x3c00u + generator() % 512 + (generator() % 2 << 15));
    for (uint16_t& value : f16)
      value = static_cast<uint16_t>(0x1800u + generator() % 4096 + (generator() % 2 << 15));
    if (bad != 0) values[3001] = bad;
    const std::string file = path("in.safetensors");
    testing::write_safetensors(file, {{"a", "F32", {6, 701}, testing::raw_bytes(values)},
                                      {"b", "BF16", {33, 70}, testing::raw_bytes(bf16)},
                                      {"c", "F16", {17, 65}, testing::raw_bytes(f16)}});
    return file;
  }
  ConvertResult quantize(const std::string& device, const QuantizeCheckpointOptions& options) {
    QuantizeCheckpointOptions own = options;
    own.device = device;
    return quantize_checkpoint(Checkpoint(path("in.safetensors")), path("q-" + device + ".safetensors"), own,
                               over());
  }
  static ConvertControl over() {
    ConvertControl control;
    control.overwrite = true;
    return control;
  }
  void expect_same(const std::string& kind) {
    EXPECT_EQ(testing::read_file(path(kind + "-cpu.safetensors")),
              testing::read_file(path(kind + "-" + kCard + ".safetensors")));
  }
};

TEST_F(OnACard, FilesAreTheCpus) {
  weights();
  for (const char* format : {"nf4", "fp4"})
    for (const int64_t block : {16, 64, 4096})
      for (const bool nested : {false, true}) {
        SCOPED_TRACE(::testing::Message() << format << ", blocks of " << block << (nested ? ", nested" : ""));
        QuantizeCheckpointOptions options;
        options.format = format;
        options.quantize.block_size = block;
        options.quantize.double_quantization = nested;
        EXPECT_EQ(quantize("cpu", options).device_parameters, 0);
        const ConvertResult result = quantize(kCard, options);
        EXPECT_EQ(result.device_parameters, 6 * 701 + 33 * 70 + 17 * 65);
        EXPECT_EQ(result.device_parameters, result.plan.quantized_parameters);
        expect_same("q");
        for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
          for (const char* device : {"cpu", kCard}) {
            const ConvertResult back = dequantize_checkpoint(
                Checkpoint(path("q-cpu.safetensors")), path(std::string("d-") + device + ".safetensors"),
                dtype, 5'000'000'000, over(), device);
            EXPECT_EQ(back.device_parameters,
                      std::string(device) == "cpu" ? 0 : back.plan.quantized_parameters);
          }
          expect_same("d");
        }
      }
}

// Several pieces, given to the card by several threads; the last one odd.
TEST_F(OnACard, LargeWeightsGoInPieces) {
  std::mt19937 generator(6);
  std::normal_distribution<float> normal(0.0f, 0.03f);
  std::vector<float> values(3 * 110'001);
  for (float& value : values) value = normal(generator);
  testing::write_safetensors(path("in.safetensors"),
                             {{"a", "F32", {3, 110'001}, testing::raw_bytes(values)}});
  ConvertControl control = over();
  control.threads = 3;
  for (const char* device : {"cpu", kCard}) {
    QuantizeCheckpointOptions options;
    options.device = device;
    quantize_checkpoint(Checkpoint(path("in.safetensors")), path(std::string("q-") + device + ".safetensors"),
                        options, control);
    dequantize_checkpoint(Checkpoint(path("q-cpu.safetensors")),
                          path(std::string("d-") + device + ".safetensors"), DType::kBF16, 5'000'000'000,
                          control, device);
  }
  expect_same("q");
  expect_same("d");
}

// Blocks that the card does not take are decoded here, and counted as such.
TEST_F(OnACard, OtherBlocksAreDecodedByTheCpu) {
  weights();
  QuantizeCheckpointOptions options;
  options.block_sizes = {{"a", 100}};
  quantize("cpu", options);
  for (const char* device : {"cpu", kCard})
    EXPECT_EQ(dequantize_checkpoint(Checkpoint(path("q-cpu.safetensors")),
                                    path(std::string("d-") + device + ".safetensors"), DType::kF32,
                                    5'000'000'000, {}, device)
                  .device_parameters,
              std::string(device) == "cpu" ? 0 : 33 * 70 + 17 * 65);
  expect_same("d");
}

TEST_F(OnACard, WhatIsNotFiniteIsNamedOrTakenAsOnTheCpu) {
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity()}) {
    weights(bad);
    QuantizeCheckpointOptions options;
    std::string texts[2];
    for (const bool card : {false, true}) try {
        quantize(card ? kCard : "cpu", options);
        ADD_FAILURE() << "taken";
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::kNotFinite);
        texts[card ? 1 : 0] = error.what();
      }
    EXPECT_EQ(texts[0], texts[1]);
    EXPECT_NE(texts[0].find("[4, 197]"), std::string::npos) << texts[0];
    options.quantize.allow_nonfinite = true;
    quantize("cpu", options);
    quantize(kCard, options);
    expect_same("q");
    std::filesystem::remove(path("q-cpu.safetensors"));
    std::filesystem::remove(path(std::string("q-") + kCard + ".safetensors"));
  }
}

TEST_F(OnACard, WhatItCannotDoIsRefusedByName) {
  weights();
  const auto expect_refused = [&](const QuantizeCheckpointOptions& options, const char* part) {
    try {
      quantize(kCard, options);
      ADD_FAILURE() << part;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
      EXPECT_NE(std::string(error.what()).find(kCard), std::string::npos) << error.what();
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
    EXPECT_FALSE(std::filesystem::exists(path(std::string("q-") + kCard + ".safetensors")));
  };
  QuantizeCheckpointOptions options;
  options.quantize.scale = ScaleMethod::kSigned;
  expect_refused(options, "absmax alone");
  options = {};
  for (const int64_t block : {100, 8192}) {
    options.quantize.block_size = block;
    expect_refused(options, "blocks of 16 to 4096");
  }
  options = {};
  options.block_sizes = {{"b", 48}};
  expect_refused(options, "blocks of 48");
}

// It is the card that computes: when it fails, so does the conversion, and nothing is left behind.
TEST_F(OnACard, ACardThatFailsIsNamed) {
  weights();
  gpu::machine().fault = "the bus is gone";
  try {
    quantize(kCard, {});
    ADD_FAILURE() << "the failure is not told";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kIo);
    EXPECT_NE(std::string(error.what()).find("the bus is gone"), std::string::npos) << error.what();
  }
  gpu::machine().fault.clear();
  EXPECT_FALSE(std::filesystem::exists(path(std::string("q-") + kCard + ".safetensors")));
}

}  // namespace
}  // namespace nfloat
