// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "base/fail.h"
#include "base/state_of.h"
#include "model/lead.h"
#include "model/pass.h"
#include "model/session_state.h"

namespace nfloat {
namespace {

void check(std::span<const BatchEntry> entries) {
  for (size_t e = 0; e < entries.size(); ++e) {
    const BatchEntry& entry = entries[e];
    if (entry.tokens.empty()) fail(ErrorCode::kInvalidArgument, "entry {} of the batch has no tokens", e);
    const Session& session = *entry.session;
    if (&state_of(session.model()) != &state_of(entries[0].session->model()))
      fail(ErrorCode::kInvalidArgument, "entry {} of the batch runs another model than entry 0", e);
    for (size_t other = 0; other < e; ++other)
      if (entries[other].session == entry.session)
        fail(ErrorCode::kInvalidArgument, "entries {} and {} of the batch are the same session", other, e);
    const int64_t vocabulary = session.model().config().vocabulary;
    for (size_t i = 0; i < entry.tokens.size(); ++i)
      if (entry.tokens[i] < 0 || entry.tokens[i] >= vocabulary)
        fail(ErrorCode::kInvalidArgument, "token {} is {}, expected 0 to {} (the model's vocabulary)", i,
             entry.tokens[i], vocabulary - 1);
    const auto count = static_cast<int64_t>(entry.tokens.size());
    if (count > session.context() - session.position())
      fail(ErrorCode::kInvalidArgument, "{} tokens do not fit: {} of a context of {} are used", count,
           session.position(), session.context());
  }
}

WantedLogits wanted_of(const BatchEntry& entry, bool visited) noexcept {
  if (entry.logits != WantedLogits::kAuto) return entry.logits;
  return visited ? WantedLogits::kAll : WantedLogits::kLast;
}

// Cuts the tokens of a batch, from token `taken` of entry `entry` on, into the next chunk and moves the
// sessions' positions on.
Chunk next_chunk(std::span<const BatchEntry> entries, bool visited, size_t& entry, int64_t& taken) {
  Chunk chunk;
  while (entry < entries.size() && chunk.rows < kMaxRows) {
    const BatchEntry& from = entries[entry];
    Session::State& session = state_of(*from.session);
    const int64_t left = static_cast<int64_t>(from.tokens.size()) - taken;
    const int64_t count = std::min(left, kMaxRows - chunk.rows);
    chunk.add({.cache = &session.cache,
               .rope = session.rope.get(),
               .local_rope = session.local_rope.get(),
               .position = session.position,
               .beside = session.options.adapters.get()},
              from.tokens.subspan(static_cast<size_t>(taken), static_cast<size_t>(count)),
              {.entry = entry,
               .token = taken,
               .last = count == left,
               .logits = wanted_of(from, visited),
               .best = from.best});
    session.position += count;
    session.has_logits = false;
    taken = count == left ? 0 : taken + count;
    if (count == left) ++entry;
  }
  return chunk;
}

// Pages and angles for all tokens of a batch.
void reserve(std::span<const BatchEntry> entries) {
  for (const BatchEntry& entry : entries) {
    Session::State& session = state_of(*entry.session);
    const int64_t end = session.position + static_cast<int64_t>(entry.tokens.size());
    session.cache.reserve(session.position, end);
    if (session.rope) session.rope->reserve(end);
    if (session.local_rope) session.local_rope->reserve(end);
  }
}

// Puts the sessions of a batch back to what they were unless the batch was finished; one whose new logits
// have already replaced the old ones has none then.
class Unfinished {
 public:
  explicit Unfinished(std::span<const BatchEntry> entries) : entries_(entries) {
    for (const BatchEntry& entry : entries) {
      const Session::State& session = state_of(*entry.session);
      before_.push_back({session.position, session.has_logits});
    }
  }
  ~Unfinished() {
    for (size_t i = 0; i < before_.size(); ++i) {
      Session::State& session = state_of(*entries_[i].session);
      const bool replaced = session.has_logits && session.position != before_[i].position;
      session.has_logits = before_[i].has_logits && !replaced;
      session.position = before_[i].position;
    }
  }
  Unfinished(const Unfinished&) = delete;
  Unfinished& operator=(const Unfinished&) = delete;
  void finished() noexcept { before_.clear(); }

