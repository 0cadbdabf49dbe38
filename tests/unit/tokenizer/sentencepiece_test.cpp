// SPDX-License-Identifier: Apache-2.0
#include <sentencepiece_processor.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <limits>
#include <random>
#include <set>

#include "support/paths.h"
#include "tokenizer/charsmap.h"
#include "tokenizer/sentencepiece_file.h"
#include "tokenizer/utf8.h"
#include "tokenizer_files.h"

namespace nfloat {
namespace {

namespace fs = std::filesystem;
using Ids = std::vector<int32_t>;

std::string field(int number, const std::string& bytes) {
  std::string out(1, static_cast<char>(number << 3 | 2));
  for (size_t size = bytes.size();; size >>= 7) {
    out += static_cast<char>((size & 0x7F) | (size > 0x7F ? 0x80 : 0));
    if (size <= 0x7F) break;
  }
  return out + bytes;
}

std::string piece(const std::string& text, float score, int type) {
  char number[4];
  std::memcpy(number, &score, sizeof number);
  return field(1, field(1, text) + "\x15" + std::string(number, 4) + "\x18" + static_cast<char>(type));
}

// Unknown, BOS, EOS, all bytes, then a few words: a byte-pair model with byte fallback, as Llama's.
std::string small_model(const std::string& more = "", const std::string& normalizer = "") {
  std::string model = piece("<unk>", 0, 2) + piece("<s>", 0, 3) + piece("</s>", 0, 3);
  for (int byte = 0; byte < 256; ++byte) {
    char text[8];
    std::snprintf(text, sizeof text, "<0x%02X>", static_cast<unsigned>(byte));
    model += piece(text, 0, 6);
  }
  float score = 0;
  for (const char* text : {"▁a", "ab", "▁ab", "▁", "a", "b"}) model += piece(text, score -= 1, 1);
  const std::string trainer = std::string("\x18\x02") + "\x98\x02\x01";  // bpe, byte_fallback
  return model + more + field(2, trainer) + field(3, normalizer + "\x20" + std::string(1, '\0'));
}

void expect_model_refused(const std::string& model, ErrorCode code, const std::string& part) {
  try {
    Tokenizer::from_sentencepiece(model, "test.model");
    ADD_FAILURE() << "loaded, expected an error naming " << part;
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(code)) << error.what();
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

TEST(SentencePiece, EncodesAndDecodesAsLlamaDoes) {
  const Tokenizer tokenizer = Tokenizer::from_sentencepiece(small_model());
  const int32_t first = 3 + 256;
  EXPECT_EQ(tokenizer.bos_id(), 1);
  EXPECT_EQ(tokenizer.eos_id(), 2);
  EXPECT_EQ(tokenizer.vocab_size(), first + 6);
  const Ids ids = tokenizer.encode("ab a\né");
  EXPECT_EQ(ids, (Ids{1, first + 2, first, 3 + 0x0A, 3 + 0xC3, 3 + 0xA9}));
  EXPECT_EQ(tokenizer.decode(ids, true), "ab a\né");
  EXPECT_EQ(tokenizer.decode(ids),
            "<s>"
            " ab a\né");
  EXPECT_EQ(tokenizer.encode("ab</s>", EncodeOptions{false, true}), (Ids{first + 2, 2}));
  EXPECT_EQ(tokenizer.encode("", false), Ids{});
  EXPECT_EQ(tokenizer.token_id("▁ab"), first + 2);
  EXPECT_EQ(tokenizer.token_id("zz"), std::nullopt);
  EXPECT_EQ(tokenizer.token_bytes(first + 2), " ab");
  EXPECT_TRUE(tokenizer.is_special(1));
}

TEST(SentencePiece, CutsAMegabyteWordInBoundedTime) {
  const Tokenizer tokenizer = Tokenizer::from_sentencepiece(small_model());
  EXPECT_GT(tokenizer.encode(std::string(1 << 20, 'a')).size(), 1u << 19);
}

TEST(SentencePiece, RefusesHostileFiles) {
  constexpr ErrorCode kMalformed = ErrorCode::kMalformedFile;
  expect_model_refused("", kMalformed, "0 bytes");
  expect_model_refused(std::string(100, '\xFF'), kMalformed, "broken");
  expect_model_refused(small_model().substr(0, 700), kMalformed, "broken");
  expect_model_refused(field(2, ""), kMalformed, "no pieces");
  expect_model_refused(small_model(piece("", 0, 1)), kMalformed, "piece 265");
  expect_model_refused(small_model(piece("a\xFF", 0, 1)), kMalformed, "piece 265");
  expect_model_refused(small_model(piece(std::string("a\0b", 3), 0, 1)), kMalformed, "piece 265");
  expect_model_refused(small_model(piece("zz", std::numeric_limits<float>::quiet_NaN(), 1)), kMalformed,
                       "not finite");
  expect_model_refused(small_model(piece("zz", 0, 9)), kMalformed, "the type is 9");
  expect_model_refused(small_model(piece("a", 0, 1)), kMalformed, "refuses");  // twice
  expect_model_refused(small_model(piece("u", 0, 2)), kMalformed, "refuses");  // two unknown tokens
  expect_model_refused(small_model(piece("zz", 0, 6)), kMalformed, "zz");      // a byte that is none
  expect_model_refused(small_model("", field(2, std::string(2000, 'x'))), kMalformed, "precompiled_charsmap");
  expect_model_refused(small_model() + field(2, "\x18\x03"), ErrorCode::kUnsupported, "model_type is 3");
}

TEST(SentencePiece, ChecksTheTablesOfANormalizer) {
  std::string blob(4 + 1024, '\0');
  blob[1] = 4;  // 1024 bytes of trie
  blob += std::string("x\0", 2);
  EXPECT_TRUE(is_sound_charsmap(blob));
  std::string beyond = blob;
  beyond[4 + 2] = '\x7F';  // the first unit's children lie outside
  EXPECT_FALSE(is_sound_charsmap(beyond));
  std::string leaf = blob;
  leaf[4 + 3] = '\x80';  // a leaf at text 5 of 2
  leaf[4] = 5;
  EXPECT_FALSE(is_sound_charsmap(leaf));
  EXPECT_FALSE(is_sound_charsmap(blob.substr(0, 1028)));
  EXPECT_FALSE(is_sound_charsmap(blob + "y"));
  EXPECT_FALSE(is_sound_charsmap(""));
}

// The Unigram model of a tokenizer.json cuts as the library cuts with the same pieces and scores.
TEST(Unigram, GivesTheIdsOfTheLibrary) {
  std::mt19937 random(7);
  const auto below = [&](size_t end) { return static_cast<size_t>(random() % end); };
  const std::vector<std::string> letters{"a", "b", "c", "▁", "é", "日"};
  std::string model = piece("<unk>", 0, 2);
  Json vocab = Json::array({Json::array({"<unk>", 0.0})});
  std::set<std::string> texts;
  while (texts.size() < 60) {
    std::string text;
    for (size_t i = 1 + below(4); i > 0; --i) text += letters[below(letters.size() - 1)];
    if (!texts.insert(text).second) continue;
    // Sums of these are exact in any order and precision: what ties, ties in both.
    const float score = -1 - static_cast<float>(below(16384)) / 1024;
    model += piece(text, score, 1);
    vocab.push_back(Json::array({text, score}));
  }
  model += field(2, "\x18\x01") + field(3, std::string("\x20\0", 2));
  sentencepiece::SentencePieceProcessor library;
  ASSERT_TRUE(library.LoadFromSerializedProto(model).ok());
  Json file = bpe_file({}, {});
  file["model"] = {{"type", "Unigram"}, {"unk_id", 0}, {"vocab", vocab}};
  file["pre_tokenizer"] = {
      {"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", "always"}, {"split", false}};
  const Tokenizer tokenizer = load(file);
  for (int i = 0; i < 500; ++i) {
    std::string text = letters[below(3)];
    for (size_t count = below(30); count > 0; --count) {
      const size_t letter = below(letters.size());
      text += letters[letter] == "▁" ? " " : letters[letter];
    }
    Ids expected;
    ASSERT_TRUE(library.Encode(text, &expected).ok());
    ASSERT_EQ(tokenizer.encode(text), expected) << text;
  }
}

constexpr size_t kPartBytes = 64 << 10;

class SharedModels : public ::testing::TestWithParam<const char*> {};

// The same ids as the library alone gives for every text, and the text back.
TEST_P(SharedModels, GiveTheIdsOfTheLibrary) {
  const fs::path shared(testing::shared_path(""));
  const fs::path path = shared / GetParam();
  if (!fs::exists(path)) GTEST_SKIP() << path << " is absent";
  const Tokenizer tokenizer = Tokenizer::load(path.string());
  sentencepiece::SentencePieceProcessor library;
  ASSERT_TRUE(library.Load(path.string()).ok());
  std::vector<std::string> texts{"",     " ",        "  a  b ", "\n\n", "日本語 😀 مرحبا",
                                 "a\tb", "\x01\x02", "<s>x</s>"};
  for (const auto& entry : fs::recursive_directory_iterator(shared / "text"))
    if (entry.is_regular_file() && entry.path().extension() != ".xz")
      texts.push_back(read_file(entry.path().string()));
  // The library takes seconds for a file; tests/tokenizer_parity asks for the whole.
  const bool whole = std::getenv("NFLOAT_WHOLE_TEXTS") != nullptr;
  for (std::string& text : texts) {
    if (!whole && text.size() > kPartBytes) text = repair_utf8(text.substr(0, kPartBytes));
    Ids expected;
    ASSERT_TRUE(library.Encode(text, &expected).ok());
    const Ids plain = tokenizer.encode(text, EncodeOptions{false, false});
    ASSERT_TRUE(plain == expected) << text.substr(0, 60);
    EXPECT_TRUE(tokenizer.decode(plain) == text) << text.substr(0, 60);
    if (text.size() > 1000) continue;
    expected.insert(expected.begin(), *tokenizer.bos_id());
    ASSERT_TRUE(tokenizer.encode(text, EncodeOptions{true, false}) == expected) << text.substr(0, 60);
  }
}

INSTANTIATE_TEST_SUITE_P(Files, SharedModels,
                         ::testing::Values("models/stories260K/tokenizer.model",
                                           "tokenizers/llama2-32k/tokenizer.model"),
                         [](const auto& test) { return test.index == 0 ? "stories260K" : "llama2"; });

}  // namespace
}  // namespace nfloat
