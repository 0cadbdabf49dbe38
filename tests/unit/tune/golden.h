// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TESTS_UNIT_TUNE_GOLDEN_H_
#define NFLOAT_TESTS_UNIT_TUNE_GOLDEN_H_

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>
#include <vector>

#include "base/json.h"
#include "nfloat/checkpoint.h"
#include "nfloat/model.h"
#include "nfloat/train.h"
#include "support/paths.h"
#include "tune/adapter.h"

// Values that PyTorch operations in double precision gave for the model in models/nfloat-tiny quantized to
// NF4 (blocks of 64, float32 scales): data beside the repository, skipped where it is absent.
namespace nfloat::testing {

inline std::string golden_path(const std::string& name) {
  return shared_path("/train/golden/" + name);
}
inline bool has_golden() {
  return std::filesystem::exists(golden_path("train.json"));
}

inline Json golden_json(const std::string& name) {
  std::ifstream file(golden_path(name), std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  return parse_json(text, name);
}

inline Model golden_model() {
  return Model::load(source_path("/models/nfloat-tiny"),
                     {.quantize = make_codebook("nf4"), .precision = Precision::kF32, .threads = 2});
}

// The adapter's start: one stream of a linear congruential generator over the modules, A then B.
inline void fill_by_generator(Adapter& adapter, uint64_t seed, double b_bound) {
  uint64_t x = seed;
  const auto next = [&x](float bound) {
    x = x * 6364136223846793005u + 1442695040888963407u;
    const auto k = static_cast<int64_t>(x >> 40);
    return static_cast<float>(static_cast<double>(2 * k - (1 << 24)) / (1 << 24)) * bound;
  };
  for (LoraModule& module : adapter.modules) {
    const auto bound = static_cast<float>(1 / std::sqrt(static_cast<double>(module.at().in)));
    for (float& value : module.a) value = next(bound);
    for (float& value : module.b) value = b_bound > 0 ? next(static_cast<float>(b_bound)) : 0.0f;
    module.refresh();
  }
}

inline TrainOptions golden_options() {
  TrainOptions options;
  options.rank = 8;
  options.alpha = 16;
  options.packing = options.shuffle = false;
  options.schedule = TrainSchedule::kLinear;
  options.learning_rate = 0.002;
  options.weight_decay = 0.01;
  options.clip = 0.5;
  options.threads = 2;
  return options;
}

inline double norm_of(std::span<const float> values) {
  double sum = 0;
  for (const float value : values) sum += static_cast<double>(value) * static_cast<double>(value);
  return std::sqrt(sum);
}

inline double distance(std::span<const float> x, std::span<const float> y) {
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i)
    sum += std::pow(static_cast<double>(x[i]) - static_cast<double>(y[i]), 2);
  return std::sqrt(sum);
}

inline std::map<std::string, std::vector<float>> read_tensors(const std::string& path) {
  const Checkpoint file(path);
  std::map<std::string, std::vector<float>> result;
  for (const TensorInfo& info : file.tensors()) {
    std::vector<float> values(static_cast<size_t>(info.shape.elements()));
    convert_elements(file.view(info), DType::kF32, std::as_writable_bytes(std::span(values)));
    result[info.name] = std::move(values);
  }
  return result;
}

}  // namespace nfloat::testing

#endif  // NFLOAT_TESTS_UNIT_TUNE_GOLDEN_H_
