// SPDX-License-Identifier: Apache-2.0
#include "nfloat/train.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "base/atomic_file.h"
#include "base/fail.h"
#include "base/json.h"
#include "base/parallel.h"
#include "base/state_of.h"
#include "base/stopwatch.h"
#include "model/finite.h"
#include "model/loader.h"
#include "model/model_state.h"
#include "tune/adapter_file.h"
#include "tune/loftq.h"
#include "tune/optimizer.h"
#include "tune/over_ranks.h"
#include "tune/pass.h"
#include "tune/plan.h"
#include "tune/preference.h"
#include "tune/run_identity.h"

namespace nfloat {
namespace {

namespace fs = std::filesystem;
constexpr const char* kStateFile = "train_state.json";
constexpr const char* kOptimizerFile = "optimizer.safetensors";

void check_options(const TrainOptions& o) {
  const auto refuse = [](const char* what) { fail(ErrorCode::kInvalidArgument, "training: {}", what); };
  if (o.rank < 1) refuse("the rank is below 1");
  if (!std::isfinite(o.alpha) || o.alpha == 0) refuse("alpha is 0 or not finite");
  if (!(o.dropout >= 0 && o.dropout < 1)) refuse("dropout is not in [0, 1)");
  if (o.length < 2) refuse("rows of fewer than 2 tokens have nothing to predict");
  if (o.rows_per_batch < 0 || o.accumulate < 0) refuse("rows a batch and batches a step are positive");
  if (o.steps < 0 && !(o.epochs > 0 && o.epochs < 1e6)) refuse("the number of epochs is not positive");
  if (!(o.learning_rate >= 0) || !std::isfinite(o.learning_rate)) refuse("the learning rate is negative");
  if (!(o.lora_plus > 0) || !std::isfinite(o.lora_plus)) refuse("the ratio of rates is not positive");
  if (!(o.beta1 >= 0 && o.beta1 < 1 && o.beta2 >= 0 && o.beta2 < 1)) refuse("betas are not in [0, 1)");
  if (o.objective != TrainObjective::kDpo && o.label_smoothing != 0) refuse("label smoothing is DPO's alone");
  if (!(o.epsilon > 0) || !(o.weight_decay >= 0) || !(o.clip >= 0))
    refuse("epsilon, weight decay or clip is negative");
}

void check_rows(std::span<const TrainRow> rows, int64_t vocabulary) {
  for (size_t i = 0; i < rows.size(); ++i) {
    const TrainRow& row = rows[i];
    if (row.tokens.empty() || row.labels.size() != row.tokens.size())
      fail(ErrorCode::kInvalidArgument, "row {} of the data has {} tokens and {} labels", i + 1,
           row.tokens.size(), row.labels.size());
    for (size_t t = 0; t < row.tokens.size(); ++t) {
      const int32_t label = row.labels[t];
      if (row.tokens[t] < 0 || row.tokens[t] >= vocabulary)
        fail(ErrorCode::kInvalidArgument, "row {} of the data: token {} is {}, expected 0 to {}", i + 1, t,
             row.tokens[t], vocabulary - 1);
      if (label != kIgnoredLabel && (label < 0 || label >= vocabulary))
        fail(ErrorCode::kInvalidArgument, "row {} of the data: label {} is {}, expected -100 or 0 to {}",
             i + 1, t, label, vocabulary - 1);
    }
  }
}

// The module whose gradient was so first: the backward pass comes from the last one.
std::string first_not_finite_gradient(const Adapter& adapter) {
  for (size_t i = adapter.modules.size(); i-- > 0;) {
    const LoraModule& module = adapter.modules[i];
    for (const std::vector<float>* gradient :
         {&module.a_gradient, &module.b_transposed_gradient, &module.magnitude_gradient})
      if (first_not_finite(*gradient) >= 0) return fmt::format("'{}'", module.at().name);
  }
  return "all modules together";
}

std::vector<int64_t> lengths_of(std::span<const TrainRow> rows, int64_t length) {
  std::vector<int64_t> lengths;
  for (const TrainRow& row : rows)
    lengths.push_back(std::min(static_cast<int64_t>(row.tokens.size()), length));
  return lengths;
}

}  // namespace

struct Trainer::State {
  State(const Model& base, std::vector<TrainRow> data, const TrainOptions& chosen)
      : model(base), rows(std::move(data)), options(chosen) {
    check_options(options);
    options.length = std::min(options.length, model.config().context);
    if (model.config().position_rows > 0)
      options.length =
          std::min(options.length, model.config().position_rows - state_of(model).position_offset);
    if (options.threads == 0) options.threads = model.options().threads;
    options.threads = thread_count(options.threads);
    asked = options;
    if (rows.empty()) fail(ErrorCode::kInvalidArgument, "there are no rows to train on");
    check_rows(rows, model.config().vocabulary);
    adapter = make_adapter(state_of(model), options);
    if (options.objective != TrainObjective::kTokens) {
      preferences.emplace(rows, options);
      plan.emplace(Preferences::lengths(rows, options.length), Preferences::plan_options(options));
    } else {
      plan.emplace(lengths_of(rows, options.length), options);
    }
    warmup = options.warmup_steps >= 0
                 ? options.warmup_steps
                 : static_cast<int64_t>(
                       std::ceil(options.warmup_share * static_cast<double>(plan->total_steps())));
    make_optimizer();
    if (!options.ranks) return;
    if (options.objective != TrainObjective::kTokens)
      fail(ErrorCode::kUnsupported, "pairs are not trained on by several ranks");
    options.ranks->at("training", -1);
    expect_same_run(*options.ranks, identity());
  }

