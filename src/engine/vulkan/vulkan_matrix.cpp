// SPDX-License-Identifier: Apache-2.0
#include "engine/vulkan/vulkan_matrix.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "base/fail.h"
#include "base/parallel.h"
#include "linear/state.h"

namespace nfloat::vulkan {
namespace {

constexpr int64_t kLevels = 16, kMap = 256;
constexpr int64_t kMostBlock = int64_t{1} << 24;
constexpr int64_t kMostElements = int64_t{1} << 31;        // of a slab: shaders count in 32 bits
constexpr float kLeastHalf = 0x1p-14f, kMostHalf = 65504;  // normal ones
constexpr uint64_t kPart = 16;  // what follows in a slab begins at a multiple of it

uint64_t aligned(uint64_t bytes) noexcept {
  return (bytes + kPart - 1) / kPart * kPart;
}

template <typename T>
std::span<const std::byte> part_of(std::span<const T> all, int64_t first, int64_t count) {
  return std::as_bytes(all.subspan(static_cast<size_t>(first), static_cast<size_t>(count)));
}

// Rows of a slab: as many as `most` bytes hold, in multiples of `unit` unless all fit.
int64_t slab_rows(int64_t rows, int64_t cols, int64_t unit, double bytes_per_weight, uint64_t most) {
  const double limit = std::min(static_cast<double>(kMostElements - 1) / static_cast<double>(cols),
                                static_cast<double>(most) / (static_cast<double>(cols) * bytes_per_weight));
  const auto fitting = static_cast<int64_t>(limit);
  if (rows <= fitting) return rows;
  const int64_t whole = fitting / unit * unit;
  if (whole == 0)
    fail(ErrorCode::kUnsupported,
         "a matrix of {} x {} cannot be cut to parts of {} MiB: {} of its rows go together", rows, cols,
         most >> 20, unit);
  return whole;
}

// The smallest size but zero and the largest of some numbers; `largest` is not finite where one is not.
struct Sizes {
  float smallest = INFINITY, largest = 0;
  void add(float value) noexcept {
    const float size = std::fabs(value);
    if (size > 0) smallest = std::min(smallest, size);
    if (!(size <= largest)) largest = std::isfinite(size) ? size : INFINITY;
  }
};

Sizes sizes_of_scales(const PackSource& source) {
  Sizes sizes;
  for (const float scale : source.scales) sizes.add(scale);
  const auto block = static_cast<size_t>(source.nested_block_size);
  for (size_t i = 0; i < source.nested_codes.size(); ++i)
    sizes.add(source.nested_map[source.nested_codes[i]] * source.nested_absmax[i / block] +
              source.nested_offset);
  return sizes;
}

// The power of two that takes the largest weight to [2^14, 2^15); none where the smallest would then be no
// normal half, or numbers go beyond what matrices have.
std::optional<int> power_for_units(const PackSource& source) {
  Sizes levels;
  for (const float level : source.levels) levels.add(level);
  const Sizes scales = sizes_of_scales(source);
  const double largest = double{levels.largest} * double{scales.largest},
               smallest = double{levels.smallest} * double{scales.smallest};
  if (largest == 0) return 0;
  if (!(largest < 0x1p60 && largest > 0x1p-60 && levels.largest < 0x1p30f && levels.largest > 0x1p-30f))
    return std::nullopt;
  const int power = 14 - std::ilogb(largest);
  return std::ldexp(smallest, power) >= double{kLeastHalf} ? std::optional(power) : std::nullopt;
}

}  // namespace

VulkanMatrix::VulkanMatrix(const std::shared_ptr<Gpu>& gpu, const PackSource& source, uint64_t most)
    : rows_(source.rows), cols_(source.cols), block_(source.block_size) {
  expect_matrix(source);
  const bool nested = !source.nested_codes.empty();
  storage_ = nested ? Storage::kNestedCodes : Storage::kCodes;
  if (rows_ < 1 || cols_ < 1 || cols_ >= kMostElements / 64 || block_ > kMostBlock)
    fail(ErrorCode::kUnsupported, "packing a matrix: {} x {} in blocks of {} on a device of Vulkan", rows_,
         cols_, block_);
  halves_ = std::all_of(source.levels.begin(), source.levels.end(), [](float level) {
    const float size = std::fabs(level);
    return size == 0 || (size >= kLeastHalf && size <= kMostHalf);
  });
  std::vector<float> tables(2 * kLevels + kMap + 1);
  std::copy(source.levels.begin(), source.levels.end(), tables.begin());
  if (nested) {
    nested_block_ = source.nested_block_size;
    nested_offset_ = source.nested_offset;
    if (nested_block_ > kMostBlock)
      fail(ErrorCode::kUnsupported, "packing a matrix: blocks of {} scales on a device of Vulkan",
           nested_block_);
    if (source.nested_first != 0)
      fail(ErrorCode::kUnsupported, "packing a matrix: its scales begin inside a second-level block");
    std::copy(source.nested_map.begin(), source.nested_map.end(), tables.begin() + kLevels);
  }
  if (gpu->units() == Units::kInUse && cols_ % kTileDepth == 0 && block_ % kTileDepth == 0)
    if (const std::optional<int> power = power_for_units(source)) {
      on_units_ = true;
      for (size_t i = 0; i < source.levels.size(); ++i)
        tables[kLevels + kMap + i] = std::ldexp(source.levels[i], *power);
      tables.back() = std::ldexp(1.0f, -*power);
    }
  tables_ = GpuMemory(gpu, tables.size() * sizeof(float), Place::kDevice);
  gpu->upload(tables_.address(), std::as_bytes(std::span<const float>(tables)));
  bytes_ = tables_.bytes();

  // A slab begins with a block, and with a block of its scales.
  const int64_t whole = std::lcm(block_ * nested_block_, int64_t{8}), unit = whole / std::gcd(whole, cols_);
  const int64_t step = slab_rows(rows_, cols_, unit, 0.5, most);
  for (int64_t first = 0; first < rows_; first += step) {
    Slab slab;
    slab.first = first;
    slab.rows = std::min(step, rows_ - first);
    const int64_t from = first * cols_, count = slab.rows * cols_, from_block = from / block_;
    const int64_t slab_blocks = (count + block_ - 1) / block_;
    const auto codes = part_of(source.codes, from / 2, (count + 1) / 2);
    const auto scales = nested ? part_of(source.nested_codes, from_block, slab_blocks)
                               : part_of(source.scales, from_block, slab_blocks);
    const auto absmax = nested ? part_of(source.nested_absmax, from_block / nested_block_,
                                         (slab_blocks + nested_block_ - 1) / nested_block_)
                               : std::span<const std::byte>();
    slab.memory = GpuMemory(gpu, aligned(codes.size()) + aligned(scales.size()) + aligned(absmax.size()),
                            Place::kDevice);
    slab.weights = slab.memory.address();
    slab.scales = slab.weights + aligned(codes.size());
    slab.nested_absmax = slab.scales + aligned(scales.size());
    for (size_t done = 0; done < codes.size();) {
      const size_t part = std::min<size_t>(codes.size() - done, kReleaseBytes);
      gpu->upload(slab.weights + done, codes.subspan(done, part));
      if (source.release) source.release(source.codes.subspan(static_cast<size_t>(from / 2) + done, part));
      done += part;
    }
    gpu->upload(slab.scales, scales);
    if (nested) gpu->upload(slab.nested_absmax, absmax);
    bytes_ += slab.memory.bytes();
    slabs_.push_back(std::move(slab));
  }
}

VulkanMatrix::VulkanMatrix(const std::shared_ptr<Gpu>& gpu, const TensorView& weights,
                           DenseMatrix::Storage storage, int threads, const Device::Release& release,
                           uint64_t most) {
  expect_matrix(weights);
  rows_ = weights.shape[0];
  cols_ = weights.shape[1];
  storage_ = storage == DenseMatrix::Storage::kF32    ? Storage::kF32
             : storage == DenseMatrix::Storage::kF16  ? Storage::kF16
             : storage == DenseMatrix::Storage::kBF16 ? Storage::kBF16
                                                      : Storage::kInt8;
  const int64_t padded = (cols_ + 7) / 8 * 8;
  const bool int8 = storage_ == Storage::kInt8;
  const DType as = storage_ == Storage::kF16    ? DType::kF16
                   : storage_ == Storage::kBF16 ? DType::kBF16
                                                : DType::kF32;  // of int8, before it is rounded
  block_ = int8 ? activation_block(padded) : padded;
  const size_t element = int8 ? 1 : dtype_bytes(as);
  const size_t row_bytes = static_cast<size_t>(cols_) * dtype_bytes(weights.dtype);
  const int64_t step = slab_rows(rows_, padded, 1, static_cast<double>(element), most);
  const int64_t groups = padded / block_;

  std::vector<std::byte> codes;
  std::vector<float> scales;
  for (int64_t first = 0; first < rows_; first += step) {
    Slab slab;
    slab.first = first;
    slab.rows = std::min(step, rows_ - first);
    const uint64_t code_bytes = static_cast<uint64_t>(slab.rows * padded) * element;
    slab.memory = GpuMemory(
        gpu, aligned(code_bytes) + (int8 ? static_cast<uint64_t>(slab.rows * groups) * sizeof(float) : 0),
        Place::kDevice);
    slab.weights = slab.memory.address();
    slab.scales = slab.weights + aligned(code_bytes);
    const int64_t most_rows =
        std::max<int64_t>(4, kReleaseBytes / static_cast<int64_t>(row_bytes) / 4 * 4);  // whole words
    for (int64_t done = 0; done < slab.rows; done += most_rows) {
      const int64_t count = std::min(most_rows, slab.rows - done);
      codes.assign(static_cast<size_t>(count * padded) * element, std::byte{0});
      scales.assign(int8 ? static_cast<size_t>(count * groups) : 0, 0.0f);
      const size_t from = static_cast<size_t>(first + done) * row_bytes;
      parallel_for(count, 1, threads, [&](int64_t begin, int64_t end) {
        std::vector<float> values(int8 ? static_cast<size_t>(padded) : 0);
        for (int64_t row = begin; row < end; ++row) {
          const TensorView own{weights.dtype, Shape({cols_}),
                               weights.bytes.subspan(from + static_cast<size_t>(row) * row_bytes, row_bytes)};
          std::byte* const to = codes.data() + static_cast<size_t>(row * padded) * element;
          if (!int8) {
            convert_elements(own, as, {to, static_cast<size_t>(cols_) * element});
            continue;
          }
          convert_elements(own, as,
                           std::as_writable_bytes(std::span(values).first(static_cast<size_t>(cols_))));
          round_row(values.data(), padded, block_, reinterpret_cast<uint8_t*>(to),
                    scales.data() + row * groups, 1);
          for (int64_t i = 0; i < padded; ++i) to[i] ^= std::byte{0x80};  // without the 128
        }
      });
      gpu->upload(slab.weights + static_cast<uint64_t>(done * padded) * element, codes);
      if (int8)
        gpu->upload(slab.scales + static_cast<uint64_t>(done * groups) * sizeof(float),
                    std::as_bytes(std::span<const float>(scales)));
      if (release)
        release({reinterpret_cast<const uint8_t*>(weights.bytes.data()) + from,
                 static_cast<size_t>(count) * row_bytes});
    }
    bytes_ += slab.memory.bytes();
    slabs_.push_back(std::move(slab));
  }
}

}  // namespace nfloat::vulkan
