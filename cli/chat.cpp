// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "commands.h"
#include "model_options.h"
#include "nfloat/chat.h"
#include "nfloat/conversation.h"
#include "nfloat/error.h"
#include "nfloat/files.h"
#include "nfloat/lead.h"
#include "notes.h"
#include "progress.h"
#include "sampling_options.h"
#include "signals.h"
#include "turn_reader.h"

namespace nfloat::cli {
namespace {

constexpr size_t kMostFileBytes = size_t{64} << 20;

struct Options {
  ModelArguments model;
  ConversationOptions conversation;
  std::string render;
  std::vector<std::string> set;
  Json variables = Json::object();  // of `set`
  bool no_history = false;
};

constexpr const char* kHelp =
    "/system TEXT   begin anew with this instruction; without a text: with none\n"
    "/reset         begin anew with the instruction from the start\n"
    "/undo          forget the last turn\n"
    "/again         the same turn once more, for another answer\n"
    "/save FILE     the conversation as JSON\n"
    "/load FILE     go on with such a conversation\n"
    "/stats         tokens, speed, memory, context\n"
    "/exit          end; so does Ctrl-D\n"
    "Ctrl-C stops an answer. A line that ends with \\ goes on; lines between \"\"\" and \"\"\" are one "
    "turn.\n"
    "Arrow keys edit and bring back earlier lines, Ctrl-R searches them.\n";

bool wants_colours() {
  const char *no_colour = std::getenv("NO_COLOR"), *kind = std::getenv("TERM");
  return (no_colour == nullptr || *no_colour == '\0') && kind != nullptr && std::string_view(kind) != "dumb";
}

// The loop of a person and a model. Answers go to standard output, everything else to standard error.
class Chat {
 public:
  Chat(const Options& options, Conversation& conversation)
      : options_(options),
        conversation_(conversation),
        colours_(wants_colours() && ::isatty(STDERR_FILENO) == 1),
        reader_("> ", colours_, options.no_history ? "" : default_history_file()) {}

  void run() {
    if (conversation_.plain())
      note("This model has no chat template and no ChatML tokens: plain completion.");
    if (reader_.terminal()) note("/help lists the commands, Ctrl-C stops an answer, Ctrl-D ends.");
    std::string turn;
    while (true) {
      switch (reader_.read(turn)) {
        case TurnReader::Event::kEnd:
          return end();
        case TurnReader::Event::kInterrupted:
          note("Ctrl-D or /exit ends.");
          break;
        case TurnReader::Event::kTurn:
          if (turn == "/exit" || turn == "/quit") return end();
          try {
            take(turn);
          } catch (const Error& error) {
            if (error.code() == ErrorCode::kOutOfMemory || std::ferror(stdout) != 0 || ranks_lost()) throw;
            say(error.what());
            ++failed_;
          }
      }
    }
  }

 private:
  // One line of standard error; a note is left out with --quiet.
  void say(std::string_view text) const {
    fmt::print(stderr, "{}{}{}\n", colours_ ? "\x1b[2m" : "", text, colours_ ? "\x1b[0m" : "");
  }
  void note(std::string_view text) const {
    if (!quiet()) say(text);
  }

  // A person has read what failed; a script sees the exit code.
  void end() const {
    if (failed_ > 0 && !reader_.terminal())
      throw Error(ErrorCode::kInvalidArgument, fmt::format("{} of the lines could not be answered", failed_));
  }

  void take(const std::string& turn) {
    if (turn.empty()) return;
    if (turn[0] != '/') return answer(turn);
    const size_t space = turn.find(' ');
    const std::string command = turn.substr(0, space);
    const std::string argument = space == std::string::npos ? "" : turn.substr(space + 1);
    if (command == "/help")
      fmt::print(stderr, "{}", kHelp);
    else if (command == "/system")
      restart(argument);
    else if (command == "/reset")
      restart(options_.conversation.system);
    else if (command == "/undo")
      note(conversation_.undo() ? "The last turn is forgotten." : "There is no turn to forget.");
    else if (command == "/again")
      again();
    else if (command == "/save")
      save(argument);
    else if (command == "/load")
      load(argument);
    else if (command == "/stats")
      stats();
    else
      say(fmt::format("There is no command {}; /help lists them.", command));
  }

