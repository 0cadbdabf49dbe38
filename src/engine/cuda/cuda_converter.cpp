// SPDX-License-Identifier: Apache-2.0
#include "engine/cuda/cuda_converter.h"

#include <bit>
#include <cstring>

#include "base/fail.h"

namespace nfloat::cuda {
namespace {

// What a code and a run need beside weights, codes and scales, as it lies on the card.
struct Tables {
  float levels[16];
  float thresholds[16];
  uint8_t code_of_rank[16];
  unsigned long long first_not_finite;
};

uint64_t aligned(uint64_t bytes) noexcept {
  return (bytes + 255) / 256 * 256;
}

}  // namespace

// Offsets of bytes, the same in the host's memory and in the card's.
struct CudaConverter::Parts {
  int64_t elements;
  int block_shift;
  gpu::Element element;
  uint64_t weight_bytes, code_bytes, scale_bytes;
  uint64_t weights_at, codes_at, scales_at, end;  // the tables first
};

bool CudaConverter::takes(int64_t block_size) const noexcept {
  return block_size >= int64_t{1} << gpu::kLeastBlockShift &&
         block_size <= int64_t{1} << gpu::kMostBlockShift &&
         std::has_single_bit(static_cast<uint64_t>(block_size));
}

std::string CudaConverter::what_it_takes() const {
  return fmt::format("blocks of {} to {}, a power of two", 1 << gpu::kLeastBlockShift,
                     1 << gpu::kMostBlockShift);
}

CudaConverter::Parts CudaConverter::parts(int64_t elements, int64_t block_size, DType dtype) {
  Parts parts{};
  parts.elements = elements;
  parts.block_shift = std::countr_zero(static_cast<uint64_t>(block_size));
  parts.element = dtype == DType::kF32   ? gpu::Element::kF32
                  : dtype == DType::kF16 ? gpu::Element::kF16
                                         : gpu::Element::kBF16;
  parts.weight_bytes = static_cast<uint64_t>(elements) * dtype_bytes(dtype);
  parts.code_bytes = static_cast<uint64_t>((elements + 1) / 2);
  parts.scale_bytes = static_cast<uint64_t>((elements + block_size - 1) / block_size) * sizeof(float);
  parts.weights_at = aligned(sizeof(Tables));
  parts.codes_at = parts.weights_at + aligned(parts.weight_bytes);
  parts.scales_at = parts.codes_at + aligned(parts.code_bytes);
  parts.end = parts.scales_at + aligned(parts.scale_bytes);
  if (host_.bytes() < parts.end) {
    host_ = {};
    host_ = HostMemory(gpu_, parts.end);
  }
  if (card_.bytes() < parts.end) {
    card_ = {};
    card_ = CardMemory(gpu_, parts.end);
  }
  return parts;
}

gpu::BlocksArguments CudaConverter::arguments(const Parts& parts) const {
  gpu::BlocksArguments made;
  const auto* const tables = card_.as<Tables>();
  made.element = parts.element;
  made.weights = card_.as(parts.weights_at);
  made.codes = card_.as<uint8_t>(parts.codes_at);
  made.scales = card_.as<float>(parts.scales_at);
  made.levels = tables->levels;
  made.thresholds = tables->thresholds;
  made.code_of_rank = tables->code_of_rank;
  made.first_not_finite = &card_.as<Tables>()->first_not_finite;
  made.elements = parts.elements;
  made.block_shift = parts.block_shift;
  return made;
}

int64_t CudaConverter::quantize(const BlockRange& range, const kernels::CodeTable& table, float* scales,
                                uint8_t* codes) {
  if (range.elements == 0) return -1;
  {
    const std::scoped_lock lock(mutex_);
    const Parts own = parts(range.elements, range.block_size, range.dtype);
    Tables tables{};
    std::memcpy(tables.thresholds, table.thresholds, sizeof tables.thresholds);
    std::memcpy(tables.code_of_rank, table.code_of_rank, sizeof tables.code_of_rank);
    tables.first_not_finite = ~0ull;
    std::memcpy(host_.as(), &tables, sizeof tables);
    std::memcpy(host_.as(own.weights_at), range.weights, own.weight_bytes);
    gpu::Card& card = gpu_->card();
    card.copy_to_card(card_.as(), host_.as(), own.weights_at + own.weight_bytes);
    card.quantize(arguments(own));
    card.copy_to_host(host_.as(own.codes_at), card_.as(own.codes_at), own.end - own.codes_at);
    card.copy_to_host(host_.as(), card_.as(), sizeof tables);
    gpu_->wait();
    std::memcpy(&tables, host_.as(), sizeof tables);
    if (tables.first_not_finite == ~0ull) {
      std::memcpy(codes, host_.as(own.codes_at), own.code_bytes);
      std::memcpy(scales, host_.as(own.scales_at), own.scale_bytes);
      return -1;
    }
  }
  // The kernel says nothing of the codes beside what is not finite.
  return quantize_blocks(range, table, scales, codes);
}

void CudaConverter::decode(const uint8_t* codes, const float* scales, const kernels::CodeTable& table,
                           int64_t elements, int64_t block_size, DType dtype, void* output) {
  if (elements == 0) return;
  const std::scoped_lock lock(mutex_);
  const Parts own = parts(elements, block_size, dtype);
  Tables tables{};
  std::memcpy(tables.levels, table.levels, sizeof tables.levels);
  std::memcpy(host_.as(), &tables, sizeof tables);
  std::memcpy(host_.as(own.codes_at), codes, own.code_bytes);
  std::memcpy(host_.as(own.scales_at), scales, own.scale_bytes);
  gpu::Card& card = gpu_->card();
  card.copy_to_card(card_.as(), host_.as(), sizeof tables);
  card.copy_to_card(card_.as(own.codes_at), host_.as(own.codes_at),
                    own.scales_at + own.scale_bytes - own.codes_at);
  card.dequantize(arguments(own));
  card.copy_to_host(host_.as(own.weights_at), card_.as(own.weights_at), own.weight_bytes);
  gpu_->wait();
  std::memcpy(output, host_.as(own.weights_at), own.weight_bytes);
}

}  // namespace nfloat::cuda
