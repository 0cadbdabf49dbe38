// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <mutex>

#include "base/fail.h"
#include "base/float16.h"
#include "base/parallel.h"
#include "formats/families.h"
#include "nfloat/quantize.h"
#include "quantize/blocks.h"

namespace nfloat {
namespace {

constexpr float kLargestHalf = 65504.0f;

struct Options {
  int64_t block_size = 64;
  ScaleMethod scale = ScaleMethod::kAbsmax;
  ScaleStorage storage = ScaleStorage::kF32;
};

int bits_for(size_t levels) noexcept {
  int bits = 1;
  while ((size_t{1} << bits) < levels) ++bits;
  return bits;
}

// A table of levels, flat blocks that cross rows as bitsandbytes' do.
class CodebookFormat final : public Format {
 public:
  CodebookFormat(std::string name, std::string summary, Codebook codebook, const Options& options)
      : Format(std::move(name), std::move(summary)), codebook_(std::move(codebook)), options_(options) {}

  StoredWeights round_trip(std::span<float> weights, int64_t, int64_t, int threads) const override {
    expect_finite(weights);
    StoredWeights stored_weights;
    stored_weights.code_counts.resize(codebook_.levels.size());
    if (weights.empty()) return stored_weights;
    const auto elements = static_cast<int64_t>(weights.size());
    const int64_t block = std::min(options_.block_size, elements + elements % 2);
    const int64_t blocks = (elements + block - 1) / block;
    std::vector<float> scales(static_cast<size_t>(blocks));
    each_share(weights, block, threads, [&](const BlockRange& range, float* values, int64_t first) {
      choose_scales(range, values, scales.data() + first);
    });
    const std::vector<float> stored = store(scales);
    // bitsandbytes chooses codes by the exact absmax and decodes with the rounded one.
    const bool exact = options_.scale == ScaleMethod::kAbsmax && !codebook_.signed_scale &&
                       options_.storage == ScaleStorage::kDouble;
    const std::vector<float>& encoding = exact ? scales : stored;
    std::mutex guard;
    each_share(weights, block, threads, [&](const BlockRange& range, float* values, int64_t first) {
      const std::vector<uint64_t> counts =
          code(range, values, encoding.data() + first, stored.data() + first);
      const std::lock_guard lock(guard);
      for (size_t i = 0; i < counts.size(); ++i) stored_weights.code_counts[i] += counts[i];
    });
    stored_weights.bytes = stored_bytes(static_cast<uint64_t>(elements), static_cast<uint64_t>(blocks));
    return stored_weights;
  }

  double bits_per_weight() const noexcept override {
    constexpr uint64_t kLarge = uint64_t{1} << 32;
    const uint64_t blocks = kLarge / static_cast<uint64_t>(options_.block_size);
    return 8.0 * static_cast<double>(stored_bytes(kLarge, blocks)) / static_cast<double>(kLarge);
  }
  int64_t block_size() const noexcept override { return options_.block_size; }
  const Codebook* codebook() const noexcept override { return &codebook_; }
  std::optional<PackedFormat> packed() const override {
    // Loading a model quantizes by absmax; other scales would run at the same speed from their file.
    if (codebook_.levels.size() > 16) return std::nullopt;
    return PackedFormat{codebook_, options_.block_size, options_.storage == ScaleStorage::kDouble};
  }

 private:
  bool wide() const noexcept { return codebook_.levels.size() > 16; }

  template <typename Body>
  static void each_share(std::span<float> weights, int64_t block, int threads, Body&& body) {
    const auto elements = static_cast<int64_t>(weights.size());
    // An even number of blocks, so that codes begin at a whole byte.
    const int64_t grain = 2 * std::max<int64_t>(1, 16384 / block);
    parallel_for((elements + block - 1) / block, grain, threads, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; b += grain) {
        const int64_t first = b * block, last = std::min(elements, std::min(end, b + grain) * block);
        float* values = weights.data() + first;
        body(BlockRange{values, DType::kF32, last - first, block}, values, b);
      }
    });
  }

  void choose_scales(const BlockRange& range, const float* values, float* scales) const {
    if (!wide() && (options_.scale != ScaleMethod::kAbsmax || !codebook_.signed_scale)) {
      fit_scales(range, make_code_table(codebook_), options_.scale, scales);
      return;
    }
    for (int64_t begin = 0; begin < range.elements; begin += range.block_size) {
      const float* end = values + std::min(range.elements, begin + range.block_size);
      const float largest = *std::max_element(values + begin, end,
                                              [](float a, float b) { return std::fabs(a) < std::fabs(b); });
      scales[begin / range.block_size] = codebook_.signed_scale ? largest : std::fabs(largest);
    }
  }

