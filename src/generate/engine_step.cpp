// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <exception>
#include <utility>

#include "generate/engine_state.h"
#include "model/session_state.h"

namespace nfloat {
namespace {

constexpr int64_t kLeastShared = 8;    // tokens: less is read as fast as it is shared
constexpr double kLongWait = 2;        // seconds after which a long prompt counts as a short one
constexpr int64_t kMostPrompt = 2048;  // tokens of prompts in a step

int64_t pages_for(int64_t positions, int64_t page) noexcept {
  return (positions + page - 1) / page;
}

}  // namespace

bool Engine::State::step() {
  take_inbox();
  admit();
  events.clear();
  std::vector<Part> parts = plan();
  make_room(parts);
  if (parts.empty()) return false;
  const double started = options.clock();
  int64_t prompt_tokens = 0, decoding = 0;
  for (const Part& part : parts)
    if (part.count > 1 || part.stream->continuation.generated() == 0)
      prompt_tokens += part.count;
    else
      ++decoding;
  try {
    forward(parts);
    finish_step(started, prompt_tokens, decoding);
  } catch (const std::exception& error) {
    fail(parts, error.what());
    parts.clear();
  }
  advance_all(parts);
  std::erase_if(active, [](const StreamPointer& stream) { return !stream->session; });
  if (options.events && !events.empty()) options.events(events);
  return true;
}

// What fails here, as a grammar that grows too large, is one request's own.
void Engine::State::advance_all(std::span<const Part> parts) {
  std::vector<std::pair<Part, std::string>> failures;
  for (const Part& part : parts) {
    EngineJob& job = *part.stream->job;
    if (job.failed || part.stream->missing() != 0) continue;
    try {
      advance(*part.stream);
    } catch (const std::exception& error) {
      job.failed = true;
      failures.emplace_back(part, error.what());
    }
  }
  for (const auto& [part, why] : failures) fail({&part, 1}, why);
}

void Engine::State::admit() {
  while (!waiting.empty() && active.size() < static_cast<size_t>(options.streams)) {
    StreamPointer stream = std::move(waiting.front());
    waiting.erase(waiting.begin());
    stream->session = root.fork();
    EngineJob& job = *stream->job;
    if (!job.admitted) {
      job.admitted = true;
      const std::scoped_lock lock(mutex);
      ++admitted_jobs;
      statistics.queue_seconds.add(options.clock() - job.submitted);
    }
    active.push_back(std::move(stream));
  }
}

void Engine::State::share_prefix(EngineStream& stream) {
  if (stream.scores_prompt()) return;
  const std::span<const int32_t> wanted = stream.tokens().first(stream.tokens().size() - 1);
  PrefixStore::Found best = prefixes.find(wanted);
  for (const StreamPointer& other : active) {
    if (other.get() == &stream) continue;
    const int64_t common = common_length(other->held(), wanted);
    if (common > best.length) best = {&*other->session, common};
  }
  if (best.session == nullptr || best.length < stream.position() + kLeastShared) return;
  Session shared = best.session->fork();
  shared.rewind(best.length);
  if (stream.continuation.generated() == 0 && stream.choice == 0)
    stream.job->usage.cached_tokens += best.length - stream.position();
  stream.session = std::move(shared);
}

// An older sequence is about to read what this one begins with too.
bool Engine::State::waits_for_prefix(const EngineStream& stream) const {
  if (stream.scores_prompt()) return false;
  const std::span<const int32_t> wanted = stream.tokens().first(stream.tokens().size() - 1);
  for (const StreamPointer& other : active) {
    if (other->order >= stream.order || other->missing() <= 1 || other->scores_prompt()) continue;
    const int64_t common = common_length(other->tokens(), wanted);
    if (common >= stream.position() + kLeastShared && other->position() < common) return true;
  }
  return false;
}

// One row of every sequence that waits for its next token, then as much of the prompts as the time allows.
std::vector<Engine::State::Part> Engine::State::plan() {
  std::vector<Part> parts;
  std::vector<EngineStream*> reading;
  for (const StreamPointer& stream : active) {
    if (stream->missing() > 1 || stream->position() == 0) share_prefix(*stream);
    if (stream->missing() == 1 && !stream->scores_prompt())
      parts.push_back({stream.get(), stream->position(), 1});
    else
      reading.push_back(stream.get());
  }
  int64_t left = budget.prompt_tokens(!parts.empty());
  const double now = options.clock();
  const auto first = [&](const EngineStream* stream) {
    return stream->missing() <= left || now - stream->progressed > kLongWait;
  };
  std::stable_sort(reading.begin(), reading.end(), [&](const EngineStream* a, const EngineStream* b) {
    return first(a) != first(b) ? first(a) : a->order < b->order;
  });
  const auto decoding = static_cast<int64_t>(parts.size());
  left = std::min(left, kMostPrompt - decoding);
  for (EngineStream* stream : reading) {
    if (left <= 0) break;
    if (waits_for_prefix(*stream)) continue;
    const int64_t count = std::min(stream->missing(), left);
    parts.push_back({stream, stream->position(), count});
    left -= count;
  }
  return parts;
}

int64_t Engine::State::pages_wanted(std::span<const Part> parts) const {
  int64_t pages = 0;
  for (const Part& part : parts) {
    const int64_t begin = part.begin / page_positions;
    // The page at work may be shared, and is copied then.
    pages += pages_for(part.begin + part.count, page_positions) - begin;
  }
  return pages;
}

void Engine::State::preempt(EngineStream& stream) {
  stream.session.reset();
  const auto at = std::find_if(active.begin(), active.end(),
                               [&](const StreamPointer& one) { return one.get() == &stream; });
  StreamPointer own = std::move(*at);
  active.erase(at);
  waiting.insert(std::find_if(waiting.begin(), waiting.end(),
                              [&](const StreamPointer& one) { return one->order > own->order; }),
                 std::move(own));
  const std::scoped_lock lock(mutex);
  ++statistics.preempted;
}

void Engine::State::make_room(std::vector<Part>& parts) {
  const auto page_bytes = static_cast<uint64_t>(pool->page_bytes());
  while (used_bytes() + static_cast<uint64_t>(pages_wanted(parts)) * page_bytes > options.kv_bytes) {
    if (prefixes.drop_one()) continue;
    if (active.size() <= 1) return;
    const auto newest =
        std::max_element(active.begin(), active.end(),
                         [](const StreamPointer& a, const StreamPointer& b) { return a->order < b->order; });
    EngineStream* stream = newest->get();
    std::erase_if(parts, [&](const Part& part) { return part.stream == stream; });
    preempt(*stream);
  }
}

void Engine::State::score(const Part& part, int64_t index, std::span<const float> logits) {
  EngineJob& job = *part.stream->job;
  const int64_t next = part.begin + index + 1;
  if (next >= job.usage.prompt_tokens) return;
  PromptScore score;
  score.log_probability = log_probability(logits, job.request.prompt[static_cast<size_t>(next)]);
  if (job.request.generation.log_probabilities > 0)
    score.most_likely = most_likely(logits, static_cast<size_t>(job.request.generation.log_probabilities));
  job.scores.push_back(std::move(score));
}

void Engine::State::forward(std::span<const Part> parts) {
  std::vector<BatchEntry> entries;
  bool scores = false;
  for (const Part& part : parts) {
    entries.push_back(
        {&*part.stream->session,
         part.stream->tokens().subspan(static_cast<size_t>(part.begin), static_cast<size_t>(part.count))});
    scores = scores || part.stream->scores_prompt();
  }
  // One workspace for all steps, rather than one in every session that was ever the first of a batch.
  Workspace& lent = entries[0].session->state().workspace;
  std::swap(workspace, lent);
  struct GiveBack {
    Workspace &own, &lent;
    ~GiveBack() { std::swap(own, lent); }
  } give_back{workspace, lent};
  if (!scores) return forward_batch(entries);
  forward_batch(entries, [&](size_t entry, int64_t index, std::span<const float> logits) {
    if (parts[entry].stream->scores_prompt()) score(parts[entry], index, logits);
  });
}

GeneratedToken Engine::State::choose(EngineStream& stream) {
  const std::span<const float> logits = stream.session->logits();
  if (!stream.matcher) return stream.continuation.step(logits);
  const double before = options.clock();
  const std::span<const uint64_t> allowed = stream.matcher->allowed();
  {
    const std::scoped_lock lock(mutex);
    statistics.mask_seconds.add(options.clock() - before);
  }
  GeneratedToken piece = stream.continuation.step(logits, allowed);
  if (piece.token >= 0) stream.matcher->accept(piece.token);
  if (piece.token >= 0 && stream.matcher->must_end() && !stream.continuation.reason()) {
    piece.text += stream.continuation.finish(FinishReason::kEndOfText);
    stream.without_end_token = true;
  }
  return piece;
}

void Engine::State::advance(EngineStream& stream) {
  EngineEvent event;
  EngineJob& job = *stream.job;
  event.request = job.number;
  event.choice = stream.choice;
  const bool first = stream.continuation.generated() == 0;
  const double now = options.clock();
  if (stream.continuation.reason())  // nothing was to be generated
    event.piece.text = std::string();
  else
    event.piece = choose(stream);
  event.channel = stream.continuation.channel();
  if (first && stream.choice == 0) event.scores = std::move(job.scores);
  {
    const std::scoped_lock lock(mutex);
    if (first && stream.choice == 0) {
      statistics.first_token_seconds.add(now - job.submitted);
      statistics.prompt_tokens += static_cast<uint64_t>(job.usage.prompt_tokens);
      statistics.cached_tokens += static_cast<uint64_t>(job.usage.cached_tokens);
    } else if (!first) {
      statistics.between_tokens_seconds.add(now - stream.progressed);
    }
    if (event.piece.token >= 0) ++statistics.generated_tokens;
  }
  stream.progressed = now;
  event.finish = stream.continuation.reason();
  if (event.finish) end(stream, event);
  events.push_back(std::move(event));
}

void Engine::State::end(EngineStream& stream, EngineEvent& event) {
  EngineJob& job = *stream.job;
  job.usage.completion_tokens +=
      stream.continuation.generated() +
      (*event.finish == FinishReason::kEndOfText && !stream.without_end_token ? 1 : 0);
  const std::span<const int32_t> held = stream.held();
  prefixes.keep({held.begin(), held.end()}, std::move(*stream.session));
  stream.session.reset();
  if (--job.left > 0) return;
  event.done = true;
  event.usage = job.usage;
  const std::scoped_lock lock(mutex);
  --open_jobs;
  --admitted_jobs;
  ++statistics.finished;
  statistics.request_seconds.add(options.clock() - job.submitted);
}

// Every request with a part in the step that failed ends.
void Engine::State::fail(std::span<const Part> parts, const std::string& why) {
  std::set<EngineJob*> jobs;
  for (const Part& part : parts) {
    EngineJob& job = *part.stream->job;
    if (job.left == 0 || !jobs.insert(&job).second) continue;
    EngineEvent event;
    event.request = job.number;
    event.done = true;
    event.usage = job.usage;
    event.error = why;
    events.push_back(std::move(event));
    const std::scoped_lock lock(mutex);
    --open_jobs;
    --admitted_jobs;
    ++statistics.failed;
  }
  const auto failed = [&](const StreamPointer& stream) { return jobs.count(stream->job.get()) != 0; };
  std::erase_if(waiting, failed);
  std::erase_if(active, failed);
}

void Engine::State::finish_step(double started, int64_t prompt_tokens, int64_t decoding) {
  const double now = options.clock();
  budget.took(now - started, prompt_tokens, decoding > 0);
  const std::scoped_lock lock(mutex);
  ++statistics.steps;
  statistics.step_seconds.add(now - started);
  statistics.rows.add(static_cast<double>(prompt_tokens + decoding));
  statistics.kv_bytes_used = used_bytes();
  statistics.last_step = now;
}

}  // namespace nfloat
