// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ENGINE_LAYER_ENGINE_H_
#define NFLOAT_ENGINE_LAYER_ENGINE_H_

#include <cstdint>
#include <span>

#include "engine/constant.h"
#include "engine/head_layout.h"
#include "engine/linear_group.h"
#include "engine/linear_id.h"
#include "kernels/attention.h"
#include "nfloat/linear.h"
#include "nfloat/model_config.h"

// The steps of a layer, whatever computes them. model/ says which step with which weights, an engine says
// how. Numbers are float32 in an engine's own buffers and named by handles; shapes are said with each step.
namespace nfloat {

// A buffer of one engine.
enum class BufferId : uint32_t { kNone = UINT32_MAX };

// Rows in a buffer: row r begins `offset + r * stride` floats behind its first.
struct BufferRows {
  BufferId buffer = BufferId::kNone;
  int64_t offset = 0;
  int64_t stride = 0;

  BufferRows from(int64_t row) const noexcept { return {buffer, offset + row * stride, stride}; }
};

// How to normalize: `weights` is null or empty where there is no norm. Of `parts` parts of `width` floats in
// a row, each on its own, the next one `part_stride` floats after the one before.
struct NormStep {
  const NormWeights* weights = nullptr;
  NormKind kind = NormKind::kRms;
  float epsilon = 0;
  int64_t width = 0;
  int64_t parts = 1;
  int64_t part_stride = 0;

  bool empty() const noexcept { return weights == nullptr || weights->weight.empty(); }
};

// Angles by position: `dims` / 2 cosines, then as many sines; element i turns with element i + dims / 2.
// Chunks of kChunk positions, placed on the device. A view: valid while the table is.
struct Angles {
  static constexpr int64_t kChunk = 256;
  const Constant* chunks = nullptr;  // null: nothing turns
  int64_t dims = 0;                  // even, at most head_dim

  const float* at(int64_t position) const noexcept {
    return chunks[position / kChunk].data() + position % kChunk * dims;
  }
};

// Keys and values of one sequence: page p holds the positions from p * kAttentionBlock on.
struct CacheView {
  kernels::KvType type = kernels::KvType::kF16;
  std::byte* const* pages = nullptr;
};

// Consecutive tokens of one sequence in the rows of a step. The cache has pages for them, the angles reach
// their positions.
struct SequenceRows {
  CacheView cache{};
  Angles angles{}, local_angles{};  // of LayerRope::kMain and kLocal
  int64_t row = 0;                  // its first; the sequences of a step lie one after the other
  int64_t rows = 0;
  int64_t position = 0;  // of its first token
};

struct AttentionStep {
  HeadLayout heads{};
  std::span<const SequenceRows> sequences{};
  int64_t cache_layer = 0;  // the layer's place in the pages
  LayerRope rope = LayerRope::kMain;
  float scale = 1;                  // of a query times a key
  float softcap = 0;                // > 0: scores become softcap * tanh(score / softcap)
  int64_t window = 0;               // a token sees itself and the window - 1 before it; 0: all
  const Constant* sinks = nullptr;  // one a query head: a score that takes weight and gives no value; or none
};

struct ActivationStep {
  Activation kind = Activation::kSilu;
  bool gated = true;  // activation(gate) * up, where up is behind gate; else activation(row)
  float limit = 0;    // > 0: as ExpertsConfig::limit, gate and up alternate
  int64_t width = 0;  // floats left at the beginning of a row
};

struct ExpertWeights {
  LinearGroup gate_up;
  LinearGroup down;
};

struct MixtureStep {
  int64_t layer = 0;
  const LinearGroup* router = nullptr;  // in float32 whatever the precision
  std::span<const ExpertWeights> experts{};
  int64_t chosen = 0;     // of them, for a row; of equal scores the first expert wins
  bool normalize = true;  // softmax over the chosen ones, else over all
  ActivationStep activation{};
  Precision precision = Precision::kF32;            // of an expert that one row chose
  Precision many_rows_precision = Precision::kF32;  // of one that more rows chose
  Watch watch{};  // sees the products; an engine whose memory is not the host's waits for it
};

struct EmbeddingStep {
  int64_t width = 0;
  float scale = 1;
  const Constant* positions = nullptr;  // [rows][width], or none
  // Where the positions of consecutive rows begin in that table.
  struct Run {
    int64_t rows = 0;
    int64_t first = 0;
  };
  std::span<const Run> runs{};
};

// Calls queue work in the order in which they are made; only read() and first_broken() wait for it. A step
// has at least one row; its outputs do not overlap its inputs unless it says so. Rows depend on one another
// by keys and values alone: NaN in a row changes nothing that is made of others. Steps throw std::bad_alloc
// or kOutOfMemory where they grow their memory, which they keep; nothing else unless it is said: shapes are
// the caller's promise. One thread at a time.
class LayerEngine {
 public:
  virtual ~LayerEngine() = default;

