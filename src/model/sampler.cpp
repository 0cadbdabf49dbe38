// SPDX-License-Identifier: Apache-2.0
#include "nfloat/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <random>

#include "base/fail.h"
#include "base/json_reader.h"
#include "kernels/dispatch.h"

namespace nfloat {
namespace {

struct Candidate {
  float logit;
  int32_t token;
};

bool more_likely(const Candidate& a, const Candidate& b) noexcept {
  return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
}

void check(const SamplerOptions& options) {
  const auto require = [](bool good, const char* name, auto value, const char* range) {
    if (!good) fail(ErrorCode::kInvalidArgument, "{} is {}, expected {}", name, value, range);
  };
  require(options.temperature >= 0 && std::isfinite(options.temperature), "temperature", options.temperature,
          "0 or more");
  require(options.top_k >= 0, "top-k", options.top_k, "0 (all) or more");
  require(options.top_p > 0 && options.top_p <= 1, "top-p", options.top_p, "more than 0, at most 1");
  require(options.min_p >= 0 && options.min_p <= 1, "min-p", options.min_p, "0 to 1");
  require(options.repetition_penalty > 0 && std::isfinite(options.repetition_penalty), "repetition penalty",
          options.repetition_penalty, "more than 0");
  require(options.no_repeat_ngram >= 0, "no-repeat-ngram size", options.no_repeat_ngram, "0 or more");
  require(std::isfinite(options.presence_penalty), "presence penalty", options.presence_penalty, "a number");
  require(std::isfinite(options.frequency_penalty), "frequency penalty", options.frequency_penalty,
          "a number");
}

float largest_of(std::span<const float> logits) noexcept {
  // Several at a time: the compiler keeps the order of comparisons, which one maximum would wait for.
  constexpr size_t kLanes = 16;
  float most[kLanes];
  std::fill(most, most + kLanes, -INFINITY);
  size_t i = 0;
  for (; i + kLanes <= logits.size(); i += kLanes)
    for (size_t j = 0; j < kLanes; ++j) most[j] = std::max(most[j], logits[i + j]);
  for (; i < logits.size(); ++i) most[0] = std::max(most[0], logits[i]);
  return *std::max_element(most, most + kLanes);
}

double log_of_sum(std::span<const float> logits, float largest) noexcept {
  return static_cast<double>(largest) + std::log(kernels::table().transformer.sum_exp(
                                            logits.data(), largest, static_cast<int64_t>(logits.size())));
}

// The tokens that may be chosen, in order.
void collect(std::span<const float> logits, std::span<const uint64_t> allowed, std::vector<Candidate>& list) {
  const auto add = [&](size_t token) {
    if (!std::isnan(logits[token])) list.push_back({logits[token], static_cast<int32_t>(token)});
  };
  if (allowed.empty()) {
    for (size_t token = 0; token < logits.size(); ++token) add(token);
    return;
  }
  for (size_t word = 0; word < allowed.size(); ++word)
    for (uint64_t bits = allowed[word]; bits != 0; bits &= bits - 1) {
      const size_t token = word * 64 + static_cast<size_t>(std::countr_zero(bits));
      if (token < logits.size()) add(token);
    }
}

std::vector<int32_t> sorted(std::span<const int32_t> tokens) {
  std::vector<int32_t> result(tokens.begin(), tokens.end());
  std::sort(result.begin(), result.end());
  return result;
}

bool ends_with(std::span<const int32_t> tokens, std::span<const int32_t> end) {
  return tokens.size() >= end.size() && std::equal(end.begin(), end.end(), tokens.end() - std::ssize(end));
}

// The tokens that may not be chosen now, in order.
std::vector<int32_t> excluded(const SamplerOptions& options, std::span<const int32_t> history,
                              int64_t prompt_tokens) {
  std::vector<int32_t> out = options.suppressed;
  if (std::ssize(history) == prompt_tokens)
    out.insert(out.end(), options.begin_suppressed.begin(), options.begin_suppressed.end());
  for (const std::vector<int32_t>& sequence : options.forbidden_sequences)
    if (!sequence.empty() && ends_with(history, std::span(sequence).first(sequence.size() - 1)))
      out.push_back(sequence.back());
  if (options.no_repeat_ngram > 0 && std::ssize(history) >= options.no_repeat_ngram) {
    const std::span<const int32_t> now = history.last(static_cast<size_t>(options.no_repeat_ngram - 1));
    for (size_t i = 0; i + now.size() < history.size(); ++i)
      if (std::equal(now.begin(), now.end(), history.begin() + static_cast<std::ptrdiff_t>(i)))
        out.push_back(history[i + now.size()]);
  }
  std::sort(out.begin(), out.end());
  return out;
}

void penalize(const SamplerOptions& options, std::span<const int32_t> history, int64_t prompt_tokens,
              std::vector<Candidate>& list) {
  if (options.repetition_penalty != 1) {
    const std::vector<int32_t> seen = sorted(history);
    for (Candidate& one : list)
      if (std::binary_search(seen.begin(), seen.end(), one.token))
        one.logit =
            one.logit > 0 ? one.logit / options.repetition_penalty : one.logit * options.repetition_penalty;
  }
  if (options.presence_penalty != 0 || options.frequency_penalty != 0) {
    const std::vector<int32_t> seen = sorted(history.subspan(static_cast<size_t>(prompt_tokens)));
    for (Candidate& one : list) {
      const auto [first, last] = std::equal_range(seen.begin(), seen.end(), one.token);
      if (first != last)
        one.logit -= options.presence_penalty + options.frequency_penalty * static_cast<float>(last - first);
    }
  }
  for (const auto& [token, bias] : options.bias) {
    const auto found = std::lower_bound(list.begin(), list.end(), token,
                                        [](const Candidate& one, int32_t id) { return one.token < id; });
    if (found != list.end() && found->token == token) found->logit += bias;
  }
}

// A list from the most to the least likely, sorted as far as it is looked at: a draw seldom goes far, and a
// vocabulary is long.
class Descending {
 public:
  explicit Descending(std::vector<Candidate>& list) noexcept : list_(list) {}
  const Candidate& operator[](size_t at) {
    while (at >= sorted_) sort_more();
    return list_[at];
  }

