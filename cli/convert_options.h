// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CLI_CONVERT_OPTIONS_H_
#define NFLOAT_CLI_CONVERT_OPTIONS_H_

#include <cstdint>
#include <memory>
#include <string>

#include "nfloat/convert.h"
#include "progress.h"

namespace nfloat::cli {

// "5GB", "512MiB", "1000000": bytes. Throws UsageError.
uint64_t parse_bytes(const std::string& text, const char* option);

// Of "absmax", "search", "signed".
ScaleMethod scale_method(const std::string& name);

// A control that draws a progress bar and stops at Ctrl-C.
ConvertControl control_with_progress(const std::shared_ptr<ProgressBar>& bar, int threads, bool overwrite);

// "model.layers.17.mlp.up_proj.weight" -> "model.layers.*.mlp.up_proj.weight": what rows of a table have in
// common.
std::string name_pattern(const std::string& name);

}  // namespace nfloat::cli

#endif  // NFLOAT_CLI_CONVERT_OPTIONS_H_