  void restart(const std::string& system) {
    conversation_.reset(system);
    note(system.empty() ? "A new conversation." : "A new conversation with this instruction.");
  }

  void again() {
    const std::optional<std::string> user = conversation_.undo();
    if (!user) return say("There is no turn yet.");
    answer(*user);
  }

  void save(const std::string& path) const {
    if (path.empty()) return say("/save FILE: a file to write");
    if (!replaces_conversation(path)) expect_outputs_apart({{path}}, read_by(options_.model));
    write_output_file(path, conversation_.to_json());
    note("Saved to " + path + ".");
  }

  // Whether one is there. Throws for a file that holds something else: it would be lost.
  static bool replaces_conversation(const std::string& path) {
    std::error_code none;
    if (!std::filesystem::is_regular_file(path, none) || std::filesystem::file_size(path, none) == 0)
      return false;
    try {
      const Json there = parse_json_object(read_text(path, kMostFileBytes), path);
      if (there.contains("messages") || there.contains("text")) return true;
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kMalformedFile) throw;
    }
    throw Error(ErrorCode::kAlreadyExists,
                fmt::format("{}: is not replaced: it is not a conversation that /save wrote", path));
  }

  void load(const std::string& path) {
    if (path.empty()) return say("/load FILE: a conversation that /save wrote");
    conversation_.from_json(read_text(path, kMostFileBytes), path);
    note("Going on with " + path + ".");
  }

  void stats() const {
    const ConversationTotals& totals = conversation_.totals();
    const GenerationCounts& counts = totals.counts;
    const ModelMemory& memory = conversation_.model().memory();
    const auto rate = [](int64_t tokens, double seconds) {
      return seconds > 0 ? static_cast<double>(tokens) / seconds : 0.0;
    };
    fmt::print(stderr,
               "turns      {}\n"
               "read       {} tokens at {:.1f} tokens/s, {} more were still in the cache\n"
               "generated  {} tokens at {:.1f} tokens/s\n"
               "context    {} of {} tokens in use\n"
               "weights    {}; peak memory of the program {}\n",
               totals.turns, counts.read, rate(counts.read, counts.read_seconds), counts.reused,
               counts.generated, rate(counts.generated, counts.generate_seconds), conversation_.used(),
               conversation_.context(), format_bytes(memory.resident_bytes()),
               format_bytes(peak_memory_bytes()));
  }

  void answer(const std::string& user) {
    forget_interrupt();
    const Answer result = conversation_.answer(
        user, [](const std::string& text) { write_answer(text); }, interrupted);
    const GenerationCounts& counts = result.counts;
    const bool stopped = result.reason == FinishReason::kCancelled;
    forget_interrupt();
    std::fputc('\n', stdout);
    if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
      throw Error(ErrorCode::kIo, "standard output: the answer could not be written");
    if (stopped && counts.generated == 0)
      return say("Stopped before the answer; what you said is forgotten.");
    if (result.reason == FinishReason::kContextFull)
      say(fmt::format("The context of {} tokens is full: /reset, or start with --context.",
                      conversation_.context()));
    else if (result.reason == FinishReason::kTokenLimit)
      note(fmt::format("Cut after {} (--max-tokens).", count_of(counts.generated, "token")));
    note(fmt::format("[{} read in {:.2f} s, {} reused; {}, {:.1f} tokens/s{}; {} of {} left]",
                     count_of(counts.read, "new token"), counts.read_seconds, counts.reused,
                     count_of(counts.generated, "token"),
                     static_cast<double>(counts.generated) / std::max(counts.generate_seconds, 1e-9),
                     stopped ? ", stopped" : "", conversation_.context() - conversation_.used(),
                     conversation_.context()));
  }

