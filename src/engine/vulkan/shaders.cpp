// SPDX-License-Identifier: Apache-2.0
#include "engine/vulkan/shaders.h"

namespace nfloat::vulkan {
namespace {

constexpr uint32_t kProductCode[] = {
#include "product.comp.inc"
};
constexpr uint32_t kTilesCode[] = {
#include "tiles.comp.inc"
};
constexpr uint32_t kTransposedCode[] = {
#include "transposed.comp.inc"
};
constexpr uint32_t kHalvesCode[] = {
#include "halves.comp.inc"
};
constexpr uint32_t kUnitsCode[] = {
#include "engine/vulkan/shaders/units.spv.inc"
};
constexpr uint32_t kRowsCode[] = {
#include "rows.comp.inc"
};
constexpr uint32_t kNormCode[] = {
#include "norm.comp.inc"
};
constexpr uint32_t kActivateCode[] = {
#include "activate.comp.inc"
};
constexpr uint32_t kStoreCode[] = {
#include "store.comp.inc"
};
constexpr uint32_t kAttendCode[] = {
#include "attend.comp.inc"
};
constexpr uint32_t kAttendTilesCode[] = {
#include "attend_tiles.comp.inc"
};

}  // namespace

std::span<const uint32_t> code_of(Shader shader) noexcept {
  switch (shader) {
    case Shader::kProduct:
      return kProductCode;
    case Shader::kTiles:
      return kTilesCode;
    case Shader::kTransposed:
      return kTransposedCode;
    case Shader::kHalves:
      return kHalvesCode;
    case Shader::kUnits:
      return kUnitsCode;
    case Shader::kRows:
      return kRowsCode;
    case Shader::kNorm:
      return kNormCode;
    case Shader::kActivate:
      return kActivateCode;
    case Shader::kStore:
      return kStoreCode;
    case Shader::kAttend:
      return kAttendCode;
    case Shader::kAttendTiles:
      return kAttendTilesCode;
  }
  return {};
}

}  // namespace nfloat::vulkan
