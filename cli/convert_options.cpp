// SPDX-License-Identifier: Apache-2.0
#include "convert_options.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "commands.h"
#include "model_options.h"
#include "nfloat/text.h"
#include "notes.h"
#include "numbers.h"
#include "rank_options.h"

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

void PartOptions::apply(ConvertControl& control, const char* command) const {
  if (!part.empty() && (finish || fresh))
    throw UsageError(fmt::format("{}: --part does not go with --{}", command, finish ? "finish" : "fresh"));
  if (finish && fresh) throw UsageError(fmt::format("{}: --finish does not go with --fresh", command));
  control.finish = finish;
  control.fresh = fresh;
  if (part.empty()) return;
  constexpr int64_t kMostParts = 1'000'000;
  const std::string_view text = part;
  const size_t slash = std::min(text.find('/'), text.size() - 1);
  const auto which = parse_number<int64_t>(text.substr(0, slash));
  const auto count = parse_number<int64_t>(text.substr(slash + 1));
  if (!which || !count || *which < 1 || *count < *which || *count > kMostParts)
    throw UsageError(
        fmt::format("{}: --part '{}': expected a part and their number, such as 2/8", command, part));
  control.part = *which - 1;
  control.parts = *count;
}

ConvertResult convert_in_parts(const PartOptions& options, ConvertControl control, const char* command,
                               const std::function<ConvertResult(const ConvertControl&)>& convert) {
  options.apply(control, command);
  const RankPlace place = rank_place();
  if (place.count == 1) return convert(control);
  if (options.any() || options.fresh)
    throw UsageError(fmt::format(
        "{}: under mpirun each rank makes a part: --part, --finish and --fresh are for one process",
        command));
  const std::shared_ptr<Ranks> ranks = joined_ranks(options.ranks);
  ranks->at("the conversion", -1);
  control.threads = threads_of_rank(*ranks, control.threads);
  control.part = place.rank;
  control.parts = place.count;
  ConvertResult part = convert(control);
  ranks->barrier();
  if (place.rank > 0) return part;
  control.part = control.parts = 0;
  control.finish = true;
  ConvertResult result = convert(control);
  result.seconds += part.seconds;
  result.sync_seconds += part.sync_seconds;
  return result;
}

void add_part_options(const Command& command, PartOptions& options) {
  command.add_option(
      "--part", options.part,
      "Make only shards 2, 10, 18, ... (--part 2/8) into OUT.partial: for job queues, with --finish "
      "at the end");
  command.add_flag("--finish", options.finish,
                   "Make OUT of the shards that the parts have left in OUT.partial");
  command.add_flag("--fresh", options.fresh,
                   "Discard what a run cut short has left: shards in OUT.partial, layers of a calibration in "
                   "OUT.calibration");
  add_rank_timeout(command, options.ranks);
}

std::string part_sentence(const ConvertResult& result, const PartOptions& options,
                          const std::string& output) {
  if (!options.part.empty())
    return fmt::format("part {}: {} of {} in {}.partial; --finish makes the output of all parts",
                       options.part, result.files.size(),
                       count_of(static_cast<int64_t>(result.shards), "shard"), printable(output));
  std::string sentence;
  if (result.shards_before > 0 && !options.finish && rank_place().count == 1)
    sentence = fmt::format("{} of {} {} finished before and not made again", result.shards_before,
                           count_of(static_cast<int64_t>(result.shards), "shard"),
                           result.shards_before == 1 ? "was" : "were");
  if (result.shards_damaged > 0)
    sentence += fmt::format("{}{} there no longer had the bytes that were written, and made again",
                            sentence.empty() ? "" : "; ",
                            count_of(static_cast<int64_t>(result.shards_damaged), "shard"));
  return sentence;
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

std::string conversion_device(const std::string& named) {
  return named.empty() || named == "auto" ? "cpu" : chosen_device(named);
}

std::string on_device_sentence(const ConvertResult& result, const std::string& device, const char* done) {
  const int64_t rest = result.plan.quantized_parameters - result.device_parameters;
  const bool elsewhere = result.shards_before > 0;  // by an earlier run, nobody knows where
  return fmt::format("{} {} on {}{}", count_of(result.device_parameters, "parameter"), done,
                     device_text(device),
                     rest == 0   ? ""
                     : elsewhere ? fmt::format(", {} on the CPU or by earlier runs", rest)
                                 : fmt::format(", {} on the CPU", rest));
}

}  // namespace nfloat::cli
