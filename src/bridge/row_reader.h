// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_BRIDGE_ROW_READER_H_
#define NFLOAT_BRIDGE_ROW_READER_H_

#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "convert/weights.h"

namespace nfloat {

// One weight of a checkpoint by rows of its matrix [out, in] (of fused experts: all their rows, one expert
// after the other), however it is stored. Safe from several threads.
class RowReader {
 public:
  // `transposed`: a plain one is stored as [in, out] or [experts, in, out].
  RowReader(const Checkpoint& checkpoint, const std::string& name, int64_t cols, bool transposed,
            const LoraDelta* delta = nullptr);

  // "nf4", "BF16".
  const std::string& stored_type() const noexcept { return stored_type_; }
  // The type of elements that read_bytes gives; none for weights that have to be decoded or turned.
  std::optional<DType> plain() const noexcept;
  // Rows as they are.
  void read_bytes(int64_t first, int64_t count, std::span<std::byte> output) const;
  // Rows as float32.
  void read(int64_t first, int64_t count, float* output, Scratch& scratch) const;
  // What reading them takes from the file.
  uint64_t input_bytes(int64_t rows) const noexcept;

 private:
  struct Slice {
    int64_t index = -1;
    std::vector<float> values;  // [out, in]
  };
  std::shared_ptr<const Slice> slice(int64_t index, Scratch& scratch) const;

  const Checkpoint& checkpoint_;
  const TensorInfo& info_;
  const WeightReader weights_;
  const int64_t cols_;
  std::string stored_type_;
  bool quantized_ = false, merged_ = false;
  int64_t slice_rows_ = 0;  // > 0: transposed, in slices of so many rows
  mutable std::mutex mutex_;
  mutable std::shared_ptr<const Slice> slices_[2];  // the last ones
};

}  // namespace nfloat

#endif  // NFLOAT_BRIDGE_ROW_READER_H_
