// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TESTS_UNIT_MODEL_RANDOM_MODEL_H_
#define NFLOAT_TESTS_UNIT_MODEL_RANDOM_MODEL_H_

#include <cmath>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include "checkpoint/safetensors_writer.h"
#include "model/loader.h"
#include "nfloat/model.h"
#include "reference/llama.h"
#include "support/files.h"

namespace nfloat::testing {

// A model of random float32 weights in a folder, and the same weights for the oracle.
struct RandomModel {
  OwnFolder folder;
  ModelConfig config;
  reference::Weights weights;

  explicit RandomModel(const std::string& config_json, const std::vector<std::string>& left_out = {},
                       ExpertLayout experts = ExpertLayout::kSingle, const std::string& prefix = "",
                       float gain = 1.5f) {
    std::ofstream(folder.path() + "/config.json") << config_json;
    config = parse_model_config(config_json, "config.json");
    std::mt19937 generator(20230523);
    std::normal_distribution<float> normal;
    std::vector<SafetensorsWriter::Declared> declared;
    std::vector<std::vector<std::byte>> values;
    for (const ExpectedTensor& tensor : expected_tensors(config, experts)) {
      if (std::find(left_out.begin(), left_out.end(), tensor.name) != left_out.end()) continue;
      std::vector<int64_t> dims = tensor.shape.dims();
      if (tensor.stored_transposed) std::swap(dims[dims.size() - 1], dims[dims.size() - 2]);
      declared.push_back({prefix + tensor.name, tensor.bytes ? DType::kU8 : DType::kF32, Shape(dims)});
      const auto count = static_cast<size_t>(tensor.shape.elements());
      std::vector<std::byte>& bytes = values.emplace_back();
      if (tensor.bytes) {  // codes, or scales near 2^-4
        const bool scales = tensor.name.ends_with("_scales");
        for (size_t i = 0; i < count; ++i)
          bytes.push_back(static_cast<std::byte>(scales ? 121 + generator() % 4 : generator() % 256));
        for (std::byte byte : bytes) weights[tensor.name].push_back(std::to_integer<int>(byte));
        continue;
      }
      std::vector<float> data(count);
      // Matrices keep the size of what they multiply, so that every layer matters; norms are near one.
      const bool bias = tensor.name.ends_with("bias") || tensor.name.ends_with("sinks");
      const bool matrix = tensor.shape.rank() >= 2 && !bias;
      const float spread =
          matrix ? gain / std::sqrt(static_cast<float>(tensor.shape[tensor.shape.rank() - 1])) : 0.2f;
      for (float& value : data) value = (matrix || bias ? 0.0f : 1.0f) + spread * normal(generator);
      weights[tensor.name] = reference::Vector(data.begin(), data.end());
      const auto raw = std::as_bytes(std::span(data));
      bytes.assign(raw.begin(), raw.end());
    }
    SafetensorsWriter writer(folder.path() + "/model.safetensors", declared, {});
    for (size_t i = 0; i < values.size(); ++i) writer.write(i, 0, values[i]);
    writer.finish();
    writer.commit();
  }

  std::vector<int32_t> tokens(int64_t count) const {
    std::mt19937 generator(7);
    std::vector<int32_t> list(static_cast<size_t>(count));
    for (int32_t& token : list)
      token = static_cast<int32_t>(generator() % static_cast<uint32_t>(config.vocabulary));
    return list;
  }

  // Logits of every token by the oracle.
  std::vector<reference::Vector> oracle(const std::vector<int32_t>& tokens, int64_t context) const {
    reference::Llama llama(config, weights, context);
    std::vector<reference::Vector> logits;
    for (int32_t token : tokens) logits.push_back(llama.step(token));
    return logits;
  }
};

// Largest difference, and the root mean square of the expected logits to compare it with.
inline double largest_difference(std::span<const float> found, const reference::Vector& expected) {
  double largest = found.size() == expected.size() ? 0 : INFINITY;
  for (size_t i = 0; i < expected.size() && i < found.size(); ++i)
    largest = std::max(largest, std::abs(static_cast<double>(found[i]) - expected[i]));
  return largest;
}

inline double root_mean_square(const reference::Vector& values) {
  double squares = 0;
  for (double value : values) squares += value * value;
  return std::sqrt(squares / static_cast<double>(values.size()));
}

}  // namespace nfloat::testing

#endif  // NFLOAT_TESTS_UNIT_MODEL_RANDOM_MODEL_H_
