// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_MODEL_WORKSPACE_H_
#define NFLOAT_MODEL_WORKSPACE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/layer_engine.h"
#include "nfloat/model.h"

namespace nfloat {

inline constexpr int64_t kMaxRows = 512;      // tokens that go through the layers together
inline constexpr int64_t kMaxLogitRows = 64;  // rows of logits that exist at once when all are wanted

// Rows in a buffer of an engine, given back at the end.
class OwnedRows {
 public:
  OwnedRows() = default;
  OwnedRows(std::shared_ptr<LayerEngine> engine, int64_t rows, int64_t width);
  OwnedRows(OwnedRows&& other) noexcept;
  OwnedRows& operator=(OwnedRows&& other) noexcept;
  ~OwnedRows();

  const BufferRows& all() const noexcept { return rows_; }
  int64_t count() const noexcept { return count_; }

 private:
  std::shared_ptr<LayerEngine> engine_;
  BufferRows rows_;
  int64_t count_ = 0;
};

// An engine and the buffers of one forward pass, grown to the largest number of rows seen and kept. Of one
// model.
struct Workspace {
  void reserve(const Model::State& model, int64_t rows);
  // Room for so many rows of logits.
  void reserve_logits(const Model::State& model, int64_t rows);
  // Gives back logits of more rows than a few.
  void trim() noexcept;

  std::shared_ptr<LayerEngine> engine;
  OwnedRows x;          // [rows][hidden]: the residual stream
  OwnedRows normed;     // [rows][hidden]
  OwnedRows projected;  // [rows][query + 2 * kv]
  OwnedRows attended;   // [rows][query]
  OwnedRows gate_up;    // [rows][2 * intermediate]
  OwnedRows added;      // [rows][hidden]: what a block adds to x
  OwnedRows embedded;   // [rows][embedding_size]: before and after the projections to `hidden`
  OwnedRows logits;     // [rows][vocabulary]

  // Of the step at work, kept so that none allocates.
  std::vector<SequenceRows> sequences;
  std::vector<EmbeddingStep::Run> runs;
  // What the engine was asked to look at for numbers that are not finite, of which layer, in order.
  struct Look {
    int64_t layer;
    const char* what;
  };
  std::vector<Look> looks;

 private:
  int64_t rows_ = 0;
};

}  // namespace nfloat

#endif  // NFLOAT_MODEL_WORKSPACE_H_
