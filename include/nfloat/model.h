// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_MODEL_H_
#define NFLOAT_MODEL_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "nfloat/api.h"
#include "nfloat/checkpoint.h"
#include "nfloat/codebook.h"
#include "nfloat/linear.h"
#include "nfloat/model_config.h"
#include "nfloat/ranks.h"

namespace nfloat {

struct StateAccess;  // of the library itself

class LinearObserver;

// Storage of the output head. kKeep: as in the file.
enum class HeadFormat : uint8_t { kKeep, kInt8, kNf4 };

struct ModelOptions {
  // Quantize the projections of a plain checkpoint while loading: a code of at most 16 levels. Those that are
  // already quantized stay as they are; where all of them are, loading throws kInvalidArgument.
  std::optional<Codebook> quantize = std::nullopt;
  int64_t quantize_block_size = 64;
  bool quantize_double = false;  // scales in 8 bits
  // Called with each matrix [rows, cols] of the layers of a plain checkpoint while loading, one after the
  // other; the model computes with what it leaves there (a number format's round trip), kept in float32 with
  // Precision::kF32, else rounded to the checkpoint's dtype. `quantize` is ignored then.
  std::function<void(const std::string& name, std::span<float> weights, int64_t rows, int64_t cols)>
      transform = nullptr;
  // Factors of norms with other values than the checkpoint's, by tensor: of its shape; null for all others.
  // May be empty.
  std::function<const Tensor*(const std::string& name)> norms = nullptr;
  HeadFormat head = HeadFormat::kKeep;
  // Keep the layers in the file and read them one at a time, in every pass: for models larger than memory.
  // What runs many tokens in one pass (perplexity, divergence, forward_sequences) reads each layer once for
  // all of them; generation reads the whole model for every token.
  bool stream_layers = false;
  // Where the weights are and the layers run: "cpu"; "cuda" or "cuda:N", an NVIDIA card; "vulkan" or
  // "vulkan:N", a device of Vulkan, which computes in float32, and prompts with 4-bit levels in half
  // precision unless the precision is kF32; "auto": the first of those that is not a processor, else the CPU.
  // Empty: what the environment variable NFLOAT_DEVICE names, else the CPU. Training and calibration need the
  // CPU.
  std::string device = {};
  Precision precision = Precision::kBF16;  // the default of sessions
  // The same for products of more than one row; unset: `precision`. With another one a token's logits depend
  // on how many tokens were read with it.
  std::optional<Precision> many_rows_precision = std::nullopt;
  int threads = 0;  // 0: the default (nfloat/threads.h); for loading, and of sessions
  // Each of these ranks holds some rows of every matrix and computes with them; all load the same files and
  // run the same sessions in the same order. Null: this process alone.
  std::shared_ptr<Ranks> ranks = nullptr;
  std::vector<double> rank_shares = {};  // of the rows, one a rank in any unit; empty: equal ones
  // Called from the loading thread after each tensor with bytes read so far and in all; may throw to cancel.
  std::function<void(uint64_t, uint64_t)> progress = nullptr;
};

// The device that ModelOptions::device names: "cpu", "vulkan:0". Throws kInvalidArgument for what is no name
// of one, kNotFound where there is no such device; both say which there are.
NFLOAT_API std::string resolved_device(const std::string& name);
// Why NFLOAT_DEVICE can name no device on any machine; empty: it can, or is not set.
NFLOAT_API std::string forced_device_error();

struct DeviceInfo {
  std::string name;                                    // "cpu", "vulkan:0"
  std::string model;                                   // what it is, as its driver says it
  bool accelerator = false;                            // hardware of its own, not the host's processor
  std::optional<uint64_t> free_bytes = std::nullopt;   // of its own memory; none: it takes the host's
  std::optional<uint64_t> total_bytes = std::nullopt;  // of that memory, used or not
  std::string matrix_units =
      {};  // of Vulkan: "in use (...)", "none", "off", "wrong results"; empty: not said
  // Of CUDA: whether tokens run as graphs, so far: "none yet", "in use", "failed (REASON)"; empty: not said.
  std::string graphs = {};
};
// Every device that can compute here, the CPU first.
NFLOAT_API std::vector<DeviceInfo> available_devices();
// The kinds of which there is none, and why: "cuda", "no driver of NVIDIA was found".
struct MissingDevices {
  std::string kind, reason;
};
NFLOAT_API std::vector<MissingDevices> missing_devices();
// The one that `name` names. Throws what resolved_device() throws.
NFLOAT_API DeviceInfo device_info(const std::string& name);

// The memory of a model.
struct ModelMemory {
  uint64_t projection_bytes = 0;  // packed weights of the layers
  uint64_t head_bytes = 0;        // the head's own copy
  uint64_t embedding_bytes = 0;   // rows looked up; mapped from the file, so only the rows used are resident
  uint64_t other_bytes = 0;       // norms, biases
  // Bytes of weights that one decoded token reads: its time is at least this over the memory bandwidth.
  uint64_t read_per_token_bytes = 0;
  uint64_t resident_bytes() const noexcept { return projection_bytes + head_bytes + other_bytes; }
};

// A decoder-only transformer, its weights packed for the kernels. Copies share the weights, which never
// change: any number of sessions may run on one model, each from one thread at a time.
class NFLOAT_API Model {
 public:
  // `path`: a Hugging Face folder, plain or bitsandbytes 4-bit. Throws kMalformedFile (all missing tensors
  // and wrong shapes named at once), kUnsupported (architecture), kOutOfMemory (before loading, with the
  // numbers).
  static Model load(const std::string& path, const ModelOptions& options = {});
  // The same from an opened checkpoint and a configuration.
  static Model load(std::shared_ptr<const Checkpoint> checkpoint, const ModelConfig& config,
                    const ModelOptions& options = {});

