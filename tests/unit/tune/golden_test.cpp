// SPDX-License-Identifier: Apache-2.0
#include "golden.h"

#include "base/state_of.h"
#include "model/model_state.h"
#include "nfloat/bridge.h"
#include "nfloat/convert.h"
#include "support/files.h"
#include "tune/adapter_file.h"
#include "tune/loftq.h"
#include "tune/optimizer.h"
#include "tune/pass.h"
#include "unit/model/random_model.h"

namespace nfloat::testing {
namespace {

// What a precision may differ by: measured with the same program in other precisions, times 3 or 4.
struct Tolerance {
  double loss, norm, gradient, tensor, all;
};
constexpr Tolerance kF32Tolerance{3e-6, 1e-6, 1e-5, 2e-5, 2e-5};
constexpr Tolerance kBf16Tolerance{2e-3, 5e-3, 6e-2, 5e-2, 1.2e-2};

class Golden : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!has_golden()) GTEST_SKIP() << "the golden values of training are not on this machine";
  }
};

std::vector<TrainRow> rows_of(const Json& steps) {
  std::vector<TrainRow> rows;
  for (const Json& step : steps)
    for (const Json& row : step) {
      const auto tokens = row.get<std::vector<int32_t>>();
      rows.push_back({tokens, tokens});
    }
  return rows;
}

Batch batch_of(const std::vector<TrainRow>& rows) {
  Batch batch;
  for (const TrainRow& row : rows) {
    batch.documents.push_back({batch.rows(), static_cast<int64_t>(row.tokens.size()), 0});
    batch.tokens.insert(batch.tokens.end(), row.tokens.begin(), row.tokens.end());
    batch.labels.insert(batch.labels.end(), row.labels.begin(), row.labels.end());
  }
  return batch;
}

void expect_steps(const Json& expected, const std::vector<TrainStep>& found, const Tolerance& tolerance) {
  ASSERT_EQ(expected.size(), found.size());
  double loss = 0, norm = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    const Json& step = expected[i];
    EXPECT_EQ(step.at("tokens").get<int64_t>(), found[i].tokens);
    EXPECT_NEAR(step.at("learning_rate").get<double>(), found[i].learning_rate, 1e-12) << "step " << i + 1;
    loss = std::max(loss, std::abs(step.at("loss").get<double>() - found[i].loss));
    norm = std::max(norm, std::abs(step.at("grad_norm").get<double>() / found[i].grad_norm - 1));
  }
  std::printf("largest difference: loss %.3g, gradient norm %.3g\n", loss, norm);
  EXPECT_LE(loss, tolerance.loss);
  EXPECT_LE(norm, tolerance.norm);
}

void expect_adapter(const std::map<std::string, std::vector<float>>& expected,
                    const std::map<std::string, std::vector<float>>& found, double each, double together) {
  ASSERT_EQ(expected.size(), found.size());
  double worst = 0, squares = 0, total = 0;
  for (const auto& [name, values] : expected) {
    ASSERT_TRUE(found.contains(name)) << name;
    ASSERT_EQ(values.size(), found.at(name).size()) << name;
    const double d = distance(values, found.at(name)), norm = norm_of(values);
    if (norm > 0) worst = std::max(worst, d / norm);
    squares += d * d;
    total += norm * norm;
  }
  std::printf("largest difference of a tensor %.3g, of all %.3g\n", worst, std::sqrt(squares / total));
  EXPECT_LE(worst, each);
  EXPECT_LE(std::sqrt(squares / total), together);
}

// A folder with the start of the golden runs, as an adapter to go on from.
void write_start(const std::string& folder, const Model& model, const TrainOptions& options) {
  Adapter start = make_adapter(state_of(model), options);
  fill_by_generator(start, 20240501, 0);
  write_adapter(folder, state_of(model), start, options, "nfloat-tiny");
}

