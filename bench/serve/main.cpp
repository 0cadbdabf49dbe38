// SPDX-License-Identifier: Apache-2.0
// What bench/serve/run says it measures, for it.
#include <fmt/format.h>
#include <stdlib.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "bench/serve/bench.h"
#include "nfloat/error.h"
#include "nfloat/synthetic.h"

namespace nfloat::bench {
namespace {

struct Test {
  const char* name;
  void (*run)(const Setting&);
};
constexpr Test kTests[] = {{"streams", measure_streams}, {"first", measure_first_token},
                           {"gap", measure_gap},         {"look-up", measure_look_up},
                           {"schema", measure_schema},   {"masks", measure_masks},
                           {"http", measure_http},       {"health", measure_health}};

// The tokenizer of `folder` in a folder of its own, with as many more tokens as the model has rows: a token
// without a text would cost the server nothing.
class PaddedTokenizer {
 public:
  PaddedTokenizer(const std::string& folder, int64_t vocabulary) {
    char name[] = "/tmp/nfloat-serve-bench-XXXXXX";
    if (mkdtemp(name) == nullptr) throw Error(ErrorCode::kIo, "no folder in /tmp");
    path = name;
    std::ifstream file(folder + "/tokenizer.json");
    std::string text{std::istreambuf_iterator<char>(file), {}};
    const size_t vocab = text.find("\"vocab\"");
    const size_t brace = vocab == std::string::npos ? vocab : text.find('{', vocab);
    if (brace == std::string::npos)
      throw Error(ErrorCode::kNotFound, folder + "/tokenizer.json: no vocabulary in it");
    std::string more;
    for (int64_t id = Tokenizer::load(folder).vocab_size(); id < vocabulary; ++id)
      more += fmt::format("\"more{}\": {}, ", id, id);
    text.insert(brace + 1, more);
    std::ofstream(path + "/tokenizer.json") << text;
    // A server wants the rest of a model too, though its weights are others.
    for (const auto& other : std::filesystem::directory_iterator(folder))
      if (const std::string own = other.path().filename();
          own != "tokenizer.json" && own != "generation_config.json")
        std::filesystem::create_symlink(std::filesystem::absolute(other.path()), path + "/" + own);
  }
  ~PaddedTokenizer() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  PaddedTokenizer(const PaddedTokenizer&) = delete;
  PaddedTokenizer& operator=(const PaddedTokenizer&) = delete;

  std::string path;
};

std::vector<int> numbers(const std::string& text) {
  std::vector<int> result;
  for (size_t at = 0; at < text.size(); at = std::min(text.find(',', at), text.size() - 1) + 1)
    result.push_back(std::stoi(text.substr(at)));
  return result;
}

int run(int argc, char** argv) {
  std::string shape = "1b", folder = "models/nfloat-tiny";
  int threads = 2, rounds = 3;
  int64_t prompt = 128, tokens = 128;
  std::vector<int> streams{1, 2, 4, 8, 16};
  bool json = false;
  std::vector<std::string> wanted;
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    const auto value = [&]() -> std::string {
      if (i + 1 == argc) throw Error(ErrorCode::kInvalidArgument, option + " needs a value");
      return argv[++i];
    };
    if (option == "--shape")
      shape = value();
    else if (option == "--tokenizer")
      folder = value();
    else if (option == "--threads")
      threads = std::stoi(value());
    else if (option == "--rounds")
      rounds = std::stoi(value());
    else if (option == "--prompt")
      prompt = std::stoll(value());
    else if (option == "--tokens")
      tokens = std::stoll(value());
    else if (option == "--streams")
      streams = numbers(value());
    else if (option == "--json")
      json = true;
    else
      wanted.push_back(option);
  }
  for (const std::string& name : wanted)
    if (std::none_of(std::begin(kTests), std::end(kTests),
                     [&](const Test& test) { return test.name == name; }))
      throw Error(ErrorCode::kInvalidArgument, "there is no test " + name);
  ModelConfig config = synthetic_config(shape);
  config.vocabulary = std::max<int64_t>(config.vocabulary, Tokenizer::load(folder).vocab_size());
  const PaddedTokenizer padded(folder, config.vocabulary);
  SyntheticOptions options;
  options.model.precision = Precision::kInt8;
  options.model.threads = threads;
  const Setting setting{.model = synthetic_model(config, options),
                        .tokenizer = Tokenizer::load(padded.path),
                        .folder = padded.path,
                        .rounds = rounds,
                        .streams = streams,
                        .prompt = prompt,
                        .tokens = tokens,
                        .json = json};
  if (!json)
    fmt::print("{} of {:.2f} billion weights, int8, {} threads, {} rounds: median, least and most\n", shape,
               static_cast<double>(config.parameters()) / 1e9, threads, rounds);
  for (const Test& test : kTests)
    if (wanted.empty() || std::find(wanted.begin(), wanted.end(), test.name) != wanted.end())
      test.run(setting);
  return 0;
}

}  // namespace
}  // namespace nfloat::bench

int main(int argc, char** argv) {
  try {
    return nfloat::bench::run(argc, argv);
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
