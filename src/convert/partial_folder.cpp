// SPDX-License-Identifier: Apache-2.0
#include "convert/partial_folder.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <system_error>

#include "base/checksum.h"
#include "base/fail.h"
#include "base/hold.h"
#include "base/json.h"
#include "convert/output.h"

namespace nfloat {
namespace {

namespace fs = std::filesystem;

constexpr const char* kKeyName = "conversion";
constexpr const char* kFilesName = "model";
constexpr std::string_view kFirstLine = "nfloat conversion 1: ";
// In place of a key: every file was there, and the folder was about to become the output, or did.
constexpr std::string_view kWhole = "whole\n";
constexpr std::string_view kSumSuffix = ".sum";
// What network file systems keep in place of a file that is removed while it is open.
constexpr std::string_view kNetworkRest = ".nfs";
constexpr size_t kMostKey = size_t{1} << 24;

std::string key_text(const ConversionKey& key) {
  Json json = Json::object();
  for (const auto& [name, value] : key) json[name] = value;
  return fmt::format("{}{}\n", kFirstLine, json.dump());
}

// The text of the key's file; empty where there is none.
std::string read_key(const std::string& path) {
  return beginning_of(path, kMostKey);
}

// Whether nothing but a run of ours made the folder: it has a key, or a run died before it wrote one. Others
// may be making it or removing it at this moment: the key comes first and goes last, so that it is looked for
// behind what else is there, and once more when it has gone in between.
bool is_ours(const fs::path& folder) {
  if (!fs::is_directory(fs::symlink_status(folder))) return false;
  for (int look = 0; look < 2; ++look) {
    std::error_code gone;
    const bool empty = std::all_of(fs::directory_iterator(folder, gone), fs::directory_iterator(),
                                   [](const fs::directory_entry& entry) {
                                     return target_of_temporary(entry.path().filename().string()) == kKeyName;
                                   });
    if (empty || read_key((folder / kKeyName).string()).starts_with(kFirstLine)) return true;
  }
  return false;
}

// The first thing in which two keys differ, in words.
std::string difference(const std::string& there, const ConversionKey& here, const std::string& path) {
  Json old;
  try {
    old = parse_json_object(std::string_view(there).substr(kFirstLine.size()), path);
  } catch (const Error&) {
    return "its description is damaged";
  }
  for (const auto& [name, value] : here) {
    const std::string before = old.contains(name) ? old[name].get<std::string>() : std::string("none");
    if (before != value) return fmt::format("{} {} there, {} here", name, before, value);
  }
  return "it has options that this one has not";
}

[[noreturn]] void refuse(const fs::directory_entry& entry, const std::string& folder) {
  fail(ErrorCode::kAlreadyExists, "{}: is {}, and {} holds unfinished shards alone: move it away",
       entry.path().string(),
       entry.is_symlink()                                ? "a link"
       : entry.is_directory() || entry.is_regular_file() ? "not of this conversion"
                                                         : "neither a file nor a folder",
       folder);
}

bool is_temporary(std::string_view name) {
  return !target_of_temporary(name).empty();
}

// "model.safetensors", "model-00001-of-00004.safetensors"
bool is_shard(std::string_view name) {
  return name.starts_with("model") && name.ends_with(".safetensors");
}

bool is_sum(std::string_view name) {
  return name.ends_with(kSumSuffix) && is_shard(name.substr(0, name.size() - kSumSuffix.size()));
}

}  // namespace

PartialFolder::PartialFolder(const Checkpoint& input, const std::string& target, const ConversionKey& key,
                             const ConvertControl& control, std::set<std::string> names)
    : path_(path_of(target)),
      files_((fs::path(path_) / kFilesName).string()),
      key_file_((fs::path(path_) / kKeyName).string()),
      names_(std::move(names)),
      shared_(control.parts > 0) {
  if (control.fresh && shared_)
    fail(ErrorCode::kInvalidArgument, "{}: is not begun afresh by one part of several: remove it before them",
         path_);
  open(target, shared_);
  expect_ours();
  // What is there then was the output that the new one took the place of.
  const bool whole = read_key(key_file_) == std::string(kFirstLine) + std::string(kWhole);
  if (control.fresh && !whole) expect_own_files(true);
  if (control.fresh || whole)
    if (const std::error_code error = remove_state())
      fail(ErrorCode::kIo, "{}: cannot remove: {}", path_, error.message());
  expect_key(key);
  expect_own_files(false);
  if (has_shards()) expect_unchanged(input, shared_ || control.finish);
  std::error_code error;
  fs::create_directory(files_, error);
  if (error) fail(ErrorCode::kIo, "{}: cannot create: {}", files_, error.message());
  if (!shared_ && !has_shards()) unfinished_ = Unfinished(path_);
  folder_ = std::make_unique<AtomicFolder>(target, files_);
}

void PartialFolder::open(const std::string& target, bool shared) {
  const auto open_folder = [&] {
    const bool made = ::mkdir(path_.c_str(), 0777) == 0;
    if (!made && errno != EEXIST) fail(ErrorCode::kIo, "{}: cannot create: {}", path_, std::strerror(errno));
    const int fd = ::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) return kOpenAgain;
    if (fd >= 0 && (made || is_ours(path_))) return fd;
    if (fd >= 0) ::close(fd);
    fail(ErrorCode::kAlreadyExists,
         "{}: is where unfinished shards of {} would be kept, and is not of a conversion: name another "
         "output, or move it away",
         path_, target);
  };
  lock_ = hold(path_, shared ? Hold::kShared : Hold::kAlone, open_folder,
               "another run to the same output is at work there: wait for its end, or name another output");
}

