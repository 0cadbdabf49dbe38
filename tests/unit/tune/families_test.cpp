// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <memory>
#include <random>

#include "base/state_of.h"
#include "model/layer_reader.h"
#include "model/loader.h"
#include "nfloat/codebook.h"
#include "nfloat/error.h"
#include "tune/optimizer.h"
#include "tune/pass.h"
#include "tune/train_memory.h"
#include "unit/tune/adapters.h"

namespace nfloat {
namespace {

using testing::apart;
using testing::RandomModel;

struct Case {
  const char* name;
  const char* config;
};

// What the steps of a layer can be: grouped heads, biases, windows, norms of heads and around blocks, caps of
// scores and logits, partial and second rotary embeddings, scaled residuals, matrices in one and turned,
// learned positions, parallel blocks, norms behind the residual, tied and untied heads.
constexpr Case kCases[] = {
    {"LlamaBiases", R"({"model_type": "llama", "hidden_size": 32, "intermediate_size": 48,
      "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 40, "max_position_embeddings": 300,
      "attention_bias": true, "mlp_bias": true})"},
    {"LlamaOddSizes", R"({"model_type": "llama", "hidden_size": 50, "intermediate_size": 37,
      "num_hidden_layers": 2, "num_attention_heads": 5, "num_key_value_heads": 5, "vocab_size": 19,
      "max_position_embeddings": 300, "rms_norm_eps": 1e-6, "head_dim": 6, "tie_word_embeddings": true})"},
    {"MistralWindow", R"({"model_type": "mistral", "hidden_size": 32, "intermediate_size": 48,
      "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 40,
      "max_position_embeddings": 300, "sliding_window": 23})"},
    {"Qwen2", R"({"model_type": "qwen2", "hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 2,
      "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 61, "max_position_embeddings": 200,
      "tie_word_embeddings": true, "use_sliding_window": true, "sliding_window": 23,
      "max_window_layers": 1})"},
    {"Qwen3", R"({"model_type": "qwen3", "hidden_size": 40, "intermediate_size": 72, "num_hidden_layers": 2,
      "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 61,
      "max_position_embeddings": 200, "use_sliding_window": false, "sliding_window": null,
      "attention_bias": true})"},
    {"Gemma2", R"({"model_type": "gemma2", "hidden_size": 48, "intermediate_size": 56, "num_hidden_layers": 2,
      "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 61,
      "max_position_embeddings": 200, "sliding_window": 23, "query_pre_attn_scalar": 24, "hidden_act": "gelu",
      "hidden_activation": "gelu_pytorch_tanh", "attn_logit_softcapping": 5.0,
      "final_logit_softcapping": 3.0})"},
    {"Gemma3", R"({"model_type": "gemma3_text", "hidden_size": 48, "intermediate_size": 56,
      "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
      "vocab_size": 61, "max_position_embeddings": 200, "sliding_window": 17, "sliding_window_pattern": 3,
      "query_pre_attn_scalar": 24, "rope_scaling": {"rope_type": "linear", "factor": 8.0}})"},
    {"Phi3", R"({"model_type": "phi3", "hidden_size": 48, "intermediate_size": 40, "num_hidden_layers": 2,
      "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 61, "max_position_embeddings": 200,
      "original_max_position_embeddings": 64, "partial_rotary_factor": 0.75, "sliding_window": null,
      "rope_scaling": {"type": "longrope", "short_factor": [1, 1.5, 2], "long_factor": [1.5, 3, 7]}})"},
    {"Granite", R"({"model_type": "granite", "hidden_size": 48, "intermediate_size": 72,
      "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 61,
      "max_position_embeddings": 200, "embedding_multiplier": 12.0, "residual_multiplier": 0.22,
      "attention_multiplier": 0.1, "logits_scaling": 8.0, "tie_word_embeddings": true})"},
    {"Olmo2", R"({"model_type": "olmo2", "hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 2,
      "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 61, "max_position_embeddings": 200,
      "rms_norm_eps": 1e-6})"},
    {"SmolLM3", R"({"model_type": "smollm3", "hidden_size": 48, "intermediate_size": 72,
      "num_hidden_layers": 4, "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 61,
      "max_position_embeddings": 200, "no_rope_layers": [1, 1, 1, 0]})"},
    {"Gpt2", R"({"model_type": "gpt2", "n_embd": 48, "n_layer": 2, "n_head": 6, "n_inner": null,
      "vocab_size": 61, "n_positions": 200, "n_ctx": 200, "activation_function": "gelu_new"})"},
    {"Pythia", R"({"model_type": "gpt_neox", "hidden_size": 48, "intermediate_size": 64,
      "num_hidden_layers": 2, "num_attention_heads": 3, "vocab_size": 61, "max_position_embeddings": 200,
      "rotary_pct": 0.25, "rotary_emb_base": 10000})"},
    {"NeoxInOrder", R"({"model_type": "gpt_neox", "hidden_size": 48, "intermediate_size": 64,
      "num_hidden_layers": 2, "num_attention_heads": 3, "vocab_size": 61, "max_position_embeddings": 200,
      "use_parallel_residual": false})"},
    {"Opt", R"({"model_type": "opt", "hidden_size": 48, "ffn_dim": 64, "num_hidden_layers": 2,
      "num_attention_heads": 6, "vocab_size": 61, "max_position_embeddings": 200,
      "word_embed_proj_dim": 48})"},
    {"Opt350m", R"({"model_type": "opt", "hidden_size": 48, "ffn_dim": 64, "num_hidden_layers": 2,
      "num_attention_heads": 6, "vocab_size": 61, "max_position_embeddings": 200, "word_embed_proj_dim": 32,
      "do_layer_norm_before": false})"},
};

