// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <chrono>
#include <nlohmann/json.hpp>

#include "commands.h"
#include "model_options.h"
#include "nfloat/error.h"
#include "nfloat/evaluate.h"
#include "nfloat/tokenizer.h"
#include "progress.h"

namespace nfloat::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMaxTextBytes = size_t{4} << 30;

struct Options {
  ModelArguments model;
  std::string text, tokens, protocol = "paper", reference_precision;
  int64_t context = 0;
  bool json = false;
};

std::vector<std::vector<int32_t>> read_sequences(const std::string& path, int64_t vocabulary) {
  const std::string text = read_text(path, kMaxTextBytes);
  const auto bad = [&](const std::string& what) {
    return Error(ErrorCode::kMalformedFile, fmt::format("{}: {}", path, what));
  };
  const Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded()) throw bad("not valid JSON");
  if (!json.is_object() || !json.contains("token_ids") || !json["token_ids"].is_array())
    throw bad("expected an object with \"token_ids\", a list of lists of token ids");
  std::vector<std::vector<int32_t>> sequences;
  for (const Json& list : json["token_ids"]) {
    if (!list.is_array()) throw bad(fmt::format("\"token_ids\"[{}] is no list", sequences.size()));
    std::vector<int32_t>& sequence = sequences.emplace_back();
    for (const Json& id : list) {
      if (!id.is_number_integer() || id < 0 || id >= vocabulary)
        throw bad(fmt::format("\"token_ids\"[{}][{}] is {}, expected 0 to {}", sequences.size() - 1,
                              sequence.size(), id.dump(), vocabulary - 1));
      sequence.push_back(id.get<int32_t>());
    }
  }
  return sequences;
}

Json to_json(const PerplexityResult& result) {
  return {{"perplexity", result.perplexity},
          {"tokens", result.tokens},
          {"windows", result.windows},
          {"mean_loss", result.mean_loss},
          {"standard_error", result.standard_error},
          {"perplexity_standard_error", result.perplexity_error()}};
}

void print_divergence(const Options& options, const DivergenceResult& result, Precision model_precision) {
  if (options.json) {
    Json json = to_json(result.model);
    json["precision"] = precision_name(model_precision);
    json["reference"] = to_json(result.reference);
    json["reference"]["precision"] = options.reference_precision;
    json["divergence"] = {{"mean_kl", result.mean_kl},
                          {"median_kl", result.median_kl},
                          {"kl_99", result.kl_99},
                          {"max_kl", result.max_kl},
                          {"same_top", result.same_top}};
    fmt::print("{}\n", json.dump(2));
    return;
  }
  fmt::print("perplexity {:.4f}, {} arithmetic {:.4f}: {:+.3f} %\n", result.model.perplexity,
             options.reference_precision, result.reference.perplexity,
             100 * (result.model.perplexity / result.reference.perplexity - 1));
  fmt::print("KL divergence a token: mean {:.3g}, median {:.3g}, 99 % {:.3g}, largest {:.3g} nats\n",
             result.mean_kl, result.median_kl, result.kl_99, result.max_kl);
  fmt::print("same most likely token: {:.2f} % of {} tokens\n", 100 * result.same_top, result.tokens);
}

void print_perplexity(const Options& options, const PerplexityResult& result, double seconds) {
  if (options.json) {
    Json json = to_json(result);
    json["protocol"] = options.tokens.empty() ? options.protocol : "sequences";
    json["seconds"] = seconds;
    fmt::print("{}\n", json.dump(2));
    return;
  }
  fmt::print("perplexity {:.4f} +- {:.4f}\n", result.perplexity, result.perplexity_error());
  fmt::print("mean loss {:.6f} +- {:.6f} nats a token, {} tokens scored in {} {}, {:.0f} tokens/s\n",
             result.mean_loss, result.standard_error, result.tokens, result.windows,
             options.tokens.empty() ? "windows" : "sequences", static_cast<double>(result.tokens) / seconds);
}

