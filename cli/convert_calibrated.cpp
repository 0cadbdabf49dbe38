// SPDX-License-Identifier: Apache-2.0
#include "convert_calibrated.h"

#include <fmt/format.h>

#include <algorithm>

#include "calibration_run.h"
#include "nfloat/error.h"
#include "notes.h"
#include "progress.h"
#include "signals.h"
#include "table.h"

namespace nfloat::cli {

namespace {

CalibrationSubject subject(const std::string& folder, const ConvertCalibration& calibration) {
  return calibration_subject(folder, calibration.text,
                             calibration.tokens > 0 ? calibration.tokens : calibration_tokens(1));
}

}  // namespace

std::shared_ptr<const ImportanceMatrix> importance_of_text(const std::string& folder,
                                                           const ConvertCalibration& calibration,
                                                           int threads) {
  const CalibrationSubject on = subject(folder, calibration);
  ImportanceOptions options;
  options.threads = threads;
  options.cancelled = interrupted;
  ProgressBar bar("measure", "layers");
  options.progress = [&](int64_t layer, int64_t layers) {
    bar.update(static_cast<uint64_t>(layer), static_cast<uint64_t>(layers),
               fmt::format("{}/{} layers", layer, layers));
  };
  auto result =
      std::make_shared<ImportanceMatrix>(measure_importance(on.checkpoint, on.config, on.windows, options));
  bar.finish();
  result->texts = {on.text};
  return result;
}

std::string calibrate_blocks(const std::string& folder, const std::string& output, GgufType type,
                             const ConvertCalibration& calibration, int threads,
                             std::optional<CalibrationFile>& file) {
  const CalibrationSubject on = subject(folder, calibration);
  const std::string& name = on.text;
  CalibrationOptions options;
  options.level = std::max(1, calibration.level);
  options.fast = calibration.fast;
  options.gguf = type;
  options.threads = threads;
  int64_t count = 0;
  for (const auto& window : on.windows) count += std::ssize(window);
  const std::string beside =
      on.beside.empty() ? "" : fmt::format(" beside {} of {}", on.beside_tokens(), on.general_hash);
  const QuantizeCheckpointOptions none;
  CalibrationRun run(output,
                     fmt::format("source {} text {} tokens {}{} level {}{} as {}",
                                 checkpoint_fingerprint(*on.checkpoint), on.text_hash, count, beside,
                                 options.level, options.fast ? " fast" : "", gguf_type_info(type).name),
                     none, calibration.fresh, file);
  const Calibration found = run.run(on, name, options);
  const CalibrationReport& report = found.report;
  const std::string type_name(gguf_type_info(type).name);
  if (report.tensors == 0) {
    file->remove();
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: no matrix has rows of whole blocks of {}", folder, type_name));
  }
  if (!(report.kl <= report.plain_kl)) {
    file->remove();
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: on the held-back tenth of the text the calibrated weights diverge by {:.6f} "
                            "nats a token, those of {} without a text by {:.6f}: nothing was written; give "
                            "more or other text",
                            name, report.kl, type_name, report.plain_kl));
  }
  return fmt::format(
      "Calibrated at level {} on {} tokens of {}. On {} tokens held back: mean KL {:.6f} nats from the "
      "original, {:.0f} % of the {:.6f} of {} without a text",
      options.level, report.tokens, printable(name), report.held_tokens, report.kl,
      100 * report.kl / report.plain_kl, report.plain_kl, type_name);
}

}  // namespace nfloat::cli
