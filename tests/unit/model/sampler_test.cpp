// SPDX-License-Identifier: Apache-2.0
#include "nfloat/sampler.h"
#include "nfloat/generate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <random>

#include "nfloat/error.h"

namespace nfloat {
namespace {

constexpr int kDraws = 20000;

// Shares of the tokens among many draws.
std::map<int32_t, double> shares(const std::vector<float>& logits, const SamplerOptions& options,
                                 const std::vector<int32_t>& history = {}) {
  Sampler sampler(options);
  std::map<int32_t, double> result;
  for (int i = 0; i < kDraws; ++i) result[sampler.sample(logits, history)] += 1.0 / kDraws;
  return result;
}

std::vector<float> logits_of(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  for (double p : probabilities) logits.push_back(static_cast<float>(std::log(p)) + 3);
  return logits;
}

// Four standard deviations of a share.
double tolerance(double p) {
  return 4 * std::sqrt(p * (1 - p) / kDraws) + 1e-9;
}

void expect_shares(const std::map<int32_t, double>& found, const std::map<int32_t, double>& expected) {
  for (const auto& [token, share] : found) EXPECT_TRUE(expected.contains(token)) << token << " drawn";
  for (const auto& [token, p] : expected) {
    ASSERT_TRUE(found.contains(token)) << token << " never drawn";
    EXPECT_NEAR(found.at(token), p, tolerance(p)) << token;
  }
}

const std::vector<double> kProbabilities{.1, .4, .2, .05, .25};

TEST(Sampler, FollowsTheDistribution) {
  expect_shares(shares(logits_of(kProbabilities), {}), {{0, .1}, {1, .4}, {2, .2}, {3, .05}, {4, .25}});
}
TEST(Sampler, Temperature) {
  // Squares of the probabilities, normalised: their sum is .2750.
  expect_shares(shares(logits_of(kProbabilities), {.temperature = .5f}),
                {{0, .01 / .275}, {1, .16 / .275}, {2, .04 / .275}, {3, .0025 / .275}, {4, .0625 / .275}});
}
TEST(Sampler, TopK) {
  expect_shares(shares(logits_of(kProbabilities), {.top_k = 2}), {{1, .4 / .65}, {4, .25 / .65}});
}
TEST(Sampler, TopP) {  // .4 + .25 < .7: the third is needed
  expect_shares(shares(logits_of(kProbabilities), {.top_p = .7f}),
                {{1, .4 / .85}, {4, .25 / .85}, {2, .2 / .85}});
}
TEST(Sampler, MinP) {  // at least .24 of the largest: .096
  expect_shares(shares(logits_of(kProbabilities), {.min_p = .24f}),
                {{0, .1 / .95}, {1, .4 / .95}, {2, .2 / .95}, {4, .25 / .95}});
}
TEST(Sampler, RepetitionPenalty) {
  // Logits 2 and 1 with the first seen and divided by 2: equal. A negative one is multiplied.
  expect_shares(shares({2, 1}, {.repetition_penalty = 2}, {0, 0}), {{0, .5}, {1, .5}});
  const double odds = std::exp(-1.0);
  expect_shares(shares({-1, -1}, {.repetition_penalty = 2}, {1}),
                {{0, 1 / (1 + odds)}, {1, odds / (1 + odds)}});
}

TEST(Sampler, GreedyTakesTheLowestOfEquals) {
  Sampler sampler({.temperature = 0});
  EXPECT_EQ(sampler.sample(std::vector<float>{1, 5, 5, 2}, {}), 1);
  EXPECT_EQ(most_likely(std::vector<float>{1, 5, 5, 2}), 1);
}

TEST(Sampler, SameSeedSameTokens) {
  const std::vector<float> logits = logits_of(kProbabilities);
  Sampler a({.seed = 9}), b({.seed = 9}), c({.seed = 10});
  int differ = 0;
  for (int i = 0; i < 100; ++i) {
    const int32_t token = a.sample(logits, {});
    EXPECT_EQ(token, b.sample(logits, {}));
    differ += token != c.sample(logits, {});
  }
  EXPECT_GT(differ, 20);
}

// What a draw is, all of the vocabulary sorted.
int32_t drawn(const std::vector<float>& logits, const SamplerOptions& options, std::mt19937_64& generator) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto logit = [&](int32_t token) { return logits[static_cast<size_t>(token)]; };
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return logit(a) > logit(b); });
  if (options.top_k > 0) order.resize(std::min(order.size(), static_cast<size_t>(options.top_k)));
  std::vector<double> weights;
  for (const int32_t token : order)
    weights.push_back(std::exp((static_cast<double>(logit(token)) - logit(order[0])) / options.temperature));
  const double all = std::accumulate(weights.begin(), weights.end(), 0.0);
  size_t kept = 0;
  for (double reached = 0; kept < weights.size() && reached < options.top_p * all;)
    reached += weights[kept++];
  while (kept > 1 && weights[kept - 1] < options.min_p) --kept;
  const double total =
      std::accumulate(weights.begin(), weights.begin() + static_cast<std::ptrdiff_t>(kept), 0.0);
  double left = static_cast<double>(generator() >> 11) * 0x1p-53 * total;
  for (size_t i = 0; i < kept; ++i)
    if ((left -= weights[i]) < 0) return order[i];
  return order[kept - 1];
}

