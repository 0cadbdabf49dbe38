// SPDX-License-Identifier: Apache-2.0
// How requests fail, how the engine does, and what is told about those at work.
#include <algorithm>
#include <exception>
#include <utility>

#include "generate/engine_state.h"

namespace nfloat {

bool Engine::State::step() {
  events.clear();
  {
    const std::scoped_lock lock(mutex);
    if (!failure.empty()) {
      cancelled.clear();
      return false;
    }
    statistics.step_began = options.clock();
  }
  bool ran = false;
  try {
    ran = try_step();
    note_requests();
    tell();
  } catch (const std::exception& error) {
    die(error.what());
  }
  const std::scoped_lock lock(mutex);
  statistics.step_began.reset();
  return ran;
}

void Engine::State::tell() {
  if (options.events && !events.empty()) options.events(events);
}

void Engine::State::fail(EngineJob& job, const std::string& why, EngineFault fault) {
  EngineEvent event;
  event.request = job.number;
  event.done = true;
  event.usage = job.usage;
  event.error = why;
  event.fault = fault;
  events.push_back(std::move(event));
  const std::scoped_lock lock(mutex);
  open_jobs.erase(job.number);
  if (job.admitted) --admitted_jobs;
  ++statistics.failed;
}

// Every request with a part in the step that failed ends.
void Engine::State::fail(std::span<const Part> parts, const std::string& why, EngineFault fault) {
  std::set<EngineJob*> jobs;
  for (const Part& part : parts) {
    EngineJob& job = *part.stream->job;
    if (job.left != 0 && jobs.insert(&job).second) fail(job, why, fault);
  }
  const auto failed = [&](const StreamPointer& stream) { return jobs.count(stream->job.get()) != 0; };
  std::erase_if(waiting, failed);
  std::erase_if(active, failed);
}

void Engine::State::die(const std::string& why) noexcept {
  try {
    std::set<std::shared_ptr<EngineJob>> jobs;
    for (const std::vector<StreamPointer>* streams : {&active, &waiting})
      for (const StreamPointer& stream : *streams)
        if (stream && stream->job->left != 0) jobs.insert(stream->job);
    {
      const std::scoped_lock lock(mutex);
      failure = why.empty() ? "the engine failed" : why;
      jobs.insert(submitted.begin(), submitted.end());
      submitted.clear();
      std::erase_if(jobs, [&](const auto& job) { return open_jobs.count(job->number) == 0; });
    }
    for (const std::shared_ptr<EngineJob>& job : jobs) fail(*job, why, EngineFault::kEngine);
    active.clear();
    waiting.clear();
    tell();
  } catch (const std::exception&) {
    // Without memory even for that: who asks failure() still learns of it.
  }
}

void Engine::State::note_requests() {
  using Phase = EngineRequestState::Phase;
  const std::scoped_lock lock(mutex);
  for (const StreamPointer& stream : active)
    if (const auto found = open_jobs.find(stream->job->number); found != open_jobs.end()) {
      found->second.phase = Phase::kReading;
      found->second.generated_tokens = found->second.kv_pages = 0;
    }
  for (const StreamPointer& stream : active) {
    const auto found = open_jobs.find(stream->job->number);
    if (found == open_jobs.end()) continue;
    EngineRequestState& state = found->second;
    state.cached_tokens = stream->job->usage.cached_tokens;
    state.generated_tokens += stream->continuation.generated();
    state.kv_pages += (stream->position() + page_positions - 1) / page_positions;
    if (stream->continuation.generated() > 0) state.phase = Phase::kGenerating;
  }
}

std::vector<EngineRequestState> Engine::requests() const {
  const std::scoped_lock lock(state_->mutex);
  std::vector<EngineRequestState> result;
  for (const auto& [number, state] : state_->open_jobs) result.push_back(state);
  return result;
}

std::string Engine::failure() const {
  const std::scoped_lock lock(state_->mutex);
  return state_->failure;
}

}  // namespace nfloat
