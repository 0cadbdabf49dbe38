// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_EVALUATE_FORMAT_WORK_H_
#define NFLOAT_EVALUATE_FORMAT_WORK_H_

#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "nfloat/compare.h"

namespace nfloat {

// A format that cannot hold a matrix, which is a result and no failure of the run.
struct Refused {
  std::string why;
};

// Tokens a second of generation from packed weights. Speed depends on block size and scale storage and not on
// the levels: formats that share these are measured once.
class GenerationSpeeds {
 public:
  // Loads the model at `path`, packed.
  double measure(const std::string& path, const PackedFormat& packed, const MeasureOptions& options);

 private:
  std::map<std::pair<int64_t, bool>, double> found_;
};

// A format at work on the matrices of a model, and what that says of the format.
class FormatWork {
 public:
  // All must outlive it. `scratch`: of one matrix, for any number of formats that take turns.
  FormatWork(const Format& format, const MeasureOptions& options, std::vector<float>& scratch);

  // As ModelOptions::transform. Throws Refused, and Error naming the matrix.
  void transform(const std::string& name, std::span<float> weights, int64_t rows, int64_t cols);

  // Of a format that cannot store the model.
  FormatMeasurement refused(const std::string& why) const;
  // After all matrices. The model is that at `path`.
  FormatMeasurement finish(const std::string& path, const Checkpoint& checkpoint, DivergenceResult divergence,
                           GenerationSpeeds& speeds);

  // What the matrices so far have shown, for a run that goes on later, and back: throws JsonError.
  Json found() const;
  void restore(const Json& found);

  const Format& format() const noexcept { return format_; }
  // No matrix was seen.
  bool idle() const noexcept { return result_.tensors.empty(); }

 private:
  void record(const std::string& name, std::span<const float> after);

  const Format& format_;
  const MeasureOptions& options_;
  FormatMeasurement result_;
  std::vector<float>& before_;  // the matrix at work
};

}  // namespace nfloat

#endif  // NFLOAT_EVALUATE_FORMAT_WORK_H_