TEST(Sampler, LongVocabulariesAreDrawnAsIfSorted) {
  std::mt19937 random(5);
  for (const float spread :
       {0.01f, 1.0f, 6.0f})  // nearly flat, as random weights give, as a trained model gives
    for (const size_t size : {1u, 63u, 64u, 65u, 321u, 5000u}) {
      std::normal_distribution<float> normal(0, spread);
      for (const SamplerOptions& options :
           {SamplerOptions{.seed = 3}, SamplerOptions{.temperature = 0.6f, .top_p = 0.9f, .seed = 4},
            SamplerOptions{.temperature = 1.7f, .top_k = 300, .min_p = 0.02f, .seed = 5},
            SamplerOptions{.top_k = 50, .top_p = 0.95f, .min_p = 0.1f, .seed = 6}}) {
        Sampler sampler(options);
        std::mt19937_64 generator(options.seed);
        for (int draw = 0; draw < 20; ++draw) {
          std::vector<float> logits(size);
          for (float& logit : logits) logit = normal(random);
          if (size > 100) logits[size - 2] = logits[7];  // equals
          ASSERT_EQ(sampler.sample(logits, {}), drawn(logits, options, generator))
              << size << " by " << spread;
        }
      }
    }
}

TEST(Sampler, NumbersThatAreNone) {
  for (const float temperature : {0.0f, 1.0f}) {
    Sampler sampler({.temperature = temperature});
    EXPECT_EQ(sampler.sample(std::vector<float>{NAN, 3, NAN}, {}), 1);
    EXPECT_EQ(sampler.sample(std::vector<float>{NAN, -INFINITY, -INFINITY}, {}), 1);
    EXPECT_THROW(sampler.sample(std::vector<float>{NAN, NAN}, {}), Error);
    std::vector<float> many(100, NAN);
    many[40] = many[41] = -2;
    const int32_t drawn = sampler.sample(many, {});
    EXPECT_TRUE(drawn == 40 || (temperature > 0 && drawn == 41));
  }
}

// What decides is enough, whatever else is left of the logits.
TEST(Sampler, TheRestMayBeNone) {
  std::mt19937 random(5);
  for (const SamplerOptions& options :
       std::vector<SamplerOptions>{{.temperature = 0},
                                   {.top_k = 1},
                                   {.top_k = 7, .seed = 3},
                                   {.top_k = 40, .top_p = .7f, .seed = 4},
                                   {.temperature = 3, .top_k = 256, .seed = 5},
                                   {.top_k = 20, .top_p = .9f, .min_p = .1f}}) {
    Sampler whole(options), best(options);
    const auto decisive = static_cast<size_t>(whole.decisive());
    ASSERT_EQ(decisive, options.temperature == 0 ? 1u : static_cast<size_t>(options.top_k));
    for (int draw = 0; draw < 200; ++draw) {
      std::vector<float> logits(1000);  // many are equal
      for (float& logit : logits) logit = static_cast<float>(random() % 97) / 8;
      std::vector<size_t> order(logits.size());
      std::iota(order.begin(), order.end(), size_t{0});
      std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return logits[a] > logits[b]; });
      std::vector<float> left(logits.size(), std::numeric_limits<float>::quiet_NaN());
      // A rank may bring more than what decides.
      for (size_t i = 0; i < decisive + static_cast<size_t>(draw % 3); ++i) left[order[i]] = logits[order[i]];
      ASSERT_EQ(whole.sample(logits, {}), best.sample(left, {})) << draw;
    }
  }
  for (const SamplerOptions& options : std::vector<SamplerOptions>{{},
                                                                   {.top_p = .5f},
                                                                   {.top_k = 257},
                                                                   {.top_k = 5, .repetition_penalty = 1.1f},
                                                                   {.temperature = 0, .presence_penalty = 1},
                                                                   {.temperature = 0, .bias = {{3, 1.0f}}},
                                                                   {.temperature = 0, .suppressed = {3}},
                                                                   {.temperature = 0, .no_repeat_ngram = 3}})
    EXPECT_EQ(Sampler(options).decisive(), 0);
}

