// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ENGINE_CUDA_CUDA_ENGINE_H_
#define NFLOAT_ENGINE_CUDA_CUDA_ENGINE_H_

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "engine/buffer_table.h"
#include "engine/card_engine.h"
#include "engine/cuda/cuda_matrix.h"
#include "engine/cuda/gpu.h"

namespace nfloat::cuda {

// Steps become launches on the card's queue. A buffer has a shadow in host memory once the host asks for its
// rows. Products in float32 are that; those in bf16 and int8 take tensor cores with both factors in bf16,
// where the shape of the matrix allows it.
class CudaEngine final : public CardEngine {
 public:
  explicit CudaEngine(std::shared_ptr<const Gpu> gpu) : gpu_(std::move(gpu)), params_(gpu_) {}
  CudaEngine(const CudaEngine&) = delete;
  CudaEngine& operator=(const CudaEngine&) = delete;
  ~CudaEngine() override;

  BufferId make(int64_t floats) override;
  void drop(BufferId buffer) noexcept override;
  float* host(const BufferRows& rows, int64_t count, int64_t width) override;
  void write(const BufferRows& rows, int64_t count, int64_t width) override;
  float* read(const BufferRows& rows, int64_t count, int64_t width) override;
  bool finite(const BufferRows& rows, int64_t count, int64_t width) override;
  int64_t first_broken() override;
  void forget_looks() noexcept override;

  void copy(const BufferRows& from, const BufferRows& to, int64_t rows, int64_t width) override;
  void embed(const EmbeddingStep& step, const BufferRows& x) override;
  void norm(const NormStep& step, const BufferRows& from, const BufferRows& to, int64_t rows) override;
  void multiply(const LinearGroup& weights, const BufferRows& x, const BufferRows& y, int64_t rows,
                Precision precision) override;
  void multiply_transposed(const LinearGroup& weights, const BufferRows& dy, const BufferRows& dx,
                           int64_t rows, Precision precision) override;
  void attend(const AttentionStep& step, const BufferRows& projected, const BufferRows& attended) override;
  void activate(const ActivationStep& step, const BufferRows& gate_up, int64_t rows) override;
  void add(const NormStep& before, float scale, const NormStep& after, const BufferRows& added,
           const BufferRows& x, int64_t rows, int64_t width) override;
  void finish(float scale, float softcap, const BufferRows& x, int64_t rows, int64_t width) override;

 private:
  struct Buffer {
    CardMemory memory;
    HostMemory shadow;
    uint64_t written = 0;  // waits_ when a queued step last read the shadow
    int64_t floats = 0;
  };

  Buffer& buffer(const BufferRows& rows) noexcept { return buffers_[rows.buffer]; }
  float* at(const BufferRows& rows) noexcept { return buffer(rows).memory.as<float>() + rows.offset; }
  // The shadow of a buffer, at the rows.
  float* shadow(const BufferRows& rows);
  void wait();                                                  // for the answers in looks_, too
  const CudaMatrix& on_card(const DeviceMatrix& matrix) const;  // throws kUnsupported for another device's
  // Rows of `width` floats in bf16, one behind the other, in memory that is used again.
  const uint16_t* rounded(const BufferRows& from, int64_t rows, int64_t width);
  // Of sequences whose caches have one type, their rows from the first on.
  void attend_alike(const AttentionStep& step, const BufferRows& projected, const BufferRows& attended);
  void zero(const BufferRows& to, int64_t rows, int64_t width) override;
  void gather(const BufferRows& from, std::span<const int32_t> list, const BufferRows& to,
              int64_t width) override;
  void scatter_add(const BufferRows& from, std::span<const int32_t> list, std::span<const float> shares,
                   const BufferRows& to, int64_t width) override;
  void over_rows(gpu::RowsOperation operation, const gpu::RowsArguments& arguments) const {
    gpu_->card().rows(operation, arguments);
  }

  const std::shared_ptr<const Gpu> gpu_;
  Params params_;
  uint64_t waits_ = 1;  // grows with every wait()
  // Of finite(): an integer for each call, 1 where it found something.
  struct Looks {
    static constexpr int32_t kMost = 1024;
    CardMemory places;
    HostMemory shadow;
    int32_t asked = 0;      // places in use
    int64_t collected = 0;  // calls before them
    int64_t broken = -1;    // among those
  } looks_;
  BufferTable<Buffer> buffers_;
  std::vector<std::byte> places_;  // of attend()
  CardMemory rounded_;             // rows of x in bf16
};

// Where a constant is; null for an empty one. Throws kUnsupported for one that was placed nowhere.
const float* address_of(const Constant& constant);

gpu::Cache cache_of(kernels::KvType type) noexcept;

}  // namespace nfloat::cuda

#endif  // NFLOAT_ENGINE_CUDA_CUDA_ENGINE_H_