constexpr int64_t kPositions = 150;

// Documents that are shorter and longer than a block of queries, some of their tokens without a label.
Batch make_test_batch(const RandomModel& random) {
  const std::vector<int32_t> tokens = random.tokens(150);
  Batch batch;
  for (const int64_t length : {93, 1, 40, 16}) {
    batch.documents.push_back({batch.rows(), length, 0});
    for (int64_t i = 0; i < length; ++i) batch.tokens.push_back(tokens[batch.tokens.size()]);
  }
  batch.labels = batch.tokens;
  for (size_t i = 0; i < batch.labels.size(); i += 5) batch.labels[i] = kIgnoredLabel;
  return batch;
}

double session_loss(const Model& model, const Batch& batch) {
  double sum = 0;
  for (const Document& document : batch.documents) {
    Session session(
        model,
        {.context = kPositions, .kv_cache = KvCacheType::kF32, .precision = Precision::kF32, .threads = 1});
    const auto begin = static_cast<size_t>(document.begin), length = static_cast<size_t>(document.length);
    const BatchEntry entry{&session, std::span(batch.tokens).subspan(begin, length)};
    forward_batch({&entry, 1}, [&](size_t, int64_t index, std::span<const float> logits) {
      if (index + 1 == document.length) return;
      const int32_t label = batch.labels[begin + static_cast<size_t>(index) + 1];
      if (label == kIgnoredLabel) return;
      double total = 0;
      for (const float logit : logits) total += std::exp(static_cast<double>(logit));
      sum += std::log(total) - static_cast<double>(logits[static_cast<size_t>(label)]);
    });
  }
  return sum;
}

std::vector<float> all_gradients(const Adapter& adapter) {
  std::vector<float> all;
  for (const LoraModule& module : adapter.modules) {
    const std::vector<float> b = module.b_gradient();
    all.insert(all.end(), module.a_gradient.begin(), module.a_gradient.end());
    all.insert(all.end(), b.begin(), b.end());
  }
  return all;
}

void move(Adapter& adapter, const std::vector<double>& direction, double by) {
  size_t i = 0;
  for (LoraModule& module : adapter.modules) {
    for (float& value : module.a)
      value = static_cast<float>(static_cast<double>(value) + by * direction[i++]);
    for (float& value : module.b)
      value = static_cast<float>(static_cast<double>(value) + by * direction[i++]);
    module.refresh();
  }
}

