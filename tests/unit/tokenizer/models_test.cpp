// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include "tokenizer/charsmap.h"
#include "tokenizer_files.h"

namespace nfloat {
namespace {

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

}  // namespace
}  // namespace nfloat
