// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CONVERT_WEIGHTS_H_
#define NFLOAT_CONVERT_WEIGHTS_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "convert/lora.h"
#include "convert/stream.h"
#include "engine/block_converter.h"
#include "nfloat/checkpoint.h"
#include "quantize/blocks.h"

namespace nfloat {

// One weight of a checkpoint, plain or quantized, read in chunks as values.
class WeightReader {
 public:
  // Throws kMalformedFile as Checkpoint::quantized does. `transpose`: the file holds the 2-D matrix as
  // [columns, rows]; chunks come in the order of the transposed one, which is held in memory. Values are what
  // the file holds and, if there is one, `delta`, in float32 before they are rounded to the type asked for.
  WeightReader(const Checkpoint& checkpoint, const std::string& name, bool transpose = false,
               const LoraDelta* delta = nullptr);

  DType dtype() const noexcept { return dtype_; }         // of the values: F32, F16, BF16, or the file's own
  const Shape& shape() const noexcept { return shape_; }  // logical, after transposing
  int64_t elements() const noexcept { return shape_.elements(); }
  int64_t chunk_elements() const noexcept { return chunk_elements_; }
  int64_t chunks() const noexcept { return (elements() + chunk_elements_ - 1) / chunk_elements_; }
  int64_t begin(int64_t chunk) const noexcept { return chunk * chunk_elements_; }
  int64_t count(int64_t chunk) const noexcept { return std::min(chunk_elements_, elements() - begin(chunk)); }
  uint64_t input_bytes(int64_t chunk) const noexcept;
  // Chunks become multiples of this many elements (and of 2). Call before the first read.
  void align_chunks(int64_t elements) noexcept;

  // Chunks of a quantized weight are decoded by `converter`. False, and nothing changes, where it does not
  // take them: other layouts and blocks, transposed ones, sums with an adapter.
  bool decode_on(std::shared_ptr<BlockConverter> converter);

  // Bytes of `count(chunk)` values of dtype(), valid until the scratch slots 0 and 1 are used again. For
  // quantized weights `as` chooses the type they are decoded to.
  std::span<const std::byte> read(int64_t chunk, Scratch& scratch) const;
  std::span<const std::byte> read_as(int64_t chunk, DType as, Scratch& scratch) const;
  // Any range of values as float32, unless transposed. Uses slots 0 and 1.
  void read_floats(int64_t begin, std::span<float> output, Scratch& scratch) const;

 private:
  // Adds the adapter to stored values begin, begin + 1, ... Throws kNotFinite naming the element.
  void merge(int64_t begin, std::span<float> values) const;
  void read_stored(int64_t begin, std::span<float> output, Scratch& scratch) const;

  const Checkpoint& checkpoint_;
  const TensorInfo& info_;
  DType dtype_;
  Shape shape_;
  int64_t chunk_elements_ = kChunkElements;
  Buffer transposed_;
  const LoraDelta* delta_ = nullptr;
  bool quantized_ = false;
  int64_t block_size_ = 0;
  kernels::CodeTable table_{};
  std::vector<float> scales_;
  std::shared_ptr<BlockConverter> converter_;  // null: the CPU
};

// Values of the stored scales of a quantized weight in float32.
std::vector<float> stored_scales(const QuantizedView& view);

}  // namespace nfloat

#endif  // NFLOAT_CONVERT_WEIGHTS_H_
