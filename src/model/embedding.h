// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_MODEL_EMBEDDING_H_
#define NFLOAT_MODEL_EMBEDDING_H_

#include <cstdint>
#include <memory>
#include <optional>

#include "nfloat/checkpoint.h"
#include "nfloat/tensor.h"

namespace nfloat {

// One row a token, decoded when it is looked up; the table stays where it is (a mapped file, or memory that
// `owner` keeps).
class Embedding {
 public:
  Embedding() = default;
  // F32, F16 or BF16 [vocabulary, hidden].
  Embedding(TensorView table, std::shared_ptr<const void> owner);
  // A quantized table.
  Embedding(QuantizedView table, std::shared_ptr<const void> owner);
  // The same of a checkpoint, mapped.
  Embedding(TensorView table, std::shared_ptr<const Checkpoint> checkpoint);
  // A plain table of a checkpoint that shows its weights decoded: rows are decoded one by one.
  Embedding(std::shared_ptr<const Checkpoint> checkpoint, const TensorInfo& table);

  void row(int32_t token, float* output) const;
  uint64_t bytes() const noexcept;
  // Gives back the pages of a mapped table of kLarge bytes or more: around each row that is read the system
  // maps many.
  static constexpr uint64_t kLarge = uint64_t{32} << 20;
  void release() const noexcept;

 private:
  std::shared_ptr<const void> owner_;
  std::shared_ptr<const Checkpoint> checkpoint_;  // to read `read_` from, or that maps `plain_`
  const TensorInfo* read_ = nullptr;
  TensorView plain_;
  std::optional<QuantizedView> quantized_;
};

}  // namespace nfloat

#endif  // NFLOAT_MODEL_EMBEDDING_H_
