// SPDX-License-Identifier: Apache-2.0
#include "generate/draft.h"

#include "base/fail.h"
#include "nfloat/generate.h"
#include "nfloat/text.h"

namespace nfloat {
void check_draft(const Model& draft, const Tokenizer& tokenizer) {
  if (draft.config().vocabulary < tokenizer.vocab_size())
    fail(ErrorCode::kInvalidArgument, "the draft model has {} tokens, the tokenizer {}",
         draft.config().vocabulary, tokenizer.vocab_size());
}

void check_same_tokens(const Tokenizer& draft, const Tokenizer& tokenizer) {
  if (draft.vocab_size() < tokenizer.vocab_size())
    fail(ErrorCode::kInvalidArgument, "the draft model has {} tokens, the model {}", draft.vocab_size(),
         tokenizer.vocab_size());
  for (int32_t token = 0; token < tokenizer.vocab_size(); ++token)
    if (draft.token_text(token) != tokenizer.token_text(token))
      fail(ErrorCode::kInvalidArgument, "token {} of the draft model is '{}', of the model '{}'", token,
           printable(draft.token_text(token)), printable(tokenizer.token_text(token)));
}

void draft(std::span<DraftTask> tasks, int64_t most_read) {
  std::vector<BatchEntry> entries;
  std::vector<DraftTask*> guessing;
  for (DraftTask& task : tasks) {
    DraftSequence& own = *task.sequence;
    const int64_t vocabulary = own.session_.model().config().vocabulary;
    const auto same =
        std::mismatch(own.tokens_.begin(), own.tokens_.end(), task.tokens.begin(), task.tokens.end()).first -
        own.tokens_.begin();
    const int64_t kept =
        std::min({static_cast<int64_t>(same), std::ssize(task.tokens) - 1, own.session_.position()});
    own.session_.rewind(kept);
    own.tokens_.resize(static_cast<size_t>(kept));
    std::span<const int32_t> missing = task.tokens.subspan(static_cast<size_t>(kept));
    const bool known =
        std::all_of(missing.begin(), missing.end(), [&](int32_t token) { return token < vocabulary; });
    const int64_t room = own.session_.context() - kept - std::ssize(missing);
    if (!known || room < 0) continue;
    const bool behind = std::ssize(missing) > most_read;
    if (behind) missing = missing.first(static_cast<size_t>(most_read));
    const int64_t most = std::min(task.most, room + 1);
    if (!behind && most <= 0) continue;
    entries.push_back({&own.session_, missing, behind ? WantedLogits::kNone : WantedLogits::kLast});
    own.tokens_.insert(own.tokens_.end(), missing.begin(), missing.end());
    task.read = std::ssize(missing);
    if (behind) continue;
    task.most = most;
    if (own.sampler_)
      own.sampler_->draw_as(*task.sampler);
    else
      own.sampler_.emplace(task.sampler->fork());
    guessing.push_back(&task);
  }
  for (int64_t round = 0; !entries.empty(); ++round) {
    forward_batch(entries);
    entries.clear();
    for (DraftTask* task : guessing) {
      if (std::ssize(task->guess) != round || round >= task->most) continue;
      DraftSequence& own = *task->sequence;
      int32_t token = 0;
      try {
        token = own.sampler_->sample(own.session_.logits(), own.tokens_,
                                     {.prompt_tokens = task->prompt_tokens, .allowed = {}});
      } catch (const Error&) {
        task->most = round;
        continue;
      }
      task->guess.push_back(token);
      if (round + 1 >= task->most) continue;
      own.tokens_.push_back(token);
      entries.push_back({&own.session_, {&task->guess.back(), 1}, WantedLogits::kLast});
    }
  }
}

}  // namespace nfloat
