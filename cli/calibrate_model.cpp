// SPDX-License-Identifier: Apache-2.0
#include "calibrate_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>

#include "calibration_run.h"
#include "nfloat/error.h"
#include "nfloat/version.h"
#include "notes.h"
#include "table.h"

namespace nfloat::cli {
namespace {

constexpr int64_t kLeastTokens = 256;

double share_of_best(const CalibrationReport& report) {
  return report.plain_kl > 0 ? 100 * report.kl / report.plain_kl : 100.0;
}

// What was calibrated on beside the text.
std::string general_beside(int64_t tokens) {
  return tokens > 0 ? fmt::format(" and {} of the general text that comes with nfloat", tokens) : "";
}

// What the same layout costs without calibration.
std::string uncalibrated(const CalibrationRecord& record) {
  return record.block_sizes.empty() ? "--preset best" : "signed scales in the same blocks";
}

}  // namespace

void CalibratedModel::chosen(const std::string& sizes, double predicted) {
  record.block_sizes = sizes;
  record.predicted_kl = predicted;
}

std::string CalibratedModel::sentence() const {
  const CalibrationReport& report = record.report;
  std::string third;
  if (record.level >= 3)
    third = report.steps > 0
                ? fmt::format("; {:.6f} before {} of distillation, which changed {}", report.start_kl,
                              count_of(report.steps, "step"), count_of(report.changed_codes, "code"))
                : "; distillation made nothing better on them, so that level 2 was kept";
  return fmt::format(
      "Calibrated at level {} on {} tokens of {}{}. On {} tokens held back: mean KL {:.6f} nats from the "
      "original, {:.0f} % of the {:.6f} of {}{}{}{}",
      record.level, report.tokens, printable(record.text), general_beside(report.beside_tokens),
      report.held_tokens, report.kl, share_of_best(report), report.plain_kl, uncalibrated(record), third,
      report.kept_plain > 0 ? fmt::format("; {} kept its coding", count_of(report.kept_plain, "tensor")) : "",
      record.block_sizes.empty() ? ""
                                 : fmt::format("; {}, chosen by what each costs alone, predicted {:.6f}",
                                               record.block_sizes, record.predicted_kl));
}

std::string CalibratedModel::card() const {
  const CalibrationReport& report = record.report;
  std::string third;
  if (record.level >= 3)
    third = report.steps > 0
                ? fmt::format(
                      "| the same at level 2, before distillation | {:.6f} nats |\n"
                      "| distillation | {}, {} changed; the gains of the norms are not the original's |\n",
                      report.start_kl, count_of(report.steps, "step"), count_of(report.changed_codes, "code"))
                : "| distillation | made nothing better: level 2 was kept |\n";
  return fmt::format(
      "## Quantization\n\n"
      "4-bit weights in the bitsandbytes layout, chosen by nfloat {} with a calibration at level {}{}.\n\n"
      "| | |\n|---|---|\n"
      "| text | {}, FNV-1a {} |\n"
      "| tokens | {}{} calibrated on, {} held back |\n"
      "| mean KL divergence from the original, held-back tokens | {:.6f} nats |\n"
      "| the same without calibration ({}) | {:.6f} nats |\n{}{}\n"
      "The squared error of the weights is larger than without calibration, by design: what is small is the "
      "error of what they compute. An adapter that was trained on other 4-bit weights of this model sees "
      "other "
      "errors here.\n",
      version(), record.level, fast ? " (fast)" : "", record.text, record.text_hash, report.tokens,
      general_beside(report.beside_tokens), report.held_tokens, report.kl,
      record.block_sizes.empty() ? "`--preset best`" : uncalibrated(record), report.plain_kl, third,
      record.block_sizes.empty()
          ? ""
          : fmt::format("| chosen by what each weight costs | {}; predicted {:.6f} nats |\n",
                        record.block_sizes, record.predicted_kl));
}

CalibratedModel calibrate_model(const CalibrateRequest& request, const QuantizeCheckpointOptions& settings,
                                std::optional<CalibrationFile>& file) {
  if (settings.quantize.allow_nonfinite)
    throw Error(ErrorCode::kInvalidArgument,
                "--allow-nonfinite: weights that are calibrated have to be finite");
  const CalibrationSubject on =
      calibration_subject(request.folder, request.text, request.tokens, request.text_alone);
  const std::string& name = on.text;
  CalibratedModel result;
  CalibrationRecord& record = result.record;
  record.level = request.level;
  result.fast = request.fast;
  record.text = request.text.empty() ? name : std::filesystem::path(name).filename().string();
  record.text_hash = on.text_hash;
  int64_t count = 0;
  for (const auto& window : on.windows) count += std::ssize(window);
  if (on.windows.size() < 2 || count < kLeastTokens)
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("{}: gives {} in {}: at least {} in two windows are needed, one of them to judge "
                            "the result",
                            name, count_of(count, "token"), count_of(std::ssize(on.windows), "window"),
                            kLeastTokens));
  plan_quantization(*on.checkpoint, settings);  // throws for what cannot be quantized

  std::string skip;
  for (const std::string& expression : settings.skip) skip += " --skip " + expression;
  for (const std::string& expression : settings.only) skip += " --only " + expression;
  if (!settings.block_sizes.empty()) {
    std::string sizes;
    for (const auto& [tensor, size] : settings.block_sizes) sizes += fmt::format("{} {} ", tensor, size);
    skip += fmt::format(" sizes {:016x}", std::hash<std::string>()(sizes));
  }
  CalibrationRun run(
      request.output,
      fmt::format(
          "source {} text {} tokens {}{} level {}{} {} blocks of {}{}",
          checkpoint_fingerprint(*on.checkpoint), record.text_hash, request.tokens,
          on.beside.empty() ? "" : fmt::format(" beside {} of {}", on.beside_tokens(), on.general_hash),
          request.level, request.fast ? " fast" : "", settings.format, settings.quantize.block_size, skip),
      settings, request.fresh, file);
  CalibrationOptions own;
  own.level = request.level;
  own.fast = request.fast;
  own.threads = request.threads;
  std::string beside = general_beside(on.beside_tokens());
  if (!beside.empty()) beside = fmt::format("{} (--text-alone: without)", beside);
  Calibration calibration = run.run(on, name + beside, own);
  result.tensors = std::move(calibration.tensors);
  result.norms = std::move(calibration.norms);
  record.report = calibration.report;
  const CalibrationReport& report = record.report;
  if (!(report.kl <= report.plain_kl)) {
    file->remove();
    throw Error(
        ErrorCode::kInvalidArgument,
        fmt::format("{}: on the held-back tenth of the text the calibrated weights diverge by {:.6f} "
                    "nats a token, those of {} by {:.6f}: nothing was written; give more or "
                    "other text",
                    name, report.kl,
                    settings.block_sizes.empty() ? "--preset best" : "signed scales in the same blocks",
                    report.plain_kl));
  }
  return result;
}

}  // namespace nfloat::cli