  std::vector<float> store(const std::vector<float>& scales) const {
    if (options_.storage == ScaleStorage::kDouble) return dequantize_scales(quantize_scales(scales));
    std::vector<float> stored = scales;
    if (options_.storage == ScaleStorage::kF16)
      for (float& scale : stored)
        scale = f16_to_float(float_to_f16(std::clamp(scale, -kLargestHalf, kLargestHalf)));
    return stored;
  }

  // Replaces the values; returns how often each code occurs.
  std::vector<uint64_t> code(const BlockRange& range, float* values, const float* encoding,
                             const float* stored) const {
    std::vector<uint64_t> counts(codebook_.levels.size());
    if (!wide()) {
      counts.resize(16);
      const kernels::CodeTable table = make_code_table(codebook_);
      std::vector<uint8_t> codes(static_cast<size_t>((range.elements + 1) / 2));
      encode_blocks(range, table, encoding, codes.data());
      decode_blocks(codes.data(), stored, table, range.elements, range.block_size, DType::kF32, values);
      for (int64_t i = 0; i < range.elements; ++i)
        ++counts[(codes[static_cast<size_t>(i / 2)] >> (i % 2 == 0 ? 4 : 0)) & 15];
      counts.resize(codebook_.levels.size());
      return counts;
    }
    for (int64_t i = 0; i < range.elements; ++i) {
      const float scale = encoding[i / range.block_size];
      const uint8_t code = codebook_.encode(scale != 0 ? values[i] / scale : 0.0f);
      ++counts[code];
      values[i] = codebook_.levels[code] * stored[i / range.block_size];
    }
    return counts;
  }

  uint64_t stored_bytes(uint64_t elements, uint64_t blocks) const noexcept {
    const uint64_t codes = (elements * static_cast<uint64_t>(bits_for(codebook_.levels.size())) + 7) / 8;
    switch (options_.storage) {
      case ScaleStorage::kF16:
        return codes + 2 * blocks;
      case ScaleStorage::kDouble:
        return codes + blocks + 4 * ((blocks + kNestedBlockSize - 1) / kNestedBlockSize);
      default:
        return codes + 4 * blocks;
    }
  }

  Codebook codebook_;
  Options options_;
};

std::unique_ptr<Format> make_codebook_format(std::span<const std::string> parts) {
  Options options;
  size_t next = 1;
  if (next < parts.size() && !parts[next].empty() && parts[next][0] >= '0' && parts[next][0] <= '9')
    options.block_size = parse_block_size(parts[next++], kMinBlockSize);
  for (; next < parts.size(); ++next) {
    const std::string& part = parts[next];
    if (part == "search")
      options.scale = ScaleMethod::kSearch;
    else if (part == "signed")
      options.scale = ScaleMethod::kSigned;
    else if (part == "f16")
      options.storage = ScaleStorage::kF16;
    else if (part == "dq")
      options.storage = ScaleStorage::kDouble;
    else
      fail(ErrorCode::kInvalidArgument,
           "{}: option '{}' is not a block size or one of search, signed, f16, dq", parts[0], part);
  }
  Codebook codebook = make_codebook(parts[0], options.block_size);
  const bool absmax = options.scale == ScaleMethod::kAbsmax;
  if (codebook.levels.size() > 16 && !absmax)
    fail(ErrorCode::kInvalidArgument, "{} has {} levels: scales are searched for codes of at most 16",
         parts[0], codebook.levels.size());
  std::string name = fmt::format("{}:{}", parts[0], options.block_size);
  if (!absmax) name += options.scale == ScaleMethod::kSearch ? ":search" : ":signed";
  if (options.storage != ScaleStorage::kF32) name += options.storage == ScaleStorage::kF16 ? ":f16" : ":dq";
  const std::string scale = absmax ? codebook.signed_scale ? "signed maximum" : "absmax"
                            : options.scale == ScaleMethod::kSearch ? "searched"
                                                                    : "signed searched";
  const std::string storage = options.storage == ScaleStorage::kF32   ? "float32"
                              : options.storage == ScaleStorage::kF16 ? "float16"
                                                                      : "8 bits (double quantization)";
  std::string summary = fmt::format("{}; {} scales of {} weights in {}", codebook_summary(parts[0]), scale,
                                    options.block_size, storage);
  return std::make_unique<CodebookFormat>(std::move(name), std::move(summary), std::move(codebook), options);
}

}  // namespace

std::vector<FormatEntry> codebook_formats() {
  std::vector<FormatEntry> list;
  for (const std::string& name : codebook_names())
    list.push_back({{name + "[:BLOCK][:search|:signed][:f16|:dq]", std::string(codebook_summary(name))},
                    make_codebook_format});
  return list;
}

}  // namespace nfloat