  const Options& options_;
  Conversation& conversation_;
  bool colours_;
  TurnReader reader_;
  int failed_ = 0;
};

// The values of --set: JSON where it is, else a text.
Json template_variables(const std::vector<std::string>& given) {
  Json variables = Json::object();
  for (const std::string& one : given) {
    const size_t sign = one.find('=');
    if (sign == std::string::npos || sign == 0) throw UsageError("--set takes NAME=VALUE, not " + one);
    const std::string value = one.substr(sign + 1);
    try {
      variables[one.substr(0, sign)] = Json::parse(value);
    } catch (const JsonError&) {
      variables[one.substr(0, sign)] = value;
    }
  }
  return variables;
}

void print_prompt(const Options& options, const std::string& folder) {
  const std::optional<ChatTemplate> chat = ChatTemplate::load(folder);
  if (!chat) throw Error(ErrorCode::kNotFound, folder + ": no chat template");
  std::string variables = read_text(options.render, kMostFileBytes);
  if (!options.set.empty()) {
    Json all = parse_json_object(variables, options.render);
    for (const auto& [name, value] : options.variables.items()) all[name] = value;
    variables = all.dump();
  }
  const std::string prompt = chat->render(variables);
  std::fwrite(prompt.data(), 1, prompt.size(), stdout);
}

void run(Options& options) {
  const std::string folder = model_folder(options.model.model);
  options.variables = template_variables(options.set);
  options.conversation.variables = options.variables.dump(-1, Json::Invalid::kReplace);
  if (!options.render.empty()) return print_prompt(options, folder);
  options.conversation.kv_cache = parse_kv_cache(options.model.kv_cache);
  const Model model = load_model(options.model);
  if (rank_place().rank > 0) ignore_requests_to_end();
  if (!lead_ranks({{model}})) return;  // rank 0 has the terminal, and ends the others when it ends
  Conversation conversation(model, folder, options.conversation);
  name_not_obeyed(conversation.not_obeyed());
  // Ctrl-C stops an answer where a person is there to see it; a request to end the program ends it.
  if (::isatty(STDIN_FILENO) == 1) catch_interrupts(/*only_ctrl_c=*/true);
  Chat(options, conversation).run();
}

}  // namespace

void add_chat_command(const Command& app) {
  auto options = std::make_shared<Options>();
  const Command command = app.add_subcommand("chat", "Talk with a model in the terminal");
  command.footer(
      "Examples:\n"
      "  nfloat chat ./Qwen3-0.6B --quantize nf4\n"
      "  nfloat chat ./Qwen3-0.6B --system \"Answer in one sentence.\" --context 8192\n"
      "  nfloat chat ./Qwen3-0.6B --render conversation.json\n"
      "Each line is a message; /help lists the commands. Ctrl-C stops an answer, Ctrl-D ends. Only what is "
      "new of "
      "the\n"
      "conversation is read by the model. A model without a chat template and without ChatML tokens "
      "continues the\n"
      "text instead, and that is said.");
  add_model_options(command, options->model);
  command.add_option(
      "--render", options->render,
      "Print the exact prompt for this JSON file (messages, tools, add_generation_prompt) and end");
  ConversationOptions& conversation = options->conversation;
  command.add_option("--system", conversation.system, "Instruction that the conversation begins with")
      .may_be_empty();
  command
      .add_option("-n,--max-tokens", conversation.max_tokens,
                  "Most tokens of one answer; none: what generation_config.json says, else 1024")
      .between(int64_t{1}, int64_t{1} << 27);
  command.add_option("--context", conversation.context, "Most tokens of the conversation")
      .between(int64_t{1}, int64_t{1} << 27)
      .show_default();
  add_sampling_options(command, conversation.sampling);
  command
      .add_option("--stop", conversation.stops, "End an answer before this text; may be given several times")
      .one_at_a_time();
  command
      .add_option(
          "--set", options->set,
          "NAME=VALUE for the template, JSON or text: enable_thinking=false; may be given several times")
      .one_at_a_time();
  command.add_flag("--all-channels", conversation.all_channels,
                   "Show what gpt-oss says outside of its final channel too");
  command.add_flag("--no-history", options->no_history,
                   "Do not keep the lines typed (in ~/.local/state/nfloat/chat_history)");
  command.add_flag("--quiet", quiet(), "Answers only, no notes and speeds");
  command.callback_of_ranks([options] { run(*options); });
}

}  // namespace nfloat::cli
