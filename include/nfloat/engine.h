// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ENGINE_H_
#define NFLOAT_ENGINE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "nfloat/api.h"
#include "nfloat/generate.h"
#include "nfloat/grammar.h"
#include "nfloat/model.h"
#include "nfloat/tokenizer.h"

namespace nfloat {

struct EngineEvent;

struct EngineOptions {
  int streams = 8;      // sequences that are continued together
  int queue = 64;       // requests that may wait beside them
  int64_t context = 0;  // tokens of one sequence; 0: the model's context
  KvCacheType kv_cache = KvCacheType::kAuto;
  // Of keys and values, kept prefixes included; 0: enough for all streams, but at most nine tenths of the
  // memory that is free when the engine is made.
  uint64_t kv_bytes = 0;
  // A folder for keys and values of sequences that have ended, which later ones that begin in the same way
  // use, of later processes too; empty: none. Only of requests without adapters, on the CPU and in one
  // process. The folder has to be this user's alone: it holds the tokens of what was said.
  std::string prefix_folder = {};
  uint64_t prefix_folder_bytes = uint64_t{4} << 30;  // what its files may take together
  double step_seconds = 0.1;                         // a step with a piece of a prompt takes about this long
  // A smaller model with the same tokens that guesses the next ones; what is generated is the same as
  // without. Its keys and values are not part of kv_bytes.
  std::optional<Model> draft = std::nullopt;
  // A clock in seconds that never goes back; empty: the machine's.
  std::function<double()> clock = nullptr;
  // Receives the events of each step, on the thread that steps.
  std::function<void(std::span<const EngineEvent>)> events = nullptr;
};

struct EngineRequest {
  std::vector<int32_t> prompt;
  int choices = 1;  // continuations of the same prompt, at most the streams
  // Choice i draws its tokens by a seed of its own made from sampler.seed and i: the same whatever else runs.
  SamplerOptions sampler;
  GenerationOptions generation;  // max_tokens is cut to what the context has room for
  bool score_prompt = false;     // log-probabilities of the prompt's own tokens
  // That this request is computed with; null: none. Requests with different ones go together.
  std::shared_ptr<LinearObserver> adapters = nullptr;
  // The text keeps to it, and ends when nothing can follow. Its matchers run on the thread that steps.
  std::optional<Grammar> grammar = std::nullopt;
};

// The probability of a token of the prompt after the tokens before it.
struct PromptScore {
  double log_probability = 0;
  std::vector<TokenProbability> most_likely;
};

struct EngineUsage {
  int64_t prompt_tokens = 0;
  int64_t cached_tokens = 0;      // of the prompt: taken from keys and values that were there
  int64_t completion_tokens = 0;  // of all choices, end tokens included
};

// Whose failure ended a request.
enum class EngineFault : uint8_t {
  kNone,
  kGrammar,  // the request's own: what its grammar allows needs more of the automaton than its bound
  kStep,     // of the step that it was in
  kEngine    // of the engine, which takes no more requests: Engine::failure()
};

struct EngineEvent {
  uint64_t request = 0;
  int choice = 0;
  GeneratedToken piece;
  std::string channel;                 // of gpt-oss, that the piece belongs to
  std::optional<FinishReason> finish;  // the choice ends with this piece
  std::vector<PromptScore> scores;  // with the first event, if asked for: of all prompt tokens but the first
  bool done = false;                // the request's last event; `usage` and `error` are set then
  EngineUsage usage;
  std::string error;  // why it failed; empty on success
  EngineFault fault = EngineFault::kNone;
};

// Counts of values in ranges that end at `bounds`, each inclusive; the last count is of what is above.
struct Histogram {
  explicit Histogram(std::vector<double> ends = {}) : bounds(std::move(ends)), counts(bounds.size() + 1) {}
  void add(double value) noexcept;

  std::vector<double> bounds;
  std::vector<uint64_t> counts;
  double sum = 0;
};

struct EngineStatistics {
  int64_t running = 0, waiting = 0;  // requests
  uint64_t requests = 0, refused = 0, cancelled = 0, failed = 0, finished = 0, preempted = 0;
  uint64_t prompt_tokens = 0, cached_tokens = 0, generated_tokens = 0, steps = 0;
  uint64_t guessed_tokens = 0, guessed_right = 0;  // by draft, look-up and grammar
  uint64_t kv_bytes_used = 0, kv_bytes_limit = 0;
  uint64_t kv_page_bytes = 0;
  int64_t kv_page_tokens = 0;
  double last_step = 0;                             // clock
  std::optional<double> step_began = std::nullopt;  // clock; of the step at work
  Histogram first_token_seconds, between_tokens_seconds, queue_seconds, request_seconds, step_seconds, rows,
      mask_seconds;
};

// A request that has not ended.
struct EngineRequestState {
  enum class Phase : uint8_t { kWaiting, kReading, kGenerating };

  uint64_t number = 0;
  Phase phase = Phase::kWaiting;
  int choices = 1;
  double submitted = 0;  // clock
  int64_t prompt_tokens = 0, cached_tokens = 0;
  int64_t generated_tokens = 0;  // of all choices
  int64_t kv_pages = 0;          // that they hold; shared ones count for each
};

// What the keys and values of an engine may take, with what EngineOptions leave open.
struct KvPlan {
  int64_t context = 0;
  KvCacheType type = KvCacheType::kF16;
  uint64_t least_bytes = 0;  // one sequence that fills the context
  uint64_t bytes = 0;        // all of them
};

// Needs no weights. Throws kInvalidArgument: a context beyond the model's, a budget that one full context
// does not fit in, with the numbers.
NFLOAT_API KvPlan plan_kv(const ModelConfig& config, Precision precision, const EngineOptions& options);

// Continues many sequences of one model together: they join and leave at every step; prompts are read in
// pieces between the tokens of others; what two sequences have in common at their beginnings is read once and
// shared, with sequences that have ended too. When keys and values reach their budget, kept prefixes go
// first, then the newest sequence waits and is read again later. With Precision::kInt8 each sequence gets the
// tokens it would get alone.
class NFLOAT_API Engine {
 public:
  // Throws kInvalidArgument: options out of range, a budget that one full context does not fit in, a draft
  // model with a smaller vocabulary than the tokenizer's.
  Engine(const Model& model, const Tokenizer& tokenizer, const EngineOptions& options);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  int64_t context() const noexcept;

  // Queues a request, from any thread; its number. Nothing: the queue is full. Throws kInvalidArgument: an
  // empty prompt, one that leaves no room in the context, a token out of range, choices, sampling options;
  // kIo: the engine has failed.
  std::optional<uint64_t> submit(EngineRequest request);
  // Ends a request at the next step, from any thread: it has no further events. Unknown numbers are ignored.
  void cancel(uint64_t request);
  // As of the last step, from any thread.
  EngineStatistics statistics() const;
  // Those that wait or run, as of the last step; oldest first. From any thread.
  std::vector<EngineRequestState> requests() const;
  // Why the engine works no longer: its device was lost, or a step failed in a way that leaves nothing to go
  // on with. Every request has ended with that then. Empty: it works. From any thread.
  std::string failure() const;

  // Makes ready what the first request with a grammar would wait for: some 0.1 s for 150 000 tokens.
  void prepare_grammars();

  // One step: takes in what was submitted and cancelled, runs one batch. False: there was nothing to run.
  // From one thread, and not while the engine runs by itself.
  bool step();
  // Steps on a thread of its own while there is something to run, and sleeps else.
  void start();
  // Ends that thread after its step. Requests that are not finished stay.
  void stop();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace nfloat

#endif  // NFLOAT_ENGINE_H_
