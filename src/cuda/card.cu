// SPDX-License-Identifier: Apache-2.0
#include "cuda/card.h"

#include <mutex>

#include "cuda/launches.h"

namespace nfloat::gpu {
namespace {

class CudaCard final : public Launches {
 public:
  CudaCard(int device, const cudaDeviceProp& properties)
      : Launches(properties.multiProcessorCount, properties.sharedMemPerBlockOptin >= kLargeBlock),
        device_(device),
        model_(properties.name),
        total_bytes_(properties.totalGlobalMem) {}

  const std::string& model() const noexcept override { return model_; }
  uint64_t free_bytes() const noexcept override {
    cudaSetDevice(device_);
    size_t free = 0, all = 0;
    return cudaMemGetInfo(&free, &all) == cudaSuccess ? free : 0;
  }
  uint64_t total_bytes() const noexcept override { return total_bytes_; }

  void* allocate(uint64_t bytes) noexcept override { return taken(&cudaMalloc<void>, bytes); }
  void* allocate_host(uint64_t bytes) noexcept override {
    return taken([](void** to, size_t count) { return cudaMallocHost(to, count); }, bytes);
  }
  void release(void* memory) noexcept override {
    check(cudaStreamSynchronize(stream()));
    check(cudaFree(memory));
  }
  void release_host(void* memory) noexcept override {
    check(cudaStreamSynchronize(stream()));
    check(cudaFreeHost(memory));
  }

  void copy_to_card(void* to, const void* from, uint64_t bytes, uint64_t rows, uint64_t to_stride,
                    uint64_t from_stride) override {
    copy(to, from, bytes, rows, to_stride, from_stride, cudaMemcpyHostToDevice);
  }
  void copy_to_host(void* to, const void* from, uint64_t bytes, uint64_t rows, uint64_t to_stride,
                    uint64_t from_stride) override {
    copy(to, from, bytes, rows, to_stride, from_stride, cudaMemcpyDeviceToHost);
  }
  void copy_on_card(void* to, const void* from, uint64_t bytes) override {
    copy(to, from, bytes, 1, 0, 0, cudaMemcpyDeviceToDevice);
  }
  void zero(void* memory, uint64_t bytes) override { check(cudaMemsetAsync(memory, 0, bytes, stream())); }
  void upload(void* to, const void* from, uint64_t bytes) override {
    copy_to_card(to, from, bytes, 1, 0, 0);
    check(cudaStreamSynchronize(stream()));
  }
  std::string wait() override {
    check(cudaStreamSynchronize(stream()));
    const std::scoped_lock lock(mutex_);
    return failure_ == cudaSuccess ? "" : cudaGetErrorString(failure_);
  }

 protected:
  void queue(std::function<void()> work) override {
    launch_stream() = stream();
    work();
    check(cudaGetLastError());
  }

 private:
  static constexpr size_t kLargeBlock = size_t{130} << 10;

  // Makes the card this thread's. The stream, and with it the card's context, is made when it is first used:
  // a card that nobody names costs nothing.
  cudaStream_t stream() noexcept {
    check(cudaSetDevice(device_));
    std::call_once(made_, [this] { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); });
    return stream_;
  }
  template <typename Take>
  void* taken(Take take, uint64_t bytes) noexcept {
    cudaSetDevice(device_);
    void* memory = nullptr;
    if (take(&memory, bytes) == cudaSuccess) return memory;
    cudaGetLastError();  // not a failure of what is queued
    return nullptr;
  }
  void copy(void* to, const void* from, uint64_t bytes, uint64_t rows, uint64_t to_stride,
            uint64_t from_stride, cudaMemcpyKind kind) {
    const cudaStream_t own = stream();
    check(rows == 1 ? cudaMemcpyAsync(to, from, bytes, kind, own)
                    : cudaMemcpy2DAsync(to, to_stride, from, from_stride, bytes, rows, kind, own));
  }
  // Keeps the first failure.
  void check(cudaError_t result) noexcept {
    if (result == cudaSuccess) return;
    const std::scoped_lock lock(mutex_);
    if (failure_ == cudaSuccess) failure_ = result;
  }

  const int device_;
  const std::string model_;
  const uint64_t total_bytes_;
  std::once_flag made_;
  cudaStream_t stream_ = nullptr;
  std::mutex mutex_;
  cudaError_t failure_ = cudaSuccess;
};

}  // namespace

std::vector<std::shared_ptr<Card>> open_cards() {
  std::vector<std::shared_ptr<Card>> found;
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) count = 0;
  for (int device = 0; device < count; ++device) {
    cudaDeviceProp properties{};
    if (cudaGetDeviceProperties(&properties, device) != cudaSuccess || properties.major < 8) continue;
    found.push_back(std::make_shared<CudaCard>(device, properties));
  }
  cudaGetLastError();
  return found;
}

}  // namespace nfloat::gpu
