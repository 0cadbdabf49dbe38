// SPDX-License-Identifier: Apache-2.0
#include "calibrate/distill.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "base/fail.h"
#include "base/parallel.h"
#include "calibrate/cancel.h"
#include "calibrate/estimate.h"
#include "calibrate/soft_coding.h"
#include "kernels/dispatch.h"
#include "model/layer_reader.h"
#include "model/loader.h"
#include "tensor/floats.h"
#include "tune/optimizer.h"
#include "tune/pass.h"
#include "tune/random.h"
#include "tune/train_memory.h"

namespace nfloat {
namespace {

constexpr int64_t kMostSteps = 150, kWarmupSteps = 10;
constexpr int64_t kStepTokens = 1024;  // of a step, or one window
constexpr int64_t kPasses = 3;         // over the text, at most
constexpr int64_t kJudgements = 5;
// Adam moves a number by about its rate a step: the sum of the rates says how far one comes. Levels are some
// .1 apart. Larger rates than the last one have been seen to diverge.
constexpr double kWay = .3, kMostRate = 3e-3;
constexpr double kShareOfRest = .5;

LinearRole role_of(Place place) noexcept {
  switch (place) {
    case Place::kQueryKeyValue:
      return LinearRole::kQueryKeyValue;
    case Place::kOutput:
      return LinearRole::kOutput;
    case Place::kGateUp:
      return LinearRole::kGateUp;
    default:
      return LinearRole::kDown;
  }
}

int64_t longest(const TokenSequences& sequences) noexcept {
  size_t most = 0;
  for (const auto& sequence : sequences) most = std::max(most, sequence.size());
  return static_cast<int64_t>(most);
}
int64_t tokens_of(const TokenSequences& sequences) noexcept {
  int64_t count = 0;
  for (const auto& sequence : sequences) count += std::ssize(sequence);
  return count;
}

// Windows side by side, from sequences[order[at]] on, as many as `rows` have room for; moves `at` behind
// them.
Batch next_batch(const TokenSequences& sequences, std::span<const size_t> order, size_t& at, int64_t rows) {
  Batch batch;
  for (; at < order.size(); ++at) {
    const std::span<const int32_t> tokens = sequences[order[at]];
    if (batch.rows() > 0 && batch.rows() + std::ssize(tokens) > rows) break;
    batch.documents.push_back(
        {.begin = batch.rows(), .length = std::ssize(tokens), .source = static_cast<int64_t>(order[at])});
    batch.tokens.insert(batch.tokens.end(), tokens.begin(), tokens.end());
  }
  batch.labels.assign(batch.tokens.size(), kIgnoredLabel);
  return batch;
}

// The gains of a norm, trained in float32 and used as the file will hold them.
struct TrainedNorm {
  std::string name;
  TensorView stored;
  std::vector<float> values, gradients;  // of the stored numbers
  std::vector<Moments> moments;
  struct User {
    int64_t layer;  // -1: behind the layers
    NormWeights LayerWeights::*norm;
  };
  std::vector<User> users;

  Tensor rounded() const {
    Tensor result(stored.dtype, stored.shape);
    convert_elements({DType::kF32, stored.shape, std::as_bytes(std::span(values))}, stored.dtype,
                     result.bytes());
    return result;
  }
};

class Distiller : private GradientObserver {
 public:
  Distiller(const DistillInput& input, const DistillPlan& plan)
      : input_(input),
        plan_(plan),
        config_(input.config),
        state_(load_state(input.checkpoint, config_, options(nullptr))),
        reader_(input.checkpoint, config_, state_->options),
        student_(input.checkpoint, config_,
                 options([this](const std::string& name, std::span<float> weights, int64_t, int64_t) {
                   const auto found = codings_.find(name);
                   if (found != codings_.end()) found->second.decode(weights, input_.threads);
                 })) {
    int64_t largest = 0;
    for (const auto& [name, tensor] : input_.start) {
      codings_.emplace(name, tensor);
      largest = std::max(largest, tensor.elements());
    }
    gradient_.resize(static_cast<size_t>(largest));
    for (int64_t layer = 0; layer < config_.layers; ++layer)
      for (const auto& [norm, name] : reader_.norms_of(layer)) add_norm(name, {layer, norm});
    if (config_.final_norm) add_norm(reader_.final_norm_name(), {-1, nullptr});
    adapter_.index(config_.layers);
    make_pass();
  }

