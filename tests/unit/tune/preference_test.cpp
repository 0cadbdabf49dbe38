// SPDX-License-Identifier: Apache-2.0
// DPO and ORPO beside losses and central differences in double precision, from logits of the plain model of
// tests/reference with W + scale * B A in place of W.
#include "tune/preference.h"

#include <gtest/gtest.h>

#include <cmath>

#include "nfloat/error.h"
#include "tune/optimizer.h"
#include "unit/tune/adapters.h"

namespace nfloat {
namespace {

using testing::bytes_of;
using testing::OwnFolder;
using testing::RandomModel;

constexpr const char* kConfig = R"({"model_type": "llama", "hidden_size": 32, "intermediate_size": 48,
  "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 41,
  "max_position_embeddings": 100, "tie_word_embeddings": true})";
constexpr int64_t kLength = 40;

class PreferenceTest : public ::testing::Test {
 protected:
  // Prompts of their own, two answers each; answers of 1 to 9 tokens.
  static std::vector<TrainRow> pairs(size_t count) {
    std::mt19937 generator(23);
    std::vector<TrainRow> rows;
    for (size_t pair = 0; pair < count; ++pair) {
      std::vector<int32_t> prompt(1 + generator() % 8);
      for (int32_t& token : prompt) token = static_cast<int32_t>(generator() % 41);
      for (int side = 0; side < 2; ++side) {
        TrainRow row{prompt, std::vector<int32_t>(prompt.size(), kIgnoredLabel)};
        const size_t answer = 1 + generator() % 9;
        for (size_t i = 0; i < answer; ++i) {
          row.tokens.push_back(static_cast<int32_t>(generator() % 41));
          row.labels.push_back(row.tokens.back());
        }
        rows.push_back(std::move(row));
      }
    }
    return rows;
  }
  static TrainOptions options(TrainObjective objective) {
    TrainOptions o;
    o.objective = objective;
    o.rank = 3;
    o.alpha = 4;
    o.steps = 9;
    o.length = kLength;
    o.tokens_per_step = 160;
    o.learning_rate = 1e-2;
    o.seed = 4;
    o.threads = 2;
    return o;
  }

  const RandomModel random_{kConfig};
  const Model model_ = Model::load(random_.folder.path(), {.precision = Precision::kF32, .threads = 2});
};

// The parameters of an adapter in one list, and the model with them, in double precision.
struct Oracle {
  const RandomModel& random;
  const Adapter& adapter;
  const std::vector<TrainRow>& rows;
  const TrainOptions& options;

  std::vector<double> parameters() const {
    std::vector<double> all;
    for (const LoraModule& module : adapter.modules) {
      all.insert(all.end(), module.a.begin(), module.a.end());
      all.insert(all.end(), module.b.begin(), module.b.end());
    }
    return all;
  }
  reference::Weights merged(const std::vector<double>& parameters) const {
    reference::Weights weights = random.weights;
    size_t at = 0;
    for (const LoraModule& module : adapter.modules) {
      reference::Vector& w = weights.at(module.at().name + ".weight");
      const auto rank = static_cast<size_t>(module.rank()), in = static_cast<size_t>(module.at().in);
      const double* a = parameters.data() + at;
      const double* b = a + module.a.size();
      for (size_t o = 0; o < module.b.size() / rank; ++o)
        for (size_t k = 0; k < rank; ++k)
          for (size_t i = 0; i < in; ++i)
            w[o * in + i] += static_cast<double>(module.scale()) * b[o * rank + k] * a[k * in + i];
      at += module.a.size() + module.b.size();
    }
    return weights;
  }
  // log p of the labels, and how many they are.
  std::pair<double, double> answer(const reference::Weights& weights, const TrainRow& row) const {
    reference::Llama llama(random.config, weights, kLength);
    double sum = 0, count = 0;
    for (size_t t = 0; t + 1 < row.tokens.size(); ++t) {
      const reference::Vector logits = llama.step(row.tokens[t]);
      if (row.labels[t + 1] == kIgnoredLabel) continue;
      double total = 0;
      for (const double logit : logits) total += std::exp(logit);
      sum += logits[static_cast<size_t>(row.labels[t + 1])] - std::log(total);
      ++count;
    }
    return {sum, count};
  }
  double loss(const std::vector<double>& parameters) const {
    const reference::Weights weights = merged(parameters);
    double sum = 0;
    for (size_t i = 0; i < rows.size(); i += 2) {
      const auto [c, c_count] = answer(weights, rows[i]);
      const auto [r, r_count] = answer(weights, rows[i + 1]);
      if (options.objective == TrainObjective::kDpo) {
        const double before =
            answer(random.weights, rows[i]).first - answer(random.weights, rows[i + 1]).first;
        const double p = 1 / (1 + std::exp(-options.beta * (c - r - before)));
        sum -= (1 - options.label_smoothing) * std::log(p) + options.label_smoothing * std::log(1 - p);
      } else {
        const double p = std::exp(c / c_count), q = std::exp(r / r_count);
        const double ratio = p / (1 - p) / (q / (1 - q));
        sum -= std::log(p) + options.beta * std::log(ratio / (1 + ratio));
      }
    }
    return sum / (static_cast<double>(rows.size()) / 2);
  }
};