  const ModelConfig& config() const noexcept;
  const ModelOptions& options() const noexcept;  // threads and device: resolved, never 0 or empty
  const ModelMemory& memory() const noexcept;

  struct State;
  explicit Model(std::shared_ptr<const State> state) noexcept : state_(std::move(state)) {}

 private:
  friend struct StateAccess;
  std::shared_ptr<const State> state_;
};

// Storage of keys and values. kAuto: kF32 with Precision::kF32, else kF16, half its bytes; kInt8: half of
// that, one scale a position and head.
enum class KvCacheType : uint8_t { kAuto, kF32, kF16, kInt8 };

struct SessionOptions {
  int64_t context = 0;  // positions to keep room for; 0: the model's own context
  KvCacheType kv_cache = KvCacheType::kAuto;
  // Unset or 0: the model's. A batch uses those of its first session. With `precision` set,
  // `many_rows_precision` unset is the same one.
  std::optional<Precision> precision = std::nullopt;
  std::optional<Precision> many_rows_precision = std::nullopt;
  int threads = 0;
  // A hidden state or a logit that is NaN or infinite throws kNotFinite naming the layer and the tensor.
  bool expect_finite = false;
  // Low-rank adapters that this sequence is computed with (nfloat/adapter.h), besides the model's own; null:
  // none. Sequences of one batch may have different ones.
  std::shared_ptr<LinearObserver> adapters = nullptr;
  // Looked at before each layer by what runs whole sequences (forward_sequences); true ends it with
  // kInterrupted. A Session does not look at it.
  std::function<bool()> cancelled = nullptr;
};

// Bytes of keys and values for `context` positions; `type` is not kAuto.
NFLOAT_API uint64_t kv_cache_bytes(const ModelConfig& config, KvCacheType type, int64_t context) noexcept;

// One sequence of tokens with its keys and values.
class NFLOAT_API Session {
 public:
  // Throws kInvalidArgument (context beyond the model's), kOutOfMemory with the numbers.
  explicit Session(const Model& model, const SessionOptions& options = {});
  Session(Session&&) noexcept;
  Session& operator=(Session&&) noexcept;
  ~Session();

  const Model& model() const noexcept;
  int64_t context() const noexcept;
  int64_t position() const noexcept;  // tokens read so far

  // Reads `tokens` (any number, at least one) and returns the logits of the last: `vocabulary` floats,
  // valid until the next call. Throws kInvalidArgument: a token out of range, more tokens than the context
  // has room for.
  std::span<const float> prefill(std::span<const int32_t> tokens);
  std::span<const float> decode(int32_t token) { return prefill({&token, 1}); }
  // Logits of the last token read; empty at the start and after a rewind.
  std::span<const float> logits() const noexcept;

  // Removes every token from `position` on. Throws kInvalidArgument when it is beyond the current one.
  void rewind(int64_t position);
  // A second session with the same past.
  Session fork() const;

  struct State;

 private:
  friend struct StateAccess;
  explicit Session(std::unique_ptr<State> state) noexcept;
  std::unique_ptr<State> state_;
};

// Which logits of an entry are computed. kAuto: all with a visitor, else the last. After kNone the session
// has no logits().
enum class WantedLogits : uint8_t { kAuto, kNone, kLast, kAll };

// One sequence's part of a batch.
struct BatchEntry {
  Session* session;
  std::span<const int32_t> tokens;  // at least one
  WantedLogits logits = WantedLogits::kAuto;
  // Of the last token's logits so many of the largest are enough; of equal ones the lowest tokens. The others
  // may be NaN, which spares ranks an exchange. 0: all are wanted.
  int64_t best = 0;
};

// Logits of token `index` of entry `entry`, valid during the call. In ascending order of entry, then index.
using LogitsVisitor = std::function<void(size_t entry, int64_t index, std::span<const float> logits)>;

// Reads the tokens of several different sessions of one model together: each weight is read once for all
// of them. Every session's logits() are then its last token's. With a visitor, the logits of every token are
// visited, for scoring. `cancelled` is looked at before each layer (where rank 0 leads, nfloat/lead.h: at the
// beginning); true ends the call with kInterrupted.
// Throws as Session::prefill does; the sessions are then at the positions where they were.
NFLOAT_API void forward_batch(std::span<const BatchEntry> entries, const LogitsVisitor& visitor = nullptr,
                              const std::function<bool()>& cancelled = nullptr);

// Visits the logits of every token of independent sequences, each from an empty past; `entry` is the
// sequence's number. Nothing remains: keys and values exist for one layer at a time. Of `options`, precision,
// kv_cache, threads, expect_finite and cancelled count. Throws kInvalidArgument as Session::prefill does.
NFLOAT_API void forward_sequences(const Model& model, std::span<const std::span<const int32_t>> sequences,
                                  const SessionOptions& options, const LogitsVisitor& visitor);

}  // namespace nfloat

#endif  // NFLOAT_MODEL_H_