  Distilled run(const std::function<void(int64_t, int64_t, double)>& progress) {
    prepare_held();
    Distilled result;
    read_student();
    result.start_kl = result.kl = held_divergence();
    keep(result);
    std::vector<float> expected(static_cast<size_t>(plan_.rows * config_.hidden));
    std::vector<size_t> order(input_.trained.size());
    size_t at = order.size();
    double last_kl = result.kl;
    uint64_t turn = 0;
    for (int64_t step = 0; step < plan_.steps; ++step) {
      if (progress) progress(step, plan_.steps, last_kl);
      if (at == order.size()) {
        order = shuffled(order.size(), 0, turn++);
        at = 0;
      }
      const Batch batch = next_batch(input_.trained, order, at, plan_.rows);
      pass_->features(batch, expected.data());
      set_step(step);
      swap();
      pass_->divergence_and_gradients(batch, expected.data(), 1 / static_cast<double>(batch.rows()), *this);
      swap();
      step_norms();
      read_student();
      const bool judged = (step + 1) * kJudgements / plan_.steps > step * kJudgements / plan_.steps;
      if (!judged) continue;
      last_kl = held_divergence();
      if (!(last_kl < result.kl)) continue;
      result.kl = last_kl;
      result.steps = step + 1;
      keep(result);
    }
    if (progress) progress(plan_.steps, plan_.steps, last_kl);
    for (const auto& [name, tensor] : result.tensors) {
      const QuantizedTensor& before = input_.start.at(name);
      for (size_t i = 0; i < tensor.codes.size(); ++i) {
        const int change = tensor.codes[i] ^ before.codes[i];
        result.changed_codes += ((change & 0xf0) != 0 ? 1 : 0) + ((change & 0xf) != 0 ? 1 : 0);
      }
    }
    return result;
  }

 private:
  ModelOptions options(decltype(ModelOptions::transform) transform) const {
    ModelOptions result;
    result.precision = Precision::kF32;
    result.threads = input_.threads;
    result.device = "cpu";
    result.transform = std::move(transform);
    return result;
  }

  void add_norm(const std::string& name, TrainedNorm::User user) {
    const auto same = std::find_if(norms_.begin(), norms_.end(),
                                   [&](const TrainedNorm& norm) { return norm.name == name; });
    if (same != norms_.end()) return same->users.push_back(user);
    TrainedNorm& norm = norms_.emplace_back();
    norm.name = name;
    norm.stored = input_.checkpoint->view(name);
    norm.values = floats_of(norm.stored);
    norm.gradients.resize(norm.values.size());
    norm.moments.resize(norm.values.size());
    norm.users.push_back(user);
  }

  // The way of the pass that keeps most and fits.
  void make_pass() {
    PassOptions own{.precision = Precision::kF32, .threads = input_.threads, .cancelled = [this] {
                      return cancel_.asked();
                    }};
    const uint64_t available = available_memory_bytes();
    for (const Recompute level : {Recompute::kNone, Recompute::kCheap, Recompute::kFull}) {
      own.recompute = level;
      const uint64_t needed = pass_bytes(config_, {}, false, false, level, plan_.rows);
      if (level == Recompute::kFull || available == 0 || plan_.memory_bytes + needed < available) break;
    }
    const int64_t positions = std::max(longest(input_.trained), longest(input_.held));
    pass_ = std::make_unique<Pass>(Model(state_), adapter_, own, plan_.rows, positions);
  }

