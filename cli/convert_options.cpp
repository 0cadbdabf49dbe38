// SPDX-License-Identifier: Apache-2.0
#include "convert_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "commands.h"

namespace nfloat::cli {

uint64_t parse_bytes(const std::string& text, const char* option) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  std::string unit(end, text.data() + text.size());
  unit.erase(0, std::min(unit.find_first_not_of(' '), unit.size()));  // "5 GB"
  for (char& c : unit) c = static_cast<char>(c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c);
  double scale = 0;
  if (unit.empty() || unit == "B") scale = 1;
  if (unit == "KB" || unit == "K") scale = 1e3;
  if (unit == "MB" || unit == "M") scale = 1e6;
  if (unit == "GB" || unit == "G") scale = 1e9;
  if (unit == "TB" || unit == "T") scale = 1e12;
  if (unit == "KIB") scale = 0x1p10;
  if (unit == "MIB") scale = 0x1p20;
  if (unit == "GIB") scale = 0x1p30;
  if (error != std::errc{} || scale == 0 || !(number * scale >= 1) || number * scale > 9e18) {
    throw UsageError(fmt::format("{} '{}': expected a size such as 5GB, 512MiB or 1000000", option, text));
  }
  constexpr double kLeastWithoutUnit = 1e6;
  if (unit.empty() && number < kLeastWithoutUnit)
    throw UsageError(fmt::format("{} {}: {} bytes, or {}GB? Give the unit (B, kB, MB, GB, KiB, MiB, GiB)",
                                 option, text, text, text));
  return static_cast<uint64_t>(number * scale);
}

ScaleMethod scale_method(const std::string& name) {
  return name == "search"   ? ScaleMethod::kSearch
         : name == "signed" ? ScaleMethod::kSigned
                            : ScaleMethod::kAbsmax;
}

ConvertControl control_with_progress(const std::shared_ptr<ProgressBar>& bar, int threads, bool overwrite) {
  ConvertControl control;
  control.threads = threads;
  control.overwrite = overwrite;
  control.cancelled = [] { return interrupted(); };
  control.progress = [bar](const ConvertProgress& progress) {
    bar->update(progress.input_bytes_done, progress.input_bytes_total,
                fmt::format("{}/{} tensors", progress.tensors_done, progress.tensors_total));
  };
  return control;
}

std::string name_pattern(const std::string& name) {
  std::string pattern;
  for (size_t begin = 0; begin <= name.size();) {
    const size_t dot = std::min(name.find('.', begin), name.size());
    const std::string part = name.substr(begin, dot - begin);
    const bool number = !part.empty() && part.find_first_not_of("0123456789") == std::string::npos;
    pattern += (begin > 0 ? "." : "") + (number ? "*" : part);
    begin = dot + 1;
  }
  return pattern;
}

}  // namespace nfloat::cli
