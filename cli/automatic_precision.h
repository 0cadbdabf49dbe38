// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CLI_AUTOMATIC_PRECISION_H_
#define NFLOAT_CLI_AUTOMATIC_PRECISION_H_

#include <optional>
#include <string>

#include "nfloat/linear.h"

namespace nfloat::cli {

// "int8" for both numbers of rows, "bf16+int8" for bf16 with one row and int8 with more; f32 goes alone.
std::string precision_text(const PrecisionChoice& choice);
// The reverse; nothing where the text is neither.
std::optional<PrecisionChoice> parse_precisions(const std::string& text);

// What --precision auto takes, and why.
struct AutomaticPrecision {
  PrecisionChoice choice;
  std::string reason;  // a sentence's end: "as measured now: ..."
};

// NFLOAT_PRECISION where that is set; bf16 for a `plain` model, no matrix of which has codes; else the faster
// precision of each number of rows: as an earlier run on this processor measured it with the same target,
// number of threads and version, or else measured now and kept for later runs in precisions.json of the cache
// folder. A file that is damaged or cannot be written costs the quarter of a second again and is no error.
// Throws UsageError: NFLOAT_PRECISION is not a precision.
AutomaticPrecision automatic_precision(int threads, bool plain);

}  // namespace nfloat::cli

#endif  // NFLOAT_CLI_AUTOMATIC_PRECISION_H_
