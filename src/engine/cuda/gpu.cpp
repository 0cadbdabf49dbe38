// SPDX-License-Identifier: Apache-2.0
#include "engine/cuda/gpu.h"

#include <unistd.h>

#include <algorithm>

#include "base/fail.h"

namespace nfloat::cuda {

Gpu::Gpu(std::shared_ptr<gpu::Card> card, std::string name)
    : card_(std::move(card)), name_(std::move(name)), process_(::getpid()) {}

bool Gpu::own_process() const noexcept {
  return ::getpid() == process_;
}

void Gpu::expect_own_process() const {
  if (!own_process())
    fail(
        ErrorCode::kUnsupported,
        "{} was opened by process {}, from which this one was forked: open it after the fork, or use the CPU",
        name_, process_);
}

void* Gpu::take(uint64_t bytes) const {
  void* const memory = card().allocate(std::max<uint64_t>(bytes, 1));
  if (memory == nullptr)
    fail(ErrorCode::kOutOfMemory, "{} ({}): {} MiB are needed, {} MiB are free", name_, model(), bytes >> 20,
         free_bytes() >> 20);
  return memory;
}

void* Gpu::take_host(uint64_t bytes) const {
  void* const memory = card().allocate_host(std::max<uint64_t>(bytes, 1));
  if (memory == nullptr)
    fail(ErrorCode::kOutOfMemory, "{} ({}): no {} MiB of host memory that it can copy from", name_, model(),
         bytes >> 20);
  return memory;
}

void Gpu::give_back(void* memory) const noexcept {
  if (own_process()) card_->release(memory);
}

void Gpu::give_back_host(void* memory) const noexcept {
  if (own_process()) card_->release_host(memory);
}

void Gpu::wait() const {
  if (const std::string failure = card().wait(); !failure.empty())
    fail(ErrorCode::kIo, "the device {} ({}) has failed: {}", name_, model(), failure);
}

const std::byte* Params::place(std::span<const std::byte> bytes) {
  for (const Placed& own : lately_)
    if (own.card != nullptr && own.bytes.size() == bytes.size() &&
        std::memcmp(own.bytes.data(), bytes.data(), bytes.size()) == 0)
      return own.card;
  while (chunk_ < chunks_.size() && chunks_[chunk_].used + bytes.size() > chunks_[chunk_].host.bytes())
    ++chunk_;
  if (chunk_ == chunks_.size()) {
    const uint64_t size = std::max<uint64_t>(bytes.size(), kChunkBytes);
    chunks_.push_back({HostMemory(gpu_, size), CardMemory(gpu_, size), 0});
  }
  Chunk& chunk = chunks_[chunk_];
  std::byte* const host = chunk.host.as(chunk.used);
  std::byte* const card = chunk.card.as(chunk.used);
  std::memcpy(host, bytes.data(), bytes.size());
  gpu_->card().copy_to_card(card, host, bytes.size());
  chunk.used = std::min<uint64_t>(chunk.host.bytes(), chunk.used + (bytes.size() + 15) / 16 * 16);
  lately_[next_++ % kLately] = {{host, bytes.size()}, card};
  return card;
}

void Params::reset() noexcept {
  chunk_ = 0;
  for (Chunk& chunk : chunks_) chunk.used = 0;
  for (Placed& own : lately_) own = {};
}

}  // namespace nfloat::cuda
