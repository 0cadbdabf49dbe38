// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <map>

#include "base/state_of.h"
#include "kernels/dispatch.h"
#include "model/sequence_pass.h"
#include "nfloat/error.h"
#include "random_model.h"

namespace nfloat {
namespace {

using testing::RandomModel;

constexpr const char* kDense = R"({"model_type": "llama", "hidden_size": 48, "intermediate_size": 72,
  "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 61,
  "max_position_embeddings": 700, "tie_word_embeddings": false})";
constexpr const char* kMixture = R"({"model_type": "mixtral", "hidden_size": 48, "intermediate_size": 72,
  "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 61,
  "num_local_experts": 4, "num_experts_per_tok": 2, "max_position_embeddings": 700})";

// Counts the rows that each product sees, and adds to the outputs of one of them.
class Watcher : public LinearObserver {
 public:
  void input(const LinearId& id, const ActivationRows& x) override {
    ASSERT_GE(x.stride, x.width);
    rows[id] += x.rows;
    width[id] = x.width;
    for (int64_t row = 0; row < x.rows; ++row)
      for (int64_t i = 0; i < x.width; ++i)
        sums[id] += std::fabs(static_cast<double>(x.data[row * x.stride + i]));
  }
  void output(const LinearId& id, const ActivationRows& x, float* y, int64_t y_stride) override {
    if (id != changed) return;
    for (int64_t row = 0; row < x.rows; ++row) y[row * y_stride] += by;
  }

  std::map<LinearId, int64_t> rows, width;
  std::map<LinearId, double> sums;
  LinearId changed{.layer = -1};
  float by = 0;
};

std::vector<float> run(const Model& model, std::span<const std::span<const int32_t>> sequences,
                       LinearObserver* observer) {
  const SequencePass pass(model, sequences, KvCacheType::kF32);
  Workspace workspace;
  workspace.reserve(state_of(model), std::min(pass.rows(), kMaxRows));
  LayerExecutor executor(state_of(model), workspace,
                         {.precision = Precision::kF32, .threads = 2, .observer = observer});
  const OwnedRows x(workspace.engine, pass.rows(), model.config().hidden);
  std::vector<float> all;
  pass.embed(executor, x.all());
  for (int64_t layer = 0; layer < model.config().layers; ++layer)
    pass.layer(executor, layer, *state_of(model).layer(layer), x.all());
  pass.logits(executor, x.all(), [&](size_t, int64_t, std::span<const float> logits) {
    all.insert(all.end(), logits.begin(), logits.end());
  });
  return all;
}

TEST(Passes, EveryProductOfADenseModelIsSeen) {
  RandomModel random(kDense);
  const Model model = Model::load(random.folder.path());
  const std::vector<int32_t> first = random.tokens(600), second = random.tokens(7);
  const std::span<const int32_t> sequences[] = {first, second};
  Watcher watcher;
  const std::vector<float> watched = run(model, sequences, &watcher);
  EXPECT_EQ(watched, run(model, sequences, nullptr));
  EXPECT_EQ(watcher.rows.size(), 2u * 4);
  for (int64_t layer = 0; layer < 2; ++layer)
    for (const auto& [role, width] : {std::pair{LinearRole::kQueryKeyValue, 48},
                                      {LinearRole::kOutput, 48},
                                      {LinearRole::kGateUp, 48},
                                      {LinearRole::kDown, 72}}) {
      const LinearId id{layer, role};
      EXPECT_EQ(watcher.rows[id], 607) << layer;
      EXPECT_EQ(watcher.width[id], width) << layer;
      EXPECT_GT(watcher.sums[id], 0) << layer;
    }
}

TEST(Passes, ExpertsSeeTheRowsThatChoseThem) {
  RandomModel random(kMixture);
  const Model model = Model::load(random.folder.path());
  for (const size_t count : {1u, 100u}) {
    const std::vector<int32_t> tokens = random.tokens(static_cast<int64_t>(count));
    const std::span<const int32_t> sequences[] = {tokens};
    Watcher watcher;
    run(model, sequences, &watcher);
    for (int64_t layer = 0; layer < 2; ++layer) {
      EXPECT_EQ((watcher.rows[{layer, LinearRole::kRouter}]), static_cast<int64_t>(count));
      int64_t up = 0, down = 0;
      for (int64_t expert = 0; expert < 4; ++expert) {
        up += watcher.rows[{layer, LinearRole::kGateUp, expert}];
        down += watcher.rows[{layer, LinearRole::kDown, expert}];
      }
      EXPECT_EQ(up, static_cast<int64_t>(2 * count));
      EXPECT_EQ(down, static_cast<int64_t>(2 * count));
    }
  }
}

TEST(Passes, AnObserverMayChangeWhatAProductGives) {
  RandomModel random(kDense);
  const Model model = Model::load(random.folder.path());
  const std::vector<int32_t> tokens = random.tokens(20);
  const std::span<const int32_t> sequences[] = {tokens};
  const std::vector<float> plain = run(model, sequences, nullptr);
  for (const LinearRole role :
       {LinearRole::kQueryKeyValue, LinearRole::kOutput, LinearRole::kGateUp, LinearRole::kDown}) {
    Watcher watcher;
    watcher.changed = {1, role};
    watcher.by = 1;
    EXPECT_NE(run(model, sequences, &watcher), plain) << static_cast<int>(role);
  }
}