  Json identity() {
    if (base_hash.empty()) base_hash = base_fingerprint(state_of(model));
    return run_identity(asked, plan->total_steps(), rows, base_hash);
  }

  // Made when the adapter is final; for at least so many tokens.
  Pass& passes(int64_t tokens = 0) {
    tokens = std::max(tokens, plan->most_batch_tokens());
    if (!pass || pass->capacity() < tokens) choose_pass(tokens);
    return *pass;
  }

  // Memory is taken where it is first written to: what does not fit is given back untouched.
  void choose_pass(int64_t tokens) {
    PassOptions own{.bf16 = options.bf16,
                    .precision = options.bf16 ? Precision::kBF16 : Precision::kF32,
                    .dropout = options.dropout,
                    .seed = options.seed,
                    .threads = options.threads};
    const uint64_t available = available_memory_bytes();
    for (const Recompute level : {Recompute::kNone, Recompute::kCheap, Recompute::kFull}) {
      if (options.recompute && *options.recompute != level) continue;
      own.recompute = level;
      pass.reset();
      pass = std::make_unique<Pass>(model, adapter, own, tokens, options.length);
      // A tenth for what other programs take meanwhile.
      if (available == 0 || pass->bytes() + pass->bytes() / 10 < available) return;
    }
    const uint64_t needed = pass->bytes();
    pass.reset();
    fail(ErrorCode::kOutOfMemory,
         "batches of {} tokens take {} MiB of memory and {} MiB are available; fewer rows a batch, or "
         "shorter ones, take less",
         tokens, needed >> 20, available >> 20);
  }

  void make_optimizer() {
    if (options.ranks)
      optimizer.emplace(adapter, static_cast<size_t>(options.ranks->rank()),
                        static_cast<size_t>(options.ranks->count()));
    else
      optimizer.emplace(adapter);
  }

  // Gradients of step `index`, from 0 on; the norm is of all of them.
  TrainStep gradients(int64_t index) {
    TrainStep result = preferences ? pair_gradients(index) : token_gradients(index);
    result.step = index + 1;
    result.grad_norm = gradient_norm(adapter, options.threads);
    if (!std::isfinite(result.grad_norm)) fail_not_finite(index, result.loss);
    result.learning_rate =
        options.learning_rate * schedule_factor(options.schedule, index, warmup, plan->total_steps());
    return result;
  }

  // A frozen number that is not finite shows in a gradient alone where no target is computed from it.
  [[noreturn]] void fail_not_finite(int64_t index, double loss) {
    const Model::State& frozen = state_of(model);
    const size_t together = preferences ? 2 : 1;
    for (const BatchRows& batch : plan->step(index))
      for (const size_t entry : batch)
        for (size_t row = entry * together; row < (entry + 1) * together; ++row) {
          const std::vector<int32_t>& tokens = rows[row].tokens;
          expect_finite_embeddings(
              frozen, std::span(tokens).first(std::min(tokens.size(), static_cast<size_t>(options.length))),
              fmt::format("step {}: row {} of the data", index + 1, entry + 1));
        }
    fail(ErrorCode::kNotFinite, "step {}: the gradient of {} is not finite, the loss is {}{}", index + 1,
         first_not_finite_gradient(adapter), loss,
         frozen.checkpoint == nullptr ? "" : not_finite_cause(*frozen.checkpoint));
  }

