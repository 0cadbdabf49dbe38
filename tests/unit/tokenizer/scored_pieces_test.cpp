// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "llama_cpp/tokenizer.h"
#include "nfloat/error.h"
#include "tokenizer/tokenizer_state.h"

namespace nfloat {
namespace {

using Ids = std::vector<int32_t>;
using Type = GgufTokenType;

// BOS is 1, EOS 2; bytes from 3 on; then the pieces, of falling scores.
GgufPieces pieces(const std::vector<std::pair<std::string, Type>>& more, Type unknown = Type::kControl) {
  GgufPieces result;
  const auto add = [&](const std::string& text, Type type, float score) {
    result.texts.push_back(text);
    result.types.push_back(type);
    result.scores.push_back(score);
  };
  add("<unk>", unknown, 0);
  add("<s>", Type::kControl, 0);
  add("</s>", Type::kControl, 0);
  for (int byte = 0; byte < 256; ++byte) {
    char text[8];
    std::snprintf(text, sizeof text, "<0x%02X>", static_cast<unsigned>(byte));
    add(text, Type::kByte, 0);
  }
  for (const auto& [text, type] : more) add(text, type, -static_cast<float>(result.texts.size()));
  return result;
}

constexpr int32_t kFirst = 259;

Ids encode(const GgufPieces& pieces, std::string_view text, const EncodeOptions& options = {}) {
  const auto state = make_scored_pieces(pieces, "test.gguf");
  state->add_bos = true;
  return state->encode(text, options);
}

const std::vector<std::pair<std::string, Type>> kWords = {
    {"▁", Type::kNormal},   {"n", Type::kNormal},    {"o", Type::kNormal},
    {"w", Type::kNormal},   {"no", Type::kNormal},   {"ow", Type::kNormal},
    {"now", Type::kNormal}, {"▁now", Type::kNormal}, {"▁▁", Type::kNormal}};
constexpr int32_t kSpaceId = kFirst, kN = kFirst + 1, kOw = kFirst + 5, kNow = kFirst + 6,
                  kSpaceNow = kFirst + 7, kTwoSpaces = kFirst + 8, kMore = kFirst + 9;

std::vector<std::pair<std::string, Type>> with(std::vector<std::pair<std::string, Type>> more) {
  more.insert(more.begin(), kWords.begin(), kWords.end());
  return more;
}

TEST(ScoredPieces, JoinsTheBestPairFirst) {
  EXPECT_EQ(encode(pieces(kWords), "now"), (Ids{1, kSpaceNow}));
  EXPECT_EQ(encode(pieces(kWords), "now now"), (Ids{1, kSpaceNow, kSpaceNow}));
  EXPECT_EQ(encode(pieces(kWords), "now  now"), (Ids{1, kSpaceNow, kSpaceId, kSpaceNow}));
  // "ow" would come from "o" and "w"; "no" scores better and comes first: "no" "ow" is never made.
  EXPECT_EQ(encode(pieces(kWords), "noow"), (Ids{1, kSpaceId, kFirst + 4, kOw}));
}

TEST(ScoredPieces, TheTypeOfTheUnknownTokenDoesNotMatter) {
  for (const Type type : {Type::kControl, Type::kUnknown, Type::kNormal, Type::kUnused})
    EXPECT_EQ(encode(pieces(kWords, type), "now"), (Ids{1, kSpaceNow})) << static_cast<int>(type);
  EXPECT_EQ(encode(pieces(with({{"[F1]", Type::kUnknown}, {"[F2]", Type::kUnknown}})), "now"),
            (Ids{1, kSpaceNow}));
}

TEST(ScoredPieces, EmptyAndRepeatedPiecesAreNeverChosen) {
  EXPECT_EQ(encode(pieces(with({{"", Type::kNormal}, {"now", Type::kNormal}, {"", Type::kControl}})), " now"),
            (Ids{1, kSpaceId, kSpaceNow}));
}

TEST(ScoredPieces, TokensOfTheirOwnCutTheTextFirst) {
  const GgufPieces vocabulary = pieces(with({{"<|turn|>", Type::kControl},
                                             {"   ", Type::kUserDefined},
                                             {"owno", Type::kUserDefined},
                                             {"nown", Type::kUserDefined},
                                             {"nownow", Type::kUserDefined}}));
  // A space goes before every part.
  EXPECT_EQ(encode(vocabulary, "<|turn|>now"), (Ids{1, kMore, kSpaceNow}));
  EXPECT_EQ(encode(vocabulary, "n   n"), (Ids{1, kSpaceId, kN, kMore + 1, kSpaceId, kN}));
  // The longest anywhere, then, of equal length, the first id wherever it is.
  EXPECT_EQ(encode(vocabulary, "nownow"), (Ids{1, kMore + 4}));
  EXPECT_EQ(encode(vocabulary, "nowno"), (Ids{1, kSpaceId, kN, kMore + 2}));
  GgufPieces plain = vocabulary;
  plain.add_space_prefix = false;
  EXPECT_EQ(encode(plain, "now<|turn|>now"), (Ids{1, kNow, kMore, kNow}));
  // Text that is not trusted makes no control token; user-defined ones are text.
  const Ids untrusted =
      encode(plain, "<|turn|>   ", {.add_special_tokens = false, .parse_special_tokens = false});
  EXPECT_EQ(untrusted.back(), kMore + 1);
  EXPECT_EQ(untrusted.front(), 3 + '<');
}

TEST(ScoredPieces, PhiTakesTheSpaceBehindATokenAlong) {
  GgufPieces vocabulary = pieces(with({{"<|user|>", Type::kControl}}));
  EXPECT_EQ(encode(vocabulary, "<|user|>\nnow"), (Ids{1, kMore, kSpaceId, 3 + '\n', kNow}));
  vocabulary.trims_behind_tokens = true;
  EXPECT_EQ(encode(vocabulary, "<|user|>\n now"), (Ids{1, kMore, kSpaceNow}));
}

TEST(ScoredPieces, BytesThenTheUnknownTokenThenARefusal) {
  EXPECT_EQ(encode(pieces(kWords), "é"), (Ids{1, kSpaceId, 3 + 0xC3, 3 + 0xA9}));
  GgufPieces bare;
  bare.texts = {"<unk>", "<s>", "</s>", "▁", "n"};
  bare.types.assign(5, Type::kNormal);
  bare.scores.assign(5, 0);
  EXPECT_EQ(encode(bare, "nx"), (Ids{1, 3, 4, 0}));
  bare.unknown = -1;
  EXPECT_THROW(encode(bare, "nx"), Error);
}

TEST(ScoredPieces, LongTextsTakeNoSquareTime) {
  std::string text(1 << 18, 'n');
  EXPECT_EQ(encode(pieces(kWords), text).size(), text.size() + 2);
  std::string spaces(1 << 16, ' ');
  EXPECT_EQ(encode(pieces(kWords), spaces), [&] {
    Ids ids{1};
    ids.insert(ids.end(), spaces.size() / 2, kTwoSpaces);
    ids.push_back(kSpaceId);
    return ids;
  }());
}

}  // namespace
}  // namespace nfloat
