// SPDX-License-Identifier: Apache-2.0
#include "engine/cuda/cuda_matrix.h"

#include <algorithm>
#include <vector>

#include "base/fail.h"
#include "base/parallel.h"
#include "linear/state.h"

namespace nfloat::cuda {
namespace {

constexpr uint64_t kAlignment = 256;  // of what follows in the memory of a matrix

uint64_t aligned(uint64_t bytes) noexcept {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

gpu::Storage storage_of(DenseMatrix::Storage storage) noexcept {
  switch (storage) {
    case DenseMatrix::Storage::kF32:
      return gpu::Storage::kF32;
    case DenseMatrix::Storage::kF16:
      return gpu::Storage::kF16;
    case DenseMatrix::Storage::kBF16:
      return gpu::Storage::kBF16;
    default:
      return gpu::Storage::kInt8;
  }
}

}  // namespace

CudaMatrix::CudaMatrix(const std::shared_ptr<const Gpu>& gpu, const PackSource& source) {
  expect_matrix(source);
  const bool nested = !source.nested_codes.empty();
  weights_.storage = nested ? gpu::Storage::kNestedCodes : gpu::Storage::kCodes;
  weights_.rows = source.rows;
  weights_.cols = source.cols;
  weights_.block = source.block_size;
  if (source.rows < 1 || source.cols < 1)
    fail(ErrorCode::kUnsupported, "packing a matrix: {} x {} on a device of CUDA", source.rows, source.cols);
  std::vector<float> tables(gpu::kTableFloats);
  std::copy(source.levels.begin(), source.levels.end(), tables.begin() + gpu::kLevelsAt);
  if (nested) {
    weights_.nested_block = source.nested_block_size;
    if (source.nested_first != 0)
      fail(ErrorCode::kUnsupported, "packing a matrix: its scales begin inside a second-level block");
    std::copy(source.nested_map.begin(), source.nested_map.end(), tables.begin() + gpu::kMapAt);
    tables[gpu::kOffsetAt] = source.nested_offset;
  }
  const auto scales = nested ? std::as_bytes(source.nested_codes) : std::as_bytes(source.scales);
  const auto absmax = std::as_bytes(source.nested_absmax), table = std::as_bytes(std::span(tables));
  const uint64_t scales_at = aligned(source.codes.size()), absmax_at = scales_at + aligned(scales.size()),
                 tables_at = absmax_at + aligned(absmax.size());
  memory_ = CardMemory(gpu, tables_at + table.size());
  weights_.elements = memory_.as();
  weights_.scales = memory_.as(scales_at);
  weights_.nested_absmax = nested ? memory_.as<float>(absmax_at) : nullptr;
  weights_.tables = memory_.as<float>(tables_at);
  for (size_t done = 0; done < source.codes.size();) {
    const auto part = source.codes.subspan(done, std::min<size_t>(source.codes.size() - done, kReleaseBytes));
    gpu->card().upload(memory_.as(done), part.data(), part.size());
    if (source.release) source.release(part);
    done += part.size();
  }
  gpu->card().upload(memory_.as(scales_at), scales.data(), scales.size());
  if (nested) gpu->card().upload(memory_.as(absmax_at), absmax.data(), absmax.size());
  gpu->card().upload(memory_.as(tables_at), table.data(), table.size());
}

CudaMatrix::CudaMatrix(const std::shared_ptr<const Gpu>& gpu, const TensorView& weights,
                       DenseMatrix::Storage storage, int threads, const Device::Release& release) {
  expect_matrix(weights);
  weights_.storage = storage_of(storage);
  const int64_t rows = weights_.rows = weights.shape[0], cols = weights_.cols = weights.shape[1];
  const int64_t padded = (cols + 7) / 8 * 8;
  const bool int8 = weights_.storage == gpu::Storage::kInt8;
  const DType as = weights_.storage == gpu::Storage::kF16    ? DType::kF16
                   : weights_.storage == gpu::Storage::kBF16 ? DType::kBF16
                                                             : DType::kF32;  // of int8, before it is rounded
  const int64_t block = weights_.block = int8 ? activation_block(padded) : padded;
  const int64_t groups = padded / block;
  const size_t element = int8 ? 1 : dtype_bytes(as);
  const size_t row_bytes = static_cast<size_t>(cols) * dtype_bytes(weights.dtype),
               own_bytes = static_cast<size_t>(padded) * element,
               scale_bytes = int8 ? static_cast<size_t>(groups) * sizeof(float) : 0;
  const uint64_t scales_at = aligned(static_cast<uint64_t>(rows) * own_bytes);
  memory_ = CardMemory(gpu, scales_at + static_cast<uint64_t>(rows) * scale_bytes);
  weights_.elements = memory_.as();
  weights_.scales = memory_.as(scales_at);

  std::vector<std::byte> codes;
  std::vector<float> scales;
  const int64_t most = std::max<int64_t>(1, kReleaseBytes / static_cast<int64_t>(row_bytes));
  for (int64_t first = 0; first < rows; first += most) {
    const int64_t count = std::min(most, rows - first);
    codes.assign(static_cast<size_t>(count) * own_bytes, std::byte{0});
    scales.assign(int8 ? static_cast<size_t>(count * groups) : 0, 0.0f);
    const size_t from = static_cast<size_t>(first) * row_bytes;
    parallel_for(count, 1, threads, [&](int64_t begin, int64_t end) {
      std::vector<float> values(int8 ? static_cast<size_t>(padded) : 0);
      for (int64_t row = begin; row < end; ++row) {
        const TensorView own{weights.dtype, Shape({cols}),
                             weights.bytes.subspan(from + static_cast<size_t>(row) * row_bytes, row_bytes)};
        std::byte* const to = codes.data() + static_cast<size_t>(row) * own_bytes;
        if (!int8) {
          convert_elements(own, as, {to, static_cast<size_t>(cols) * element});
          continue;
        }
        convert_elements(own, as, std::as_writable_bytes(std::span(values).first(static_cast<size_t>(cols))));
        round_row(values.data(), padded, block, reinterpret_cast<uint8_t*>(to), scales.data() + row * groups,
                  1);
        for (int64_t i = 0; i < padded; ++i) to[i] ^= std::byte{0x80};  // without the 128
      }
    });
    gpu->card().upload(memory_.as(static_cast<uint64_t>(first) * own_bytes), codes.data(), codes.size());
    if (int8)
      gpu->card().upload(memory_.as(scales_at + static_cast<uint64_t>(first) * scale_bytes), scales.data(),
                         scales.size() * sizeof(float));
    if (release)
      release({reinterpret_cast<const uint8_t*>(weights.bytes.data()) + from,
               static_cast<size_t>(count) * row_bytes});
  }
}

}  // namespace nfloat::cuda