class TrainedFamilies : public ::testing::TestWithParam<Case> {
 protected:
  const RandomModel random_{GetParam().config};
  const Model model_ = Model::load(random_.folder.path(), {.precision = Precision::kF32, .threads = 2});
  const Batch batch_ = make_test_batch(random_);
};

// Memory of a pass is known before it is made.
TEST_P(TrainedFamilies, MemoryIsPredicted) {
  Adapter adapter = testing::random_adapter(model_);
  std::vector<PlannedModule> modules;
  for (const LoraModule& module : adapter.modules) {
    const LinearModule& at = module.at();
    const LinearGroup& group = group_at(state_of(model_).layers[static_cast<size_t>(at.layer)], at.place);
    EXPECT_EQ(group.inputs(), at.in) << at.name;
    EXPECT_EQ(group.outputs(at.part), at.out) << at.name;
    modules.push_back({at.layer, at.place, module.padded_rank()});
  }
  for (const Recompute level : {Recompute::kNone, Recompute::kCheap, Recompute::kFull}) {
    const Pass pass(model_, adapter, {.recompute = level, .threads = 1}, 64, kPositions);
    EXPECT_EQ(pass.bytes(), pass_bytes(model_.config(), modules, false, false, level, 64));
  }
}

TEST_P(TrainedFamilies, TheLossIsThatOfTheModel) {
  Adapter adapter = testing::random_adapter(model_);
  Pass pass(model_, adapter, {.threads = 2}, batch_.rows(), kPositions);
  const double expected = session_loss(model_, batch_);
  EXPECT_NEAR(1, pass.loss(batch_, false) / expected, 3e-6);
  EXPECT_GT(std::abs(pass.loss(batch_, true) / expected - 1), 1e-4);
  for (LoraModule& module : adapter.modules) {
    std::fill(module.b.begin(), module.b.end(), 0.0f);
    module.refresh();
  }
  EXPECT_EQ(pass.loss(batch_, false), pass.loss(batch_, true)) << "B = 0 changes nothing";
}

TEST_P(TrainedFamilies, GradientsAreCentralDifferences) {
  Adapter adapter = testing::random_adapter(model_);
  Pass pass(model_, adapter, {.threads = 2}, batch_.rows(), kPositions);
  const double weight = 1.0 / static_cast<double>(batch_.targets());
  pass.loss_and_gradients(batch_, weight, {});
  const std::vector<float> gradient = all_gradients(adapter);
  const double norm = gradient_norm(adapter, 1);
  std::mt19937 generator(3);
  std::normal_distribution<double> normal;
  // Along the gradient, where most is to be seen, turned by chance.
  for (int turn = 0; turn < 3; ++turn) {
    std::vector<double> direction(gradient.size());
    double length = 0, expected = 0;
    for (size_t i = 0; i < direction.size(); ++i) {
      direction[i] = static_cast<double>(gradient[i]) / norm +
                     turn * 0.5 * normal(generator) / std::sqrt(static_cast<double>(direction.size()));
      length += direction[i] * direction[i];
    }
    for (size_t i = 0; i < direction.size(); ++i) {
      direction[i] /= std::sqrt(length);
      expected += direction[i] * static_cast<double>(gradient[i]);
    }
    const double step = 0.01;
    move(adapter, direction, step);
    const double above = pass.loss(batch_, true) * weight;
    move(adapter, direction, -2 * step);
    const double below = pass.loss(batch_, true) * weight;
    move(adapter, direction, step);
    EXPECT_NEAR(1, (above - below) / (2 * step) / expected, 2e-3) << "turn " << turn;
  }
}

