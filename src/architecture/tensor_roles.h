// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ARCHITECTURE_TENSOR_ROLES_H_
#define NFLOAT_ARCHITECTURE_TENSOR_ROLES_H_

#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "nfloat/tensor.h"
#include "nfloat/tensor_role.h"

namespace nfloat {

// The roles of a model's tensors, from config.json (its model types, those of its parts, or the names of its
// classes) and the tensors' names and shapes.
class TensorRoles {
 public:
  explicit TensorRoles(const Json& config);

  // Shapes are those of the plain tensor.
  TensorRole of(const std::string& tensor, const Shape& shape) const;

  // Whether the module is a Conv1D, whose weight is [in, out] when plain; bitsandbytes turns it before it
  // quantizes. Needs no shape.
  bool is_conv1d(const std::string& tensor) const;

  // Whether it is the weight of the table of tokens or of the output embedding, which models may share. By
  // name, wherever in the model it is.
  bool may_be_tied(const std::string& tensor) const;

  // The output embedding as the model's class calls it: a head that shares the embedding's matrix has no
  // tensor that would tell.
  const std::string& output_embedding() const noexcept { return output_embedding_; }

 private:
  // A part of the model that config.json describes, and where its modules are: "" everywhere.
  struct Part {
    std::string model_type;
    std::string prefix;
  };

  void add_parts(const Json& config, const std::string& prefix, int depth);
  bool is_kept_float(const std::string& tensor, const std::vector<std::string_view>& path) const;

  std::vector<Part> parts_;
  std::set<int64_t> experts_;       // numbers of experts
  std::set<int64_t> vocabularies_;  // and of tokens
  std::string output_embedding_ = "lm_head";
};

// The module that owns a parameter: "a.b.weight" is in "a.b"; empty for a parameter of the model itself.
std::string module_of(const std::string& tensor);

}  // namespace nfloat

#endif  // NFLOAT_ARCHITECTURE_TENSOR_ROLES_H_
