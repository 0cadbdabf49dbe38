// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>

#include "commands.h"
#include "model_options.h"
#include "nfloat/chat.h"
#include "nfloat/error.h"
#include "nfloat/sampler.h"
#include "nfloat/tokenizer.h"
#include "progress.h"

namespace nfloat::cli {
namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

struct Options {
  ModelArguments model;
  std::string render, system;
  int64_t max_tokens = 1024, context = 4096;
  std::optional<float> temperature;
  std::optional<uint64_t> seed;
  bool quiet = false;
};

constexpr const char* kChatMl =
    "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\\n' ~ m.content ~ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

// The conversation and what the model has taken in of it.
class Chat {
 public:
  Chat(const Options& options, const std::string& folder)
      : options_(options),
        tokenizer_(Tokenizer::load(folder)),
        model_(load_model(options.model)),
        session_(model_, {.context = std::min(options.context, model_.config().context),
                          .kv_cache = parse_kv_cache(options.model.kv_cache)}),
        sampler_(settings(folder)),
        template_(ChatTemplate::load(folder)) {
    if (const auto id = tokenizer_.token_id("<|im_end|>"); id && tokenizer_.token_id("<|im_start|>")) {
      ends_.push_back(*id);
      if (!template_) template_ = ChatTemplate::parse(kChatMl, "ChatML");
    }
    if (!template_ && !options.quiet)
      fmt::print(stderr, "This model has no chat template and no ChatML tokens: plain completion.\n");
    reset(options.system);
  }

  void reset(const std::string& system) {
    messages_ = Json::array();
    text_.clear();
    if (!system.empty() && template_)
      messages_.push_back({{"role", "system"}, {"content", system}});
    else if (!system.empty())
      text_ = system;
  }

  // One turn, streamed to standard output.
  void answer(const std::string& user) {
    const Json messages_before = messages_;
    const std::string text_before = text_;
    std::string prompt;
    if (template_) {
      messages_.push_back({{"role", "user"}, {"content", user}});
      prompt = template_->render(Json{{"messages", messages_}, {"add_generation_prompt", true}}.dump());
    } else {
      prompt = text_ += user;
    }
    const std::vector<int32_t> tokens = tokenizer_.encode(prompt, !template_);
    if (tokens.empty()) return;
    if (static_cast<int64_t>(tokens.size()) >= session_.context()) {
      messages_ = messages_before;
      text_ = text_before;
      fmt::print(stderr, "The context of {} tokens is full ({} needed): /reset, or start with --context.\n",
                 session_.context(), tokens.size());
      return;
    }
    const std::string said = generate(tokens);
    if (template_)
      messages_.push_back({{"role", "assistant"}, {"content", said}});
    else
      text_ += said;
  }

 private:
  SamplerOptions settings(const std::string& folder) {
    ends_ = model_.config().eos_tokens;
    SamplerOptions result =
        parse_generation_config(Checkpoint(folder).text_file("generation_config.json"),
                                folder + "/generation_config.json", model_.config(), &ends_);
    if (options_.temperature) result.temperature = *options_.temperature;
    result.seed = options_.seed.value_or(
        static_cast<uint64_t>(std::chrono::system_clock::now().time_since_epoch().count()));
    return result;
  }

