// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_COMPARE_H_
#define NFLOAT_COMPARE_H_

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "nfloat/api.h"
#include "nfloat/convert.h"
#include "nfloat/evaluate.h"
#include "nfloat/formats.h"
#include "nfloat/tasks.h"

// The effect of a number format on a model: on its weights, its size, its predictions.
namespace nfloat {

struct MeasureOptions {
  PerplexityOptions scoring;
  Precision precision =
      Precision::kF32;  // kF32 keeps the decoded weights in float32, others in the file's dtype
  int threads = 0;
  std::string device = {};       // where all models are loaded, as ModelOptions::device
  int64_t generate_tokens = 64;  // decoded to time the kernels; 0: not measured
  // Called with every model that is loaded, before it is run: attaches what is beside the weights. May be
  // empty.
  std::function<void(const Model&)> loaded = nullptr;
  // Of the hidden states of formats that are measured together (nfloat/comparison.h); more go to a file in
  // TMPDIR.
  uint64_t state_memory_bytes = uint64_t{512} << 20;
  // Matrices that were quantized before (calibrate), by name; null for those that the format codes. May be
  // empty.
  std::function<const QuantizedTensor*(const std::string& name)> prepared = nullptr;
  // Factors of norms that go with them, likewise.
  std::function<const Tensor*(const std::string& name)> norms = nullptr;
  // Further tests of the model with its round-tripped weights (evaluate_task); may be empty.
  std::function<std::vector<TaskResult>(const Model&)> tasks = nullptr;
};

struct FormatMeasurement {
  std::string name, summary;
  std::string refused;         // why the format cannot store this model; the members below are then unset
  double bits_per_weight = 0;  // of the matrices of the layers
  uint64_t weights = 0;        // of them
  uint64_t bytes = 0;          // of them
  uint64_t model_bytes = 0;    // with everything that stays as it is: embeddings, head, norms
  std::vector<TensorError> tensors;
  std::vector<uint64_t> code_counts;  // empty for formats without a codebook
  double code_entropy = 0;            // bits a weight
  double coding_seconds = 0;          // quantizing and decoding every matrix once, calibration included
  DivergenceResult divergence;        // from the plain model
  std::array<double, 2> half_kl{};    // mean KL of the first and the second half of the text
  std::array<double, 2> half_loss{};
  double tokens_per_second = 0;  // generated from packed weights; 0: nfloat has no kernel for the format
  std::vector<TaskResult> tasks;

  TensorError total() const;
};

// Loads the model at `path` with its matrices replaced by the format's round trip, one after the other
// (memory: one copy of the model and one matrix in float32), scores the text against the reference, and times
// generation where kernels run the format directly. Throws as Model::load and divergence do; a format that
// cannot store a matrix, or weights that are already quantized, are reported in `refused`.
NFLOAT_API FormatMeasurement measure_format(const std::string& path, const Format& format,
                                            const ReferenceDistributions& reference,
                                            std::span<const int32_t> tokens,
                                            const MeasureOptions& options = {});

// The Pareto front: points for which no other has less loss at most the size, or less size at most the loss.
NFLOAT_API std::vector<bool> pareto_front(std::span<const double> size, std::span<const double> loss);

struct ChoiceOptions {
  double budget_bytes = 0;           // of the whole model; 0: none
  double max_divergence = 0;         // mean KL in nats a token; 0: none
  double max_bits_per_weight = 4.6;  // the limit for a 4-bit format when neither of the others is given
  // Whether the user can obtain the format; empty: all are obtainable. Others are not recommended.
  std::function<bool(const FormatMeasurement&)> obtainable = nullptr;
};

// Indices into the measurements; -1: none.
struct Choice {
  int best = -1;  // the least divergence within the budget; without a budget, the smallest within the limit
  int runner_up = -1;      // the next by the same order
  bool separable = false;  // the two differ by more than two standard errors in mean KL
  int smaller = -1;        // the neighbours on the Pareto front of obtainable formats
  int better = -1;
  int out_of_reach = -1;  // the best format that is not obtainable, if better than `best`
};
NFLOAT_API Choice choose_format(std::span<const FormatMeasurement> measurements,
                                const ChoiceOptions& options = {});

// Agreement of the two halves of the text about the order of the formats.
struct RankAgreement {
  double spearman = 1;  // of the two rankings by mean KL
  int64_t pairs = 0;
  std::vector<std::array<int, 2>> swapped;  // pairs that the halves order differently
};
NFLOAT_API RankAgreement rank_agreement(std::span<const FormatMeasurement> measurements);

}  // namespace nfloat

#endif  // NFLOAT_COMPARE_H_