TEST_P(TrainedFamilies, SameBitsWhateverIsRecomputedAndForAnyThreads) {
  std::vector<float> first;
  for (const int threads : {1, 2, 7})
    for (const Recompute level : {Recompute::kNone, Recompute::kCheap, Recompute::kFull}) {
      Adapter adapter = testing::random_adapter(model_);
      Pass pass(model_, adapter, {.recompute = level, .dropout = 0.2, .seed = 5, .threads = threads},
                batch_.rows(), kPositions);
      pass.loss_and_gradients(batch_, 0.01, {.active = true, .step = 3, .batch = 1});
      const std::vector<float> found = all_gradients(adapter);
      if (first.empty()) first = found;
      ASSERT_EQ(0, std::memcmp(first.data(), found.data(), found.size() * sizeof(float)))
          << threads << " threads, level " << static_cast<int>(level);
    }
}

// What a pass that multiplies in bf16 keeps of it: the same bits at every level, near the gradients of
// float32.
class FamiliesInBf16 : public ::testing::TestWithParam<Case> {
 protected:
  // Gradients of one precision. A pass with any dropout keeps float32, and without a key drops nothing.
  std::vector<float> gradients(bool bf16, bool dora, Recompute level, int threads, double dropout = 0) const {
    TrainOptions options;
    options.dora = dora;
    Adapter adapter = testing::random_adapter(model_, options);
    const PassOptions own{.bf16 = bf16,
                          .precision = bf16 ? Precision::kBF16 : Precision::kF32,
                          .recompute = level,
                          .dropout = dropout,
                          .threads = threads};
    Pass pass(model_, adapter, own, batch_.rows(), kPositions);
    std::vector<PlannedModule> modules;
    for (const LoraModule& module : adapter.modules)
      modules.push_back({module.at().layer, module.at().place, module.padded_rank()});
    EXPECT_EQ(pass.keeps_halves(), bf16 && halves_may_be_kept(model_.config(), dropout));
    EXPECT_EQ(pass.bytes(),
              pass_bytes(model_.config(), modules, dora, pass.keeps_halves(), level, batch_.rows()));
    pass.loss_and_gradients(batch_, 1.0 / static_cast<double>(batch_.targets()), {});
    std::vector<float> all = all_gradients(adapter);
    for (const LoraModule& module : adapter.modules)
      all.insert(all.end(), module.magnitude_gradient.begin(), module.magnitude_gradient.end());
    return all;
  }

  static ModelOptions in_four_bits() {
    ModelOptions options{.precision = Precision::kBF16, .threads = 2};
    options.quantize = make_codebook("nf4");
    return options;
  }

  const RandomModel random_{GetParam().config};
  const Model model_ = Model::load(random_.folder.path(), in_four_bits());
  const Batch batch_ = make_test_batch(random_);
};

TEST_P(FamiliesInBf16, GradientsAreNearThoseOfFloat32) {
  for (const bool dora : {false, true}) {
    const std::vector<float> exact = gradients(false, dora, Recompute::kNone, 2);
    const std::vector<float> first = gradients(true, dora, Recompute::kNone, 1);
    // Rounding what is kept costs about as much as rounding the factors of the products does.
    const double products = apart(exact, gradients(true, dora, Recompute::kNone, 2, 1e-9));
    EXPECT_LE(apart(exact, first), 2.5 * products) << "DoRA " << dora;
    for (const int threads : {2, 7})
      for (const Recompute level : {Recompute::kNone, Recompute::kCheap, Recompute::kFull}) {
        const std::vector<float> found = gradients(true, dora, level, threads);
        ASSERT_EQ(0, std::memcmp(first.data(), found.data(), found.size() * sizeof(float)))
            << threads << " threads, level " << static_cast<int>(level) << ", DoRA " << dora;
      }
  }
}

// Other weights for a model: of each tensor what is added to its values in float32.
using Changes = std::map<std::string, std::vector<double>>;