TEST(Sampler, OptionsOutOfRange) {
  EXPECT_THROW(Sampler({.temperature = -1}), Error);
  EXPECT_THROW(Sampler({.temperature = NAN}), Error);
  EXPECT_THROW(Sampler({.top_k = -1}), Error);
  EXPECT_THROW(Sampler({.top_p = 0}), Error);
  EXPECT_THROW(Sampler({.min_p = 1.5f}), Error);
  EXPECT_THROW(Sampler({.repetition_penalty = 0}), Error);
}

TEST(Sampler, LeavesOutWhatMayNotComeNow) {
  const std::vector<float> logits{1, 5, 4, 3, 2};
  const auto choose = [&](const SamplerOptions& options, std::vector<int32_t> history, int64_t prompt) {
    return Sampler(options).sample(logits, history, {.prompt_tokens = prompt});
  };
  const SamplerOptions first{.temperature = 0, .begin_suppressed = {1}};
  EXPECT_EQ(choose(first, {0, 3}, 2), 2);
  EXPECT_EQ(choose(first, {0, 3}, 1), 1) << "not the first behind the prompt";

  const SamplerOptions words{.temperature = 0, .forbidden_sequences = {{0, 3, 1}, {3, 2}}};
  EXPECT_EQ(choose(words, {0, 3}, 2), 3) << "both end in 3";
  EXPECT_EQ(choose(words, {3}, 0), 1) << "the history is shorter than the sequence";
  EXPECT_EQ(choose(words, {3, 0}, 0), 1);

  const SamplerOptions pairs{.temperature = 0, .no_repeat_ngram = 2};
  EXPECT_EQ(choose(pairs, {3, 1, 3, 2, 3}, 2), 3) << "3 1 and 3 2 have been";
  EXPECT_EQ(choose(pairs, {1}, 1), 1);
  EXPECT_EQ(choose(pairs, {}, 0), 1);
  EXPECT_EQ(choose({.temperature = 0, .no_repeat_ngram = 3}, {3, 1, 3, 1}, 0), 1) << "3 1 3 only";
  EXPECT_EQ(choose({.temperature = 0, .no_repeat_ngram = 1}, {1, 2, 0}, 0), 3);
  EXPECT_THROW(choose({.temperature = 0, .no_repeat_ngram = 1}, {1, 2, 0, 3, 4}, 0), Error);
  EXPECT_THROW(Sampler({.no_repeat_ngram = -1}), Error);
}

TEST(Sampler, LogProbabilities) {
  const std::vector<float> logits = logits_of(kProbabilities);
  EXPECT_NEAR(log_probability(logits, 2), std::log(.2), 1e-6);
  const auto top = most_likely(logits, 3);
  ASSERT_EQ(top.size(), 3u);
  EXPECT_EQ(top[1].token, 4);
  EXPECT_NEAR(top[1].log_probability, std::log(.25), 1e-6);
  EXPECT_EQ(most_likely(logits, 100).size(), logits.size());
}

TEST(GenerationConfig, ReadsWhatIsThere) {
  ModelConfig config;
  config.vocabulary = 100;
  std::vector<int32_t> ends{7};
  const SamplerOptions found = parse_generation_config(
      R"({"do_sample": true, "temperature": 0.6, "top_p": 0.9, "eos_token_id": [1, 2]})", "g.json", config,
      &ends);
  EXPECT_FLOAT_EQ(found.temperature, .6f);
  EXPECT_FLOAT_EQ(found.top_p, .9f);
  EXPECT_EQ(ends, (std::vector<int32_t>{1, 2}));
  EXPECT_EQ(parse_generation_config(R"({"temperature": 0.6})", "g.json", config, &ends).temperature, 0)
      << "no do_sample";
  EXPECT_EQ(parse_generation_config("", "g.json", config, &ends).temperature, 0);
  EXPECT_THROW(parse_generation_config(R"({"top_p": "high"})", "g.json", config, nullptr), Error);
  EXPECT_THROW(parse_generation_config(R"({"eos_token_id": 100})", "g.json", config, &ends), Error);
  EXPECT_THROW(parse_generation_config("[", "g.json", config, nullptr), Error);
}

