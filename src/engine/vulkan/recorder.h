// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ENGINE_VULKAN_RECORDER_H_
#define NFLOAT_ENGINE_VULKAN_RECORDER_H_

#include <cstdint>
#include <exception>
#include <mutex>
#include <vector>

#include "engine/vulkan/gpu.h"

namespace nfloat::vulkan {

struct Groups {
  uint32_t x = 1, y = 1, z = 1;
};

// Records dispatches that run one after the other, and hands them to the queue when there are enough of them.
// Its memory grows to what one pass needs. One thread at a time; the device may flush from others.
class Recorder {
 public:
  explicit Recorder(std::shared_ptr<Gpu> gpu);
  Recorder(const Recorder&) = delete;
  Recorder& operator=(const Recorder&) = delete;
  ~Recorder();

  // Host memory that the dispatches up to the next call of params() read.
  struct Params {
    std::byte* host;
    Address address;
  };
  Params params(uint64_t bytes);

  // `arguments`: the shader's structure. `together`: with the dispatch before, which it does not depend on.
  template <typename Arguments>
  void dispatch(Shader shader, const Constants& constants, const Arguments& arguments, Groups groups,
                bool together = false) {
    static_assert(sizeof(Arguments) <= 128, "what every device has");
    dispatch(shader, constants, &arguments, sizeof(Arguments), groups, together);
  }

  // Hands what is recorded to the queue. A failure shows in finish().
  void flush() noexcept;
  // Flushes and waits. Throws kIo when the device has failed.
  void finish();

  // Grows with every finish(); what was recorded before is done.
  uint64_t finished() const noexcept { return finished_; }

 private:
  struct Program {
    Shader shader{};
    Constants constants{};
    VkPipeline pipeline = VK_NULL_HANDLE;
  };
  struct Chunk {
    GpuMemory memory;
    uint64_t used = 0;
  };

  void dispatch(Shader shader, const Constants& constants, const void* arguments, uint32_t bytes,
                Groups groups, bool together);
  void begin();
  void barrier(VkPipelineStageFlags to, VkAccessFlags access) noexcept;

  const std::shared_ptr<Gpu> gpu_;
  std::mutex mutex_;  // of what follows up to `number_`
  VkCommandPool pool_ = VK_NULL_HANDLE;
  std::vector<VkCommandBuffer> buffers_;
  size_t next_ = 0;  // of them
  bool open_ = false;
  int recorded_ = 0;                   // in the open one
  VkPipeline bound_ = VK_NULL_HANDLE;  // there
  uint64_t number_ = 0;
  std::exception_ptr failure_;  // the first, of flush()

  Program last_;  // of the last dispatch
  std::vector<Chunk> chunks_;
  size_t chunk_ = 0;
  uint64_t finished_ = 1;
};

}  // namespace nfloat::vulkan

#endif  // NFLOAT_ENGINE_VULKAN_RECORDER_H_
