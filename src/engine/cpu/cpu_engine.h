// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ENGINE_CPU_CPU_ENGINE_H_
#define NFLOAT_ENGINE_CPU_CPU_ENGINE_H_

#include <cstdint>
#include <vector>

#include "base/parallel.h"
#include "engine/buffer_table.h"
#include "engine/layer_engine.h"
#include "kernels/dispatch.h"
#include "nfloat/tensor.h"

namespace nfloat {

// Steps run at once, in the calling thread and its helpers; buffers are host memory, so that read() and
// host() give where the rows lie. Results do not depend on the number of threads.
class CpuEngine : public LayerEngine {
 public:
  void use_threads(int threads) noexcept override { threads_ = threads; }

  BufferId make(int64_t floats) override;
  void drop(BufferId buffer) noexcept override;
  float* host(const BufferRows& rows, int64_t count, int64_t width) override;
  void write(const BufferRows& rows, int64_t count, int64_t width) override;
  float* read(const BufferRows& rows, int64_t count, int64_t width) override;
  bool finite(const BufferRows& rows, int64_t count, int64_t width) override;

  void copy(const BufferRows& from, const BufferRows& to, int64_t rows, int64_t width) override;
  void embed(const EmbeddingStep& step, const BufferRows& x) override;
  void norm(const NormStep& step, const BufferRows& from, const BufferRows& to, int64_t rows) override;
  void multiply(const LinearGroup& weights, const BufferRows& x, const BufferRows& y, int64_t rows,
                Precision precision) override;
  void multiply_transposed(const LinearGroup& weights, const BufferRows& dy, const BufferRows& dx,
                           int64_t rows, Precision precision) override;
  void attend(const AttentionStep& step, const BufferRows& projected, const BufferRows& attended) override;
  void activate(const ActivationStep& step, const BufferRows& gate_up, int64_t rows) override;
  void mix(const MixtureStep& step, const BufferRows& normed, const BufferRows& added, int64_t rows) override;
  void add(const NormStep& before, float scale, const NormStep& after, const BufferRows& added,
           const BufferRows& x, int64_t rows, int64_t width) override;
  void finish(float scale, float softcap, const BufferRows& x, int64_t rows, int64_t width) override;

 protected:
  int threads() const noexcept { return threads_; }
  // y = the outputs of the group's matrices side by side, for `rows` rows of x.
  virtual void product(const LinearGroup& group, const Activations& x, float* y, int64_t y_stride,
                       int64_t rows, Precision precision);
  void activate(const ActivationStep& step, float* rows, int64_t stride, int64_t count);
  void finish(float scale, float softcap, float* values, int64_t count) const;
  // In place.
  void norm(const NormStep& step, float* rows, int64_t stride, int64_t count);
  // Some heads of attend(): where the first query, key and output of the first row lie, floats from a row to
  // the next, and from a key to its value. The cache has these key-value heads alone.
  struct Heads {
    HeadRange range{};
    float* queries = nullptr;
    float* keys = nullptr;
    int64_t stride = 0;
    int64_t value_after_key = 0;
    float* attended = nullptr;
    int64_t attended_stride = 0;
  };
  void attend(const AttentionStep& step, const Heads& heads);
  float* at(const BufferRows& rows) noexcept {
    return reinterpret_cast<float*>(buffers_[rows.buffer].data()) + rows.offset;
  }

 private:
  class Attention;  // one call of attend()
  class Mixture;    // one call of mix()

  // body(begin, end): a single row is not worth a parallel loop.
  template <typename Body>
  void over_rows(int64_t rows, Body&& body) {
    if (rows == 1) return body(0, 1);
    parallel_for(rows, 1, threads_, body);
  }

  const kernels::TransformerKernels& kernels_ = kernels::table().transformer;
  int threads_ = 1;
  BufferTable<Buffer> buffers_;
  Activations activations_;
  PackedGradients gradients_;
  Buffer scratch_;  // of attention, a part for each thread

  // Of mixtures, which grow to the largest number of rows seen.
  struct MixtureMemory {
    Buffer floats;
    std::vector<int32_t> chosen;
    std::vector<float> shares;
    std::vector<int64_t> taken;
    Activations inner;  // of the second product of an expert
  } mixture_;
};

// Memory for `floats` numbers, kept when it is enough.
float* grown(Buffer& memory, int64_t floats);

// Floats up to the end of a cache line.
inline constexpr int64_t whole_lines(int64_t floats) noexcept {
  return (floats + 15) / 16 * 16;
}

}  // namespace nfloat

#endif  // NFLOAT_ENGINE_CPU_CPU_ENGINE_H_
