// SPDX-License-Identifier: Apache-2.0
#include "quantize_limits.h"

#include <fmt/format.h>

#include "calibration_text.h"
#include "command_line.h"
#include "convert_options.h"
#include "nfloat/error.h"
#include "notes.h"
#include "progress.h"
#include "signals.h"

namespace nfloat::cli {
namespace {

constexpr int kMostRounds = 4;
constexpr double kEnough = .85;  // share of the divergence that was allowed below which fewer bytes are tried
constexpr double kMargin = 1.05;  // below a limit that was missed

std::vector<WeightSensitivity> measure(const CalibrateRequest& request,
                                       const QuantizeCheckpointOptions& settings,
                                       const std::vector<int64_t>& block_sizes) {
  const CalibrationSubject on = calibration_subject(request.folder, request.text, request.tokens);
  ProgressBar bar("measure", "weights");
  SensitivityOptions own;
  if (!block_sizes.empty()) own.block_sizes = block_sizes;
  own.threads = request.threads;
  own.cancelled = interrupted;
  own.progress = [&](int64_t done, int64_t count) {
    bar.update(static_cast<uint64_t>(done), static_cast<uint64_t>(count),
               fmt::format("{}/{} weights", done, count));
  };
  note("measuring what each weight costs alone\n");
  std::vector<WeightSensitivity> weights =
      measure_sensitivity(on.checkpoint, on.config, on.windows, settings, own);
  bar.finish();
  return weights;
}

}  // namespace

BlockSizeSearch::BlockSizeSearch(const CalibrateRequest& request, const QuantizeCheckpointOptions& settings,
                                 const QuantizeLimits& limits)
    : settings_(settings), checkpoint_(request.folder), share_(calibrated_share(request.level)) {
  if (!limits.budget.empty()) limit_.bytes = parse_bytes(limits.budget, "--budget");
  if (limits.bits > 0) limit_.bits = limits.bits;
  if (limits.divergence > 0) limit_.divergence = limits.divergence;
  weights_ = measure(request, settings, limits.block_sizes);
  choose();
}

void BlockSizeSearch::choose() {
  QuantizationLimit limit = limit_;
  if (limit.divergence) *limit.divergence /= share_;
  sizes_ = choose_block_sizes(checkpoint_, weights_, settings_, limit);
  note("chosen: {}; {:.3f} bits a weight, predicted divergence {:.6f} nats\n", in_words(), sizes_.bits,
       predicted());
}

bool BlockSizeSearch::met(double kl) {
  if (!limit_.divergence || sizes_.divergence <= 0) return true;
  const bool below = kl <= *limit_.divergence;
  if (below && (rounds_ > 0 || kl >= kEnough * *limit_.divergence)) return true;
  if (++rounds_ >= kMostRounds)
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("--max-divergence {}: {} choices of block sizes were calibrated, the last one "
                            "diverges by {:.6f} nats on the held-back part: nothing was written",
                            *limit_.divergence, kMostRounds, kl));
  const BlockSizes before = sizes_;
  share_ = kl / before.divergence * (below ? 1.0 : kMargin);
  note("measured {:.6f} nats: choosing again\n", kl);
  choose();
  return below && sizes_.sizes == before.sizes;
}

std::string BlockSizeSearch::in_words() const {
  std::map<int64_t, int64_t> counts;
  for (const auto& [name, size] : sizes_.sizes) ++counts[size];
  std::vector<std::string> parts;
  for (const auto& [size, count] : counts)
    parts.push_back(size > 0 ? fmt::format("{} in blocks of {}", count_of(count, "weight"), size)
                             : fmt::format("{} plain", count_of(count, "weight")));
  return fmt::format("{}", fmt::join(parts, ", "));
}

}  // namespace nfloat::cli
