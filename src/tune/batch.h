// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TUNE_BATCH_H_
#define NFLOAT_TUNE_BATCH_H_

#include <cstdint>
#include <vector>

namespace nfloat {

inline constexpr int32_t kIgnoredLabel = -100;

// Tokens that attend to one another; positions begin at 0.
struct Document {
  int64_t begin = 0;  // row of the batch
  int64_t length = 0;
  int64_t source = 0;  // row of the data it is
};

// Rows that go through the layers together. labels[t + 1] is what row t of a document is to predict;
// kIgnoredLabel where nothing is asked.
struct Batch {
  std::vector<int32_t> tokens, labels;
  std::vector<Document> documents;

  int64_t rows() const noexcept { return static_cast<int64_t>(tokens.size()); }
  // Predictions that count.
  int64_t targets() const noexcept {
    int64_t count = 0;
    for (const Document& document : documents)
      for (int64_t t = 1; t < document.length; ++t)
        count += labels[static_cast<size_t>(document.begin + t)] != kIgnoredLabel;
    return count;
  }
};

}  // namespace nfloat

#endif  // NFLOAT_TUNE_BATCH_H_