  TrainStep pair_gradients(int64_t index) {
    if (preferences->needs_reference()) preferences->make_reference(passes(), plan->most_batch_tokens());
    TrainStep result;
    const StepBatches& chosen = plan->step(index);
    for (LoraModule& module : adapter.modules) module.clear_gradients();
    try {
      result.preference = preferences->gradients(passes(), chosen, static_cast<uint64_t>(index), result);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kNotFinite) throw;
      fail(ErrorCode::kNotFinite, "step {}: {}", index + 1, error.what());
    }
    result.loss = result.preference->loss;
    return result;
  }

  TrainStep token_gradients(int64_t index) {
    TrainStep result;
    const StepBatches& chosen = plan->step(index);
    std::vector<Batch> batches;
    for (const BatchRows& batch : chosen) {
      batches.push_back(make_batch(rows, batch, options.length));
      result.tokens += batches.back().targets();
      result.rows += batches.back().rows();
    }
    for (LoraModule& module : adapter.modules) module.clear_gradients();
    const auto rank = static_cast<size_t>(options.ranks ? options.ranks->rank() : 0);
    const auto ranks = static_cast<size_t>(options.ranks ? options.ranks->count() : 1);
    double sum = 0;
    for (size_t i = rank; i < batches.size() && result.tokens > 0; i += ranks) {
      const DropoutKey key{.active = true, .step = static_cast<uint64_t>(index), .batch = i};
      try {
        sum += passes().loss_and_gradients(batches[i], 1.0 / static_cast<double>(result.tokens), key);
      } catch (const Error& error) {
        if (error.code() != ErrorCode::kNotFinite) throw;
        fail(ErrorCode::kNotFinite, "step {}: {}", index + 1, error.what());
      }
    }
    if (options.ranks) {
      options.ranks->at("step", index + 1);
      add_over_ranks(*options.ranks, adapter, sum);
    }
    result.loss = result.tokens > 0 ? sum / static_cast<double>(result.tokens) : 0;
    return result;
  }

  Model model;
  std::vector<TrainRow> rows;
  TrainOptions options, asked;  // the latter before an adapter that is started from changes them
  std::string base_hash;        // its fingerprint, once it is needed
  Adapter adapter;
  std::optional<Preferences> preferences;  // of a run on pairs
  std::optional<TrainPlan> plan;
  std::optional<AdamW> optimizer;
  std::vector<AdamW::Pair> moments;  // of all ranks, gathered to be saved
  std::unique_ptr<Pass> pass;
  int64_t warmup = 0;
  int64_t finished = 0;
};

Trainer::Trainer(const Model& model, std::vector<TrainRow> rows, const TrainOptions& options)
    : state_(std::make_unique<State>(model, std::move(rows), options)) {}
Trainer::Trainer(Trainer&&) noexcept = default;
Trainer& Trainer::operator=(Trainer&&) noexcept = default;
Trainer::~Trainer() = default;

int64_t Trainer::total_steps() const noexcept {
  return state_->plan->total_steps();
}
int64_t Trainer::finished_steps() const noexcept {
  return state_->finished;
}
int64_t Trainer::parameters() const noexcept {
  return state_->adapter.parameters();
}
Recompute Trainer::recompute() const {
  return state_->passes().recompute();
}
double Trainer::epoch() const {
  return state_->plan->epoch(state_->finished);
}
uint64_t Trainer::memory_bytes() const {
  constexpr uint64_t kBytes = 2 * sizeof(float);   // value, gradient
  const uint64_t pass = state_->passes().bytes();  // which decides the layouts
  uint64_t layouts = 0;
  for (const LoraModule& module : state_->adapter.modules) layouts += module.layout_bytes();
  const auto parameters = static_cast<uint64_t>(state_->adapter.parameters());
  // At a checkpoint rank 0 gathers the moments of all.
  const std::shared_ptr<Ranks>& ranks = state_->options.ranks;
  const uint64_t gathered = ranks && ranks->rank() == 0 ? parameters * 2 * sizeof(float) : 0;
  return parameters * kBytes + state_->optimizer->bytes() + gathered + layouts + pass;
}

std::string Trainer::start_from(const std::string& folder) {
  State& s = *state_;
  s.adapter = read_adapter(folder, state_of(s.model), s.options);
  s.make_optimizer();
  s.pass.reset();
  return s.adapter.missing;
}

void Trainer::start_from_original(const std::string& folder) {
  State& s = *state_;
  if (s.adapter.dora())
    fail(ErrorCode::kUnsupported, "{}: an adapter with DoRA does not start from what quantization lost",
         folder);
  start_from_residual(s.adapter, state_of(s.model), Checkpoint(folder), s.options.seed, s.options.threads);
  s.pass.reset();
}