 private:
  struct Before {
    int64_t position;
    bool has_logits;
  };
  std::span<const BatchEntry> entries_;
  std::vector<Before> before_;
};

// Pages and buffers are reserved.
void run(std::span<const BatchEntry> entries, int64_t total, Workspace& workspace, const RunOptions& options,
         const LogitsVisitor& visitor) {
  const Model::State& model = state_of(entries[0].session->model());
  const ModelConfig& config = model.config;
  Unfinished unfinished(entries);
  LayerExecutor executor(model, workspace, options);
  const auto finish = [&](const Chunk& chunk, const BufferRows& x) {
    visit_logits(executor, config, chunk, x, [&](size_t segment, int64_t row, std::span<const float> values) {
      const SegmentSource& source = chunk.sources[segment];
      if (visitor) visitor(source.entry, source.token + row, values);
      if (!source.last || row + 1 != chunk.segments[segment].rows) return;
      Session::State& session = state_of(*entries[source.entry].session);
      std::copy(values.begin(), values.end(), session.logits.begin());
      session.has_logits = true;
    });
    executor.settle();
  };
  size_t entry = 0;
  int64_t taken = 0;  // tokens of `entry` already done
  std::vector<Chunk> chunks;
  while (entry < entries.size()) {
    chunks.push_back(next_chunk(entries, static_cast<bool>(visitor), entry, taken));
    if (model.streamed()) continue;  // all of them wait for a layer
    run_layers(model, executor, chunks, workspace.x.all(), false);
    finish(chunks.front(), workspace.x.all());
    chunks.clear();
  }
  if (model.streamed()) {
    const OwnedRows hidden(workspace.engine, total, config.hidden);
    run_layers(model, executor, chunks, hidden.all(), false);
    BufferRows x = hidden.all();
    for (const Chunk& chunk : chunks) {
      finish(chunk, x);
      x = x.from(chunk.rows);
    }
  }
  workspace.trim();
  unfinished.finished();
}

// The same on all ranks, which rank 0 leads. What fails on one alone ends their work together.
void lead(std::span<const BatchEntry> entries, int64_t total, Workspace& workspace, const RunOptions& options,
          const LogitsVisitor& visitor) {
  const Model::State& model = state_of(entries[0].session->model());
  std::vector<WantedLogits> wanted;
  for (const BatchEntry& entry : entries) wanted.push_back(wanted_of(entry, static_cast<bool>(visitor)));
  RankLeader::Pass pass(*model.leader, model.led_number, entries, wanted);
  try {
    run(entries, total, workspace, options, visitor);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kNotFinite) pass.failed_here(error.what());
    throw;
  } catch (const std::exception& error) {
    pass.failed_here(error.what());
    throw;
  }
}

void forward(std::span<const BatchEntry> entries, Workspace& workspace, RunOptions options,
             const LogitsVisitor& visitor) {
  check(entries);
  reserve(entries);
  const Model::State& model = state_of(entries[0].session->model());
  int64_t total = 0;
  for (const BatchEntry& entry : entries) total += static_cast<int64_t>(entry.tokens.size());
  workspace.reserve(model, std::min(total, kMaxRows));
  if (!model.leader) return run(entries, total, workspace, options, visitor);
  // Other ranks would not end with it.
  if (options.cancelled != nullptr && (*options.cancelled)())
    fail(ErrorCode::kInterrupted, "cancelled by the caller");
  options.cancelled = nullptr;
  lead(entries, total, workspace, options, visitor);
}

}  // namespace

void forward_batch(std::span<const BatchEntry> entries, const LogitsVisitor& visitor,
                   const std::function<bool()>& cancelled) {
  if (entries.empty()) return;
  Session::State& first = state_of(*entries[0].session);
  forward(entries, first.workspace,
          {.precision = *first.options.precision,
           .many_rows_precision = first.options.many_rows_precision,
           .threads = first.options.threads,
           .expect_finite = first.options.expect_finite,
           .cancelled = cancelled ? &cancelled : nullptr},
          visitor);
}

}  // namespace nfloat
