// SPDX-License-Identifier: Apache-2.0
#include "base/fail.h"
#include "base/state_of.h"
#include "engine/linear_id.h"
#include "nfloat/adapter.h"
#include "tune/adapter_file.h"
#include "tune/frozen.h"
#include "tune/low_rank.h"

namespace nfloat {
namespace {

Place place_of(LinearRole role) noexcept {
  switch (role) {
    case LinearRole::kQueryKeyValue:
      return Place::kQueryKeyValue;
    case LinearRole::kOutput:
      return Place::kOutput;
    case LinearRole::kGateUp:
      return Place::kGateUp;
    default:
      return Place::kDown;
  }
}

// Adapters beside the products of a model. Has no state of its own while a pass runs: for any number of
// sessions at a time.
class Beside : public LinearObserver {
 public:
  Beside(const Model::State& model, const std::vector<AdapterChoice>& choices)
      : model_(model), threads_(model.options.threads) {
    FrozenProducts products(*model.device, false, Precision::kF32, threads_);
    for (const AdapterChoice& choice : choices) {
      TrainOptions read;
      Adapter adapter = read_adapter(choice.folder, model, read);
      if (adapter.dora() && (choices.size() > 1 || choice.weight != 1))
        fail(ErrorCode::kUnsupported,
             "{}: DoRA gives whole rows their length: it is neither added to other adapters nor weighted",
             choice.folder);
      for (LoraModule& module : adapter.modules)
        if (module.dora())
          module.update_factors(
              group_at(model.layers[static_cast<size_t>(module.at().layer)], module.at().place), products,
              threads_);
      if (!adapter.missing.empty()) notes_.push_back(adapter.missing);
      adapters_.push_back({std::move(adapter), static_cast<float>(choice.weight)});
    }
  }

  const std::vector<std::string>& notes() const noexcept { return notes_; }

  void input(const LinearId&, const ActivationRows&) override {}

  void output(const LinearId& id, const ActivationRows& x, float* y, int64_t y_stride) override {
    if (id.expert >= 0 || id.role == LinearRole::kRouter) return;
    for (Weighted& own : adapters_)
      for (const LoraModule& module : own.adapter.of(id.layer, place_of(id.role))) {
        std::vector<float> z(static_cast<size_t>(x.rows * module.padded_rank()));
        low_rank_down(module, {x.data, x.stride}, x.rows, z.data(), threads_);
        low_rank_up(module, z.data(), x.rows, own.weight, {y, y_stride}, threads_);
        if (!module.dora()) continue;
        const LinearGroup& group = group_at(model_.layers[static_cast<size_t>(id.layer)], module.at().place);
        apply_factors(module, group.bias(module.at().part), x.rows, {y, y_stride}, threads_);
      }
  }

 private:
  struct Weighted {
    Adapter adapter;
    float weight;
  };
  const Model::State& model_;  // owns this
  std::vector<Weighted> adapters_;
  std::vector<std::string> notes_;
  int threads_;
};

}  // namespace

std::vector<std::string> attach_adapters(const Model& model, const std::vector<AdapterChoice>& adapters) {
  const Model::State& state = state_of(model);
  if (adapters.empty()) {
    state.beside = nullptr;
    return {};
  }
  auto beside = std::make_shared<Beside>(state, adapters);
  state.beside = beside;
  return beside->notes();
}

LoadedAdapters load_adapters(const Model& model, const std::vector<AdapterChoice>& adapters) {
  if (adapters.empty()) fail(ErrorCode::kInvalidArgument, "no adapter is given");
  auto beside = std::make_shared<Beside>(state_of(model), adapters);
  return {beside, beside->notes()};
}

}  // namespace nfloat
