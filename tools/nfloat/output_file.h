// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TOOLS_OUTPUT_FILE_H_
#define NFLOAT_TOOLS_OUTPUT_FILE_H_

#include <string>
#include <string_view>

namespace nfloat::cli {

// Writes `text` to `path`, whole or not at all: beside it, synced, renamed. Throws Error (kIo) naming the
// path.
void write_output_file(const std::string& path, std::string_view text);

}  // namespace nfloat::cli

#endif  // NFLOAT_TOOLS_OUTPUT_FILE_H_
