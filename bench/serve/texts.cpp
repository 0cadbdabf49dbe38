// SPDX-License-Identifier: Apache-2.0
// Guesses by look-up on given texts. The weights are random, so what they would say is not; an observer of
// the last product therefore puts the next token of a given answer in place of the last hidden state. All
// else, which tokens are guessed, which are right and what passes cost, is the engine's own.
#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>

#include "base/state_of.h"
#include "bench/serve/bench.h"
#include "engine/linear_id.h"
#include "model/model_state.h"
#include "nfloat/error.h"

namespace nfloat::bench {
namespace {

class Dictation : public LinearObserver {
 public:
  Dictation(const Model& model, std::vector<int32_t> answer)
      : state_(state_of(model)), answer_(std::move(answer)) {}
  void input(const LinearId&, const ActivationRows&) override {}
  void output(const LinearId& id, const ActivationRows& x, float* y, int64_t y_stride) override {
    if (id.role != LinearRole::kDown || id.layer + 1 != state_.config.layers) return;
    for (int64_t row = 0; row < x.rows; ++row) {
      // Rows of the prompt come first; then a pass has the last token and the guesses behind it.
      const size_t next = given == 0 ? 0 : given + static_cast<size_t>(row);
      float* const to = y + row * y_stride;
      state_.embedding.row(answer_[std::min(next, answer_.size() - 1)], to);
      for (int64_t i = 0; i < state_.config.hidden; ++i) to[i] *= 1e4f;
    }
  }

  size_t given = 0;  // tokens of the answer so far

 private:
  const Model::State& state_;
  const std::vector<int32_t> answer_;
};

struct Task {
  std::string name, wanted, prompt, answer;
};

std::string replaced(std::string text, const std::string& what, const std::string& by) {
  for (size_t at = 0; (at = text.find(what, at)) != std::string::npos; at += by.size())
    text.replace(at, what.size(), by);
  return text;
}

std::string text_of(const std::string& path) {
  std::ifstream file(path);
  if (!file)
    throw Error(ErrorCode::kNotFound, path + ": cannot be read; run from the top of the source tree");
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<Task> tasks() {
  const std::string code = text_of("bench/serve/texts/code.txt"),
                    page = text_of("bench/serve/texts/page.txt");
  const std::string stories = text_of("models/nfloat-tiny/stories.txt").substr(0, 2400);
  return {
      {"code edit: a class and a constant get other names", "1.8",
       "Rename GuessLength to DraftLength and kMemory to kWeight:\n" + code,
       replaced(replaced(code, "GuessLength", "DraftLength"), "kMemory", "kWeight")},
      {"correction: two words of a page change", "1.8",
       "Write client for clients and prefix for beginning:\n" + page,
       replaced(replaced(page, "clients", "client"), "beginning", "prefix")},
      {"summary of that page, which quotes it", "1.8", "Summarize:\n" + page,
       text_of("bench/serve/texts/summary.txt")},
      {"new text: a story goes on", "0.97", stories.substr(0, 1200), stories.substr(1200)},
  };
}

}  // namespace

void measure_look_up(const Setting& setting) {
  for (const Task& task : tasks()) {
    const std::vector<int32_t> prompt = setting.tokenizer.encode(task.prompt);
    std::vector<int32_t> answer = setting.tokenizer.encode(task.answer, false);
    answer.resize(std::min<size_t>(answer.size(), 320));
    Runner runner(setting,
                  {.streams = 1, .context = static_cast<int64_t>(prompt.size() + answer.size()) + 8});
    std::vector<double> with, without, ratio;
    const auto rate = [&](int64_t look_up) {
      const auto dictation = std::make_shared<Dictation>(setting.model, answer);
      EngineRequest request = some_request(setting, prompt, std::ssize(answer));
      request.generation.look_up = look_up;
      request.adapters = dictation;
      runner.submit(std::move(request));
      return runner.finish([&] { dictation->given = runner.answer(0).times.size(); }).steady_rate();
    };
    for (int round = 0; round < setting.rounds; ++round) {
      without.push_back(rate(0));
      const EngineStatistics before = runner.engine().statistics();
      with.push_back(rate(7));
      const EngineStatistics after = runner.engine().statistics();
      ratio.push_back(with.back() / without.back());
      if (round + 1 == setting.rounds)
        tell(setting, fmt::format("{}: of {} tokens guessed and right", task.name, answer.size()), "",
             {static_cast<double>(after.guessed_right - before.guessed_right)});
    }
    tell(setting, task.name + ": without", "tokens/s", without);
    tell(setting, task.name + ": with look-up", "tokens/s", with);
    tell(setting, task.name + ": beside without", "x", ratio, task.wanted);
  }
}

}  // namespace nfloat::bench
