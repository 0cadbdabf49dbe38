// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/gguf_weights.h"

#include <algorithm>
#include <cstring>

#include "base/fail.h"
#include "gguf/tables.h"
#include "llama_cpp/config.h"
#include "llama_cpp/tokenizer.h"

namespace nfloat {
namespace {

constexpr int64_t kMxfp4Bytes = 1 + kMxfp4Block / 2;  // a scale, 16 bytes of codes

// Frequencies, which config.json describes.
bool is_described(std::string_view name) noexcept {
  return name == "rope_freqs.weight" || name == "rope_factors_long.weight" ||
         name == "rope_factors_short.weight";
}

TensorView owning(DType dtype, Shape shape, std::shared_ptr<const Buffer> buffer) {
  const std::span<const std::byte> bytes = buffer->span();
  return {dtype, std::move(shape), bytes, std::move(buffer)};
}

int64_t rows_of(const Shape& shape) noexcept {
  return shape.rank() == 1 ? shape[0] : shape.elements() / std::max<int64_t>(1, shape[shape.rank() - 1]);
}

}  // namespace

GgufWeights::GgufWeights(const std::string& path, const CheckpointOptions& options)
    : file_(path),
      options_(options),
      architecture_(architecture_of(file_)),
      texts_(huggingface_tokenizer(file_)) {
  texts_["config.json"] = huggingface_config(file_);
  const std::string arch = file_.text_or("general.architecture", "");
  GgufHeads heads;
  heads.heads = file_.integer_or(arch + ".attention.head_count", 1);
  heads.kv_heads = file_.integer_or(arch + ".attention.head_count_kv", heads.heads);
  const int64_t experts = file_.integer_or(arch + ".expert_count", 0);
  for (const GgufTensor& stored : file_.tensors()) {
    if (is_described(stored.name)) continue;
    const std::vector<GgufNameMatch> matches = match_gguf_name(architecture_, stored.name);
    if (matches.empty())
      fail(ErrorCode::kUnsupported, "{}: tensor '{}' has no name in {} models that this version knows",
           file_.files()[stored.file], stored.name, architecture_.model_type);
    if (!is_decodable(stored.type))
      fail(ErrorCode::kUnsupported, "{}: tensor '{}' is {}", file_.files()[stored.file], stored.name,
           gguf_type_info(stored.type).name);
    add(matches.front(), stored, heads, experts);
  }
}

void GgufWeights::add(const GgufNameMatch& match, const GgufTensor& stored, const GgufHeads& heads,
                      int64_t experts) {
  const auto refuse = [&](const std::string& what) {
    fail(ErrorCode::kMalformedFile, "{}: tensor '{}' is {}: {}", file_.files()[stored.file], stored.name,
         stored.shape.to_string(), what);
  };
  const Shape& shape = stored.shape;
  const bool matrix_of_experts = match.name->gguf.ends_with("_exps");
  const bool bias = match.bias;
  const int64_t rows = matrix_of_experts && bias ? shape.elements() : rows_of(shape);
  if (matrix_of_experts && (shape.rank() != (bias ? 2u : 3u) || experts < 1 || shape[0] != experts))
    refuse(fmt::format("expected {} experts", experts));
  Piece piece{&stored, {}, shape.rank() == 1 || (matrix_of_experts && bias) ? 1 : shape[shape.rank() - 1]};
  const bool halves = match.name->rows >= GgufRows::kFirstHalf;
  const int64_t shown_rows = match.single_experts() ? rows / experts : halves ? 2 * rows : rows;

  const int64_t count = match.single_experts() ? experts : 1;
  for (int64_t expert = 0; expert < count; ++expert) {
    GgufNameMatch one = match;
    one.expert = match.single_experts() ? expert : -1;
    const std::string wrong = make_row_map(architecture_, one, heads, rows, shown_rows, experts, piece.map);
    if (!wrong.empty()) refuse(wrong);
    const std::string name = one.huggingface(one.expert);
    // The second of two tensors whose rows alternate joins the first.
    if (halves) {
      const std::string known =
          options_.keep_mxfp4 && stored.type == GgufType::kMXFP4 && !bias ? name + "_blocks" : name;
      const auto other = std::find_if(tensors_.begin(), tensors_.end(),
                                      [&](const TensorInfo& info) { return info.name == known; });
      if (other != tensors_.end()) {
        const auto at = static_cast<size_t>(other - tensors_.begin());
        const GgufTensor& first = *sources_[at].pieces[0].stored;
        if (first.type != stored.type || first.shape != shape)
          refuse(fmt::format("'{}' is {} of {}", first.name, gguf_type_info(first.type).name,
                             first.shape.to_string()));
        sources_[at].pieces.push_back(piece);
        if (sources_[at].part == Part::kMxfp4Codes) sources_[at + 1].pieces.push_back(piece);
        continue;
      }
    }
    Source source;
    source.pieces = {piece};
    source.cols = piece.elements;
    const DType* plain = plain_dtype(stored.type);
    const DType dtype = plain != nullptr ? *plain : options_.decoded;
    if (options_.keep_mxfp4 && match.name->bare && matrix_of_experts && !bias &&
        stored.type == GgufType::kMXFP4) {
      source.part = Part::kMxfp4Codes;
      const int64_t blocks = shape[2] / kMxfp4Block, out = shown_rows / experts;
      add_shown(name + "_blocks", {experts, out, blocks, kMxfp4Block / 2}, DType::kU8, source);
      source.part = Part::kMxfp4Scales;
      add_shown(name + "_scales", {experts, out, blocks}, DType::kU8, source);
      continue;
    }
    source.transposed = match.name->transposed && !bias && shape.rank() >= 2;
    source.minus_one = architecture_.norm_plus_one && match.name->gguf.ends_with("norm");
    std::vector<int64_t> dims = shape.dims();
    if (match.single_experts()) dims.erase(dims.begin());
    if (halves) dims[1] *= 2;
    if (source.transposed) std::swap(dims[dims.size() - 1], dims[dims.size() - 2]);
    add_shown(name, Shape(dims), dtype, source);
  }
}

void GgufWeights::add_shown(const std::string& name, Shape shape, DType dtype, Source source) {
  const GgufTensor& stored = *source.pieces[0].stored;
  TensorInfo info;
  info.name = name;
  info.dtype = dtype;
  info.shape = std::move(shape);
  info.file = stored.file;
  info.offset = stored.offset;
  info.bytes = static_cast<uint64_t>(info.shape.elements()) * dtype_bytes(dtype);
  tensors_.push_back(std::move(info));
  sources_.push_back(std::move(source));
}

GgufWeights::Row GgufWeights::stored_row(const Source& source, int64_t row) const {
  for (const Piece& piece : source.pieces) {
    const int64_t at = piece.map.gguf(row);
    if (at < 0) continue;
    const GgufTypeInfo& type = gguf_type_info(piece.stored->type);
    const auto bytes = static_cast<size_t>(piece.elements / type.block_elements * type.block_bytes);
    return {piece.stored, file_.bytes(*piece.stored).subspan(static_cast<size_t>(at) * bytes, bytes)};
  }
  fail(ErrorCode::kMalformedFile, "{}: half of the rows of '{}' are missing",
       file_.files()[source.pieces[0].stored->file], source.pieces[0].stored->name);
}

std::span<const std::byte> GgufWeights::shown_as_stored(size_t tensor) const {
  const Source& source = sources_[tensor];
  const Piece& piece = source.pieces[0];
  if (plain_dtype(piece.stored->type) == nullptr || source.transposed || source.minus_one ||
      source.pieces.size() > 1 || piece.map.rows != GgufRows::kSame)
    return {};
  const uint64_t bytes = tensors_[tensor].bytes;
  const auto first =
      static_cast<uint64_t>(piece.map.first * piece.elements) * dtype_bytes(tensors_[tensor].dtype);
  return file_.bytes(*piece.stored).subspan(first, bytes);
}

void GgufWeights::decode(const Source& source, int64_t row, int64_t first, std::span<float> values) const {
  const Row stored = stored_row(source, row);
  const GgufTypeInfo& type = gguf_type_info(stored.stored->type);
  const int64_t last = first + static_cast<int64_t>(values.size());
  const int64_t begin = first / type.block_elements;
  const int64_t end = (last + type.block_elements - 1) / type.block_elements;
  const auto blocks = stored.bytes.subspan(static_cast<size_t>(begin * type.block_bytes),
                                           static_cast<size_t>((end - begin) * type.block_bytes));
  const auto decoded = static_cast<size_t>((end - begin) * type.block_elements);
  if (decoded == values.size()) {
    decode_gguf(type.type, blocks, values);
  } else {
    std::vector<float> whole(decoded);
    decode_gguf(type.type, blocks, whole);
    std::copy_n(whole.begin() + (first - begin * type.block_elements), values.size(), values.begin());
  }
  if (source.minus_one)
    for (float& value : values) value -= 1;
}

void GgufWeights::read_rows(const TensorInfo& info, const Source& source, int64_t begin, int64_t count,
                            std::byte* output) const {
  const auto width = static_cast<int64_t>(dtype_bytes(info.dtype));
  const bool as_stored = plain_dtype(source.pieces[0].stored->type) != nullptr && !source.minus_one;
  std::vector<float> values;
  while (count > 0) {
    const int64_t row = begin / source.cols, first = begin % source.cols;
    const int64_t part = std::min(source.cols - first, count);
    if (as_stored) {
      std::memcpy(output, stored_row(source, row).bytes.data() + first * width,
                  static_cast<size_t>(part * width));
    } else {
      values.resize(static_cast<size_t>(part));
      decode(source, row, first, values);
      convert_elements({DType::kF32, Shape({part}), std::as_bytes(std::span(values))}, info.dtype,
                       {output, static_cast<size_t>(part * width)});
    }
    output += part * width;
    begin += part;
    count -= part;
  }
}

// Shown are columns: of each stored row as many elements are decoded as whole columns are asked for.
void GgufWeights::read_turned(const TensorInfo& info, const Source& source, int64_t begin, int64_t count,
                              std::byte* output) const {
  const size_t rank = info.shape.rank();
  const int64_t ins = info.shape[rank - 2], outs = info.shape[rank - 1];
  std::vector<float> part, turned;
  while (count > 0) {
    const int64_t slice = begin / (ins * outs), in = begin / outs % ins, out = begin % outs;
    const bool whole = out == 0 && count >= outs;
    const int64_t columns = whole ? std::min(count / outs, ins - in) : 1;
    const int64_t outputs = whole ? outs : std::min(outs - out, count);
    part.resize(static_cast<size_t>(columns));
    turned.resize(static_cast<size_t>(columns * outputs));
    for (int64_t o = 0; o < outputs; ++o) {
      decode(source, slice * outs + out + o, in, part);
      for (int64_t i = 0; i < columns; ++i)
        turned[static_cast<size_t>(i * outputs + o)] = part[static_cast<size_t>(i)];
    }
    const size_t bytes = turned.size() * dtype_bytes(info.dtype);
    convert_elements({DType::kF32, Shape({columns * outputs}), std::as_bytes(std::span(turned))}, info.dtype,
                     {output, bytes});
    output += bytes;
    begin += columns * outputs;
    count -= columns * outputs;
  }
}

// There the first code of a pair is in the low nibble; here codes 16 apart share a byte.
void GgufWeights::read_mxfp4(const Source& source, uint64_t begin, std::span<std::byte> output) const {
  const bool codes = source.part == Part::kMxfp4Codes;
  const auto row_bytes = static_cast<uint64_t>(source.cols / kMxfp4Block * (codes ? kMxfp4Block / 2 : 1));
  while (!output.empty()) {
    const std::byte* stored = stored_row(source, static_cast<int64_t>(begin / row_bytes)).bytes.data();
    const uint64_t first = begin % row_bytes;
    const uint64_t last = std::min<uint64_t>(row_bytes, first + output.size());
    for (uint64_t at = first; at < last; ++at) {
      std::byte& to = output[at - first];
      if (codes) {
        const std::byte* block = stored + at / 16 * kMxfp4Bytes + 1;
        const uint64_t element = at % 16 * 2;
        const std::byte a = block[element % 16], b = block[element % 16 + 1];
        to = element >= 16 ? (a >> 4) | (b & std::byte{0xf0}) : (a & std::byte{15}) | b << 4;
      } else {
        to = stored[at * kMxfp4Bytes];
      }
    }
    output = output.subspan(last - first);
    begin += last - first;
  }
}

// Drops the pages of rows `first` to `last` and, where their order differs, of those between them.
void GgufWeights::release_rows(const Source& source, int64_t first, int64_t last) const noexcept {
  for (const Piece& piece : source.pieces) {
    const auto all = file_.bytes(*piece.stored);
    const std::byte *low = all.data() + all.size(), *high = all.data();
    for (int64_t row = first; row <= last; ++row) {
      const int64_t at = piece.map.gguf(row);
      if (at < 0) continue;
      const GgufTypeInfo& type = gguf_type_info(piece.stored->type);
      const int64_t bytes = piece.elements / type.block_elements * type.block_bytes;
      low = std::min(low, all.data() + at * bytes);
      high = std::max(high, all.data() + (at + 1) * bytes);
    }
    if (low < high) file_.release({low, high});
  }
}

void GgufWeights::read(size_t tensor, uint64_t begin, std::span<std::byte> output) const {
  const TensorInfo& info = tensors_[tensor];
  const Source& source = sources_[tensor];
  const size_t width = dtype_bytes(info.dtype);
  if (begin % width != 0 || output.size() % width != 0)
    fail(ErrorCode::kInvalidArgument, "'{}': bytes {} to {} of elements of {} bytes", info.name, begin,
         begin + output.size(), width);
  const auto first = static_cast<int64_t>(begin / width), count = static_cast<int64_t>(output.size() / width);
  if (const auto stored = shown_as_stored(tensor); !stored.empty()) {
    std::memcpy(output.data(), stored.data() + begin, output.size());
    file_.release(stored.subspan(begin, output.size()));
  } else if (source.part != Part::kValues) {
    read_mxfp4(source, begin, output);
  } else if (source.transposed) {
    read_turned(info, source, first, count, output.data());
  } else {
    read_rows(info, source, first, count, output.data());
    if (count > 0) release_rows(source, first / source.cols, (first + count - 1) / source.cols);
  }
}

TensorView GgufWeights::view(size_t tensor) const {
  const TensorInfo& info = tensors_[tensor];
  if (const auto stored = shown_as_stored(tensor); !stored.empty()) return {info.dtype, info.shape, stored};
  const auto decoded = std::make_shared<Buffer>(info.bytes);
  read(tensor, 0, decoded->span());
  return owning(info.dtype, info.shape, decoded);
}

bool GgufWeights::is_packed(size_t tensor) const noexcept {
  const Source& source = sources_[tensor];
  return options_.packed && tensors_[tensor].shape.rank() == 2 && source.part == Part::kValues &&
         !gguf_levels(source.pieces[0].stored->type).empty();
}

std::string_view GgufWeights::stored_type(size_t tensor) const noexcept {
  return gguf_type_info(sources_[tensor].pieces[0].stored->type).name;
}

Shape GgufWeights::packed_shape(size_t tensor) const {
  const Shape& shape = tensors_[tensor].shape;
  return sources_[tensor].transposed ? Shape({shape[1], shape[0]}) : shape;
}

QuantizedView GgufWeights::packed(size_t tensor) const {
  constexpr int64_t kBlock = 32;
  const Source& source = sources_[tensor];
  const GgufType type = source.pieces[0].stored->type;
  QuantizedView view;
  view.quant_type = gguf_type_info(type).name;
  view.dtype = options_.decoded;
  view.shape = packed_shape(tensor);
  view.block_size = kBlock;
  const int64_t elements = view.shape.elements(), blocks = elements / kBlock;
  const int64_t row_blocks = view.shape[1] / kBlock;
  // Element i and i + 16 share a byte there, neighbours share one here, the first in the high nibble.
  const auto codes = std::make_shared<Buffer>(static_cast<size_t>(elements / 2));
  const auto scales = std::make_shared<Buffer>(static_cast<size_t>(blocks) * sizeof(float));
  for (int64_t row = 0; row < view.shape[0]; ++row) {
    const auto stored = stored_row(source, row).bytes;
    for (int64_t i = 0; i < row_blocks; ++i) {
      const auto [scale, nibbles] = gguf_codes(type, stored.data(), i);
      const int64_t at = row * row_blocks + i;
      std::byte* out = codes->data() + at * (kBlock / 2);
      for (size_t k = 0; k < 8; ++k) {
        out[k] = (nibbles[2 * k] & std::byte{15}) << 4 | (nibbles[2 * k + 1] & std::byte{15});
        out[k + 8] = (nibbles[2 * k] & std::byte{0xf0}) | nibbles[2 * k + 1] >> 4;
      }
      std::memcpy(scales->data() + at * static_cast<int64_t>(sizeof scale), &scale, sizeof scale);
    }
  }
  release_rows(source, 0, view.shape[0] - 1);
  view.codes = owning(DType::kU8, Shape({elements / 2}), codes);
  view.absmax = owning(DType::kF32, Shape({blocks}), scales);
  view.quant_map = {DType::kF32, Shape({16}), std::as_bytes(gguf_levels(type))};
  return view;
}

}  // namespace nfloat
