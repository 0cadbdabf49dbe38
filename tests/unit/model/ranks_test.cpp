// SPDX-License-Identifier: Apache-2.0
// Models over ranks that are threads: the embedded model's bits, memory, files that differ.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "engine/ranks/ranks_device.h"
#include "nfloat/error.h"
#include "random_model.h"
#include "rank_models.h"
#include "support/paths.h"

namespace nfloat {
namespace {

using testing::logits_by_ranks;
using testing::logits_of;

const std::string kTiny = testing::source_path("/models/nfloat-tiny");

std::vector<int32_t> some_tokens() {
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < 20; ++i) tokens.push_back(i * 37 % 1000);
  return tokens;
}

ModelOptions quantized(bool nested) {
  ModelOptions options;
  options.quantize = make_codebook("nf4");
  options.quantize_double = nested;
  options.head = nested ? HeadFormat::kNf4 : HeadFormat::kInt8;
  return options;
}

// Rows begin inside of second-level blocks.
TEST(RankModels, TheEmbeddedModelHasTheSameBits) {
  for (const bool nested : {false, true}) {
    const ModelOptions options = quantized(nested);
    const auto expected = logits_of(kTiny, some_tokens(), nullptr, {}, options);
    for (const std::vector<double>& shares : {std::vector<double>{1, 1}, {3, 1}, {1, 2, 4}})
      for (const auto& rank : logits_by_ranks(kTiny, some_tokens(), shares, options))
        EXPECT_TRUE(rank == expected) << shares.size() << " ranks";
  }
}

// Ranks that count what they exchange.
class CountedRanks final : public Ranks {
 public:
  explicit CountedRanks(std::shared_ptr<Ranks> inner)
      : Ranks(inner->rank(), inner->count()), inner_(std::move(inner)) {
    for (int i = 0; i < inner_->count(); ++i) hosts_.push_back(inner_->host(i));
  }
  void gather(const void* own, std::span<const size_t> sizes, void* all) override {
    ++gathers;
    for (const size_t size : sizes) bytes += size;
    inner_->gather(own, sizes, all);
  }
  void broadcast(void* data, size_t count, int from, Patience patience) override {
    inner_->broadcast(data, count, from, patience);
  }
  void abort(int exit_code) noexcept override { inner_->abort(exit_code); }

  size_t gathers = 0, bytes = 0;

