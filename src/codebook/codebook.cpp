// SPDX-License-Identifier: Apache-2.0
#include "nfloat/codebook.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/fail.h"
#include "codebook/bitsandbytes.h"

namespace nfloat {
namespace {

std::vector<double> widen(const std::vector<float>& values) {
  return {values.begin(), values.end()};
}

// By code: bit 3 is the sign; magnitudes are 1/12 of E2M1's, but for 1/192 where the regular step would be
// 1/12.
std::vector<double> fp4_levels() {
  const double magnitudes[] = {0, 1.0 / 192, 2.0 / 3, 1, 1.0 / 3, 1.0 / 2, 1.0 / 6, 1.0 / 4};
  std::vector<double> levels;
  for (double sign : {1.0, -1.0}) {
    for (double magnitude : magnitudes) levels.push_back(sign * magnitude + 0.0);
  }
  return levels;
}

std::vector<double> int4_levels() {
  std::vector<double> levels;
  for (int i = -7; i <= 7; ++i) levels.push_back(i / 7.0);
  return levels;
}

}  // namespace

uint8_t Codebook::encode(float y) const noexcept {
  size_t rank = 0;
  for (float threshold : thresholds) rank += y > threshold ? 1 : 0;
  return code_of_rank[rank];
}

int Codebook::zero_code() const noexcept {
  const uint8_t code = encode(0.0f);
  return levels[code] == 0.0f ? code : -1;
}

Codebook codebook_from_levels(std::string name, const std::vector<double>& levels) {
  if (levels.size() < 2 || levels.size() > 256) {
    fail(ErrorCode::kInvalidArgument, "codebook '{}': {} levels, expected 2 to 256", name, levels.size());
  }
  Codebook codebook;
  codebook.name = std::move(name);
  codebook.exact = levels;
  for (size_t i = 0; i < levels.size(); ++i) {
    codebook.levels.push_back(static_cast<float>(levels[i]));
    if (!std::isfinite(codebook.levels.back())) {
      fail(ErrorCode::kInvalidArgument, "codebook '{}': level {} is not a finite number", codebook.name, i);
    }
  }
  codebook.bits = 1;
  while ((size_t{1} << codebook.bits) < levels.size()) ++codebook.bits;
  codebook.code_of_rank.resize(levels.size());
  std::iota(codebook.code_of_rank.begin(), codebook.code_of_rank.end(), uint8_t{0});
  std::stable_sort(codebook.code_of_rank.begin(), codebook.code_of_rank.end(),
                   [&](uint8_t a, uint8_t b) { return codebook.levels[a] < codebook.levels[b]; });
  const auto ranked = [&](size_t rank) { return codebook.levels[codebook.code_of_rank[rank]]; };
  if (ranked(0) == ranked(levels.size() - 1)) {
    fail(ErrorCode::kInvalidArgument, "codebook '{}': all levels are {}", codebook.name, ranked(0));
  }
  for (size_t rank = 0; rank + 1 < levels.size(); ++rank) {
    codebook.thresholds.push_back((ranked(rank) + ranked(rank + 1)) / 2.0f);
  }
  return codebook;
}

Codebook make_codebook(std::string_view name, int64_t) {
  if (name == "nf4") return codebook_from_levels("nf4", widen(bitsandbytes_nf4()));
  if (name == "fp4") return codebook_from_levels("fp4", fp4_levels());
  if (name == "int4") return codebook_from_levels("int4", int4_levels());
  fail(ErrorCode::kNotFound, "unknown code '{}': nf4, fp4, int4", name);
}

std::vector<std::string> codebook_names() {
  return {"nf4", "fp4", "int4"};
}

const Codebook& dynamic_codebook() {
  static const Codebook codebook = codebook_from_levels("dynamic", widen(bitsandbytes_dynamic_map()));
  return codebook;
}

}  // namespace nfloat
