// SPDX-License-Identifier: Apache-2.0
// Training whose products with the frozen matrices run on another device, a card that is emulated always
// among them: losses and gradients are those of the CPU within what sums in another order change.
#include <cmath>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "adapters.h"
#include "engine/device.h"
#include "nfloat/error.h"
#include "nfloat/train.h"
#include "support/files.h"
#include "tensor/floats.h"
#include "tune/adapter_file.h"
#include "tune/frozen.h"

namespace nfloat::testing {
namespace {

// Biases, heads that share keys, rows that are no whole tiles; a head of its own; embeddings of another width
// than the layers'.
constexpr const char* kModels[] = {
    kTrainedModel,
    R"({"model_type": "qwen2", "hidden_size": 48, "intermediate_size": 88, "num_hidden_layers": 2,
  "num_attention_heads": 4, "num_key_value_heads": 1, "vocab_size": 61, "max_position_embeddings": 200,
  "tie_word_embeddings": false})",
    R"({"model_type": "opt", "hidden_size": 64, "ffn_dim": 128, "num_hidden_layers": 2,
  "num_attention_heads": 2, "vocab_size": 61, "max_position_embeddings": 200, "word_embed_proj_dim": 32,
  "activation_function": "relu", "do_layer_norm_before": false})"};

struct Trained {
  std::vector<TrainStep> steps;
  std::vector<float> gradients;  // of the first
  std::vector<float> adapter;    // at the end
};

std::vector<float> floats_in(const std::string& path) {
  const Checkpoint file(path);
  std::vector<float> all;
  for (const TensorInfo& info : file.tensors()) {
    const std::vector<float> values = floats_of(file.view(info));
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

// Three steps of a 4-bit model on a device.
Trained train(const RandomModel& random, const std::string& device, TrainOptions options, bool plain = false,
              const std::string& original = "") {
  ModelOptions how{.precision = Precision::kF32, .threads = 2};
  how.device = device;
  if (!plain) how.quantize = make_codebook("nf4");
  const Model model = Model::load(random.folder.path(), how);
  options.rank = 3;
  options.steps = 3;
  options.length = 24;
  options.rows_per_batch = 2;
  options.accumulate = 2;
  options.learning_rate = 3e-3;
  options.warmup_steps = 0;
  options.threads = 2;
  Trainer trainer(model, random_rows(16, 5), options);
  const OwnFolder folder;
  if (original.empty()) {
    std::filesystem::create_directory(folder.path() + "/start");
    write_adapter(folder.path() + "/start", state_of(model), random_adapter(model, options), options, "base");
    trainer.start_from(folder.path() + "/start");
  } else {
    trainer.start_from_original(original);
  }
  Trained run;
  trainer.dump_gradients(folder.path() + "/gradients.safetensors");
  run.gradients = floats_in(folder.path() + "/gradients.safetensors");
  while (trainer.finished_steps() < trainer.total_steps()) run.steps.push_back(trainer.step());
  trainer.save_adapter(folder.path() + "/end", "base");
  run.adapter = floats_in(folder.path() + "/end/adapter_model.safetensors");
  return run;
}

std::vector<std::string> other_devices() {
  std::vector<std::string> names;
  for (const std::shared_ptr<Device>& device : devices())
    if (device->name() != "cpu") names.emplace_back(device->name());
  return names;
}

class TrainOnDevice : public ::testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Devices, TrainOnDevice, ::testing::ValuesIn(other_devices()),
                         [](const ::testing::TestParamInfo<std::string>& device) {
                           std::string name = device.param;
                           std::replace(name.begin(), name.end(), ':', '_');
                           return name;
                         });

// float32: sums of some hundred terms in another order, through two layers and back.
constexpr double kAnotherOrder = 2e-5;

TEST_P(TrainOnDevice, Float32IsThatOfTheCpu) {
  for (const char* config : kModels)
    for (const bool dora : {false, true}) {
      SCOPED_TRACE(::testing::Message() << config << " DoRA " << dora);
      const RandomModel random(config);
      TrainOptions options;
      options.dora = dora;
      const Trained expected = train(random, "cpu", options), found = train(random, GetParam(), options);
      EXPECT_LE(apart(expected.gradients, found.gradients), kAnotherOrder);
      for (size_t i = 0; i < expected.steps.size(); ++i) {
        EXPECT_NEAR(expected.steps[i].loss, found.steps[i].loss, kAnotherOrder * expected.steps[i].loss);
        EXPECT_NEAR(expected.steps[i].grad_norm, found.steps[i].grad_norm,
                    1e-4 * expected.steps[i].grad_norm);
      }
      // AdamW divides by the gradient's own size: what is nearly zero may go either way.
      EXPECT_LE(apart(expected.adapter, found.adapter), 1e-2);
    }
}

TEST_P(TrainOnDevice, PlainWeightsAndDropout) {
  const RandomModel random(kModels[1]);
  TrainOptions options;
  options.dropout = 0.2;
  const Trained expected = train(random, "cpu", options, true),
                found = train(random, GetParam(), options, true);
  EXPECT_LE(apart(expected.gradients, found.gradients), kAnotherOrder);
}

// Not farther from float32 than the CPU's, which rounds what it keeps as well.
TEST_P(TrainOnDevice, Bf16IsNearFloat32) {
  const RandomModel random(kModels[0]);
  TrainOptions options;
  const Trained exact = train(random, "cpu", options);
  options.bf16 = true;
  const Trained near = train(random, "cpu", options), found = train(random, GetParam(), options);
  EXPECT_LE(apart(exact.gradients, found.gradients), 1.5 * apart(exact.gradients, near.gradients));
  EXPECT_NEAR(exact.steps[0].loss, found.steps[0].loss, 1e-2 * exact.steps[0].loss);
}

TEST_P(TrainOnDevice, StartsFromWhatQuantizationLost) {
  const RandomModel random(kModels[0]);
  const TrainOptions options;
  const Trained expected = train(random, "cpu", options, false, random.folder.path()),
                found = train(random, GetParam(), options, false, random.folder.path());
  EXPECT_LE(apart(expected.gradients, found.gradients), 1e-4);
}

// A long batch goes there in parts, the last one short.
TEST_P(TrainOnDevice, MoreRowsThanGoTogether) {
  const RandomModel random(kModels[1]);
  const int64_t rows = FrozenProducts::kMostRows + 3;
  const auto products = [&](const std::string& device) {
    ModelOptions how{.quantize = make_codebook("nf4"), .precision = Precision::kF32, .threads = 2};
    how.device = device;
    const Model model = Model::load(random.folder.path(), how);
    const LinearGroup& group = state_of(model).layers[0].down;
    FrozenProducts own(*state_of(model).device, false, Precision::kF32, 2);
    const int64_t inputs = group.inputs(), outputs = group.outputs(), x_stride = inputs + 3;
    std::vector<float> x(static_cast<size_t>(rows * x_stride)), y(static_cast<size_t>(rows * outputs)),
        dx(static_cast<size_t>(rows * inputs));
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 37 % 1021) / 512 - 1;
    own.multiply(group, {x.data(), x_stride}, rows, {y.data(), outputs});
    own.multiply_transposed(group, {y.data(), outputs}, rows, {dx.data(), inputs});
    y.insert(y.end(), dx.begin(), dx.end());
    return y;
  };
  EXPECT_LE(apart(products("cpu"), products(GetParam())), kAnotherOrder);
}

