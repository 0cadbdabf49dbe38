// SPDX-License-Identifier: Apache-2.0
#include "ranks/same_files.h"

#include <vector>

#include "base/fail.h"

namespace nfloat {

void expect_same_files(Ranks& ranks, const std::string& path, const std::string& fingerprint) {
  const std::vector<std::string> all = ranks.gather_texts(fingerprint);
  for (size_t i = 1; i < all.size(); ++i)
    if (all[i] != all[0]) {
      ranks.all_fail();
      fail(ErrorCode::kInvalidArgument, "{}: {} has other files than {} (fingerprints {} and {})", path,
           ranks.name(static_cast<int>(i)), ranks.name(0), all[i], all[0]);
    }
}

}  // namespace nfloat
