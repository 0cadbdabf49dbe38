// SPDX-License-Identifier: Apache-2.0
#include "base/output_place.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/atomic_file.h"
#include "base/fail.h"
#include "nfloat/files.h"

namespace nfloat {
namespace {

namespace fs = std::filesystem;
constexpr int kMostLinks = 40;  // as the kernel

fs::path folder_of(const fs::path& path) {
  return path.parent_path().empty() ? fs::path(".") : path.parent_path();
}

// Entries of /proc/N/fd look like links and are not: they stand for what the descriptor has open.
bool is_descriptor(const fs::path& path) {
  std::error_code error;
  const fs::path folder = fs::canonical(folder_of(path), error);
  return !error && folder.filename() == "fd" && folder.string().starts_with("/proc/");
}

// Opens `place` to write. A descriptor of this process is copied, so that what else is written to it neither
// covers this nor is covered by it.
int open_stream(const OutputPlace& place) {
  if (place.descriptor < 0) return ::open(place.path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC | O_NOCTTY);
  std::fflush(nullptr);
  return ::fcntl(place.descriptor, F_DUPFD_CLOEXEC, 3);
}

void write_into(const OutputPlace& place, std::string_view text) {
  const std::string& path = place.path;
  const int fd = open_stream(place);
  if (fd < 0) fail(ErrorCode::kIo, "{}: cannot write: {}", path, std::strerror(errno));
  while (!text.empty()) {
    const ssize_t written = ::write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) {
      const int error = errno;
      ::close(fd);
      fail(ErrorCode::kIo, "{}: cannot write: {}", path, std::strerror(error));
    }
    text.remove_prefix(static_cast<size_t>(written));
  }
  if (::close(fd) != 0) fail(ErrorCode::kIo, "{}: cannot write: {}", path, std::strerror(errno));
}

fs::path normal_path(const fs::path& path) {
  std::error_code error;
  fs::path normal = fs::weakly_canonical(fs::absolute(path), error);
  if (error) fail(ErrorCode::kIo, "{}: {}", path.string(), error.message());
  return normal.has_filename() ? normal : normal.parent_path();
}

bool is_inside(const fs::path& path, const fs::path& folder) {
  const auto [mismatch, unused] = std::mismatch(folder.begin(), folder.end(), path.begin(), path.end());
  return mismatch == folder.end();
}

// What a path is called, and where it leads.
struct Known {
  std::string shown;
  fs::path at;
  bool input;
};

std::string shown(const NamedPath& named, const std::string& path) {
  return named.name.empty() ? path : named.name + " " + path;
}

// What no model is made of: pictures, and the distributions that nfloat itself keeps.
bool is_apart_from_models(const fs::path& path) {
  if (path.extension() == ".html" || path.extension() == ".svg") return true;
  constexpr std::string_view kOwn = "nfloat";
  std::string begins(kOwn.size(), '\0');
  std::ifstream(path, std::ios::binary).read(begins.data(), std::ssize(begins));
  return begins == kOwn;
}

// Of a folder that is read, the files in it are; not those that are not there yet, nor those of its
// sub-folders.
bool is_read_with(const fs::path& folder, const fs::path& path) {
  std::error_code ignored;
  if (path.parent_path() != folder || !fs::exists(path, ignored)) return false;
  return !fs::is_regular_file(path, ignored) || !is_apart_from_models(path);
}

// What may lie in a folder that is read.
enum class Inside { kNothing, kWhatIsNotRead };

void expect_apart(const Known& output, const Known& other, Inside inside) {
  std::error_code ignored;
  const bool same = output.at == other.at || fs::equivalent(output.at, other.at, ignored);
  const bool in = is_inside(output.at, other.at) &&
                  (!other.input || inside == Inside::kNothing || is_read_with(other.at, output.at));
  const char* where = same                             ? "is the same as"
                      : in                             ? "lies in"
                      : is_inside(other.at, output.at) ? "lies around"
                                                       : nullptr;
  if (where != nullptr)
    fail(ErrorCode::kInvalidArgument, "{}: {} {}, which is {}", output.shown, where, other.shown,
         other.input ? "read" : "written");
}

void expect_apart(const std::vector<NamedPath>& outputs, const std::vector<NamedPath>& inputs,
                  Inside inside) {
  const auto is_none = [](const NamedPath& path) { return path.path.empty() || path.path == "-"; };
  std::vector<Known> known;
  for (const NamedPath& input : inputs) {
    if (is_none(input)) continue;
    const fs::path at = normal_path(input.path);
    known.push_back({shown(input, input.path), at, true});
    std::error_code ignored;
    for (const fs::directory_entry& entry : fs::directory_iterator(at, ignored)) {
      if (!entry.is_symlink(ignored)) continue;
      const fs::path read = fs::weakly_canonical(entry.path(), ignored);
      if (!ignored) known.push_back({shown(input, entry.path().string()), read, true});
    }
  }
  for (const NamedPath& output : outputs) {
    if (is_none(output)) continue;
    const OutputPlace place = output_place(output.path);
    if (place.kind == OutputPlace::Kind::kStream) continue;
    const Known own{shown(output, output.path), normal_path(place.path), false};
    for (const Known& other : known) expect_apart(own, other, inside);
    known.push_back(own);
  }
}

}  // namespace

