// SPDX-License-Identifier: Apache-2.0
#include "cache.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <pwd.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <vector>

#include "base/json.h"
#include "commands.h"
#include "convert_options.h"
#include "nfloat/error.h"
#include "notes.h"
#include "table.h"

namespace nfloat::cli {
namespace {

namespace fs = std::filesystem;
constexpr const char* kLockName = "/.lock";

// What the cache keeps of one model and text: a file of distributions, or a comparison's folder.
struct Entry {
  fs::path path;
  uint64_t bytes = 0;
  fs::file_time_type when;
};

bool is_ours(const std::string& name) {
  return name.starts_with("reference-") || name.starts_with("compare-") || name == "precisions.json" ||
         name.find(".nfloat-") != std::string::npos;
}

// Oldest first. What cannot be read has gone meanwhile, or is not ours.
std::vector<Entry> entries(const std::string& folder) {
  std::vector<Entry> list;
  std::error_code error;
  for (const auto& item : fs::directory_iterator(folder, error)) {
    if (item.is_symlink(error) || !is_ours(item.path().filename().string())) continue;
    Entry entry{item.path(), 0, item.last_write_time(error)};
    if (error) continue;
    if (item.is_directory(error)) {
      for (const auto& file : fs::directory_iterator(item.path(), error)) {
        const uint64_t bytes = file.file_size(error);
        if (!error) entry.bytes += bytes;
      }
    } else {
      entry.bytes = item.file_size(error);
      if (error) continue;
    }
    list.push_back(std::move(entry));
  }
  std::sort(list.begin(), list.end(), [](const Entry& a, const Entry& b) { return a.when < b.when; });
  return list;
}

// A file with another's lock is being written; a folder with one is being worked in.
bool in_use(const fs::path& path) {
  const fs::path locked = fs::is_directory(path) ? fs::path(path.string() + kLockName) : path;
  const int fd = ::open(locked.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  if (fd < 0) return false;
  const bool used = ::flock(fd, LOCK_EX | LOCK_NB) != 0;
  ::close(fd);
  return used;
}

std::string home_folder() {
  if (const char* home = std::getenv("HOME"); home != nullptr && *home == '/') return home;
  const passwd* user = ::getpwuid(::getuid());
  return user != nullptr && user->pw_dir != nullptr && *user->pw_dir == '/' ? user->pw_dir : "";
}

}  // namespace

std::optional<std::string> cache_folder() {
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache != nullptr && *cache == '/')
    return std::string(cache) + "/nfloat";
  const std::string home = home_folder();
  if (home.empty()) return std::nullopt;
  return home + "/.cache/nfloat";
}

void make_folders(const std::string& path) {
  for (size_t slash = path.find('/', 1);; slash = path.find('/', slash + 1)) {
    const std::string part = path.substr(0, slash);
    if (::mkdir(part.c_str(), 0700) != 0 && errno != EEXIST && errno != EISDIR)
      throw Error(ErrorCode::kIo, fmt::format("{}: cannot be made: {}", part, std::strerror(errno)));
    if (slash == std::string::npos) return;
  }
}

uint64_t trim_cache(const std::string& folder, uint64_t most_bytes, const std::string& except) {
  const std::vector<Entry> all = entries(folder);
  uint64_t total = 0, freed = 0;
  for (const Entry& entry : all) total += entry.bytes;
  for (const Entry& entry : all) {
    if (total <= most_bytes && most_bytes > 0) break;
    if (entry.path == except || in_use(entry.path)) continue;
    std::error_code error;
    fs::remove_all(entry.path, error);
    if (error) continue;
    total -= entry.bytes;
    freed += entry.bytes;
  }
  return freed;
}

LockedFolder::LockedFolder(std::string path, int fd)
    : path_(std::move(path)), lock_(new int(fd), [](const int* owned) {
        ::close(*owned);
        delete owned;
      }) {}

std::optional<LockedFolder> LockedFolder::take(const std::string& folder) {
  // Another run may remove the folder between two of these steps.
  constexpr int kTries = 20;
  const std::string name = folder + kLockName;
  for (int i = 0; i < kTries; ++i) {
    make_folders(folder);
    const int fd = ::open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 && errno == ENOENT) continue;
    if (fd < 0) throw Error(ErrorCode::kIo, fmt::format("{}: cannot write: {}", name, std::strerror(errno)));
    if (::flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      ::close(fd);
      return std::nullopt;
    }
    struct stat ours {
    }, named{};
    if (::fstat(fd, &ours) == 0 && ::lstat(name.c_str(), &named) == 0 && ours.st_ino == named.st_ino)
      return LockedFolder(folder, fd);
    ::close(fd);
  }
  return std::nullopt;
}

