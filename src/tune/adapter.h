// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TUNE_ADAPTER_H_
#define NFLOAT_TUNE_ADAPTER_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "model/model_state.h"
#include "nfloat/train.h"

namespace nfloat {

class FrozenProducts;

// The groups of matrices of a layer.
enum class Place : uint8_t { kQueryKeyValue, kOutput, kGateUp, kDown };
inline constexpr size_t kPlaces = 4;

const LinearGroup& group_at(const LayerWeights& layer, Place place) noexcept;

// One matrix of the layers and where it stands.
struct LinearModule {
  std::string name;  // "model.layers.0.self_attn.q_proj"
  int64_t layer = 0;
  Place place = Place::kQueryKeyValue;
  size_t part = 0;    // of the group
  int64_t first = 0;  // of the group's outputs
  int64_t in = 0, out = 0;
};

// Every matrix of the layers in the order of the forward pass, with the names of the family.
// Throws kUnsupported for a mixture of experts.
std::vector<LinearModule> linear_modules(const Model::State& model);
// The same from the configuration alone.
std::vector<LinearModule> linear_modules(const ModelConfig& config);
// Of them those that the options ask for. Throws kInvalidArgument when no module is meant, or a target
// matches none.
std::vector<LinearModule> chosen_modules(const ModelConfig& config, const TrainOptions& options);
// By the options and their patterns.
int64_t rank_of(const LinearModule& module, const TrainOptions& options);
// Ranks are padded to whole vectors.
int64_t padded_rank(int64_t rank) noexcept;

// A pair of low-rank matrices beside a frozen one: y = W x + scale * B A x (Hu et al. 2021).
class LoraModule {
 public:
  LoraModule(LinearModule module, int64_t rank, double alpha, double scale);

  const LinearModule& at() const noexcept { return module_; }
  int64_t rank() const noexcept { return rank_; }
  int64_t padded_rank() const noexcept { return padded_; }
  double alpha() const noexcept { return alpha_; }
  float scale() const noexcept { return scale_; }

  // Parameters, as PEFT has them.
  std::vector<float> a;  // [rank][in]
  std::vector<float> b;  // [out][rank]
  // Gradients; that of b transposed, as it is made.
  std::vector<float> a_gradient;             // [rank][in]
  std::vector<float> b_transposed_gradient;  // [rank][out]

  // DoRA, else all empty: y = factors * (W x + scale * B A x) + bias, factors = magnitude / |rows of
  // W + scale * B A|, whose lengths are constants to the gradient.
  std::vector<float> magnitude, magnitude_gradient, factors;  // [out]
  bool dora() const noexcept { return !magnitude.empty(); }
  // Magnitudes at the start: the lengths of the rows of W.
  void start_magnitude(const LinearGroup& group, FrozenProducts& products);
  // `factors` for the present values, the same for every number of threads.
  void update_factors(const LinearGroup& group, FrozenProducts& products, int threads);

  // The layouts that products read, from `a` and `b`: of float32, or of pairs of bf16 alone.
  void refresh() noexcept;
  void use_pairs(bool pairs);
  uint64_t layout_bytes() const noexcept {
    return (a_transposed_.size() + b_transposed_.size() + b_padded_.size()) * sizeof(float) +
           (a_pairs_.size() + b_pairs_.size()) * sizeof(uint32_t);
  }
  const float* a_transposed() const noexcept { return a_transposed_.data(); }  // [in][padded_rank]
  const float* b_transposed() const noexcept { return b_transposed_.data(); }  // [rank][out]
  const float* b_padded() const noexcept { return b_padded_.data(); }          // [out][padded_rank]

  // A and scale * B as low_rank_pairs.cpp multiplies by them, the ranks side by side: strips of 32 padded
  // ranks, or of 16 at the end, each [terms / 2][strip] pairs of terms.
  const uint32_t* a_pairs() const noexcept { return a_pairs_.data(); }
  const uint32_t* b_pairs() const noexcept { return b_pairs_.data(); }

  void clear_gradients() noexcept;
  // The gradient of `b` in its own order.
  std::vector<float> b_gradient() const;

 private:
  LinearModule module_;
  int64_t rank_, padded_;
  double alpha_;
  float scale_;
  bool pairs_ = false;
  std::vector<float> a_transposed_, b_transposed_, b_padded_;
  std::vector<uint32_t> a_pairs_, b_pairs_;
  std::vector<double> squares_;  // DoRA: of the rows of W
};

struct Adapter {
  std::vector<LoraModule> modules;  // in the order of the forward pass
  int64_t lowest_layer = 0;         // with a module
  uint64_t version = 1;             // changes with the parameters
  // Matrices of the model for which the adapter's configuration asks for a pair that its file does not have,
  // one sentence; empty where there are none.
  std::string missing = {};
  bool dora() const noexcept { return !modules.empty() && modules[0].dora(); }

  // Those of a group; empty where it has none.
  std::span<LoraModule> of(int64_t layer, Place place) noexcept;
  void index(int64_t layers);
  int64_t parameters() const noexcept;

 private:
  std::vector<std::pair<size_t, size_t>> ranges_;  // by layer and place
};

// Modules as the options ask, B zero and A uniform in +-1/sqrt(in), as PEFT starts, drawn from the seed.
// Throws kInvalidArgument when no module is meant, or a target matches none.
Adapter make_adapter(const Model::State& model, const TrainOptions& options);

}  // namespace nfloat

#endif  // NFLOAT_TUNE_ADAPTER_H_