OutputPlace output_place(const std::string& path) {
  fs::path at(path);
  std::error_code error;
  for (int links = 0; fs::is_symlink(at, error); ++links) {
    if (is_descriptor(at)) {
      OutputPlace place{OutputPlace::Kind::kStream, path, true};
      const fs::path own = fs::canonical("/proc/self/fd", error),
                     folder = fs::canonical(folder_of(at), error);
      if (own == folder) place.descriptor = std::atoi(at.filename().c_str());
      return place;
    }
    if (links == kMostLinks) fail(ErrorCode::kIo, "{}: links lead in a circle", path);
    const fs::path to = fs::read_symlink(at, error);
    if (error) fail(ErrorCode::kIo, "{}: cannot read the link: {}", path, error.message());
    at = to.is_absolute() ? to : folder_of(at) / to;
  }
  struct stat info {};
  if (::stat(at.c_str(), &info) != 0) return {OutputPlace::Kind::kFile, at.string(), false};
  if (S_ISDIR(info.st_mode)) return {OutputPlace::Kind::kFolder, at.string(), true};
  if (S_ISREG(info.st_mode)) return {OutputPlace::Kind::kFile, at.string(), true};
  return {OutputPlace::Kind::kStream, path, true};
}

std::string output_target(const std::string& output) {
  if (output.empty()) fail(ErrorCode::kInvalidArgument, "the output has no name");
  return normal_path(output_place(output).path).string();
}

void expect_outputs_apart(const std::vector<NamedPath>& outputs, const std::vector<NamedPath>& inputs) {
  expect_apart(outputs, inputs, Inside::kWhatIsNotRead);
}

void expect_checkpoint_apart(const std::string& output, const std::vector<NamedPath>& inputs) {
  expect_apart({{output}}, inputs, Inside::kNothing);
}

void expect_writable_file(const std::string& path) {
  const OutputPlace place = output_place(path);
  if (place.kind == OutputPlace::Kind::kFolder) fail(ErrorCode::kIo, "{}: is a folder", path);
  const fs::path there = place.kind == OutputPlace::Kind::kStream ? fs::path(path) : folder_of(place.path);
  if (::access(there.c_str(), W_OK) != 0) {
    const int error = errno;
    fail(ErrorCode::kIo, "{}: {} cannot be written to: {}", path, there.string(), std::strerror(error));
  }
}

void write_output_file(const std::string& path, std::string_view text) {
  const OutputPlace place = output_place(path);
  if (place.kind == OutputPlace::Kind::kStream)
    write_into(place, text);
  else
    write_file_atomically(path, text);
}

}  // namespace nfloat
