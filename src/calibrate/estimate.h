// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CALIBRATE_ESTIMATE_H_
#define NFLOAT_CALIBRATE_ESTIMATE_H_

#include <algorithm>
#include <cstdint>
#include <map>

#include "engine/linear_id.h"
#include "nfloat/calibrate.h"

namespace nfloat {

inline constexpr double kCodingBytes = .52;  // of a weight: its code and its share of the scales

// What a calibration has to go through: tokens, and the products of one layer.
struct CalibrationWork {
  int level = 1;
  int64_t layers = 0, all_layers = 0;  // that are left, and all of the model
  int64_t hidden = 0, attention = 0, vocabulary = 0;
  int64_t tokens = 0, held_tokens = 0;  // calibrated on, held back
  int64_t longest = 0;                  // window
  double pairs = 0, held_pairs = 0;     // of tokens that attend to each other
  int64_t distilled_tokens = 0;         // in all steps of level 3
  uint64_t distilled_bytes = 0;         // of memory for them
  uint64_t head_bytes = 0;              // of the original, in memory
  uint64_t states_bytes = 0;            // of hidden states
  bool states_in_file = false;
  bool keeps_codings = true;  // of all layers, in memory

  // Matrices that have their inputs in common.
  struct Product {
    int64_t width = 0;  // of the inputs
    double weights = 0;
    double largest = 0;       // weights of one matrix
    double share = 1;         // of the tokens that go through it
    double stored_bytes = 0;  // of the weights in the checkpoint
  };
  std::map<LinearId, Product> products = {};

  void add_window(int64_t count, bool held) {
    longest = std::max(longest, count);
    (held ? held_tokens : tokens) += count;
    (held ? held_pairs : pairs) += static_cast<double>(count) * static_cast<double>(count) / 2;
  }
  void add_matrix(const LinearId& id, int64_t rows, int64_t width, double share, uint64_t stored_bytes) {
    Product& product = products[id];
    product.width = width;
    product.share = share;
    const double weights = static_cast<double>(rows) * static_cast<double>(width);
    product.weights += weights;
    product.largest = std::max(product.largest, weights);
    product.stored_bytes += static_cast<double>(stored_bytes);
  }
};

// Measures the rate of a product for some hundredths of a second.
CalibrationEstimate estimate_calibration(const CalibrationWork& work, int threads);

}  // namespace nfloat

#endif  // NFLOAT_CALIBRATE_ESTIMATE_H_
