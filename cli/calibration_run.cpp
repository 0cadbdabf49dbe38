// SPDX-License-Identifier: Apache-2.0
#include "calibration_run.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "nfloat/error.h"
#include "notes.h"
#include "progress.h"
#include "signals.h"
#include "table.h"

namespace nfloat::cli {
namespace {

std::string in_words(double seconds) {
  if (seconds < 90) return fmt::format("{:.0f} s", std::max(seconds, 1.0));
  if (seconds < 5400) return fmt::format("{:.0f} min", seconds / 60);
  return fmt::format("{:.1f} h", seconds / 3600);
}

CalibrationFile& opened(const std::string& output, const std::string& key,
                        const QuantizeCheckpointOptions& quantize, bool fresh,
                        std::optional<CalibrationFile>& file) {
  const std::string path = output + ".calibration";
  if (fresh) CalibrationFile::discard(path);
  return file.emplace(path, key, quantize);
}

}  // namespace

CalibrationRun::CalibrationRun(const std::string& output, const std::string& key,
                               const QuantizeCheckpointOptions& quantize, bool fresh,
                               std::optional<CalibrationFile>& file)
    : quantize_(quantize), file_(opened(output, key, quantize, fresh, file)) {}

Calibration CalibrationRun::run(const CalibrationSubject& on, const std::string& shown,
                                CalibrationOptions options) {
  const std::string& path = file_.path();
  options.beside = on.beside;
  options.cancelled = interrupted;
  options.states_folder = std::filesystem::absolute(path).parent_path().string();
  options.keep_tensors = false;  // the file has them
  options.earlier_layers = file_.layers();
  options.earlier = [&](int64_t layer) { return file_.layer(layer); };
  const int64_t first = options.earlier_layers;
  bool kept = first > 0;
  options.finished = [&](const CalibratedLayer& layer) {
    file_.append(layer);
    kept = true;
  };
  if (!on.left_out.empty()) note("without the general text beside the ids: {}\n", on.left_out);
  if (kept) note("going on behind {} that {} holds\n", count_of(first, "layer"), path);
  options.estimated = [&](const CalibrationEstimate& estimate) {
    note("calibrating at level {} on {}: about {} and {} of memory{}; {} keeps what is finished\n",
         options.level, shown, in_words(estimate.seconds), format_bytes(estimate.memory_bytes),
         estimate.states_bytes > 0
             ? fmt::format(", {} on the disk for hidden states", format_bytes(estimate.states_bytes))
             : "",
         path);
  };
  ProgressBar bar("calibrate", "layers");
  options.progress = [&](int64_t layer, int64_t layers) {
    bar.update(static_cast<uint64_t>(layer - std::min(first, layer)), static_cast<uint64_t>(layers - first),
               fmt::format("{}/{} layers", layer, layers));
  };
  std::optional<ProgressBar> second;
  options.distilling = [&](int64_t step, int64_t steps, double kl) {
    if (!second) {
      bar.finish();
      second.emplace("distill", "steps");
    }
    second->update(static_cast<uint64_t>(step), static_cast<uint64_t>(steps), fmt::format("KL {:.6f}", kl));
  };
  Calibration result;
  try {
    result = calibrate(on.checkpoint, on.config, on.windows, quantize_, options);
  } catch (const Error& error) {
    if (!kept) file_.remove();
    const bool interrupt = error.code() == ErrorCode::kInterrupted;
    if (!interrupt && (!kept || error.code() != ErrorCode::kIo)) throw;
    const std::string what = interrupt ? "interrupted while calibrating" : error.what();
    throw Error(error.code(), kept ? fmt::format("{}; the same command goes on with {}", what, path)
                                   : fmt::format("{}, before a layer was finished", what));
  } catch (...) {
    if (!kept) file_.remove();
    throw;
  }
  (second ? *second : bar).finish();
  return result;
}

}  // namespace nfloat::cli