struct Losses : PreferenceTest, ::testing::WithParamInterface<std::tuple<TrainObjective, double, double>> {};

TEST_P(Losses, LossAndGradientAreThoseOfDoublePrecision) {
  TrainOptions own = options(std::get<0>(GetParam()));
  own.beta = std::get<1>(GetParam());
  own.label_smoothing = std::get<2>(GetParam());
  const std::vector<TrainRow> rows = pairs(5);
  Adapter trained = testing::random_adapter(model_);
  Preferences preferences(rows, own);
  Pass pass(model_, trained, {.threads = 2}, 200, kLength);
  EXPECT_EQ(preferences.needs_reference(), own.objective == TrainObjective::kDpo);
  if (preferences.needs_reference()) preferences.make_reference(pass, 50);
  TrainStep counts;
  const TrainPreference found = preferences.gradients(pass, {{0, 2, 1}, {4, 3}}, 0, counts);
  const Oracle oracle{random_, trained, rows, own};
  const std::vector<double> start = oracle.parameters();
  EXPECT_EQ(5, found.pairs);
  EXPECT_NEAR(1, found.loss / oracle.loss(start), 2e-6);
  int64_t labels = 0;
  for (const TrainRow& row : rows)
    labels += std::count_if(row.labels.begin(), row.labels.end(), [](int32_t l) { return l >= 0; });
  EXPECT_EQ(labels, counts.tokens);

  std::vector<double> gradient;
  for (const LoraModule& module : trained.modules) {
    const std::vector<float> b = module.b_gradient();
    gradient.insert(gradient.end(), module.a_gradient.begin(), module.a_gradient.end());
    gradient.insert(gradient.end(), b.begin(), b.end());
  }
  const double norm = gradient_norm(trained, 1);
  const auto difference = [&](const std::vector<double>& direction) {
    constexpr double kStep = 1e-4;
    std::vector<double> above = start, below = start;
    for (size_t i = 0; i < start.size(); ++i) {
      above[i] += kStep * direction[i];
      below[i] -= kStep * direction[i];
    }
    return (oracle.loss(above) - oracle.loss(below)) / (2 * kStep);
  };
  std::mt19937 generator(3);
  std::normal_distribution<double> normal;
  for (int turn = 0; turn < 4; ++turn) {
    std::vector<double> direction(start.size());
    double expected = 0, length = 0;
    for (size_t i = 0; i < direction.size(); ++i) {
      direction[i] =
          gradient[i] / norm + turn * normal(generator) / std::sqrt(static_cast<double>(start.size()));
      expected += direction[i] * gradient[i];
      length += direction[i] * direction[i];
    }
    EXPECT_NEAR(difference(direction) / norm, expected / norm, 2e-5 * std::sqrt(length)) << "turn " << turn;
  }
  for (int i = 0; i < 12; ++i) {
    std::vector<double> direction(start.size(), 0.0);
    const size_t at = generator() % start.size();
    direction[at] = 1;
    EXPECT_NEAR(difference(direction) / norm, gradient[at] / norm, 2e-6) << "parameter " << at;
  }
}

INSTANTIATE_TEST_SUITE_P(Every, Losses,
                         ::testing::Values(std::tuple{TrainObjective::kDpo, 0.1, 0.0},
                                           std::tuple{TrainObjective::kDpo, 0.5, 0.0},
                                           std::tuple{TrainObjective::kDpo, 0.3, 0.2},
                                           std::tuple{TrainObjective::kOrpo, 0.1, 0.0},
                                           std::tuple{TrainObjective::kOrpo, 1.5, 0.0}));

