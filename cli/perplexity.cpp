// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "base/json.h"
#include "cache.h"
#include "commands.h"
#include "model_options.h"
#include "nfloat/error.h"
#include "nfloat/evaluate.h"
#include "nfloat/files.h"
#include "nfloat/results.h"
#include "nfloat/tokenizer.h"
#include "notes.h"
#include "progress.h"
#include "rank_options.h"
#include "scoring_input.h"

namespace nfloat::cli {
namespace {

constexpr size_t kMaxTextBytes = size_t{4} << 30;
constexpr uint64_t kMostCacheBytes = 4'000'000'000;  // of a reference that nobody asked to keep

struct Options {
  ModelArguments model;
  std::string text, tokens, protocol = "paper", reference_precision, reference, reference_cache;
  int64_t context = 0;
  bool json = false;
};

std::vector<std::vector<int32_t>> read_sequences(const std::string& path, const RankArguments& ranks,
                                                 int64_t vocabulary) {
  std::string text = read_text(path, kMaxTextBytes);
  take_from_first_rank(ranks, text);
  const auto bad = [&](const std::string& what) {
    return Error(ErrorCode::kMalformedFile, fmt::format("{}: {}", path, what));
  };
  const Json json = parse_json(text, path, {.unique_names = true});
  if (!json.is_object() || !json.contains("token_ids") || !json["token_ids"].is_array())
    throw bad("expected an object with \"token_ids\", a list of lists of token ids");
  std::vector<std::vector<int32_t>> sequences;
  for (const Json& list : json["token_ids"]) {
    if (!list.is_array()) throw bad(fmt::format("\"token_ids\"[{}] is no list", sequences.size()));
    std::vector<int32_t>& sequence = sequences.emplace_back();
    for (const Json& id : list) {
      if (!id.is_number_unsigned() || id.get<uint64_t>() >= static_cast<uint64_t>(vocabulary))
        throw bad(fmt::format("\"token_ids\"[{}][{}] is {}, expected 0 to {}", sequences.size() - 1,
                              sequence.size(), id.dump(), vocabulary - 1));
      sequence.push_back(id.get<int32_t>());
    }
  }
  return sequences;
}

// `reference`: what the reference is, in words.
void print_divergence(const Options& options, const DivergenceResult& d, const Model& model,
                      const std::string& reference) {
  if (options.json) {
    const std::string precision = precision_name(model.options().precision);
    fmt::print("{}\n", divergence_json(
                           d, {precision, options.reference.empty() ? options.model.model : options.reference,
                               options.reference_precision.empty() ? precision : options.reference_precision,
                               model.options().device}));
    return;
  }
  fmt::print("perplexity              {:.4f} +- {:.4f}\n", d.model.perplexity, d.model.perplexity_error());
  fmt::print("{:<22}  {:.4f} +- {:.4f}\n", "of " + reference, d.reference.perplexity,
             d.reference.perplexity_error());
  fmt::print("ln(PPL ratio)           {:.6f} +- {:.6f} ({:+.3f} %)\n", d.log_ratio, d.log_ratio_error,
             100 * std::expm1(d.log_ratio));
  fmt::print("KL divergence, nats     mean {:.6f} +- {:.6f}, median {:.6f}, 99 % {:.6f}, maximum {:.6f}\n",
             d.mean_kl, d.mean_kl_error, d.median_kl, d.kl_99, d.max_kl);
  fmt::print("delta p                 mean {:+.4f} +- {:.4f} %, RMS {:.4f} +- {:.4f} %\n",
             100 * d.mean_delta_p, 100 * d.mean_delta_p_error, 100 * d.rms_delta_p,
             100 * d.rms_delta_p_error);
  fmt::print("same top token          {:.3f} +- {:.3f} % of {}\n", 100 * d.same_top, 100 * d.same_top_error,
             count_of(d.tokens, "token"));
}

void print_perplexity(const Options& options, const PerplexityResult& result, double seconds,
                      const Model& model) {
  if (options.json) {
    fmt::print("{}\n", perplexity_json(result, options.tokens.empty() ? options.protocol : "sequences",
                                       seconds, model.options().device));
    return;
  }
  fmt::print("perplexity {:.4f} +- {:.4f}\n", result.perplexity, result.perplexity_error());
  fmt::print("mean loss {:.6f} +- {:.6f} nats a token, {} scored in {}, {:.0f} tokens/s\n", result.mean_loss,
             result.standard_error, count_of(result.tokens, "token"),
             count_of(result.windows, options.tokens.empty() ? "window" : "sequence"),
             static_cast<double>(result.tokens) / seconds);
}

class Job {
 public:
  explicit Job(const Options& options) : options_(options) {
    scoring_.protocol = parse_perplexity_protocol(options.protocol);
    scoring_.context = options.context;
    scoring_.kv_cache = parse_kv_cache(options.model.kv_cache);
    scoring_.progress = [this](int64_t done, int64_t total, double perplexity) {
      if (interrupted()) throw Error(ErrorCode::kInterrupted, "interrupted while scoring");
      bar_.update(static_cast<uint64_t>(done), static_cast<uint64_t>(total),
                  fmt::format("perplexity {:.3f}", perplexity));
    };
  }

