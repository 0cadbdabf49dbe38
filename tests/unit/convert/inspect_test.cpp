// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>

#include "nfloat/convert.h"
#include "support/files.h"

namespace nfloat {
namespace {

using testing::raw_bytes;
using testing::RawTensor;
using testing::write_safetensors;

class Inspect : public testing::TemporaryFolder {
 protected:
  // The nine tensors of a small quantized file, to be damaged one at a time.
  std::vector<RawTensor> quantized() {
    std::vector<float> values(128 * 64);
    for (size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<float>(i));
    for (size_t i = 0; i < 64; ++i) values[i] = 0;  // an all-zero block
    write_safetensors(path("in.safetensors"), {{"w", "F32", {128, 64}, raw_bytes(values)}});
    const Checkpoint input(path("in.safetensors"));
    quantize_checkpoint(input, path("q.safetensors"), {},
                        {.progress = {}, .cancelled = {}, .threads = 1, .overwrite = true});
    const Checkpoint output(path("q.safetensors"));
    std::vector<RawTensor> tensors;
    for (const TensorInfo& tensor : output.tensors()) {
      const auto bytes = output.view(tensor).bytes;
      tensors.push_back({tensor.name, std::string(dtype_name(tensor.dtype)), tensor.shape.dims(),
                         std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size())});
    }
    return tensors;
  }

  static RawTensor& named(std::vector<RawTensor>& tensors, const std::string& name) {
    for (RawTensor& tensor : tensors) {
      if (tensor.name == name) return tensor;
    }
    throw std::out_of_range(name);
  }

  std::vector<Finding> check(const std::vector<RawTensor>& tensors) {
    write_safetensors(path("damaged.safetensors"), tensors);
    return check_checkpoint(Checkpoint(path("damaged.safetensors")));
  }

