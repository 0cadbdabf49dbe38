// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ARCHITECTURE_CHECK_TENSORS_H_
#define NFLOAT_ARCHITECTURE_CHECK_TENSORS_H_

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "architecture/tensor_list.h"
#include "nfloat/model_config.h"
#include "nfloat/tensor.h"

namespace nfloat {

struct Family;

struct StoredTensor {
  Shape shape;  // of a quantized one: of the weight
  DType dtype = DType::kF32;
  bool quantized = false;
};

// What a checkpoint holds, for those who know none.
struct StoredTensors {
  std::string path;
  std::vector<std::string> names;  // of weights
  std::function<std::optional<StoredTensor>(const std::string& name)> find;
};

// Borrows the checkpoint.
template <typename Checkpoint>
StoredTensors stored_tensors(const Checkpoint& checkpoint) {
  return {
      checkpoint.path(), checkpoint.weight_names(),
      [&checkpoint](const std::string& name) -> std::optional<StoredTensor> {
        const auto* info = checkpoint.find(name);
        if (info == nullptr) return std::nullopt;
        const bool quantized = checkpoint.is_quantized(name);
        return StoredTensor{quantized ? checkpoint.weight_shape(name) : info->shape, info->dtype, quantized};
      }};
}

// How one checkpoint says the names of its family: models inside of others, and those saved without their
// head, have another prefix.
class TensorNames {
 public:
  // `stored`: of its weights.
  TensorNames(const std::vector<std::string>& stored, const Family& family);
  std::string operator()(const std::string& name) const;
  ExpertLayout experts() const noexcept { return experts_; }

 private:
  std::string prefix_;       // of the family
  std::string stored_;       // what stands in its place
  std::string head_prefix_;  // before the head's name
  std::string head_;
  ExpertLayout experts_ = ExpertLayout::kSingle;
};

// Throws kMalformedFile naming every tensor that is missing, every one of another shape or dtype, and every
// one of the model's layers, or beside a weight that the model reads, that the configuration has no use for.
void check_tensors(const StoredTensors& stored, const ModelConfig& config);

}  // namespace nfloat

#endif  // NFLOAT_ARCHITECTURE_CHECK_TENSORS_H_
