// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/gguf_weights.h"

#include <algorithm>
#include <cstring>

#include "base/fail.h"
#include "gguf/huggingface.h"
#include "gguf/names.h"
#include "gguf/tables.h"

namespace nfloat {
namespace {

// Divisors of the rotary frequencies, which config.json describes.
constexpr std::string_view kRopeDivisors = "rope_freqs.weight";

TensorView owning(DType dtype, Shape shape, std::shared_ptr<const Buffer> buffer) {
  const std::span<const std::byte> bytes = buffer->span();
  return {dtype, std::move(shape), bytes, std::move(buffer)};
}

}  // namespace

GgufWeights::GgufWeights(const std::string& path, const CheckpointOptions& options)
    : file_(path), options_(options), texts_(huggingface_tokenizer(file_)) {
  texts_["config.json"] = huggingface_config(file_);
  const std::string arch = file_.text_or("general.architecture", "");
  const bool interleaved = find_gguf_architecture(arch)->interleaved;
  const int64_t heads = file_.integer_or(arch + ".attention.head_count", 1);
  const int64_t kv_heads = file_.integer_or(arch + ".attention.head_count_kv", heads);
  for (const GgufTensor& stored : file_.tensors()) {
    if (stored.name == kRopeDivisors) continue;
    const std::string name = huggingface_tensor_name(stored.name);
    if (name.empty())
      fail(ErrorCode::kUnsupported, "{}: tensor '{}' has no Hugging Face name in this version",
           file_.files()[stored.file], stored.name);
    Source source{&stored, 0};
    const char rows = interleaved ? interleaved_rows(name) : char{0};
    if (rows != 0) {
      const int64_t count = rows == 'q' ? heads : kv_heads;
      if (count < 1 || stored.shape[0] % count != 0 || stored.shape[0] / count % 2 != 0)
        fail(ErrorCode::kMalformedFile, "{}: tensor '{}' is {}, which {} heads do not divide",
             file_.files()[stored.file], stored.name, stored.shape.to_string(), count);
      source.head_dim = stored.shape[0] / count;
    }
    TensorInfo info;
    info.name = name;
    info.shape = stored.shape;
    info.file = stored.file;
    info.offset = stored.offset;
    if (!is_decodable(stored.type))
      fail(ErrorCode::kUnsupported, "{}: tensor '{}' is {}", file_.files()[stored.file], stored.name,
           gguf_type_info(stored.type).name);
    const DType* plain = plain_dtype(stored.type);
    info.dtype = plain != nullptr ? *plain : options.decoded;
    info.bytes = static_cast<uint64_t>(info.shape.elements()) * dtype_bytes(info.dtype);
    tensors_.push_back(std::move(info));
    sources_.push_back(source);
  }
}

std::span<const std::byte> GgufWeights::stored_row(const Source& source, int64_t row) const {
  const Shape& shape = source.stored->shape;
  const auto row_bytes = static_cast<size_t>(source.stored->bytes) /
                         static_cast<size_t>(shape.elements() / shape[shape.rank() - 1]);
  // A row of one element (a bias) is a vector's element.
  if (shape.rank() == 1) {
    const auto width = static_cast<size_t>(gguf_type_info(source.stored->type).block_bytes);
    return file_.bytes(*source.stored)
        .subspan(static_cast<size_t>(interleaved_row(row, source.head_dim)) * width, width);
  }
  const int64_t at = source.head_dim > 0 ? interleaved_row(row, source.head_dim) : row;
  return file_.bytes(*source.stored).subspan(static_cast<size_t>(at) * row_bytes, row_bytes);
}

void GgufWeights::decode_row(const Source& source, int64_t row, std::span<float> values) const {
  decode_gguf(source.stored->type, stored_row(source, row), values);
}

void GgufWeights::read(size_t tensor, uint64_t begin, std::span<std::byte> output) const {
  const TensorInfo& info = tensors_[tensor];
  const Source& source = sources_[tensor];
  const bool plain = plain_dtype(source.stored->type) != nullptr;
  if (plain && source.head_dim == 0) {
    const auto from = file_.bytes(*source.stored).subspan(begin, output.size());
    std::memcpy(output.data(), from.data(), from.size());
    file_.release(from);
    return;
  }
  // Row by row; a plain vector's rows are its elements.
  const size_t width = dtype_bytes(info.dtype);
  const size_t rank = info.shape.rank();
  const bool by_element = rank == 1 && source.head_dim > 0;
  const auto cols = by_element ? size_t{1} : static_cast<size_t>(info.shape[rank - 1]);
  const size_t row_bytes = cols * width;
  std::vector<float> values(plain ? 0 : cols);
  std::vector<std::byte> row_values(row_bytes);
  while (!output.empty()) {
    const uint64_t row = begin / row_bytes;
    const size_t skip = begin % row_bytes;
    const size_t count = std::min(row_bytes - skip, output.size());
    const auto stored = stored_row(source, static_cast<int64_t>(row));
    if (plain) {
      std::memcpy(output.data(), stored.data() + skip, count);
    } else {
      decode_gguf(source.stored->type, stored, values);
      const TensorView exact{DType::kF32, Shape({static_cast<int64_t>(cols)}),
                             std::as_bytes(std::span(values))};
      convert_elements(exact, info.dtype, row_values);
      std::memcpy(output.data(), row_values.data() + skip, count);
    }
    file_.release(stored);
    output = output.subspan(count);
    begin += count;
  }
}

TensorView GgufWeights::view(size_t tensor) const {
  const TensorInfo& info = tensors_[tensor];
  const Source& source = sources_[tensor];
  if (plain_dtype(source.stored->type) != nullptr && source.head_dim == 0)
    return {info.dtype, info.shape, file_.bytes(*source.stored)};
  const auto decoded = std::make_shared<Buffer>(info.bytes);
  read(tensor, 0, decoded->span());
  return owning(info.dtype, info.shape, decoded);
}

bool GgufWeights::is_packed(size_t tensor) const noexcept {
  return options_.packed && tensors_[tensor].shape.rank() == 2 &&
         !gguf_levels(sources_[tensor].stored->type).empty();
}

QuantizedView GgufWeights::packed(size_t tensor) const {
  constexpr int64_t kBlock = 32;
  const TensorInfo& info = tensors_[tensor];
  const Source& source = sources_[tensor];
  const GgufType type = source.stored->type;
  const int64_t elements = info.shape.elements(), blocks = elements / kBlock;
  const int64_t row_blocks = info.shape[1] / kBlock;
  const auto block_bytes = static_cast<size_t>(gguf_type_info(type).block_bytes);
  QuantizedView view;
  view.quant_type = gguf_type_info(type).name;
  view.dtype = options_.decoded;
  view.shape = info.shape;
  view.block_size = kBlock;
  // Element i and i + 16 share a byte there, neighbours share one here, the first in the high nibble.
  const auto codes = std::make_shared<Buffer>(static_cast<size_t>(elements / 2));
  const auto scales = std::make_shared<Buffer>(static_cast<size_t>(blocks) * sizeof(float));
  for (int64_t row = 0; row < info.shape[0]; ++row) {
    const auto stored = stored_row(source, row);
    for (int64_t i = 0; i < row_blocks; ++i) {
      const auto block = stored.subspan(static_cast<size_t>(i) * block_bytes, block_bytes);
      const auto nibbles = block.last(kBlock / 2);
      const int64_t at = row * row_blocks + i;
      std::byte* out = codes->data() + at * (kBlock / 2);
      for (size_t k = 0; k < 8; ++k) {
        out[k] = (nibbles[2 * k] & std::byte{15}) << 4 | (nibbles[2 * k + 1] & std::byte{15});
        out[k + 8] = (nibbles[2 * k] & std::byte{0xf0}) | nibbles[2 * k + 1] >> 4;
      }
      const float scale = gguf_block_scale(type, block.data());
      std::memcpy(scales->data() + at * static_cast<int64_t>(sizeof scale), &scale, sizeof scale);
    }
    file_.release(stored);
  }
  view.codes = owning(DType::kU8, Shape({elements / 2}), codes);
  view.absmax = owning(DType::kF32, Shape({blocks}), scales);
  view.quant_map = {DType::kF32, Shape({16}), std::as_bytes(gguf_levels(type))};
  return view;
}

}  // namespace nfloat