  // The quantized layers as they are now, into layers_.
  void read_student() {
    layers_.clear();
    for (int64_t layer = 0; layer < config_.layers; ++layer) {
      cancel_.expect_none();
      layers_.push_back(student_.layer(layer));
    }
    if (config_.final_norm) final_norm_ = student_.final_norm();
    norm_at_.clear();
    const float offset = config_.norm_plus_one ? 1.0f : 0.0f;
    for (TrainedNorm& norm : norms_) {
      const Tensor rounded = norm.rounded();
      std::vector<float> values = floats_of(rounded.view());
      for (float& value : values) value += offset;
      for (const TrainedNorm::User& user : norm.users) {
        NormWeights& to = user.layer < 0 ? final_norm_ : layers_[static_cast<size_t>(user.layer)].*user.norm;
        to.weight = Constant(values);
        state_->device->place(to.weight);
        norm_at_[to.weight.data()] = &norm;
      }
    }
  }

  // Gives the pass the other weights: the quantized ones, or the original's again.
  void swap() noexcept {
    std::swap(state_->layers, layers_);
    std::swap(state_->final_norm, final_norm_);
  }

  void set_step(int64_t step) noexcept {
    const auto done = static_cast<double>(step + 1);
    const double warm = std::min(1.0, done / kWarmupSteps);
    const double share = warm * schedule_factor(TrainSchedule::kCosine, step, 0, plan_.steps);
    const double rate = share * std::min(kMostRate, kWay / static_cast<double>(plan_.steps));
    step_ = {.rate = static_cast<float>(rate),
             .rate_of_rest = static_cast<float>(kShareOfRest * rate),
             .first = static_cast<float>(1 - std::pow(AdamStep::kBeta1, done)),
             .root = static_cast<float>(std::sqrt(1 - std::pow(AdamStep::kBeta2, done)))};
  }

  void product(int64_t layer, Place place, ConstRows x, ConstRows dy, int64_t rows) override {
    int64_t first = 0;
    const int64_t in = group_at(state_->layers[static_cast<size_t>(layer)], place).inputs();
    for (const std::string& name : reader_.tensors_of({layer, role_of(place)})) {
      cancel_.expect_none();
      const TensorInfo& info = *input_.checkpoint->find(name);
      const int64_t out = info.shape.elements() / in;
      const auto found = codings_.find(name);
      if (found != codings_.end()) {
        weight_gradients(x, {dy.data + first, dy.stride}, rows, out, in);
        found->second.step({gradient_.data(), static_cast<size_t>(out * in)}, step_, input_.threads);
      }
      first += out;
    }
  }

  // gradient_ [out][in] = dy^T x.
  void weight_gradients(ConstRows x, ConstRows dy, int64_t rows, int64_t out, int64_t in) {
    constexpr int64_t kGrain = 48;
    parallel_for(out, kGrain, input_.threads, [&](int64_t begin, int64_t end) {
      kernels::table().train.product({.a = dy.data + begin,
                                      .a_row = 1,
                                      .a_column = dy.stride,
                                      .b = x.data,
                                      .b_stride = x.stride,
                                      .c = gradient_.data() + begin * in,
                                      .c_stride = in,
                                      .m = end - begin,
                                      .n = in,
                                      .k = rows});
    });
  }

