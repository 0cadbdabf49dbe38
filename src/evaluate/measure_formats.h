// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_EVALUATE_MEASURE_FORMATS_H_
#define NFLOAT_EVALUATE_MEASURE_FORMATS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "evaluate/format_work.h"
#include "nfloat/compare.h"

namespace nfloat {

// Whether formats can be measured on the model one layer at a time: of a folder, with all matrices that
// formats replace in its layers.
bool has_layers_of_its_own(const Checkpoint& checkpoint, const ModelConfig& config);

// Several formats measured in one pass over the layers of a model: each layer is read once, and of each
// format only the layer at work is in memory, beside the hidden states of the text.
class FormatSweep {
 public:
  // `plain`: loaded with stream_layers from `folder`. `options` as of measure_format, without tasks; formats
  // do not ask for options.prepared. `with_plain`: the model itself goes along, for the reference. All
  // arguments must outlive the sweep. Throws as divergence().
  FormatSweep(const Model& plain, const std::string& folder, std::span<const Format* const> formats,
              std::span<const int32_t> tokens, const MeasureOptions& options, bool with_plain);
  ~FormatSweep();

  uint64_t peak_bytes() const noexcept;   // of memory, about
  uint64_t state_bytes() const noexcept;  // of hidden states
  bool states_in_file() const noexcept;

  struct Run {
    // Of the reference: the file where its distributions are written if the model itself goes along, which
    // fills `distributions`; else they are given.
    std::string reference_path, identity;
    std::optional<ReferenceDistributions>& distributions;
    GenerationSpeeds& speeds;
    // A format's measurement when it is there, by its index.
    std::function<void(size_t format, FormatMeasurement measurement)> finished;
    // The name of a format ("plain": the model as it is), the share of all work that is done, from 0 to 1,
    // and the perplexity so far, 0 before the last layer. May be null, may throw to cancel.
    std::function<void(const std::string& format, double share, double perplexity)> progress;
    // Where a pass that was cancelled goes on: written when progress throws kInterrupted, and every few
    // minutes; removed at the end. Empty: nowhere.
    std::string kept_path = {};
  };
  // Takes all through the layers. Throws as measure_format().
  void run(const Run& run);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace nfloat

#endif  // NFLOAT_EVALUATE_MEASURE_FORMATS_H_
