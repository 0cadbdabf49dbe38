// SPDX-License-Identifier: Apache-2.0
#include "support/paths.h"
#include "tokenizer/utf8.h"
#include "tokenizer_files.h"

namespace nfloat {
namespace {

using Ids = std::vector<int32_t>;

std::string streamed(const Tokenizer& tokenizer, const Ids& ids, bool skip_special_tokens) {
  TokenStream stream(tokenizer, skip_special_tokens);
  std::string text;
  for (const int32_t id : ids) {
    const std::string part = stream.push(id);
    EXPECT_TRUE(is_valid_utf8(part)) << id;
    text += part;
  }
  return text + stream.flush();
}

TEST(TokenStream, SaysWhatDecodeSays) {
  const Tokenizer embedded = Tokenizer::load(testing::source_path("/models/nfloat-tiny"));
  const Tokenizer llama = load(llama_like_file());
  for (const char* text :
       {"", "Once upon a time", " hello  hello", "日本 😀 é", "a\n\nb", "x<|end_of_text|>y</s>"}) {
    for (const Tokenizer& tokenizer : {embedded, llama}) {
      const Ids ids = tokenizer.encode(text);
      for (const bool skip : {true, false})
        EXPECT_EQ(streamed(tokenizer, ids, skip), tokenizer.decode(ids, skip)) << text;
    }
  }
}

TEST(TokenStream, NeverPrintsHalfACharacter) {
  const Tokenizer tokenizer = load(llama_like_file());
  const auto byte = [](int value) { return 3 + value; };
  TokenStream stream(tokenizer);
  EXPECT_EQ(stream.push(*tokenizer.token_id("h")), "h");
  EXPECT_EQ(stream.push(byte(0xF0)), "");
  EXPECT_EQ(stream.push(byte(0x9F)), "");
  EXPECT_EQ(stream.push(byte(0x98)), "");
  EXPECT_EQ(stream.push(byte(0x80)), "😀");
  EXPECT_EQ(stream.push(byte(0xE2)), "");
  EXPECT_EQ(stream.push(*tokenizer.token_id("o")), "\uFFFDo");
  EXPECT_EQ(stream.push(byte(0xE2)), "");
  EXPECT_EQ(stream.push(byte(0x82)), "");
  EXPECT_EQ(stream.flush(), "\uFFFD");
  EXPECT_EQ(stream.flush(), "");
}

TEST(TokenStream, TextThatContinuesAPromptKeepsItsSpace) {
  const Tokenizer tokenizer = load(llama_like_file());
  const int32_t hello = *tokenizer.token_id("▁hello");
  TokenStream stream(tokenizer);
  stream.skip(Ids{1, hello});
  EXPECT_EQ(stream.push(hello), " hello");
  TokenStream start(tokenizer);
  start.skip(Ids{1});  // a special token is no text yet
  EXPECT_EQ(start.push(hello), "hello");
}

TEST(TokenStream, StripsTheFirstSpaceOnly) {
  const Tokenizer tokenizer = load(llama_like_file());
  const int32_t hello = *tokenizer.token_id("▁hello");
  TokenStream stream(tokenizer);
  EXPECT_EQ(stream.push(1), "");  // a skipped special token does not begin the text
  EXPECT_EQ(stream.push(hello), "hello");
  EXPECT_EQ(stream.push(hello), " hello");
  EXPECT_EQ(stream.flush(), "");
  EXPECT_EQ(stream.push(hello), "hello");
  EXPECT_EQ(tokenizer.token_bytes(hello), " hello");
  EXPECT_EQ(tokenizer.token_bytes(3 + 0xE2), "\xE2");
}

TEST(TokenStream, RefusesIdsOutsideTheVocabulary) {
  TokenStream stream(load(llama_like_file()));
  EXPECT_THROW(stream.push(-1), Error);
  EXPECT_THROW(stream.push(1 << 20), Error);
}

// A run of byte tokens that is no UTF-8 is one U+FFFD a byte, as the format's own library decodes it.
TEST(Decode, GivesOneReplacementForEachBrokenByteToken) {
  const Tokenizer tokenizer = load(llama_like_file());
  EXPECT_EQ(tokenizer.decode(Ids{3 + 0xF0, 3 + 0x9F, *tokenizer.token_id("o")}), "\uFFFD\uFFFDo");
}

TEST(Decode, JoinsWithSpacesWithoutADecoder) {
  Json file = bpe_file({"a", "b"}, {});
  file["decoder"] = nullptr;
  EXPECT_EQ(load(file).decode(Ids{0, 1, 0}), "a b a");
  EXPECT_EQ(streamed(load(file), {0, 1, 0}, true), "a b a");
}

TEST(Decode, PutsWordPiecesTogether) {
  Json file = bpe_file({"play", "##ing", "now", "."}, {});
  file["decoder"] = {{"type", "WordPiece"}, {"prefix", "##"}, {"cleanup", true}};
  EXPECT_EQ(load(file).decode(Ids{0, 1, 2, 3}), "playing now.");
  EXPECT_EQ(streamed(load(file), {0, 1, 2, 3}, true), "playing now.");
}

TEST(Decode, TakesMetaspaceAway) {
  Json file = bpe_file({"▁a", "b"}, {});
  file["decoder"] = {{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", "always"}};
  EXPECT_EQ(load(file).decode(Ids{0, 1, 0}), "ab a");
  file["decoder"]["prepend_scheme"] = "never";
  EXPECT_EQ(load(file).decode(Ids{0, 1, 0}), " ab a");
}

}  // namespace
}  // namespace nfloat
