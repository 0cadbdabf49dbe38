// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <chrono>
#include <exception>
#include <filesystem>
#include <memory>
#include <set>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "commands.h"
#include "convert_options.h"
#include "model_options.h"
#include "nfloat/chat.h"
#include "nfloat/checkpoint.h"
#include "nfloat/engine.h"
#include "nfloat/error.h"
#include "nfloat/lead.h"
#include "nfloat/serve.h"
#include "notes.h"
#include "progress.h"
#include "sampling_options.h"
#include "service_manager.h"
#include "signals.h"

namespace nfloat::cli {
namespace {

constexpr size_t kMostFileBytes = size_t{4} << 20;

struct Options {
  ModelArguments model;
  ServeOptions serve;
  int port = 8080;
  int64_t step_milliseconds = 100, drain = 30, stall = 120;
  std::string kv_memory, prefix_cache_size, api_key_file, chat_template, draft;
  std::vector<std::string> adapters;  // NAME=FOLDER
};

struct Loaded {
  Model model;
  std::optional<Model> draft;
};

Loaded load(const Options& options, const std::string& folder) {
  Loaded loaded{load_model(options.model), std::nullopt};
  if (!options.draft.empty())
    loaded.draft = load_draft(options.model, options.draft, Tokenizer::load(folder));
  return loaded;
}

// A rank above 0: rank 0 has the sockets, and ends this one when it ends.
void follow(const Options& options, const std::string& folder) {
  const Loaded loaded = load(options, folder);
  LedModels led{{loaded.model}, {}};
  if (loaded.draft) led.models.push_back(*loaded.draft);
  for (const ServedAdapter& adapter : options.serve.adapters)
    led.adapters.push_back(load_adapters(loaded.model, {adapter.choice}).adapters);
  ignore_requests_to_end();
  lead_ranks(led);
}

void open(const Options& options, Server& server, const std::string& folder) {
  const auto [model, draft] = load(options, folder);
  for (const std::string& note : server.open(model, folder, draft)) warn(note);
  const ModelConfig& config = model.config();
  std::vector<int32_t> ends;
  if (!quiet()) named_sampler_options({}, folder, config, &ends);
  note("Memory: weights {}, keys and values at most {} for {} of up to {}.\n",
       format_bytes(model.memory().resident_bytes()), format_bytes(server.kv_bytes()),
       count_of(options.serve.streams, "stream"), count_of(server.context(), "token"));
  const std::string address = server.address();
  if (address.starts_with("unix:"))
    note("Ready: API and page at {}\n", address);
  else
    note("Ready: API at {}/v1, page at {}/\n", address, address);
  tell_service_manager("READY=1");
}

// What is wrong with the options themselves is said before anyone can connect.
void check(const Options& options, const std::string& folder) {
  check_model_arguments(options.model);
  const Checkpoint checkpoint(folder);
  if (const std::string text = checkpoint.text_file("config.json"); !text.empty())
    plan_kv(parse_model_config(text, checkpoint.path() + "/config.json"),
            parse_precision(options.model.precision),
            {.streams = options.serve.streams,
             .context = options.serve.context,
             .kv_cache = options.serve.kv_cache,
             .kv_bytes = options.serve.kv_bytes});
  std::set<std::string> names{options.serve.model_name};
  for (const ServedAdapter& adapter : options.serve.adapters) {
    if (!names.insert(adapter.name).second)
      throw UsageError(fmt::format("--adapter {}: several models have this name", adapter.name));
    const auto file = std::filesystem::path(adapter.choice.folder) / "adapter_config.json";
    std::error_code ignored;
    if (!std::filesystem::exists(file, ignored))
      throw Error(ErrorCode::kNotFound,
                  fmt::format("--adapter {}: there is no {}", adapter.name, file.string()));
  }
  if (!options.draft.empty()) model_folder(options.draft);
  if (!options.serve.chat_template.empty())
    ChatTemplate::parse(options.serve.chat_template, "--chat-template");
}

void run(Options& options) {
  options.serve.port = static_cast<uint16_t>(options.port);
  options.serve.step_seconds = static_cast<double>(options.step_milliseconds) * 1e-3;
  options.serve.drain_seconds = static_cast<double>(options.drain);
  options.serve.stall_seconds = static_cast<double>(options.stall);
  if (!options.kv_memory.empty()) options.serve.kv_bytes = parse_bytes(options.kv_memory, "--kv-memory");
  if (!options.prefix_cache_size.empty() && options.serve.prefix_folder.empty())
    throw UsageError("--prefix-cache-size is of --prefix-cache, which names the folder");
  if (!options.serve.prefix_folder.empty() && rank_place().count > 1)
    throw UsageError(
        "--prefix-cache: of several ranks each has a part of what was read; there is no folder for them");
  if (!options.prefix_cache_size.empty())
    options.serve.prefix_folder_bytes = parse_bytes(options.prefix_cache_size, "--prefix-cache-size");
  options.serve.kv_cache = parse_kv_cache(options.model.kv_cache);
  for (const std::string& adapter : options.adapters) {
    const size_t equal = adapter.find('=');
    if (equal == std::string::npos || equal == 0 || equal + 1 == adapter.size())
      throw UsageError(fmt::format("--adapter {}: expected NAME=FOLDER", adapter));
    options.serve.adapters.push_back({adapter.substr(0, equal), parse_adapter(adapter.substr(equal + 1))});
  }
  // A row in int8 is the same alone and among others.
  if (options.model.precision == "auto") options.model.precision = "int8";
  options.model.one_precision = true;
  const std::string folder = model_folder(options.model.model);
  if (options.serve.model_name.empty()) {
    const size_t slash = options.model.model.find_last_not_of('/');
    const std::string given = options.model.model.substr(0, slash + 1);
    options.serve.model_name = given.substr(given.rfind('/') + 1);
  }
  if (rank_place().rank > 0) return follow(options, folder);
  if (!options.api_key_file.empty())
    options.serve.api_keys =
        read_api_keys(read_text(options.api_key_file, kMostFileBytes), options.api_key_file);
  if (!options.chat_template.empty())
    options.serve.chat_template = read_text(options.chat_template, kMostFileBytes);
  options.serve.listening = sockets_of_service_manager();
  check(options, folder);
  catch_interrupts();
  ignore_broken_pipes();
  Server server(options.serve);
  note("Listening at {}; loading {}.\n", server.address(), options.model.model);
  std::exception_ptr failed;
  std::thread loader([&] {
    try {
      open(options, server, folder);
    } catch (...) {
      failed = std::current_exception();
      server.stop();
    }
  });
  const auto patience = service_manager_patience();
  auto told = std::chrono::steady_clock::now();
  const bool whole = server.run([&] {
    if (ranks_lost()) server.stop();
    const auto now = std::chrono::steady_clock::now();
    if (interrupted()) {
      tell_service_manager("STOPPING=1");
    } else if (patience.count() > 0 && now - told >= patience / 2 && server.trouble().empty()) {
      tell_service_manager("WATCHDOG=1");
      told = now;
    }
    return interrupted();
  });
  loader.join();
  if (failed) std::rethrow_exception(failed);
  expect_ranks();
  note("{}\n", whole ? "Ended: every answer was given." : "Ended: answers were broken off.");
}

}  // namespace

void add_serve_command(const Command& app) {
  auto options = std::make_shared<Options>();
  const Command command = app.add_subcommand("serve", "Serve a model over the OpenAI API, with a page");
  command.footer(
      "Examples:\n"
      "  nfloat serve ./Qwen3-0.6B --quantize nf4\n"
      "  nfloat serve ./Llama-3.2-1B-nf4 --streams 8 --context 8192 --kv-memory 2G\n"
      "  nfloat serve ./SmolLM2-360M --host 0.0.0.0 --api-key-file keys.txt\n"
      "Several requests are answered together at little more than the cost of one. Ctrl-C or SIGTERM lets "
      "running\n"
      "answers end (--drain); a second one ends at once. docs/serve.md tells more.");
  add_model_options(command, options->model);
  ServeOptions& serve = options->serve;
  serve.look_up = 7;
  command
      .add_option("--host", serve.host, "Address to listen on, or unix:PATH for a socket of this user alone")
      .show_default();
  command.add_option("--port", options->port, "Port; 0: a free one").between(0, 65535).show_default();
  command.add_option("--streams", serve.streams, "Sequences that are continued together")
      .between(1, 512)
      .show_default();
  command.add_option("--queue", serve.queue, "Requests that may wait; more get 429")
      .between(0, 1 << 20)
      .show_default();
  command.add_option("--context", serve.context, "Most tokens of one sequence; 0: what the model allows")
      .between(int64_t{0}, int64_t{1} << 27);
  command.add_option("--kv-memory", options->kv_memory,
                     "Memory for keys and values, as 2G; none given: what all streams can fill");
  command.add_option(
      "--prefix-cache", serve.prefix_folder,
      "Folder that keeps what was read of conversations, for later ones that begin so, after a restart too");
  command.add_option("--prefix-cache-size", options->prefix_cache_size,
                     "What --prefix-cache may take on the disk, as 10G; 4G if none is given");
  command
      .add_option(
          "--adapter", options->adapters,
          "NAME=FOLDER, FOLDER as PEFT saves adapters: requests for the model NAME get it; several times")
      .one_at_a_time();
  command
      .add_option(
          "--look-up", serve.look_up,
          "Guess up to N tokens from what followed the same ones earlier: the same answers, faster where "
          "they repeat their prompt; 0: none")
      .between(int64_t{0}, int64_t{7})
      .show_default();
  command.add_option("--draft", options->draft,
                     "A smaller model with the same tokens that guesses the next ones: the same answers");
  command.add_option("--step-ms", options->step_milliseconds, "Longest step with a piece of a prompt, in ms")
      .between(int64_t{1}, int64_t{60000})
      .show_default();
  command
      .add_option("--max-tokens", serve.max_tokens,
                  "Tokens of an answer whose request names no limit; 0: the context")
      .between(int64_t{0}, int64_t{1} << 27);
  command.add_option("--model-name", serve.model_name, "What the API calls the model");
  command.add_flag("--any-model", serve.any_model, "Requests may name any model");
  command.add_option("--chat-template", options->chat_template,
                     "File with a chat template, in place of the model's");
  command.add_option("--api-key-file", options->api_key_file,
                     "File with the keys that clients must send, one a line");
  command.add_flag("--no-api-key", serve.public_without_key,
                   "Allow an address that other machines reach without keys");
  command
      .add_option("--allowed-host", serve.allowed_hosts, "Name of this server in Host headers; several times")
      .one_at_a_time();
  command.add_option("--cors-origin", serve.cors_origin, "Web origin whose pages may call the API");
  command.add_option("--tls-cert", serve.tls_certificate,
                     "PEM file with the certificate (and those that vouch for it): https in place of http");
  command.add_option("--tls-key", serve.tls_key, "PEM file with its key");
  command.add_option("--drain", options->drain, "Seconds that running answers may take at the end")
      .between(int64_t{0}, int64_t{86400})
      .show_default();
  command
      .add_option("--stall", options->stall,
                  "Seconds after which a step that has not ended is told as an error by /health")
      .between(int64_t{1}, int64_t{86400})
      .show_default();
  command.add_flag("--quiet", quiet(), "No notes");
  command.callback_of_ranks([options] { run(*options); });
}

}  // namespace nfloat::cli
