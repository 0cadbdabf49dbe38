// SPDX-License-Identifier: Apache-2.0
#include "nfloat/codebook.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/fail.h"
#include "codebook/bitsandbytes.h"
#include "codebook/finish.h"
#include "codebook/quantile_codes.h"

namespace nfloat {

uint8_t Codebook::encode(float y) const noexcept {
  size_t rank = 0;
  for (float threshold : thresholds) rank += y > threshold ? 1 : 0;
  return code_of_rank[rank];
}

int Codebook::zero_code() const noexcept {
  const uint8_t code = encode(0.0f);
  return levels[code] == 0.0f ? code : -1;
}

Codebook finish_codebook(std::string name, std::vector<float> levels, std::vector<double> exact) {
  if (levels.size() < 2 || levels.size() > 256) {
    fail(ErrorCode::kInvalidArgument, "codebook '{}': {} levels, expected 2 to 256", name, levels.size());
  }
  Codebook codebook;
  codebook.name = std::move(name);
  codebook.levels = std::move(levels);
  codebook.exact = std::move(exact);
  const size_t count = codebook.levels.size();
  for (size_t i = 0; i < count; ++i) {
    if (!std::isfinite(codebook.levels[i])) {
      fail(ErrorCode::kInvalidArgument, "codebook '{}': level {} is not a finite float32 number",
           codebook.name, i);
    }
    codebook.levels[i] += 0.0f;  // no negative zeros: bitsandbytes' tables have none
  }
  codebook.bits = 1;
  while ((size_t{1} << codebook.bits) < count) ++codebook.bits;
  codebook.code_of_rank.resize(count);
  std::iota(codebook.code_of_rank.begin(), codebook.code_of_rank.end(), uint8_t{0});
  std::stable_sort(codebook.code_of_rank.begin(), codebook.code_of_rank.end(),
                   [&](uint8_t a, uint8_t b) { return codebook.levels[a] < codebook.levels[b]; });
  const auto ranked = [&](size_t rank) -> double { return codebook.levels[codebook.code_of_rank[rank]]; };
  if (ranked(0) == ranked(count - 1)) {
    fail(ErrorCode::kInvalidArgument, "codebook '{}': all levels are {}", codebook.name, ranked(0));
  }
  for (size_t rank = 0; rank + 1 < count; ++rank) {
    codebook.thresholds.push_back(static_cast<float>((ranked(rank) + ranked(rank + 1)) / 2));
  }
  return codebook;
}

Codebook codebook_from_levels(std::string name, const std::vector<double>& levels) {
  return finish_codebook(std::move(name), rounded(levels), levels);
}

std::vector<float> rounded(const std::vector<double>& exact) {
  std::vector<float> levels;
  for (double level : exact) levels.push_back(static_cast<float>(level));
  return levels;
}

Codebook make_normal_float(int bits, double offset) {
  std::vector<double> exact = normal_float_levels(bits, offset);
  std::vector<float> levels = bits == 4 && offset == kNormalFloatOffset ? bitsandbytes_nf4() : rounded(exact);
  return finish_codebook(fmt::format("nf{}", bits), std::move(levels), std::move(exact));
}

const Codebook& dynamic_codebook() {
  static const Codebook codebook = [] {
    const std::vector<float> levels = bitsandbytes_dynamic_map();
    return finish_codebook("dynamic", levels, {levels.begin(), levels.end()});
  }();
  return codebook;
}

}  // namespace nfloat
