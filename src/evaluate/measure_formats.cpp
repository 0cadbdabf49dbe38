// SPDX-License-Identifier: Apache-2.0
#include "evaluate/measure_formats.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>

#include "base/fail.h"
#include "base/state_of.h"
#include "evaluate/layer_sweep.h"
#include "evaluate/sweep_file.h"
#include "model/layer_reader.h"
#include "model/loader.h"

namespace nfloat {
namespace {

using Clock = std::chrono::steady_clock;

ModelOptions reading_options(const MeasureOptions& measure, int threads, FormatWork* work) {
  ModelOptions options;
  options.precision = measure.precision;
  options.threads = threads;
  options.device = measure.device;
  if (work != nullptr)
    options.transform = [work](const std::string& matrix, std::span<float> weights, int64_t rows,
                               int64_t cols) { work->transform(matrix, weights, rows, cols); };
  return options;
}

PerplexityOptions scoring_of(const Model& plain, const MeasureOptions& options) {
  PerplexityOptions scoring = resolved(plain, options.scoring);
  scoring.precision = options.precision;
  return scoring;
}

// The work of head and scores, in layers: products with the head, and a few exponentials of each logit.
double layers_of_head(const ModelConfig& config) noexcept {
  const auto hidden = static_cast<double>(config.hidden);
  const double layer = 4 * hidden * hidden + 3 * hidden * static_cast<double>(config.intermediate);
  return static_cast<double>(config.vocabulary) * (hidden + 500) / layer;
}

uint64_t buffer_bytes(const ModelConfig& config) noexcept {
  constexpr int64_t kPortion = int64_t{32} << 20;
  const int64_t row =
      4 * config.hidden + 2 * config.query_size() + 2 * config.kv_size() + 2 * config.intermediate;
  return static_cast<uint64_t>(kPortion + 4 * (kMaxRows * row + 2 * kMaxLogitRows * config.vocabulary));
}

}  // namespace

bool has_layers_of_its_own(const Checkpoint& checkpoint, const ModelConfig& config) {
  return !checkpoint.is_gguf() && config.embedding_size == 0;
}

struct FormatSweep::State {
  // A version of the model.
  struct Lane {
    const Format* format = nullptr;  // null: the model as it is
    std::unique_ptr<FormatWork> work;
    SweepPlace place;
    bool dropped = false;
    double done = 0;  // tokens times layers

    std::string name() const { return format != nullptr ? format->name() : "plain"; }
  };

  State(const Model& model, const std::string& path, std::span<const Format* const> formats,
        std::span<const int32_t> text, const MeasureOptions& measure, bool with_plain)
      : plain(model),
        config(model.config()),
        folder(path),
        options(measure),
        scoring(scoring_of(model, measure)),
        windows(cut_windows(text, scoring)),
        first_format(with_plain ? 1 : 0),
        lanes(formats.size() + first_format),
        sweep(model, windows, session_options(scoring), std::ssize(lanes), measure.state_memory_bytes),
        tokens(static_cast<double>(sweep.tokens())),
        whole(tokens * (static_cast<double>(config.layers) + layers_of_head(config))) {
    for (size_t i = first_format; i < lanes.size(); ++i) {
      lanes[i].format = formats[i - first_format];
      lanes[i].work = std::make_unique<FormatWork>(*lanes[i].format, measure, scratch);
    }
    for (Lane& lane : lanes) lane.place.name = lane.name();
  }

  void run(const Run& own) {
    at_work = &own;
    saved = Clock::now();
    bool begun = false;  // there is something to keep
    try {
      begun = go_on();
      show(lanes[0], lanes[0].done, 0);
      if (!begun) sweep.embed();
      begun = true;
      for (int64_t layer = 0; layer < config.layers; ++layer)
        for (size_t i = 0; i < lanes.size(); ++i) {
          if (lanes[i].dropped || lanes[i].place.layers > layer) continue;
          take(i, layer);
          save_now_and_then();
        }
      score_all();
    } catch (const Error& error) {
      if (begun && error.code() == ErrorCode::kInterrupted) save();
      throw;
    }
    if (!own.kept_path.empty()) ::unlink(own.kept_path.c_str());
  }

  // One version through one layer.
  void take(size_t index, int64_t layer) {
    Lane& lane = lanes[index];
    LayerWeights weights;
    try {
      weights = read(lane, layer);
    } catch (const Refused& refused) {
      return drop(index, refused.why);
    }
    try {
      sweep.layer(static_cast<int64_t>(index), layer, weights, lane.place.tokens, [&](int64_t done) {
        lane.place.tokens = done;
        show(lane, tokens * static_cast<double>(layer) + static_cast<double>(done), 0);
      });
    } catch (const Error& error) {
      // The plain model's numbers are finite: this format's error makes them grow.
      if (error.code() != ErrorCode::kNotFinite || lane.format == nullptr) throw;
      return drop(index, error.what());
    }
    ++lane.place.layers;
    lane.place.tokens = 0;
  }

  LayerWeights read(Lane& lane, int64_t layer) {
    std::optional<FormatWork> uncounted;  // for a layer that was begun, and counted, before
    FormatWork* work = lane.work.get();
    if (work != nullptr && lane.place.tokens > 0) work = &uncounted.emplace(*lane.format, options, scratch);
    return LayerReader(state_of(plain).checkpoint, config,
                       reading_options(options, plain.options().threads, work))
        .layer(layer);
  }