  // Threads of the steps that follow, at least 1; engines that use none of the host's ignore it.
  virtual void use_threads(int threads) noexcept = 0;

  // The steps that follow are of this layer: for messages.
  virtual void at_layer(int64_t) noexcept {}

  // A buffer of `floats`, not initialised. The number is one that was dropped, or a new one.
  virtual BufferId make(int64_t floats) = 0;
  virtual void drop(BufferId buffer) noexcept = 0;

  // Host memory in which to write `count` rows, laid out as they are in the buffer; what it holds is not
  // specified. Valid until the next step.
  virtual float* host(const BufferRows& rows, int64_t count, int64_t width) = 0;
  // The rows as they are in that memory, or in that of read(), take the place of those in the buffer.
  virtual void write(const BufferRows& rows, int64_t count, int64_t width) = 0;
  // Waits; then the rows, laid out as they are in the buffer. Valid until the next step; to be changed only
  // if write() follows. Throws kIo when the device has failed.
  virtual float* read(const BufferRows& rows, int64_t count, int64_t width) = 0;
  // Looks for numbers that are NaN or infinite. False: there is one. An engine whose steps run later answers
  // true, and says it with first_broken().
  virtual bool finite(const BufferRows& rows, int64_t count, int64_t width) = 0;
  // Waits for the answers of all calls of finite() since the last one of this or of forget_looks(): which of
  // them, from 0 on, was the first that should have been false; -1: none.
  virtual int64_t first_broken() { return -1; }
  // Nobody asks for those answers any more.
  virtual void forget_looks() noexcept {}

  // to = from.
  virtual void copy(const BufferRows& from, const BufferRows& to, int64_t rows, int64_t width) = 0;
  // x = scale * x, plus the learned positions of its rows.
  virtual void embed(const EmbeddingStep& step, const BufferRows& x) = 0;
  // to = the norm of from; in place allowed.
  virtual void norm(const NormStep& step, const BufferRows& from, const BufferRows& to, int64_t rows) = 0;
  // y = the outputs of the group's matrices side by side, for x of as many columns as they have. The bounds
  // of `precision` are those of nfloat/linear.h.
  virtual void multiply(const LinearGroup& weights, const BufferRows& x, const BufferRows& y, int64_t rows,
                        Precision precision) = 0;
  // dx = the sum over the group's matrices of W^T times their columns of dy, which lie side by side as in y:
  // the gradients of x from those of y. kF32: in float32; else gradients and weights are rounded to bf16.
  virtual void multiply_transposed(const LinearGroup& weights, const BufferRows& dy, const BufferRows& dx,
                                   int64_t rows, Precision precision) = 0;
  // Of the rows of the next product so many of the largest numbers are enough, of equal ones the first;
  // others may be NaN when read() gives them. What is between is finish() and finite() alone. 0: all are
  // wanted.
  virtual void expect_best(int64_t) noexcept {}
  // Turns and stores the keys and the values of all sequences; then, for each row, attended = the values of
  // its sequence up to itself, weighed by softmax: heads side by side. Queries are changed in place.
  virtual void attend(const AttentionStep& step, const BufferRows& projected, const BufferRows& attended) = 0;
  // In place.
  virtual void activate(const ActivationStep& step, const BufferRows& gate_up, int64_t rows) = 0;
  // added = the mixture of normed, [rows][width]. Only the weights of chosen experts are read, and each of
  // them once for all the rows that chose it. Throws what the watchers throw.
  virtual void mix(const MixtureStep& step, const BufferRows& normed, const BufferRows& added,
                   int64_t rows) = 0;
  // x += scale * (the norm `before` of added); then x = its norm `after`. Empty norms change nothing.
  virtual void add(const NormStep& before, float scale, const NormStep& after, const BufferRows& added,
                   const BufferRows& x, int64_t rows, int64_t width) = 0;
  // x = scale * x, then softcap * tanh(x / softcap) when softcap > 0; rows have no gaps.
  virtual void finish(float scale, float softcap, const BufferRows& x, int64_t rows, int64_t width) = 0;
};

}  // namespace nfloat

#endif  // NFLOAT_ENGINE_LAYER_ENGINE_H_