TrainStep Trainer::step() {
  State& s = *state_;
  if (s.finished >= s.plan->total_steps())
    fail(ErrorCode::kInvalidArgument, "all {} steps are done", s.plan->total_steps());
  const Stopwatch watch;
  TrainStep result = s.gradients(s.finished);
  const double factor = s.options.clip > 0 ? std::min(1.0, s.options.clip / (result.grad_norm + 1e-6)) : 1.0;
  s.optimizer->step(s.adapter, s.options, result.learning_rate, result.learning_rate * s.options.lora_plus,
                    factor, s.options.threads);
  if (s.options.ranks) share_step(*s.options.ranks, s.adapter);
  s.moments.clear();
  ++s.finished;
  result.seconds = watch.seconds();
  return result;
}

TrainLoss Trainer::evaluate(std::span<const TrainRow> rows, bool with_adapter) {
  State& s = *state_;
  check_rows(rows, s.model.config().vocabulary);
  TrainLoss total;
  const int64_t most = s.plan->most_batch_tokens();
  for (size_t first = 0; first < rows.size();) {
    // As many rows as fit; a longer one in pieces that each begin anew is not the same text: cut.
    std::vector<TrainRow> own;
    int64_t tokens = 0;
    for (; first < rows.size(); ++first) {
      const int64_t length =
          std::min({static_cast<int64_t>(rows[first].tokens.size()), s.options.length, most});
      if (!own.empty() && tokens + length > most) break;
      own.push_back(rows[first]);
      tokens += length;
    }
    BatchRows all(own.size());
    for (size_t i = 0; i < all.size(); ++i) all[i] = i;
    const Batch batch = make_batch(own, all, std::min(s.options.length, most));
    const int64_t targets = batch.targets();
    if (targets == 0) continue;
    total.sum += s.passes().loss(batch, with_adapter);
    total.tokens += targets;
  }
  return total;
}

TrainPreference Trainer::evaluate_pairs(std::span<const TrainRow> rows, bool with_adapter) {
  State& s = *state_;
  if (!s.preferences) fail(ErrorCode::kInvalidArgument, "the run is not one of pairs");
  check_rows(rows, s.model.config().vocabulary);
  int64_t most = 0;
  for (const int64_t length : Preferences::lengths(rows, s.options.length)) most = std::max(most, length);
  most = std::max(most, s.plan->most_batch_tokens());
  return s.preferences->evaluate(s.passes(most), rows, with_adapter, most);
}

void Trainer::compute_reference(const std::function<void(int64_t, int64_t)>& progress) {
  State& s = *state_;
  if (s.preferences && s.preferences->needs_reference())
    s.preferences->make_reference(s.passes(), s.plan->most_batch_tokens(), progress);
}

TrainStep Trainer::dump_gradients(const std::string& path) {
  State& s = *state_;
  const TrainStep result = s.gradients(s.finished);
  std::vector<std::vector<float>> up_gradients;
  std::vector<NamedFloats> tensors;
  for (const LoraModule& module : s.adapter.modules) up_gradients.push_back(module.b_gradient());
  for (size_t i = 0; i < s.adapter.modules.size(); ++i) {
    const LoraModule& module = s.adapter.modules[i];
    tensors.push_back({a_name(module), Shape({module.rank(), module.at().in}), module.a_gradient});
    tensors.push_back({b_name(module), Shape({module.at().out, module.rank()}), up_gradients[i]});
    if (module.dora())
      tensors.push_back({magnitude_name(module), Shape({module.at().out}), module.magnitude_gradient});
  }
  write_floats(path, tensors);
  return result;
}

void Trainer::save_adapter(const std::string& folder, const std::string& base) const {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail(ErrorCode::kIo, "{}: {}", folder, error.message());
  write_adapter(folder, state_of(state_->model), state_->adapter, state_->options, base);
}

void Trainer::gather_state() {
  State& s = *state_;
  if (s.options.ranks) s.moments = gather_moments(*s.options.ranks, s.adapter, *s.optimizer);
}

