// SPDX-License-Identifier: Apache-2.0
#include <stdlib.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <optional>

#include "base/fail.h"
#include "base/stopwatch.h"
#include "evaluate/measure_formats.h"
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

// The plain model's distributions where the file is of the same run.
std::optional<ReferenceDistributions> find_reference(const std::string& path, const std::string& identity) {
  try {
    ReferenceDistributions there(path);
    if (there.identity() == identity) return there;
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kNotFound && error.code() != ErrorCode::kMalformedFile) throw;
  }
  return std::nullopt;
}

// One comparison at work.
class Job {
 public:
  Job(const std::string& path, std::span<const int32_t> tokens, const CompareOptions& options)
      : options_(options),
        measure_(options.measure),
        formats_(make_formats(options)),
        folder_(resolve_model_path(path)),
        tokens_(tokens) {
    const Checkpoint checkpoint(folder_);
    require_plain(checkpoint);
    for (const TensorInfo& info : checkpoint.tensors()) result_.plain_bytes += info.bytes;
    measure_.scoring.precision = measure_.precision;
    if (!options.adapters.empty())
      measure_.loaded = [this, before = options.measure.loaded](const Model& model) {
        if (before) before(model);
        result_.adapter_notes = attach_adapters(model, options_.adapters);
      };
    load_plain(checkpoint);
    if (measure_.loaded) measure_.loaded(*plain_);
    complete(measure_.scoring, *plain_, folder_);
    result_.model = path;
    result_.adapters = options.adapters;
    result_.protocol = protocol_name(measure_.scoring.protocol);
    result_.context = measure_.scoring.context;
    result_.precision = precision_name(measure_.precision);
    result_.device = plain_->options().device;
    result_.tokens = static_cast<int64_t>(tokens.size());
    result_.limits = options.limits;
    result_.reader = options.reader;
  }

  Comparison run() {
    cut_windows(tokens_, measure_.scoring);  // a text that is too short is told first
    if (options_.begin) options_.begin(*plain_, measure_.scoring);
    std::optional<TemporaryFolder> temporary;
    if (options_.reference_path.empty()) temporary.emplace();
    reference_path_ = temporary ? temporary->path() + "/reference.nfloat" : options_.reference_path;
    reference_ = find_reference(reference_path_, options_.identity);
    result_.measurements.resize(formats_.size());
    plan();
    if (layered_)
      measure_together();
    else if (!reference_)
      measure_plain();
    plain_.reset();
    for (const size_t index : alone_) measure_alone(index);
    for (const FormatMeasurement& measurement : result_.measurements)
      if (measurement.refused.empty()) result_.reference = measurement.divergence.reference;
    judge(result_);
    return std::move(result_);
  }

 private:
  // With its layers in the file where all goes layer by layer.
  void load_plain(const Checkpoint& checkpoint) {
    ModelOptions load;
    load.precision = measure_.precision;
    load.threads = measure_.threads;
    load.device = measure_.device;
    if (measure_.tasks) why_alone_ = "tasks are scored on the whole model";
    if (measure_.loaded) why_alone_ = "adapters are attached to the whole model";
    load.stream_layers = why_alone_.empty();
    plain_ = Model::load(folder_, load);
    if (why_alone_.empty() && !has_layers_of_its_own(checkpoint, plain_->config())) {
      why_alone_ = checkpoint.is_gguf() ? "a GGUF file is read as a whole" : "its embeddings are projected";
      load.stream_layers = false;
      plain_ = Model::load(folder_, load);
    }
    layered_ = why_alone_.empty();
  }

