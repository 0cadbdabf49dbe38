// SPDX-License-Identifier: Apache-2.0
// What the tests of bench/serve/run have in common: a model of random weights, requests, and what is told of
// them.
#ifndef NFLOAT_BENCH_SERVE_BENCH_H_
#define NFLOAT_BENCH_SERVE_BENCH_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "nfloat/engine.h"
#include "nfloat/model.h"
#include "nfloat/tokenizer.h"

namespace nfloat::bench {

struct Setting {
  Model model;
  Tokenizer tokenizer;
  std::string folder;  // the tokenizer's, which serves the model too
  int rounds = 3;
  std::vector<int> streams{1, 2, 4, 8, 16};
  int64_t prompt = 128, tokens = 128;  // of each request
  bool json = false;
};

inline double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Of at least one value.
double median(std::vector<double> values);
double quantile(std::vector<double> values, double part);

// A line: the median of the rounds, the least and the most. `wanted` says what is asked for; may be empty.
void tell(const Setting& setting, const std::string& what, const std::string& unit,
          const std::vector<double>& values, const std::string& wanted = "");

// Tokens of a prompt that begins as no other does.
std::vector<int32_t> some_prompt(const Setting& setting, int64_t length);
// Greedy, to the last of `tokens`.
EngineRequest some_request(const Setting& setting, std::vector<int32_t> prompt, int64_t tokens);

// When the tokens of a request came.
struct Answer {
  double submitted = 0;
  std::vector<double> times;
  EngineUsage usage;
};
struct Answers {
  std::vector<Answer> of;  // in the order of the requests
  double seconds = 0;

  double tokens() const;
  // Tokens a second while all of them were given, one after the other: between the last first token and the
  // first last one.
  double steady_rate() const;
};

// An engine that steps on the caller's thread.
class Runner {
 public:
  Runner(const Setting& setting, EngineOptions options);
  uint64_t submit(EngineRequest request);
  // Steps until all that was submitted is answered. `after`, where given, is called after each step.
  Answers finish(const std::function<void()>& after = nullptr);
  Answers run(std::vector<EngineRequest> requests);
  Engine& engine() noexcept { return engine_; }
  // Of the request submitted as number `index` since the last finish().
  const Answer& answer(size_t index) const { return answers_.of.at(index); }

 private:
  void take(std::span<const EngineEvent> events);

  Answers answers_;
  std::vector<uint64_t> numbers_;
  size_t open_ = 0;
  double begun_ = 0;
  Engine engine_;
};

// Each prints its lines.
void measure_streams(const Setting& setting);
void measure_first_token(const Setting& setting);
void measure_gap(const Setting& setting);
void measure_look_up(const Setting& setting);
void measure_schema(const Setting& setting);
void measure_masks(const Setting& setting);
void measure_http(const Setting& setting);
void measure_health(const Setting& setting);

}  // namespace nfloat::bench

#endif  // NFLOAT_BENCH_SERVE_BENCH_H_
