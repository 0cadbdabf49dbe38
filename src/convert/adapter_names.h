// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CONVERT_ADAPTER_NAMES_H_
#define NFLOAT_CONVERT_ADAPTER_NAMES_H_

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "architecture/tensor_roles.h"
#include "nfloat/checkpoint.h"

namespace nfloat {

// What a tensor of a LoRA adapter is to its module.
enum class AdapterRole {
  kDown,           // lora_A, [rank, in]
  kUp,             // lora_B, [out, rank]
  kUpBias,         // lora_B's bias, [out]
  kEmbeddingDown,  // lora_embedding_A, [rank, rows of the embedding]
  kEmbeddingUp,    // lora_embedding_B, [columns, rank]
  kMagnitude,      // DoRA, [out]
  kWhole,          // takes the place of a tensor of the base
};

struct AdapterTensor {
  AdapterRole role = AdapterRole::kWhole;
  std::string module;   // its name in the model; of a whole tensor the tensor's
  std::string adapter;  // "default" of "lora_A.default.weight"; "" when the name does not say
};

// The tensors of one adapter, of the file `source`.
class AdapterTensors {
 public:
  explicit AdapterTensors(std::string source) : source_(std::move(source)) {}
  // Takes a name apart as PEFT puts it together: "base_model.model." once, several times or not at all, the
  // module, its part of the adapter with or without the adapter's name. Throws kUnsupported naming the
  // tensor, also for one of a second adapter; kMalformedFile for a part that another tensor is already.
  AdapterTensor read(const std::string& name);

 private:
  const std::string source_;
  std::string adapter_;                                               // the first that a name says
  std::map<std::pair<std::string, AdapterRole>, std::string> parts_;  // tensors by module and part
};

// Finds tensors of a base by the names that another release of the model's classes gives them: parts that
// only wrap the model ("model.", "language_model.", "transformer.") may be there, in any order, or not.
class BaseNames {
 public:
  explicit BaseNames(const Checkpoint& base);
  // The base's name; empty when there is none. Throws kMalformedFile when more than one could be meant.
  std::string find(const std::string& tensor) const;

 private:
  const Checkpoint& base_;
  std::map<std::string, std::vector<std::string>> by_core_;
};

// The linear layers of a base, Conv1D among them, in the order of its weights: modules, without ".weight".
std::vector<std::string> linear_module_names(const Checkpoint& base, const TensorRoles& roles);

}  // namespace nfloat

#endif  // NFLOAT_CONVERT_ADAPTER_NAMES_H_
