// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CONVERT_CHECK_FINITE_H_
#define NFLOAT_CONVERT_CHECK_FINITE_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "nfloat/convert.h"

namespace nfloat {

// The elements that are NaN or infinite, by their bits.
struct NotFinite {
  int64_t count = 0, first = -1;
};
// `bytes`: whole elements, at any address. Of types that have neither NaN nor infinity: none.
NotFinite not_finite(DType dtype, std::span<const std::byte> bytes) noexcept;

// Reads the tensors of these names, once and by all threads, and adds an error for each that holds a NaN or
// an infinity. `progress`: where the work stands.
void check_finite(const Checkpoint& checkpoint, const std::vector<std::string>& names,
                  ConvertProgress progress, const ConvertControl& control, std::vector<Finding>* findings);

}  // namespace nfloat

#endif  // NFLOAT_CONVERT_CHECK_FINITE_H_