 private:
  const std::shared_ptr<Ranks> inner_;
};

// docs/ranks.md: four exchanges a layer and that of the logits; of gate and up their product alone travels,
// of queries, keys and values what is attended.
TEST(RankModels, ATokenHasTheExchangesThatAreDocumented) {
  const auto ranks = thread_ranks(2);
  std::vector<std::shared_ptr<CountedRanks>> counted;
  for (const auto& one : ranks) counted.push_back(std::make_shared<CountedRanks>(one));
  on_each_rank(2, [&](size_t i) {
    ModelOptions options;
    options.ranks = counted[i];
    options.threads = 1;
    const Model model = Model::load(kTiny, options);
    const ModelConfig& config = model.config();
    Session session(model);
    for (const std::vector<int32_t>& tokens : {std::vector<int32_t>{3}, {5, 7, 9}}) {
      counted[i]->gathers = counted[i]->bytes = 0;
      session.prefill(tokens);
      const int64_t layer = config.query_size() + 2 * config.hidden + config.intermediate;
      const int64_t floats = std::ssize(tokens) * config.layers * layer + config.vocabulary;
      EXPECT_EQ(counted[i]->gathers, static_cast<size_t>(4 * config.layers + 1));
      EXPECT_EQ(counted[i]->bytes, static_cast<size_t>(floats) * sizeof(float));
    }
  });
}

// Of the numbers of the vocabulary the best alone travel where those are enough; the others are none.
void expect_best_logits(const std::string& folder, bool expect_finite) {
  const std::vector<std::vector<int32_t>> prompts = {{3}, {5, 7, 9}};
  const Model one = Model::load(folder, {.threads = 1});
  const auto vocabulary = static_cast<size_t>(one.config().vocabulary);
  std::vector<std::vector<float>> whole;
  for (const std::vector<int32_t>& prompt : prompts) {
    Session session(one);
    const std::span<const float> logits = session.prefill(prompt);
    whole.emplace_back(logits.begin(), logits.end());
  }
  for (const std::vector<double>& shares : {std::vector<double>{1, 1}, {3, 1}, {1, 2, 4}, {1, 1, 1, 1}}) {
    const auto ranks = thread_ranks(static_cast<int>(shares.size()));
    on_each_rank(shares.size(), [&](size_t rank) {
      const auto counted = std::make_shared<CountedRanks>(ranks[rank]);
      ModelOptions options;
      options.threads = 1;
      options.ranks = counted;
      options.rank_shares = shares;
      const Model model = Model::load(folder, options);
      for (const size_t best : {size_t{1}, size_t{9}, vocabulary, size_t{0}}) {
        std::vector<Session> sessions;
        for (size_t i = 0; i < prompts.size(); ++i)
          sessions.emplace_back(model, SessionOptions{.expect_finite = expect_finite});
        std::vector<BatchEntry> entries;
        for (size_t i = 0; i < prompts.size(); ++i)
          entries.push_back(
              {.session = &sessions[i], .tokens = prompts[i], .best = static_cast<int64_t>(best)});
        counted->bytes = 0;
        forward_batch(entries);
        const size_t sent = counted->bytes;
        entries[1].best = 0;  // one that wants all has all
        for (Session& session : sessions) session.rewind(0);
        counted->bytes = 0;
        forward_batch(entries);
        if (best == 1) {
          const size_t numbers = 2 * shares.size(), looks = expect_finite ? shares.size() : 0;
          EXPECT_EQ(counted->bytes - sent, 2 * sizeof(float) * vocabulary - 8 * (numbers + looks));
        }
        EXPECT_TRUE(std::equal(whole[1].begin(), whole[1].end(), sessions[1].logits().begin()));
        for (Session& session : sessions) session.rewind(0);
        entries[1].best = static_cast<int64_t>(best);
        forward_batch(entries);
        for (size_t i = 0; i < prompts.size(); ++i) {
          std::vector<float> sorted = whole[i];
          std::sort(sorted.begin(), sorted.end(), std::greater<>());
          const float worst = best == 0 ? -INFINITY : sorted[best - 1];
          size_t found = 0;
          for (size_t token = 0; token < vocabulary; ++token) {
            const float logit = sessions[i].logits()[token];
            if (std::isnan(logit)) {
              EXPECT_LE(whole[i][token], worst) << token;
            } else {
              EXPECT_EQ(logit, whole[i][token]) << token;
              ++found;
            }
          }
          EXPECT_GE(found, best == 0 ? vocabulary : best);
          EXPECT_LE(found, best == 0 ? vocabulary : best * shares.size());
        }
      }
    });
  }
}

TEST(RankModels, OfLogitsTheBestTravel) {
  for (const bool expect_finite : {false, true}) expect_best_logits(kTiny, expect_finite);
  // Each rank caps its own.
  const testing::RandomModel capped(R"({"model_type": "gemma2", "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 131,
    "max_position_embeddings": 64, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 16})");
  expect_best_logits(capped.folder.path(), true);
}

// A query or a key of a head that one rank alone has: all ranks say what one process says, and go on.
TEST(RankModels, WhatIsNotFiniteIsFoundByAllRanks) {
  for (const char* matrix : {"layers.1.self_attn.q_proj", "layers.0.self_attn.k_proj"}) {
    ModelOptions options;
    options.threads = 1;
    options.transform = [&](const std::string& name, std::span<float> values, int64_t, int64_t) {
      if (name.find(matrix) != std::string::npos) values.back() = std::numeric_limits<float>::infinity();
    };
    const auto says = [&](std::shared_ptr<Ranks> ranks) {
      ModelOptions own = options;
      own.ranks = std::move(ranks);
      const Model model = Model::load(kTiny, own);
      Session session(model, {.expect_finite = true});
      std::string said;
      for (const std::vector<int32_t>& tokens : {std::vector<int32_t>{3}, {5, 7, 9}}) try {
          session.prefill(tokens);
          said += "nothing. ";
        } catch (const Error& error) {
          said += std::string(error.what()) + ". ";
        }
      EXPECT_EQ(session.position(), 0);
      return said;
    };
    const std::string expected = says(nullptr);
    EXPECT_NE(expected.find("a query, key or value"), std::string::npos) << expected;
    const auto ranks = thread_ranks(3);
    std::vector<std::string> said(3);
    on_each_rank(3, [&](size_t i) { said[i] = says(ranks[i]); });
    EXPECT_EQ(said, std::vector<std::string>(3, expected));
  }
}

