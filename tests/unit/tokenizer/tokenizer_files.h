// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TESTS_UNIT_TOKENIZER_TOKENIZER_FILES_H_
#define NFLOAT_TESTS_UNIT_TOKENIZER_TOKENIZER_FILES_H_

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "base/json.h"
#include "nfloat/error.h"
#include "nfloat/tokenizer.h"

namespace nfloat {

inline std::string read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// A byte-pair encoding of these tokens (ids in order) and merges, with nothing around it.
inline Json bpe_file(const std::vector<std::string>& tokens, const std::vector<std::string>& merges) {
  Json vocab = Json::object();
  for (size_t id = 0; id < tokens.size(); ++id) vocab[tokens[id]] = id;
  return {
      {"added_tokens", Json::array()}, {"normalizer", nullptr},
      {"pre_tokenizer", nullptr},      {"post_processor", nullptr},
      {"decoder", {{"type", "Fuse"}}}, {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", merges}}}};
}

inline Json added_token(int id, const std::string& text) {
  return {{"id", id},        {"content", text}, {"special", true},    {"single_word", false},
          {"lstrip", false}, {"rstrip", false}, {"normalized", false}};
}

// The shape of Llama 2's tokenizer.json: U+2581 for spaces, bytes for what has no token.
inline Json llama_like_file() {
  std::vector<std::string> tokens{"<unk>", "<s>", "</s>"};
  for (int byte = 0; byte < 256; ++byte) {
    char text[8];
    std::snprintf(text, sizeof text, "<0x%02X>", static_cast<unsigned>(byte));
    tokens.emplace_back(text);
  }
  for (const char* text : {"▁", "h", "e", "l", "o", "w", "▁h", "▁he", "ll", "▁hell", "▁hello"})
    tokens.emplace_back(text);
  Json file = bpe_file(tokens, {"▁ h", "▁h e", "l l", "▁he ll", "▁hell o"});
  file["model"]["byte_fallback"] = true;
  file["model"]["unk_token"] = "<unk>";
  file["model"]["fuse_unk"] = true;
  for (int id = 0; id < 3; ++id)
    file["added_tokens"].push_back(added_token(id, tokens[static_cast<size_t>(id)]));
  const Json space_to_mark = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "▁"}};
  const Json mark_to_space = {{"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}};
  file["normalizer"] = {{"type", "Sequence"},
                        {"normalizers", {{{"type", "Prepend"}, {"prepend", "▁"}}, space_to_mark}}};
  file["decoder"] = {{"type", "Sequence"},
                     {"decoders",
                      {mark_to_space,
                       {{"type", "ByteFallback"}},
                       {{"type", "Fuse"}},
                       {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}};
  file["post_processor"] = {
      {"type", "TemplateProcessing"},
      {"single",
       {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}}, {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
      {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {1}}, {"tokens", {"<s>"}}}}}}};
  return file;
}

inline Tokenizer load(const Json& file) {
  return Tokenizer::from_json(file.dump(), "test.json");
}

// The error of loading `file`: its code and that its message names `part`.
inline void expect_refused(const std::string& text, ErrorCode code, const std::string& part) {
  try {
    Tokenizer::from_json(text, "test.json");
    ADD_FAILURE() << "loaded, expected an error naming " << part;
  } catch (const Error& error) {
    EXPECT_EQ(static_cast<int>(error.code()), static_cast<int>(code)) << error.what();
    EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
  }
}

}  // namespace nfloat

#endif  // NFLOAT_TESTS_UNIT_TOKENIZER_TOKENIZER_FILES_H_
