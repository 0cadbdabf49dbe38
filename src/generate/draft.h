// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_GENERATE_DRAFT_H_
#define NFLOAT_GENERATE_DRAFT_H_

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "nfloat/model.h"
#include "nfloat/sampler.h"
#include "nfloat/tokenizer.h"

namespace nfloat {

// Tokens that may follow are computed together with the next one and count as far as the sampler chooses
// them: it draws from the same logits, with the same random numbers, as it would token by token.

// A smaller model's own sequence, which follows a text and guesses how it goes on.
class DraftSequence {
 public:
  explicit DraftSequence(Session session) : session_(std::move(session)) {}

 private:
  friend void draft(std::span<struct DraftTask> tasks, int64_t most_read);
  Session session_;
  std::vector<int32_t> tokens_;  // that the session holds
  std::optional<Sampler> sampler_;
};

struct DraftTask {
  DraftSequence* sequence = nullptr;
  std::span<const int32_t> tokens;  // the text
  int64_t prompt_tokens = 0;        // of it
  // That will choose, one and the same for all tasks of a sequence: the draft draws with its random numbers.
  const Sampler* sampler = nullptr;
  int64_t most = 0;
  // The results: the guess, and how many tokens of the text were read for it.
  std::vector<int32_t> guess = {};
  int64_t read = 0;
};

// Nothing was read but what every guess has to: the token chosen last, and a guess before it that was right.
inline bool is_up_to_date(const DraftTask& task) noexcept {
  return task.read <= 2;
}

// Throws kInvalidArgument: the model has fewer tokens than the tokenizer.
void check_draft(const Model& draft, const Tokenizer& tokenizer);

// Guesses for several sequences of one draft model together. A sequence that is more than `most_read` tokens
// behind its text reads so many and guesses nothing; one whose sampler finds nothing to choose ends its
// guess.
void draft(std::span<DraftTask> tasks, int64_t most_read);

}  // namespace nfloat

#endif  // NFLOAT_GENERATE_DRAFT_H_
