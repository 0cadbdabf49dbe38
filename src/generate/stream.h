// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_GENERATE_STREAM_H_
#define NFLOAT_GENERATE_STREAM_H_

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "generate/draft.h"
#include "generate/guess_length.h"
#include "nfloat/engine.h"

namespace nfloat {

// A request at work.
struct EngineJob {
  uint64_t number = 0;
  EngineRequest request;
  double submitted = 0;
  int left = 0;           // choices that have not ended
  bool admitted = false;  // one of its streams has run
  bool failed = false;
  std::vector<PromptScore> scores;
  EngineUsage usage;
};

// One choice of a request. While it waits it has no session.
struct EngineStream {
  EngineStream(const Tokenizer& tokenizer, std::shared_ptr<EngineJob> of, int which, uint64_t place,
               const SamplerOptions& sampling)
      : job(std::move(of)),
        choice(which),
        order(place),
        sampler(sampling),
        continuation(tokenizer, sampler, job->request.prompt, job->request.generation) {}

  enum class Guesser : uint8_t { kGrammar, kLookUp, kDraft };

  // Tokens that the session has to hold, and how many it does.
  std::span<const int32_t> tokens() const noexcept { return continuation.tokens(); }
  int64_t position() const noexcept { return session ? session->position() : 0; }
  int64_t missing() const noexcept { return static_cast<int64_t>(tokens().size()) - position(); }
  std::span<const int32_t> held() const noexcept { return tokens().first(static_cast<size_t>(position())); }
  GuessLength& length_of(Guesser who) noexcept { return lengths[static_cast<size_t>(who)]; }
  bool scores_prompt() const noexcept {
    return choice == 0 && job->request.score_prompt && continuation.generated() == 0;
  }

  std::shared_ptr<EngineJob> job;
  int choice;
  uint64_t order;  // the smaller is older
  Sampler sampler;
  Continuation continuation;
  std::optional<Session> session;
  std::optional<GrammarMatcher> matcher;
  // Of the step at work: the last token and guesses of those that follow it, and who guessed.
  std::vector<int32_t> pass;
  Guesser guesser = Guesser::kLookUp;
  GuessLength lengths[3];  // by guesser
  std::optional<DraftSequence> draft;
  bool without_end_token = false;  // the grammar ended it
  double progressed = 0;           // when it last took in tokens or began to wait
  bool counted = false;            // its prompt is in the statistics
};

inline int64_t common_length(std::span<const int32_t> a, std::span<const int32_t> b) noexcept {
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
}

}  // namespace nfloat

#endif  // NFLOAT_GENERATE_STREAM_H_
