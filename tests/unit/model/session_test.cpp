// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <stdexcept>

#include "base/state_of.h"
#include "model/model_state.h"
#include "nfloat/error.h"
#include "random_model.h"

namespace nfloat {
namespace {

using testing::RandomModel;

constexpr const char* kConfig = R"({"model_type": "llama", "hidden_size": 48, "intermediate_size": 72,
  "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 61,
  "max_position_embeddings": 200, "tie_word_embeddings": false})";

// Batches, pieces and single tokens agree to rounding only in float32.
ModelOptions exact() {
  ModelOptions options;
  options.precision = Precision::kF32;
  return options;
}

std::vector<float> copy(std::span<const float> values) {
  return {values.begin(), values.end()};
}

std::string error_text(const std::function<void()>& work, ErrorCode code) {
  try {
    work();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

class Sessions : public ::testing::TestWithParam<KvCacheType> {
 protected:
  RandomModel random_{kConfig};
  Model model_ = Model::load(random_.folder.path(), exact());
  std::vector<int32_t> tokens_ = random_.tokens(150);
};

TEST_P(Sessions, RewindForgets) {
  Session session(model_, {.context = 200, .kv_cache = GetParam()});
  const std::span<const int32_t> tokens(tokens_);
  const std::vector<float> at_40 = copy(session.prefill(tokens.first(40)));
  session.prefill(tokens.subspan(40, 60));
  session.rewind(39);
  EXPECT_TRUE(session.logits().empty());
  EXPECT_EQ(session.position(), 39);
  const std::vector<float> again = copy(session.decode(tokens_[39]));
  for (size_t i = 0; i < at_40.size(); ++i) EXPECT_NEAR(again[i], at_40[i], 1e-4) << i;
  EXPECT_THROW(session.rewind(41), Error);
  EXPECT_THROW(session.rewind(-1), Error);
}

TEST_P(Sessions, ForksGoTheirOwnWays) {
  Session session(model_, {.context = 200, .kv_cache = GetParam()});
  session.prefill(std::span(tokens_).first(37));
  Session other = session.fork();
  EXPECT_EQ(copy(other.logits()), copy(session.logits()));
  const std::vector<float> next = copy(session.decode(5));
  other.decode(60);
  other.decode(60);
  session.rewind(37);
  EXPECT_EQ(copy(session.decode(5)), next);
  EXPECT_EQ(other.position(), 39);
}

// Pages of 128 positions: forks at, before and after their ends, each writing over what the others still see.
TEST_P(Sessions, ForksShareTheirPastAndNothingElse) {
  const std::vector<int32_t> tokens = random_.tokens(200);
  const auto reference = [&](size_t past, int32_t next) {
    Session alone(model_, {.context = 200, .kv_cache = GetParam()});
    alone.prefill(std::span(tokens).first(past));
    return copy(alone.decode(next));
  };
  Session session(model_, {.context = 200, .kv_cache = GetParam()});
  session.prefill(tokens);
  for (const size_t past : {127u, 128u, 129u, 1u}) {
    Session first = session.fork(), second = session.fork();
    first.rewind(static_cast<int64_t>(past));
    second.rewind(static_cast<int64_t>(past));
    const std::vector<float> five = copy(first.decode(5)), sixty = copy(second.decode(60));
    const std::vector<float> expected_five = reference(past, 5), expected_sixty = reference(past, 60);
    for (size_t i = 0; i < five.size(); ++i) {
      EXPECT_NEAR(five[i], expected_five[i], 1e-4) << past << " " << i;
      EXPECT_NEAR(sixty[i], expected_sixty[i], 1e-4) << past << " " << i;
    }
  }
  session.rewind(199);
  const std::vector<float> last = copy(session.decode(tokens[199])), expected = reference(199, tokens[199]);
  for (size_t i = 0; i < last.size(); ++i) EXPECT_NEAR(last[i], expected[i], 1e-4) << i;
}

// A visitor that throws in the second of several passes.
TEST_P(Sessions, AFailedBatchLeavesThemAsTheyWere) {
  Session first(model_, {.context = 200, .kv_cache = GetParam()}), second = first.fork();
  first.prefill(std::span(tokens_).first(20));
  second.prefill(std::span(tokens_).first(30));
  const std::vector<float> before = copy(second.logits());
  const std::vector<int32_t> more(tokens_.begin() + 30, tokens_.end());
  const BatchEntry entries[] = {{&first, more}, {&second, more}};
  EXPECT_THROW(forward_batch(entries,
                             [](size_t entry, int64_t, std::span<const float>) {
                               if (entry == 1) throw std::runtime_error("stop");
                             }),
               std::runtime_error);
  EXPECT_EQ(first.position(), 20);
  EXPECT_EQ(second.position(), 30);
  EXPECT_EQ(copy(second.logits()), before);
  Session alone(model_, {.context = 200, .kv_cache = GetParam()});
  alone.prefill(std::span(tokens_).first(30));
  EXPECT_EQ(copy(second.decode(7)), copy(alone.decode(7)));
}

TEST_P(Sessions, ACancelledBatchLeavesThemAsTheyWere) {
  Session session(model_, {.context = 200, .kv_cache = GetParam()});
  session.prefill(std::span(tokens_).first(20));
  const std::vector<float> before = copy(session.logits());
  const std::vector<int32_t> more(tokens_.begin() + 20, tokens_.end());
  const BatchEntry entry{&session, more};
  // Every look of a whole call may be the one that ends it.
  int looks = 0;
  Session whole = session.fork();
  const BatchEntry other{&whole, more};
  forward_batch({&other, 1}, nullptr, [&] { return ++looks < 0; });
  EXPECT_GT(looks, model_.config().layers);
  for (int last = 1; last <= looks; ++last) {
    int look = 0;
    error_text(
        [&] {
          forward_batch({&entry, 1}, nullptr, [&] { return ++look == last; });
        },
        ErrorCode::kInterrupted);
    EXPECT_EQ(look, last);
    EXPECT_EQ(session.position(), 20);
  }
  EXPECT_EQ(copy(session.logits()), before);
  EXPECT_EQ(copy(session.prefill(more)), copy(whole.logits()));
}

TEST_P(Sessions, SequencesAreCancelledBetweenLayers) {
  const std::span<const int32_t> sequence = tokens_;
  int looks = 0;
  SessionOptions options{.kv_cache = GetParam()};
  options.cancelled = [&] { return ++looks == 2; };
  error_text(
      [&] {
        forward_sequences(model_, {&sequence, 1}, options, [](auto...) {});
      },
      ErrorCode::kInterrupted);
  EXPECT_EQ(looks, 2);
}

INSTANTIATE_TEST_SUITE_P(Caches, Sessions,
                         ::testing::Values(KvCacheType::kF32, KvCacheType::kF16, KvCacheType::kInt8));

TEST(SequenceTablesTest, SessionsOfOneModelShareAnglesAndGivePagesBack) {
  const RandomModel random(kConfig);
  const Model model = Model::load(random.folder.path(), exact());
  const ModelConfig& config = model.config();
  SequenceTables& tables = *state_of(model).tables;
  EXPECT_EQ(tables.rope(config, LayerRope::kMain, 10), tables.rope(config, LayerRope::kMain, 200));
  EXPECT_EQ(tables.rope(config, LayerRope::kLocal, 10), nullptr);
  const std::shared_ptr<PagePool> pool = tables.pages(config, kernels::KvType::kF32);
  const uint64_t page = pool->page_bytes();
  EXPECT_EQ(page, 2u * 128 * 2 * 2 * 8 * 4);  // keys and values, positions, layers, heads, head_dim, bytes
  {
    Session session(model);
    EXPECT_EQ(pool->used_bytes(), 0u);
    session.prefill(random.tokens(128));
    EXPECT_EQ(pool->used_bytes(), page);
    Session other = session.fork();
    EXPECT_EQ(pool->used_bytes(), page);
    other.decode(1);  // its first token beyond the shared page
    EXPECT_EQ(pool->used_bytes(), 2 * page);
    other.rewind(100);
    EXPECT_EQ(pool->used_bytes(), page);
    other.decode(1);  // into the shared one
    EXPECT_EQ(pool->used_bytes(), 2 * page);
  }
  EXPECT_EQ(pool->used_bytes(), 0u);
}

TEST(PagePoolTest, ABudgetIsKept) {
  const auto pool = std::make_shared<PagePool>(4096, 2 * 4096 + 100);
  PagePool::Page first = pool->take();
  const PagePool::Page second = pool->take();
  EXPECT_THROW(pool->take(), Error);
  const std::byte* place = first.get();
  first.reset();
  EXPECT_EQ(pool->take().get(), place);
  EXPECT_EQ(pool->used_bytes(), 4096u);
}

// More tokens than one pass takes, in sequences of unlike length, some of them with a past.
TEST(Batch, EqualsOneByOne) {
  const RandomModel random(kConfig);
  const Model model = Model::load(random.folder.path(), exact());
  const std::vector<int32_t> tokens = random.tokens(200);
  const size_t lengths[] = {200, 1, 130, 77, 3, 190, 64};
  std::vector<Session> sessions;
  std::vector<BatchEntry> entries;
  for (size_t i = 0; i < std::size(lengths); ++i) sessions.emplace_back(model);
  sessions[3].prefill(std::span(tokens).first(11));
  for (size_t i = 0; i < std::size(lengths); ++i)
    entries.push_back({&sessions[i], std::span(tokens).first(lengths[i])});

  std::vector<std::vector<std::vector<float>>> visited(std::size(lengths));
  forward_batch(entries, [&](size_t entry, int64_t index, std::span<const float> logits) {
    ASSERT_EQ(static_cast<size_t>(index), visited[entry].size());
    visited[entry].push_back(copy(logits));
  });
  for (size_t i = 0; i < std::size(lengths); ++i) {
    Session alone(model);
    if (i == 3) alone.prefill(std::span(tokens).first(11));
    ASSERT_EQ(visited[i].size(), lengths[i]);
    for (size_t t = 0; t < lengths[i]; ++t) {
      const std::span<const float> expected = alone.decode(tokens[t]);
      for (size_t v = 0; v < expected.size(); ++v)
        ASSERT_NEAR(visited[i][t][v], expected[v], 1e-4) << "entry " << i << ", token " << t;
    }
    EXPECT_EQ(copy(sessions[i].logits()), visited[i].back());
    EXPECT_EQ(sessions[i].position(), alone.position());
  }
}

TEST(Batch, LastLogitsOfSeveral) {
  const RandomModel random(kConfig);
  const Model model = Model::load(random.folder.path(), exact());
  Session a(model), b(model), c(model);
  const std::vector<int32_t> one{3, 4, 5}, two{6};
  const BatchEntry entries[] = {{&a, one}, {&b, two}};
  forward_batch(entries);
  const std::vector<float> expected = copy(c.prefill(two));
  for (size_t v = 0; v < expected.size(); ++v) EXPECT_NEAR(b.logits()[v], expected[v], 1e-4);
  EXPECT_EQ(a.position(), 3);
}

TEST(Session, PrecisionFollowsTheNumberOfRows) {
  const RandomModel random(kConfig);
  ModelOptions options;
  options.quantize = make_codebook("nf4");  // plain float32 weights would be multiplied in float32
  options.precision = Precision::kF32;
  options.many_rows_precision = Precision::kInt8;
  const Model model = Model::load(random.folder.path(), options);
  const std::vector<int32_t> tokens = random.tokens(9);
  Session mixed(model), one(model, {.precision = Precision::kF32}),
      many(model, {.kv_cache = KvCacheType::kF32, .precision = Precision::kInt8});
  // A single token is a product of one row each.
  EXPECT_EQ(copy(mixed.decode(3)), copy(one.decode(3)));
  mixed.rewind(0);
  // Of many, all that comes before the head, whose row is one.
  mixed.prefill(tokens);
  many.prefill(tokens);
  one.rewind(0);
  one.prefill(tokens);
  Session same(model, {.precision = Precision::kF32, .many_rows_precision = Precision::kInt8});
  same.prefill(tokens);
  EXPECT_EQ(copy(same.logits()), copy(mixed.logits()));
  EXPECT_NE(copy(mixed.logits()), copy(one.logits()));
  const auto all = [&](Session& session) {
    session.rewind(0);
    std::vector<float> logits;
    const BatchEntry entry{&session, tokens};
    forward_batch({&entry, 1}, [&](size_t, int64_t, std::span<const float> row) {
      logits.insert(logits.end(), row.begin(), row.end());
    });
    return logits;
  };
  EXPECT_EQ(all(mixed), all(many));
}

TEST(Session, RefusesWhatCannotBe) {
  const RandomModel random(kConfig);
  const Model model = Model::load(random.folder.path(), exact());
  Session session(model, {.context = 10});
  const std::vector<int32_t> eleven(11, 1), bad{1, 61}, negative{-1};
  EXPECT_NE(
      error_text([&] { session.prefill(eleven); }, ErrorCode::kInvalidArgument).find("11 tokens do not fit"),
      std::string::npos);
  EXPECT_NE(error_text([&] { session.prefill(bad); }, ErrorCode::kInvalidArgument).find("token 1 is 61"),
            std::string::npos);
  error_text([&] { session.prefill(negative); }, ErrorCode::kInvalidArgument);
  error_text([&] { session.prefill({}); }, ErrorCode::kInvalidArgument);
  EXPECT_EQ(session.position(), 0);
  error_text([&] { Session(model, {.context = 201}); }, ErrorCode::kInvalidArgument);
  const std::vector<int32_t> one{1};
  const BatchEntry twice[] = {{&session, one}, {&session, one}};
  error_text([&] { forward_batch(twice); }, ErrorCode::kInvalidArgument);
}

TEST(Loader, NamesEveryMissingTensor) {
  const RandomModel random(kConfig, {"model.layers.1.mlp.up_proj.weight", "model.norm.weight"});
  const std::string text =
      error_text([&] { Model::load(random.folder.path(), exact()); }, ErrorCode::kMalformedFile);
  EXPECT_NE(text.find("model.layers.1.mlp.up_proj.weight"), std::string::npos) << text;
  EXPECT_NE(text.find("model.norm.weight"), std::string::npos) << text;
}

TEST(Loader, NamesEveryWrongShape) {
  const RandomModel random(kConfig);
  ModelConfig config = random.config;
  config.intermediate = 71;
  const auto checkpoint = std::make_shared<const Checkpoint>(random.folder.path());
  const std::string text = error_text([&] { Model::load(checkpoint, config); }, ErrorCode::kMalformedFile);
  EXPECT_NE(text.find("6 tensors disagree"), std::string::npos) << text;
  EXPECT_NE(text.find("model.layers.1.mlp.down_proj.weight is [48, 72], expected [48, 71]"),
            std::string::npos)
      << text;
}

}  // namespace
}  // namespace nfloat
