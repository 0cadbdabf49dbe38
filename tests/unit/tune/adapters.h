// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TESTS_UNIT_TUNE_ADAPTERS_H_
#define NFLOAT_TESTS_UNIT_TUNE_ADAPTERS_H_

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

#include "base/state_of.h"
#include "tune/adapter.h"
#include "unit/model/random_model.h"

namespace nfloat::testing {

// An adapter of rank 3 that changes what the model computes.
inline Adapter random_adapter(const Model& model, TrainOptions options = {}) {
  options.rank = 3;
  options.alpha = 4;
  Adapter adapter = make_adapter(state_of(model), options);
  std::mt19937 generator(11);
  std::normal_distribution<float> normal;
  for (LoraModule& module : adapter.modules) {
    for (float& value : module.b) value = 0.1f * normal(generator);
    module.refresh();
  }
  return adapter;
}

// Of a model of 61 tokens that is trained in a moment.
inline constexpr const char* kTrainedModel =
    R"({"model_type": "llama", "hidden_size": 64, "intermediate_size": 96,
  "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 61,
  "max_position_embeddings": 200, "tie_word_embeddings": true})";

// Rows of 5 to 34 of its tokens, all of them predicted.
inline std::vector<TrainRow> random_rows(size_t count, unsigned seed) {
  std::mt19937 generator(seed);
  std::vector<TrainRow> rows(count);
  for (TrainRow& row : rows) {
    row.tokens.resize(5 + generator() % 30);
    for (int32_t& token : row.tokens) token = static_cast<int32_t>(generator() % 61);
    row.labels = row.tokens;
  }
  return rows;
}

// The bytes of a file.
inline std::string bytes_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// How far the second lies from the first, by the norm of the first.
inline double apart(const std::vector<float>& x, const std::vector<float>& y) {
  EXPECT_EQ(x.size(), y.size());
  double sum = 0, norm = 0;
  for (size_t i = 0; i < std::min(x.size(), y.size()); ++i) {
    sum += std::pow(static_cast<double>(x[i]) - static_cast<double>(y[i]), 2);
    norm += std::pow(static_cast<double>(x[i]), 2);
  }
  return std::sqrt(sum / norm);
}

}  // namespace nfloat::testing

#endif  // NFLOAT_TESTS_UNIT_TUNE_ADAPTERS_H_
