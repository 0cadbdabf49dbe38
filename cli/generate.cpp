// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "automatic_precision.h"
#include "commands.h"
#include "model_options.h"
#include "nfloat/error.h"
#include "nfloat/generate.h"
#include "nfloat/results.h"
#include "nfloat/tokenizer.h"
#include "notes.h"
#include "progress.h"
#include "sampling_options.h"

namespace nfloat::cli {
namespace {

constexpr size_t kMaxPromptBytes = size_t{256} << 20;
constexpr int64_t kMostTokens = 128;  // where neither the user nor the model says

struct Options {
  ModelArguments model;
  std::optional<std::string> prompt;
  int64_t context = 0;
  std::optional<int64_t> max_tokens;
  SamplingSettings sampling;
  std::string file, draft;
  std::vector<std::string> stop;
  int64_t logprobs = -1, look_up = 0;
  bool ignore_eos = false, echo = false, json = false;
};

void show(const Options& options, const std::string& text) {
  if (options.json || text.empty()) return;
  write_answer(text);
}

int64_t most_tokens(const Options& options, const Sampler& sampler, const std::vector<int32_t>& prompt) {
  return options.max_tokens ? *options.max_tokens
                            : answer_limit(sampler.options(), std::ssize(prompt), kMostTokens);
}

GenerationRecord generate(const Options& options, Session session, std::optional<Session> draft,
                          const Tokenizer& tokenizer, Sampler& sampler, const std::vector<int32_t>& ends,
                          const std::vector<int32_t>& prompt) {
  TokenSequence sequence(std::move(session));
  const int64_t room = sequence.room() - static_cast<int64_t>(prompt.size());
  Generation generation(sequence, tokenizer, sampler, prompt,
                        {.max_tokens = std::min(most_tokens(options, sampler, prompt), room),
                         .stops = options.stop,
                         .end_tokens = options.ignore_eos ? std::vector<int32_t>() : ends,
                         .log_probabilities = options.logprobs,
                         .look_up = options.look_up});
  if (draft) generation.guess_with(std::move(*draft));
  generation.cancel_when(interrupted);
  GenerationRecord result;
  result.prompt = prompt;
  while (const std::optional<GeneratedToken> piece = generation.next()) {
    show(options, piece->text);
    result.text += piece->text;
    if (options.logprobs >= 0 && piece->token >= 0) result.log_probabilities.push_back(*piece);
  }
  result.tokens.assign(generation.generated().begin(), generation.generated().end());
  result.reason = generation.reason();
  result.prefill_seconds = generation.counts().read_seconds;
  result.decode_seconds = generation.counts().generate_seconds;
  return result;
}

void print_speed(const GenerationRecord& result) {
  const size_t prompt = result.prompt.size();
  // The first token comes from the prompt's own pass.
  const double decoded = static_cast<double>(result.tokens.empty() ? 0 : result.tokens.size() - 1);
  fmt::print(stderr, "\n[prompt {}, {:.0f} tokens/s; generated {}, {:.1f} tokens/s; {}]\n",
             count_of(static_cast<int64_t>(prompt), "token"),
             static_cast<double>(prompt) / result.prefill_seconds,
             count_of(std::ssize(result.tokens), "token"),
             decoded > 0 ? decoded / result.decode_seconds : 0.0, finish_reason_name(*result.reason));
}

void run(const Options& options) {
  if (options.logprobs >= 0 && !options.json) throw UsageError("--logprobs goes with --json");
  if (options.prompt && !options.file.empty()) throw UsageError("give --prompt or --file, not both");
  if (!options.prompt && options.file.empty() && ::isatty(STDIN_FILENO) == 1)
    throw UsageError("give a prompt with -p, or on standard input");
  std::string prompt_text = options.prompt && *options.prompt != "-"
                                ? *options.prompt
                                : read_text(options.file.empty() ? "-" : options.file, kMaxPromptBytes);
  take_from_first_rank(options.model.ranks, prompt_text);
  catch_interrupts();
  const std::string folder = model_folder(options.model.model);
  const Tokenizer tokenizer = Tokenizer::load(folder);
  ModelArguments arguments = options.model;
  // Guesses are checked several at a time and must be what one at a time would be.
  arguments.one_precision = options.look_up > 0 || !options.draft.empty();
  const Model model = load_model(arguments);
  std::vector<int32_t> ends = model.config().eos_tokens;
  SamplingSettings sampling = options.sampling;
  take_from_first_rank(options.model.ranks, sampling.seed);
  Sampler sampler(named_sampler_options(sampling, folder, model.config(), &ends));
  std::vector<int32_t> prompt = tokenizer.encode(prompt_text);
  if (prompt.empty()) throw Error(ErrorCode::kInvalidArgument, "the prompt is empty");

  const int64_t most = options.context > 0 ? options.context : model.config().context;
  const auto length = static_cast<int64_t>(prompt.size());
  if (length > most)
    throw Error(ErrorCode::kInvalidArgument, fmt::format("the prompt has {}, more than the context of {}",
                                                         count_of(length, "token"), most));
  // Room for what can come: the whole context of a large model would take gigabytes.
  Session session(model, {.context = std::min(most, length + most_tokens(options, sampler, prompt)),
                          .kv_cache = parse_kv_cache(options.model.kv_cache),
                          .expect_finite = true});
  std::optional<Session> draft;
  if (!options.draft.empty()) draft.emplace(load_draft(arguments, options.draft, tokenizer));
  if (options.echo) show(options, tokenizer.decode(prompt, true));
  GenerationRecord result =
      generate(options, std::move(session), std::move(draft), tokenizer, sampler, ends, prompt);
  result.precision = precision_text(precisions(model.options()));
  result.device = model.options().device;
  if (options.json)
    fmt::print("{}\n", generation_json(result, &tokenizer));
  else
    fmt::print("\n");
  if (!quiet() && !options.json) print_speed(result);
  if (result.reason == FinishReason::kCancelled)
    throw Error(ErrorCode::kInterrupted,
                fmt::format("interrupted after {}", count_of(std::ssize(result.tokens), "token")));
}

}  // namespace

void add_generate_command(const Command& app) {
  auto options = std::make_shared<Options>();
  const Command command = app.add_subcommand("generate", "Continue a text with a model, token by token");
  command.footer(
      "Examples:\n"
      "  nfloat generate models/nfloat-tiny -p \"The old lighthouse\" --quantize nf4 --seed 1\n"
      "  nfloat generate ./Llama-3.2-1B-nf4 -p \"The capital of France is\" --max-tokens 8 --temperature 0\n"
      "  cat story.txt | nfloat generate ./SmolLM2-360M --json --logprobs 3\n"
      "Sampling options that are not given come from the model's generation_config.json; without one the "
      "most likely\n"
      "token is taken each time. The text goes to standard output as it is made, everything else to standard "
      "error.");
  add_model_options(command, options->model);
  command.add_option("-p,--prompt", options->prompt, "Text to continue; - or none: standard input")
      .may_be_empty();
  command.add_option("--file", options->file, "Continue the text of this file, to its last byte");
  command
      .add_option("-n,--max-tokens", options->max_tokens,
                  "Most tokens to generate; none: what generation_config.json says, else 128")
      .between(int64_t{1}, int64_t{1} << 27);
  command
      .add_option("--context", options->context,
                  "Most tokens of prompt and text together; 0: what the model allows")
      .between(int64_t{0}, int64_t{1} << 27);
  add_sampling_options(command, options->sampling);
  command.add_option("--stop", options->stop, "End before this text appears; may be given several times")
      .one_at_a_time();
  command
      .add_option(
          "--look-up", options->look_up,
          "Guess up to N tokens from what followed the same ones earlier: the same text, faster where it "
          "repeats its prompt and several tokens cost little more than one; 0: none")
      .between(int64_t{0}, int64_t{63});
  command.add_option(
      "--draft", options->draft,
      "A smaller model with the same tokens that guesses the next ones: the same text, faster where it is "
      "often right");
  command.add_flag("--ignore-eos", options->ignore_eos, "Continue after the model ends its text");
  command.add_flag("--echo", options->echo, "Print the prompt before the text");
  command.add_flag("--quiet", quiet(), "No line about speed at the end");
  command
      .add_option("--logprobs", options->logprobs,
                  "With --json: log-probability of each token and of the N most likely ones")
      .between(0, 1000);
  command.add_flag("--json", options->json, "Print one JSON object at the end");
  command.callback_of_ranks([options] { run(*options); });
}

}  // namespace nfloat::cli
