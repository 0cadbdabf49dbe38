// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CLI_CONVERT_OPTIONS_H_
#define NFLOAT_CLI_CONVERT_OPTIONS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "command_line.h"
#include "nfloat/convert.h"
#include "progress.h"
#include "rank_options.h"

namespace nfloat::cli {

// "5GB", "512MiB", "1000000": bytes. Throws UsageError.
uint64_t parse_bytes(const std::string& text, const char* option);

// Of "absmax", "search", "signed".
ScaleMethod scale_method(const std::string& name);

// A control that draws a progress bar and stops at Ctrl-C.
ConvertControl control_with_progress(const std::shared_ptr<ProgressBar>& bar, int threads, bool overwrite);

// --part, --finish, --fresh.
struct PartOptions {
  RankArguments ranks{.share = {}, .timeout = kLongestRankWait};
  std::string part;
  bool finish = false, fresh = false;

  bool any() const { return !part.empty() || finish; }
  // Throws UsageError.
  void apply(ConvertControl& control, const char* command) const;
};
void add_part_options(const Command& command, PartOptions& options);

// convert(control), or under mpirun a part of it by each rank, and the whole by rank 0 when all have done
// theirs. The result is not whole on the other ranks. Throws UsageError for parts of parts.
ConvertResult convert_in_parts(const PartOptions& options, ConvertControl control, const char* command,
                               const std::function<ConvertResult(const ConvertControl&)>& convert);

// What is to be said of a run that made a part, or went on where one had died.
std::string part_sentence(const ConvertResult& result, const PartOptions& options, const std::string& output);

// "model.layers.17.mlp.up_proj.weight" -> "model.layers.*.mlp.up_proj.weight": what rows of a table have in
// common.
std::string name_pattern(const std::string& name);

// Where --device puts a conversion: "cpu" unless it names a device; "auto" does not. Throws what
// chosen_device() throws.
std::string conversion_device(const std::string& named);
// How much of it the device did, in words; `done`: "quantized".
std::string on_device_sentence(const ConvertResult& result, const std::string& device, const char* done);

}  // namespace nfloat::cli

#endif  // NFLOAT_CLI_CONVERT_OPTIONS_H_