TEST(PairLosses, FarFromZeroTheyStayFinite) {
  for (const double far : {1e3, 1e6}) {
    for (const double sign : {-1.0, 1.0}) {
      const AnswerScore near{-1, 4, -1}, moved{-1 + sign * far, 4, -1};
      const PairLoss dpo = dpo_loss(moved, near, 0.1, 0.1);
      EXPECT_TRUE(std::isfinite(dpo.loss) && std::isfinite(dpo.by_chosen));
      EXPECT_NEAR(dpo.loss, 0.1 * far * (sign > 0 ? 0.1 : 0.9), 1e-9 * far);
      EXPECT_EQ(dpo.by_chosen, -dpo.by_rejected);
    }
    const PairLoss orpo = orpo_loss({-1, 2}, {-far, 2}, 0.1);
    EXPECT_TRUE(std::isfinite(orpo.loss) && std::isfinite(orpo.by_rejected));
    EXPECT_NEAR(orpo.loss, 0.5, 1e-9);
  }
  // Tokens that are certain.
  const PairLoss certain = orpo_loss({0, 3}, {0, 3}, 0.1);
  EXPECT_NEAR(certain.loss, 0.1 * std::log(2.0), 1e-6);
  EXPECT_TRUE(std::isfinite(certain.by_chosen) && std::isfinite(certain.by_rejected));
  EXPECT_NEAR(dpo_loss({-5, 1, -5}, {-9, 1, -9}, 0.1, 0).loss, std::log(2.0), 1e-15);
}

TEST_F(PreferenceTest, OneBatchSeveralBatchesAndPacksAreTheSameStep) {
  for (const TrainObjective objective : {TrainObjective::kDpo, TrainObjective::kOrpo}) {
    TrainOptions together = options(objective);
    together.shuffle = together.packing = false;
    together.rows_per_batch = 8;
    TrainOptions apart = together, packed = together;
    apart.rows_per_batch = 1;
    apart.accumulate = 8;
    packed.packing = true;
    packed.rows_per_batch = packed.accumulate = 0;
    packed.tokens_per_step = 4096;
    Trainer a(model_, pairs(8), together), b(model_, pairs(8), apart), c(model_, pairs(8), packed);
    for (int i = 0; i < 3; ++i) {
      const TrainStep one = a.step();
      ASSERT_TRUE(one.preference);
      EXPECT_EQ(8, one.preference->pairs);
      EXPECT_EQ(one.loss, one.preference->loss);
      if (i == 0 && objective == TrainObjective::kDpo) {
        EXPECT_NEAR(one.loss, std::log(2.0), 1e-7);
      }
      for (Trainer* other : {&b, &c}) {
        const TrainStep step = other->step();
        EXPECT_EQ(one.tokens, step.tokens);
        EXPECT_NEAR(one.loss, step.loss, 2e-6);
        EXPECT_NEAR(one.preference->margin, step.preference->margin, 1e-5);
        EXPECT_NEAR(1, step.grad_norm / one.grad_norm, 1e-5);
      }
    }
  }
}

TEST_F(PreferenceTest, AResumedRunGivesTheSameFiles) {
  const auto bytes = [](const Trainer& trainer) {
    OwnFolder folder;
    trainer.save_adapter(folder.path(), "base");
    return bytes_of(folder.path() + "/adapter_model.safetensors");
  };
  for (const TrainObjective objective : {TrainObjective::kDpo, TrainObjective::kOrpo}) {
    TrainOptions own = options(objective);
    own.dropout = 0.1;
    Trainer straight(model_, pairs(20), own);
    OwnFolder folder;
    const std::string checkpoint = folder.path() + "/checkpoint";
    while (straight.finished_steps() < 4) straight.step();
    straight.save_checkpoint(checkpoint, "base");
    while (straight.finished_steps() < straight.total_steps()) straight.step();
    for (const int threads : {1, 2, 7}) {
      own.threads = threads;
      Trainer resumed(model_, pairs(20), own), again(model_, pairs(20), own);
      resumed.resume(checkpoint);
      while (resumed.finished_steps() < resumed.total_steps()) resumed.step();
      while (again.finished_steps() < again.total_steps()) again.step();
      EXPECT_EQ(bytes(straight), bytes(resumed)) << threads << " threads";
      EXPECT_EQ(bytes(straight), bytes(again)) << threads << " threads";
    }
    for (const Recompute level : {Recompute::kNone, Recompute::kCheap, Recompute::kFull}) {
      own.recompute = level;
      Trainer other(model_, pairs(20), own);
      while (other.finished_steps() < other.total_steps()) other.step();
      EXPECT_EQ(bytes(straight), bytes(other)) << "level " << static_cast<int>(level);
    }
    own.beta = 0.2;
    Trainer changed(model_, pairs(20), own);
    EXPECT_THROW(changed.resume(checkpoint), Error);
    own.objective = TrainObjective::kTokens;
    Trainer rows(model_, pairs(20), own);
    EXPECT_THROW(rows.resume(checkpoint), Error);
  }
}