void Trainer::save_checkpoint(const std::string& folder, const std::string& base,
                              const std::string& note) const {
  State& s = *state_;
  const bool gathered = s.options.ranks && s.options.ranks->count() > 1;
  if (gathered && s.moments.size() != s.adapter.modules.size())
    fail(ErrorCode::kInvalidArgument,
         "{}: the state of the optimizer is with several ranks: it is gathered first, and saved by rank 0",
         folder);
  const std::vector<AdamW::Pair>& moments = gathered ? s.moments : s.optimizer->moments();
  const fs::path parent = fs::path(folder).parent_path();
  std::error_code error;
  if (!parent.empty()) fs::create_directories(parent, error);
  if (error) fail(ErrorCode::kIo, "{}: {}", parent.string(), error.message());
  AtomicFolder whole(folder);
  write_adapter(whole.path(), state_of(s.model), s.adapter, s.options, base);
  std::vector<NamedFloats> tensors;
  for (size_t i = 0; i < s.adapter.modules.size(); ++i) {
    const LoraModule& module = s.adapter.modules[i];
    const AdamW::Pair& own = moments[i];
    const Shape a({module.rank(), module.at().in}), b({module.at().out, module.rank()});
    tensors.push_back({a_name(module) + ".m", a, own.a.m});
    tensors.push_back({a_name(module) + ".v", a, own.a.v});
    tensors.push_back({b_name(module) + ".m", b, own.b.m});
    tensors.push_back({b_name(module) + ".v", b, own.b.v});
    if (!module.dora()) continue;
    tensors.push_back({magnitude_name(module) + ".m", Shape({module.at().out}), own.magnitude.m});
    tensors.push_back({magnitude_name(module) + ".v", Shape({module.at().out}), own.magnitude.v});
  }
  write_floats((fs::path(whole.path()) / kOptimizerFile).string(), tensors);
  Json state = {{"step", s.finished}, {"note", note}, {"run", s.identity()}};
  if (s.preferences && !s.preferences->reference().empty()) state["reference"] = s.preferences->reference();
  write_file_atomically((fs::path(whole.path()) / kStateFile).string(), state.dump(2) + "\n");
  whole.commit(Existing::kReplace, [](const std::string& path) {
    if (!fs::exists(fs::path(path) / kStateFile))
      fail(ErrorCode::kAlreadyExists, "{} exists and is no checkpoint of a training run", path);
  });
}

std::string Trainer::resume(const std::string& folder) {
  State& s = *state_;
  const Checkpoint file((fs::path(folder) / kOptimizerFile).string());
  const std::string path = (fs::path(folder) / kStateFile).string();
  std::error_code none;
  if (fs::exists(path, none) && !fs::is_regular_file(path, none))  // a pipe would be waited for
    fail(ErrorCode::kIo, "{}: not a regular file", path);
  std::ifstream stream(path, std::ios::binary);
  if (!stream) fail(ErrorCode::kNotFound, "{}: no such file; a checkpoint of a training run has it", path);
  const std::string text((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
  const Json json = parse_json_object(text, path);
  expect_same_run(json["run"], s.identity(), path);
  s.adapter = read_adapter(folder, state_of(s.model), s.options);
  if (!s.adapter.missing.empty()) fail(ErrorCode::kMalformedFile, "{}", s.adapter.missing);
  s.pass.reset();
  s.make_optimizer();
  for (size_t i = 0; i < s.adapter.modules.size(); ++i) {
    const LoraModule& module = s.adapter.modules[i];
    if (!s.optimizer->owns(i)) continue;
    AdamW::Pair& own = s.optimizer->moments()[i];
    const Shape a({module.rank(), module.at().in}), b({module.at().out, module.rank()});
    own.a.m = read_floats(file, a_name(module) + ".m", a);
    own.a.v = read_floats(file, a_name(module) + ".v", a);
    own.b.m = read_floats(file, b_name(module) + ".m", b);
    own.b.v = read_floats(file, b_name(module) + ".v", b);
    if (!module.dora()) continue;
    own.magnitude.m = read_floats(file, magnitude_name(module) + ".m", Shape({module.at().out}));
    own.magnitude.v = read_floats(file, magnitude_name(module) + ".v", Shape({module.at().out}));
  }
  if (!json["step"].is_number_integer())
    fail(ErrorCode::kMalformedFile, "{}: \"step\" is not a whole number", path);
  s.finished = json["step"].get<int64_t>();
  if (s.finished < 0 || s.finished > s.plan->total_steps())
    fail(ErrorCode::kMalformedFile, "{}: step {} of {}", path, s.finished, s.plan->total_steps());
  s.optimizer->set_steps(s.finished);
  if (s.preferences && json.contains("reference"))
    s.preferences->set_reference(json["reference"].get<std::vector<double>>());
  return json.contains("note") ? json["note"].get<std::string>() : std::string();
}

}  // namespace nfloat
