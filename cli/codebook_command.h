// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CLI_CODEBOOK_COMMAND_H_
#define NFLOAT_CLI_CODEBOOK_COMMAND_H_

#include <cstdint>
#include <string>
#include <vector>

#include "nfloat/codebook.h"
#include "nfloat/codebook_errors.h"

namespace nfloat::cli {

struct CodebookOptions {
  std::vector<std::string> names;
  std::string file, offset, plot;
  std::vector<int64_t> block_sizes = {64};
  std::vector<std::string> distributions = {"normal"};
  int64_t simulate = 0;
  bool errors = false, explain = false, sweep_offset = false, json = false;
};

struct WeightSource {
  std::string name;
  SourceDistribution distribution;
};

// The code that `name` and --offset, --file mean. Throws UsageError.
Codebook chosen_codebook(const CodebookOptions& options, const std::string& name, int64_t block_size);

void explain(const CodebookOptions& options);
void sweep_offset(const CodebookOptions& options);
// The levels on the density of the weights that they stand for.
void plot_levels(const CodebookOptions& options, const std::vector<std::string>& names);

}  // namespace nfloat::cli

#endif  // NFLOAT_CLI_CODEBOOK_COMMAND_H_
