// SPDX-License-Identifier: Apache-2.0
#include <fmt/ranges.h>

#include <algorithm>

#include "base/fail.h"
#include "codebook/fitted.h"
#include "codebook/quantile_codes.h"
#include "nfloat/codebook.h"

namespace nfloat {
namespace {

using Levels = std::vector<double>;

// By code, the highest bit the sign: both zeros are there.
Levels sign_and_magnitude(const Levels& magnitudes) {
  const double largest = *std::max_element(magnitudes.begin(), magnitudes.end());
  Levels levels;
  for (double sign : {1.0, -1.0}) {
    for (double magnitude : magnitudes) levels.push_back(sign * magnitude / largest + 0.0);
  }
  return levels;
}

// E2M1's magnitudes doubled, in another order; but 1/16 stands where the regular step would be 1.
Levels fp4_levels() {
  return sign_and_magnitude({0, 0.0625, 8, 12, 4, 6, 2, 3});
}

Levels e2m1_levels() {
  return sign_and_magnitude({0, 0.5, 1, 1.5, 2, 3, 4, 6});
}

Levels e3m0_levels() {
  return sign_and_magnitude({0, 0.25, 0.5, 1, 2, 4, 8, 16});
}

Levels int4_levels() {
  Levels levels;
  for (int i = -7; i <= 7; ++i) levels.push_back(i / 7.0);
  return levels;
}

struct Entry {
  std::string_view name;
  bool fitted;
  bool signed_scale;
  std::string_view summary;
  Levels (*levels)(int64_t block_size);  // null: NormalFloat with the digit of the name
};

constexpr double kStudentFloatDegrees = 5;

Levels bof4(int64_t block, bool absolute, bool signed_scale) {
  Levels pinned = {0, 1};
  if (!signed_scale) pinned.insert(pinned.begin(), -1);
  return fit_levels({16, block, signed_scale, absolute, pinned});
}

const Entry kEntries[] = {
    {"nf2", false, false, "NormalFloat, 2 bits", nullptr},
    {"nf3", false, false, "NormalFloat, 3 bits", nullptr},
    {"nf4", false, false, "NormalFloat, 4 bits: QLoRA's code, bitsandbytes' table bit for bit", nullptr},
    {"nf5", false, false, "NormalFloat, 5 bits", nullptr},
    {"nf6", false, false, "NormalFloat, 6 bits", nullptr},
    {"nf7", false, false, "NormalFloat, 7 bits", nullptr},
    {"nf8", false, false, "NormalFloat, 8 bits", nullptr},
    {"nf4-paper", false, false, "QLoRA's equation (4) as printed: 15 levels",
     [](int64_t) { return nf4_paper_levels(); }},
    {"nf4-symmetric", false, false, "16 normal quantiles without a zero",
     [](int64_t) { return nf4_symmetric_levels(); }},
    {"fp4", false, false, "bitsandbytes' 4-bit float, with its irregular 1/192",
     [](int64_t) { return fp4_levels(); }},
    {"e2m1", false, false, "4-bit float, 2 exponent bits: the elements of MXFP4 and NVFP4, divided by 6",
     [](int64_t) { return e2m1_levels(); }},
    {"e3m0", false, false, "4-bit float, 3 exponent bits: powers of two, divided by 16",
     [](int64_t) { return e3m0_levels(); }},
    {"int4", false, false, "symmetric integers -7 to 7, divided by 7", [](int64_t) { return int4_levels(); }},
    {"sf4", false, false, "StudentFloat: NF4's construction on Student's t with 5 degrees of freedom",
     [](int64_t) { return student_float_levels(4, kNormalFloatOffset, kStudentFloatDegrees); }},
    {"af4", true, false, "AbnormalFloat (arXiv 2306.06965), for the block size", abnormal_float_levels},
    {"bof4", true, false, "least squared error for the block size; -1, 0, 1 kept (arXiv 2505.06653)",
     [](int64_t block) { return bof4(block, false, false); }},
    {"bof4-s", true, true, "the same for signed scales; 0 and 1 kept",
     [](int64_t block) { return bof4(block, false, true); }},
    {"bof4-mae", true, false, "bof4 for least absolute error",
     [](int64_t block) { return bof4(block, true, false); }},
    {"bof4-s-mae", true, true, "bof4-s for least absolute error",
     [](int64_t block) { return bof4(block, true, true); }},
    {"lloyd-max", true, false, "least squared error for the block size, nothing kept",
     [](int64_t block) {
       return fit_levels({16, block, false, false, {}});
     }},
    {"lloyd-max-signed", true, true, "the same for signed scales",
     [](int64_t block) {
       return fit_levels({16, block, true, false, {}});
     }},
};

const Entry& find_entry(std::string_view name) {
  for (const Entry& entry : kEntries) {
    if (entry.name == name) return entry;
  }
  fail(ErrorCode::kNotFound, "unknown code '{}': there are {}", name, fmt::join(codebook_names(), ", "));
}

}  // namespace

Codebook make_codebook(std::string_view name, int64_t block_size) {
  const Entry& entry = find_entry(name);
  if (entry.levels == nullptr) return make_normal_float(name.back() - '0');
  Codebook codebook = codebook_from_levels(std::string(name), entry.levels(block_size));
  codebook.signed_scale = entry.signed_scale;
  return codebook;
}

std::vector<std::string> codebook_names() {
  std::vector<std::string> names;
  for (const Entry& entry : kEntries) names.emplace_back(entry.name);
  return names;
}

std::string_view codebook_summary(std::string_view name) {
  return find_entry(name).summary;
}

bool codebook_is_fitted(std::string_view name) {
  return find_entry(name).fitted;
}

}  // namespace nfloat
