// SPDX-License-Identifier: Apache-2.0
#include "engine/cuda/open.h"

#include <utility>

#include "engine/cuda/cuda_converter.h"
#include "engine/cuda/cuda_engine.h"
#include "engine/opened_once.h"

namespace nfloat::cuda {
namespace {

class CudaDevice final : public Device {
 public:
  explicit CudaDevice(std::shared_ptr<const Gpu> gpu) : gpu_(std::move(gpu)) {}

  std::string_view name() const noexcept override { return gpu_->name(); }
  std::string_view model() const noexcept override { return gpu_->model(); }
  bool accelerator() const noexcept override { return true; }
  void expect_usable() const override { gpu_->expect_own_process(); }
  std::optional<uint64_t> free_bytes() const noexcept override { return gpu_->free_bytes(); }
  std::optional<uint64_t> total_bytes() const noexcept override { return gpu_->total_bytes(); }
  std::string graphs() const override { return gpu_->graphs(); }

  std::unique_ptr<const DeviceMatrix> matrix(const PackSource& source, int) override {
    return std::make_unique<const CudaMatrix>(gpu_, source);
  }
  std::unique_ptr<const DeviceMatrix> matrix(const TensorView& weights, DenseMatrix::Storage storage,
                                             int threads, const Release& release) override {
    return std::make_unique<const CudaMatrix>(gpu_, weights, storage, threads, release);
  }
  void place(Constant& constant) override {
    if (constant.empty()) return;
    auto placed = std::make_shared<CardMemory>(gpu_, constant.size() * sizeof(float));
    gpu_->card().upload(placed->as(), constant.data(), constant.size() * sizeof(float));
    constant.resident = std::move(placed);
  }

  int64_t page_bytes(const CacheShape& shape) const noexcept override {
    return shape.layers * shape.kv_heads * gpu::head_words(cache_of(shape.type), shape.head_dim) * 4;
  }
  // What is pointed at is memory of the card, never to be followed here.
  std::shared_ptr<std::byte> page(size_t bytes) override {
    const auto memory = std::make_shared<CardMemory>(gpu_, bytes);
    return {memory, memory->as()};
  }
  void copy_page(std::byte* to, const std::byte* from, size_t bytes) override {
    gpu_->card().copy_on_card(to, from, bytes);
  }

  std::unique_ptr<LayerEngine> engine() override {
    gpu_->expect_own_process();
    return std::make_unique<CudaEngine>(gpu_);
  }
  std::shared_ptr<BlockConverter> block_converter() override {
    gpu_->expect_own_process();
    return std::make_shared<CudaConverter>(gpu_);
  }

 private:
  const std::shared_ptr<const Gpu> gpu_;
};

struct Opened {
  std::vector<std::shared_ptr<Device>> devices;
  std::string why_none;
};

const Opened& opened() {
  static OpenedOnce<Opened> once;
  return once.get([] {
    gpu::FoundCards found = gpu::open_cards();
    Opened all{{}, std::move(found.why_none)};
    for (std::shared_ptr<gpu::Card>& card : found.cards)
      all.devices.push_back(device_on(std::move(card), "cuda:" + std::to_string(all.devices.size())));
    return all;
  });
}

}  // namespace

std::shared_ptr<Device> device_on(std::shared_ptr<gpu::Card> card, std::string name) {
  return std::make_shared<CudaDevice>(std::make_shared<const Gpu>(std::move(card), std::move(name)));
}

std::vector<std::shared_ptr<Device>> open() {
  return opened().devices;
}

std::string why_none() {
  return opened().why_none;
}

}  // namespace nfloat::cuda