  static bool has(const std::vector<Finding>& findings, bool error, const std::string& text) {
    for (const Finding& finding : findings) {
      if (finding.error == error && finding.text.find(text) != std::string::npos) return true;
    }
    return false;
  }
};

TEST_F(Inspect, ASoundFileHasNotesOnly) {
  const auto findings = check(quantized());
  ASSERT_EQ(findings.size(), 1u);
  EXPECT_TRUE(has(findings, false, "1 of 128 blocks are all zero"));
}

TEST_F(Inspect, DamageIsFound) {
  auto tensors = quantized();
  named(tensors, "w.quant_map").bytes[0] = 1;
  EXPECT_TRUE(has(check(tensors), true, "quant_map is not the table of nf4"));

  tensors = quantized();
  const float infinity = INFINITY;
  std::memcpy(named(tensors, "w.absmax").bytes.data() + 4 * 7, &infinity, 4);
  EXPECT_TRUE(has(check(tensors), true, "not finite, the first is block 7"));

  tensors = quantized();
  std::erase_if(tensors, [](const RawTensor& tensor) { return tensor.name == "w.absmax"; });
  EXPECT_TRUE(has(check(tensors), true, "'w.absmax' is missing"));

  tensors = quantized();
  std::erase_if(tensors,
                [](const RawTensor& tensor) { return tensor.name.find("quant_state") != std::string::npos; });
  EXPECT_TRUE(has(check(tensors), true, "which has no quant_state"));

  tensors = quantized();
  std::erase_if(tensors, [](const RawTensor& tensor) { return tensor.name == "w"; });
  EXPECT_TRUE(has(check(tensors), true, "which is not there"));
}

// Every type that can hold one, whatever it is for; in the middle of large tensors too.
TEST_F(Inspect, WhatIsNotFiniteIsFound) {
  struct Case {
    const char* type;
    size_t bytes;
    uint64_t finite, bad;
  };
  for (const Case& one :
       {Case{"F64", 8, 0x7fefffffffffffffu, 0x7ff0000000000001u}, Case{"F32", 4, 0xff7fffffu, 0xff800000u},
        Case{"F16", 2, 0x7bffu, 0xfe00u}, Case{"BF16", 2, 0xff7fu, 0x7f80u}, Case{"F8_E4M3", 1, 0xfe, 0xff},
        Case{"F8_E5M2", 1, 0x7b, 0xfc}}) {
    for (const size_t at : {size_t{0}, size_t{300001}, size_t{999999}}) {
      std::string bytes;
      for (size_t i = 0; i < 1000000; ++i)
        bytes.append(reinterpret_cast<const char*>(i == at || i == 999999 ? &one.bad : &one.finite),
                     one.bytes);
      const auto findings = check({{"model.norm.weight", one.type, {1000, 1000}, bytes}});
      ASSERT_EQ(findings.size(), 1u) << one.type;
      EXPECT_EQ(findings[0].tensor, "model.norm.weight");
      EXPECT_TRUE(has(findings, true, "the first is element " + std::to_string(at))) << findings[0].text;
      EXPECT_TRUE(has(findings, true, at == 999999 ? "1 of 1000000 values is" : "2 of 1000000 values are"));
    }
  }
  EXPECT_TRUE(check({{"steps", "I16", {3}, std::string(6, '\xff')}}).empty());
  EXPECT_TRUE(check({{"none", "F32", {0}, ""}}).empty());
}

TEST_F(Inspect, ConfigurationAndTensorsMustAgree) {
  const auto folder = path("m");
  std::filesystem::create_directories(folder);
  write_safetensors(folder + "/model.safetensors", quantized());
  const auto findings = [&](const std::string& config) {
    testing::write_file(folder + "/config.json", config);
    return check_checkpoint(Checkpoint(folder));
  };
  EXPECT_TRUE(has(findings("{}"), true, "no quantization_config"));
  EXPECT_TRUE(
      has(findings(R"({"quantization_config":{"bnb_4bit_quant_type":"fp4"}})"), true, "the tensors are nf4"));
  EXPECT_TRUE(
      has(findings(R"({"quantization_config":{"bnb_4bit_quant_type":7}})"), true, "the tensors are nf4"));
  EXPECT_TRUE(has(
      findings(R"({"quantization_config":{"bnb_4bit_quant_type":"nf4","bnb_4bit_use_double_quant":true}})"),
      false, "say otherwise"));
  EXPECT_TRUE(
      has(findings(
              R"({"quantization_config":{"bnb_4bit_quant_type":"nf4","bnb_4bit_quant_storage":"bfloat16"}})"),
          false, "bnb_4bit_quant_storage"));
}

TEST_F(Inspect, ComparesWithThePlainOracle) {
  quantized();
  const Checkpoint original(path("in.safetensors")), approximate(path("q.safetensors"));
  const auto errors = compare_checkpoints(approximate, original);
  ASSERT_EQ(errors.size(), 1u);
  const TensorView view = original.view("w");
  const QuantizedTensor tensor = quantize_blockwise(view, make_codebook("nf4"));
  std::vector<float> decoded(static_cast<size_t>(tensor.elements())), exact(decoded.size());
  dequantize_blockwise(tensor, DType::kF32, std::as_writable_bytes(std::span(decoded)));
  std::memcpy(exact.data(), view.bytes.data(), view.bytes.size());
  double squared = 0, power = 0, largest = 0;
  for (size_t i = 0; i < exact.size(); ++i) {
    const double error = static_cast<double>(decoded[i]) - static_cast<double>(exact[i]);
    squared += error * error;
    power += static_cast<double>(exact[i]) * static_cast<double>(exact[i]);
    largest = std::max(largest, std::fabs(error));
  }
  EXPECT_NEAR(errors[0].squared_error, squared, 1e-12 * squared);
  EXPECT_NEAR(errors[0].squared_original, power, 1e-12 * power);
  EXPECT_EQ(errors[0].max_error, largest);
  EXPECT_GE(errors[0].zeros, 64);
  EXPECT_EQ(errors[0].zeros_kept, errors[0].zeros);
  EXPECT_NEAR(errors[0].sqnr_db(), 10 * std::log10(power / squared), 1e-9);

  write_safetensors(path("other.safetensors"), {{"v", "F32", {1}, raw_bytes<float>({1})}});
  EXPECT_NFLOAT_ERROR(compare_checkpoints(approximate, Checkpoint(path("other.safetensors"))),
                      ErrorCode::kMalformedFile, "'w' of");
  write_safetensors(path("other.safetensors"), {{"w", "F32", {64, 128}, raw_bytes(exact)}});
  EXPECT_NFLOAT_ERROR(compare_checkpoints(approximate, Checkpoint(path("other.safetensors"))),
                      ErrorCode::kMalformedFile, "'w' is [128, 64]");
}

}  // namespace
}  // namespace nfloat