void run(const Options& options) {
  if (options.text.empty() == options.tokens.empty()) throw UsageError("give one of --text and --tokens");
  if (!options.tokens.empty() && !options.reference_precision.empty())
    throw UsageError("--reference-precision goes with --text");
  PerplexityOptions own;
  own.protocol = parse_perplexity_protocol(options.protocol);
  own.context = options.context;
  own.kv_cache = parse_kv_cache(options.model.kv_cache);
  catch_interrupts();
  const Model model = load_model(options.model);

  ProgressBar bar("score", "tokens");
  own.progress = [&bar](int64_t done, int64_t total, double perplexity) {
    if (interrupted()) throw Error(ErrorCode::kInterrupted, "interrupted while scoring");
    bar.update(static_cast<uint64_t>(done), static_cast<uint64_t>(total),
               fmt::format("perplexity {:.3f}", perplexity));
  };
  const auto start = std::chrono::steady_clock::now();
  const auto seconds = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  if (!options.tokens.empty()) {
    const auto sequences = read_sequences(options.tokens, model.config().vocabulary);
    const PerplexityResult result = perplexity_of_sequences(model, sequences, own);
    bar.finish();
    return print_perplexity(options, result, seconds());
  }
  const Tokenizer tokenizer = Tokenizer::load(resolve_model_path(options.model.model));
  const std::vector<int32_t> tokens = tokenizer.encode(read_text(options.text, kMaxTextBytes), false);
  if (model.config().bos_token < 0) own.bos_token = tokenizer.bos_id().value_or(-1);
  if (options.reference_precision.empty()) {
    const PerplexityResult result = perplexity(model, tokens, own);
    bar.finish();
    return print_perplexity(options, result, seconds());
  }
  const DivergenceResult result =
      divergence(model, model, tokens, own, parse_precision(options.reference_precision));
  bar.finish();
  print_divergence(options, result, model.options().precision);
}

}  // namespace

void add_perplexity_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("perplexity", "Score a text: how surprised a model is by each of its tokens");
  command->footer(
      "Examples:\n"
      "  nfloat perplexity models/nfloat-tiny --text models/nfloat-tiny/stories.txt --protocol bos --context "
      "256\n"
      "  nfloat perplexity ./Llama-3.2-1B --text wiki.test.raw --quantize nf4:64\n"
      "  nfloat perplexity ./Llama-3.2-1B-nf4 --text wiki.test.raw --precision int8 --reference-precision "
      "f32\n"
      "Protocols (the text is tokenized once, without special tokens; the model forgets between windows):\n"
      "  paper      windows of --context tokens (2048), each token after the first of its window counts\n"
      "  llama.cpp  windows of 512, the first token replaced by BOS, only the second half counts\n"
      "  bos        windows of --context tokens, each after a BOS, all of them count, the short last one "
      "too\n"
      "Perplexities of different protocols, contexts or tokenizers cannot be compared.");
  add_model_options(*command, options->model);
  command->add_option("--text", options->text, "Text file, or - for standard input");
  command->add_option("--tokens", options->tokens,
                      "JSON file: each sequence of its \"token_ids\" is scored, each token after the first");
  command->add_option("--protocol", options->protocol, "paper, llama.cpp or bos")
      ->check(CLI::IsMember({"paper", "llama.cpp", "bos"}))
      ->capture_default_str();
  command->add_option("--context", options->context, "Tokens a window; 0: the protocol's usual number")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 27));
  command
      ->add_option(
          "--reference-precision", options->reference_precision,
          "Also run the same weights with this arithmetic and tell how far apart the predictions are")
      ->check(CLI::IsMember({"f32", "bf16", "int8"}));
  command->add_flag("--json", options->json, "Print JSON");
  command->callback([options] { run(*options); });
}

}  // namespace nfloat::cli
