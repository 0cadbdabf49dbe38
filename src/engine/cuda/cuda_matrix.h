// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ENGINE_CUDA_CUDA_MATRIX_H_
#define NFLOAT_ENGINE_CUDA_CUDA_MATRIX_H_

#include <cstdint>
#include <memory>

#include "engine/cuda/gpu.h"
#include "engine/device.h"

namespace nfloat::cuda {

// A matrix in a card's memory, as cuda/card.h lays it out: codes and scales are copies of the file's.
class CudaMatrix final : public DeviceMatrix {
 public:
  // Throw kInvalidArgument for what is not a matrix of that kind, kUnsupported, kOutOfMemory.
  CudaMatrix(const std::shared_ptr<const Gpu>& gpu, const PackSource& source);
  CudaMatrix(const std::shared_ptr<const Gpu>& gpu, const TensorView& weights, DenseMatrix::Storage storage,
             int threads, const Device::Release& release);

  int64_t rows() const noexcept override { return weights_.rows; }
  int64_t cols() const noexcept override { return weights_.cols; }
  uint64_t bytes() const noexcept override { return memory_.bytes(); }
  const gpu::Weights& weights() const noexcept { return weights_; }

 private:
  gpu::Weights weights_;
  CardMemory memory_;
};

}  // namespace nfloat::cuda

#endif  // NFLOAT_ENGINE_CUDA_CUDA_MATRIX_H_
