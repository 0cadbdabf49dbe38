// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_MODEL_LAYER_READER_H_
#define NFLOAT_MODEL_LAYER_READER_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "architecture/families.h"
#include "engine/device.h"
#include "engine/linear_id.h"
#include "model/loader.h"
#include "model/model_state.h"
#include "nfloat/quantize.h"

namespace nfloat {

// Reads the parts of a model from its checkpoint, packed as the options say. For use by any number of
// threads, as far as options.transform and on_read are. Errors are those of Model::load.
class LayerReader {
 public:
  // The tensors have been checked. options.threads is resolved. on_read(bytes) is called after each tensor of
  // matrices; may be null, may throw. device: null: the one that the options name.
  LayerReader(std::shared_ptr<const Checkpoint> checkpoint, const ModelConfig& config,
              const ModelOptions& options, std::function<void(uint64_t)> on_read = nullptr,
              std::shared_ptr<Device> device = nullptr);

  Embedding embedding() const;
  Constant positions() const;  // empty: none are learned
  int64_t position_offset() const noexcept { return family_.position_offset; }
  LinearGroup project_in() const;  // of models whose embeddings have a size of their own
  LinearGroup project_out() const;
  LayerWeights layer(int64_t layer) const;
  NormWeights final_norm() const;  // empty: none
  // The tensors of the norms' factors, each once for every norm that has it.
  struct NormTensor {
    NormWeights LayerWeights::*norm;
    std::string name;
  };
  std::vector<NormTensor> norms_of(int64_t layer) const;
  std::string final_norm_name() const { return names_(tensors_.final_norm); }
  // The tensors that a product is made of, in the order of its outputs; empty where experts lie in one
  // tensor.
  std::vector<std::string> tensors_of(const LinearId& id) const;
  bool stored_transposed() const noexcept { return family_.stored_transposed; }
  LinearGroup head() const;

 private:
  Constant placed(std::vector<float> values) const;
  NormWeights read_norm(const std::string& name) const;
  void read_experts(LayerWeights& weights, int64_t layer) const;
  void read_fused(LayerWeights& weights, LinearGroup ExpertWeights::*group, const std::string& name) const;
  void add_slice(LinearGroup& group, const std::string& name, int64_t expert,
                 const std::vector<float>& bias) const;
  void add(LinearGroup& group, const std::string& name, bool with_bias) const;
  void add_plain(LinearGroup& group, const std::string& name, const TensorView& view,
                 const std::vector<float>& bias, const LinearGroup::Release& release) const;
  void add_transformed(LinearGroup& group, const std::string& name, const TensorView& view,
                       const std::vector<float>& bias) const;
  LinearGroup::Release release() const;
  void finish(const TensorView& view) const;
  QuantizedTensor quantize(const TensorView& view, const Codebook& codebook, const std::string& name) const;

  const std::shared_ptr<const Checkpoint> checkpoint_;
  const ModelConfig config_;
  const ModelOptions options_;
  const std::function<void(uint64_t)> on_read_;
  const std::shared_ptr<Device> device_;
  const Family& family_;
  const FamilyTensors& tensors_;
  const TensorNames names_;
};

}  // namespace nfloat

#endif  // NFLOAT_MODEL_LAYER_READER_H_
