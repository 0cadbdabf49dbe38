// SPDX-License-Identifier: Apache-2.0
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <regex>

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

}  // namespace

std::string resolve_model_path(const std::string& path) {
  std::error_code ignored;
  if (fs::exists(path, ignored)) return path;
  static const std::regex kModelName("[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?");
  if (path.size() > 200 || !std::regex_match(path, kModelName)) {
    fail(ErrorCode::kNotFound, "{}: no such file or folder", path);
  }
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
