// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TESTS_UNIT_TUNE_ADAPTERS_H_
#define NFLOAT_TESTS_UNIT_TUNE_ADAPTERS_H_

#include <fstream>
#include <iterator>
#include <random>
#include <string>

#include "base/state_of.h"
#include "tune/adapter.h"
#include "unit/model/random_model.h"

namespace nfloat::testing {

// An adapter of rank 3 that changes what the model computes.
inline Adapter random_adapter(const Model& model) {
  TrainOptions options;
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

// The bytes of a file.
inline std::string bytes_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

}  // namespace nfloat::testing

#endif  // NFLOAT_TESTS_UNIT_TUNE_ADAPTERS_H_