TEST(GenerationConfig, NamesWhatIsNotObeyedOrNotKnown) {
  ModelConfig config;
  config.vocabulary = 10;
  const auto names = [&](const char* text) {
    std::vector<std::string> found;
    parse_generation_config(text, "g.json", config, nullptr, &found);
    return found;
  };
  EXPECT_EQ(names(R"({"penalty_alpha": 0.6, "do_sample": true, "typical_p": 0.9, "top_h": 0.3, "num_beams": 4,
                      "max_time": 2.5, "token_healing": true, "constraints": [[1]], "forced_eos_token_id": 3,
                      "sequence_bias": {"a": 1}, "a_setting_of_next_year": "on", "num_return_sequences": 2})"),
            (std::vector<std::string>{"penalty_alpha", "typical_p", "top_h", "num_beams", "max_time",
                                      "token_healing", "constraints", "forced_eos_token_id", "sequence_bias",
                                      "a_setting_of_next_year", "num_return_sequences"}));
  EXPECT_EQ(names(R"({"penalty_alpha": null, "typical_p": 0.9, "num_beams": 1, "token_healing": false,
                      "constraints": [], "forced_eos_token_id": -1, "a_setting_of_next_year": "",
                      "another": 0, "max_new_tokens": 20, "max_length": 4096, "use_cache": true, "bos_token_id": 1,
                      "pad_token_id": 0, "transformers_version": "4.57.0", "_from_model_config": true,
                      "length_penalty": 0.5, "min_p": 0.1, "guidance_scale": 1.0})"),
            std::vector<std::string>{});
}

TEST(GenerationConfig, LimitsOfLengthAreObeyed) {
  ModelConfig config;
  config.vocabulary = 10;
  const auto limit = [&](const char* text, int64_t prompt) {
    return answer_limit(parse_generation_config(text, "g.json", config, nullptr), prompt, 128);
  };
  EXPECT_EQ(limit("{}", 50), 128);
  EXPECT_EQ(limit(R"({"max_new_tokens": 7})", 50), 7);
  EXPECT_EQ(limit(R"({"max_new_tokens": 700, "max_length": 60})", 50), 700)
      << "the newer setting comes first";
  EXPECT_EQ(limit(R"({"max_length": 60})", 50), 10);
  EXPECT_EQ(limit(R"({"max_length": 4096, "max_new_tokens": null})", 50), 128);
  EXPECT_THROW(limit(R"({"max_length": 50})", 50), Error);
  EXPECT_THROW(limit(R"({"max_length": "long"})", 50), Error);
  EXPECT_THROW(limit(R"({"max_new_tokens": -1})", 50), Error);
}

TEST(GenerationConfig, ObeysOrNamesWhatChangesTheText) {
  ModelConfig config;
  config.vocabulary = 10;
  std::vector<int32_t> ends{9};
  std::vector<std::string> names;
  const SamplerOptions found = parse_generation_config(
      R"({"do_sample": true, "top_k": -1, "top_p": 0.0, "eos_token_id": [-1, 4], "suppress_tokens": [2],
          "bad_words_ids": [[3], [5, 6], [4]], "no_repeat_ngram_size": 3, "num_beams": 1, "guidance_scale": null,
          "begin_suppress_tokens": [7], "stop_strings": ["\n\n", "END"], "min_new_tokens": 4})",
      "g.json", config, &ends, &names);
  EXPECT_EQ(ends, std::vector<int32_t>{4});
  EXPECT_EQ(found.suppressed, (std::vector<int32_t>{3, 2}));
  EXPECT_EQ(found.begin_suppressed, std::vector<int32_t>{7});
  EXPECT_EQ(found.forbidden_sequences, (std::vector<std::vector<int32_t>>{{5, 6}}));
  EXPECT_EQ(found.no_repeat_ngram, 3);
  EXPECT_EQ(found.stops, (std::vector<std::string>{"\n\n", "END"}));
  EXPECT_EQ(parse_generation_config(R"({"stop_strings": "END"})", "g.json", config, nullptr).stops,
            std::vector<std::string>{"END"});
  EXPECT_THROW(parse_generation_config(R"({"stop_strings": [3]})", "g.json", config, nullptr), Error);
  EXPECT_THROW(parse_generation_config(R"({"bad_words_ids": [[99]]})", "g.json", config, nullptr), Error);
  EXPECT_EQ(names, std::vector<std::string>{"min_new_tokens"});
  Sampler sampler(found);
  EXPECT_EQ(sampler.sample(std::vector<float>{0, 1, 9, 8, 2}, {}), 4);
  EXPECT_EQ(parse_generation_config(R"({"top_k": 40.5})", "g.json", config, nullptr).temperature, 0);
  EXPECT_THROW(parse_generation_config(R"({"do_sample": true, "top_k": 40.5})", "g.json", config, nullptr),
               Error);
}

}  // namespace
}  // namespace nfloat
