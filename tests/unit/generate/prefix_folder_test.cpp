// SPDX-License-Identifier: Apache-2.0
// Engines that keep prefixes in a folder: later engines find them, with the same tokens, and nothing else is
// used.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <map>

#include "nfloat/engine.h"
#include "nfloat/error.h"
#include "support/files.h"
#include "support/paths.h"

namespace nfloat {
namespace {

namespace fs = std::filesystem;

class PrefixFolders : public testing::TemporaryFolder {
 protected:
  static std::string source() { return testing::source_path("/models/nfloat-tiny"); }
  static Model load(Precision precision) {
    return Model::load(source(), {.quantize = make_codebook("nf4"), .precision = precision, .threads = 1});
  }
  static const Model& model() {
    static const Model loaded = load(Precision::kInt8);
    return loaded;
  }
  static const Tokenizer& tokenizer() {
    static const Tokenizer loaded = Tokenizer::load(source());
    return loaded;
  }
  // Of `count` tokens, other ones for each number.
  static std::vector<int32_t> prompt(int number, size_t count) {
    std::vector<int32_t> tokens;
    for (int i = 0; tokens.size() < count; ++i)
      for (const int32_t token : tokenizer().encode("Story " + std::to_string(number) + ", part " +
                                                    std::to_string(i) + ": the lamp stood on the hill. "))
        tokens.push_back(token);
    tokens.resize(count);
    return tokens;
  }

  struct Outcome {
    std::vector<int32_t> tokens;
    int64_t cached = 0;
    std::string error;
    bool operator==(const Outcome&) const = default;
  };
  // Of one engine, one request after the other.
  static std::vector<Outcome> answers(const std::vector<std::vector<int32_t>>& prompts, EngineOptions options,
                                      const Model& weights = model()) {
    std::map<uint64_t, Outcome> found;
    options.events = [&](std::span<const EngineEvent> events) {
      for (const EngineEvent& event : events) {
        if (event.piece.token >= 0) found[event.request].tokens.push_back(event.piece.token);
        if (event.done) found[event.request].cached = event.usage.cached_tokens;
        if (event.done) found[event.request].error = event.error;
      }
    };
    Engine engine(weights, tokenizer(), options);
    std::vector<Outcome> outcomes;
    for (const std::vector<int32_t>& tokens : prompts) {
      EngineRequest request;
      request.prompt = tokens;
      request.sampler = {.temperature = 0};
      request.generation.max_tokens = 12;
      const uint64_t number = engine.submit(request).value();
      while (engine.step()) {
      }
      outcomes.push_back(found[number]);
    }
    return outcomes;
  }
  static Outcome answer(const std::vector<int32_t>& tokens, const EngineOptions& options,
                        const Model& weights = model()) {
    return answers({tokens}, options, weights).front();
  }

