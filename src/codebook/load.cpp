// SPDX-License-Identifier: Apache-2.0
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <cstring>

#include "base/fail.h"
#include "base/json.h"
#include "nfloat/codebook.h"

namespace nfloat {
namespace {

constexpr size_t kMaxFileBytes = 1 << 20;

// The text's place for a reader: which line.
size_t line_of(std::string_view text, size_t position) {
  size_t line = 1;
  for (size_t i = 0; i < position; ++i) line += text[i] == '\n' ? 1 : 0;
  return line;
}

std::vector<double> parse_plain(const std::string& path, std::string_view text) {
  constexpr std::string_view kBetween = " \t\r\n,;";
  std::vector<double> levels;
  for (size_t i = 0; i < text.size();) {
    if (kBetween.find(text[i]) != std::string_view::npos) {
      ++i;
    } else if (text[i] == '#') {
      i = std::min(text.find('\n', i), text.size());
    } else {
      const size_t end = std::min(text.find_first_of(" \t\r\n,;#", i), text.size());
      const char* first = text.data() + i + (text[i] == '+' ? 1 : 0);
      double level = 0;
      const auto [stop, error] = std::from_chars(first, text.data() + end, level);
      if (error != std::errc{} || stop != text.data() + end) {
        fail(ErrorCode::kMalformedFile, "{}: line {}: '{}' is not a number", path, line_of(text, i),
             text.substr(i, std::min<size_t>(end - i, 40)));
      }
      levels.push_back(level);
      i = end;
    }
  }
  return levels;
}

// The bytes of a file, a pipe or a descriptor such as /dev/stdin.
std::string read_table(const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "rbe");
  if (file == nullptr)
    fail(errno == ENOENT ? ErrorCode::kNotFound : ErrorCode::kIo, "{}: cannot open: {}", path,
         std::strerror(errno));
  std::string text;
  char part[1 << 14];
  size_t count;
  while (text.size() <= kMaxFileBytes && (count = std::fread(part, 1, sizeof part, file)) > 0)
    text.append(part, count);
  const int error = std::ferror(file) != 0 ? errno : 0;
  std::fclose(file);
  if (error != 0) fail(ErrorCode::kIo, "{}: cannot read: {}", path, std::strerror(error));
  if (text.size() > kMaxFileBytes)
    fail(ErrorCode::kMalformedFile, "{}: more than {} bytes, too long for a table", path, kMaxFileBytes);
  return text;
}

}  // namespace

Codebook load_codebook(const std::string& path) {
  const std::string whole = read_table(path);
  const std::string_view text(whole);
  const size_t start = std::min(text.find_first_not_of(" \t\r\n"), text.size());
  std::string name = path.substr(path.find_last_of('/') + 1);
  std::vector<double> levels;
  bool signed_scale = false;
  if (start < text.size() && (text[start] == '{' || text[start] == '[')) {
    try {
      const Json json = Json::parse(text, {.unique_names = true});
      const Json& table = json.is_object() ? json.at("levels") : json;
      levels = table.get<std::vector<double>>();
      if (json.is_object()) {
        name = json.value("name", name);
        signed_scale = json.value("signed_scale", false);
      }
    } catch (const JsonError& error) {
      fail(ErrorCode::kMalformedFile,
           "{}: not a table of levels (an array of numbers, or an object with \"levels\"): {}", path,
           error.what());
    }
  } else {
    levels = parse_plain(path, text);
  }
  try {
    Codebook codebook = codebook_from_levels(name, levels);
    codebook.signed_scale = signed_scale;
    return codebook;
  } catch (const Error& error) {
    fail(ErrorCode::kMalformedFile, "{}: {}", path, error.what());
  }
}

}  // namespace nfloat
