// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string_view>

#include "base/fail.h"
#include "nfloat/checkpoint.h"

namespace nfloat {
namespace {

namespace fs = std::filesystem;

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? std::string() : std::string(value);
}

// Where the cache is, in the order that huggingface_hub looks.
fs::path hub_cache() {
  if (const std::string hub = environment("HF_HUB_CACHE"); !hub.empty()) return hub;
  if (const std::string home = environment("HF_HOME"); !home.empty()) return fs::path(home) / "hub";
  std::string cache = environment("XDG_CACHE_HOME");
  if (cache.empty()) cache = environment("HOME") + "/.cache";
  return fs::path(cache) / "huggingface" / "hub";
}

// "model" or "organization/model", of the letters that the Hub allows.
bool is_model_name(std::string_view text) {
  const auto is_part = [](std::string_view part) {
    const auto alphanumeric = [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
    };
    return !part.empty() && alphanumeric(part[0]) && std::ranges::all_of(part, [&](char c) {
      return alphanumeric(c) || c == '.' || c == '_' || c == '-';
    });
  };
  constexpr size_t kMost = 200;
  const size_t slash = text.find('/');
  return text.size() <= kMost && is_part(text.substr(0, slash)) &&
         (slash == std::string_view::npos || is_part(text.substr(slash + 1)));
}

}  // namespace

std::string resolve_model_path(const std::string& path) {
  std::error_code ignored;
  if (fs::exists(path, ignored)) return path;
  if (!is_model_name(path)) fail(ErrorCode::kNotFound, "{}: no such file or folder", path);
  std::string folder = "models--" + path;
  if (const size_t slash = folder.find('/'); slash != std::string::npos) folder.replace(slash, 1, "--");
  const fs::path model = hub_cache() / folder;
  std::string revision;
  std::ifstream(model / "refs" / "main") >> revision;
  // A revision is a name of one folder, whatever the file says.
  if (!revision.empty() && revision.find('/') == std::string::npos &&
      fs::is_directory(model / "snapshots" / revision, ignored)) {
    return (model / "snapshots" / revision).string();
  }
  fs::path newest;
  for (const auto& entry : fs::directory_iterator(model / "snapshots", ignored)) {
    if (!entry.is_directory(ignored)) continue;
    if (newest.empty() || fs::last_write_time(entry.path(), ignored) > fs::last_write_time(newest, ignored)) {
      newest = entry.path();
    }
  }
  if (newest.empty()) {
    fail(ErrorCode::kNotFound,
         "{}: no such file or folder, and no model of that name in the Hugging Face cache ({})", path,
         model.string());
  }
  return newest.string();
}

}  // namespace nfloat