void run_train(bool bf16, const Tolerance& tolerance) {
  const Json golden = golden_json("train.json");
  const Model model = golden_model();
  TrainOptions options = golden_options();
  options.steps = 20;
  options.warmup_steps = 4;
  options.rows_per_batch = 4;
  options.bf16 = bf16;
  Trainer trainer(model, rows_of(golden.at("tokens")), options);
  OwnFolder start, end;
  write_start(start.path(), model, options);
  trainer.start_from(start.path());
  std::vector<TrainStep> steps;
  while (trainer.finished_steps() < trainer.total_steps()) steps.push_back(trainer.step());
  expect_steps(golden.at("steps"), steps, tolerance);
  trainer.save_adapter(end.path(), "nfloat-tiny");
  expect_adapter(read_tensors(golden_path("adapter_final/adapter_model.safetensors")),
                 read_tensors(end.path() + "/adapter_model.safetensors"), tolerance.tensor, tolerance.all);

  std::vector<TrainRow> held;
  for (const Json& row : golden.at("eval").at("tokens"))
    held.push_back({row.get<std::vector<int32_t>>(), row.get<std::vector<int32_t>>()});
  EXPECT_NEAR(golden.at("eval").at("base_nf4").get<double>(), trainer.evaluate(held, false).mean(),
              tolerance.loss);
  EXPECT_NEAR(golden.at("eval").at("unmerged").get<double>(), trainer.evaluate(held).mean(), tolerance.loss);
}

TEST_F(Golden, TwentyStepsInFloat32) {
  run_train(false, kF32Tolerance);
}
TEST_F(Golden, TwentyStepsInBf16) {
  run_train(true, kBf16Tolerance);
}

TEST_F(Golden, GradientsOfEveryTensor) {
  const Json golden = golden_json("gradients.json");
  const Model model = golden_model();
  const TrainOptions options = golden_options();
  std::vector<TrainRow> rows;
  for (size_t i = 0; i < golden.at("tokens").size(); ++i)
    rows.push_back({golden.at("tokens")[i].get<std::vector<int32_t>>(),
                    golden.at("labels")[i].get<std::vector<int32_t>>()});
  const Batch batch = batch_of(rows);
  ASSERT_EQ(golden.at("targets").get<int64_t>(), batch.targets());
  const auto expected = read_tensors(golden_path("gradients.safetensors"));
  for (const bool bf16 : {false, true}) {
    const Tolerance& tolerance = bf16 ? kBf16Tolerance : kF32Tolerance;
    Adapter adapter = make_adapter(state_of(model), options);
    fill_by_generator(adapter, 777, 0.02);
    Pass pass(model, adapter,
              {.bf16 = bf16, .precision = bf16 ? Precision::kBF16 : Precision::kF32, .threads = 2},
              batch.rows(), 512);
    const double targets = static_cast<double>(batch.targets());
    const double loss = pass.loss_and_gradients(batch, 1 / targets, {}) / targets;
    EXPECT_NEAR(golden.at("loss").get<double>(), loss, tolerance.loss);
    EXPECT_NEAR(1, gradient_norm(adapter, 2) / golden.at("grad_norm").get<double>(), tolerance.norm);
    double worst = 0;
    for (const LoraModule& module : adapter.modules)
      for (const bool up : {false, true}) {
        const std::string name = module.at().name + (up ? ".lora_B" : ".lora_A");
        std::vector<float> values;
        for (const auto& [key, value] : expected)
          if (key.find(name) != std::string::npos) values = value;
        ASSERT_FALSE(values.empty()) << name;
        const std::vector<float> found = up ? module.b_gradient() : module.a_gradient;
        worst = std::max(worst, distance(values, found) / norm_of(values));
      }
    std::printf("largest difference of a gradient %.3g\n", worst);
    EXPECT_LE(worst, tolerance.gradient);
  }
}

// |W - Q - s B A| / |W|, W of `original` and Q of the model.
double start_error(const Model& model, const LoraModule& module, const Checkpoint& original) {
  const LinearModule& at = module.at();
  std::vector<float> weights(static_cast<size_t>(at.in * at.out)), row(static_cast<size_t>(at.in));
  convert_elements(original.view(*original.find(at.name + ".weight")), DType::kF32,
                   std::as_writable_bytes(std::span(weights)));
  double error = 0, power = 0;
  for (int64_t o = 0; o < at.out; ++o) {
    group_at(state_of(model).layers[static_cast<size_t>(at.layer)], at.place)
        .dequantize_row(at.part, o, row.data());
    for (int64_t i = 0; i < at.in; ++i) {
      const auto w = static_cast<double>(weights[static_cast<size_t>(o * at.in + i)]);
      double sum = static_cast<double>(row[static_cast<size_t>(i)]);
      for (int64_t r = 0; r < module.rank(); ++r)
        sum += static_cast<double>(module.scale()) *
               static_cast<double>(module.b[static_cast<size_t>(o * module.rank() + r)]) *
               static_cast<double>(module.a[static_cast<size_t>(r * at.in + i)]);
      error += (w - sum) * (w - sum);
      power += w * w;
    }
  }
  return std::sqrt(error / power);
}

