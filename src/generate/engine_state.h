// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_GENERATE_ENGINE_STATE_H_
#define NFLOAT_GENERATE_ENGINE_STATE_H_

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

#include "generate/prefix_folder.h"
#include "generate/prefix_store.h"
#include "generate/step_budget.h"
#include "generate/stream.h"
#include "model/page_pool.h"
#include "model/workspace.h"
#include "nfloat/engine.h"

namespace nfloat {

struct Engine::State {
  State(const Model& model, const Tokenizer& tokenizer, const EngineOptions& options);

  using StreamPointer = std::unique_ptr<EngineStream>;
  // A stream's part of a step.
  struct Part {
    EngineStream* stream;
    int64_t begin;  // of its tokens
    int64_t count;
    int64_t guesses = 0;  // of those, tokens that are not chosen yet
    size_t rows = 0;      // where their logits begin in State::rows
  };

  bool step();
  bool try_step();
  void run();

  // What other threads asked for.
  void take_inbox();
  void remove(const std::set<uint64_t>& numbers);
  void admit();
  // Keys and values that other sequences share with this one.
  void share_prefix(EngineStream& stream);
  // What this process has in memory of the tokens; valid until prefixes or streams go.
  PrefixStore::Found shared_prefix(const EngineStream& stream, std::span<const int32_t> wanted);
  // What the disk has of the tokens, where that is more than `beyond` and there is room for it.
  std::optional<Session> saved_prefix(std::span<const int32_t> wanted, int64_t beyond);
  bool waits_for_prefix(const EngineStream& stream) const;

  std::vector<Part> plan();
  // Pages for all parts, by letting go of what can be; parts of streams that had to wait are gone then.
  void make_room(std::vector<Part>& parts);
  // Those that need pages of their own.
  void drop_guesses(std::span<Part> parts) const;
  void preempt(EngineStream& stream);
  int64_t pages_wanted(std::span<const Part> parts) const;
  uint64_t used_bytes() const noexcept { return pool->used_bytes(); }

  // How many tokens of a stream may be guessed when `decoding` streams go on.
  int64_t most_guesses(const EngineStream& stream, int64_t decoding) const;
  static std::vector<int32_t> forced(EngineStream& stream, int64_t most);
  // Guesses at most what the parts have room for. What fails here guesses nothing.
  void guess(std::span<Part> parts, int64_t decoding);
  void forward(std::span<Part> parts);
  void score(const Part& part, int64_t index, std::span<const float> logits);
  GeneratedToken choose(EngineStream& stream, std::span<const float> logits);
  // The next token, and those guesses that are right.
  void advance(const Part& part);
  EngineEvent next(EngineStream& stream, std::span<const float> logits);
  void advance_all(std::span<const Part> parts);
  void end(EngineStream& stream, EngineEvent& event);
  void fail(std::span<const Part> parts, const std::string& why, EngineFault fault);
  // The events of a request that has failed; its streams are somebody else's matter.
  void fail(EngineJob& job, const std::string& why, EngineFault fault);
  // Ends every request, and takes no more.
  void die(const std::string& why) noexcept;
  void tell();
  void note_requests();
  void finish_step(double started, int64_t prompt_tokens, int64_t decoding, int64_t guesses);

  // Made when it is first asked for, by any thread.
  const GrammarVocabulary& vocabulary();

  const Tokenizer tokenizer;
  EngineOptions options;
  Session root;  // empty: new sequences are its forks
  std::optional<Session> draft_root;
  std::shared_ptr<PagePool> pool;
  int64_t page_positions;
  Workspace workspace;
  std::vector<float> rows;  // logits behind guesses
  PrefixStore prefixes;
  std::unique_ptr<PrefixFolder> saved;  // prefixes on the disk, or null
  std::optional<GrammarVocabulary> words;
  std::once_flag words_made;
  StepBudget budget;
  PassCost costs;
  double draft_seconds = 0;  // of a token that the draft model guesses

  // Of the thread that steps.
  std::vector<StreamPointer> waiting;  // oldest first
  std::vector<StreamPointer> active;
  std::vector<EngineEvent> events;
  uint64_t next_order = 0;

  mutable std::mutex mutex;  // of what follows
  std::condition_variable changed;
  std::vector<std::shared_ptr<EngineJob>> submitted;
  std::set<uint64_t> cancelled;
  uint64_t next_number = 1;
  std::map<uint64_t, EngineRequestState> open_jobs;  // by number
  int64_t admitted_jobs = 0;
  std::string failure;
  bool stopping = false;
  EngineStatistics statistics;

  std::thread thread;
};

}  // namespace nfloat

#endif  // NFLOAT_GENERATE_ENGINE_STATE_H_