  void score_all() {
    scratch = {};  // no matrix comes any more
    if (first_format == 1) {
      write_reference(at_work->reference_path, at_work->identity, config.vocabulary, windows, sweep.rows(0),
                      scoring_of_lane(lanes[0]));
      at_work->distributions = ReferenceDistributions(at_work->reference_path);
    }
    const Checkpoint checkpoint(folder);
    for (size_t i = first_format; i < lanes.size(); ++i) {
      if (lanes[i].dropped) continue;
      if (lanes[i].work->idle()) {
        drop(i, "the weights are already quantized");
        continue;
      }
      DivergenceResult found;
      try {
        found = divergence(*at_work->distributions, config.vocabulary, windows,
                           sweep.rows(static_cast<int64_t>(i)), scoring_of_lane(lanes[i]));
      } catch (const Error& error) {
        if (error.code() != ErrorCode::kNotFinite) throw;
        drop(i, error.what());
        continue;
      }
      at_work->finished(i - first_format,
                        lanes[i].work->finish(folder, checkpoint, std::move(found), at_work->speeds));
    }
  }

  PerplexityOptions scoring_of_lane(Lane& lane) {
    PerplexityOptions own = scoring;
    const double before = tokens * static_cast<double>(config.layers);
    own.progress = [this, &lane, before](int64_t done, int64_t total, double perplexity) {
      show(lane, before + (whole - before) * static_cast<double>(done) / static_cast<double>(total),
           perplexity);
    };
    return own;
  }

  void drop(size_t index, const std::string& why) {
    lanes[index].dropped = true;
    lanes[index].done = whole;
    at_work->finished(index - first_format, lanes[index].work->refused(why));
  }

  void show(Lane& lane, double done, double perplexity) {
    lane.done = done;
    if (!at_work->progress) return;
    double all = 0;
    for (const Lane& one : lanes) all += one.done;
    at_work->progress(lane.place.name, std::min(1.0, all / (whole * static_cast<double>(lanes.size()))),
                      perplexity);
  }

  bool go_on() {
    if (at_work->kept_path.empty()) return false;
    std::vector<SweepPlace> places;
    for (const Lane& lane : lanes) places.push_back(lane.place);
    if (!read_sweep(at_work->kept_path, at_work->identity, places, sweep.states())) return false;
    for (size_t i = 0; i < lanes.size(); ++i) {
      lanes[i].place = places[i];
      lanes[i].done = tokens * static_cast<double>(places[i].layers) + static_cast<double>(places[i].tokens);
      if (lanes[i].work) lanes[i].work->restore(places[i].found);
    }
    return true;
  }

  // Where there is no room for it, the run goes on without: a stopped one begins anew.
  void save() {
    if (at_work->kept_path.empty() || cannot_save) return;
    const Clock::time_point start = Clock::now();
    std::vector<SweepPlace> places;
    for (const Lane& lane : lanes) {
      places.push_back(lane.place);
      if (lane.work) places.back().found = lane.work->found();
      if (lane.dropped) places.back().name.clear();  // its measurement is known
    }
    try {
      write_sweep(at_work->kept_path, at_work->identity, places, sweep.states());
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kIo) throw;
      cannot_save = true;
    }
    saved = Clock::now();
    save_seconds = std::chrono::duration<double>(saved - start).count();
  }
  // Where a run is killed, it goes on from the last one: at most a twentieth of the time goes into these.
  void save_now_and_then() {
    constexpr double kSeconds = 120, kShare = 20;
    if (std::chrono::duration<double>(Clock::now() - saved).count() >=
        std::max(kSeconds, kShare * save_seconds))
      save();
  }

  const Model& plain;
  const ModelConfig& config;
  const std::string& folder;
  const MeasureOptions& options;
  const PerplexityOptions scoring;
  const std::vector<Window> windows;
  const size_t first_format;
  std::vector<float> scratch;
  std::vector<Lane> lanes;  // the model itself first, if it goes along
  LayerSweep sweep;
  const double tokens, whole;  // of all windows; of a version, tokens times layers
  const Run* at_work = nullptr;
  Clock::time_point saved;
  double save_seconds = 0;
  bool cannot_save = false;
};

FormatSweep::FormatSweep(const Model& plain, const std::string& folder,
                         std::span<const Format* const> formats, std::span<const int32_t> tokens,
                         const MeasureOptions& options, bool with_plain)
    : state_(std::make_unique<State>(plain, folder, formats, tokens, options, with_plain)) {}
FormatSweep::~FormatSweep() = default;

uint64_t FormatSweep::peak_bytes() const noexcept {
  const ModelConfig& config = state_->config;
  ModelOptions streamed = reading_options(state_->options, 1, state_->lanes.back().work.get());
  streamed.stream_layers = true;
  return estimated_bytes(*state_of(state_->plain).checkpoint, config, streamed) -
         static_cast<uint64_t>(config.vocabulary * config.hidden) + state_->plain.memory().resident_bytes() +
         buffer_bytes(config) + (states_in_file() ? 0 : state_bytes());
}
uint64_t FormatSweep::state_bytes() const noexcept {
  return state_->sweep.states().bytes();
}
bool FormatSweep::states_in_file() const noexcept {
  return state_->sweep.states().in_file();
}
void FormatSweep::run(const Run& run) {
  state_->run(run);
}

}  // namespace nfloat
