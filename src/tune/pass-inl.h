// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TUNE_PASS_INL_H_
#define NFLOAT_TUNE_PASS_INL_H_

#include <utility>

#include "base/parallel.h"
#include "tune/pass.h"

namespace nfloat {

// body(row) for the rows of the batch.
template <typename Body>
void Pass::over_rows(Body&& body) const {
  parallel_for(rows_, 1, options_.threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) body(row);
  });
}

template <typename Body>
void Pass::over_kept_rows(int64_t floats, Body&& body) const {
  parallel_for(rows_, 1, options_.threads, [&](int64_t begin, int64_t end) {
    auto* const scratch =
        reinterpret_cast<float*>(thread_scratch(static_cast<size_t>(floats) * sizeof(float)));
    for (int64_t row = begin; row < end; ++row) body(row, scratch);
  });
}

}  // namespace nfloat

#endif  // NFLOAT_TUNE_PASS_INL_H_