  void plan() {
    ComparePlan plan;
    for (size_t i = 0; i < formats_.size(); ++i) {
      const Format& format = *formats_[i];
      if (options_.find && options_.find(format.name(), result_.measurements[i])) continue;
      if (layered_ && format.separable()) {
        together_.push_back(i);
        continue;
      }
      alone_.push_back(i);
      plan.alone.push_back(
          fmt::format("{}: {}", format.name(), layered_ ? "its matrices depend on the model" : why_alone_));
    }
    plan.together = together_.size();
    units_ = static_cast<double>(formats_.size() - done_before() + (reference_ ? 0 : 1));
    if (layered_ && (!together_.empty() || !reference_)) {
      std::vector<const Format*> formats;
      for (const size_t index : together_) formats.push_back(formats_[index].get());
      sweep_.emplace(*plain_, folder_, formats, tokens_, measure_, !reference_);
      plan.peak_bytes = sweep_->peak_bytes();
      plan.state_bytes = sweep_->state_bytes();
      plan.states_in_file = sweep_->states_in_file();
    }
    if (options_.planned) options_.planned(plan);
  }
  size_t done_before() const noexcept { return formats_.size() - together_.size() - alone_.size(); }

  void measure_together() {
    if (!sweep_) return;
    const double own = units_ - static_cast<double>(alone_.size());
    sweep_->run({.reference_path = reference_path_,
                 .identity = options_.identity,
                 .distributions = reference_,
                 .speeds = speeds_,
                 .finished =
                     [this](size_t index, FormatMeasurement measurement) {
                       keep(together_[index], std::move(measurement));
                     },
                 .progress = [this, own](const std::string& format, double share,
                                         double perplexity) { show(format, share * own, perplexity); },
                 .kept_path = options_.kept_path});
    sweep_.reset();
    done_ = own;
  }

  void measure_plain() {
    PerplexityOptions scoring = measure_.scoring;
    scoring.progress = progress_of("plain");
    ReferenceDistributions::write(reference_path_, options_.identity, *plain_, tokens_, scoring);
    reference_ = ReferenceDistributions(reference_path_);
    done_ += 1;
  }

  void measure_alone(size_t index) {
    const Format& format = *formats_[index];
    MeasureOptions measure = measure_;
    measure.scoring.progress = progress_of(format.name());
    const Stopwatch watch;
    if (options_.prepare && !format.separable()) options_.prepare(format, measure);
    const double prepared = watch.seconds();
    FormatMeasurement measurement = measure_format(folder_, format, *reference_, tokens_, measure);
    measurement.coding_seconds += prepared;
    keep(index, std::move(measurement));
    done_ += 1;
  }

  // Of a model that is scored by itself.
  std::function<void(int64_t, int64_t, double)> progress_of(const std::string& format) const {
    show(format, done_, 0);
    return [this, format](int64_t done, int64_t total, double perplexity) {
      show(format, done_ + static_cast<double>(done) / static_cast<double>(total), perplexity);
    };
  }

  void show(const std::string& format, double units, double perplexity) const {
    if (options_.progress) options_.progress({format, std::min(1.0, units / units_), perplexity});
  }

  void keep(size_t index, FormatMeasurement measurement) {
    result_.measurements[index] = std::move(measurement);
    if (options_.finished) options_.finished(result_.measurements[index]);
  }

  const CompareOptions& options_;
  MeasureOptions measure_;  // scoring completed
  const std::vector<std::unique_ptr<Format>> formats_;
  const std::string folder_;
  const std::span<const int32_t> tokens_;
  std::optional<Model> plain_;
  bool layered_ = false;
  std::string why_alone_, reference_path_;
  std::optional<ReferenceDistributions> reference_;
  std::vector<size_t> together_, alone_;  // formats to measure
  std::optional<FormatSweep> sweep_;
  GenerationSpeeds speeds_;
  double units_ = 1, done_ = 0;  // of work: a format, or the model as it is
  Comparison result_;
};

}  // namespace

void require_plain(const Checkpoint& checkpoint) {
  for (const TensorPlan& tensor : plan_quantization(checkpoint, {}).tensors)
    if (tensor.quantize && checkpoint.stored_type(tensor.input.name) != dtype_name(tensor.input.dtype))
      fail(ErrorCode::kUnsupported, "{}: already quantized; formats are compared on the original model",
           checkpoint.path());
}

Comparison compare_formats(const std::string& path, std::span<const int32_t> tokens,
                           const CompareOptions& options) {
  const Stopwatch watch;
  Comparison result = Job(path, tokens, options).run();
  result.seconds = watch.seconds();
  return result;
}

}  // namespace nfloat
