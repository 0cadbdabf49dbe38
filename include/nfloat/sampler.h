// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_SAMPLER_H_
#define NFLOAT_SAMPLER_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "nfloat/api.h"
#include "nfloat/model_config.h"

namespace nfloat {

// How the next token is chosen. Applied in this order: repetition penalty, presence and frequency penalties,
// bias, temperature, top-k, top-p, min-p.
struct SamplerOptions {
  float temperature = 1;         // 0: the most likely token, always
  int64_t top_k = 0;             // keep the k most likely; 0: all
  float top_p = 1;               // keep the most likely until their probabilities reach p
  float min_p = 0;               // keep those at least min_p times as likely as the most likely
  float repetition_penalty = 1;  // logits of tokens seen before: divided when positive, else multiplied
  // Taken from the logits of tokens that were generated: once, and for each time.
  float presence_penalty = 0, frequency_penalty = 0;
  uint64_t seed = 0;
  std::vector<int32_t> suppressed = {};              // tokens that are never chosen
  std::vector<std::pair<int32_t, float>> bias = {};  // added to the logits of these tokens
  std::vector<int32_t> begin_suppressed = {};        // never chosen as the first token behind the prompt
  // The last token of each is not chosen behind the others, prompt included.
  std::vector<std::vector<int32_t>> forbidden_sequences = {};
  int64_t no_repeat_ngram = 0;  // no run of so many tokens comes twice, prompt included; 0: they may
  // Texts that end what is generated. The sampler knows no texts: Continuation obeys them beside its own.
  std::vector<std::string> stops = {};
  // Limits of a generation_config.json, which answer_limit() obeys; 0: none.
  int64_t max_new_tokens = 0, max_length = 0;
};

// The other inputs of a choice.
struct SamplerInput {
  int64_t prompt_tokens =
      0;  // of the history, those that were not generated: for the penalties on those that were
  // Bit t % 64 of word t / 64: token t may be chosen. Empty: all may.
  std::span<const uint64_t> allowed = {};
};

// One token with the natural logarithm of its probability under the unmodified logits.
struct TokenProbability {
  int32_t token = 0;
  float log_probability = 0;
};

// Chooses tokens. The same seed, options and logits give the same tokens.
class NFLOAT_API Sampler {
 public:
  // Throws kInvalidArgument naming the option that is out of range.
  explicit Sampler(const SamplerOptions& options);
  Sampler(Sampler&&) noexcept;
  Sampler& operator=(Sampler&&) noexcept;
  ~Sampler();

  const SamplerOptions& options() const noexcept;
  // How many of the largest logits decide what sample() chooses, where no token is forbidden from outside:
  // the others may be NaN. 0: all of them.
  int64_t decisive() const noexcept;
  // One that will draw what this one will.
  Sampler fork() const;
  // From now on draws what `other`, which has the same options, will.
  void draw_as(const Sampler& other) noexcept;

  // `history`: the tokens so far, prompt included (penalties and what may not be repeated look at it). Of
  // equal logits the lowest token counts as the most likely. Throws kNotFinite when no logit of an allowed
  // token is a number, kInvalidArgument when the options forbid every token.
  int32_t sample(std::span<const float> logits, std::span<const int32_t> history,
                 const SamplerInput& input = {});

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// The most likely token; of equally likely ones the lowest.
NFLOAT_API int32_t most_likely(std::span<const float> logits) noexcept;

// The `count` most likely tokens, in order.
NFLOAT_API std::vector<TokenProbability> most_likely(std::span<const float> logits, size_t count);

// Natural logarithm of softmax(logits)[token].
NFLOAT_API double log_probability(std::span<const float> logits, int32_t token) noexcept;

// The settings of a generation_config.json, missing keys at the defaults above; temperature 0 when it has
// do_sample false or no setting of sampling. `end_tokens` gets its eos_token_id, of which -1 is none.
// suppress_tokens, begin_suppress_tokens, bad_words_ids (an end token alone is no bad word), stop_strings and
// no_repeat_ngram_size become options. `not_obeyed`, where given, gets the names
// of the settings that would change the text and are not supported, and of those that are not known, in the
// order of the file. max_new_tokens and max_length become limits (answer_limit()). An empty text changes
// nothing. Throws kMalformedFile.
NFLOAT_API SamplerOptions parse_generation_config(std::string_view json, const std::string& source,
                                                  const ModelConfig& config, std::vector<int32_t>* end_tokens,
                                                  std::vector<std::string>* not_obeyed = nullptr);

}  // namespace nfloat

#endif  // NFLOAT_SAMPLER_H_
