// SPDX-License-Identifier: Apache-2.0
// The embedded model in calibrated blocks, judged by what llama.cpp computes with the files.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <span>

#include "llama_cpp.h"
#include "nfloat/bridge.h"
#include "nfloat/calibrate.h"
#include "nfloat/tokenizer.h"
#include "parity.h"
#include "support/files.h"
#include "support/paths.h"

namespace judge {
namespace {

using namespace nfloat;

constexpr size_t kWindow = 256;
constexpr size_t kCalibrated = 64, kJudged = 24;  // windows
// Of the divergence without a text. Little text of another kind than the judged one leaves .67 (Q4_0) to .83
// (Q6_K, of whose small divergence llama.cpp's 8-bit activations are a part that stays).
constexpr double kMostLeft = .9;

// Windows that share out a text.
std::vector<std::vector<int32_t>> windows_of(const std::vector<int32_t>& ids, size_t count) {
  std::vector<std::vector<int32_t>> windows;
  const size_t stride = ids.size() / count;
  for (size_t i = 0; i < count; ++i) {
    const auto begin = ids.begin() + static_cast<std::ptrdiff_t>(i * stride);
    windows.emplace_back(begin, begin + static_cast<std::ptrdiff_t>(std::min(stride, kWindow)));
  }
  return windows;
}

// Natural logarithms of the probabilities that logits stand for, of one token.
std::vector<double> log_probabilities(std::span<const float> logits) {
  std::vector<double> result(logits.begin(), logits.end());
  const double top = *std::max_element(result.begin(), result.end());
  double sum = 0;
  for (const double value : result) sum += std::exp(value - top);
  for (double& value : result) value -= top + std::log(sum);
  return result;
}

struct Judgement {
  double kl = 0, surprise = 0;  // means over the tokens: nats from the original, nats of the next token
};

Judgement judge_file(const std::string& file, const std::vector<std::vector<int32_t>>& windows,
                     const std::vector<std::vector<float>>& original) {
  const LlamaCpp model(file, kWindow);
  const auto width = static_cast<size_t>(model.vocabulary());
  Judgement found;
  double tokens = 0, predicted = 0;
  for (size_t w = 0; w < windows.size(); ++w) {
    const std::vector<float> logits = model.logits(windows[w]);
    for (size_t row = 0; row < windows[w].size(); ++row) {
      const auto own = log_probabilities(std::span(logits).subspan(row * width, width));
      const auto expected = log_probabilities(std::span(original[w]).subspan(row * width, width));
      for (size_t i = 0; i < width; ++i) found.kl += std::exp(expected[i]) * (expected[i] - own[i]);
      ++tokens;
      if (row + 1 == windows[w].size()) continue;
      found.surprise -= own[static_cast<size_t>(windows[w][row + 1])];
      ++predicted;
    }
  }
  return {found.kl / tokens, found.surprise / predicted};
}

}  // namespace

int compare_calibrated(const std::string& folder) {
  const std::string tiny = nfloat::testing::source_path("/models/nfloat-tiny");
  const std::string stories = nfloat::testing::read_file(tiny + "/stories.txt");
  const Tokenizer tokenizer = Tokenizer::load(tiny);
  const auto trained = windows_of(tokenizer.encode(general_calibration_text()), kCalibrated);
  const auto judged = windows_of(tokenizer.encode(stories), kJudged);
  const auto checkpoint = std::make_shared<const Checkpoint>(tiny);
  const ModelConfig config = parse_model_config(checkpoint->text_file("config.json"), tiny);
  ConvertControl replacing;
  replacing.overwrite = true;
  const std::string file = folder + "/calibrated.gguf";
  write_gguf(*checkpoint, file, {.type = GgufType::kF32}, replacing);
  std::vector<std::vector<float>> original;
  {
    const LlamaCpp model(file, kWindow);
    for (const auto& window : judged) original.push_back(model.logits(window));
  }
  std::printf(
      "llama.cpp on nfloat-tiny, %zu windows of stories, calibrated on %zu of the general text: mean KL\n"
      "from F32 in nats and perplexity, without a text and calibrated (at most %.1f of it)\n",
      kJudged, kCalibrated, kMostLeft);
  int failures = 0;
  for (const GgufType type : {GgufType::kQ4_0, GgufType::kIQ4_NL, GgufType::kIQ4_XS, GgufType::kQ4_K,
                              GgufType::kQ5_K, GgufType::kQ6_K}) {
    write_gguf(*checkpoint, file, {.type = type}, replacing);
    const Judgement plain = judge_file(file, judged, original);
    CalibrationOptions options;
    options.gguf = type;
    const Calibration calibration = calibrate(checkpoint, config, trained, {}, options);
    BridgeOptions bridge;
    bridge.type = type;
    bridge.prepared = [&](const std::string& name) {
      const auto rows = calibration.blocks.find(name);
      return rows == calibration.blocks.end() ? nullptr : std::make_shared<const GgufMatrix>(rows->second);
    };
    write_gguf(*checkpoint, file, bridge, replacing);
    const Judgement found = judge_file(file, judged, original);
    const bool good = found.kl <= kMostLeft * plain.kl;
    std::printf("%-8s %.5f %.5f (%.2f)   %.4f %.4f%s\n", std::string(gguf_type_info(type).name).c_str(),
                plain.kl, found.kl, found.kl / plain.kl, std::exp(plain.surprise), std::exp(found.surprise),
                good ? "" : "  FAILED");
    failures += good ? 0 : 1;
  }
  return failures;
}

}  // namespace judge
