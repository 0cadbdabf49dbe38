// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ENGINE_VULKAN_VULKAN_ENGINE_H_
#define NFLOAT_ENGINE_VULKAN_VULKAN_ENGINE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "engine/buffer_table.h"
#include "engine/card_engine.h"
#include "engine/vulkan/recorder.h"
#include "engine/vulkan/vulkan_matrix.h"

namespace nfloat::vulkan {

// Where a constant of this device lies.
struct PlacedConstant {
  GpuMemory memory;
};

// Steps become dispatches. A buffer has a shadow in host memory once the host asks for its rows. Products are
// computed in float32, but those of many rows with 4-bit codes: unless the precision is f32, these round the
// codes' levels to halves, or on matrix units weights and x.
class VulkanEngine final : public CardEngine {
 public:
  explicit VulkanEngine(std::shared_ptr<Gpu> gpu) : gpu_(std::move(gpu)), recorder_(gpu_) {}

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
    GpuMemory memory, shadow;
    uint64_t written = 0;  // the recorder's finished() when the shadow was last read by a dispatch
    int64_t floats = 0;
  };

  Buffer& buffer(const BufferRows& rows) noexcept { return buffers_[rows.buffer]; }
  Address address(const BufferRows& rows) noexcept {
    return buffer(rows).memory.address() + static_cast<uint64_t>(rows.offset) * sizeof(float);
  }
  const VulkanMatrix& on_gpu(const DeviceMatrix& matrix) const;  // throws kUnsupported for another device's
  // The shadow of a buffer, at the rows.
  Address shadow(const BufferRows& rows);
  float* shadow_in_host(const BufferRows& rows) noexcept {
    return reinterpret_cast<float*>(buffer(rows).shadow.host()) + rows.offset;
  }
  // Of sequences whose caches have one type, their rows from the first on.
  void attend_alike(const AttentionStep& step, const BufferRows& projected, const BufferRows& attended);
  // Row by row; a query has up to `parts` parts.
  void attend_rows(const HeadLayout& heads, kernels::KvType type, AttentionArguments arguments,
                   uint32_t parts, bool together);
  void zero(const BufferRows& to, int64_t rows, int64_t width) override;
  void gather(const BufferRows& from, std::span<const int32_t> list, const BufferRows& to,
              int64_t width) override;
  void scatter_add(const BufferRows& from, std::span<const int32_t> list, std::span<const float> shares,
                   const BufferRows& to, int64_t width) override;
  // Rows of x in halves for units.comp.
  struct Halves {
    Address rows = 0, factors = 0;
  };
  Halves to_halves(const BufferRows& x, int64_t rows, int64_t width);
  // `halves`: x, where the units take it; kept for the matrices that follow.
  void multiply(const DeviceMatrix& matrix, const Constant& bias, const BufferRows& x, const BufferRows& y,
                int64_t rows, Precision precision, std::optional<Halves>& halves, bool together);

  // Waits for the answers in looks_ and begins with its first place again.
  void collect_looks();

  const std::shared_ptr<Gpu> gpu_;
  Recorder recorder_;
  // Of finite(): a word of host memory for each call, not 0 where it found something.
  struct Looks {
    static constexpr uint32_t kMost = 1024;
    GpuMemory words;
    uint32_t begin = 0, end = 0;  // places asked for and not collected
    int64_t collected = 0;        // calls before them
    int64_t broken = -1;          // among those
    uint64_t finished = 0;        // the recorder's finished() at the last call
  } looks_;
  BufferTable<Buffer> buffers_;
  Scratch partials_;                 // of attention in parts
  Scratch halves_, halves_factors_;  // of to_halves()
};

// Where a constant is. Throws kUnsupported for one that was placed nowhere.
Address address_of(const Constant& constant);

}  // namespace nfloat::vulkan

#endif  // NFLOAT_ENGINE_VULKAN_VULKAN_ENGINE_H_
