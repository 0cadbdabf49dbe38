// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <exception>
#include <utility>

#include "base/state_of.h"
#include "generate/engine_state.h"
#include "generate/lookup.h"
#include "model/session_state.h"
#include "nfloat/error.h"

namespace nfloat {
namespace {

constexpr int64_t kLeastShared = 8;    // tokens: less is read as fast as it is shared
constexpr double kLongWait = 2;        // seconds after which a long prompt counts as a short one
constexpr int64_t kMostPrompt = 2048;  // tokens of prompts in a step
constexpr int64_t kGuessRows = 8;      // of sequences that go on, with guesses: more cost more than they gain
constexpr int64_t kDraftRead = 256;    // tokens that a draft model reads in a step

int64_t pages_for(int64_t positions, int64_t page) noexcept {
  return (positions + page - 1) / page;
}

}  // namespace

bool Engine::State::try_step() {
  take_inbox();
  admit();
  std::vector<Part> parts = plan();
  make_room(parts);
  if (parts.empty()) return false;
  int64_t prompt_tokens = 0, decoding = 0;
  for (const Part& part : parts)
    if (part.guesses == 0 && (part.count > 1 || part.stream->continuation.generated() == 0))
      prompt_tokens += part.count;
    else
      ++decoding;
  try {
    guess(parts, decoding);
    const double begun = options.clock();
    forward(parts);
    int64_t guesses = 0;
    for (const Part& part : parts) guesses += part.guesses;
    finish_step(begun, prompt_tokens, decoding, guesses);
  } catch (const Error& error) {
    if (error.code() == ErrorCode::kIo) throw;  // the device, or what connects the ranks
    fail(parts, error.what(), EngineFault::kStep);
    parts.clear();
  } catch (const std::exception& error) {
    fail(parts, error.what(), EngineFault::kStep);
    parts.clear();
  }
  advance_all(parts);
  std::erase_if(active, [](const StreamPointer& stream) { return !stream->session; });
  return true;
}

// What fails here, as a grammar that grows too large, is one request's own.
void Engine::State::advance_all(std::span<const Part> parts) {
  struct Failure {
    Part part;
    std::string why;
    EngineFault fault;
  };
  std::vector<Failure> failures;
  for (const Part& part : parts) {
    EngineJob& job = *part.stream->job;
    if (job.failed || part.stream->missing() + part.guesses != 0) continue;
    try {
      advance(part);
    } catch (const Error& error) {
      job.failed = true;
      const bool of_grammar = part.stream->matcher && error.code() == ErrorCode::kUnsupported;
      failures.push_back({part, error.what(), of_grammar ? EngineFault::kGrammar : EngineFault::kStep});
    } catch (const std::exception& error) {
      job.failed = true;
      failures.push_back({part, error.what(), EngineFault::kStep});
    }
  }
  for (const auto& [part, why, fault] : failures) fail({&part, 1}, why, fault);
}

void Engine::State::admit() {
  while (!waiting.empty() && active.size() < static_cast<size_t>(options.streams)) {
    waiting.front()->session = root.fork();
    StreamPointer stream = std::move(waiting.front());
    waiting.erase(waiting.begin());
    EngineJob& job = *stream->job;
    state_of(*stream->session).options.adapters = job.request.adapters;
    if (!job.admitted) {
      job.admitted = true;
      const std::scoped_lock lock(mutex);
      ++admitted_jobs;
      statistics.queue_seconds.add(options.clock() - job.submitted);
    }
    active.push_back(std::move(stream));
  }
}

PrefixStore::Found Engine::State::shared_prefix(const EngineStream& stream, std::span<const int32_t> wanted) {
  const LinearObserver* const adapters = stream.job->request.adapters.get();
  PrefixStore::Found best = prefixes.find(wanted, adapters);
  for (const StreamPointer& other : active) {
    if (other.get() == &stream || other->job->request.adapters.get() != adapters) continue;
    const int64_t common = common_length(other->held(), wanted);
    if (common > best.length) best = {&*other->session, common};
  }
  return best;
}

void Engine::State::share_prefix(EngineStream& stream) {
  if (stream.scores_prompt()) return;
  const std::span<const int32_t> wanted = stream.tokens().first(stream.tokens().size() - 1);
  const int64_t least = stream.position() + kLeastShared;
  std::optional<Session> shared;
  if (saved && !stream.job->request.adapters)
    shared = saved_prefix(wanted, std::max(shared_prefix(stream, wanted).length, least - 1));
  if (!shared) {
    // Not the one found before: it may have made room for what the disk did not have then.
    const PrefixStore::Found best = shared_prefix(stream, wanted);
    if (best.session == nullptr || best.length < least) return;
    shared = best.session->fork();
    shared->rewind(best.length);
  }
  if (stream.continuation.generated() == 0 && stream.choice == 0)
    stream.job->usage.cached_tokens += shared->position() - stream.position();
  stream.session = std::move(shared);
}

std::optional<Session> Engine::State::saved_prefix(std::span<const int32_t> wanted, int64_t beyond) {
  const int64_t length = saved->longest(wanted);
  if (length <= beyond) return std::nullopt;
  const uint64_t bytes = static_cast<uint64_t>(pages_for(length, page_positions)) * pool->page_bytes();
  while (used_bytes() + bytes > options.kv_bytes)
    if (!prefixes.drop_one() && !saved->finish()) return std::nullopt;
  return saved->find(wanted, beyond, root);
}

// An older sequence is about to read what this one begins with too.
bool Engine::State::waits_for_prefix(const EngineStream& stream) const {
  if (stream.scores_prompt()) return false;
  const std::span<const int32_t> wanted = stream.tokens().first(stream.tokens().size() - 1);
  for (const StreamPointer& other : active) {
    if (other->order >= stream.order || other->missing() <= 1 || other->scores_prompt() ||
        other->job->request.adapters != stream.job->request.adapters)
      continue;
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
  for (Part& part : parts) {
    part.guesses = most_guesses(*part.stream, decoding);
    part.count += part.guesses;
  }
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
  EngineRequestState& state = open_jobs.at(stream.job->number);
  state.phase = EngineRequestState::Phase::kWaiting;
  state.kv_pages = 0;
}

void Engine::State::drop_guesses(std::span<Part> parts) const {
  for (Part& part : parts) {
    const int64_t without = part.count - part.guesses;
    if (pages_for(part.begin + part.count, page_positions) == pages_for(part.begin + without, page_positions))
      continue;
    part.count = without;
    part.guesses = 0;
  }
}

void Engine::State::make_room(std::vector<Part>& parts) {
  const auto page_bytes = static_cast<uint64_t>(pool->page_bytes());
  const auto too_much = [&] {
    return used_bytes() + static_cast<uint64_t>(pages_wanted(parts)) * page_bytes > options.kv_bytes;
  };
  if (too_much()) drop_guesses(parts);
  while (too_much()) {
    if (prefixes.drop_one() || (saved && saved->finish())) continue;
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

int64_t Engine::State::most_guesses(const EngineStream& stream, int64_t decoding) const {
  const GenerationOptions& generation = stream.job->request.generation;
  if (!stream.matcher && generation.look_up <= 0 && !draft_root) return 0;
  const int64_t left = generation.max_tokens - stream.continuation.generated() - 1;
  if (!costs.known(decoding)) return 0;
  return std::clamp<int64_t>(kGuessRows / decoding - 1, 0, std::max<int64_t>(left, 0));
}

// None where the automaton fails: the choice of the next token says so.
std::vector<int32_t> Engine::State::forced(EngineStream& stream, int64_t most) {
  try {
    return stream.matcher->forced(static_cast<size_t>(most));
  } catch (const std::exception&) {
    return {};
  }
}

void Engine::State::guess(std::span<Part> parts, int64_t decoding) {
  using Guesser = EngineStream::Guesser;
  std::vector<DraftTask> tasks;
  std::vector<EngineStream*> drafting;
  const double cost = costs.guess(decoding, budget.token_seconds());
  for (const Part& part : parts) {
    if (part.guesses == 0) continue;
    EngineStream& stream = *part.stream;
    stream.pass.assign(1, stream.tokens().back());
    // What a source guesses, were it as long as is worth while.
    const auto take = [&](Guesser who, const auto& source) {
      const int64_t most = stream.length_of(who)(part.guesses, cost);
      if (most == 0) return false;
      const auto found = source(most);
      stream.guesser = who;
      stream.pass.insert(stream.pass.end(), found.begin(), found.end());
      return !found.empty();
    };
    if (stream.matcher && take(Guesser::kGrammar, [&](int64_t most) { return forced(stream, most); }))
      continue;
    const int64_t look_up_most = stream.job->request.generation.look_up;
    if (look_up_most > 0 && take(Guesser::kLookUp, [&](int64_t most) {
          return look_up(stream.tokens(), static_cast<size_t>(std::min(most, look_up_most)));
        }))
      continue;
    if (!draft_root) continue;
    const double with_draft = costs.guess(decoding, budget.token_seconds(), draft_seconds);
    const int64_t most = stream.length_of(Guesser::kDraft)(part.guesses, with_draft);
    if (most == 0) continue;
    if (!stream.draft) stream.draft.emplace(draft_root->fork());
    stream.guesser = Guesser::kDraft;
    drafting.push_back(&stream);
    tasks.push_back({.sequence = &*stream.draft,
                     .tokens = stream.tokens(),
                     .prompt_tokens = stream.continuation.prompt_tokens(),
                     .sampler = &stream.sampler,
                     .most = most});
  }
  const double begun = options.clock();
  try {
    draft(tasks, kDraftRead);
  } catch (const std::exception&) {
    for (DraftTask& task : tasks) task.guess.clear();
    for (EngineStream* stream : drafting) stream->draft.reset();
  }
  const int64_t vocabulary = root.model().config().vocabulary;
  int64_t drafted = 0;
  for (size_t i = 0; i < tasks.size(); ++i)
    for (const int32_t token : tasks[i].guess) {
      if (token >= vocabulary) break;
      drafting[i]->pass.push_back(token);
      ++drafted;
    }
  if (drafted > 0 && std::all_of(tasks.begin(), tasks.end(), is_up_to_date)) {
    const double each = (options.clock() - begun) / static_cast<double>(drafted);
    draft_seconds = draft_seconds > 0 ? 0.75 * draft_seconds + 0.25 * each : each;
  }
  for (Part& part : parts) {
    if (part.guesses == 0) continue;
    part.count = std::ssize(part.stream->pass);
    part.guesses = part.count - 1;
  }
}

void Engine::State::forward(std::span<Part> parts) {
  std::vector<BatchEntry> entries;
  bool visits = false;
  size_t guessed = 0;  // floats
  const auto vocabulary = static_cast<size_t>(root.model().config().vocabulary);
  for (Part& part : parts) {
    const EngineStream& stream = *part.stream;
    const auto begin = static_cast<size_t>(part.begin), count = static_cast<size_t>(part.count);
    const bool all = stream.scores_prompt() || part.guesses > 0;
    const bool last = begin + count >= stream.tokens().size();
    entries.push_back(
        {&*part.stream->session,
         part.guesses > 0 ? std::span<const int32_t>(stream.pass) : stream.tokens().subspan(begin, count),
         all    ? WantedLogits::kAll
         : last ? WantedLogits::kLast
                : WantedLogits::kNone,
         stream.matcher ? 0 : stream.continuation.decisive()});
    visits = visits || all;
    part.rows = guessed;
    if (part.guesses > 0) guessed += count * vocabulary;
  }
  if (rows.size() < guessed) rows.resize(guessed);
  // One workspace for all steps, rather than one in every session that was ever the first of a batch.
  Workspace& lent = state_of(*entries[0].session).workspace;
  std::swap(workspace, lent);
  struct GiveBack {
    Workspace &own, &lent;
    ~GiveBack() { std::swap(own, lent); }
  } give_back{workspace, lent};
  if (!visits) return forward_batch(entries);
  forward_batch(entries, [&](size_t entry, int64_t index, std::span<const float> logits) {
    const Part& part = parts[entry];
    if (part.guesses > 0)
      std::copy(
          logits.begin(), logits.end(),
          rows.begin() + static_cast<std::ptrdiff_t>(part.rows + static_cast<size_t>(index) * vocabulary));
    else if (part.stream->scores_prompt())
      score(part, index, logits);
  });
}

GeneratedToken Engine::State::choose(EngineStream& stream, std::span<const float> logits) {
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

void Engine::State::advance(const Part& part) {
  EngineStream& stream = *part.stream;
  if (part.guesses == 0) {
    events.push_back(next(stream, stream.session->logits()));
    if (events.back().finish) end(stream, events.back());
    return;
  }
  const auto vocabulary = static_cast<size_t>(root.model().config().vocabulary);
  int64_t right = 0;
  while (true) {
    const size_t row = part.rows + static_cast<size_t>(right) * vocabulary;
    events.push_back(next(stream, std::span<const float>(rows).subspan(row, vocabulary)));
    const EngineEvent& event = events.back();
    const bool as_guessed =
        right < part.guesses && event.piece.token == stream.pass[static_cast<size_t>(right) + 1];
    if (event.finish || !as_guessed) break;
    ++right;
  }
  stream.session->rewind(part.begin + 1 + right);
  stream.length_of(stream.guesser).checked(part.guesses, right);
  {
    const std::scoped_lock lock(mutex);
    statistics.guessed_tokens += static_cast<uint64_t>(part.guesses);
    statistics.guessed_right += static_cast<uint64_t>(right);
  }
  if (events.back().finish) end(stream, events.back());
}

EngineEvent Engine::State::next(EngineStream& stream, std::span<const float> logits) {
  EngineEvent event;
  EngineJob& job = *stream.job;
  event.request = job.number;
  event.choice = stream.choice;
  const bool first = stream.continuation.generated() == 0;
  const double now = options.clock();
  if (stream.continuation.reason())  // nothing was to be generated
    event.piece.text = std::string();
  else
    event.piece = choose(stream, logits);
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
  return event;
}

void Engine::State::end(EngineStream& stream, EngineEvent& event) {
  EngineJob& job = *stream.job;
  job.usage.completion_tokens +=
      stream.continuation.generated() +
      (*event.finish == FinishReason::kEndOfText && !stream.without_end_token ? 1 : 0);
  const std::span<const int32_t> held = stream.held();
  if (saved && !job.request.adapters) saved->keep(held, *stream.session);
  prefixes.keep({held.begin(), held.end()}, std::move(*stream.session), job.request.adapters.get());
  stream.session.reset();
  if (--job.left > 0) return;
  event.done = true;
  event.usage = job.usage;
  const std::scoped_lock lock(mutex);
  open_jobs.erase(job.number);
  --admitted_jobs;
  ++statistics.finished;
  statistics.request_seconds.add(options.clock() - job.submitted);
}

void Engine::State::finish_step(double started, int64_t prompt_tokens, int64_t decoding, int64_t guesses) {
  const double now = options.clock();
  if (guesses == 0) budget.took(now - started, prompt_tokens, decoding > 0);
  if (prompt_tokens == 0) costs.took(now - started, decoding, guesses);
  const std::scoped_lock lock(mutex);
  ++statistics.steps;
  statistics.step_seconds.add(now - started);
  statistics.rows.add(static_cast<double>(prompt_tokens + decoding + guesses));
  statistics.kv_bytes_used = used_bytes();
  statistics.last_step = now;
}

}  // namespace nfloat
