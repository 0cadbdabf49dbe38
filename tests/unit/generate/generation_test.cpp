// SPDX-License-Identifier: Apache-2.0
#include "nfloat/generate.h"

#include <gtest/gtest.h>

#include "nfloat/conversation.h"
#include "nfloat/error.h"
#include "support/paths.h"

namespace nfloat {
namespace {

const std::string& folder() {
  static const std::string path = testing::source_path("/models/nfloat-tiny");
  return path;
}

class Generations : public ::testing::Test {
 protected:
  static const Model& model() {
    static const Model loaded = Model::load(folder(), {.precision = Precision::kF32, .threads = 1});
    return loaded;
  }
  static const Tokenizer& tokenizer() {
    static const Tokenizer loaded = Tokenizer::load(folder());
    return loaded;
  }
  static std::vector<int32_t> prompt(const std::string& text = "On the farthest end of Gannet Point") {
    return tokenizer().encode(text);
  }
  static Sampler greedy() { return Sampler({.temperature = 0}); }
  static TokenSequence sequence(int64_t context = 128) {
    return TokenSequence(Session(model(), {.context = context}));
  }
  struct Run {
    std::string text;
    std::vector<int32_t> tokens;
    FinishReason reason;
    GenerationCounts counts;
  };
  static Run run(TokenSequence& on, const GenerationOptions& options,
                 const std::function<void(Generation&)>& prepare = nullptr) {
    Sampler sampler = greedy();
    Generation generation(on, tokenizer(), sampler, prompt(), options);
    if (prepare) prepare(generation);
    Run result{};
    while (const auto piece = generation.next()) result.text += piece->text;
    result.tokens.assign(generation.generated().begin(), generation.generated().end());
    result.reason = generation.reason().value();
    result.counts = generation.counts();
    return result;
  }
};

TEST_F(Generations, EqualTheLoopByHand) {
  Session session(model(), {.context = 128});
  std::vector<int32_t> expected;
  std::span<const float> logits = session.prefill(prompt());
  for (int i = 0; i < 20; ++i) {
    expected.push_back(most_likely(logits));
    logits = session.decode(expected.back());
  }
  TokenSequence own = sequence();
  const Run found = run(own, {.max_tokens = 20});
  EXPECT_EQ(found.tokens, expected);
  EXPECT_EQ(found.reason, FinishReason::kTokenLimit);
  EXPECT_EQ(found.counts.generated, 20);
  EXPECT_EQ(found.counts.read, static_cast<int64_t>(prompt().size()));
}

TEST_F(Generations, StopTextsOfTheSamplerEndItToo) {
  TokenSequence own = sequence();
  const std::string whole = run(own, {.max_tokens = 20}).text, stop = whole.substr(whole.size() / 2, 3);
  Sampler sampler({.temperature = 0, .stops = {stop}});
  Generation generation(own, tokenizer(), sampler, prompt(), {.max_tokens = 20, .stops = {"\x01"}});
  std::string text;
  while (const auto piece = generation.next()) text += piece->text;
  EXPECT_EQ(text, whole.substr(0, whole.find(stop)));
  EXPECT_EQ(generation.reason(), FinishReason::kStopText);
}

TEST_F(Generations, APromptThatTheSequenceHoldsIsNotReadAgain) {
  TokenSequence own = sequence();
  const Run first = run(own, {.max_tokens = 12}), again = run(own, {.max_tokens = 12});
  EXPECT_EQ(again.text, first.text);
  EXPECT_EQ(again.counts.read, 1) << "the last token, for its logits";
  EXPECT_EQ(again.counts.reused, static_cast<int64_t>(prompt().size()) - 1);
}

TEST_F(Generations, PiecesOfThePromptChangeNothing) {
  TokenSequence whole = sequence(), pieces = sequence();
  const Run one = run(whole, {.max_tokens = 12});
  const Run other = run(pieces, {.max_tokens = 12}, [](Generation& it) { it.read_in_pieces_of(3); });
  EXPECT_EQ(other.tokens, one.tokens);
}

TEST_F(Generations, EveryReasonToEnd) {
  TokenSequence own = sequence();
  const Run whole = run(own, {.max_tokens = 20});
  const std::string stop = whole.text.substr(9, 5);
  const Run stopped = run(own, {.max_tokens = 20, .stops = {"never", stop}});
  EXPECT_EQ(stopped.reason, FinishReason::kStopText);
  EXPECT_EQ(stopped.text, whole.text.substr(0, whole.text.find(stop)));

  const Run ended = run(own, {.max_tokens = 20, .end_tokens = {whole.tokens[7]}});
  EXPECT_EQ(ended.reason, FinishReason::kEndOfText);
  EXPECT_LE(ended.tokens.size(), 7u);

  // What was held back for a stop text that does not come is part of the text.
  const Run held = run(own, {.max_tokens = 20, .stops = {whole.text.substr(whole.text.size() - 3) + "\1"}});
  EXPECT_EQ(held.text, whole.text);

  const auto room = static_cast<int64_t>(prompt().size()) + 4;
  TokenSequence narrow = sequence(room);
  const Run full = run(narrow, {.max_tokens = 20});
  EXPECT_EQ(full.reason, FinishReason::kContextFull);
  EXPECT_EQ(full.tokens.size(), 5u) << "the last one is chosen, but has no place in the context";

  EXPECT_EQ(run(own, {.max_tokens = 0}).reason, FinishReason::kTokenLimit);
}

TEST_F(Generations, CancellingEndsThePromptOrTheText) {
  TokenSequence own = sequence();
  const Run early = run(own, {.max_tokens = 20}, [](Generation& it) {
    it.read_in_pieces_of(2);
    it.cancel_when([] { return true; });
  });
  EXPECT_EQ(early.reason, FinishReason::kCancelled);
  EXPECT_EQ(early.counts.read, 2);
  EXPECT_EQ(own.session().position(), 2);
  int left = 6;
  const Run late =
      run(own, {.max_tokens = 20}, [&](Generation& it) { it.cancel_when([&] { return --left < 0; }); });
  EXPECT_EQ(late.reason, FinishReason::kCancelled);
  EXPECT_EQ(late.counts.generated, 5);
}

TEST_F(Generations, LogProbabilitiesAreOfTheUnmodifiedLogits) {
  TokenSequence own = sequence();
  Sampler sampler({.temperature = 1.5F, .seed = 3});
  Generation generation(own, tokenizer(), sampler, prompt(), {.max_tokens = 3, .log_probabilities = 4});
  Session session(model(), {.context = 128});
  std::span<const float> logits = session.prefill(prompt());
  while (const auto piece = generation.next()) {
    ASSERT_GE(piece->token, 0);
    EXPECT_DOUBLE_EQ(piece->log_probability, log_probability(logits, piece->token));
    ASSERT_EQ(piece->most_likely.size(), 4u);
    EXPECT_EQ(piece->most_likely[0].token, most_likely(logits));
    logits = session.decode(piece->token);
  }
}

TEST_F(Generations, LookingUpChangesNoToken) {
  const std::vector<int32_t> text = prompt(
      "The old lighthouse stood on the point. The keeper lit the lamp. The old lighthouse stood on the "
      "point. The "
      "keeper");
  for (const float temperature : {0.0F, 0.7F}) {
    std::vector<int32_t> expected;
    for (const int64_t look_up : {0, 1, 5, 7}) {
      for (const int64_t context : {110, 256}) {
        TokenSequence own = sequence(context);
        Sampler sampler({.temperature = temperature, .seed = 9});
        Generation generation(own, tokenizer(), sampler, text, {.max_tokens = 60, .look_up = look_up});
        while (generation.next()) {
        }
        const std::vector<int32_t> found(generation.generated().begin(), generation.generated().end());
        if (expected.empty()) expected.assign(found.begin(), found.end());
        const size_t common = std::min(found.size(), expected.size());
        EXPECT_TRUE(
            std::equal(found.begin(), found.begin() + static_cast<std::ptrdiff_t>(common), expected.begin()))
            << look_up << " at " << temperature;
        if (found.size() > expected.size()) expected = found;
        EXPECT_EQ(generation.counts().generated, static_cast<int64_t>(found.size()));
        EXPECT_LE(own.tokens().size(), text.size() + found.size());
        EXPECT_EQ(static_cast<int64_t>(own.tokens().size()), own.session().position());
        EXPECT_TRUE(look_up == 0 || temperature > 0 || generation.guessed() > 0);
        EXPECT_LE(generation.guessed_right(), generation.guessed());
      }
    }
  }
}

TEST_F(Generations, NothingIsGuessedBeyondTheLimit) {
  // A text of one token over and over, which is found every time.
  std::vector<int32_t> text = prompt("The keeper lit the lamp");
  const int32_t token = text.back();
  text.insert(text.end(), 8, token);
  for (const int64_t limit : {3, 4, 5}) {
    TokenSequence own = sequence();
    Sampler sampler({.temperature = 0, .bias = {{token, 1e4F}}});
    Generation generation(own, tokenizer(), sampler, text, {.max_tokens = limit, .look_up = 7});
    while (generation.next()) {
    }
    // Two tokens come without guesses, and one behind them.
    EXPECT_LE(generation.guessed(), limit - 3);
    EXPECT_TRUE(limit == 3 || generation.guessed() > 0);
  }
}

TEST_F(Generations, PromptsThatCannotBeAreRefused) {
  TokenSequence own = sequence(8);
  Sampler sampler = greedy();
  EXPECT_THROW(Generation(own, tokenizer(), sampler, {}, {}), Error);
  EXPECT_THROW(Generation(own, tokenizer(), sampler, std::vector<int32_t>(9, 5), {}), Error);
}

TEST(StopTexts, TheEarliestCountsAndBeginningsAreHeldBack) {
  StopFilter filter({"abc", "", "cd"});
  EXPECT_EQ(filter.push("xab"), "x");
  EXPECT_EQ(filter.push("d"), "abd");
  EXPECT_EQ(filter.push("zc"), "z");
  EXPECT_FALSE(filter.stopped());
  EXPECT_EQ(filter.push("dabc"), "");
  EXPECT_TRUE(filter.stopped());
  EXPECT_EQ(filter.finish(), "");
  StopFilter open({"abc"});
  EXPECT_EQ(open.push("ab"), "");
  EXPECT_EQ(open.finish(), "ab");
}

TEST(SamplerInputs, MaskBiasAndPenaltiesChangeTheChoice) {
  const std::vector<float> logits{1, 5, 4, 3};
  const std::vector<int32_t> history{1, 2, 2};
  EXPECT_EQ(Sampler({.temperature = 0}).sample(logits, {}), 1);
  const std::vector<uint64_t> allowed{0b1101};
  EXPECT_EQ(Sampler({.temperature = 0}).sample(logits, {}, {.allowed = allowed}), 2);
  EXPECT_EQ(Sampler({.temperature = 0, .bias = {{0, 100.0F}}}).sample(logits, {}), 0);
  // One of the prompt is not counted, two that were generated are.
  const SamplerInput input{.prompt_tokens = 1};
  EXPECT_EQ(Sampler({.temperature = 0, .presence_penalty = 2}).sample(logits, history, input), 1);
  const std::vector<float> close{1, 2, 4, 3};
  EXPECT_EQ(Sampler({.temperature = 0, .presence_penalty = 2}).sample(close, history, input), 3);
  EXPECT_EQ(Sampler({.temperature = 0, .frequency_penalty = 0.4F}).sample(close, history, input), 2);
  EXPECT_EQ(Sampler({.temperature = 0, .frequency_penalty = 0.6F}).sample(close, history, input), 3);
}

TEST(Conversations, GoOnFromTheCacheAndEndBeforeStopTexts) {
  const Model model = Model::load(folder(), {.precision = Precision::kF32, .threads = 1});
  ConversationOptions options;
  options.max_tokens = 12;
  options.sampling.temperature = 0.0F;
  Conversation conversation(model, folder(), options);
  ASSERT_TRUE(conversation.plain());
  const auto ignore = [](const std::string&) {};
  const auto never = [] { return false; };
  const Answer first = conversation.answer("The old lighthouse", ignore, never);
  EXPECT_EQ(first.counts.generated, 12);
  EXPECT_EQ(conversation.used(), first.counts.read + 12);
  EXPECT_EQ(conversation.undo(), "The old lighthouse");

  options.stops = {first.text.substr(6, 4)};
  Conversation stopping(model, folder(), options);
  const Answer stopped = stopping.answer("The old lighthouse", ignore, never);
  EXPECT_EQ(stopped.reason, FinishReason::kStopText);
  EXPECT_EQ(stopped.text, first.text.substr(0, first.text.find(options.stops[0])));
}

}  // namespace
}  // namespace nfloat
