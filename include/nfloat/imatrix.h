// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_IMATRIX_H_
#define NFLOAT_IMATRIX_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "nfloat/api.h"
#include "nfloat/checkpoint.h"
#include "nfloat/model_config.h"

// llama.cpp's importance matrices: how large the inputs of each column of a model's matrices were on a text.
namespace nfloat {

// Of one matrix, or of those of all experts of a layer.
struct ColumnImportance {
  std::vector<float> sums;    // [matrices][columns]: of the squares of the inputs
  std::vector<float> counts;  // [matrices]: tokens

  size_t columns() const noexcept { return counts.empty() ? 0 : sums.size() / counts.size(); }
  // Mean squares of the columns of a matrix; ones of one that saw no token. The older file does not say how
  // many matrices there are: `columns` does. Where there is but one, it stands for all.
  std::vector<float> means(size_t matrix, size_t columns) const;
};

struct ImportanceMatrix {
  std::map<std::string, ColumnImportance> tensors;  // by name in GGUF files
  std::vector<std::string> texts;                   // names of what it was made from
  uint32_t chunks = 0, chunk_tokens = 0;            // of the text; 0: not known
};

// Reads both forms of the file: GGUF and the older one. Throws kNotFound, kIo, kMalformedFile.
NFLOAT_API ImportanceMatrix read_importance(const std::string& path);

// Throws kAlreadyExists where something is that is not replaced: anything without `overwrite`, with it what
// is no importance matrix.
NFLOAT_API void expect_importance_output(const std::string& path, bool overwrite);

// As GGUF where the name ends in .gguf, else in the older form. Appears whole or not at all. Throws kIo, and
// as expect_importance_output.
NFLOAT_API void write_importance(const std::string& path, const ImportanceMatrix& importance, bool overwrite);

struct ImportanceOptions {
  int threads = 0;
  // Asked many times a second, from any thread; true ends the work with kInterrupted. Must not throw.
  std::function<bool()> cancelled = nullptr;
  // Called before each layer, with the layer's number and their count; may throw to cancel.
  std::function<void(int64_t, int64_t)> progress = nullptr;
};

// Measures it: the inputs of the layers' products over the windows, each from an empty past, in float32.
// Layers are read one at a time. Throws as calibrate(), and kUnsupported for a model that llama.cpp does not
// have.
NFLOAT_API ImportanceMatrix measure_importance(std::shared_ptr<const Checkpoint> checkpoint,
                                               const ModelConfig& config,
                                               std::span<const std::vector<int32_t>> windows,
                                               const ImportanceOptions& options = {});

}  // namespace nfloat

#endif  // NFLOAT_IMATRIX_H_