  void run() {
    if (!options_.reference_cache.empty()) {
      std::vector<NamedPath> inputs = read_by(options_.model);
      inputs.push_back({options_.text, "--text"});
      inputs.push_back({model_folder(options_.reference), "--reference"});
      expect_outputs_apart({{options_.reference_cache, "--reference-cache"}}, inputs);
    }
    if (!options_.tokens.empty()) return score_sequences();
    tokenizer_ = Tokenizer::load(model_folder(options_.model.model));
    text_ = read_text(options_.text, kMaxTextBytes);
    take_from_first_rank(options_.model.ranks, text_);
    expect_text(text_, options_.text);
    tokens_ = scored_tokens(*tokenizer_, text_, scoring_);
    if (!options_.reference.empty()) {
      if (rank_place().count > 1)
        throw UsageError("perplexity: --reference is not measured by several ranks");
      return score_against_original();
    }
    const Model model = load_model(options_.model);
    complete(model);
    if (options_.reference_precision.empty()) {
      const auto start = Clock::now();
      const PerplexityResult result = perplexity(model, tokens_, scoring_);
      bar_.finish();
      return print_perplexity(options_, result, seconds_since(start), model);
    }
    const DivergenceResult result =
        divergence(model, model, tokens_, scoring_, parse_precision(options_.reference_precision));
    bar_.finish();
    print_divergence(options_, result, model, fmt::format("{} arithmetic", options_.reference_precision));
  }

 private:
  using Clock = std::chrono::steady_clock;
  static double seconds_since(Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  }

  void complete(const Model& model) {
    if (model.config().bos_token < 0 && scoring_.bos_token == -1)
      scoring_.bos_token = tokenizer_->bos_id().value_or(-1);
  }

  void score_sequences() {
    const Model model = load_model(options_.model);
    const auto sequences = read_sequences(options_.tokens, options_.model.ranks, model.config().vocabulary);
    const auto start = Clock::now();
    const PerplexityResult result = perplexity_of_sequences(model, sequences, scoring_);
    bar_.finish();
    print_perplexity(options_, result, seconds_since(start), model);
  }

  // The original's distributions come from the cache, or are put there first, or, where the file would be too
  // large, both models run side by side.
  void score_against_original() {
    const std::string folder = model_folder(options_.reference);
    PerplexityOptions other_scoring = scoring_;
    const std::vector<int32_t> others = scored_tokens(Tokenizer::load(folder), text_, other_scoring);
    const auto differ = std::mismatch(tokens_.begin(), tokens_.end(), others.begin(), others.end());
    if (differ.first != tokens_.end() || differ.second != others.end())
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("{}: its tokenizer cuts {} in another way than {}'s from token {} on: their "
                              "predictions cannot be compared",
                              options_.reference, options_.text, options_.model.model,
                              differ.first - tokens_.begin()));
    ModelArguments original = options_.model;
    original.model = options_.reference;
    original.lora.clear();
    original.quantize.clear();
    original.double_quantization = false;
    original.head = "keep";
    if (!options_.reference_precision.empty()) original.precision = options_.reference_precision;
    std::optional<Model> reference;
    const std::string identity = scoring_identity(
        folder, text_, fmt::format("{} {} {}", options_.protocol, options_.context, original.precision));
    const bool own = !options_.reference_cache.empty();
    const std::optional<std::string> cache = cache_folder();
    const std::string path = own     ? options_.reference_cache
                             : cache ? fmt::format("{}/reference-{}.nfloat", *cache, identity)
                                     : "";
    std::optional<ReferenceDistributions> distributions;
    if (!path.empty()) distributions = cached(path, identity, own);
    if (!distributions) {
      reference = load_model(original);
      complete(*reference);
      const uint64_t bytes = ReferenceDistributions::file_bytes(static_cast<int64_t>(tokens_.size()),
                                                                reference->config().vocabulary);
      if (path.empty()) {
        note(
            "no cache folder: the original's log-probabilities are not kept (--reference-cache FILE keeps "
            "them)\n");
      } else if (own || bytes <= kMostCacheBytes) {
        distributions = keep(path, identity, *reference, own);
        if (distributions) reference.reset();
      } else {
        note(
            "the original's log-probabilities would take up to {}: not kept (--reference-cache FILE "
            "keeps them)\n",
            format_bytes(bytes));
      }
    }
    const Model model = load_model(options_.model);
    complete(model);
    const DivergenceResult result = distributions ? divergence(*distributions, model, tokens_, scoring_)
                                                  : divergence(*reference, model, tokens_, scoring_);
    bar_.finish();
    print_divergence(options_, result, model, "the original");
  }