  std::string kept() const { return path("kept"); }
  EngineOptions with_folder() const { return {.context = 512, .prefix_folder = kept()}; }
  std::vector<fs::path> files() const {
    std::vector<fs::path> paths;
    for (const auto& file : fs::directory_iterator(kept())) paths.push_back(file.path());
    return paths;
  }
  static void change(const fs::path& of, int64_t at) {
    std::fstream file(of, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(at);
    const auto byte = static_cast<char>(file.get());
    file.seekp(at);
    file.put(static_cast<char>(byte ^ 0x10));
  }
};

TEST_F(PrefixFolders, ALaterEngineFindsWhatAnEarlierOneRead) {
  const std::vector<int32_t> tokens = prompt(1, 300);
  const Outcome without = answer(tokens, {.context = 512});
  ASSERT_EQ(without.tokens.size(), 12u);
  Outcome first = answer(tokens, with_folder());
  EXPECT_EQ(first.cached, 0);
  EXPECT_EQ(first.tokens, without.tokens);
  ASSERT_EQ(files().size(), 1u);
  struct stat about {};
  ASSERT_EQ(::stat(kept().c_str(), &about), 0);
  EXPECT_EQ(about.st_mode & 0777, 0700u);

  const Outcome second = answer(tokens, with_folder());
  EXPECT_EQ(second.cached, 256) << "two pages of 128";
  EXPECT_EQ(second.tokens, without.tokens);
  EXPECT_EQ(files().size(), 1u);

  // One that goes on otherwise behind the first page, and one that goes on behind all of it.
  std::vector<int32_t> other = prompt(2, 300);
  std::copy_n(tokens.begin(), 200, other.begin());
  const Outcome branched = answer(other, with_folder());
  EXPECT_EQ(branched.cached, 128);
  EXPECT_EQ(branched.tokens, answer(other, {.context = 512}).tokens);
  std::vector<int32_t> longer = tokens;
  longer.resize(400, tokens[7]);
  const Outcome further = answer(longer, with_folder());
  EXPECT_EQ(further.cached, 256);
  EXPECT_EQ(further.tokens, answer(longer, {.context = 512}).tokens);
  EXPECT_EQ(files().size(), 2u) << "the longer one takes the place of the one that it begins with";
}

TEST_F(PrefixFolders, WhatIsDamagedOrForeignIsNotUsed) {
  const std::vector<int32_t> tokens = prompt(3, 300);
  const Outcome whole = answer(tokens, with_folder());
  ASSERT_EQ(files().size(), 1u);
  const fs::path file = files().front();
  const auto size = static_cast<int64_t>(fs::file_size(file));
  fs::copy_file(file, path("copy"));
  for (const int64_t at : {int64_t{0}, int64_t{17}, int64_t{25}, int64_t{33}, int64_t{41}, int64_t{50},
                           int64_t{80}, size / 2, size - 1}) {
    fs::copy_file(path("copy"), file, fs::copy_options::overwrite_existing);
    change(file, at);
    const Outcome found = answer(tokens, with_folder());
    EXPECT_EQ(found.cached, 0) << at;
    EXPECT_EQ(found.tokens, whole.tokens) << at;
    EXPECT_EQ(answer(tokens, with_folder()).cached, 256) << "it was written anew";
  }
  for (const int64_t length : {int64_t{0}, int64_t{20}, int64_t{100}, size - 1}) {
    fs::copy_file(path("copy"), file, fs::copy_options::overwrite_existing);
    fs::resize_file(file, static_cast<uintmax_t>(length));
    EXPECT_EQ(answer(tokens, with_folder()).tokens, whole.tokens) << length;
  }
  // A link, a folder and a pipe of such a name.
  fs::remove(file);
  fs::create_symlink(path("copy"), file);
  fs::create_directory(kept() + "/folder.prefix");
  ASSERT_EQ(::mkfifo((kept() + "/pipe.prefix").c_str(), 0600), 0);
  const Outcome beside = answer(tokens, with_folder());
  EXPECT_EQ(beside.cached, 0);
  EXPECT_EQ(beside.tokens, whole.tokens);
  EXPECT_EQ(fs::file_size(path("copy")), static_cast<uintmax_t>(size)) << "what a link leads to stays";
}

TEST_F(PrefixFolders, OtherArithmeticHasPrefixesOfItsOwn) {
  const std::vector<int32_t> tokens = prompt(4, 300);
  answer(tokens, with_folder());
  EXPECT_EQ(answer(tokens, with_folder(), load(Precision::kBF16)).cached, 0);
  EngineOptions eight = with_folder();
  eight.kv_cache = KvCacheType::kInt8;
  EXPECT_EQ(answer(tokens, eight).cached, 0);
  EXPECT_EQ(files().size(), 3u);
  EXPECT_EQ(answer(tokens, with_folder()).cached, 256);
  EXPECT_EQ(answer(tokens, eight).cached, 256);
}

TEST_F(PrefixFolders, TheOldestGoWhereThereIsNoRoom) {
  answer(prompt(5, 300), with_folder());
  ASSERT_EQ(files().size(), 1u);
  const uint64_t one = fs::file_size(files().front());
  EngineOptions options = with_folder();
  options.prefix_folder_bytes = 2 * one + one / 2;
  for (const int number : {6, 7, 8}) answer(prompt(number, 300), options);
  EXPECT_EQ(files().size(), 2u);
  EXPECT_EQ(answer(prompt(8, 300), options).cached, 256);
  EXPECT_EQ(answer(prompt(5, 300), options).cached, 0);
  options.prefix_folder_bytes = one / 2;
  answer(prompt(9, 300), options);
  EXPECT_EQ(answer(prompt(9, 300), options).cached, 0) << "larger than all that there may be";
}

TEST_F(PrefixFolders, TheMemoryForKeysAndValuesIsKept) {
  // Room for one sequence and a page: kept pages give way, those that are being written too.
  EngineOptions options = with_folder();
  options.streams = 2;
  options.kv_bytes = kv_cache_bytes(model().config(), KvCacheType::kF16, 512 + 128);
  std::vector<std::vector<int32_t>> prompts;
  for (const int number : {10, 11, 10, 12, 11}) prompts.push_back(prompt(number, 480));
  const std::vector<Outcome> found = answers(prompts, options);
  for (size_t i = 0; i < prompts.size(); ++i) {
    EXPECT_EQ(found[i].error, "");
    EXPECT_EQ(found[i].tokens, answer(prompts[i], {.context = 512}).tokens) << i;
  }
  EXPECT_EQ(found[2].cached, 384);
  EXPECT_EQ(found[4].cached, 384);
}

TEST_F(PrefixFolders, WhatMemoryHasIsNotGivenUpForADamagedFile) {
  // The file promises two pages, memory has one; there is room for no more than one sequence.
  const std::vector<int32_t> tokens = prompt(13, 480);
  answer(tokens, with_folder());
  ASSERT_EQ(files().size(), 1u);
  const fs::path file = files().front();
  EngineOptions options = with_folder();
  options.streams = 1;
  options.kv_bytes = kv_cache_bytes(model().config(), KvCacheType::kF16, 512 + 128);
  std::vector<int32_t> beginning = prompt(14, 400);
  std::copy_n(tokens.begin(), 130, beginning.begin());
  change(file, static_cast<int64_t>(fs::file_size(file)) - 1);
  const std::vector<Outcome> found = answers({beginning, tokens}, options);
  EXPECT_EQ(found[1].error, "");
  EXPECT_EQ(found[1].tokens, answer(tokens, {.context = 512}).tokens);
}

TEST_F(PrefixFolders, AFolderThatOthersReadIsRefused) {
  fs::create_directory(kept());
  ASSERT_EQ(::chmod(kept().c_str(), 0755), 0);
  EXPECT_THROW(Engine(model(), tokenizer(), with_folder()), Error);
  std::ofstream(path("file")) << "x";
  EngineOptions options = with_folder();
  options.prefix_folder = path("file");
  EXPECT_THROW(Engine(model(), tokenizer(), options), Error);
  options = with_folder();
  options.prefix_folder = path("new");
  options.prefix_folder_bytes = 1000;
  EXPECT_THROW(Engine(model(), tokenizer(), options), Error) << "nothing fits";
}

}  // namespace
}  // namespace nfloat
