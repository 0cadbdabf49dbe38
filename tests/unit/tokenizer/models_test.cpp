// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <unistd.h>

#include <filesystem>
#include <map>

#include "support/paths.h"
#include "tokenizer/charsmap.h"
#include "tokenizer_files.h"

namespace nfloat {
namespace {

namespace fs = std::filesystem;
using Ids = std::vector<int32_t>;

// A file with this model and nothing else; words are split at white space.
Json file_of(const Json& model) {
  Json file = bpe_file({}, {});
  file["model"] = model;
  file["pre_tokenizer"] = {{"type", "WhitespaceSplit"}};
  return file;
}

Json vocab_of(const std::vector<std::string>& tokens) {
  return bpe_file(tokens, {})["model"]["vocab"];
}

Json word_piece_model() {
  return {{"type", "WordPiece"},
          {"unk_token", "[UNK]"},
          {"continuing_subword_prefix", "##"},
          {"max_input_chars_per_word", 8},
          {"vocab", vocab_of({"[UNK]", "un", "##aff", "##able", "##a", "u", "é", "##é"})}};
}

Json scored(const std::string& token, double score) {
  return Json::array({token, score});
}

Json unigram_model() {
  return {{"type", "Unigram"},
          {"unk_id", 0},
          {"vocab", Json::array({scored("<unk>", 0), scored("a", -1), scored("b", -1), scored("ab", -1.5),
                                 scored("abb", -4)})}};
}

TEST(WordPiece, TakesTheLongestPieceFirst) {
  const Tokenizer tokenizer = load(file_of(word_piece_model()));
  EXPECT_EQ(tokenizer.encode("unaffable"), Ids{0});  // nine characters are too many
  EXPECT_EQ(tokenizer.encode("unaff un unaa"), (Ids{1, 2, 1, 1, 4, 4}));
  EXPECT_EQ(tokenizer.encode("unx uaff x"), (Ids{0, 5, 2, 0}));
  EXPECT_EQ(tokenizer.encode("éééééééé"), (Ids{6, 7, 7, 7, 7, 7, 7, 7}));  // eight characters, sixteen bytes
}

TEST(WordLevel, LooksWholeWordsUp) {
  const Tokenizer tokenizer =
      load(file_of({{"type", "WordLevel"}, {"unk_token", "?"}, {"vocab", vocab_of({"?", "one", "two"})}}));
  EXPECT_EQ(tokenizer.encode("two one three two"), (Ids{2, 1, 0, 2}));
}

TEST(Unigram, TakesTheMostProbableCut) {
  const Tokenizer tokenizer = load(file_of(unigram_model()));
  EXPECT_EQ(tokenizer.encode("ab abb ba"), (Ids{3, 3, 2, 2, 1}));
  EXPECT_EQ(tokenizer.encode("axyzb x"), (Ids{1, 0, 2, 0}));  // neighbours without a token are one
}

TEST(Unigram, FallsBackToBytes) {
  Json model = unigram_model();
  model["byte_fallback"] = true;
  for (int byte = 0; byte < 256; ++byte)
    model["vocab"].push_back(scored(fmt::format("<0x{:02X}>", byte), -20));
  const Tokenizer tokenizer = load(file_of(model));
  EXPECT_EQ(tokenizer.encode("aéb"), (Ids{1, 5 + 0xC3, 5 + 0xA9, 2}));
}

TEST(Unigram, SaysThatACharacterHasNoToken) {
  Json model = unigram_model();
  model["unk_id"] = nullptr;
  const Tokenizer tokenizer = load(file_of(model));
  EXPECT_EQ(tokenizer.encode("ab"), Ids{3});
  try {
    tokenizer.encode("x");
    ADD_FAILURE() << "encoded";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_NE(std::string(error.what()).find("unk_id"), std::string::npos) << error.what();
  }
}

TEST(WordModels, RefuseHostileFiles) {
  const auto refused = [](const Json& model, const std::string& part) {
    expect_refused(file_of(model).dump(), ErrorCode::kMalformedFile, part);
  };
  Json model = unigram_model();
  model["unk_id"] = 5;
  refused(model, "unk_id");
  model = unigram_model();
  model["vocab"][2] = Json::array({"b"});
  refused(model, "vocab[2]");
  model["vocab"][2] = Json::array({"b", "c"});
  refused(model, "vocab[2]");
  model["vocab"][2] = scored(std::string(1025, 'b'), 0);
  refused(model, "1025 bytes");
  model["vocab"] = Json::array();
  refused(model, "vocab");
  model = word_piece_model();
  model["unk_token"] = "nothing";
  refused(model, "unk_token");
  model["vocab"][std::string(1025, 'b')] = 77;
  refused(model, "1025 bytes");
  refused({{"type", "WordLevel"}, {"vocab", {{"a", 0}}}}, "unk_token");
}

TEST(WordModels, CutAMegabyteWordInBoundedTime) {
  const std::string word(1 << 20, 'a');
  EXPECT_EQ(load(file_of(unigram_model())).encode(word).size(), word.size());
  Json model = word_piece_model();
  model["max_input_chars_per_word"] = 1 << 30;
  EXPECT_EQ(load(file_of(model)).encode("un" + word).size(), 1 + word.size());
}

std::string base64(const std::string& bytes) {
  static constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t bits = 0;
    for (size_t k = 0; k < 3; ++k)
      bits = bits << 8 | (i + k < bytes.size() ? static_cast<uint8_t>(bytes[i + k]) : 0u);
    for (size_t k = 0; k < 4; ++k) out += i + k > bytes.size() ? '=' : kDigits[bits >> (18 - 6 * k) & 63];
  }
  return out;
}

// A map from single bytes to texts: a double array of four blocks, the root's children in the second one,
// each with its leaf in a block of its own.
std::string map_of_bytes(const std::vector<std::pair<uint8_t, std::string>>& entries) {
  std::vector<uint32_t> units(1024, 0);
  const auto offset = [](size_t from, size_t to) { return static_cast<uint32_t>((from ^ to) << 10); };
  units[0] = offset(0, 256);
  std::string texts;
  size_t leaf = 512;
  for (const auto& [byte, text] : entries) {
    const size_t child = 256 ^ byte;
    units[child] = offset(child, leaf) | 1u << 8 | byte;
    units[leaf++] = 1u << 31 | static_cast<uint32_t>(texts.size());
    texts += text + '\0';
  }
  std::string blob{'\x00', '\x10', '\x00', '\x00'};
  for (const uint32_t unit : units)
    for (int shift = 0; shift < 32; shift += 8) blob += static_cast<char>(unit >> shift & 0xFF);
  return blob + texts;
}

TEST(Precompiled, RewritesCharactersAndShortClusters) {
  const std::string blob = map_of_bytes({{'a', "bb"}, {'x', ""}, {'\t', " "}});
  ASSERT_TRUE(is_sound_charsmap(blob));
  Json file = file_of(unigram_model());
  file["pre_tokenizer"] = nullptr;
  file["normalizer"] = {{"type", "Precompiled"}, {"precompiled_charsmap", base64(blob)}};
  const Tokenizer tokenizer = load(file);
  EXPECT_EQ(tokenizer.encode("axbx"), (Ids{2, 2, 2}));
  EXPECT_EQ(tokenizer.encode("x"), Ids{});
  EXPECT_EQ(tokenizer.encode("a\u0301b"), (Ids{2, 2, 2}));        // a short cluster is replaced whole
  EXPECT_EQ(tokenizer.encode("a\u0301\u0301b"), (Ids{2, 2, 2}));  // five bytes
  EXPECT_EQ(tokenizer.encode("a\u0301\u0301\u0301b"), (Ids{2, 2, 0, 2}));  // longer ones one by one
}

TEST(Precompiled, RefusesMapsThatLeadOutside) {
  Json file = file_of(unigram_model());
  const auto refused = [&](const std::string& map, const std::string& part) {
    file["normalizer"] = {{"type", "Precompiled"}, {"precompiled_charsmap", map}};
    expect_refused(file.dump(), ErrorCode::kMalformedFile, part);
  };
  refused("not base64!", "base64");
  refused("AAAA", "outside itself");
  std::string blob = map_of_bytes({{'a', "b"}});
  blob[4 + 3] = '\x80';  // the root as a leaf
  refused(base64(blob), "outside itself");
}

TEST(Decode, HearsConnectionistOutput) {
  Json file = file_of(
      {{"type", "WordLevel"}, {"unk_token", "<pad>"}, {"vocab", vocab_of({"<pad>", "|", "h", "i", "."})}});
  file["decoder"] = {
      {"type", "CTC"}, {"pad_token", "<pad>"}, {"word_delimiter_token", "|"}, {"cleanup", true}};
  EXPECT_EQ(load(file).decode(Ids{2, 2, 0, 0, 3, 3, 1, 1, 2, 0, 2, 3, 4}), "hi hhi.");
}

// A folder of files, gone with the object.
class Folder {
 public:
  explicit Folder(const std::map<std::string, std::string>& files) {
    static int count = 0;
    path_ = fs::path(::testing::TempDir()) / fmt::format("nfloat_tokenizer_{}_{}", ::getpid(), count++);
    fs::create_directories(path_);
    for (const auto& [name, text] : files) std::ofstream(path_ / name, std::ios::binary) << text;
  }
  ~Folder() { fs::remove_all(path_); }
  std::string path() const { return path_.string(); }

