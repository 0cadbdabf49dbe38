// SPDX-License-Identifier: Apache-2.0
#include "automatic_precision.h"

#include <fmt/format.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>

#include "base/json.h"
#include "cache.h"
#include "command_line.h"
#include "nfloat/files.h"
#include "nfloat/machine.h"
#include "nfloat/results.h"
#include "nfloat/targets.h"
#include "nfloat/threads.h"
#include "nfloat/version.h"

namespace nfloat::cli {
namespace {

constexpr const char* kFileName = "/precisions.json";
constexpr size_t kMostBytes = size_t{64} << 10, kMostEntries = 64;

struct Rate {
  const char* name;
  double PrecisionRates::*value;
};
constexpr std::array<Rate, 4> kRates = {{{"one_row_bf16", &PrecisionRates::one_row_bf16},
                                         {"one_row_int8", &PrecisionRates::one_row_int8},
                                         {"many_rows_bf16", &PrecisionRates::many_rows_bf16},
                                         {"many_rows_int8", &PrecisionRates::many_rows_int8}}};

// What a measurement holds for.
Json conditions(int threads) {
  return {{"processor", machine_processor()},
          {"target", active_target()},
          {"threads", threads},
          {"version", std::string(version())}};
}

bool holds(const Json& entry, const Json& wanted) {
  for (const auto& [name, value] : wanted.items()) {
    const Json* found = entry.find(name);
    if (found == nullptr || found->dump() != value.dump()) return false;
  }
  return true;
}

std::optional<PrecisionRates> rates_of(const Json& entry) {
  constexpr double kMost = 1e9;
  PrecisionRates rates;
  for (const Rate& rate : kRates) {
    const Json* found = entry.find(rate.name);
    if (found == nullptr || !found->is_number()) return std::nullopt;
    const double value = found->get<double>();
    if (!(value > 0 && value < kMost)) return std::nullopt;
    rates.*rate.value = value;
  }
  return rates;
}

// The measurements kept, an array of objects; none where the file is not what this program writes.
Json read_entries(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) return Json::array();
  std::ifstream file(path, std::ios::binary);
  std::string text(kMostBytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<size_t>(file.gcount()));
  if (text.size() > kMostBytes) return Json::array();
  Json kept = Json::array();
  try {
    const Json all = Json::parse(text, {.depth = 8, .values = 4096, .bytes = kMostBytes});
    const Json* list = all.is_object() ? all.find("measurements") : nullptr;
    if (list == nullptr || !list->is_array()) return kept;
    for (const Json& entry : *list)
      if (entry.is_object()) kept.push_back(entry);
  } catch (const JsonError&) {
    return Json::array();
  }
  return kept;
}

// True when it has been written.
bool keep(const std::string& folder, const Json& entries, const Json& wanted, const PrecisionRates& rates) {
  const std::string path = folder + kFileName;
  std::error_code error;
  // A pipe of that name would be waited for, and what a link leads to is someone else's.
  const std::filesystem::file_status there = std::filesystem::symlink_status(path, error);
  if (std::filesystem::exists(there) && !std::filesystem::is_regular_file(there)) return false;
  Json all{{"measurements", Json::array()}};
  Json& list = all["measurements"];
  Json entry = wanted;
  for (const Rate& rate : kRates) entry[rate.name] = rates.*rate.value;
  list.push_back(std::move(entry));  // the newest first
  for (const Json& other : entries)
    if (!holds(other, wanted) && list.size() < kMostEntries) list.push_back(other);
  try {
    make_folders(folder);
    write_output_file(path, all.dump(2, Json::Invalid::kReplace) + "\n");
  } catch (const Error&) {
    return false;
  }
  return true;
}

std::string described(const PrecisionRates& rates) {
  return fmt::format("one row bf16 {:.1f}, int8 {:.1f}; 64 rows bf16 {:.1f}, int8 {:.1f} Gw/s",
                     rates.one_row_bf16, rates.one_row_int8, rates.many_rows_bf16, rates.many_rows_int8);
}

}  // namespace

std::string precision_text(const PrecisionChoice& choice) {
  const std::string one = precision_name(choice.one_row);
  return choice.one_row == choice.many_rows ? one : one + "+" + precision_name(choice.many_rows);
}

std::optional<PrecisionChoice> parse_precisions(const std::string& text) {
  for (const Precision one : {Precision::kF32, Precision::kBF16, Precision::kInt8})
    for (const Precision many : {Precision::kF32, Precision::kBF16, Precision::kInt8}) {
      const PrecisionChoice choice{one, many};
      const bool mixed = one != many && (one == Precision::kF32 || many == Precision::kF32);
      if (!mixed && text == precision_text(choice)) return choice;
    }
  return std::nullopt;
}

static AutomaticPrecision measured_precision(int threads) {
  const Json wanted = conditions(threads);
  const std::optional<std::string> folder = cache_folder();
  const Json entries = folder ? read_entries(*folder + kFileName) : Json::array();
  for (const Json& entry : entries) {
    if (!holds(entry, wanted)) continue;
    if (const std::optional<PrecisionRates> rates = rates_of(entry))
      return {faster_precisions(*rates),
              fmt::format("as measured before ({}{}): {}", *folder, kFileName, described(*rates))};
  }
  const PrecisionRates rates = measure_precisions(threads);
  const bool kept = folder && keep(*folder, entries, wanted, rates);
  return {faster_precisions(rates),
          fmt::format("as measured now{}: {}",
                      kept ? fmt::format(" and kept in {}{}", *folder, kFileName) : "", described(rates))};
}

AutomaticPrecision automatic_precision(int threads, bool plain) {
  if (const char* fixed = std::getenv("NFLOAT_PRECISION"); fixed != nullptr && *fixed != '\0') {
    const std::optional<PrecisionChoice> choice = parse_precisions(fixed);
    if (!choice)
      throw UsageError(
          fmt::format("NFLOAT_PRECISION is '{}'; expected f32, bf16, int8, bf16+int8 or int8+bf16", fixed));
    return {*choice, "as NFLOAT_PRECISION says"};
  }
  if (plain) return {{Precision::kBF16, Precision::kBF16}, "because no matrix of this model has codes"};
  if (threads == 0) threads = default_threads();
  // A model and its draft take the same, wherever it can be kept.
  static std::map<int, AutomaticPrecision> known;
  const auto [place, is_new] = known.try_emplace(threads);
  if (is_new) place->second = measured_precision(threads);
  return place->second;
}

}  // namespace nfloat::cli
