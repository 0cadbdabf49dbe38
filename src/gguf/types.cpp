// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "base/ascii.h"
#include "nfloat/gguf.h"

namespace nfloat {
namespace {

constexpr GgufTypeInfo kTypes[] = {
    {GgufType::kF32, "F32", 1, 4},         {GgufType::kF16, "F16", 1, 2},
    {GgufType::kQ4_0, "Q4_0", 32, 18},     {GgufType::kQ4_1, "Q4_1", 32, 20},
    {GgufType::kQ5_0, "Q5_0", 32, 22},     {GgufType::kQ5_1, "Q5_1", 32, 24},
    {GgufType::kQ8_0, "Q8_0", 32, 34},     {GgufType::kQ2_K, "Q2_K", 256, 84},
    {GgufType::kQ3_K, "Q3_K", 256, 110},   {GgufType::kQ4_K, "Q4_K", 256, 144},
    {GgufType::kQ5_K, "Q5_K", 256, 176},   {GgufType::kQ6_K, "Q6_K", 256, 210},
    {GgufType::kIQ4_NL, "IQ4_NL", 32, 18}, {GgufType::kIQ4_XS, "IQ4_XS", 256, 136},
    {GgufType::kI8, "I8", 1, 1},           {GgufType::kI16, "I16", 1, 2},
    {GgufType::kI32, "I32", 1, 4},         {GgufType::kI64, "I64", 1, 8},
    {GgufType::kF64, "F64", 1, 8},         {GgufType::kBF16, "BF16", 1, 2},
    {GgufType::kMXFP4, "MXFP4", 32, 17},
};

}  // namespace

const GgufTypeInfo* find_gguf_type(uint32_t type) noexcept {
  for (const GgufTypeInfo& info : kTypes)
    if (static_cast<uint32_t>(info.type) == type) return &info;
  return nullptr;
}

const GgufTypeInfo* find_gguf_type(std::string_view name) noexcept {
  for (const GgufTypeInfo& info : kTypes)
    if (equal_ignoring_case(name, info.name)) return &info;
  return nullptr;
}

const GgufTypeInfo& gguf_type_info(GgufType type) noexcept {
  return *find_gguf_type(static_cast<uint32_t>(type));
}

bool is_decodable(GgufType type) noexcept {
  return type < GgufType::kI8 || type > GgufType::kI64;
}

bool is_encodable(GgufType type) noexcept {
  switch (type) {
    case GgufType::kF32:
    case GgufType::kF16:
    case GgufType::kBF16:
    case GgufType::kQ8_0:
    case GgufType::kQ4_0:
    case GgufType::kIQ4_NL:
    case GgufType::kQ4_K:
    case GgufType::kQ5_K:
    case GgufType::kQ6_K:
    case GgufType::kIQ4_XS:
      return true;
    default:
      return false;
  }
}

bool is_gguf_path(std::string_view path) noexcept {
  constexpr std::string_view kEnding = ".GGUF";
  if (path.size() <= kEnding.size()) return false;
  path.remove_prefix(path.size() - kEnding.size());
  return equal_ignoring_case(path, kEnding);
}

}  // namespace nfloat
