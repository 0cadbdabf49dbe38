// SPDX-License-Identifier: Apache-2.0
#include "nfloat/engine.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <thread>

#include "base/fail.h"
#include "engine/linear_id.h"
#include "nfloat/error.h"
#include "nfloat/synthetic.h"
#include "support/paths.h"

namespace nfloat {
namespace {

const std::string& folder() {
  static const std::string path = testing::source_path("/models/nfloat-tiny");
  return path;
}

class Engines : public ::testing::Test {
 protected:
  static const Model& model() {
    static const Model loaded = Model::load(
        folder(), {.quantize = make_codebook("nf4"), .precision = Precision::kInt8, .threads = 1});
    return loaded;
  }
  static const Tokenizer& tokenizer() {
    static const Tokenizer loaded = Tokenizer::load(folder());
    return loaded;
  }
  static std::vector<int32_t> prompt(const std::string& text) { return tokenizer().encode(text); }

  struct Choice {
    std::string text;
    std::vector<int32_t> tokens;
    std::optional<FinishReason> finish;
  };
  struct Outcome {
    std::map<int, Choice> choices;
    EngineUsage usage;
    std::vector<PromptScore> scores;
    std::string error;
    bool done = false;
  };

  EngineOptions options(EngineOptions given = {}) {
    given.clock = [this] { return now_; };
    given.events = [this](std::span<const EngineEvent> events) {
      now_ += 0.01;
      for (const EngineEvent& event : events) {
        Outcome& outcome = outcomes_[event.request];
        EXPECT_FALSE(outcome.done) << "events after the last";
        Choice& choice = outcome.choices[event.choice];
        choice.text += event.piece.text;
        if (event.piece.token >= 0) choice.tokens.push_back(event.piece.token);
        if (event.finish) choice.finish = event.finish;
        if (!event.scores.empty()) outcome.scores = event.scores;
        if (!event.done) continue;
        outcome.done = true;
        outcome.usage = event.usage;
        outcome.error = event.error;
      }
    };
    return given;
  }
  static EngineRequest request(const std::string& text, int64_t tokens = 16, uint64_t seed = 0) {
    EngineRequest result;
    result.prompt = prompt(text);
    result.sampler = {.temperature = seed == 0 ? 0.0F : 1.0F, .seed = seed};
    result.generation.max_tokens = tokens;
    return result;
  }
  Outcome alone(const EngineRequest& request) {
    Engine engine(model(), tokenizer(), options());
    const uint64_t number = engine.submit(request).value();
    while (engine.step()) {
    }
    Outcome result = outcomes_[number];
    outcomes_.clear();
    return result;
  }

