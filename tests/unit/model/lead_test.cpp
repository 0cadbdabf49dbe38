// SPDX-License-Identifier: Apache-2.0
// Rank 0 alone runs sessions, the other ranks follow: against the same calls in one process.
#include "nfloat/lead.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>

#include "nfloat/engine.h"
#include "nfloat/error.h"
#include "support/paths.h"
#include "support/thread_ranks.h"

namespace nfloat {
namespace {

const std::string kTiny = testing::source_path("/models/nfloat-tiny");

ModelOptions options_over(std::shared_ptr<Ranks> ranks) {
  ModelOptions options;
  options.precision = Precision::kInt8;
  options.threads = 1;
  options.ranks = std::move(ranks);
  return options;
}

// `work` gets the models of rank 0, `models` of them; the other ranks follow until it has returned. Returns
// what the followers threw.
template <typename Work>
std::vector<std::string> led(int count, size_t models, const Work& work, double timeout = kRankTimeout) {
  const auto ranks = thread_ranks(count, timeout);
  std::vector<std::string> errors(static_cast<size_t>(count));
  on_each_rank(ranks.size(), [&](size_t rank) {
    LedModels own;
    for (size_t i = 0; i < models; ++i) own.models.push_back(Model::load(kTiny, options_over(ranks[rank])));
    try {
      const bool leads = lead_ranks(own);
      EXPECT_EQ(leads, rank == 0);
      if (leads) work(std::move(own.models));
    } catch (const Error& error) {
      errors[rank] = error.what();
    }
  });
  return errors;
}

std::vector<float> copy(std::span<const float> logits) {
  return {logits.begin(), logits.end()};
}

// Sessions that are made, forked, rewound, dropped and batched in two models.
std::vector<std::vector<float>> story(const std::vector<Model>& models) {
  std::vector<std::vector<float>> logits;
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < 300; ++i) tokens.push_back(i * 37 % 1000);
  const std::span all(tokens);
  Session first(models[0]), second(models[1], {.context = 400, .precision = Precision::kF32});
  Session empty = first.fork();
  logits.push_back(copy(first.prefill(all)));
  logits.push_back(copy(second.prefill(all.first(7))));
  {
    Session branch = first.fork();
    logits.push_back(copy(branch.decode(5)));
    branch.rewind(130);
    const std::vector<BatchEntry> together = {{&branch, all.first(3)}, {&empty, all.subspan(9, 20)}};
    forward_batch(together,
                  [&](size_t, int64_t, std::span<const float> row) { logits.push_back(copy(row)); });
    logits.push_back(copy(branch.logits()));
  }
  logits.push_back(copy(first.decode(6)));
  Session moved = std::move(second);
  logits.push_back(copy(moved.decode(8)));
  return logits;
}

TEST(LeadRanks, SessionsHaveTheBitsOfOneProcess) {
  const Model one = Model::load(kTiny, options_over(nullptr));
  const auto expected = story({one, one});
  for (const int count : {2, 3}) {
    std::vector<std::vector<float>> found;
    const auto errors = led(count, 2, [&](const std::vector<Model>& models) { found = story(models); });
    EXPECT_EQ(errors, std::vector<std::string>(static_cast<size_t>(count)));
    EXPECT_TRUE(found == expected) << count << " ranks";
  }
}

// Many sequences together, in a budget that makes some of them wait and be read again.
std::vector<std::vector<int32_t>> answers(const Model& model) {
  const Tokenizer tokenizer = Tokenizer::load(kTiny);
  std::vector<std::vector<int32_t>> tokens(6);
  std::vector<uint64_t> numbers;
  EngineOptions options;
  options.streams = 4;
  options.context = 200;
  options.kv_bytes = 2 * kv_cache_bytes(model.config(), KvCacheType::kF16, 200 + 128);
  options.events = [&](std::span<const EngineEvent> events) {
    for (const EngineEvent& event : events) {
      EXPECT_EQ(event.error, "");
      const auto at =
          static_cast<size_t>(std::find(numbers.begin(), numbers.end(), event.request) - numbers.begin());
      if (event.piece.token >= 0) tokens[at].push_back(event.piece.token);
    }
  };
  Engine engine(model, tokenizer, options);
  for (size_t i = 0; i < tokens.size(); ++i) {
    EngineRequest request;
    for (size_t t = 0; t < 20 + 25 * i; ++t)
      request.prompt.push_back(static_cast<int32_t>((t * 13 + i / 2) % 900));
    request.sampler.temperature = 1;
    request.sampler.seed = i;
    request.generation.max_tokens = 40;
    request.generation.look_up = i % 2 == 0 ? 5 : 0;
    numbers.push_back(*engine.submit(request));
  }
  while (engine.step()) continue;
  return tokens;
}

TEST(LeadRanks, AnEngineHasTheTokensOfOneProcess) {
  const auto expected = answers(Model::load(kTiny, options_over(nullptr)));
  std::vector<std::vector<int32_t>> found;
  const auto errors = led(2, 1, [&](const std::vector<Model>& models) { found = answers(models[0]); });
  EXPECT_EQ(errors, std::vector<std::string>(2));
  EXPECT_EQ(found, expected);
  EXPECT_EQ(found[0].size(), 40u);
}

TEST(LeadRanks, WhatIsWrongIsRefusedAndTheyGoOn) {
  const auto errors = led(2, 1, [&](const std::vector<Model>& models) {
    Session session(models[0]);
    EXPECT_THROW(session.decode(-1), Error);
    EXPECT_EQ(session.decode(3).size(), static_cast<size_t>(models[0].config().vocabulary));
    EXPECT_THROW(session.rewind(2), Error);
    const std::vector<int32_t> tokens = {1, 2};
    const std::span<const int32_t> one(tokens);
    EXPECT_THROW(forward_sequences(models[0], {&one, 1}, {}, [](size_t, int64_t, std::span<const float>) {}),
                 Error);
    const BatchEntry entry{&session, one};
    EXPECT_THROW(forward_batch({&entry, 1}, nullptr, [] { return true; }), Error);
    EXPECT_EQ(session.position(), 1);
    session.prefill(tokens);
    EXPECT_EQ(session.position(), 3);
  });
  EXPECT_EQ(errors, std::vector<std::string>(2));
}

TEST(LeadRanks, ARankThatDoesNotFollowEndsTheirWork) {
  std::vector<std::shared_ptr<Ranks>> ranks;
  std::optional<Model> model;
  // Both have to load within this time of each other, which on a busy machine they may not do at first.
  for (const double timeout : {.2, 2., 60.}) {
    ranks = thread_ranks(2, timeout);
    std::vector<std::optional<Model>> models(2);
    on_each_rank(2, [&](size_t rank) {
      try {
        models[rank] = Model::load(kTiny, options_over(ranks[rank]));
      } catch (const Error&) {
      }
    });
    if (models[0] && models[1]) {
      model = models[0];
      break;
    }
  }
  ASSERT_TRUE(model.has_value());
  ASSERT_TRUE(lead_ranks({{*model}}));
  Session session(*model);
  for (int i = 0; i < 2; ++i) {
    try {
      session.decode(1);
      ADD_FAILURE() << "a pass without the other rank";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("rank 1 on this machine has not answered"), std::string::npos)
          << error.what();
    }
    EXPECT_EQ(session.position(), 0);
  }
  EXPECT_NE(ranks[0]->failure(), "");
}

TEST(LeadRanks, OneProcessLeadsNobody) {
  const Model model = Model::load(kTiny, options_over(nullptr));
  EXPECT_TRUE(lead_ranks({{model}}));
  EXPECT_TRUE(lead_ranks({}));
  Session session(model);
  EXPECT_FALSE(session.decode(1).empty());
}

}  // namespace
}  // namespace nfloat