// Tensor cores take gradients where they may: as floats they are nearer.
TEST_P(TrainOnDevice, Bf16GradientsAreRounded) {
  const RandomModel random(kModels[0]);
  ModelOptions how{.quantize = make_codebook("nf4"), .precision = Precision::kF32, .threads = 2};
  how.device = GetParam();
  const Model model = Model::load(random.folder.path(), how);
  const LinearGroup& group = state_of(model).layers[0].gate_up;
  const int64_t rows = 20, inputs = group.inputs(), outputs = group.outputs();
  std::vector<float> dy(static_cast<size_t>(rows * outputs));
  for (size_t i = 0; i < dy.size(); ++i) dy[i] = static_cast<float>(i * 37 % 1021) / 509 - 1;
  const auto dx = [&](bool bf16) {
    FrozenProducts own(*state_of(model).device, bf16, Precision::kF32, 2);
    std::vector<float> found(static_cast<size_t>(rows * inputs));
    own.multiply_transposed(group, {dy.data(), outputs}, rows, {found.data(), inputs});
    return found;
  };
  const double rounding = apart(dx(false), dx(true));
  EXPECT_LE(rounding, 1e-2);
  if (GetParam().starts_with("cuda")) {
    EXPECT_GE(rounding, 1e-4);
  }
}

// What a plan says of a device is what training takes there: weights, and rows on their way. Of a head that
// is wider than all else and of long batches; with a head of its own.
TEST(TrainPlanOnDevice, SaysWhatADeviceIsGiven) {
  const RandomModel random(R"({"model_type": "llama", "hidden_size": 128, "intermediate_size": 384,
  "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 700,
  "max_position_embeddings": 512, "tie_word_embeddings": false})");
  const std::string device = "cuda:emulated";
  TrainOptions options;
  options.rank = 4;
  options.steps = 1;
  options.packing = false;
  options.length = 100;
  options.rows_per_batch = 2;
  options.accumulate = 1;
  options.threads = 1;
  const uint64_t free = *device_info(device).free_bytes;
  ModelOptions how{.quantize = make_codebook("nf4"), .precision = Precision::kF32, .threads = 1};
  how.device = device;
  const Model model = Model::load(random.folder.path(), how);
  std::vector<TrainRow> rows(2);
  for (TrainRow& row : rows) {
    row.tokens.assign(100, 5);
    row.labels = row.tokens;
  }
  Trainer trainer(model, rows, options);
  trainer.step();
  const auto taken = static_cast<double>(free - *device_info(device).free_bytes);
  const auto planned =
      static_cast<double>(plan_train_memory(model.config(), options, 4.5, DType::kF32, true)[0].device_bytes);
  EXPECT_NEAR(planned, taken, 0.05 * taken);
}

}  // namespace
}  // namespace nfloat::testing
