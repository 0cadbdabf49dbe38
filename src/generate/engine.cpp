// SPDX-License-Identifier: Apache-2.0
#include "nfloat/engine.h"

#include <algorithm>
#include <chrono>
#include <iterator>
#include <utility>

#include "base/fail.h"
#include "base/state_of.h"
#include "generate/engine_state.h"
#include "kernels/attention.h"
#include "model/kv_cache.h"
#include "model/loader.h"
#include "model/model_state.h"
#include "model/session_state.h"
#include "nfloat/error.h"

namespace nfloat {
namespace {

double machine_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

uint64_t free_bytes(const Model& model) {
  if (const auto free = state_of(model).device->free_bytes()) return *free;
  const uint64_t available = available_memory_bytes();
  return available == 0 ? UINT64_MAX : available;
}

EngineOptions resolved(const Model& model, const Tokenizer& tokenizer, EngineOptions options) {
  const auto require = [](bool good, const char* name, auto value, const char* range) {
    if (!good) fail(ErrorCode::kInvalidArgument, "{} is {}, expected {}", name, value, range);
  };
  require(options.streams >= 1 && options.streams <= 512, "streams", options.streams, "1 to 512");
  require(options.queue >= 0, "queue", options.queue, "0 or more");
  if (options.draft) check_draft(*options.draft, tokenizer);
  require(options.step_seconds > 0, "seconds of a step", options.step_seconds, "more than 0");
  if (!options.clock) options.clock = machine_seconds;
  const KvPlan plan = plan_kv(model.config(), model.options().precision, options);
  // Pages are taken when they are needed: a budget beyond the memory would end in failed requests.
  if (options.kv_bytes == 0)
    options.kv_bytes = std::min(plan.bytes, std::max(plan.least_bytes, free_bytes(model) / 10 * 9));
  options.context = plan.context;
  options.kv_cache = plan.type;
  return options;
}

Histogram seconds() {
  return Histogram({0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60});
}

// The splitmix64 step: different seeds for the choices of a request.
uint64_t seed_of_choice(uint64_t seed, int choice) noexcept {
  if (choice == 0) return seed;
  uint64_t z = seed + static_cast<uint64_t>(choice) * 0x9e3779b97f4a7c15u;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

}  // namespace

KvPlan plan_kv(const ModelConfig& config, Precision precision, const EngineOptions& options) {
  KvPlan plan{.context = options.context, .type = resolved_cache(options.kv_cache, precision)};
  if (plan.context == 0) plan.context = config.context;
  if (plan.context < 1 || plan.context > largest_context(config))
    fail(ErrorCode::kInvalidArgument, "a context of {} tokens: this model allows 1 to {}", plan.context,
         largest_context(config));
  // A page more than the context: a shared one is copied before it is written.
  plan.least_bytes = kv_cache_bytes(config, plan.type, plan.context + kernels::kAttentionBlock);
  if (options.kv_bytes != 0 && options.kv_bytes < plan.least_bytes)
    fail(ErrorCode::kInvalidArgument,
         "keys and values of a context of {} tokens take {} KiB, the budget is {} KiB", plan.context,
         plan.least_bytes >> 10, options.kv_bytes >> 10);
  plan.bytes = options.kv_bytes;
  if (plan.bytes == 0 &&
      __builtin_mul_overflow(plan.least_bytes, static_cast<uint64_t>(options.streams), &plan.bytes))
    plan.bytes = UINT64_MAX;
  return plan;
}

void Histogram::add(double value) noexcept {
  const auto at = std::lower_bound(bounds.begin(), bounds.end(), value) - bounds.begin();
  ++counts[static_cast<size_t>(at)];
  sum += value;
}

Engine::State::State(const Model& model, const Tokenizer& text, const EngineOptions& given)
    : tokenizer(text),
      options(resolved(model, text, given)),
      root(model, {.context = options.context == model.config().context ? 0 : options.context,
                   .kv_cache = options.kv_cache}),
      pool(state_of(model).tables->own_pages(model.config(), kernel_type(options.kv_cache))),
      page_positions(kernels::kAttentionBlock),
      prefixes(static_cast<size_t>(options.streams) * 4),
      budget(options.step_seconds) {
  state_of(root).cache = KvCache(options.kv_cache, pool);
  if (!options.prefix_folder.empty())
    saved = std::make_unique<PrefixFolder>(options.prefix_folder, options.prefix_folder_bytes, root);
  statistics.kv_bytes_limit = options.kv_bytes;
  statistics.kv_page_bytes = pool->page_bytes();
  statistics.kv_page_tokens = page_positions;
  if (options.draft) draft_root.emplace(*options.draft);
  statistics.last_step = options.clock();
  statistics.first_token_seconds = statistics.between_tokens_seconds = statistics.queue_seconds =
      statistics.request_seconds = statistics.step_seconds = seconds();
  statistics.mask_seconds = Histogram({1e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 1e-2, 1e-1});
  statistics.rows = Histogram({1, 2, 4, 8, 16, 32, 64, 128, 256, 512});
}

Engine::Engine(const Model& model, const Tokenizer& tokenizer, const EngineOptions& options)
    : state_(std::make_unique<State>(model, tokenizer, options)) {}

Engine::~Engine() {
  stop();
}

int64_t Engine::context() const noexcept {
  return state_->options.context;
}

std::optional<uint64_t> Engine::submit(EngineRequest request) {
  State& state = *state_;
  const int64_t context = state.options.context;
  const auto length = static_cast<int64_t>(request.prompt.size());
  const int64_t vocabulary = state.root.model().config().vocabulary;
  if (length == 0) fail(ErrorCode::kInvalidArgument, "the prompt is empty");
  if (length >= context)
    fail(ErrorCode::kInvalidArgument, "the prompt has {} tokens, the context {}", length, context);
  for (size_t i = 0; i < request.prompt.size(); ++i)
    if (request.prompt[i] < 0 || request.prompt[i] >= vocabulary)
      fail(ErrorCode::kInvalidArgument, "token {} of the prompt is {}, expected 0 to {}", i,
           request.prompt[i], vocabulary - 1);
  if (request.choices < 1 || request.choices > state.options.streams)
    fail(ErrorCode::kInvalidArgument, "{} choices, expected 1 to {}", request.choices, state.options.streams);
  request.generation.max_tokens = std::min(request.generation.max_tokens, context - length);
  const Sampler checked(request.sampler);

  const std::scoped_lock lock(state.mutex);
  if (!state.failure.empty()) fail(ErrorCode::kIo, "{}", state.failure);
  if (std::ssize(state.open_jobs) >= state.options.queue + state.options.streams) {
    ++state.statistics.refused;
    return std::nullopt;
  }
  auto job = std::make_shared<EngineJob>();
  job->number = state.next_number++;
  job->left = request.choices;
  job->submitted = state.options.clock();
  job->usage.prompt_tokens = length;
  job->request = std::move(request);
  state.submitted.push_back(job);
  state.open_jobs[job->number] = {.number = job->number,
                                  .choices = job->request.choices,
                                  .submitted = job->submitted,
                                  .prompt_tokens = length};
  ++state.statistics.requests;
  state.changed.notify_one();
  return job->number;
}

void Engine::cancel(uint64_t request) {
  const std::scoped_lock lock(state_->mutex);
  state_->cancelled.insert(request);
  state_->changed.notify_one();
}

EngineStatistics Engine::statistics() const {
  const std::scoped_lock lock(state_->mutex);
  EngineStatistics result = state_->statistics;
  result.running = state_->admitted_jobs;
  result.waiting = std::ssize(state_->open_jobs) - state_->admitted_jobs;
  return result;
}

void Engine::prepare_grammars() {
  state_->vocabulary();
}

bool Engine::step() {
  return state_->step();
}

void Engine::start() {
  State& state = *state_;
  if (state.thread.joinable()) return;
  state.stopping = false;
  state.thread = std::thread([&state] { state.run(); });
}

void Engine::stop() {
  State& state = *state_;
  {
    const std::scoped_lock lock(state.mutex);
    state.stopping = true;
    state.changed.notify_one();
  }
  if (state.thread.joinable()) state.thread.join();
}

void Engine::State::run() {
  while (true) {
    if (!step()) {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return stopping || !submitted.empty() || !cancelled.empty(); });
    }
    const std::scoped_lock lock(mutex);
    if (stopping) return;
  }
}