// Whatever writes and removes here goes by names: behind a link they would be those of another place.
void PartialFolder::expect_ours() const {
  for (const fs::directory_entry& entry : fs::directory_iterator(path_)) {
    const std::string name = entry.path().filename().string();
    const fs::file_type type = entry.symlink_status().type();
    if (type == fs::file_type::not_found || name.starts_with(kNetworkRest)) continue;
    if (name == kFilesName
            ? type == fs::file_type::directory
            : type == fs::file_type::regular && (name == kKeyName || is_sum(name) || is_temporary(name)))
      continue;
    refuse(entry, path_);
  }
}

void PartialFolder::expect_own_files(bool other_shards) const {
  std::error_code error;
  fs::recursive_directory_iterator at(files_, error);
  if (error) return;  // there are none
  for (; at != fs::recursive_directory_iterator(); at.increment(error)) {
    const std::string name = at->path().lexically_relative(files_).string();
    const std::string last = at->path().filename().string();
    const fs::file_type type = at->symlink_status(error).type();
    if (type == fs::file_type::not_found || last.starts_with(kNetworkRest)) continue;
    if (type == fs::file_type::directory) {
      const auto inside = names_.lower_bound(name + "/");
      if (inside != names_.end() && inside->starts_with(name + "/")) continue;
    } else if (type == fs::file_type::regular) {
      if (names_.contains(name) || is_temporary(last) || (other_shards && at.depth() == 0 && is_shard(name)))
        continue;
    }
    refuse(*at, path_);
  }
  if (error) fail(ErrorCode::kIo, "{}: cannot list: {}", files_, error.message());
}

std::string PartialFolder::sum_path(const std::string& shard) const {
  return (fs::path(path_) / (shard + std::string(kSumSuffix))).string();
}

void PartialFolder::seal(const std::string& shard, const std::string& written) const {
  write_file_atomically(sum_path(shard), fmt::format("{:016x}\n", checksum_of_file(written)));
}

bool PartialFolder::is_sealed(const std::string& shard) const {
  return fs::exists(sum_path(shard));
}

bool PartialFolder::is_intact(const std::string& shard, const std::function<bool()>& cancelled) const {
  constexpr size_t kMostSum = 64;
  const std::string there = beginning_of(sum_path(shard), kMostSum);
  if (there.empty()) return false;
  return there == fmt::format("{:016x}\n", checksum_of_file((fs::path(files_) / shard).string(), cancelled));
}