TEST(RankModels, StreamedLayersHaveTheSameBits) {
  ModelOptions options;
  options.stream_layers = true;
  const auto expected = logits_of(kTiny, some_tokens(), nullptr, {}, options);
  for (const auto& rank : logits_by_ranks(kTiny, some_tokens(), {1, 1}, options))
    EXPECT_TRUE(rank == expected);
}

// A key-value head whose queries two ranks have is with both: the model has two.
TEST(RankModels, ARankHoldsItsShareOfTheMatrices) {
  const ModelOptions options = quantized(true);
  const Model one = Model::load(kTiny, options);
  const auto whole = static_cast<double>(one.memory().projection_bytes);
  const ModelConfig& config = one.config();
  const double row = whole / static_cast<double>(2 * config.query_size() + 2 * config.kv_size() +
                                                 3 * config.intermediate);  // of the layers, in input's width
  const double head = 2 * row * static_cast<double>(config.head_dim);
  const auto ranks = thread_ranks(2);
  for (const std::vector<double>& shares : {std::vector<double>{.5, .5}, {.75, .25}}) {
    std::vector<uint64_t> bytes(2);
    on_each_rank(2, [&](size_t i) {
      ModelOptions own = options;
      own.ranks = ranks[i];
      own.rank_shares = shares;
      bytes[i] = Model::load(kTiny, own).memory().projection_bytes;
    });
    const double twice = shares[0] == shares[1] ? 0 : head;
    for (size_t i = 0; i < 2; ++i)
      EXPECT_NEAR(static_cast<double>(bytes[i]), shares[i] * whole, .05 * whole + twice);
  }
}

TEST(RankModels, AModelsOptionsLoadItAgain) {
  const auto ranks = thread_ranks(2);
  std::vector<std::string> devices(2);
  on_each_rank(2, [&](size_t i) {
    ModelOptions options;
    options.ranks = ranks[i];
    devices[i] = Model::load(kTiny, Model::load(kTiny, options).options()).options().device;
  });
  EXPECT_EQ(devices, std::vector<std::string>(2, "cpu"));
}

// Before anything is exchanged: the other rank is not there.
TEST(RankModels, SharesThatAreNoneAreRefused) {
  const double nan = std::numeric_limits<double>::quiet_NaN(), most = std::numeric_limits<double>::max();
  for (const std::vector<double>& shares :
       {std::vector<double>{1}, {1, 1, 1}, {0, 0}, {2, -1}, {nan, 1}, {1, nan}, {most, most}}) {
    ModelOptions options;
    options.ranks = thread_ranks(2, .05)[0];
    options.rank_shares = shares;
    try {
      Model::load(kTiny, options);
      ADD_FAILURE() << shares.size() << " shares from " << shares[0];
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument) << error.what();
    }
  }
}

TEST(RankModels, MatricesThatLackSomethingAreRefused) {
  const auto device = ranks_device(thread_ranks(2)[1], {});
  const std::vector<uint8_t> codes(64);
  const std::vector<float> levels(16), scales(3);
  PackSource source;
  source.rows = 64;
  source.cols = 64;
  source.codes = codes;
  source.scales = scales;
  source.levels = levels;
  const auto expect_refused = [](const auto& make) {
    try {
      make();
      ADD_FAILURE();
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument) << error.what();
    }
  };
  for (const int64_t block : {64, 0}) {
    source.block_size = block;
    expect_refused([&] { device->matrix(source, 1); });
  }
  const TensorView weights{DType::kF32, {64, 64}, std::as_bytes(std::span(codes)), nullptr};
  expect_refused([&] { device->matrix(weights, DenseMatrix::Storage::kF32, 1, nullptr); });
}

TEST(RankModels, OtherFilesAreRefusedOnEveryRank) {
  const testing::RandomModel one(R"({"model_type": "llama", "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 31,
    "max_position_embeddings": 64})");
  const testing::RandomModel other(R"({"model_type": "llama", "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 31,
    "max_position_embeddings": 65})");
  const auto ranks = thread_ranks(2);
  std::vector<std::string> errors(2);
  on_each_rank(2, [&](size_t i) {
    ModelOptions options;
    options.ranks = ranks[i];
    try {
      Model::load(i == 0 ? one.folder.path() : other.folder.path(), options);
    } catch (const Error& error) {
      errors[i] = error.what();
    }
  });
  for (const std::string& error : errors)
    EXPECT_NE(error.find("rank 1 on this machine has other files than rank 0"), std::string::npos) << error;
}

}  // namespace
}  // namespace nfloat
