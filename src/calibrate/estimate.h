// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CALIBRATE_ESTIMATE_H_
#define NFLOAT_CALIBRATE_ESTIMATE_H_

#include <cstdint>
#include <map>

#include "engine/linear_id.h"
#include "nfloat/calibrate.h"

namespace nfloat {

// What a calibration has to go through: tokens, and the products of one layer.
struct CalibrationWork {
  int level = 1;
  int64_t layers = 0, all_layers = 0;  // that are left, and all of the model
  int64_t hidden = 0, attention = 0, vocabulary = 0;
  int64_t tokens = 0, held_tokens = 0;  // calibrated on, held back
  int64_t distilled_tokens = 0;         // in all steps of level 3
  uint64_t distilled_bytes = 0;         // of memory for them
  double pairs = 0, held_pairs = 0;     // of tokens that attend to each other

  struct Product {
    int64_t width = 0;  // of its inputs
    double weights = 0;
  };
  std::map<LinearRole, Product> products = {};

  void add_window(int64_t count, bool held) {
    (held ? held_tokens : tokens) += count;
    (held ? held_pairs : pairs) += static_cast<double>(count) * static_cast<double>(count) / 2;
  }
  void add_product(LinearRole role, int64_t rows, int64_t width) {
    products[role].width = width;
    products[role].weights += static_cast<double>(rows) * static_cast<double>(width);
  }
};

// Measures the rate of a product for some hundredths of a second.
CalibrationEstimate estimate_calibration(const CalibrationWork& work, int threads);

}  // namespace nfloat

#endif  // NFLOAT_CALIBRATE_ESTIMATE_H_
