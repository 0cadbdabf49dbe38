// SPDX-License-Identifier: Apache-2.0
#include <optional>

#include "evaluate/format_work.h"
#include "nfloat/error.h"

namespace nfloat {

FormatMeasurement measure_format(const std::string& path, const Format& format,
                                 const ReferenceDistributions& reference, std::span<const int32_t> tokens,
                                 const MeasureOptions& options) {
  std::vector<float> scratch;
  FormatWork work(format, options, scratch);
  ModelOptions own;
  own.precision = options.precision;
  own.threads = options.threads;
  own.device = options.device;
  own.transform = [&](const std::string& name, std::span<float> weights, int64_t rows, int64_t cols) {
    work.transform(name, weights, rows, cols);
  };
  own.norms = options.norms;
  const std::string folder = resolve_model_path(path);
  const Checkpoint checkpoint(folder);
  DivergenceResult found;
  std::vector<TaskResult> tasks;
  try {
    const Model model = Model::load(folder, own);
    if (work.idle()) return work.refused("the weights are already quantized");
    if (options.loaded) options.loaded(model);
    PerplexityOptions scoring = options.scoring;
    scoring.precision = options.precision;
    try {
      found = divergence(reference, model, tokens, scoring);
      if (options.tasks) tasks = options.tasks(model);
    } catch (const Error& error) {
      // The plain model's numbers were finite: this format's error makes them grow.
      if (error.code() != ErrorCode::kNotFinite) throw;
      return work.refused(error.what());
    }
  } catch (const Refused& refused) {
    return work.refused(refused.why);
  }
  GenerationSpeeds speeds;
  FormatMeasurement result = work.finish(folder, checkpoint, std::move(found), speeds);
  result.tasks = std::move(tasks);
  return result;
}

}  // namespace nfloat
