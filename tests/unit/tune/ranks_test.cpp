// SPDX-License-Identifier: Apache-2.0
// Training by several ranks, which are threads, against one process with the same batches.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "nfloat/error.h"
#include "nfloat/train.h"
#include "support/thread_ranks.h"
#include "unit/tune/adapters.h"

namespace nfloat {
namespace {

using testing::bytes_of;
using testing::kTrainedModel;
using testing::OwnFolder;
using testing::random_rows;
using testing::RandomModel;

struct Course {
  std::vector<TrainStep> steps;
  std::string adapter, error;
};

class TrainOverRanks : public ::testing::Test {
 protected:
  // Five batches a step: of no number of ranks below that a multiple.
  Course run(std::shared_ptr<Ranks> ranks, bool dora = false, size_t rows = 60) const {
    TrainOptions options;
    options.rank = 4;
    options.alpha = 8;
    options.dora = dora;
    options.steps = 10;
    options.packing = false;
    options.rows_per_batch = 2;
    options.accumulate = 5;
    options.learning_rate = 5e-3;
    options.dropout = 0.1;
    options.seed = 4;
    options.threads = 1;
    options.ranks = std::move(ranks);
    Course result;
    try {
      Trainer trainer(model_, random_rows(rows, 23), options);
      while (trainer.finished_steps() < trainer.total_steps()) result.steps.push_back(trainer.step());
      const OwnFolder folder;
      trainer.save_adapter(folder.path(), "base");
      result.adapter = bytes_of(folder.path() + "/adapter_model.safetensors");
    } catch (const Error& error) {
      result.error = error.what();
    }
    return result;
  }
  std::vector<Course> by_ranks(size_t count, const std::vector<size_t>& rows, bool dora = false) const {
    const auto ranks = thread_ranks(static_cast<int>(count));
    std::vector<Course> runs(count);
    on_each_rank(count, [&](size_t i) { runs[i] = run(ranks[i], dora, rows[i]); });
    return runs;
  }
  const RandomModel random_{kTrainedModel};
  const Model model_ =
      Model::load(random_.folder.path(), {.quantize = make_codebook("nf4"), .precision = Precision::kF32});
};

TEST_F(TrainOverRanks, TheLossesAreThoseOfOneProcess) {
  for (const bool dora : {false, true}) {
    const Course one = run(nullptr, dora);
    ASSERT_EQ(one.error, "");
    ASSERT_EQ(one.steps.size(), 10u);
    for (const size_t count : {2u, 3u, 7u}) {
      const std::vector<Course> runs = by_ranks(count, std::vector<size_t>(count, 60), dora);
      for (const Course& own : runs) {
        ASSERT_EQ(own.error, "");
        ASSERT_EQ(own.steps.size(), one.steps.size());
        // Bit for bit on all ranks.
        EXPECT_TRUE(own.adapter == runs[0].adapter) << count;
      }
      for (size_t i = 0; i < one.steps.size(); ++i) {
        const TrainStep &own = runs[0].steps[i], &expected = one.steps[i];
        // At first no sum but that of five numbers; then gradients differ in their last places, of which Adam
        // makes as much as of others where a gradient is nearly 0.
        const double tolerance = i == 0 ? 1e-12 : 1e-5;
        EXPECT_NEAR(own.loss, expected.loss, tolerance * expected.loss) << count << " ranks, step " << i;
        EXPECT_NEAR(own.grad_norm, expected.grad_norm, (i == 0 ? 1e-5 : 1e-3) * expected.grad_norm);
        EXPECT_EQ(own.tokens, expected.tokens);
      }
      EXPECT_LT(one.steps.back().loss, one.steps.front().loss);
    }
  }
}

// A checkpoint has the state of the optimizer that ranks have shared out: three of them save, two go on as
// three would have.
TEST_F(TrainOverRanks, WhatTheySaveIsWhole) {
  const OwnFolder folder;
  const auto options = [](std::shared_ptr<Ranks> ranks) {
    TrainOptions result;
    result.rank = 4;
    result.steps = 6;
    result.packing = false;
    result.rows_per_batch = 2;
    result.accumulate = 6;
    result.learning_rate = 5e-3;
    result.seed = 4;
    result.threads = 1;
    result.ranks = std::move(ranks);
    return result;
  };
  const auto losses = [](Trainer& trainer, int64_t until) {
    std::vector<double> found;
    while (trainer.finished_steps() < until) found.push_back(trainer.step().loss);
    return found;
  };
  Trainer one(model_, random_rows(60, 23), options(nullptr));
  const std::vector<double> expected = losses(one, 6);
  const auto three = thread_ranks(3), two = thread_ranks(2);
  on_each_rank(3, [&](size_t i) {
    Trainer trainer(model_, random_rows(60, 23), options(three[i]));
    losses(trainer, 3);
    if (i == 0) {
      EXPECT_THROW(trainer.save_checkpoint(folder.path() + "/too_early", "base"), Error);
    }
    trainer.gather_state();
    if (i == 0) trainer.save_checkpoint(folder.path() + "/saved", "base");
  });
  std::vector<std::vector<double>> found(3);
  on_each_rank(2, [&](size_t i) {
    Trainer trainer(model_, random_rows(60, 23), options(two[i]));
    trainer.resume(folder.path() + "/saved");
    found[i] = losses(trainer, 6);
  });
  Trainer alone(model_, random_rows(60, 23), options(nullptr));
  alone.resume(folder.path() + "/saved");
  found[2] = losses(alone, 6);
  for (const std::vector<double>& own : found) {
    ASSERT_EQ(own.size(), 3u);
    for (size_t i = 0; i < 3; ++i) EXPECT_NEAR(own[i], expected[i + 3], 1e-5 * expected[i + 3]);
  }
}

// Each rank has the moments of its own modules, all the rest whole; rank 0 at a checkpoint those of all
// besides.
TEST_F(TrainOverRanks, MomentsAreSharedOut) {
  const auto memory = [&](std::shared_ptr<Ranks> ranks) {
    TrainOptions options;
    options.rank = 4;
    options.dora = true;
    options.length = 64;
    options.threads = 1;
    options.ranks = std::move(ranks);
    const Trainer trainer(model_, random_rows(20, 23), options);
    return std::pair(trainer.memory_bytes(), static_cast<uint64_t>(trainer.parameters()));
  };
  const auto [whole, parameters] = memory(nullptr);
  const auto ranks = thread_ranks(3);
  std::vector<uint64_t> own(3);
  on_each_rank(3, [&](size_t i) { own[i] = memory(ranks[i]).first; });
  const uint64_t moments = 2 * sizeof(float) * parameters;
  EXPECT_GT(own[0], whole);
  own[0] -= moments;
  EXPECT_EQ(3 * whole - 2 * moments, own[0] + own[1] + own[2]);
  for (const uint64_t bytes : own) EXPECT_LT(bytes, whole);
}

TEST_F(TrainOverRanks, OtherRowsAreRefusedOnEveryRank) {
  for (const Course& own : by_ranks(2, {60, 59}))
    EXPECT_EQ(own.error,
              "rank 1 on this machine trains on other rows, weights or options than rank 0 on this machine");
}

TEST_F(TrainOverRanks, PairsAreRefused) {
  TrainOptions options;
  options.objective = TrainObjective::kDpo;
  options.ranks = thread_ranks(2)[0];
  EXPECT_THROW(Trainer(model_, random_rows(4, 23), options), Error);
}

}  // namespace
}  // namespace nfloat