// LoftQ's first round: what the pairs leave of the error of NF4, beside singular values in double precision.
TEST_F(Golden, StartsFromWhatQuantizationLost) {
  const Json golden = golden_json("initialisations.json");
  const Model model = golden_model();
  const Checkpoint original(source_path("/models/nfloat-tiny"));
  std::vector<float> first;
  for (const int threads : {1, 2}) {
    TrainOptions options = golden_options();
    for (const auto& [name, values] : golden.items()) options.targets.push_back(name);
    Adapter adapter = make_adapter(state_of(model), options);
    start_from_residual(adapter, state_of(model), original, 1, threads);
    ASSERT_EQ(golden.size(), adapter.modules.size());
    for (const LoraModule& module : adapter.modules)
      EXPECT_NEAR(golden.at(module.at().name).at("loftq_error_after_iterations")[0].get<double>(),
                  start_error(model, module, original), 1e-4)
          << module.at().name;
    if (threads == 1) first = adapter.modules[0].a;
    EXPECT_EQ(first, adapter.modules[0].a);
  }
  Adapter adapter = make_adapter(state_of(model), golden_options());
  const Model plain = Model::load(source_path("/models/nfloat-tiny"), {.precision = Precision::kF32});
  EXPECT_THROW(start_from_residual(adapter, state_of(plain), original, 1, 1), Error);
}

// The further rounds: of the weights less what the pairs add a new 4-bit model is made, and so on.
TEST_F(Golden, RoundsOfQuantizingAndFittingLoseLess) {
  const Json golden = golden_json("initialisations.json");
  const Checkpoint original(source_path("/models/nfloat-tiny"));
  const OwnFolder folder;
  quantize_checkpoint(original, folder.path() + "/base-0", {});
  const Checkpoint first(folder.path() + "/base-0");
  TrainOptions options = golden_options();
  for (const auto& [name, values] : golden.items()) options.targets.push_back(name);
  std::map<std::string, std::vector<double>> errors;
  constexpr size_t kRounds = 3;
  for (size_t round = 0; round < kRounds; ++round) {
    const std::string base = folder.path() + "/base-" + std::to_string(round);
    const Model model = Model::load(base, {.precision = Precision::kF32, .threads = 2});
    Adapter adapter = make_adapter(state_of(model), options);
    start_from_residual(adapter, state_of(model), original, 1, 2);
    for (const LoraModule& module : adapter.modules)
      errors[module.at().name].push_back(start_error(model, module, original));
    const std::string saved = folder.path() + "/adapter-" + std::to_string(round);
    fs::create_directory(saved);
    write_adapter(saved, state_of(model), adapter, options, base);
    BridgeOptions how;
    how.lora = saved;
    how.lora_weight = -1;
    how.keep_packed = true;
    how.original = original.path();
    write_folder(first, folder.path() + "/base-" + std::to_string(round + 1), how);
  }
  for (const auto& [name, found] : errors)
    for (size_t round = 0; round < kRounds; ++round)
      EXPECT_NEAR(golden.at(name).at("loftq_error_after_iterations")[round].get<double>(), found[round], 2e-4)
          << name << ", round " << round + 1;
}

