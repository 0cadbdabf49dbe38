// SPDX-License-Identifier: Apache-2.0
#include "convert/check_files.h"

#include <filesystem>

#include "architecture/check_tensors.h"
#include "architecture/config_reader.h"
#include "architecture/families.h"
#include "base/json_reader.h"
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

// A folder's configuration may be of a model that does not run here, whose weights can be sound.
bool runs(const std::string& text, const std::string& source) {
  const Family* family = family_of(with_language_part(parse_small_json(text, source)));
  return family != nullptr && family->runs();
}

// That a model loads: what it asks its configuration and the names of its tensors.
void check_model(const Checkpoint& checkpoint, std::vector<Finding>* findings) {
  if (!checkpoint.foreign_refusal().empty()) return;  // said already: not checked
  const std::string text = checkpoint.text_file("config.json"), source = checkpoint.path() + "/config.json";
  if (text.empty()) return;
  if (runs(text, source))
    check_tensors(stored_tensors(checkpoint), parse_model_config(text, source));
  else
    findings->push_back({false, "config.json",
                         "the model does not run in this version: whether its tensors are those that the "
                         "configuration asks for is not checked"});
}

void open_tokenizer(const Checkpoint& checkpoint) {
  const std::string& path = checkpoint.path();
  if (!is_gguf_path(path)) {
    if (has_tokenizer(path)) Tokenizer::load(path);
  } else if (GgufFile(path).text_or("tokenizer.ggml.model", "no_vocab") != "no_vocab") {
    Tokenizer::load(path);
    ChatTemplate::load(path);
  }
}

}  // namespace

void check_files(const Checkpoint& checkpoint, std::vector<Finding>* findings) {
  if (!checkpoint.is_folder() && !checkpoint.is_gguf()) return;
  const auto attempt = [&](const auto& part) {
    try {
      part();
    } catch (const Error& error) {
      findings->push_back({true, "", error.what()});
    }
  };
  attempt([&] { check_model(checkpoint, findings); });
  attempt([&] { open_tokenizer(checkpoint); });
}

}  // namespace nfloat