  // Writes the original's distributions. Nothing where the cache cannot be written to: then both models run
  // side by side. A file that the user named must be written.
  std::optional<ReferenceDistributions> keep(const std::string& path, const std::string& identity,
                                             const Model& reference, bool own) {
    try {
      if (!own) make_folders(path.substr(0, path.rfind('/')));
      ReferenceDistributions::write(path, identity, reference, tokens_, scoring_);
      bar_.finish();
      ReferenceDistributions there(path);
      if (!own) trim_cache(path.substr(0, path.rfind('/')), kCacheBytes, path);
      note("{}: the original's log-probabilities, for further runs with this text\n", path);
      return there;
    } catch (const Error& error) {
      bar_.finish();
      if (own || (error.code() != ErrorCode::kIo && error.code() != ErrorCode::kAlreadyExists)) throw;
      note("{}: not kept for further runs (--reference-cache FILE names another place)\n", error.what());
      return std::nullopt;
    }
  }

  static std::optional<ReferenceDistributions> cached(const std::string& path, const std::string& identity,
                                                      bool own) {
    try {
      ReferenceDistributions there(path);
      if (there.identity() == identity) return there;
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kNotFound && error.code() != ErrorCode::kMalformedFile &&
          (own || error.code() != ErrorCode::kIo))
        throw;
    }
    return std::nullopt;
  }

  const Options& options_;
  PerplexityOptions scoring_;
  std::optional<Tokenizer> tokenizer_;
  std::string text_;
  std::vector<int32_t> tokens_;
  ProgressBar bar_{"score", "tokens"};
};

void run(const Options& options) {
  if (options.text.empty() == options.tokens.empty()) throw UsageError("give one of --text and --tokens");
  if (!options.tokens.empty() && !(options.reference_precision.empty() && options.reference.empty()))
    throw UsageError("--reference and --reference-precision go with --text");
  if (options.reference.empty() && !options.reference_cache.empty())
    throw UsageError("--reference-cache goes with --reference");
  catch_interrupts();
  Job(options).run();
}

}  // namespace

void add_perplexity_command(const Command& app) {
  auto options = std::make_shared<Options>();
  const Command command = app.add_subcommand("perplexity", "Measure the perplexity of a model on a text");
  command.footer(
      "Examples:\n"
      "  nfloat perplexity models/nfloat-tiny --text models/nfloat-tiny/stories.txt --protocol bos --context "
      "256\n"
      "  nfloat perplexity ./Llama-3.2-1B --text wiki.test.raw --quantize nf4:64\n"
      "  nfloat perplexity ./Llama-3.2-1B-nf4 --text wiki.test.raw --reference ./Llama-3.2-1B\n"
      "  nfloat perplexity ./Llama-3.2-1B-nf4 --text wiki.test.raw --precision int8 --reference-precision "
      "f32\n"
      "Protocols (the text is tokenized once, without special tokens; the model forgets between windows):\n"
      "  paper      windows of --context tokens (2048), each token after the first of its window counts\n"
      "  llama.cpp  windows of 512, the first token replaced by BOS, only the second half counts\n"
      "  bos        windows of --context tokens, each after a BOS, all of them count, the short last one "
      "too\n"
      "Perplexities of different protocols, contexts or tokenizers cannot be compared.");
  options->model.scoring = options->model.one_precision = true;
  add_model_options(command, options->model);
  add_stream_option(command, options->model);
  command.add_option("--text", options->text, "Text file, or - for standard input");
  command.add_option("--tokens", options->tokens,
                     "JSON file: each sequence of its \"token_ids\" is scored, each token after the first");
  command.add_option("--protocol", options->protocol, "paper, llama.cpp or bos")
      .one_of({"paper", "llama.cpp", "bos"})
      .show_default();
  command.add_option("--context", options->context, "Tokens a window; 0: the protocol's usual number")
      .between(int64_t{0}, int64_t{1} << 27);
  command.add_option("--reference", options->reference,
                     "The original model: report the divergence of the predictions from its own");
  command.add_option("--reference-cache", options->reference_cache,
                     "File for the original's log-probabilities; without it, in the cache folder up to 4 GB");
  command
      .add_option("--reference-precision", options->reference_precision,
                  "Arithmetic of the reference; without --reference the same weights are run with it")
      .one_of({"f32", "bf16", "int8"});
  command.add_flag("--json", options->json, "Print JSON");
  command.callback_of_ranks([options] { run(*options); });
}

}  // namespace nfloat::cli
