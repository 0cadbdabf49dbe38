// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "base/parallel.h"
#include "nfloat/model.h"
#include "random_model.h"

namespace nfloat {
namespace {

using testing::RandomModel;

constexpr const char* kConfig = R"({"model_type": "llama", "hidden_size": 64, "intermediate_size": 96,
  "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 61,
  "max_position_embeddings": 128, "tie_word_embeddings": false})";

// The logits of all passes: a prompt of 24 tokens, then one token at a time.
std::vector<float> all_logits(const Model& model, const std::vector<int32_t>& tokens, int threads) {
  constexpr size_t kPrompt = 24;
  Session session(model, {.context = 128, .threads = threads});
  const std::span<const float> first = session.prefill(std::span(tokens).first(kPrompt));
  std::vector<float> all(first.begin(), first.end());
  for (size_t i = kPrompt; i < tokens.size(); ++i) {
    const std::span<const float> next = session.decode(tokens[i]);
    all.insert(all.end(), next.begin(), next.end());
  }
  return all;
}

class ConcurrentSessions : public ::testing::TestWithParam<Precision> {
 protected:
  Model load() const {
    ModelOptions options;
    options.precision = GetParam();
    return Model::load(random_.folder.path(), options);
  }

  RandomModel random_{kConfig};
};

TEST_P(ConcurrentSessions, GiveTheBitsOfASessionAlone) {
  constexpr size_t kSessions = 4;
  const Model model = load(), other = load();
  std::vector<std::vector<int32_t>> tokens;
  std::vector<std::vector<float>> alone, together(kSessions);
  for (size_t i = 0; i < kSessions; ++i) {
    tokens.push_back(random_.tokens(60 + static_cast<int64_t>(i)));
    alone.push_back(all_logits(model, tokens[i], 2));
  }
  // Two sessions share each model.
  std::vector<std::thread> runners;
  for (size_t i = 0; i < kSessions; ++i)
    runners.emplace_back([&, i] { together[i] = all_logits(i % 2 == 0 ? model : other, tokens[i], 2); });
  for (std::thread& runner : runners) runner.join();
  for (size_t i = 0; i < kSessions; ++i) EXPECT_EQ(together[i], alone[i]) << i;
}

TEST_P(ConcurrentSessions, RunDuringALoopOfAnotherThread) {
  const Model model = load();
  const std::vector<int32_t> tokens = random_.tokens(60);
  const std::vector<float> alone = all_logits(model, tokens, 2);
  std::atomic<bool> begun = false, release = false;
  std::thread other([&] {
    parallel_for(2, 1, 2, [&](int64_t, int64_t) {
      begun = true;
      begun.notify_all();
      release.wait(false);
    });
  });
  begun.wait(false);
  EXPECT_EQ(all_logits(model, tokens, 2), alone);
  release = true;
  release.notify_all();
  other.join();
}

INSTANTIATE_TEST_SUITE_P(Precisions, ConcurrentSessions,
                         ::testing::Values(Precision::kF32, Precision::kBF16, Precision::kInt8));

}  // namespace
}  // namespace nfloat
