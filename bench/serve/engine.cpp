// SPDX-License-Identifier: Apache-2.0
// The engine without sockets.
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <random>
#include <string>

#include "bench/serve/bench.h"

namespace nfloat::bench {
namespace {

std::vector<EngineRequest> requests(const Setting& setting, int streams) {
  std::vector<EngineRequest> all;
  for (int i = 0; i < streams; ++i)
    all.push_back(some_request(setting, some_prompt(setting, setting.prompt), setting.tokens));
  return all;
}

// Free text, and what a schema asks for: names that are forced, strings and numbers that are not.
constexpr const char* kSchema =
    R"({"type": "array", "minItems": 50, "items": {"type": "object", "properties": {
    "name": {"type": "string", "maxLength": 24}, "kind": {"enum": ["ship", "house", "letter"]},
    "year": {"type": "integer", "minimum": 0, "maximum": 2100}, "seen": {"type": "boolean"},
    "notes": {"type": "array", "items": {"type": "string", "maxLength": 40}, "maxItems": 3}},
    "required": ["name", "kind", "year", "seen", "notes"], "additionalProperties": false}})";
constexpr const char* kText =
    R"({"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]})";
constexpr const char* kPattern =
    R"({"type": "object", "properties": {"id": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{4,8}(/[a-z]+)*$"},
    "when": {"type": "string", "format": "date-time"}, "at": {"type": "number", "minimum": -1.5, "maximum": 90}}})";

}  // namespace

void measure_streams(const Setting& setting) {
  std::map<int, std::vector<double>> steady, whole, steady_ratio, whole_ratio;
  const int most = *std::max_element(setting.streams.begin(), setting.streams.end());
  Runner runner(setting, {.streams = most, .context = setting.prompt + setting.tokens});
  runner.run(requests(setting, 1));
  for (int round = 0; round < setting.rounds; ++round)
    for (const int streams : setting.streams) {
      const std::vector<EngineRequest> asked = requests(setting, streams);
      const Answers read = runner.run(asked);
      whole[streams].push_back(read.tokens() / read.seconds);
      // Once more: the prompts are known, so that all of them begin at once.
      steady[streams].push_back(runner.run(asked).steady_rate());
      if (setting.streams.front() != 1) continue;
      steady_ratio[streams].push_back(steady[streams].back() / steady[1].back());
      whole_ratio[streams].push_back(whole[streams].back() / whole[1].back());
    }
  const std::map<int, std::string> wanted{{2, "1.7"}, {4, "3.0"}, {8, "4.0"}};
  for (const int streams : setting.streams) {
    const std::string name = fmt::format("{} stream{}", streams, streams > 1 ? "s" : "");
    const bool beside = streams > 1 && setting.streams.front() == 1;
    tell(setting, name + ", generation", "tokens/s", steady[streams]);
    if (beside) {
      const auto found = wanted.find(streams);
      tell(setting, name + ", generation, beside one", "x", steady_ratio[streams],
           found == wanted.end() ? "" : found->second);
    }
    tell(setting, fmt::format("{}, prompts of {} included", name, setting.prompt), "tokens/s",
         whole[streams]);
    if (beside) tell(setting, name + ", prompts included, beside one", "x", whole_ratio[streams]);
  }
}

void measure_first_token(const Setting& setting) {
  constexpr int64_t kPrompt = 512;
  Runner runner(setting, {.streams = 8, .context = 1024});
  std::vector<double> cold, cached, ratio;
  for (int round = 0; round < setting.rounds; ++round) {
    const std::vector<int32_t> prompt = some_prompt(setting, kPrompt);
    const auto first = [&] {
      runner.submit(some_request(setting, prompt, 4));
      const Answer answer = runner.finish().of[0];
      return 1e3 * (answer.times[0] - answer.submitted);
    };
    cold.push_back(first());
    cached.push_back(first());
    ratio.push_back(cached.back() / cold.back());
  }
  tell(setting, "first token behind 512 others, not read before", "ms", cold);
  tell(setting, "first token behind 512 others, read before", "ms", cached);
  tell(setting, "read before, beside not", "x", ratio, "at most 0.10");
}