  double now_ = 0;
  std::map<uint64_t, Outcome> outcomes_;
};

const std::vector<std::string> kPrompts{"Once upon a time", "The king",         "In the morning",
                                        "My dear",          "She was",          "Nobody knew",
                                        "The old house",    "It rained all day"};

TEST_F(Engines, TheTokensAreThoseOfTheSequenceAlone) {
  Engine engine(model(), tokenizer(), options());
  std::vector<Outcome> single;
  for (size_t i = 0; i < kPrompts.size(); ++i) single.push_back(alone(request(kPrompts[i], 24, i)));
  std::vector<uint64_t> numbers;
  for (size_t i = 0; i < kPrompts.size(); ++i) {
    numbers.push_back(engine.submit(request(kPrompts[i], 24, i)).value());
    engine.step();  // they join one after the other
  }
  while (engine.step()) {
  }
  for (size_t i = 0; i < kPrompts.size(); ++i) {
    EXPECT_TRUE(outcomes_[numbers[i]].done);
    EXPECT_EQ(outcomes_[numbers[i]].choices[0].tokens, single[i].choices[0].tokens) << kPrompts[i];
    EXPECT_EQ(outcomes_[numbers[i]].choices[0].text, single[i].choices[0].text);
  }
  EXPECT_EQ(engine.statistics().running, 0);
  EXPECT_EQ(engine.statistics().finished, kPrompts.size());
}

TEST_F(Engines, EqualTheGeneration) {
  TokenSequence sequence(Session(model(), {.context = 128}));
  Sampler sampler({.temperature = 1, .seed = 5});
  Generation generation(sequence, tokenizer(), sampler, prompt(kPrompts[0]), {.max_tokens = 30});
  while (generation.next()) {
  }
  const std::vector<int32_t> expected(generation.generated().begin(), generation.generated().end());
  EXPECT_EQ(alone(request(kPrompts[0], 30, 5)).choices[0].tokens, expected);
}

TEST_F(Engines, ASharedBeginningIsReadOnce) {
  std::string text;
  for (int i = 0; i < 12; ++i) text += "The old lighthouse stood on the farthest end of the point. ";
  const auto length = static_cast<int64_t>(prompt(text).size());
  ASSERT_GT(length, 100);
  const Outcome single = alone(request(text, 8));
  Engine engine(model(), tokenizer(), options());
  std::vector<uint64_t> numbers;
  for (int i = 0; i < 8; ++i) numbers.push_back(engine.submit(request(text, 8)).value());
  while (engine.step()) {
  }
  int64_t read = 0;
  for (const uint64_t number : numbers) {
    EXPECT_EQ(outcomes_[number].choices[0].tokens, single.choices.at(0).tokens);
    read += length - outcomes_[number].usage.cached_tokens;
  }
  EXPECT_LE(read, length + 8 * 2) << "eight equal prompts at once";
  // A later one finds it too, and a conversation that goes on.
  const uint64_t later = engine.submit(request(text + " And then", 4)).value();
  while (engine.step()) {
  }
  EXPECT_GE(outcomes_[later].usage.cached_tokens, length - 2);
}

TEST_F(Engines, ChoicesShareThePromptAndDiffer) {
  EngineRequest several = request(kPrompts[0], 12, 3);
  several.choices = 3;
  const Outcome found = alone(several);
  ASSERT_EQ(found.choices.size(), 3u);
  EXPECT_NE(found.choices.at(0).tokens, found.choices.at(1).tokens);
  EXPECT_EQ(found.choices.at(0).tokens, alone(request(kPrompts[0], 12, 3)).choices.at(0).tokens);
  EXPECT_EQ(found.usage.completion_tokens, 36);
  EXPECT_EQ(found.usage.prompt_tokens, static_cast<int64_t>(prompt(kPrompts[0]).size()));
}

TEST_F(Engines, WhoDoesNotFitWaitsAndLosesNothing) {
  std::vector<Outcome> single;
  for (size_t i = 0; i < 4; ++i) single.push_back(alone(request(kPrompts[i], 200, i + 1)));
  // Room for one full context, so that four sequences of two pages each do not fit together.
  EngineOptions tight{.streams = 4, .context = 256};
  tight.kv_bytes = kv_cache_bytes(model().config(), KvCacheType::kF16, 256 + 128);
  Engine engine(model(), tokenizer(), options(tight));
  std::vector<uint64_t> numbers;
  for (size_t i = 0; i < 4; ++i) numbers.push_back(engine.submit(request(kPrompts[i], 200, i + 1)).value());
  while (engine.step()) EXPECT_LE(engine.statistics().kv_bytes_used, tight.kv_bytes);
  EXPECT_GT(engine.statistics().preempted, 0u);
  for (size_t i = 0; i < 4; ++i) {
    EXPECT_TRUE(outcomes_[numbers[i]].done);
    EXPECT_EQ(outcomes_[numbers[i]].choices[0].tokens, single[i].choices[0].tokens) << i;
  }
}

TEST_F(Engines, OthersOfTheModelTakeNothingOfItsMemory) {
  const uint64_t two = 2 * plan_kv(model().config(), Precision::kInt8, {.context = 64}).least_bytes;
  const EngineOptions tight{.streams = 2, .context = 64, .kv_bytes = two};
  Engine first(model(), tokenizer(), options(tight)), second(model(), tokenizer(), options(tight));
  Session session(model());
  session.prefill(prompt("A sequence that has nothing to do with them"));
  for (Engine* engine : {&first, &second, &first}) {
    outcomes_.clear();
    for (const char* text : {"Once upon a time", "The king"}) engine->submit(request(text, 50));
    while (engine->step()) {
    }
    EXPECT_EQ(outcomes_.size(), 2u);
    EXPECT_EQ(engine->statistics().preempted, 0u);
  }
}

TEST_F(Engines, AnUnboundedBudgetKeepsToTheMemoryThereIs) {
  const uint64_t all =
      static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  ModelConfig config = model().config();
  config.context = int64_t{1} << 17;
  const Model large = synthetic_model(config, {.model = {.precision = Precision::kInt8, .threads = 1}});
  const KvPlan plan = plan_kv(config, Precision::kInt8, {.streams = 512});
  const uint64_t limit = Engine(large, tokenizer(), {.streams = 512}).statistics().kv_bytes_limit;
  EXPECT_EQ(plan.bytes, 512 * plan.least_bytes);
  EXPECT_GE(limit, plan.least_bytes);
  EXPECT_LE(limit, std::max(all, plan.least_bytes));
}

TEST_F(Engines, CancelledRequestsEndAtTheNextStepWhereverTheyAre) {
  Engine engine(model(), tokenizer(), options({.streams = 1}));
  const uint64_t running = engine.submit(request(kPrompts[0], 400)).value();
  const uint64_t queued = engine.submit(request(kPrompts[1], 400)).value();
  for (int i = 0; i < 5; ++i) engine.step();
  EXPECT_EQ(engine.statistics().running, 1);
  EXPECT_EQ(engine.statistics().waiting, 1);
  engine.cancel(queued);
  engine.cancel(running);
  engine.cancel(12345);
  EXPECT_FALSE(engine.step());
  EXPECT_EQ(engine.statistics().running + engine.statistics().waiting, 0);
  EXPECT_EQ(engine.statistics().cancelled, 2u);
  EXPECT_FALSE(outcomes_[running].done);
}

TEST_F(Engines, AFullQueueRefuses) {
  Engine engine(model(), tokenizer(), options({.streams = 1, .queue = 2}));
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(engine.submit(request(kPrompts[0], 4)).has_value());
  EXPECT_FALSE(engine.submit(request(kPrompts[0], 4)).has_value());
  while (engine.step()) {
  }
  EXPECT_TRUE(engine.submit(request(kPrompts[0], 4)).has_value());
}

TEST_F(Engines, AShortPromptOvertakesLongOnesAndRunningStreamsGoOn) {
  // Time passes by the tokens of a step: 1 ms a token of a prompt, so that 100 ms hold 64.
  EngineOptions given = options({.streams = 4});
  std::string text;
  for (int i = 0; i < 40; ++i) text += kPrompts[static_cast<size_t>(i) % 8] + ". ";
  given.clock = [this] { return now_ += 0.05; };
  Engine engine(model(), tokenizer(), given);
  const uint64_t running = engine.submit(request(kPrompts[0], 60)).value();
  engine.step();
  const uint64_t long_one = engine.submit(request(text, 4)).value();
  const uint64_t short_one = engine.submit(request(kPrompts[1], 4)).value();
  size_t before = outcomes_[running].choices[0].tokens.size();
  while (!outcomes_[short_one].done && engine.step()) {
    EXPECT_EQ(outcomes_[running].choices[0].tokens.size(), ++before) << "a token in every step";
  }
  EXPECT_TRUE(outcomes_[long_one].choices[0].tokens.empty());
}

TEST_F(Engines, PromptsAreScored) {
  EngineRequest scored = request("The cat sat on the mat", 1);
  scored.score_prompt = true;
  scored.generation.log_probabilities = 2;
  const Outcome found = alone(scored);
  ASSERT_EQ(found.scores.size(), scored.prompt.size() - 1);
  Session session(model(), {.context = 64});
  for (size_t i = 0; i + 1 < scored.prompt.size(); ++i) {
    const std::span<const float> logits = session.decode(scored.prompt[i]);
    EXPECT_NEAR(found.scores[i].log_probability, log_probability(logits, scored.prompt[i + 1]), 1e-4);
    EXPECT_EQ(found.scores[i].most_likely.size(), 2u);
  }
  scored.generation.max_tokens = 0;
  EXPECT_EQ(alone(scored).scores.size(), scored.prompt.size() - 1);
}

TEST_F(Engines, AGrammarBindsItsOwnRequestAlone) {
  Engine engine(model(), tokenizer(), options());
  EngineRequest bound = request(kPrompts[0], 40, 1);
  bound.grammar = Grammar::from_regex("(ab|[0-9]{2,4})x");
  const uint64_t good = engine.submit(bound).value();
  const uint64_t free = engine.submit(request(kPrompts[2], 8)).value();
  while (engine.step()) {
  }
  const std::string& text = outcomes_[good].choices[0].text;
  EXPECT_TRUE(text == "abx" || (text.size() >= 3 && text.size() <= 5 && text.back() == 'x')) << text;
  EXPECT_EQ(outcomes_[good].choices[0].finish, FinishReason::kEndOfText);
  EXPECT_EQ(outcomes_[good].usage.completion_tokens,
            static_cast<int64_t>(outcomes_[good].choices[0].tokens.size()));
  EXPECT_EQ(outcomes_[free].choices[0].tokens.size(), 8u);
  EXPECT_EQ(engine.statistics().running, 0);
}

TEST_F(Engines, RequestsThatCannotBeAreRefused) {
  Engine engine(model(), tokenizer(), options({.streams = 2, .context = 64}));
  EXPECT_THROW(engine.submit({}), Error);
  EngineRequest bad = request("a");
  bad.prompt.assign(64, 5);
  EXPECT_THROW(engine.submit(bad), Error);
  bad.prompt = {1 << 30};
  EXPECT_THROW(engine.submit(bad), Error);
  bad = request("a");
  bad.choices = 3;
  EXPECT_THROW(engine.submit(bad), Error);
  EXPECT_THROW(Engine(model(), tokenizer(), options({.kv_bytes = 1000})), Error);
}

TEST_F(Engines, GuessesChangeNoToken) {
  // The draft is the same model in another rounding, so that some of its guesses are wrong.
  const Model other = Model::load(folder(), {.precision = Precision::kF32, .threads = 1});
  const std::string text =
      "The keeper of the lighthouse lit the lamp. The keeper of the lighthouse rang the bell. The keeper";
  for (const uint64_t seed : {uint64_t{0}, uint64_t{3}}) {
    for (const bool bound : {false, true}) {
      EngineRequest wanted = request(text, 60, seed);
      if (bound)
        wanted.grammar = Grammar::from_json_schema(
            R"({"type": "object", "properties": {"description": {"enum": ["one", "two"]}, "quantity": {"type": "integer"}},
              "required": ["description", "quantity"]})");
      const Outcome plain = alone(wanted);
      for (const bool draft : {false, true}) {
        for (const int company : {0, 1, 5}) {
          EngineOptions given = options();
          if (draft) given.draft = other;
          Engine engine(model(), tokenizer(), given);
          wanted.generation.look_up = 7;
          const uint64_t number = engine.submit(wanted).value();
          for (int i = 0; i < company; ++i) engine.submit(request(kPrompts[static_cast<size_t>(i)], 30, 1));
          while (engine.step()) {
          }
          const Outcome& found = outcomes_[number];
          EXPECT_EQ(found.choices.at(0).tokens, plain.choices.at(0).tokens) << seed << draft << company;
          EXPECT_EQ(found.choices.at(0).text, plain.choices.at(0).text);
          EXPECT_EQ(found.choices.at(0).finish, plain.choices.at(0).finish);
          EXPECT_EQ(found.usage.completion_tokens, plain.usage.completion_tokens);
          EXPECT_LE(engine.statistics().guessed_right, engine.statistics().guessed_tokens);
          EXPECT_TRUE(!draft || company > 0 || engine.statistics().guessed_right > 5);
          EXPECT_TRUE(!bound || company > 0 || engine.statistics().steps < found.choices.at(0).tokens.size());
          outcomes_.clear();
        }
      }
    }
  }
}

TEST_F(Engines, WhatCannotGuessGuessesNothing) {
  const Model broken =
      Model::load(folder(), {.transform = [](const std::string&, std::span<float> weights, int64_t,
                                             int64_t) { std::ranges::fill(weights, std::nanf("")); },
                             .precision = Precision::kF32,
                             .threads = 1});
  EngineOptions given = options();
  given.draft = broken;
  Engine engine(model(), tokenizer(), given);
  EngineRequest bound = request(kPrompts[0], 60);
  // The automaton fails behind a text that is sure.
  bound.grammar = Grammar::from_regex("once upon a time there was a little old man((a?){200}){200}");
  const uint64_t bad = engine.submit(bound).value(), free = engine.submit(request(kPrompts[2], 30)).value();
  while (engine.step()) {
  }
  EXPECT_GT(outcomes_[bad].choices[0].text.size(), 30u);
  EXPECT_NE(outcomes_[bad].error, "");
  EXPECT_EQ(outcomes_[free].error, "");
  EXPECT_EQ(outcomes_[free].choices[0].tokens.size(), 30u);
  EXPECT_EQ(engine.statistics().failed, 1u);
}

TEST_F(Engines, GuessesDriveNoOneOut) {
  EngineRequest wanted = request(kPrompts[0], 200), other = request(kPrompts[1], 200);
  // The text ends shortly before a page does.
  const std::vector<int32_t> whole = alone(wanted).choices[0].tokens;
  const auto begin = static_cast<size_t>(126 - std::ssize(wanted.prompt));
  size_t last = begin;
  while (std::find(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(last), whole[last]) !=
         whole.begin() + static_cast<std::ptrdiff_t>(last))
    --last;
  wanted.generation.end_tokens = {whole[last]};
  SCOPED_TRACE(std::to_string(begin - last));
  EngineOptions tight{.streams = 2, .context = 256};
  tight.kv_bytes = kv_cache_bytes(model().config(), KvCacheType::kF16, 512);
  tight.draft = Model::load(folder(), {.precision = Precision::kF32, .threads = 1});
  Engine engine(model(), tokenizer(), options(tight));
  other.generation.max_tokens = 100;
  engine.submit(wanted);
  engine.submit(other);
  while (engine.step()) {
  }
  EXPECT_GT(engine.statistics().guessed_right, 0u);
  EXPECT_EQ(engine.statistics().preempted, 0u);
}

TEST_F(Engines, DraftsDoNotChangeTheDistribution) {
  EngineOptions given = options();
  given.draft = Model::load(folder(), {.precision = Precision::kF32, .threads = 1});
  Engine engine(model(), tokenizer(), given);
  constexpr size_t kKept = 4;
  EngineRequest wanted = request(kPrompts[0], 4);
  wanted.sampler.temperature = 1.3F;
  wanted.sampler.top_k = kKept;
  std::map<std::vector<int32_t>, std::map<int32_t, int>> third;  // by the two tokens before
  for (uint64_t seed = 1; seed <= 500; ++seed) {
    wanted.sampler.seed = seed;
    const uint64_t number = engine.submit(wanted).value();
    while (engine.step()) {
    }
    const std::vector<int32_t>& tokens = outcomes_[number].choices.at(0).tokens;
    ++third[{tokens[0], tokens[1]}][tokens[2]];
    outcomes_.clear();
  }
  EXPECT_GT(engine.statistics().guessed_right, 100u);
  EXPECT_LT(engine.statistics().guessed_right, engine.statistics().guessed_tokens);
  double chi_square = 0;
  int freedom = 0;
  for (const auto& [before, counts] : third) {
    int total = 0;
    for (const auto& [token, count] : counts) total += count;
    if (total < 40) continue;
    std::vector<int32_t> tokens = wanted.prompt;
    tokens.insert(tokens.end(), before.begin(), before.end());
    Session session(model(), {.context = 64});
    const auto best = most_likely(session.prefill(tokens), kKept);
    double sum = 0;
    for (const TokenProbability& one : best) sum += std::exp(static_cast<double>(one.log_probability) / 1.3);
    for (const TokenProbability& one : best) {
      const double expected = total * std::exp(static_cast<double>(one.log_probability) / 1.3) / sum;
      const auto found = counts.find(one.token);
      const double difference = (found == counts.end() ? 0 : found->second) - expected;
      chi_square += difference * difference / expected;
    }
    freedom += kKept - 1;
  }
  ASSERT_GT(freedom, 6);
  // Mean `freedom`, variance twice that.
  EXPECT_LT(chi_square, freedom + 4 * std::sqrt(2.0 * freedom)) << freedom;
}

// Fails the pass that it is asked to see.
class Failing : public LinearObserver {
 public:
  explicit Failing(ErrorCode code) : code_(code) {}
  void input(const LinearId&, const ActivationRows&) override {}
  void output(const LinearId&, const ActivationRows&, float*, int64_t) override {
    fail(code_, "the card has gone");
  }