LockedFolder LockedFolder::make(const std::string& parent) {
  std::string path = parent + "/compare-XXXXXX";
  if (::mkdtemp(path.data()) == nullptr)
    throw Error(ErrorCode::kIo, fmt::format("{}: cannot write: {}", parent, std::strerror(errno)));
  std::optional<LockedFolder> folder = take(path);
  if (!folder) throw Error(ErrorCode::kIo, fmt::format("{}: another run has it", path));
  return *folder;
}

void LockedFolder::remove() noexcept {
  ::unlink((path_ + kLockName).c_str());
  ::rmdir(path_.c_str());
}

namespace {

struct Options {
  std::string limit;
  bool clear = false, json = false;
};

std::string age(fs::file_time_type when) {
  const auto hours =
      std::chrono::duration_cast<std::chrono::hours>(fs::file_time_type::clock::now() - when).count();
  return hours < 48 ? fmt::format("{} h", std::max<int64_t>(0, hours)) : fmt::format("{} days", hours / 24);
}

void run(const Options& options) {
  if (options.clear && !options.limit.empty()) throw UsageError("--clear and --limit do not go together");
  const std::optional<std::string> folder = cache_folder();
  if (!folder)
    throw Error(ErrorCode::kNotFound, "no cache folder: neither XDG_CACHE_HOME nor a home folder is known");
  uint64_t freed = 0;
  if (options.clear) freed = trim_cache(*folder, 0);
  if (!options.limit.empty()) freed = trim_cache(*folder, parse_bytes(options.limit, "--limit"));
  const std::vector<Entry> list = entries(*folder);
  uint64_t total = 0;
  for (const Entry& entry : list) total += entry.bytes;
  if (options.json) {
    Json json = {{"folder", *folder}, {"bytes", total}, {"freed_bytes", freed}, {"entries", Json::array()}};
    for (const Entry& entry : list)
      json["entries"].push_back({{"name", entry.path.filename().string()}, {"bytes", entry.bytes}});
    fmt::print("{}\n", json.dump(2, Json::Invalid::kReplace));
    return;
  }
  if (options.clear || !options.limit.empty()) fmt::print("{} freed\n", format_bytes(freed));
  if (!list.empty()) {
    Table table(
        {{"entry, oldest first", Table::Align::kLeft}, {"bytes"}, {"age"}, {"", Table::Align::kLeft}});
    for (const Entry& entry : list)
      table.add({entry.path.filename().string(), format_bytes(entry.bytes), age(entry.when),
                 in_use(entry.path) ? "in use" : ""});
    fmt::print("{}", table.to_string());
  }
  fmt::print("{}: {} in {} {}\n", one_line(*folder), format_bytes(total), list.size(),
             list.size() == 1 ? "entry" : "entries");
}

}  // namespace

void add_cache_command(const Command& app) {
  auto options = std::make_shared<Options>();
  const Command command =
      app.add_subcommand("cache", "List, limit or clear files that are kept for later runs");
  command.footer(
      "Examples:\n"
      "  nfloat cache                    list all files\n"
      "  nfloat cache --limit 5GB        remove the oldest until 5 GB are left\n"
      "  nfloat cache --clear            remove all that no run is using\n"
      "perplexity --reference keeps the original's log-probabilities there, compare what an unfinished run "
      "has done,\n"
      "commands that generate what they measured for --precision auto.\n"
      "The folder is $XDG_CACHE_HOME/nfloat, or ~/.cache/nfloat.");
  command.add_option("--limit", options->limit,
                     "Remove the oldest files until at most this size is left, as 5GB");
  command.add_flag("--clear", options->clear, "Remove everything");
  command.add_flag("--json", options->json, "Print JSON");
  command.callback([options] { run(*options); });
}

}  // namespace nfloat::cli