 private:
  fs::path path_;
};

const std::string kVocab =
    R"({"a": 0, "b": 1, "ab": 2, "Ġ": 3, "Ġa": 4, "<|endoftext|>": 5, "<s>": 6, "</s>": 7})";
const std::string kMerges = "#version: 0.2\na b\nĠ a\n";

TEST(VocabAndMerges, AreByteLevelPairs) {
  const Folder folder({{"vocab.json", kVocab}, {"merges.txt", kMerges}});
  for (const char* name : {"", "/vocab.json", "/merges.txt"}) {
    const Tokenizer tokenizer = Tokenizer::load(folder.path() + name);
    EXPECT_EQ(tokenizer.encode("ab a<|endoftext|>"), (Ids{2, 4, 5}));
    EXPECT_EQ(tokenizer.decode(Ids{2, 4, 5}, true), "ab a");
    EXPECT_TRUE(tokenizer.is_special(5));
    EXPECT_FALSE(tokenizer.is_special(6));
  }
}

TEST(VocabAndMerges, TakeWhatTheFilesBesideThemSay) {
  const Folder roberta(
      {{"vocab.json", kVocab},
       {"merges.txt", kMerges},
       {"added_tokens.json", R"({"<x>": 9})"},
       {"tokenizer_config.json", R"({"tokenizer_class": "RobertaTokenizer", "add_prefix_space": true,
                                                      "bos_token": "<s>", "eos_token": {"content": "</s>"}})"}});
  const Tokenizer tokenizer = Tokenizer::load(roberta.path());
  EXPECT_EQ(tokenizer.encode("a<x>"), (Ids{6, 4, 9, 7}));
  EXPECT_EQ(tokenizer.bos_id(), 6);
  EXPECT_EQ(tokenizer.eos_id(), 7);
  const Folder opt({{"vocab.json", kVocab},
                    {"merges.txt", kMerges},
                    {"special_tokens_map.json", R"({"bos_token": "</s>"})"},
                    {"tokenizer_config.json", R"({"tokenizer_class": "GPT2Tokenizer", "add_bos_token": true,
                        "added_tokens_decoder": {"8": {"content": "<y>", "lstrip": true, "special": true}}})"}});
  EXPECT_EQ(Tokenizer::load(opt.path()).encode("a <y>"), (Ids{7, 0, 8}));
}

TEST(VocabAndMerges, NameWhatIsWrong) {
  const auto refused = [](std::map<std::string, std::string> files, ErrorCode code, const std::string& part) {
    files.try_emplace("vocab.json", kVocab);
    const Folder folder(files);
    try {
      Tokenizer::load(folder.path());
      ADD_FAILURE() << "loaded, expected an error naming " << part;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), code) << error.what();
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  };
  refused({}, ErrorCode::kNotFound, "merges.txt");
  refused({{"merges.txt", "a b\na"}}, ErrorCode::kMalformedFile, "merges[1]");
  refused({{"merges.txt", "b a\n"}}, ErrorCode::kMalformedFile, "merges[0]");
  refused({{"merges.txt", "a b\n"}, {"vocab.json", "[]"}}, ErrorCode::kMalformedFile, "expected an object");
  refused({{"merges.txt", "a b\n"}, {"tokenizer_config.json", R"({"tokenizer_class": "CLIPTokenizer"})"}},
          ErrorCode::kUnsupported, "CLIP");
  refused({{"merges.txt", "a b\n"}, {"tokenizer_config.json", R"({"added_tokens_decoder": {"x": {}}})"}},
          ErrorCode::kMalformedFile, "added_tokens_decoder.x");
}

// The same tokenizer in its older files.
TEST(VocabAndMerges, GiveTheIdsOfTheTokenizerJson) {
  const fs::path gpt2 = fs::path(testing::shared_path("/tokenizers/gpt2"));
  if (!fs::exists(gpt2 / "vocab.json")) GTEST_SKIP() << gpt2 << " is absent";
  const Tokenizer json = Tokenizer::load((gpt2 / "tokenizer.json").string());
  const Tokenizer older = Tokenizer::load((gpt2 / "vocab.json").string());
  const std::string text =
      read_file(testing::source_path("/models/nfloat-tiny/stories.txt")) + "<|endoftext|> 日本 😀";
  EXPECT_EQ(json.vocab_size(), older.vocab_size());
  EXPECT_TRUE(json.encode(text) == older.encode(text));
}

}  // namespace
}  // namespace nfloat