// Six steps of each variant, through the passes and the optimizer themselves.
class Variant : public Golden {
 protected:
  void run(const std::string& name, const std::function<std::vector<Batch>(size_t)>& batches) {
    const Json golden = golden_json("variants.json").at(name);
    const Json& optimizer = golden.at("optimizer");
    const Model model = golden_model();
    TrainOptions options = golden_options();
    options.clip = optimizer.at("max_grad_norm").get<double>();
    options.lora_plus = optimizer.value("loraplus_lr_ratio", 1.0);
    options.rank_stabilized = name == "rslora";
    options.dora = name == "dora";
    if (name == "query_value_only") options.targets = {"q_proj", "v_proj"};
    const TrainSchedule schedule = name == "cosine" ? TrainSchedule::kCosine : TrainSchedule::kLinear;
    Adapter adapter = make_adapter(state_of(model), options);
    fill_by_generator(adapter, 20240501, 0);
    Pass pass(model, adapter, {.threads = 2}, 1024, 512);
    AdamW adam(adapter);
    std::vector<TrainStep> steps;
    for (size_t i = 0; i < golden.at("steps").size(); ++i) {
      TrainStep step;
      for (const Batch& batch : batches(i)) step.tokens += batch.targets();
      for (LoraModule& module : adapter.modules) module.clear_gradients();
      for (const Batch& batch : batches(i))
        step.loss += pass.loss_and_gradients(batch, 1 / static_cast<double>(step.tokens), {});
      step.loss /= static_cast<double>(step.tokens);
      step.grad_norm = gradient_norm(adapter, 2);
      step.learning_rate = options.learning_rate * schedule_factor(schedule, static_cast<int64_t>(i), 1, 6);
      adam.step(adapter, options, step.learning_rate, step.learning_rate * options.lora_plus,
                std::min(1.0, options.clip / (step.grad_norm + 1e-6)), 2);
      steps.push_back(step);
    }
    expect_steps(golden.at("steps"), steps, {3e-6, 2e-6, 0, 0, 0});
    for (const LoraModule& module : adapter.modules)
      for (const bool up : {false, true}) {
        const double expected =
            golden.at("final_tensor_norms").value(module.at().name + (up ? ".lora_B" : ".lora_A"), 0.0);
        if (expected > 0) {
          EXPECT_NEAR(1, norm_of(up ? module.b : module.a) / expected, 1e-4) << module.at().name;
        }
      }
  }

  static std::vector<TrainRow> step_rows(size_t step) {
    static const std::vector<TrainRow> rows = rows_of(golden_json("train.json").at("tokens"));
    return {rows.begin() + static_cast<std::ptrdiff_t>(4 * step),
            rows.begin() + static_cast<std::ptrdiff_t>(4 * step + 4)};
  }
};

TEST_F(Variant, OneBatchAStep) {
  for (const char* name : {"plain", "clipping", "rslora", "cosine", "loraplus", "query_value_only", "dora"})
    run(name, [](size_t step) { return std::vector<Batch>{batch_of(step_rows(step))}; });
}

TEST_F(Variant, TwoBatchesAStepAreWeightedByTheirTargets) {
  run("accumulation_2", [](size_t step) {
    std::vector<TrainRow> rows = step_rows(step);
    for (const size_t masked : {2u, 3u})
      std::fill(rows[masked].labels.begin(), rows[masked].labels.begin() + 100, -100);
    return std::vector<Batch>{batch_of({rows[0], rows[1]}), batch_of({rows[2], rows[3]})};
  });
}

TEST_F(Variant, DocumentsSideBySideDoNotSeeOneAnother) {
  const Json golden = golden_json("variants.json").at("packed");
  run("packed", [&](size_t step) {
    std::vector<TrainRow> documents;
    const Json& rows = golden.at("rows")[step][0];
    for (size_t i = 0; i < rows.at("tokens").size(); ++i) {
      const auto tokens = rows.at("tokens")[i].get<std::vector<int32_t>>();
      const auto segments = rows.at("segments")[i].get<std::vector<int32_t>>();
      for (size_t begin = 0, end = 0; begin < tokens.size(); begin = end) {
        while (end < tokens.size() && segments[end] == segments[begin]) ++end;
        const std::vector<int32_t> own(tokens.begin() + static_cast<std::ptrdiff_t>(begin),
                                       tokens.begin() + static_cast<std::ptrdiff_t>(end));
        if (segments[begin] >= 0) documents.push_back({own, own});
      }
    }
    return std::vector<Batch>{batch_of(documents)};
  });
}

}  // namespace
}  // namespace nfloat::testing
