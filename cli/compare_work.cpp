// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "base/json.h"
#include "compare_job.h"
#include "model_options.h"
#include "nfloat/error.h"
#include "nfloat/text.h"
#include "notes.h"
#include "rank_options.h"

namespace nfloat::cli {
// A line is {"check":"<16 digits>",REST with a hash of REST: what was damaged is measured again.
static constexpr std::string_view kCheck = "{\"check\":\"";
static constexpr size_t kCheckDigits = 16;

static std::string check_of(std::string_view text) {
  return fmt::format("{:016x}", text_hash(text));
}

// Links are followed and pipes waited for by what reads and writes the files; --fresh removes them.
static void expect_own(const std::string& path, std::string_view beginning) {
  namespace fs = std::filesystem;
  const fs::file_status there = fs::symlink_status(path);
  if (!fs::exists(there)) return;
  std::string begins(beginning.size(), '\0');
  if (fs::is_regular_file(there)) {
    std::ifstream file(path, std::ios::binary);
    file.read(begins.data(), std::ssize(begins));
    begins.resize(static_cast<size_t>(file.gcount()));
    if (beginning.starts_with(begins)) return;
  }
  throw Error(
      ErrorCode::kAlreadyExists,
      fmt::format("{}: is not of a comparison, and would be written to: --work names another folder", path));
}

CompareWork::CompareWork(LockedFolder folder, const std::string& identity)
    : folder_(std::move(folder)), identity_(identity) {
  expect_own(reference_path(), "nfloatP");
  expect_own(layers_path(), "nfloatS");
  expect_own(results_path(), fmt::format("\n{}", kCheck));
  std::FILE* file = std::fopen(results_path().c_str(), "rb");
  if (file == nullptr) return;
  std::fclose(file);
  const std::string text = read_text(results_path(), size_t{1} << 30);
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.size(), text.find('\n', begin));
    const std::string_view line = std::string_view(text).substr(begin, end - begin);
    begin = end + 1;
    const size_t rest = kCheck.size() + kCheckDigits + 2;
    if (!line.starts_with(kCheck) || line.size() < rest ||
        line.substr(kCheck.size(), kCheckDigits) != check_of(line.substr(rest)))
      continue;
    try {
      const Json json = Json::parse(line);
      if (json["of"] != identity) continue;
      done_.push_back(parse_measurement(line));
    } catch (const JsonError&) {
      continue;
    }
  }
}

bool CompareWork::find(const std::string& name, FormatMeasurement& measurement) const {
  for (const FormatMeasurement& done : done_) {
    if (done.name != name) continue;
    measurement = done;
    return true;
  }
  return false;
}

void CompareWork::add(const FormatMeasurement& measurement) {
  Json json = Json::parse(measurement_json(measurement));
  json["of"] = identity_;
  const std::string rest = json.dump().substr(1);
  // An end of line first: the last one may be torn.
  const std::string line = fmt::format("\n{}{}\",{}\n", kCheck, check_of(rest), rest);
  std::FILE* file = std::fopen(results_path().c_str(), "ab");
  const bool written = file != nullptr && std::fwrite(line.data(), 1, line.size(), file) == line.size();
  const bool closed = file != nullptr && std::fclose(file) == 0;
  if (!written || !closed)
    throw Error(ErrorCode::kIo, fmt::format("{}: cannot write: {} (--work FOLDER names another place)",
                                            results_path(), std::strerror(errno)));
  done_.push_back(measurement);
}

void CompareWork::clear() noexcept {
  ::unlink(results_path().c_str());
  ::unlink(reference_path().c_str());
  ::unlink(layers_path().c_str());
  done_.clear();
}

void CompareWork::remove() noexcept {
  clear();
  folder_.remove();
}

LockedFolder take_work_folder(const std::string& named, std::string identity) {
  // Ranks of one machine have the same cache and the same options.
  const std::string own = rank_place().rank > 0 ? fmt::format("-rank{}", rank_place().rank) : "";
  identity += own;
  if (!named.empty()) {
    if (auto folder = LockedFolder::take(named + own)) return *folder;
    throw Error(ErrorCode::kAlreadyExists,
                fmt::format("{}: another run is using this folder; --work names another", named));
  }
  std::string why = "no home folder is known";
  if (const std::optional<std::string> cache = cache_folder()) {
    try {
      if (auto folder = LockedFolder::take(*cache + "/compare-" + identity)) return *folder;
      return LockedFolder::make(*cache);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kIo) throw;
      why = error.what();
    }
  }
  const char* temporary = std::getenv("TMPDIR");
  const std::string parent = temporary != nullptr && *temporary == '/' ? temporary : "/tmp";
  note("no cache ({}): working in {}; a run that is stopped begins anew (--work FOLDER keeps it)\n", why,
       parent);
  return LockedFolder::make(parent);
}

std::string adapter_identity(const AdapterChoice& adapter) {
  std::string identity = fmt::format(" {}:{}", adapter.folder, adapter.weight);
  for (const char* name : {"adapter_config.json", "adapter_model.safetensors"}) {
    const auto file = std::filesystem::path(adapter.folder) / name;
    std::error_code absent;
    identity += fmt::format(" {}.{}", std::filesystem::file_size(file, absent),
                            std::filesystem::last_write_time(file, absent).time_since_epoch().count());
  }
  return identity;
}

}  // namespace nfloat::cli