  void norm(const NormWeights& norm, ConstRows x, ConstRows dy, int64_t rows) override {
    const auto found = norm_at_.find(norm.weight.data());
    if (found == norm_at_.end()) return;
    TrainedNorm& trained = *found->second;
    const auto width = std::ssize(norm.weight);
    const kernels::TransformerKernels& kernels = kernels::table().transformer;
    const auto epsilon = static_cast<float>(config_.norm_epsilon);
    const std::vector<float> ones(norm.weight.size(), 1.0f), zeros(norm.weight.size());
    normed_.resize(static_cast<size_t>(rows * width));
    parallel_for(rows, 1, input_.threads, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        float* to = normed_.data() + row * width;
        if (config_.norm == NormKind::kLayer)
          kernels.layer_norm(x.data + row * x.stride, ones.data(), zeros.data(), epsilon, width, to);
        else
          kernels.rms_norm(x.data + row * x.stride, ones.data(), epsilon, width, to);
      }
    });
    parallel_for(width, 16, input_.threads, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        double sum = 0;
        for (int64_t row = 0; row < rows; ++row)
          sum += static_cast<double>(normed_[static_cast<size_t>(row * width + i)]) *
                 static_cast<double>(dy.data[row * dy.stride + i]);
        trained.gradients[static_cast<size_t>(i)] += static_cast<float>(sum);
      }
    });
  }

  void step_norms() {
    for (TrainedNorm& norm : norms_)
      for (size_t i = 0; i < norm.values.size(); ++i) {
        norm.values[i] -= step_.rate_of_rest * adam_change(norm.moments[i], norm.gradients[i], step_);
        norm.gradients[i] = 0;
      }
  }

  void prepare_held() {
    const std::vector<size_t> order = in_order(input_.held.size());
    for (size_t at = 0; at < order.size();) {
      held_.push_back(next_batch(input_.held, order, at, plan_.rows));
      std::vector<float>& features =
          held_features_.emplace_back(static_cast<size_t>(held_.back().rows() * config_.hidden));
      pass_->features(held_.back(), features.data());
    }
  }

  double held_divergence() {
    double sum = 0;
    swap();
    for (size_t i = 0; i < held_.size(); ++i) sum += pass_->divergence(held_[i], held_features_[i].data());
    swap();
    return sum / static_cast<double>(tokens_of(input_.held));
  }

  void keep(Distilled& result) const {
    for (const auto& [name, coding] : codings_) result.tensors[name] = coding.tensor();
    for (const TrainedNorm& norm : norms_) result.norms[norm.name] = norm.rounded();
  }

  const DistillInput& input_;
  const DistillPlan plan_;
  const ModelConfig& config_;
  const Cancel cancel_;
  const std::shared_ptr<Model::State> state_;
  const LayerReader reader_, student_;
  std::map<std::string, SoftCoding> codings_;
  std::vector<TrainedNorm> norms_;
  std::map<const float*, TrainedNorm*> norm_at_;  // by where the gains are
  Adapter adapter_;                               // without modules
  std::unique_ptr<Pass> pass_;
  std::vector<LayerWeights> layers_;  // those that the pass does not have
  NormWeights final_norm_;
  AdamStep step_;
  std::vector<float> gradient_, normed_;
  std::vector<Batch> held_;
  std::vector<std::vector<float>> held_features_;
};

}  // namespace

DistillPlan plan_distillation(const ModelConfig& config, double weights, const TokenSequences& trained,
                              const TokenSequences& held) {
  linear_modules(config);  // refuses mixtures
  DistillPlan plan;
  plan.rows = std::max({kStepTokens, longest(trained), longest(held)});
  const int64_t tokens = tokens_of(trained), in_a_step = std::max(kStepTokens, longest(trained));
  plan.steps = std::clamp(kPasses * tokens / in_a_step, int64_t{1}, kMostSteps);
  plan.tokens = plan.steps * in_a_step;
  constexpr double kOriginal = 2, kPacked = 4;
  const double each =
      kOriginal + kPacked + 3 * kCodingBytes + static_cast<double>(SoftCoding::bytes_a_weight());
  const auto hidden = static_cast<double>(config.hidden);
  const double states = 4 * hidden * static_cast<double>(tokens_of(held) + plan.rows);
  const double head = 4 * hidden * static_cast<double>(config.vocabulary);
  plan.memory_bytes = static_cast<uint64_t>(each * weights + states + head) +
                      pass_bytes(config, {}, false, false, Recompute::kFull, plan.rows);
  return plan;
}

Distilled distill(const DistillInput& input, const DistillPlan& plan,
                  const std::function<void(int64_t, int64_t, double)>& progress) {
  check_available_memory(plan.memory_bytes, "distillation (level 3) of this model");
  return Distiller(input, plan).run(progress);
}

}  // namespace nfloat