void Engine::State::take_inbox() {
  std::vector<std::shared_ptr<EngineJob>> jobs;
  std::set<uint64_t> gone;
  {
    const std::scoped_lock lock(mutex);
    jobs.swap(submitted);
    gone.swap(cancelled);
  }
  for (std::shared_ptr<EngineJob>& job : jobs) {
    std::vector<StreamPointer> streams;
    try {
      for (int choice = 0; choice < job->request.choices; ++choice) {
        SamplerOptions sampling = job->request.sampler;
        sampling.seed = seed_of_choice(sampling.seed, choice);
        streams.push_back(std::make_unique<EngineStream>(tokenizer, job, choice, next_order++, sampling));
        streams.back()->progressed = job->submitted;
        if (job->request.grammar)
          streams.back()->matcher.emplace(*job->request.grammar, vocabulary(),
                                          job->request.generation.end_tokens);
      }
    } catch (const Error& error) {
      fail(*job, error.what(), job->request.grammar ? EngineFault::kGrammar : EngineFault::kStep);
      continue;
    }
    std::move(streams.begin(), streams.end(), std::back_inserter(waiting));
  }
  if (!gone.empty()) remove(gone);
}

const GrammarVocabulary& Engine::State::vocabulary() {
  std::call_once(words_made, [this] {
    std::vector<std::string> texts(static_cast<size_t>(tokenizer.vocab_size()));
    for (int32_t token = 0; token < tokenizer.vocab_size(); ++token)
      if (!tokenizer.is_special(token)) texts[static_cast<size_t>(token)] = tokenizer.token_bytes(token);
    words.emplace(texts);
  });
  return *words;
}

void Engine::State::remove(const std::set<uint64_t>& numbers) {
  std::set<std::shared_ptr<EngineJob>> jobs;
  const auto of_these = [&](const StreamPointer& stream) {
    const bool found = numbers.count(stream->job->number) != 0;
    if (found) jobs.insert(stream->job);
    return found;
  };
  std::erase_if(waiting, of_these);
  std::erase_if(active, of_these);
  const std::scoped_lock lock(mutex);
  for (const std::shared_ptr<EngineJob>& job : jobs) {
    open_jobs.erase(job->number);
    if (job->admitted) --admitted_jobs;
    ++statistics.cancelled;
  }
}

}  // namespace nfloat