TEST(Passes, WantedLogitsAreComputedAndNoOthers) {
  RandomModel random(kDense);
  const Model model = Model::load(random.folder.path());
  const std::vector<int32_t> tokens = random.tokens(30);
  const SessionOptions exact{.precision = Precision::kF32};
  Session none(model, exact), last(model, exact), all(model, exact);
  const BatchEntry entries[] = {{&none, tokens, WantedLogits::kNone},
                                {&last, tokens, WantedLogits::kLast},
                                {&all, tokens, WantedLogits::kAll}};
  std::map<size_t, std::vector<int64_t>> visited;
  forward_batch(
      entries, [&](size_t entry, int64_t index, std::span<const float>) { visited[entry].push_back(index); });
  EXPECT_EQ(visited.count(0), 0u);
  EXPECT_EQ(visited[1], std::vector<int64_t>{29});
  EXPECT_EQ(visited[2].size(), 30u);
  EXPECT_TRUE(none.logits().empty());
  EXPECT_EQ(none.position(), 30);
  for (size_t i = 0; i < all.logits().size(); ++i) EXPECT_NEAR(last.logits()[i], all.logits()[i], 1e-4) << i;
}

// Pieces that are multiples of 64 tokens give the bits of the whole.
TEST(Passes, ChunksOf64TokensGiveTheBitsOfTheWhole) {
  RandomModel random(kDense);
  ModelOptions options;
  options.quantize = make_codebook("nf4");
  const Model model = Model::load(random.folder.path(), options);
  const std::vector<int32_t> tokens = random.tokens(300);
  for (const Precision precision : {Precision::kInt8, Precision::kBF16, Precision::kF32}) {
    Session whole(model, {.precision = precision});
    const std::span<const float> wanted = whole.prefill(tokens);
    const std::vector<float> expected(wanted.begin(), wanted.end());
    for (const size_t piece : {64u, 128u, 192u}) {
      Session session(model, {.precision = precision});
      for (size_t at = 0; at < tokens.size(); at += piece)
        session.prefill(std::span(tokens).subspan(at, std::min(piece, tokens.size() - at)));
      EXPECT_TRUE(std::equal(expected.begin(), expected.end(), session.logits().begin()))
          << piece << " " << static_cast<int>(precision);
    }
  }
}

// In int8 a sequence's logits are the same to the last bit whatever else is in its batches, and however its
// prompt is cut.
TEST(Passes, AnyCompanyGivesTheSameBits) {
  for (const char* config : {kDense, kMixture}) {
    RandomModel random(config);
    ModelOptions options;
    options.quantize = make_codebook("nf4");
    options.precision = Precision::kInt8;
    const Model model = Model::load(random.folder.path(), options);
    const std::vector<int32_t> tokens = random.tokens(400);
    const auto prompt = [&](size_t i) { return std::span(tokens).subspan(i, 1 + i * 11 % 70); };
    const auto copy = [](std::span<const float> values) {
      return std::vector<float>(values.begin(), values.end());
    };
    std::vector<std::vector<float>> alone;
    for (size_t i = 0; i < 32; ++i) {
      Session session(model);
      session.prefill(prompt(i));
      alone.push_back(copy(session.logits()));
      for (int32_t step = 0; step < 3; ++step) alone.push_back(copy(session.decode(step)));
    }
    for (const size_t count : {2u, 8u, 12u, 32u}) {
      std::vector<Session> sessions;
      std::vector<BatchEntry> entries;
      for (size_t i = 0; i < count; ++i) sessions.emplace_back(model);
      for (size_t i = 0; i < count; ++i) entries.push_back({&sessions[i], prompt(i)});
      forward_batch(entries);
      for (int32_t step = 0; step < 4; ++step) {
        for (size_t i = 0; i < count; ++i)
          ASSERT_EQ(copy(sessions[i].logits()), alone[4 * i + static_cast<size_t>(step)])
              << count << " sequences, number " << i << ", step " << step;
        for (BatchEntry& entry : entries) entry.tokens = {&step, 1};
        forward_batch(entries);
      }
    }
    for (const size_t piece : {1u, 3u, 17u}) {
      Session session(model);
      const auto whole = prompt(31);
      for (size_t at = 0; at < whole.size(); at += piece)
        session.prefill(whole.subspan(at, std::min(piece, whole.size() - at)));
      EXPECT_EQ(copy(session.logits()), alone[4 * 31]) << "pieces of " << piece;
    }
  }
}

TEST(Passes, SequencesAreChecked) {
  RandomModel random(kDense);
  const Model model = Model::load(random.folder.path());
  const auto none = [](size_t, int64_t, std::span<const float>) {};
  const std::vector<int32_t> good = random.tokens(5), empty, bad{1, 61}, negative{-1};
  const std::vector<int32_t> long_one(701, 1);
  for (const auto* wrong : {&empty, &bad, &negative, &long_one}) {
    const std::span<const int32_t> sequences[] = {good, *wrong};
    try {
      forward_sequences(model, sequences, {}, none);
      ADD_FAILURE() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      EXPECT_NE(std::string(error.what()).find("sequence 1"), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace nfloat
