// SPDX-License-Identifier: Apache-2.0
#include "bench/serve/bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "base/json.h"
#include "nfloat/error.h"

namespace nfloat::bench {

double quantile(std::vector<double> values, double part) {
  std::sort(values.begin(), values.end());
  const auto at = static_cast<size_t>(part * static_cast<double>(values.size()));
  return values[std::min(at, values.size() - 1)];
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return (values[(values.size() - 1) / 2] + values[values.size() / 2]) / 2;
}

void tell(const Setting& setting, const std::string& what, const std::string& unit,
          const std::vector<double>& values, const std::string& wanted) {
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  if (setting.json)
    fmt::print(
        "{}\n",
        Json{{"what", what}, {"unit", unit}, {"median", median(values)}, {"rounds", Json(values)}}.dump());
  else
    fmt::print("{:<64} {:>9.4g} {:<9} {:.4g} to {:.4g}{}{}\n", what, median(values), unit, *least, *most,
               wanted.empty() ? "" : ", asked ", wanted);
  std::fflush(stdout);
}

std::vector<int32_t> some_prompt(const Setting& setting, int64_t length) {
  static uint64_t serial = 0;
  uint64_t state = ++serial * 0x9e3779b97f4a7c15u;
  const auto vocabulary = static_cast<uint64_t>(setting.tokenizer.vocab_size());
  std::vector<int32_t> tokens(static_cast<size_t>(length));
  for (int32_t& token : tokens) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    token = static_cast<int32_t>((state >> 33) % vocabulary);
  }
  return tokens;
}

EngineRequest some_request(const Setting&, std::vector<int32_t> prompt, int64_t tokens) {
  EngineRequest request;
  request.prompt = std::move(prompt);
  request.sampler.temperature = 0;
  request.generation.max_tokens = tokens;
  return request;
}

double Answers::tokens() const {
  return std::accumulate(of.begin(), of.end(), 0.0, [](double sum, const Answer& answer) {
    return sum + static_cast<double>(answer.times.size());
  });
}

double Answers::steady_rate() const {
  double begin = 0, end = INFINITY, count = 0;
  for (const Answer& answer : of) {
    if (answer.times.empty()) return 0;
    begin = std::max(begin, answer.times.front());
    end = std::min(end, answer.times.back());
  }
  for (const Answer& answer : of)
    count += static_cast<double>(std::count_if(answer.times.begin(), answer.times.end(),
                                               [&](double time) { return time > begin && time <= end; }));
  return count / (end - begin);
}

Runner::Runner(const Setting& setting, EngineOptions options)
    : engine_(setting.model, setting.tokenizer, [&] {
        options.events = [this](std::span<const EngineEvent> events) { take(events); };
        return options;
      }()) {}

uint64_t Runner::submit(EngineRequest request) {
  if (numbers_.empty()) begun_ = now();
  const auto number = engine_.submit(std::move(request));
  if (!number) throw Error(ErrorCode::kInvalidArgument, "the queue is full");
  numbers_.push_back(*number);
  answers_.of.push_back({.submitted = now(), .times = {}, .usage = {}});
  ++open_;
  return *number;
}

void Runner::take(std::span<const EngineEvent> events) {
  const double time = now();
  for (const EngineEvent& event : events) {
    if (!event.error.empty()) throw Error(ErrorCode::kInvalidArgument, event.error);
    const auto index = std::find(numbers_.begin(), numbers_.end(), event.request) - numbers_.begin();
    Answer& answer = answers_.of.at(static_cast<size_t>(index));
    if (event.piece.token >= 0) answer.times.push_back(time);
    if (!event.done) continue;
    answer.usage = event.usage;
    --open_;
  }
}

Answers Runner::finish(const std::function<void()>& after) {
  while (open_ > 0) {
    engine_.step();
    if (after) after();
  }
  answers_.seconds = now() - begun_;
  numbers_.clear();
  return std::exchange(answers_, {});
}

Answers Runner::run(std::vector<EngineRequest> requests) {
  for (EngineRequest& request : requests) submit(std::move(request));
  return finish();
}

}  // namespace nfloat::bench