void PartialFolder::clear_others() const {
  std::set<fs::path> begun;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(files_)) {
    const std::string name = entry.path().filename().string();
    if (is_temporary(name)) begun.insert(entry.path().parent_path() / target_of_temporary(name));
  }
  for (const fs::path& path : begun) remove_stale_temporaries(path.string());
  for (const std::string& name : names_)
    if (!is_shard(name)) fs::remove(fs::path(files_) / name);
}

bool PartialFolder::has_shards() const {
  if (!fs::exists(files_)) return false;
  return std::any_of(fs::directory_iterator(files_), fs::directory_iterator(), [](const auto& entry) {
    return entry.path().extension() == ".safetensors" && !entry.path().filename().string().starts_with('.');
  });
}

void PartialFolder::expect_key(const ConversionKey& key) {
  const std::string wanted = key_text(key);
  std::string there = read_key(key_file_);
  if (there.empty()) {
    try {
      AtomicFile file(key_file_);
      file.append(wanted);
      file.commit(Existing::kKeep);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kAlreadyExists) throw;  // another part was quicker
    }
    there = read_key(key_file_);
  }
  if (there == wanted) return;
  if (shared_ || has_shards())
    fail(ErrorCode::kAlreadyExists,
         "{}: is the state of another conversion ({}): finish that one, or begin afresh (--fresh)", path_,
         difference(there, key, key_file_));
  write_file_atomically(key_file_, wanted);
}

void PartialFolder::expect_unchanged(const Checkpoint& input, bool of_parts) const {
  std::error_code ignored;
  const fs::file_time_type began = fs::last_write_time(key_file_, ignored);
  // Parts may have begun before another machine had its copy: theirs is asked on the disk that all see.
  struct stat key {
  }, own{};
  ::stat(key_file_.c_str(), &key);
  for (const std::string& file : input.files())
    if ((!of_parts || (::stat(file.c_str(), &own) == 0 && own.st_dev == key.st_dev)) &&
        fs::last_write_time(file, ignored) > began)
      fail(ErrorCode::kAlreadyExists,
           "{}: was changed since the run began whose shards are in {}: begin afresh (--fresh)", file, path_);
}

void PartialFolder::keep() noexcept {
  kept_ = true;
  unfinished_.forget();
}

void PartialFolder::give_up() noexcept {
  if (!shared_) kept_ = false;
}

PartialFolder::~PartialFolder() {
  folder_.reset();
  if (!kept_ && !shared_) clear();
}

std::error_code PartialFolder::remove_state() const noexcept {
  std::error_code error;
  fs::remove_all(files_, error);
  for (auto at = fs::directory_iterator(path_, error); !error && at != fs::directory_iterator();
       at.increment(error))
    if (is_sum(at->path().filename().string())) fs::remove(at->path(), error);
  // The key last, by which the folder is known as ours.
  if (!error) fs::remove(key_file_, error);
  return error;
}

void PartialFolder::clear() noexcept {
  remove_state();
  std::set<std::string> begun{kKeyName};
  for (const std::string& name : names_)
    if (is_shard(name)) begun.insert(name + std::string(kSumSuffix));
  for (const std::string& name : begun) remove_stale_temporaries((fs::path(path_) / name).string());
  std::error_code ignored;
  fs::remove(path_, ignored);  // only where nothing is left
}

void PartialFolder::commit(Existing existing,
                           const std::function<void(const std::string&)>& may_be_replaced) {
  const std::string key = read_key(key_file_);
  // An exchange puts the old output where the shards were: from here on no run may take them for its own.
  if (existing == Existing::kReplace)
    write_file_atomically(key_file_, std::string(kFirstLine) + std::string(kWhole));
  try {
    folder_->commit(existing, may_be_replaced);
  } catch (const Error&) {
    if (existing == Existing::kReplace && !folder_->path().empty()) write_file_atomically(key_file_, key);
    throw;
  }
  kept_ = false;
}

}  // namespace nfloat
