// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CLI_COMPARE_JOB_H_
#define NFLOAT_CLI_COMPARE_JOB_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "cache.h"
#include "nfloat/comparison.h"

namespace nfloat::cli {

std::string comparison_table(const Comparison& comparison);
// Accuracies by format; empty without tasks.
std::string task_table(const Comparison& comparison);
// Error and perplexity of every format as bars, in an SVG document. Needs a format that was measured.
std::string comparison_figure(const Comparison& comparison);

// All that a person reads, on standard output.
void print_comparison(const Comparison& comparison);

// Changes when the adapter does.
std::string adapter_identity(const AdapterChoice& adapter);

// A folder for this run alone: `named`, or the one that an earlier run of the same comparison left in the
// cache; a new one where another run has that or where there is no cache. Throws kAlreadyExists where another
// run has the one named.
LockedFolder take_work_folder(const std::string& named, std::string identity);

// Where a comparison keeps what it has: the reference's distributions and a line for each finished format. A
// run that was stopped goes on from there.
class CompareWork {
 public:
  // Lines of formats that are not of `identity`, or are damaged, are passed over. Throws kIo naming the
  // folder, kAlreadyExists naming what is no file of a comparison: it would be changed or removed.
  CompareWork(LockedFolder folder, const std::string& identity);

  std::string reference_path() const { return folder_.path() + "/" + kReference; }
  // Of formats that were stopped between two layers.
  std::string layers_path() const { return folder_.path() + "/" + kLayers; }
  // Of the files that are written into the folder.
  static std::vector<std::string> names() { return {kReference, kLayers, kResults}; }
  // The finished measurement of a format, or false.
  bool find(const std::string& name, FormatMeasurement& measurement) const;
  void add(const FormatMeasurement& measurement);
  // Forgets what was found before.
  void clear() noexcept;
  // Removes the folder with what this class wrote into it.
  void remove() noexcept;

 private:
  static constexpr const char *kReference = "reference.nfloat", *kLayers = "layers.nfloat",
                              *kResults = "formats.jsonl";
  std::string results_path() const { return folder_.path() + "/" + kResults; }
  LockedFolder folder_;
  std::string identity_;
  std::vector<FormatMeasurement> done_;
};

}  // namespace nfloat::cli

#endif  // NFLOAT_CLI_COMPARE_JOB_H_
