// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <optional>

#include "base/fail.h"
#include "evaluate/scoring.h"
#include "nfloat/checkpoint.h"
#include "nfloat/comparison.h"
#include "nfloat/results.h"
#include "nfloat/tokenizer.h"

namespace nfloat {
namespace {

// Of this run alone, gone with it.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    const char* named = std::getenv("TMPDIR");
    path_ = (named != nullptr && *named == '/' ? std::string(named) : "/tmp") + "/nfloat-compare-XXXXXX";
    if (::mkdtemp(path_.data()) == nullptr)
      fail(ErrorCode::kIo, "{}: cannot be made: {}", path_, std::strerror(errno));
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  const std::string& path() const noexcept { return path_; }

 private:
  std::string path_;
};

std::vector<std::unique_ptr<Format>> make_formats(const CompareOptions& options) {
  std::vector<std::unique_ptr<Format>> formats;
  const std::vector<int64_t> block_sizes = {64};
  for (const std::string& name : options.formats.empty() ? default_formats(block_sizes) : options.formats) {
    std::unique_ptr<Format> format = options.make ? options.make(name) : make_format(name);
    const bool known = std::any_of(formats.begin(), formats.end(),
                                   [&](const auto& other) { return other->name() == format->name(); });
    if (!known) formats.push_back(std::move(format));
  }
  return formats;
}

const char* protocol_name(PerplexityProtocol protocol) noexcept {
  return protocol == PerplexityProtocol::kPaper      ? "paper"
         : protocol == PerplexityProtocol::kLlamaCpp ? "llama.cpp"
                                                     : "bos";
}

// What is meant where nobody says: a model without a BOS token takes its tokenizer's.
void complete(PerplexityOptions& scoring, const Model& model, const std::string& folder) {
  scoring = resolved(model, scoring);
  if (scoring.protocol == PerplexityProtocol::kBos && model.config().bos_token < 0 && scoring.bos_token == -1)
    scoring.bos_token = Tokenizer::load(folder).bos_id().value_or(-1);
}

// The plain model's distributions, from the file where that is of the same run.
ReferenceDistributions reference_of(const std::string& path, const std::string& identity, const Model& plain,
                                    std::span<const int32_t> tokens, const PerplexityOptions& scoring) {
  try {
    ReferenceDistributions there(path);
    if (there.identity() == identity) return there;
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kNotFound && error.code() != ErrorCode::kMalformedFile) throw;
  }
  ReferenceDistributions::write(path, identity, plain, tokens, scoring);
  return ReferenceDistributions(path);
}

}  // namespace

void require_plain(const Checkpoint& checkpoint) {
  for (const TensorPlan& tensor : plan_quantization(checkpoint, {}).tensors)
    if (tensor.quantize && checkpoint.stored_type(tensor.input.name) != dtype_name(tensor.input.dtype))
      fail(ErrorCode::kUnsupported, "{}: already quantized; formats are compared on the original model",
           checkpoint.path());
}

Comparison compare_formats(const std::string& path, std::span<const int32_t> tokens,
                           const CompareOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  const std::vector<std::unique_ptr<Format>> formats = make_formats(options);
  const std::string folder = resolve_model_path(path);
  MeasureOptions measure = options.measure;
  PerplexityOptions& scoring = measure.scoring;
  scoring.precision = measure.precision;
  Comparison result;
  {
    const Checkpoint checkpoint(folder);
    require_plain(checkpoint);
    for (const TensorInfo& info : checkpoint.tensors()) result.plain_bytes += info.bytes;
  }
  ModelOptions load;
  load.precision = measure.precision;
  load.threads = measure.threads;
  std::optional<Model> plain = Model::load(folder, load);
  if (!options.adapters.empty())
    measure.loaded = [&options, before = options.measure.loaded](const Model& model) {
      if (before) before(model);
      attach_adapters(model, options.adapters);
    };
  if (measure.loaded) measure.loaded(*plain);
  complete(scoring, *plain, folder);
  result.model = path;
  result.adapters = options.adapters;
  result.protocol = protocol_name(scoring.protocol);
  result.context = scoring.context;
  result.precision = precision_name(measure.precision);
  result.tokens = static_cast<int64_t>(tokens.size());
  result.limits = options.limits;
  result.reader = options.reader;
  if (options.begin) options.begin(*plain, scoring);

  std::string current = "plain";
  const auto show = [&](int64_t done, double perplexity) {
    if (options.progress) options.progress(current, done, perplexity);
  };
  scoring.progress = [&show](int64_t done, int64_t, double perplexity) { show(done, perplexity); };
  std::optional<TemporaryFolder> temporary;
  if (options.reference_path.empty()) temporary.emplace();
  const std::string kept = temporary ? temporary->path() + "/reference.nfloat" : options.reference_path;
  show(0, 0);
  const ReferenceDistributions reference =
      reference_of(kept, options.identity, *plain, tokens, measure.scoring);
  plain.reset();
  for (const auto& format : formats) {
    current = format->name();
    show(0, 0);
    FormatMeasurement& measurement = result.measurements.emplace_back();
    if (!options.find || !options.find(current, measurement)) {
      if (options.prepare) options.prepare(*format, measure);
      measurement = measure_format(folder, *format, reference, tokens, measure);
      if (options.finished) options.finished(measurement);
    }
    if (measurement.refused.empty()) result.reference = measurement.divergence.reference;
  }
  judge(result);
  result.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return result;
}

}  // namespace nfloat
