// SPDX-License-Identifier: Apache-2.0
#include "calibration_text.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/json.h"
#include "model_options.h"
#include "nfloat/calibrate.h"
#include "nfloat/chat.h"
#include "nfloat/error.h"
#include "nfloat/text.h"
#include "nfloat/tokenizer.h"
#include "scoring_input.h"
#include "signals.h"

namespace nfloat::cli {
namespace {

constexpr size_t kMaxTextBytes = size_t{4} << 30;
constexpr int64_t kWindow = 2048;    // tokens, or the model's context
constexpr size_t kBytesAToken = 16;  // at most, in a text of many
// One token of the general text beside so many of one's own.
constexpr int64_t kOwnToGeneral = 8;

std::vector<int32_t> ids_of(const Json& list, const std::string& where, int64_t vocabulary) {
  if (!list.is_array())
    throw Error(ErrorCode::kMalformedFile, fmt::format("{}: expected a list of token ids", where));
  std::vector<int32_t> ids;
  for (const Json& id : list) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= static_cast<uint64_t>(vocabulary))
      throw Error(ErrorCode::kMalformedFile,
                  fmt::format("{}: a token id is {}, expected 0 to {}", where, id.dump(), vocabulary - 1));
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

// The rows of a JSONL file as text, those of "messages" as the chat template writes them.
std::vector<std::string> rows_of(const std::string& text, const std::string& path,
                                 const std::string& folder) {
  std::optional<ChatTemplate> chat;
  std::vector<std::string> rows;
  size_t number = 0;
  for (size_t begin = 0; begin < text.size();) {
    if (interrupted()) throw Error(ErrorCode::kInterrupted, "interrupted while reading the text");
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string line = text.substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const std::string where = fmt::format("{}: line {}", path, number);
    const Json row = parse_json(line, where);
    if (row.is_object() && row.contains("text") && row["text"].is_string()) {
      rows.push_back(row["text"].get<std::string>());
    } else if (row.is_object() && row.contains("messages")) {
      if (!chat) chat = ChatTemplate::load(folder);
      if (!chat)
        throw Error(ErrorCode::kNotFound,
                    fmt::format("{}: \"messages\" need a chat template, {} has none", where, folder));
      rows.push_back(chat->render(row.dump()));
    } else {
      throw Error(ErrorCode::kMalformedFile,
                  fmt::format("{}: expected an object with \"text\" or \"messages\"", where));
    }
  }
  return rows;
}

// Cuts ids into windows after a BOS until `left` tokens are taken.
void cut(const std::vector<int32_t>& ids, const ModelConfig& config, int64_t& left,
         std::vector<std::vector<int32_t>>& windows) {
  const int64_t most = std::min(kWindow, config.context);
  const bool bos = config.bos_token >= 0;
  for (size_t at = 0; at < ids.size() && left > 0;) {
    std::vector<int32_t>& window = windows.emplace_back();
    if (bos && ids[at] != config.bos_token) window.push_back(config.bos_token);
    const auto room = static_cast<size_t>(std::min(left, most - std::ssize(window)));
    const size_t count = std::min(room, ids.size() - at);
    window.insert(window.end(), ids.begin() + static_cast<std::ptrdiff_t>(at),
                  ids.begin() + static_cast<std::ptrdiff_t>(at + count));
    at += count;
    left -= static_cast<int64_t>(count);
  }
}

// Without the bytes of characters that begin before it or end behind it.
std::string whole_characters(std::string text) {
  const auto continues = [](char c) { return (static_cast<uint8_t>(c) & 0xc0) == 0x80; };
  size_t begin = 0, end = text.size();
  while (begin < end && continues(text[begin])) ++begin;
  size_t last = end;
  while (last > begin && continues(text[last - 1])) --last;
  if (last > begin && static_cast<uint8_t>(text[last - 1]) >= 0xc0) {
    const auto lead = static_cast<uint8_t>(text[last - 1]);
    const size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    if (end - (last - 1) < length) end = last - 1;
  }
  return text.substr(begin, end - begin);
}

std::vector<std::vector<int32_t>> windows_of(const std::string& text, const std::string& path,
                                             const std::string& folder, const ModelConfig& config,
                                             int64_t tokens) {
  std::vector<std::vector<int32_t>> windows;
  int64_t left = tokens;
  if (path.ends_with(".json")) {
    const Json json = parse_json(text, path, {.unique_names = true});
    if (!json.is_object() || !json.contains("token_ids") || !json["token_ids"].is_array())
      throw Error(
          ErrorCode::kMalformedFile,
          fmt::format("{}: expected an object with \"token_ids\", a list of lists of token ids", path));
    for (const Json& list : json["token_ids"]) {
      if (left <= 0) break;
      cut(ids_of(list, fmt::format("{}: \"token_ids\"[{}]", path, windows.size()), config.vocabulary), config,
          left, windows);
    }
    return windows;
  }
  const Tokenizer tokenizer = Tokenizer::load(folder);
  if (path.ends_with(".jsonl")) {
    for (const std::string& row : rows_of(text, path, folder)) {
      if (left <= 0) break;
      cut(tokenizer.encode(row, false), config, left, windows);
    }
    return windows;
  }
  if (!path.empty()) expect_text(text, path);
  // Windows from all over the text, each from the beginning of a word.
  const auto room = static_cast<size_t>(std::min(kWindow, config.context));
  const size_t most = (static_cast<size_t>(tokens) + room - 1) / room;
  for (size_t i = 0; i < most && left > 0; ++i) {
    size_t begin = text.size() / most * i;
    if (i > 0) begin = text.find_first_of(" \n", begin);
    if (begin == std::string::npos) break;
    const size_t end = i + 1 < most ? text.size() / most * (i + 1) : text.size();
    // No token is longer than this on average.
    const std::string part = text.substr(begin, std::min(end - std::min(end, begin), room * kBytesAToken));
    std::vector<int32_t> ids = tokenizer.encode(whole_characters(part), false);
    ids.resize(std::min(ids.size(), room - 1));
    cut(ids, config, left, windows);
  }
  return windows;
}

int64_t count_tokens(const std::vector<std::vector<int32_t>>& windows) noexcept {
  int64_t count = 0;
  for (const auto& window : windows) count += std::ssize(window);
  return count;
}

}  // namespace

int64_t CalibrationSubject::beside_tokens() const noexcept {
  return count_tokens(beside);
}

CalibrationSubject calibration_subject(const std::string& folder, const std::string& path, int64_t tokens,
                                       bool alone) {
  CalibrationSubject subject;
  subject.checkpoint = std::make_shared<const Checkpoint>(folder);
  const std::string config = subject.checkpoint->text_file("config.json");
  if (config.empty())
    throw Error(ErrorCode::kNotFound,
                fmt::format("{}: no config.json: what is calibrated is a model that runs", folder));
  subject.config = parse_model_config(config, folder + "/config.json");
  const std::string general(general_calibration_text());
  const std::string text = path.empty() ? general : read_text(path, kMaxTextBytes);
  subject.text = path.empty() ? "the general text that comes with nfloat" : path;
  subject.text_hash = fmt::format("{:016x}", text_hash(text));
  subject.windows = windows_of(text, path, folder, subject.config, tokens);
  if (alone || path.empty()) return subject;
  try {
    const int64_t beside = count_tokens(subject.windows) / kOwnToGeneral;
    subject.beside = windows_of(general, "", folder, subject.config, beside);
    subject.general_hash = fmt::format("{:016x}", text_hash(general));
  } catch (const Error& error) {
    if (!path.ends_with(".json")) throw;  // ids need no tokenizer
    subject.left_out = error.what();
  }
  return subject;
}

}  // namespace nfloat::cli
