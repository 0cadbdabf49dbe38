// SPDX-License-Identifier: Apache-2.0
#include "convert/check_files.h"

#include <filesystem>

#include "nfloat/chat.h"
#include "nfloat/error.h"
#include "nfloat/gguf.h"
#include "nfloat/model_config.h"
#include "nfloat/tokenizer.h"

namespace nfloat {
namespace {

// A folder without a tokenizer is sound: weights alone.
bool has_tokenizer(const std::string& path) {
  std::error_code ignored;
  const std::filesystem::path folder(path);
  const auto there = [&](const char* name) { return std::filesystem::exists(folder / name, ignored); };
  return there("tokenizer.json") || there("tokenizer.model") || (there("vocab.json") && there("merges.txt"));
}

void open_gguf(const Checkpoint& checkpoint) {
  const std::string& path = checkpoint.path();
  parse_model_config(checkpoint.text_file("config.json"), path);
  if (GgufFile(path).text_or("tokenizer.ggml.model", "no_vocab") == "no_vocab") return;
  Tokenizer::load(path);
  ChatTemplate::load(path);
}

}  // namespace

void check_files(const Checkpoint& checkpoint, std::vector<Finding>* findings) {
  try {
    if (is_gguf_path(checkpoint.path()))
      open_gguf(checkpoint);
    else if (checkpoint.is_folder() && has_tokenizer(checkpoint.path()))
      Tokenizer::load(checkpoint.path());
  } catch (const Error& error) {
    findings->push_back({true, "", error.what()});
  }
}

}  // namespace nfloat