std::shared_ptr<Model::State> changed_state(const RandomModel& random, const Changes& changes, double by) {
  const auto checkpoint = std::make_shared<const Checkpoint>(random.folder.path());
  const auto change = [&](const std::string& name, std::span<float> values) {
    const auto own = changes.find(name);
    if (own == changes.end()) return;  // a projection of embeddings
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<float>(static_cast<double>(values[i]) + by * own->second[i]);
  };
  ModelOptions options{.precision = Precision::kF32, .threads = 2};
  options.transform = [&](const std::string& name, std::span<float> values, int64_t, int64_t) {
    change(name, values);
  };
  const auto state = load_state(checkpoint, random.config, options);
  const LayerReader reader(checkpoint, random.config, state->options);
  const auto change_norm = [&](const std::string& name, NormWeights& norm) {
    std::vector<float> values(norm.weight.data(), norm.weight.data() + norm.weight.size());
    change(name, values);
    norm.weight = Constant(std::move(values));
  };
  for (int64_t layer = 0; layer < random.config.layers; ++layer)
    for (const auto& [norm, name] : reader.norms_of(layer))
      change_norm(name, state->layers[static_cast<size_t>(layer)].*norm);
  if (random.config.final_norm) change_norm(reader.final_norm_name(), state->final_norm);
  return state;
}

// Makes the gradients of all tensors from what a pass shows, in double precision.
class AllGradients : public GradientObserver {
 public:
  AllGradients(const RandomModel& random, const Model::State& state)
      : config_(random.config),
        state_(state),
        reader_(std::make_shared<const Checkpoint>(random.folder.path()), config_, state.options) {
    for (int64_t layer = 0; layer < config_.layers; ++layer) {
      const LayerWeights& weights = state.layers[static_cast<size_t>(layer)];
      for (const auto& [norm, name] : reader_.norms_of(layer)) add_norm(weights.*norm, name);
      for (const Place place : {Place::kQueryKeyValue, Place::kOutput, Place::kGateUp, Place::kDown}) {
        const LinearGroup& group = group_at(weights, place);
        size_t part = 0;
        for (const std::string& name : names(layer, place))
          of[name].resize(static_cast<size_t>(group.outputs(part++) * group.inputs()));
      }
    }
    if (config_.final_norm) add_norm(state.final_norm, reader_.final_norm_name());
  }

  void product(int64_t layer, Place place, ConstRows x, ConstRows dy, int64_t rows) override {
    const LinearGroup& group = group_at(state_.layers[static_cast<size_t>(layer)], place);
    int64_t first = 0;
    size_t part = 0;
    for (const std::string& name : names(layer, place)) {
      std::vector<double>& own = of.at(name);
      const int64_t in = group.inputs(), out = group.outputs(part++);
      for (int64_t row = 0; row < rows; ++row)
        for (int64_t o = 0; o < out; ++o)
          for (int64_t i = 0; i < in; ++i)
            own[static_cast<size_t>(o * in + i)] +=
                static_cast<double>(dy.data[row * dy.stride + first + o]) *
                static_cast<double>(x.data[row * x.stride + i]);
      first += out;
    }
  }

  void norm(const NormWeights& norm, ConstRows x, ConstRows dy, int64_t rows) override {
    std::vector<double>& own = of.at(norms_.at(norm.weight.data()));
    const size_t width = norm.weight.size();
    for (int64_t row = 0; row < rows; ++row) {
      const float *from = x.data + row * x.stride, *gradient = dy.data + row * dy.stride;
      double mean = 0, squares = 0;
      if (config_.norm == NormKind::kLayer)
        for (size_t i = 0; i < width; ++i) mean += static_cast<double>(from[i]) / static_cast<double>(width);
      for (size_t i = 0; i < width; ++i) squares += std::pow(static_cast<double>(from[i]) - mean, 2);
      const double length = std::sqrt(squares / static_cast<double>(width) + config_.norm_epsilon);
      for (size_t i = 0; i < width; ++i)
        own[i] += (static_cast<double>(from[i]) - mean) / length * static_cast<double>(gradient[i]);
    }
  }

  Changes of;

