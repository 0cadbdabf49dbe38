// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_BASE_HOLD_H_
#define NFLOAT_BASE_HOLD_H_

#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace nfloat {

enum class Hold { kAlone, kShared };

// In place of a descriptor.
inline constexpr int kOpenAgain = -1, kNothingToHold = -2;

// The descriptor that `open` gives, locked against other processes until the last copy goes, once `path` is
// sure to name what is locked: whoever had it may remove it between the steps, and then `open` is called
// again. Null where that finds nothing to hold; its errors go through. Throws kAlreadyExists, "PATH: BUSY",
// where another holds it.
std::shared_ptr<const int> hold(const std::string& path, Hold how, const std::function<int()>& open,
                                std::string_view busy);

}  // namespace nfloat

#endif  // NFLOAT_BASE_HOLD_H_
