// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TOOLS_COMPARE_JOB_H_
#define NFLOAT_TOOLS_COMPARE_JOB_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "cache.h"
#include "nfloat/compare.h"

namespace nfloat::cli {

// Whom the recommendation is for. kNfloat: what quantize or convert writes and generate runs; the others:
// what these write and that program loads.
enum class Reader : uint8_t { kNfloat, kTransformers, kLlamaCpp };
// "nfloat", "transformers" or "llama.cpp"; throws UsageError for another.
Reader parse_reader(const std::string& name);
std::string_view reader_name(Reader reader);
// The command that writes `model` in the format, as this reader takes it; empty where there is none.
std::string how_to_make(const std::string& model, const std::string& format, Reader reader);

// What `nfloat compare` was asked for and what it found.
struct Comparison {
  std::string model;      // as given
  std::string text_name;  // "stories.txt (embedded)"
  std::string protocol;
  int64_t context = 0;
  std::string precision;
  int64_t tokens = 0;
  uint64_t plain_bytes = 0;  // of the checkpoint
  PerplexityResult reference;
  std::vector<TaskResult> plain_tasks;
  std::vector<FormatMeasurement> measurements;
  ChoiceOptions limits;
  Reader reader = Reader::kNfloat;
  Choice choice;
  RankAgreement agreement;
  std::vector<bool> front;  // by measurement
  double seconds = 0;
};

// Fills choice, agreement and front from the measurements.
void judge(Comparison& comparison);

std::string comparison_table(const Comparison& comparison);
// Accuracies by format; empty without tasks.
std::string task_table(const Comparison& comparison);
// Recommendation, what would change it, whether the ranking is stable, what was refused: lines of text.
std::vector<std::string> comparison_findings(const Comparison& comparison);
Json comparison_json(const Comparison& comparison);

// The report as one HTML page. Reads the model's weights once more. Needs a format that was measured.
std::string comparison_report(const Comparison& comparison);
// Error and perplexity of every format as bars, in an SVG document. Needs a format that was measured.
std::string comparison_figure(const Comparison& comparison);

Json measurement_json(const FormatMeasurement& measurement);
// Throws nlohmann's exceptions where something is missing.
FormatMeasurement measurement_from_json(const Json& json);
Json perplexity_json(const PerplexityResult& result);
Json divergence_json(const DivergenceResult& result);

// Where a comparison keeps what it has: the reference's distributions and a line for each finished format. A
// run that was stopped goes on from there.
class CompareWork {
 public:
  // Lines of formats that are not of `identity`, or are damaged, are passed over. Throws kIo naming the
  // folder.
  CompareWork(LockedFolder folder, const std::string& identity);

  std::string reference_path() const { return folder_.path() + "/reference.nfloat"; }
  // The finished measurement of a format, or false.
  bool find(const std::string& name, FormatMeasurement& measurement) const;
  void add(const FormatMeasurement& measurement);
  // Forgets what was found before.
  void clear() noexcept;
  // Removes the folder with what this class wrote into it.
  void remove() noexcept;

 private:
  std::string results_path() const { return folder_.path() + "/formats.jsonl"; }
  LockedFolder folder_;
  std::string identity_;
  std::vector<FormatMeasurement> done_;
};

}  // namespace nfloat::cli

#endif  // NFLOAT_TOOLS_COMPARE_JOB_H_