  // Keeps what the cache shares with `tokens` and takes in the rest; at least the last one, for its logits.
  std::string generate(const std::vector<int32_t>& tokens) {
    const auto same = std::mismatch(taken_.begin(), taken_.end(), tokens.begin(), tokens.end()).first;
    const auto kept = std::min(same - taken_.begin(), static_cast<std::ptrdiff_t>(tokens.size()) - 1);
    session_.rewind(kept);
    taken_.resize(static_cast<size_t>(kept));
    const Clock::time_point start = Clock::now();
    std::span<const float> logits = session_.prefill(std::span(tokens).subspan(static_cast<size_t>(kept)));
    taken_ = tokens;
    const Clock::time_point begun = Clock::now();
    TokenStream stream(tokenizer_);
    std::string said;
    const auto show = [&](const std::string& text) {
      said += text;
      std::fwrite(text.data(), 1, text.size(), stdout);
      std::fflush(stdout);
    };
    int64_t count = 0;
    while (count < options_.max_tokens && !interrupted()) {
      const int32_t token = sampler_.sample(logits, taken_);
      if (std::find(ends_.begin(), ends_.end(), token) != ends_.end()) break;
      show(token < tokenizer_.vocab_size() ? stream.push(token) : std::string());
      ++count;
      if (session_.position() == session_.context()) break;
      logits = session_.decode(token);
      taken_.push_back(token);
    }
    show(stream.flush());
    fmt::print("\n");
    if (!options_.quiet) {
      const auto seconds = std::chrono::duration<double>(Clock::now() - begun).count();
      fmt::print(stderr,
                 "[{} new tokens read in {:.2f} s, {} reused; {} tokens, {:.1f} tokens/s; {} of {} left]\n",
                 static_cast<std::ptrdiff_t>(tokens.size()) - kept,
                 std::chrono::duration<double>(begun - start).count(), kept, count,
                 static_cast<double>(count) / std::max(seconds, 1e-9),
                 session_.context() - session_.position(), session_.context());
    }
    return said;
  }

  const Options& options_;
  Tokenizer tokenizer_;
  Model model_;
  Session session_;
  std::vector<int32_t> ends_;
  Sampler sampler_;
  std::optional<ChatTemplate> template_;
  Json messages_ = Json::array();
  std::string text_;
  std::vector<int32_t> taken_;
};

void print_prompt(const Options& options, const std::string& folder) {
  const std::optional<ChatTemplate> chat = ChatTemplate::load(folder);
  if (!chat) throw Error(ErrorCode::kNotFound, folder + ": no chat template");
  const std::string prompt = chat->render(read_text(options.render, size_t{64} << 20));
  std::fwrite(prompt.data(), 1, prompt.size(), stdout);
}

void run(const Options& options) {
  const std::string folder =
      options.render.empty() ? resolve_model_path(options.model.model) : options.model.model;
  if (!options.render.empty()) return print_prompt(options, folder);
  const bool terminal = ::isatty(STDIN_FILENO) == 1;
  Chat chat(options, folder);
  if (terminal) fmt::print(stderr, "/help lists the commands; Ctrl-D ends.\n");
  std::string line;
  while (true) {
    if (terminal) fmt::print(stderr, "> ");
    if (!std::getline(std::cin, line)) return;
    if (line == "/exit") return;
    if (line == "/help")
      fmt::print(
          stderr,
          "/system TEXT  begin anew with this instruction\n/reset        begin anew\n/exit         end\n");
    else if (line == "/reset")
      chat.reset(options.system);
    else if (line.starts_with("/system "))
      chat.reset(line.substr(8));
    else if (line.starts_with("/"))
      fmt::print(stderr, "unknown command {}; /help lists them\n", line);
    else if (!line.empty())
      chat.answer(line);
  }
}

}  // namespace

void add_chat_command(CLI::App& app) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("chat", "Talk with a model in the terminal");
  command->footer(
      "Examples:\n"
      "  nfloat chat ./Qwen3-0.6B --quantize nf4\n"
      "  nfloat chat ./Qwen3-0.6B --render conversation.json\n"
      "A line is a turn. Only what is new of the conversation is read by the model. A model without a chat "
      "template\n"
      "and without ChatML tokens continues the text instead, and that is said.");
  add_model_options(*command, options->model);
  command->add_option(
      "--render", options->render,
      "Print the exact prompt for this JSON file (messages, tools, add_generation_prompt) and end");
  command->add_option("--system", options->system, "Instruction that the conversation begins with");
  command->add_option("-n,--max-tokens", options->max_tokens, "Most tokens of one answer")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 27))
      ->capture_default_str();
  command->add_option("--context", options->context, "Most tokens of the conversation")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 27))
      ->capture_default_str();
  command->add_option("--temperature", options->temperature,
                      "Below 1 plainer, above 1 wilder; 0: the most likely token");
  command->add_option("--seed", options->seed, "The same seed gives the same answers");
  command->add_flag("--quiet", options->quiet, "Answers only, no notes and speeds");
  command->callback([options] { run(*options); });
}

}  // namespace nfloat::cli