 private:
  ErrorCode code_;
};

TEST_F(Engines, ALostDeviceEndsEveryRequestAndTheEngine) {
  Engine engine(model(), tokenizer(), options({.streams = 1}));
  const uint64_t running = engine.submit(request(kPrompts[0], 100)).value();
  for (int i = 0; i < 3; ++i) EXPECT_TRUE(engine.step());
  EngineRequest lost = request(kPrompts[1], 4);
  lost.adapters = std::make_shared<Failing>(ErrorCode::kOutOfMemory);
  const uint64_t small = engine.submit(lost).value();
  engine.cancel(running);
  engine.step();
  EXPECT_EQ(outcomes_[small].error, "the card has gone");
  EXPECT_EQ(engine.failure(), "") << "a step without memory ends its own requests";
  lost.adapters = std::make_shared<Failing>(ErrorCode::kIo);
  const uint64_t first = engine.submit(lost).value();
  const uint64_t second = engine.submit(request(kPrompts[2], 4)).value();
  EXPECT_FALSE(engine.step());
  for (const uint64_t number : {first, second}) {
    EXPECT_TRUE(outcomes_[number].done);
    EXPECT_EQ(outcomes_[number].error, "the card has gone");
  }
  EXPECT_EQ(engine.failure(), "the card has gone");
  EXPECT_EQ(engine.statistics().running + engine.statistics().waiting, 0);
  EXPECT_TRUE(engine.requests().empty());
  EXPECT_THROW(engine.submit(request(kPrompts[3])), Error);
  engine.cancel(first);
  EXPECT_FALSE(engine.step());
}

TEST_F(Engines, TellTheirRequests) {
  using Phase = EngineRequestState::Phase;
  Engine engine(model(), tokenizer(), options({.streams = 2}));
  EngineRequest two = request(kPrompts[0], 200);
  two.choices = 2;
  now_ = 5;
  const uint64_t first = engine.submit(two).value(), second = engine.submit(request(kPrompts[1], 2)).value();
  for (int i = 0; i < 160; ++i) engine.step();
  const std::vector<EngineRequestState> all = engine.requests();
  ASSERT_EQ(all.size(), 2u);
  EXPECT_EQ(all[0].number, first);
  EXPECT_EQ(all[0].phase, Phase::kGenerating);
  EXPECT_NEAR(all[0].submitted, 5, 1e-9);
  // Each of the two is in its second page of 128.
  EXPECT_EQ(engine.statistics().kv_page_tokens, 128);
  EXPECT_EQ(all[0].kv_pages, 4);
  EXPECT_GT(all[0].generated_tokens, 256);
  EXPECT_EQ(all[1].number, second);
  EXPECT_EQ(all[1].phase, Phase::kWaiting);
  EXPECT_EQ(all[1].prompt_tokens, std::ssize(prompt(kPrompts[1])));
  while (engine.step()) {
  }
  EXPECT_TRUE(engine.requests().empty());
}

TEST_F(Engines, AThreadOfItsOwnRunsWhatIsSubmitted) {
  Engine engine(model(), tokenizer(), options());
  engine.start();
  for (size_t i = 0; i < 4; ++i) ASSERT_TRUE(engine.submit(request(kPrompts[i], 8)).has_value());
  while (engine.statistics().finished < 4) std::this_thread::yield();
  engine.stop();
  EXPECT_EQ(outcomes_.size(), 4u);
}

}  // namespace
}  // namespace nfloat
