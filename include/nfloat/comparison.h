// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_COMPARISON_H_
#define NFLOAT_COMPARISON_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nfloat/adapter.h"
#include "nfloat/api.h"
#include "nfloat/compare.h"

// Number formats side by side on one model and one text, and what follows from that.
namespace nfloat {

// Whom the recommendation is for. kNfloat: what quantize or convert writes and generate runs; the others:
// what these write and that program loads.
enum class Reader : uint8_t { kNfloat, kTransformers, kLlamaCpp };
// "nfloat", "transformers" or "llama.cpp". Throws kInvalidArgument for another.
NFLOAT_API Reader parse_reader(const std::string& name);
NFLOAT_API std::string_view reader_name(Reader reader) noexcept;
// The command that writes `model` in the format, as this reader takes it; empty where there is none.
// `calibration`: the text of formats that are calibrated; empty: the general one.
NFLOAT_API std::string how_to_make(const std::string& model, const std::string& format, Reader reader,
                                   const std::string& calibration = "");

// What was asked for and what was found.
struct Comparison {
  std::string model;        // as given
  std::string text_name;    // "stories.txt (embedded)"
  std::string calibration;  // path of the text that formats were calibrated on; empty: the general one
  std::vector<AdapterChoice> adapters;     // beside the model and every format of it
  std::vector<std::string> adapter_notes;  // what attach_adapters returned; of the findings
  std::string protocol;
  int64_t context = 0;
  std::string precision;
  std::string device = {};  // that the models were on; empty: left out
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
NFLOAT_API void judge(Comparison& comparison);

// Recommendation, what would change it, whether the ranking is stable, what was refused: lines of text.
NFLOAT_API std::vector<std::string> comparison_findings(const Comparison& comparison);

// As `nfloat compare --json`.
NFLOAT_API std::string comparison_json(const Comparison& comparison);
// That document as one HTML page that loads nothing. The model it names is read once more for the figures of
// its weights. Throws kMalformedFile for what is not such a document, kInvalidArgument where no format was
// measured, kNotFound when the model is gone.
NFLOAT_API std::string comparison_page(std::string_view document);

// One line of JSON, and back. Throws kMalformedFile where something is missing.
NFLOAT_API std::string measurement_json(const FormatMeasurement& measurement);
NFLOAT_API FormatMeasurement parse_measurement(std::string_view json);

// Throws kUnsupported for a checkpoint whose weights are quantized: formats would be measured against what is
// lost already.
NFLOAT_API void require_plain(const Checkpoint& checkpoint);

// How the formats of a comparison are measured.
struct ComparePlan {
  // Formats that go through the model together, one layer after the other: each layer is read once, and of
  // each format no more than the layer at work is in memory.
  size_t together = 0;
  uint64_t peak_bytes = 0;      // of memory in that pass, about
  uint64_t state_bytes = 0;     // of the text's hidden states
  bool states_in_file = false;  // in TMPDIR, where they would take too much memory
  // The others, each on the whole model with its round trip: "NAME: why".
  std::vector<std::string> alone;
};

struct CompareProgress {
  std::string format;     // at work; "plain": the model as it is
  double share = 0;       // of all work that is done, 0 to 1
  double perplexity = 0;  // with this format so far; 0: not known yet
};

struct CompareOptions {
  std::vector<std::string> formats = {};  // none: default_formats({64})
  MeasureOptions measure;
  ChoiceOptions limits;
  Reader reader = Reader::kNfloat;
  // Beside the plain model, whose distributions are then those of the adapted model, and beside each format
  // of it; as attach_adapters takes them. Sizes do not count them.
  std::vector<AdapterChoice> adapters = {};
  // Makes a format from its name; none: make_format.
  std::function<std::unique_ptr<Format>(const std::string& name)> make = nullptr;
  // Called before a format is measured that is not Format::separable(); may set measure.prepared.
  std::function<void(const Format& format, MeasureOptions& measure)> prepare = nullptr;
  // Called for each batch of windows and layer of a format. May throw to cancel.
  std::function<void(const CompareProgress& progress)> progress = nullptr;
  // Called once with the plain model and how the text is scored, before the work begins. The layers of the
  // model are streamed unless measure.tasks or measure.loaded asks for it.
  std::function<void(const Model& plain, const PerplexityOptions& scoring)> begin = nullptr;
  // Called after that.
  std::function<void(const ComparePlan& plan)> planned = nullptr;
  // A run that goes on where an earlier one was stopped: the file of the plain model's distributions, used
  // where it has this identity, else written; what is known of a format, and what was found.
  std::string reference_path = {}, identity = {};
  // The file of what the formats that are measured together have of the layers done so far, written when
  // `progress` throws kInterrupted and every few minutes, removed at the end. Empty: a run that is stopped
  // before its last layer begins anew.
  std::string kept_path = {};
  std::function<bool(const std::string& format, FormatMeasurement& measurement)> find = nullptr;
  std::function<void(const FormatMeasurement& measurement)> finished = nullptr;
};

// Measures every format on the model at `path` (plain, a folder) with the tokens of a text, and judges: in
// one pass over the layers, but with measure.tasks, with adapters, of a GGUF file, or where the embeddings
// are projected one format after the other, each on the whole model. The numbers are the same. The plain
// model's distributions take 2 bytes for each token that counts and each entry of the vocabulary, in a
// temporary file (TMPDIR) unless reference_path names one. measure.tasks is called for each format. Throws
// what make_format, require_plain, attach_adapters and measure_format throw.
NFLOAT_API Comparison compare_formats(const std::string& path, std::span<const int32_t> tokens,
                                      const CompareOptions& options = {});

}  // namespace nfloat

#endif  // NFLOAT_COMPARISON_H_