void measure_gap(const Setting& setting) {
  constexpr int64_t kPrompt = 2048;
  Runner runner(setting, {.streams = 8, .context = 4096});
  std::vector<double> longest, usual;
  for (int round = 0; round < setting.rounds; ++round) {
    runner.submit(some_request(setting, some_prompt(setting, 32), 400));
    size_t sent = 0;
    const Answers answers = runner.finish([&] {
      if (sent > 0 || runner.answer(0).times.size() < 10) return;
      for (; sent < 2; ++sent) runner.submit(some_request(setting, some_prompt(setting, kPrompt), 2));
    });
    const std::vector<double>& times = answers.of[0].times;
    std::vector<double> before, during;
    for (size_t i = 1; i < times.size(); ++i)
      (times[i] < answers.of[1].submitted ? before : during).push_back(1e3 * (times[i] - times[i - 1]));
    longest.push_back(*std::max_element(during.begin(), during.end()));
    usual.push_back(median(before));
  }
  tell(setting, "a token of a stream alone", "ms", usual);
  tell(setting, "longest wait for a token while two prompts of 2048 come", "ms", longest, "at most 250");
}

void measure_schema(const Setting& setting) {
  const int64_t tokens = 192;
  Runner runner(setting, {.streams = 1, .context = 1024});
  runner.engine().prepare_grammars();
  std::vector<double> with, without, ratio;
  const auto request = [&](bool grammar) {
    EngineRequest one = some_request(setting, some_prompt(setting, 32), tokens);
    one.sampler.temperature = 0.7f;
    one.sampler.top_k = 40;
    one.sampler.seed = 7;
    if (grammar) one.grammar = Grammar::from_json_schema(kSchema);
    const Answers answers = runner.run({std::move(one)});
    return answers.steady_rate();
  };
  request(true);
  for (int round = 0; round < setting.rounds; ++round) {
    without.push_back(request(false));
    with.push_back(request(true));
    ratio.push_back(with.back() / without.back());
  }
  tell(setting, "free text", "tokens/s", without);
  tell(setting, "a list of objects by a schema", "tokens/s", with);
  tell(setting, "by the schema, beside free text", "x", ratio, "0.97");
}

void measure_masks(const Setting& setting) {
  std::vector<std::string> texts(static_cast<size_t>(setting.tokenizer.vocab_size()));
  for (int32_t token = 0; token < setting.tokenizer.vocab_size(); ++token)
    if (!setting.tokenizer.is_special(token))
      texts[static_cast<size_t>(token)] = setting.tokenizer.token_bytes(token);
  const GrammarVocabulary vocabulary(texts);
  // As a server, which keeps the last grammars: a schema's first answer, and the answers behind it.
  std::vector<double> typical[2], rare[2];
  for (int round = 0; round < setting.rounds; ++round) {
    std::vector<double> micros[2];
    std::mt19937_64 random(static_cast<uint64_t>(round));
    for (const char* schema : {kSchema, kText, kPattern}) {
      const Grammar grammar = Grammar::from_json_schema(schema);
      for (int text = 0; text < 8; ++text) {
        GrammarMatcher matcher(grammar, vocabulary, {});
        for (int step = 0; step < 200 && !matcher.must_end(); ++step) {
          const double before = now();
          const std::span<const uint64_t> allowed = matcher.allowed();
          micros[text > 0 ? 1 : 0].push_back(1e6 * (now() - before));
          std::vector<int32_t> may;
          for (size_t token = 0; token < texts.size(); ++token)
            if ((allowed[token / 64] >> (token % 64) & 1) != 0) may.push_back(static_cast<int32_t>(token));
          if (may.empty()) break;
          matcher.accept(may[random() % may.size()]);
        }
      }
    }
    for (int later = 0; later < 2; ++later) {
      typical[later].push_back(quantile(micros[later], 0.5));
      rare[later].push_back(quantile(micros[later], 0.99));
    }
  }
  for (int later = 0; later < 2; ++later) {
    const std::string name = fmt::format("mask over {} tokens, {}", texts.size(),
                                         later ? "later answers of a schema" : "its first answer");
    tell(setting, name + ", p50", "us", typical[later], "at most 20");
    tell(setting, name + ", p99", "us", rare[later], "at most 200");
  }
}

}  // namespace nfloat::bench
