// SPDX-License-Identifier: Apache-2.0
#include <cstring>

#include "engine/cpu/cpu_engine.h"
#include "engine/cpu/cpu_matrix.h"

namespace nfloat {
namespace {

class CpuDevice final : public Device {
 public:
  std::string_view name() const noexcept override { return "cpu"; }
  std::string_view model() const noexcept override { return "this machine's processor"; }

  std::unique_ptr<const DeviceMatrix> matrix(const PackSource& source, int threads) override {
    return std::make_unique<const CpuMatrix>(PackedMatrix::pack(source, threads));
  }
  std::unique_ptr<const DeviceMatrix> matrix(const TensorView& weights, DenseMatrix::Storage storage,
                                             int threads, const Release& release) override {
    return std::make_unique<const CpuMatrix>(DenseMatrix::pack(weights, storage, threads, release));
  }
  void place(Constant&) override {}

  int64_t page_bytes(const CacheShape& shape) const noexcept override {
    return shape.layers * shape.kv_heads * kernels::kv_head_bytes(shape.type, shape.head_dim);
  }
  std::shared_ptr<std::byte> page(size_t bytes) override {
    const auto memory = std::make_shared<Buffer>(bytes);
    return {memory, memory->data()};
  }
  void copy_page(std::byte* to, const std::byte* from, size_t bytes) override {
    std::memcpy(to, from, bytes);
  }

  std::unique_ptr<LayerEngine> engine() override { return std::make_unique<CpuEngine>(); }
};

}  // namespace

std::shared_ptr<Device> cpu_device() {
  static const auto device = std::make_shared<CpuDevice>();
  return device;
}

}  // namespace nfloat
