// SPDX-License-Identifier: Apache-2.0
#include "cuda/card.h"

#include <unistd.h>

#include <mutex>

#include "cuda/launches.h"
#include "cuda/why_none.h"

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
    finish();
    check(cudaFree(memory));
  }
  void release_host(void* memory) noexcept override {
    finish();
    check(cudaFreeHost(memory));
  }
  void upload(void* to, const void* from, uint64_t bytes) override {
    queue_.flush();  // what waits may become a graph, in which a copy from any memory has no place
    copy_to_card(to, from, bytes, 1, 0, 0);
    finish();
  }
  std::string wait() override {
    finish();
    const std::scoped_lock lock(mutex_);
    return failure_ == cudaSuccess ? "" : cudaGetErrorString(failure_);
  }

 private:
  static constexpr size_t kLargeBlock = size_t{130} << 10;

  class CudaGraph final : public Graph {
   public:
    CudaGraph(cudaGraphExec_t graph, cudaStream_t stream) noexcept : graph_(graph), stream_(stream) {}
    ~CudaGraph() override {
      if (::getpid() != process_) return;  // a child of fork() has no card
      cudaStreamSynchronize(stream_);      // it may be running
      cudaGraphExecDestroy(graph_);
    }
    cudaGraphExec_t get() const noexcept { return graph_; }

   private:
    const cudaGraphExec_t graph_;
    const cudaStream_t stream_;
    const pid_t process_ = ::getpid();
  };

  void run(const Command& command) override {
    launch_stream() = stream();
    launch_command(command);
    check(cudaGetLastError());
  }
  void run(Graph& graph) override {
    const cudaStream_t own = stream();
    check(cudaGraphLaunch(static_cast<CudaGraph&>(graph).get(), own));
  }
  // On a stream of its own: other threads may wait for the card's meanwhile.
  std::unique_ptr<Graph> record(std::span<const Command> commands, std::string& failure) override {
    const cudaStream_t own = stream();
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t made = nullptr;
    const char* failed = nullptr;  // the first call that did
    cudaError_t reason = cudaSuccess;
    const auto expect = [&](const char* call, cudaError_t result) {
      if (result != cudaSuccess && failed == nullptr) failed = call, reason = result;
    };
    expect("cudaStreamBeginCapture", cudaStreamBeginCapture(recording_, cudaStreamCaptureModeThreadLocal));
    if (failed == nullptr) {
      record_branches(commands);
      expect("a launch that is recorded", cudaGetLastError());
      expect("cudaStreamEndCapture", cudaStreamEndCapture(recording_, &graph));
      if (failed == nullptr) expect("cudaGraphInstantiate", cudaGraphInstantiate(&made, graph, 0));
      if (graph != nullptr) cudaGraphDestroy(graph);
    }
    cudaGetLastError();  // not a failure of what is queued: the commands run on their own
    if (failed == nullptr) return std::make_unique<CudaGraph>(made, own);
    failure = std::string(failed) + ": " + cudaGetErrorString(reason);
    return nullptr;
  }

  // Products side by side become branches that the card may run together.
  void record_branches(std::span<const Command> commands) {
    for (size_t i = 0; i < commands.size();) {
      const size_t end = i + side_by_side(commands.subspan(i), 1 + kBranches);
      if (end - i > 1) cudaEventRecord(forked_, recording_);
      for (size_t branch = 1; branch < end - i; ++branch) {
        launch_stream() = branches_[branch - 1];
        cudaStreamWaitEvent(launch_stream(), forked_, 0);
        launch_command(commands[i + branch]);
        cudaEventRecord(joined_[branch - 1], launch_stream());
      }
      launch_stream() = recording_;
      launch_command(commands[i]);
      for (size_t branch = 1; branch < end - i; ++branch)
        cudaStreamWaitEvent(recording_, joined_[branch - 1], 0);
      i = end;
    }
  }

  // Makes the card this thread's. The streams, and with them the card's context, are made when they are first
  // used: a card that nobody names costs nothing.
  cudaStream_t stream() noexcept {
    check(cudaSetDevice(device_));
    std::call_once(made_, [this] {
      check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking));
      check(cudaStreamCreateWithFlags(&recording_, cudaStreamNonBlocking));
      check(cudaEventCreateWithFlags(&forked_, cudaEventDisableTiming));
      for (size_t i = 0; i < kBranches; ++i) {
        check(cudaStreamCreateWithFlags(&branches_[i], cudaStreamNonBlocking));
        check(cudaEventCreateWithFlags(&joined_[i], cudaEventDisableTiming));
      }
    });
    return stream_;
  }
  void finish() noexcept {
    const cudaStream_t own = stream();
    queue_.flush();
    check(cudaStreamSynchronize(own));
  }
  template <typename Take>
  void* taken(Take take, uint64_t bytes) noexcept {
    cudaSetDevice(device_);
    void* memory = nullptr;
    if (take(&memory, bytes) == cudaSuccess) return memory;
    cudaGetLastError();  // not a failure of what is queued
    return nullptr;
  }
  void begin(const CopyCommand& c) const override {
    const cudaMemcpyKind kind = c.way == CopyCommand::Way::kToCard   ? cudaMemcpyHostToDevice
                                : c.way == CopyCommand::Way::kToHost ? cudaMemcpyDeviceToHost
                                                                     : cudaMemcpyDeviceToDevice;
    // Failures stay in cudaGetLastError(), as those of launches.
    if (c.rows == 1)
      cudaMemcpyAsync(c.to, c.from, c.bytes, kind, launch_stream());
    else
      cudaMemcpy2DAsync(c.to, c.to_stride, c.from, c.from_stride, c.bytes, c.rows, kind, launch_stream());
  }
  void begin(const ZeroCommand& c) const override { cudaMemsetAsync(c.memory, 0, c.bytes, launch_stream()); }
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
  // Of record(), beside the first product of a group: those of query, key and value.
  static constexpr size_t kBranches = 2;
  cudaStream_t recording_ = nullptr, branches_[kBranches] = {};
  cudaEvent_t forked_ = nullptr, joined_[kBranches] = {};
  std::mutex mutex_;
  cudaError_t failure_ = cudaSuccess;
};

}  // namespace

FoundCards open_cards() {
  FoundCards found;
  DriverReport report;
  report.runtime = CUDART_VERSION;
  if (cudaDriverGetVersion(&report.driver) != cudaSuccess) report.driver = 0;
  const auto expect = [&](cudaError_t result) {
    if (result != cudaSuccess && result != cudaErrorNoDevice && report.failure.empty())
      report.failure = cudaGetErrorString(result);
    return result == cudaSuccess;
  };
  int count = 0;
  if (!expect(cudaGetDeviceCount(&count))) count = 0;
  for (int device = 0; device < count; ++device) {
    cudaDeviceProp properties{};
    if (!expect(cudaGetDeviceProperties(&properties, device))) continue;
    if (properties.major >= 8)
      found.cards.push_back(std::make_shared<CudaCard>(device, properties));
    else
      report.old.push_back(std::string(properties.name) + " (" + std::to_string(properties.major) + "." +
                           std::to_string(properties.minor) + ")");
  }
  cudaGetLastError();
  if (found.cards.empty()) found.why_none = why_none(report);
  return found;
}

}  // namespace nfloat::gpu
