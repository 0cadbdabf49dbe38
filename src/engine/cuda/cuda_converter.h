// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ENGINE_CUDA_CUDA_CONVERTER_H_
#define NFLOAT_ENGINE_CUDA_CUDA_CONVERTER_H_

#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "engine/block_converter.h"
#include "engine/cuda/gpu.h"

namespace nfloat::cuda {

// One range at a time: up, through a kernel and down again, in memory that grows to the largest range.
class CudaConverter final : public BlockConverter {
 public:
  explicit CudaConverter(std::shared_ptr<const Gpu> gpu) : gpu_(std::move(gpu)) {}

  bool takes(int64_t block_size) const noexcept override;
  std::string what_it_takes() const override;
  int64_t quantize(const BlockRange& range, const kernels::CodeTable& table, float* scales,
                   uint8_t* codes) override;
  void decode(const uint8_t* codes, const float* scales, const kernels::CodeTable& table, int64_t elements,
              int64_t block_size, DType dtype, void* output) override;

 private:
  struct Parts;
  Parts parts(int64_t elements, int64_t block_size, DType dtype);
  gpu::BlocksArguments arguments(const Parts& parts) const;

  const std::shared_ptr<const Gpu> gpu_;
  std::mutex mutex_;
  HostMemory host_;
  CardMemory card_;
};

}  // namespace nfloat::cuda

#endif  // NFLOAT_ENGINE_CUDA_CUDA_CONVERTER_H_
