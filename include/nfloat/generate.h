// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_GENERATE_H_
#define NFLOAT_GENERATE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "nfloat/api.h"
#include "nfloat/model.h"
#include "nfloat/sampler.h"
#include "nfloat/tokenizer.h"

namespace nfloat {

// Passes text on until one of the stop texts appears; the earliest in the text counts. A possible beginning
// of a stop text is held back until the following text decides. Empty stop texts are ignored.
class NFLOAT_API StopFilter {
 public:
  explicit StopFilter(std::vector<std::string> stops);

  // The text that cannot be part of a stop text any more.
  std::string push(const std::string& text);
  // The text held back, at the end.
  std::string finish();
  bool stopped() const noexcept { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

enum class FinishReason : uint8_t {
  kEndOfText,    // the model chose an end token
  kStopText,     // a stop text appeared
  kTokenLimit,   // max_tokens
  kContextFull,  // the context has no room for the last token
  kCancelled,
};

struct GenerationOptions {
  int64_t max_tokens = 128;
  std::vector<std::string> stops = {};   // and those of the sampler
  std::vector<int32_t> end_tokens = {};  // empty: generation ends for other reasons only
  // Log-probabilities of each token and of this many of the most likely; -1: none.
  int64_t log_probabilities = -1;
  // The answer comes in the channels of gpt-oss (where the vocabulary has their tokens): text of the channel
  // "final" is the text, that of others an aside.
  bool channels = false;
  // Special tokens whose names are part of the text, as <tool_call>; others have no text.
  std::vector<int32_t> shown = {};
  // Up to this many tokens that followed the same ones earlier in the text are computed together with the
  // next one, and count where they are what is chosen. The tokens are the same as without; texts that repeat
  // their prompt come faster. 0: none.
  int64_t look_up = 0;
};

// One step of a generation.
struct GeneratedToken {
  int32_t token = -1;  // -1: no token, only text that had been held back
  std::string text;    // valid UTF-8, often empty: a character or stop text may be incomplete
  std::string aside;   // text outside of the final channel
  std::string mark;    // the token that opens or closes a channel
  double log_probability = 0;
  std::vector<TokenProbability> most_likely;
};

// What continues one sequence apart from the model: chooses a token by the logits, makes its text, and knows
// when to end. `tokenizer` and `sampler` are used until it is destroyed.
class NFLOAT_API Continuation {
 public:
  // `prompt`: the tokens before. A text that continues them keeps its leading space.
  Continuation(const Tokenizer& tokenizer, Sampler& sampler, std::span<const int32_t> prompt,
               const GenerationOptions& options);
  // `tokenizer` null: tokens have no texts, so stop texts and channels are not seen.
  Continuation(const Tokenizer* tokenizer, Sampler& sampler, std::span<const int32_t> prompt,
               const GenerationOptions& options);
  Continuation(Continuation&&) noexcept;
  Continuation& operator=(Continuation&&) noexcept;
  ~Continuation();

  // Chooses the token that follows by its logits. An end token has no entry of its own: `token` is -1 then.
  // Throws as Sampler::sample. Not to be called when finished. `allowed`: see SamplerInput.
  GeneratedToken step(std::span<const float> logits, std::span<const uint64_t> allowed = {});
  // How many of the largest logits step() looks at, where all tokens are allowed; 0: at all. The others may
  // be NaN (BatchEntry::best).
  int64_t decisive() const noexcept;
  // Ends for the caller's reason and returns the text held back; nothing when it had ended before.
  std::string finish(FinishReason reason);

  // Unset while generation continues.
  std::optional<FinishReason> reason() const noexcept;
  // The prompt and the generated tokens, without an end token.
  const std::vector<int32_t>& tokens() const noexcept;
  int64_t prompt_tokens() const noexcept;
  int64_t generated() const noexcept;  // tokens, without an end token
  // Of gpt-oss's channels: the name of the one at work; empty without channels.
  const std::string& channel() const noexcept;

  struct State;

 private:
  std::unique_ptr<State> state_;
};

// A session together with the tokens that it has read, so that of the next prompt only tokens that differ are
// read.
class NFLOAT_API TokenSequence {
 public:
  // `session` is at position 0.
  explicit TokenSequence(Session session) : session_(std::move(session)) {}
  // `session` has read exactly `tokens`.
  TokenSequence(Session session, std::vector<int32_t> tokens)
      : session_(std::move(session)), tokens_(std::move(tokens)) {}

  Session& session() noexcept { return session_; }
  const Session& session() const noexcept { return session_; }
  const std::vector<int32_t>& tokens() const noexcept { return tokens_; }
  int64_t room() const noexcept { return session_.context() - session_.position(); }

  // Keeps the common prefix with `tokens`, at most all but the last one of them, and removes the rest.
  // Returns how many tokens stay.
  int64_t keep(std::span<const int32_t> tokens);
  // Reads more tokens; returns the logits of the last, of which `best` are enough (BatchEntry::best). Throws
  // as Session::prefill.
  std::span<const float> append(std::span<const int32_t> tokens, int64_t best = 0);
  // The same without logits: for the beginning of a text.
  void read(std::span<const int32_t> tokens);
  // The same, with the logits of each of them behind one another in `rows`.
  void append(std::span<const int32_t> tokens, std::vector<float>& rows);
  // For one whose session reads tokens by other ways (forward_batch): room for `more` of them first, and
  // which they were when it has read them, which does not throw then.
  void reserve(size_t more);
  void took(std::span<const int32_t> tokens) { tokens_.insert(tokens_.end(), tokens.begin(), tokens.end()); }
  // Forgets every token from `length` on. Throws kInvalidArgument when it is beyond the present one.
  void truncate(int64_t length);

 private:
  Session session_;
  std::vector<int32_t> tokens_;
};

struct GenerationCounts {
  int64_t read = 0, reused = 0, generated = 0;  // tokens
  double read_seconds = 0, generate_seconds = 0;
};

// Continues a prompt on one sequence, token by token:
//   Generation generation(sequence, tokenizer, sampler, prompt, options);
//   while (auto piece = generation.next()) show(piece->text);
// The part of the prompt that the sequence already holds is not read again. It may be destroyed early: the
// sequence then holds the tokens read so far. Its references are used until it is destroyed.
class NFLOAT_API Generation {
 public:
  // Throws kInvalidArgument for an empty prompt, or one longer than the context.
  Generation(TokenSequence& sequence, const Tokenizer& tokenizer, Sampler& sampler,
             std::vector<int32_t> prompt, const GenerationOptions& options);

  // Called before each token and between two pieces of the prompt; true ends the generation.
  void cancel_when(std::function<bool()> cancelled) { cancelled_ = std::move(cancelled); }
  // Tokens of the prompt read between two calls of cancel_when; a multiple of 64 gives the same bits as the
  // whole prompt at once.
  void read_in_pieces_of(int64_t tokens) noexcept { piece_ = tokens; }
  // A session of a smaller model with the same tokens, at position 0, guesses the next ones where nothing is
  // looked up. The tokens are the same as without. Throws kInvalidArgument: fewer tokens than the
  // tokenizer's.
  void guess_with(Session draft);
  // When the limit or a cancellation ends the text, the sequence reads the last token too: for a conversation
  // that continues.
  void take_in_last() noexcept { take_in_last_ = true; }

  // The next step; nothing when it has ended. The first call reads the prompt.
  std::optional<GeneratedToken> next();

  // Unset while generation continues.
  std::optional<FinishReason> reason() const noexcept { return reason_; }
  // Tokens that were guessed, and those of them that were chosen.
  int64_t guessed() const noexcept { return guessed_; }
  int64_t guessed_right() const noexcept { return right_; }
  const GenerationCounts& counts() const noexcept { return counts_; }
  std::span<const int32_t> generated() const noexcept;

 private:
  bool read_prompt();
  std::optional<GeneratedToken> end(FinishReason reason);
  std::span<const float> next_logits();

  TokenSequence* sequence_;
  std::vector<int32_t> prompt_;
  Continuation continuation_;
  std::function<bool()> cancelled_;
  int64_t piece_ = 512;
  bool take_in_last_ = false, begun_ = false;
  size_t confirmed_ = 0;  // tokens of the sequence that were chosen; what follows is a guess
  struct Guesses;
  std::shared_ptr<Guesses> guesses_;
  std::vector<float> rows_;  // logits of the last pass, of each guess and of the token before
  std::optional<FinishReason> reason_;
  GenerationCounts counts_;
  int64_t guessed_ = 0, right_ = 0;
};

// Throws kInvalidArgument, naming the first token that differs, unless the model of `draft` can guess for
// that of `tokenizer`.
NFLOAT_API void check_same_tokens(const Tokenizer& draft, const Tokenizer& tokenizer);

// The user's settings of sampling; unset: those of the model's generation_config.json.
struct SamplingSettings {
  std::optional<float> temperature, top_p, min_p, repetition_penalty;
  std::optional<int64_t> top_k;
  std::optional<uint64_t> seed;  // unset: a different one each time
};

// The settings over those of the generation_config.json beside the model `path`. `end_tokens`, the model's,
// become those of that file where it names some. `not_obeyed` gets the names of its settings that change the
// text and are not supported, each after the name of the file. Throws kMalformedFile, kNotFound.
NFLOAT_API SamplerOptions sampler_options(const SamplingSettings& settings, const std::string& path,
                                          const ModelConfig& config, std::vector<int32_t>* end_tokens,
                                          std::vector<std::string>* not_obeyed = nullptr);

// Most tokens to generate after a prompt of so many, where the caller gives no limit: max_new_tokens of the
// options; else `otherwise`, within max_length for prompt and text together. Throws kInvalidArgument where
// the prompt alone reaches max_length.
NFLOAT_API int64_t answer_limit(const SamplerOptions& options, int64_t prompt_tokens, int64_t otherwise);

}  // namespace nfloat

#endif  // NFLOAT_GENERATE_H_