 private:
  std::vector<std::string> names(int64_t layer, Place place) const {
    constexpr LinearRole kRoles[] = {LinearRole::kQueryKeyValue, LinearRole::kOutput, LinearRole::kGateUp,
                                     LinearRole::kDown};
    return reader_.tensors_of({layer, kRoles[static_cast<size_t>(place)]});
  }
  void add_norm(const NormWeights& norm, const std::string& name) {
    norms_[norm.weight.data()] = name;
    of[name].resize(norm.weight.size());
  }

  const ModelConfig& config_;
  const Model::State& state_;
  const LayerReader reader_;
  std::map<const float*, std::string> norms_;
};

double divergence_of(std::shared_ptr<Model::State> state, const Batch& batch,
                     const std::vector<float>& expected) {
  Adapter none;
  none.index(state->config.layers);
  return Pass(Model(std::move(state)), none, {.threads = 2}, batch.rows(), kPositions)
      .divergence(batch, expected.data());
}

// The divergence from the model as it was, of a model whose matrices and norms are all others.
TEST_P(TrainedFamilies, GradientsOfTheDivergenceAreCentralDifferences) {
  Adapter none;
  none.index(model_.config().layers);
  Pass original(model_, none, {.threads = 2}, batch_.rows(), kPositions);
  std::vector<float> expected(static_cast<size_t>(batch_.rows() * model_.config().hidden));
  original.features(batch_, expected.data());
  EXPECT_NEAR(0, original.divergence(batch_, expected.data()), 1e-5);

  AllGradients sizes(random_, state_of(model_));
  std::mt19937 generator(5);
  std::normal_distribution<double> normal;
  Changes start = sizes.of;
  for (auto& [name, values] : start)
    for (double& value : values) value = 0.05 * normal(generator);
  for (const Recompute level : {Recompute::kNone, Recompute::kCheap, Recompute::kFull}) {
    const auto state = changed_state(random_, start, 1);
    AllGradients gradients(random_, *state);
    Pass pass(Model(state), none, {.recompute = level, .threads = 2}, batch_.rows(), kPositions);
    const double found = pass.divergence_and_gradients(batch_, expected.data(), 1, gradients);
    EXPECT_GT(found, 0.01);
    EXPECT_NEAR(1, pass.divergence(batch_, expected.data()) / found, 1e-6);
    // Of matrices and of norms apart: each along its gradient.
    for (const bool norms : {false, true}) {
      double squares = 0;
      Changes direction = gradients.of;
      for (auto& [name, values] : direction)
        for (double& value : values) {
          if ((name.find("norm") != std::string::npos || name.find("ln_") != std::string::npos) != norms)
            value = 0;
          squares += value * value;
        }
      const double step = 2e-3 / std::sqrt(squares);
      Changes above = start, below = start;
      for (const auto& [name, values] : direction)
        for (size_t i = 0; i < values.size(); ++i) {
          above[name][i] += step * values[i];
          below[name][i] -= step * values[i];
        }
      const double difference = divergence_of(changed_state(random_, above, 1), batch_, expected) -
                                divergence_of(changed_state(random_, below, 1), batch_, expected);
      EXPECT_NEAR(1, difference / (2 * step) / squares, 5e-3) << norms << static_cast<int>(level);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Every, TrainedFamilies, ::testing::ValuesIn(kCases),
                         [](const auto& one) { return std::string(one.param.name); });

INSTANTIATE_TEST_SUITE_P(Every, FamiliesInBf16, ::testing::ValuesIn(kCases),
                         [](const auto& one) { return std::string(one.param.name); });

TEST(TrainedModels, MixturesAreRefusedByName) {
  const RandomModel random(R"({"model_type": "mixtral", "hidden_size": 48, "intermediate_size": 40,
    "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 61,
    "max_position_embeddings": 200, "num_local_experts": 4, "num_experts_per_tok": 2,
    "sliding_window": null})");
  const Model model = Model::load(random.folder.path());
  try {
    make_adapter(state_of(model), {});
    FAIL() << "a mixture was taken";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("mixture of experts"), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace nfloat