 private:
  void sort_more() {
    const auto begin = list_.begin() + static_cast<std::ptrdiff_t>(sorted_);
    const size_t next = std::min(std::max<size_t>(64, sorted_ * 4), list_.size());
    const auto end = list_.begin() + static_cast<std::ptrdiff_t>(next);
    if (end != list_.end()) std::nth_element(begin, end, list_.end(), more_likely);
    std::sort(begin, end, more_likely);
    sorted_ = next;
  }

  std::vector<Candidate>& list_;
  size_t sorted_ = 0;
};

}  // namespace

struct Sampler::State {
  SamplerOptions options;
  std::mt19937_64
      generator;  // its sequence is fixed by the standard; its distributions are not and stay unused
  std::vector<Candidate> candidates;
  // The options change no logit and forbid nothing.
  bool plain = options.suppressed.empty() && options.begin_suppressed.empty() &&
               options.forbidden_sequences.empty() && options.no_repeat_ngram == 0 && options.bias.empty() &&
               options.repetition_penalty == 1 && options.presence_penalty == 0 &&
               options.frequency_penalty == 0;
};

Sampler::Sampler(const SamplerOptions& options) {
  check(options);
  state_ = std::make_unique<State>(State{options, std::mt19937_64(options.seed), {}});
}
Sampler::Sampler(Sampler&&) noexcept = default;
Sampler& Sampler::operator=(Sampler&&) noexcept = default;
Sampler::~Sampler() = default;

const SamplerOptions& Sampler::options() const noexcept {
  return state_->options;
}

int64_t Sampler::decisive() const noexcept {
  constexpr int64_t kMost = 256;  // more are not worth it
  const SamplerOptions& options = state_->options;
  if (!state_->plain) return 0;
  if (options.temperature == 0) return 1;
  return options.top_k <= kMost ? options.top_k : 0;
}

Sampler Sampler::fork() const {
  Sampler result(state_->options);
  result.state_->generator = state_->generator;
  return result;
}

void Sampler::draw_as(const Sampler& other) noexcept {
  state_->generator = other.state_->generator;
}

int32_t Sampler::sample(std::span<const float> logits, std::span<const int32_t> history,
                        const SamplerInput& input) {
  const SamplerOptions& options = state_->options;
  if ((options.temperature == 0 || options.top_k == 1) && input.allowed.empty() && state_->plain) {
    const float most = largest_of(logits);
    const auto found = std::find(logits.begin(), logits.end(), most);
    if (found != logits.end() && most > -INFINITY) return static_cast<int32_t>(found - logits.begin());
  }
  std::vector<Candidate>& list = state_->candidates;
  list.clear();
  collect(logits, input.allowed, list);
  if (list.empty() &&
      std::all_of(input.allowed.begin(), input.allowed.end(), [](uint64_t w) { return w == 0; }) &&
      !input.allowed.empty())
    fail(ErrorCode::kUnsupported, "no token of the vocabulary goes on as the grammar asks");
  if (list.empty()) fail(ErrorCode::kNotFinite, "none of the {} logits is a number", logits.size());
  if (const std::vector<int32_t> out = excluded(options, history, input.prompt_tokens); !out.empty()) {
    const auto is_out = [&](const Candidate& one) {
      return std::binary_search(out.begin(), out.end(), one.token);
    };
    // What a grammar leaves no choice about comes all the same.
    if (input.allowed.empty() || !std::all_of(list.begin(), list.end(), is_out)) std::erase_if(list, is_out);
    if (list.empty())
      fail(ErrorCode::kInvalidArgument,
           "every token is suppressed, or would repeat a run of tokens that may not come twice");
  }
  penalize(options, history, input.prompt_tokens, list);
  const Candidate best = *std::min_element(list.begin(), list.end(), more_likely);
  if (options.temperature == 0 || options.top_k == 1 || !std::isfinite(best.logit)) return best.token;

  // What is far below the best cannot be drawn: leave it out before sorting. 2^-53 is the resolution of the
  // draw.
  const float floor = best.logit - 37.0f * options.temperature;
  std::erase_if(list, [&](const Candidate& one) { return one.logit < floor; });
  if (options.top_k > 0 && static_cast<size_t>(options.top_k) < list.size()) {
    std::nth_element(list.begin(), list.begin() + options.top_k, list.end(), more_likely);
    list.resize(static_cast<size_t>(options.top_k));
    // Sums below do not depend on what was left out.
    std::sort(list.begin(), list.end(),
              [](const Candidate& a, const Candidate& b) { return a.token < b.token; });
  }
  const auto weight = [&](const Candidate& one) {
    return std::exp((static_cast<double>(one.logit) - static_cast<double>(best.logit)) /
                    static_cast<double>(options.temperature));
  };
  double total = 0;  // of what may be drawn; min_p alone counts its own
  if (options.top_p < 1 || options.min_p <= 0)
    for (const Candidate& one : list) total += weight(one);
  Descending order(list);
  size_t kept = list.size();
  if (options.top_p < 1) {
    const double enough = static_cast<double>(options.top_p) * total;
    total = 0;
    for (kept = 0; kept < list.size() && total < enough;) total += weight(order[kept++]);
  }
  if (options.min_p > 0) {
    size_t likely = 0;
    double sum = 0;
    while (likely < kept) {
      const double next = weight(order[likely]);
      if (likely > 0 && next < static_cast<double>(options.min_p)) break;
      sum += next;
      ++likely;
    }
    kept = likely;
    total = sum;
  }

  double left = static_cast<double>(state_->generator() >> 11) * 0x1p-53 * total;
  for (size_t i = 0; i < kept; ++i) {
    left -= weight(order[i]);
    if (left < 0) return order[i].token;
  }
  return order[kept - 1].token;
}

int32_t most_likely(std::span<const float> logits) noexcept {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

std::vector<TokenProbability> most_likely(std::span<const float> logits, size_t count) {
  if (count == 0) return {};
  std::vector<Candidate> list(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) list[i] = {logits[i], static_cast<int32_t>(i)};
  count = std::min(count, list.size());
  std::partial_sort(list.begin(), list.begin() + static_cast<std::ptrdiff_t>(count), list.end(), more_likely);
  const double total = log_of_sum(logits, largest_of(logits));
  std::vector<TokenProbability> result(count);
  for (size_t i = 0; i < count; ++i)
    result[i] = {list[i].token, static_cast<float>(static_cast<double>(list[i].logit) - total)};
  return result;
}

double log_probability(std::span<const float> logits, int32_t token) noexcept {
  return static_cast<double>(logits[static_cast<size_t>(token)]) - log_of_sum(logits, largest_of(logits));
}

namespace {

// Token ids of a list.
void add_tokens(const JsonReader& reader, const char* key, int64_t vocabulary, std::vector<int32_t>& tokens) {
  for (const int32_t token : reader.token_ids(key, vocabulary)) tokens.push_back(token);
}

// Lists of token ids. One of a single token that ends a text does not count, as in Transformers.
void add_bad_words(const JsonReader& reader, int64_t vocabulary, std::span<const int32_t> ends,
                   SamplerOptions& options) {
  constexpr const char* kKey = "bad_words_ids";
  const Json* list = reader.get(kKey);
  if (list == nullptr) return;
  if (!list->is_array()) fail(ErrorCode::kMalformedFile, "{}: \"{}\" is not a list", reader.source(), kKey);
  for (const Json& one : *list) {
    const Json holder{{kKey, one}};
    std::vector<int32_t> tokens = JsonReader(holder, reader.source()).token_ids(kKey, vocabulary);
    if (tokens.size() > 1)
      options.forbidden_sequences.push_back(std::move(tokens));
    else if (!tokens.empty() && std::find(ends.begin(), ends.end(), tokens[0]) == ends.end())
      options.suppressed.push_back(tokens[0]);
  }
}

// A text, or several.
void add_stops(const JsonReader& reader, std::vector<std::string>& stops) {
  constexpr const char* kKey = "stop_strings";
  const Json* given = reader.get(kKey);
  if (given == nullptr) return;
  for (const Json& stop : given->is_array() ? *given : Json::array({*given})) {
    if (!stop.is_string())
      fail(ErrorCode::kMalformedFile, "{}: \"{}\" holds {}, expected texts", reader.source(), kKey,
           JsonReader::shown(stop));
    stops.push_back(stop.text());
  }
}

// What parse_generation_config() obeys.
constexpr std::string_view kObeyed[] = {"bad_words_ids",   "begin_suppress_tokens",
                                        "do_sample",       "eos_token_id",
                                        "max_length",      "max_new_tokens",
                                        "min_p",           "no_repeat_ngram_size",
                                        "stop_strings",    "repetition_penalty",
                                        "suppress_tokens", "temperature",
                                        "top_k",           "top_p"};

// What leaves the tokens alone: how fast they come, what is returned beside them, what beams alone heed
// (their number is a setting below).
constexpr std::string_view kHarmless[] = {"_commit_hash",
                                          "_from_model_config",
                                          "assistant_confidence_threshold",
                                          "assistant_early_exit",
                                          "assistant_lookbehind",
                                          "bos_token_id",
                                          "cache_config",
                                          "cache_implementation",
                                          "compile_config",
                                          "continuous_batching_config",
                                          "decoder_start_token_id",
                                          "disable_compile",
                                          "early_stopping",
                                          "is_assistant",
                                          "length_penalty",
                                          "low_memory",
                                          "max_matching_ngram_size",
                                          "num_assistant_tokens",
                                          "num_assistant_tokens_schedule",
                                          "output_attentions",
                                          "output_hidden_states",
                                          "output_logits",
                                          "output_scores",
                                          "pad_token_id",
                                          "prefill_chunk_size",
                                          "prompt_lookup_num_tokens",
                                          "remove_invalid_values",
                                          "renormalize_logits",
                                          "return_dict_in_generate",
                                          "return_legacy_cache",
                                          "target_lookbehind",
                                          "transformers_version",
                                          "trust_remote_code",
                                          "use_cache"};

// Settings of Transformers and of its relatives that change the text, and the number that leaves it alone. Of
// those that are not here no number but 0 is known to.
struct Setting {
  std::string_view name;
  double neutral;
  bool of_sampling = false;
};
constexpr Setting kSettings[] = {
    {"encoder_repetition_penalty", 1}, {"num_beams", 1},       {"num_beam_groups", 1},
    {"num_return_sequences", 1},       {"guidance_scale", 1},  {"forced_bos_token_id", -1},
    {"forced_eos_token_id", -1},       {"typical_p", 1, true}, {"epsilon_cutoff", 0, true},
    {"eta_cutoff", 0, true},           {"top_h", 0, true}};

// Everything else that is there and switches something on, known or not.
void name_unknown(const Json& json, bool samples, std::vector<std::string>& names) {
  const auto has = [](std::span<const std::string_view> list, std::string_view name) {
    return std::find(list.begin(), list.end(), name) != list.end();
  };
  for (const auto& [name, value] : json.items()) {
    if (value.is_null() || has(kObeyed, name) || has(kHarmless, name)) continue;
    const auto* setting = std::find_if(std::begin(kSettings), std::end(kSettings),
                                       [&, &key = name](const Setting& one) { return one.name == key; });
    const bool known = setting != std::end(kSettings);
    if (known && setting->of_sampling && !samples) continue;
    const double difference = value.is_number() ? value.get<double>() - (known ? setting->neutral : 0) : 0;
    if (value.is_number()    ? difference < 0 || difference > 0
        : value.is_boolean() ? value.get<bool>()
        : value.is_string()  ? !value.text().empty()
                             : !value.empty())
      names.push_back(name);
  }
}

}  // namespace

SamplerOptions parse_generation_config(std::string_view text, const std::string& source,
                                       const ModelConfig& config, std::vector<int32_t>* end_tokens,
                                       std::vector<std::string>* not_obeyed) {
  SamplerOptions options;
  if (text.empty()) {
    options.temperature = 0;
    return options;
  }
  const Json json = parse_small_json(text, source);
  const JsonReader reader(json, source);
  const bool samples = reader.boolean_or("do_sample", false);
  // -1 is "all" to some programs; a fraction is no count, but only sampling counts.
  const double most = reader.number_or("top_k", -1, INT32_MAX, 0);
  if (samples && std::floor(most) < most) reader.integer_or("top_k", 0, INT32_MAX, 0);
  options.top_k = std::max<int64_t>(0, static_cast<int64_t>(most));
  options.top_p = static_cast<float>(reader.number_or("top_p", 0, 1, 1));
  if (options.top_p <= 0) {
    // Nothing but the most likely token is left.
    options.top_p = 1;
    options.top_k = 1;
  }
  options.min_p = static_cast<float>(reader.number_or("min_p", 0, 1, 0));
  options.repetition_penalty = static_cast<float>(reader.number_or("repetition_penalty", 1e-3, 1e3, 1));
  options.temperature = static_cast<float>(reader.number_or("temperature", 0, 1e3, 1));
  if (!samples) options.temperature = 0;
  if (end_tokens != nullptr && reader.get("eos_token_id") != nullptr) {
    const Json* given = reader.get("eos_token_id");
    Json kept = Json::array();
    for (const Json& id : given->is_array() ? *given : Json::array({*given}))
      if (!(id.is_number_integer() && !id.is_number_unsigned() && id.get<int64_t>() == -1))
        kept.push_back(id);
    const Json holder{{"eos_token_id", kept}};
    *end_tokens = JsonReader(holder, source).token_ids("eos_token_id", config.vocabulary);
  }
  add_bad_words(reader, config.vocabulary,
                end_tokens != nullptr ? std::span<const int32_t>(*end_tokens) : std::span<const int32_t>(),
                options);
  add_tokens(reader, "suppress_tokens", config.vocabulary, options.suppressed);
  add_tokens(reader, "begin_suppress_tokens", config.vocabulary, options.begin_suppressed);
  add_stops(reader, options.stops);
  options.no_repeat_ngram = reader.integer_or("no_repeat_ngram_size", 0, INT32_MAX, 0);
  options.max_new_tokens = reader.integer_or("max_new_tokens", 0, INT32_MAX, 0);
  options.max_length = reader.integer_or("max_length", 0, INT32_MAX, 0);
  if (not_obeyed != nullptr) name_unknown(json, samples, *not_obeyed);
  return options;
}

}  // namespace nfloat