// The reference is of the model alone, whatever the adapter begins with, and of the checkpoint's run.
TEST_F(PreferenceTest, TheReferenceIsTheModelWithoutItsAdapter) {
  Trainer plain(model_, pairs(10), options(TrainObjective::kDpo));
  while (plain.finished_steps() < 5) plain.step();
  OwnFolder folder;
  plain.save_adapter(folder.path(), "base");
  Trainer second(model_, pairs(10), options(TrainObjective::kDpo));
  second.start_from(folder.path());
  const TrainPreference with = second.evaluate_pairs(pairs(10)),
                        without = second.evaluate_pairs(pairs(10), false);
  EXPECT_EQ(0, without.margin);
  EXPECT_NEAR(without.loss, std::log(2.0), 1e-12);
  EXPECT_EQ(0, without.accuracy);
  EXPECT_GT(with.margin, 0);
  const double reward = 0.1 * ((with.chosen - without.chosen) - (with.rejected - without.rejected));
  EXPECT_NEAR(with.margin, reward, 1e-9);
  EXPECT_EQ(with.loss, plain.evaluate_pairs(pairs(10)).loss);
  // It is kept from one evaluation to the next, and belongs to the pairs.
  const TrainPreference others = second.evaluate_pairs(pairs(6)), again = second.evaluate_pairs(pairs(10));
  EXPECT_EQ(with.loss, again.loss);
  EXPECT_EQ(with.margin, again.margin);
  EXPECT_EQ(others.loss, plain.evaluate_pairs(pairs(6)).loss);
  std::vector<TrainRow> shorter = pairs(10);
  shorter[0].labels.front() = shorter[0].labels.back();
  EXPECT_EQ(0, second.evaluate_pairs(shorter, false).margin);
}

TEST_F(PreferenceTest, WhatIsPreferredIsLearned) {
  for (const TrainObjective objective : {TrainObjective::kDpo, TrainObjective::kOrpo}) {
    TrainOptions own = options(objective);
    own.steps = 60;
    Trainer trainer(model_, pairs(6), own);
    const TrainPreference before = trainer.evaluate_pairs(pairs(6));
    while (trainer.finished_steps() < trainer.total_steps()) trainer.step();
    const TrainPreference after = trainer.evaluate_pairs(pairs(6));
    EXPECT_EQ(1, after.accuracy);
    EXPECT_GT(after.margin, before.margin);
    EXPECT_LT(after.loss, before.loss / 2);
    if (objective == TrainObjective::kOrpo) {
      EXPECT_GT(after.chosen, before.chosen);
    }
  }
}

TEST_F(PreferenceTest, TheSameAnswerTwiceTeachesNothing) {
  std::vector<TrainRow> rows = pairs(4);
  for (size_t i = 0; i < rows.size(); i += 2) rows[i + 1] = rows[i];
  TrainOptions own = options(TrainObjective::kDpo);
  own.dropout = 0.2;
  Trainer dpo(model_, rows, own);
  const TrainStep step = dpo.step();
  EXPECT_EQ(0, step.grad_norm);
  EXPECT_NEAR(step.loss, std::log(2.0), 1e-12);
  EXPECT_EQ(0, step.preference->accuracy);
  // Of ORPO what is left is the likelihood of the answer.
  Trainer orpo(model_, rows, options(TrainObjective::kOrpo));
  EXPECT_GT(orpo.step().grad_norm, 0);
}

TEST_F(PreferenceTest, PairsThatAreNoneAreRefused) {
  const auto refused = [&](std::vector<TrainRow> rows, const TrainOptions& own, const char* why) {
    try {
      Trainer trainer(model_, std::move(rows), own);
      FAIL() << "taken: " << why;
    } catch (const Error& error) {
      EXPECT_EQ(ErrorCode::kInvalidArgument, error.code());
      EXPECT_NE(std::string(error.what()).find(why), std::string::npos) << error.what();
    }
  };
  TrainOptions own = options(TrainObjective::kDpo);
  std::vector<TrainRow> odd = pairs(2), empty = pairs(2);
  odd.pop_back();
  refused(odd, own, "3 rows are no pairs");
  empty[3].labels.assign(empty[3].labels.size(), kIgnoredLabel);
  refused(empty, own, "pair 2 of the data: nothing of the rejected answer");
  own.beta = 0;
  refused(pairs(2), own, "beta");
  own = options(TrainObjective::kOrpo);
  own.label_smoothing = 0.1;
  refused(pairs(2), own, "smoothing");
  own.objective = TrainObjective::kTokens;
  refused(pairs(2), own, "smoothing");
  own.label_smoothing = 0;
  Trainer rows(model_, pairs(2), own);
  EXPECT_THROW(rows.evaluate_pairs(pairs(2)), Error);
}

}  // namespace
}  // namespace nfloat
