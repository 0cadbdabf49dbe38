// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>

#include "base/json.h"
#include "convert/lora.h"
#include "golden.h"
#include "nfloat/adapter.h"
#include "tune/optimizer.h"
#include "tune/plan.h"
#include "unit/tune/adapters.h"

namespace nfloat {
namespace {

using testing::bytes_of;
using testing::kTrainedModel;
using testing::OwnFolder;
using testing::random_rows;
using testing::RandomModel;

class TrainerTest : public ::testing::Test {
 protected:
  std::vector<TrainRow> rows(size_t count) const {
    std::vector<TrainRow> result = random_rows(count, 17);
    for (TrainRow& row : result)
      for (size_t i = 0; i < row.labels.size() / 3; ++i) row.labels[i] = -100;
    return result;
  }
  static TrainOptions options() {
    TrainOptions o;
    o.rank = 4;
    o.alpha = 8;
    o.steps = 12;
    o.length = 64;
    o.tokens_per_step = 128;
    o.learning_rate = 1e-2;
    o.dropout = 0.1;
    o.seed = 4;
    o.threads = 2;
    return o;
  }
  static std::string adapter_bytes(const Trainer& trainer) {
    OwnFolder folder;
    trainer.save_adapter(folder.path(), "base");
    return bytes_of(folder.path() + "/adapter_model.safetensors") +
           bytes_of(folder.path() + "/adapter_config.json");
  }
  const RandomModel random_{kTrainedModel};
  const Model model_ =
      Model::load(random_.folder.path(), {.quantize = make_codebook("nf4"), .precision = Precision::kF32});
};

TEST_F(TrainerTest, AResumedRunGivesTheSameFiles) {
  Trainer straight(model_, rows(40), options());
  OwnFolder folder;
  const std::string checkpoint = folder.path() + "/checkpoint";
  while (straight.finished_steps() < 7) straight.step();
  straight.save_checkpoint(checkpoint, "base", "of \"mine\"\n");
  while (straight.finished_steps() < straight.total_steps()) straight.step();

  for (const int threads : {1, 7}) {
    TrainOptions own = options();
    own.threads = threads;
    Trainer resumed(model_, rows(40), own);
    EXPECT_EQ("of \"mine\"\n", resumed.resume(checkpoint));
    EXPECT_EQ(7, resumed.finished_steps());
    while (resumed.finished_steps() < resumed.total_steps()) resumed.step();
    EXPECT_EQ(adapter_bytes(straight), adapter_bytes(resumed)) << threads << " threads";
  }
  EXPECT_THROW(straight.step(), Error);

  TrainOptions other = options();
  other.learning_rate = 2e-2;
  Trainer changed(model_, rows(40), other);
  EXPECT_THROW(changed.resume(checkpoint), Error);
  Trainer less(model_, rows(39), options());
  EXPECT_THROW(less.resume(checkpoint), Error);
}

// What lies in a batch in bf16, and what in float32, depends on what the frozen weights are stored as.
TEST_F(TrainerTest, MemoryIsPlanned) {
  const Model plain = Model::load(random_.folder.path(), {.precision = Precision::kF32});
  std::vector<TrainRow> full(4, TrainRow{std::vector<int32_t>(64, 3), std::vector<int32_t>(64, 3)});
  const struct {
    const Model& model;
    double bits;
  } kinds[] = {{model_, 4.5}, {plain, 32}};
  for (const auto& [model, bits] : kinds)
    for (const bool bf16 : {false, true})
      for (const double dropout : {0.0, 0.1})
        for (const bool dora : {false, true})
          for (const Recompute level : {Recompute::kNone, Recompute::kCheap, Recompute::kFull}) {
            TrainOptions own = options();
            own.dropout = dropout;
            own.dora = dora;
            own.bf16 = bf16;
            own.recompute = level;
            own.rows_per_batch = 2;
            const std::vector<TrainMemory> planned =
                plan_train_memory(model.config(), own, bits, DType::kF32);
            const TrainMemory& at = planned[static_cast<size_t>(level)];
            EXPECT_EQ(at.adapter_bytes + at.pass_bytes, Trainer(model, full, own).memory_bytes())
                << bits << " bits, bf16 " << bf16 << ", dropout " << dropout << ", DoRA " << dora;
          }
}

TEST_F(TrainerTest, OneRowIsLearnedByHeart) {
  TrainOptions own = options();
  own.dropout = 0;
  own.steps = 150;
  own.rank = 16;
  own.learning_rate = 2e-2;
  std::vector<TrainRow> one = rows(1);
  one[0].labels = one[0].tokens;
  Trainer trainer(model_, one, own);
  TrainStep last;
  while (trainer.finished_steps() < trainer.total_steps()) last = trainer.step();
  EXPECT_LT(last.loss, 0.01);
}

// Padding, packing and the number of batches a step change sums of float32 by rounding only.
TEST_F(TrainerTest, OneBatchSeveralBatchesAndPaddingAreTheSameStep) {
  std::vector<TrainRow> data = rows(8), padded = data;
  for (TrainRow& row : padded) {
    row.tokens.resize(40, 1);
    row.labels.resize(40, -100);
  }
  TrainOptions together = options();
  together.dropout = 0;
  together.shuffle = together.packing = false;
  together.rows_per_batch = 8;
  TrainOptions apart = together, packed = together;
  apart.rows_per_batch = 2;
  apart.accumulate = 4;
  packed.packing = true;
  packed.rows_per_batch = packed.accumulate = 0;
  packed.tokens_per_step = 4096;
  Trainer a(model_, data, together), b(model_, data, apart), c(model_, padded, together),
      d(model_, data, packed);
  for (int i = 0; i < 3; ++i) {
    const TrainStep one = a.step();
    for (Trainer* other : {&b, &c, &d}) {
      const TrainStep step = other->step();
      EXPECT_EQ(one.tokens, step.tokens);
      EXPECT_NEAR(one.loss, step.loss, 1e-6);
      EXPECT_NEAR(1, step.grad_norm / one.grad_norm, 1e-5);
    }
  }
}

TEST_F(TrainerTest, AnAdapterGoesOnWhereItWasSaved) {
  TrainOptions own = options();
  own.targets = {"q_proj", "down_proj"};
  own.layers = {1};
  own.rank_stabilized = true;
  own.rank_pattern = {{"down_proj", 2}};
  Trainer trainer(model_, rows(20), own);
  while (trainer.finished_steps() < 5) trainer.step();
  OwnFolder folder;
  trainer.save_adapter(folder.path(), "base");
  Trainer second(model_, rows(20), options());
  second.start_from(folder.path());
  EXPECT_EQ(trainer.parameters(), second.parameters());
  EXPECT_EQ(trainer.evaluate(rows(5)).sum, second.evaluate(rows(5)).sum);
  EXPECT_NE(trainer.evaluate(rows(5)).sum, trainer.evaluate(rows(5), false).sum);
}

// Scaled by the root from then on, it is the same adapter at its start; with DoRA too.
TEST_F(TrainerTest, AStartScaledByTheRootIsTheSameAdapter) {
  TrainOptions own = options();
  own.rank = 6;
  Trainer trainer(model_, rows(20), own);
  while (trainer.finished_steps() < 5) trainer.step();
  OwnFolder folder;
  trainer.save_adapter(folder.path(), "base");
  const std::vector<TrainRow> held = rows(5);
  const double loss = trainer.evaluate(held).mean();
  EXPECT_GT(std::abs(loss - trainer.evaluate(held, false).mean()), 1e-3);
  for (const bool dora : {false, true}) {
    TrainOptions root = options();
    root.rank_stabilized = true;
    root.dora = dora;
    Trainer second(model_, rows(20), root);
    second.start_from(folder.path());
    EXPECT_NEAR(loss, second.evaluate(held).mean(), 1e-5) << dora;
  }
}

// What `convert` makes of a base and the adapter computes what the trainer computes beside the base.
TEST_F(TrainerTest, MergedWeightsPredictTheSame) {
  const Model plain = Model::load(random_.folder.path(), {.precision = Precision::kF32});
  Trainer trainer(plain, rows(20), options());
  while (trainer.finished_steps() < 8) trainer.step();
  OwnFolder folder;
  trainer.save_adapter(folder.path(), "base");
  const Checkpoint base(random_.folder.path());
  const LoraAdapter adapter(folder.path(), base);
  EXPECT_EQ(14u, adapter.size());
  const auto merge = [&](const std::string& name, std::span<float> weights, int64_t, int64_t) {
    adapter.find(name)->apply(0, weights);
  };
  const Model whole = Model::load(random_.folder.path(), {.transform = merge, .precision = Precision::kF32});
  Trainer judge(whole, rows(20), options());
  EXPECT_NEAR(trainer.evaluate(rows(5)).mean(), judge.evaluate(rows(5), false).mean(), 2e-6);
}

// Sessions compute beside the weights what the trainer does; taken away, the model is what it was.
TEST_F(TrainerTest, AdaptersBesideTheWeightsOfSessions) {
  Trainer trainer(model_, rows(20), options());
  while (trainer.finished_steps() < 8) trainer.step();
  OwnFolder folder;
  trainer.save_adapter(folder.path(), "base");
  const std::vector<TrainRow> held = rows(5);
  const auto session_loss = [&] {
    double sum = 0;
    for (const TrainRow& row : held) {
      Session session(model_, {.context = 200, .precision = Precision::kF32, .threads = 2});
      const BatchEntry entry{&session, row.tokens};
      forward_batch({&entry, 1}, [&](size_t, int64_t index, std::span<const float> logits) {
        const auto next = static_cast<size_t>(index) + 1;
        if (next == row.tokens.size() || row.labels[next] == -100) return;
        double total = 0;
        for (const float logit : logits) total += std::exp(static_cast<double>(logit));
        sum += std::log(total) - static_cast<double>(logits[static_cast<size_t>(row.labels[next])]);
      });
    }
    return sum;
  };
  const double before = session_loss();
  EXPECT_NEAR(1, trainer.evaluate(held, false).sum / before, 3e-6);
  attach_adapters(model_, {{.folder = folder.path()}});
  const double beside = session_loss();
  EXPECT_NEAR(1, trainer.evaluate(held).sum / beside, 3e-6);
  EXPECT_GT(std::abs(beside / before - 1), 1e-3);
  attach_adapters(model_, {{folder.path(), 0.25}, {folder.path(), 0.75}});
  EXPECT_NEAR(1, session_loss() / beside, 3e-6);
  attach_adapters(model_, {});
  EXPECT_EQ(before, session_loss());
  EXPECT_THROW(attach_adapters(model_, {{.folder = folder.path() + "/none"}}), Error);
}

// Pairs that adapter_config.json asks for and the file does not have are told by whatever reads an adapter.
TEST_F(TrainerTest, PairsThatTheConfigurationAsksForAndTheFileLacksAreNamed) {
  TrainOptions own = options();
  own.targets = {"q_proj", "down_proj"};
  Trainer trainer(model_, rows(20), own);
  OwnFolder folder;
  const std::string config = folder.path() + "/adapter/adapter_config.json",
                    checkpoint = folder.path() + "/checkpoint";
  trainer.save_adapter(folder.path() + "/adapter", "base");
  trainer.save_checkpoint(checkpoint, "base");
  const Json written = Json::parse(bytes_of(config));
  const auto told = [&](const char* key, const Json& value) {
    Json changed = written;
    changed[key] = value;
    std::ofstream(config) << changed.dump();
    const AdapterChoice choice{.folder = folder.path() + "/adapter"};
    const std::vector<std::string> attached = attach_adapters(model_, {choice, choice});
    const LoadedAdapters loaded = load_adapters(model_, {choice});
    Trainer second(model_, rows(20), options());
    const std::string started = second.start_from(choice.folder);
    attach_adapters(model_, {});
    EXPECT_EQ(nullptr == loaded.adapters, false);
    EXPECT_EQ(loaded.notes, started.empty() ? std::vector<std::string>() : std::vector{started});
    EXPECT_EQ(attached, started.empty() ? std::vector<std::string>() : std::vector({started, started}));
    const LoraAdapter merged(choice.folder, Checkpoint(random_.folder.path()));
    EXPECT_EQ(started, merged.missing());
    return started;
  };
  EXPECT_EQ("", told("r", 4));
  EXPECT_EQ("", told("layers_to_transform", {0, 1}));
  EXPECT_EQ("", told("target_modules", "all-linear"));  // which matrices those are, the trainer chose
  const std::string one = told("target_modules", {"down_proj", "q_proj", "layers.1.self_attn.k_proj"});
  for (const std::string& words : {std::string("a pair for 'model.layers.1.self_attn.k_proj'"), config,
                                   std::string("adapter_model.safetensors has none")})
    EXPECT_NE(one.find(words), std::string::npos) << words << "\n" << one;
  const std::string two = told("target_modules", {"down_proj", "q_proj", "up_proj"});
  EXPECT_NE(two.find("2 pairs, for 'model.layers.0.mlp.up_proj' to 'model.layers.1.mlp.up_proj'"),
            std::string::npos)
      << two;

  // A checkpoint is whole or not a checkpoint.
  Json changed = Json::parse(bytes_of(checkpoint + "/adapter_config.json"));
  changed["target_modules"] = {"down_proj", "q_proj", "up_proj"};
  std::ofstream(checkpoint + "/adapter_config.json") << changed.dump();
  Trainer resumed(model_, rows(20), own);
  EXPECT_THROW(resumed.resume(checkpoint), Error);
}

TEST_F(TrainerTest, WhatCannotBeTrainedIsRefused) {
  TrainOptions own = options();
  own.targets = {"no_such_proj"};
  EXPECT_THROW(Trainer(model_, rows(3), own), Error);
  own = options();
  own.layers = {2};
  EXPECT_THROW(Trainer(model_, rows(3), own), Error);
  EXPECT_THROW(Trainer(model_, {}, options()), Error);
  std::vector<TrainRow> wrong = rows(3);
  wrong[1].tokens[0] = 61;
  EXPECT_THROW(Trainer(model_, wrong, options()), Error);
}

TEST(TrainPlan, EveryRowOnceAnEpochAndNothingTooLong) {
  std::vector<int64_t> lengths;
  for (int64_t i = 0; i < 100; ++i) lengths.push_back(1 + i * 7 % 60);
  TrainOptions options;
  options.length = 64;
  options.tokens_per_step = 256;
  options.epochs = 2;
  TrainPlan plan(lengths, options);
  std::vector<int> seen(lengths.size());
  for (int64_t step = 0; step < plan.total_steps(); ++step)
    for (const BatchRows& batch : plan.step(step)) {
      int64_t tokens = 0;
      for (const size_t row : batch) {
        ++seen[row];
        tokens += lengths[row];
      }
      EXPECT_LE(tokens, 64);
    }
  EXPECT_TRUE(std::all_of(seen.begin(), seen.end(), [](int count) { return count == 2; }));
  EXPECT_DOUBLE_EQ(2, plan.epoch(plan.total_steps()));
}

TEST(Schedule, FactorsOfTransformers) {
  EXPECT_EQ(0, schedule_factor(TrainSchedule::kLinear, 0, 4, 20));
  EXPECT_EQ(0.75, schedule_factor(TrainSchedule::kLinear, 3, 4, 20));
  EXPECT_EQ(1, schedule_factor(TrainSchedule::kLinear, 4, 4, 20));
  EXPECT_NEAR(1.0 / 16, schedule_factor(TrainSchedule::kLinear, 19, 4, 20), 1e-15);
  EXPECT_NEAR(0.5, schedule_factor(TrainSchedule::kCosine, 12, 4, 20), 1e-15);
  EXPECT_EQ(1, schedule_factor(TrainSchedule::kConstant, 0, 4, 20));
  EXPECT_EQ(1, schedule_factor(TrainSchedule::kConstant, 19, 4, 20));
}

}  // namespace
}  // namespace nfloat
