// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>

#include "base/json.h"
#include "commands.h"
#include "nfloat/checkpoint.h"
#include "nfloat/error.h"
#include "nfloat/tokenizer.h"
#include "numbers.h"

namespace nfloat::cli {
namespace {

struct Options {
  std::string model, text, file;
  bool has_text = false, decode = false, json = false, lines = false, no_special = false, plain = false;
};

void print(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
}

std::string read_all(std::istream& in) {
  return {std::istreambuf_iterator<char>(in), {}};
}

std::string read_input(const Options& options) {
  if (options.has_text) return options.text;
  if (options.file.empty()) return read_all(std::cin);
  std::ifstream in(options.file, std::ios::binary);
  if (!in)
    throw Error(errno == ENOENT ? ErrorCode::kNotFound : ErrorCode::kIo,
                fmt::format("{}: cannot open: {}", options.file, std::strerror(errno)));
  return read_all(in);
}

// Ids as a JSON array, or as numbers with white space or commas between.
std::vector<int32_t> parse_ids(const std::string& text) {
  std::vector<int32_t> ids;
  const char* const separators = " \t\r\n,[]";
  for (size_t at = text.find_first_not_of(separators); at != std::string::npos;) {
    const size_t end = std::min(text.find_first_of(separators, at), text.size());
    const auto id = parse_number<int32_t>(std::string_view(text).substr(at, end - at));
    if (!id)
      throw Error(ErrorCode::kInvalidArgument,
                  fmt::format("\"{}\" is not a token id", text.substr(at, std::min<size_t>(end - at, 40))));
    ids.push_back(*id);
    at = text.find_first_not_of(separators, end);
  }
  return ids;
}

// Tokens may hold parts of characters: JSON gets U+FFFD for those.
std::string dump(const Json& json, int indent) {
  return json.dump(indent, Json::Invalid::kReplace) + "\n";
}

void encode(const Options& options, const Tokenizer& tokenizer, const EncodeOptions& encoding) {
  const std::vector<int32_t> ids = tokenizer.encode(read_input(options), encoding);
  if (!options.json) return print(fmt::format("{}\n", fmt::join(ids, " ")));
  Json json;
  json["count"] = ids.size();
  json["ids"] = ids;
  json["tokens"] = Json::array();
  for (const int32_t id : ids) json["tokens"].push_back(tokenizer.token_text(id));
  print(dump(json, -1));
}

void decode(const Options& options, const Tokenizer& tokenizer) {
  const std::string text = tokenizer.decode(parse_ids(read_input(options)), options.no_special);
  if (!options.json) return print(text);
  print(dump({{"text", text}}, -1));
}

// One JSON value a line in, one out: a string becomes its ids, an array of ids its text.
void run_lines(const Options& options, const Tokenizer& tokenizer, const EncodeOptions& encoding) {
  std::istringstream in(read_input(options));
  size_t number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    try {
      const auto value = Json::parse(line);
      if (value.is_string())
        print(dump(tokenizer.encode(value.text(), encoding), -1));
      else
        print(dump(tokenizer.decode(value.get<std::vector<int32_t>>(), options.no_special), -1));
    } catch (const JsonError& error) {
      throw Error(
          ErrorCode::kInvalidArgument,
          fmt::format("line {}: expected a JSON string or an array of ids: {}", number, error.what()));
    }
  }
}

void run(const Options& options) {
  if (options.has_text && !options.file.empty()) throw UsageError("--prompt and --file exclude each other");
  const Tokenizer tokenizer = Tokenizer::load(resolve_model_path(options.model));
  const EncodeOptions encoding{!options.no_special, !options.plain};
  if (options.lines)
    run_lines(options, tokenizer, encoding);
  else if (options.decode)
    decode(options, tokenizer);
  else
    encode(options, tokenizer, encoding);
}

}  // namespace

void add_tokenize_command(const Command& app) {
  auto options = std::make_shared<Options>();
  const Command command = app.add_subcommand("tokenize", "Convert text to token ids, and token ids to text");
  command
      .add_option("MODEL", options->model,
                  "Model folder, tokenizer.json, tokenizer.model, or a Hugging Face name in the cache")
      .required();
  const Option text =
      command
          .add_option("-p,--prompt", options->text,
                      "The text (with --decode: the ids); without it and --file, standard input")
          .may_be_empty();
  command.add_option("--file", options->file, "Read the text, or the ids, from this file");
  command.add_flag("--decode", options->decode, "From ids (numbers, or a JSON array) to text");
  command.add_flag("--json", options->json, "Print JSON: count, ids and tokens, or the text");
  command.add_flag("--lines", options->lines,
                   "One JSON value a line, in and out: a string becomes its ids, an array of ids its text");
  command.add_flag("--no-special", options->no_special,
                   "Add no special tokens around the text; leave them out when decoding");
  command.add_flag("--plain", options->plain,
                   "Special tokens written in the text are plain characters, not tokens");
  command.callback([options, text] {
    options->has_text = text.given();
    run(*options);
  });
}

}  // namespace nfloat::cli
