// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <optional>

#include "base/fail.h"
#include "nfloat/compare.h"
#include "nfloat/sampler.h"

namespace nfloat {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// A format that cannot hold a matrix, which is a result and no failure of the run.
struct Refused {
  std::string why;
};

void record(FormatMeasurement& result, const std::string& name, std::span<const float> before,
            std::span<const float> after) {
  TensorError& error = result.tensors.emplace_back();
  error.name = name;
  error.elements = static_cast<int64_t>(before.size());
  for (size_t i = 0; i < before.size(); ++i) {
    const double original = before[i], difference = static_cast<double>(after[i]) - original;
    error.squared_error += difference * difference;
    error.squared_original += original * original;
    error.max_error = std::max(error.max_error, std::fabs(difference));
    if (before[i] == 0) {
      ++error.zeros;
      error.zeros_kept += after[i] == 0;
    }
  }
}

StoredWeights decode(const QuantizedTensor& tensor, std::span<float> weights, int threads) {
  dequantize_blockwise(tensor, DType::kF32, std::as_writable_bytes(weights), threads);
  StoredWeights stored;
  stored.bytes = tensor.codes.size() + tensor.nested.codes.size() +
                 sizeof(float) * (tensor.scales.size() + tensor.nested.absmax.size() + 1);
  stored.code_counts.resize(tensor.codebook.levels.size());
  for (size_t i = 0; i < weights.size(); ++i)
    ++stored.code_counts[(tensor.codes[i / 2] >> (i % 2 == 0 ? 4 : 0)) & 15];
  return stored;
}

double entropy(const std::vector<uint64_t>& counts) {
  const auto total = static_cast<double>(std::accumulate(counts.begin(), counts.end(), uint64_t{0}));
  double bits = 0;
  for (const uint64_t count : counts) {
    const double share = static_cast<double>(count) / total;
    if (count > 0) bits -= share * std::log2(share);
  }
  return bits;
}

// Speed of decoding after a few tokens that warm the kernels.
double generation_speed(const std::string& path, const PackedFormat& packed, const MeasureOptions& options) {
  ModelOptions own;
  own.quantize = packed.codebook;
  own.quantize_block_size = packed.block_size;
  own.quantize_double = packed.double_quantization;
  own.threads = options.threads;
  const Model model = Model::load(path, own);
  if (options.loaded) options.loaded(model);
  const int64_t room = std::min(options.generate_tokens, model.config().context - 8);
  if (room < 1) return 0;
  Session session(model, {.context = room + 8});
  int32_t token = std::max<int32_t>(0, model.config().bos_token);
  for (int i = 0; i < 4; ++i) token = most_likely(session.decode(token));
  double best = 0, spent = 0;
  // The fastest of three, unless one takes long enough to be steady.
  for (int repeat = 0; repeat < 3 && spent < 1; ++repeat) {
    session.rewind(4);
    const Clock::time_point start = Clock::now();
    for (int64_t i = 0; i < room; ++i) token = most_likely(session.decode(token));
    const double seconds = seconds_since(start);
    best = std::max(best, static_cast<double>(room) / seconds);
    spent += seconds;
  }
  return best;
}

}  // namespace

TensorError FormatMeasurement::total() const {
  return total_error(tensors);
}

FormatMeasurement measure_format(const std::string& path, const Format& format,
                                 const ReferenceDistributions& reference, std::span<const int32_t> tokens,
                                 const MeasureOptions& options) {
  FormatMeasurement result;
  result.name = format.name();
  result.summary = format.summary();
  uint64_t plain_bytes = 0;
  ModelOptions own;
  own.precision = options.precision;
  own.threads = options.threads;
  own.transform = [&](const std::string& name, std::span<float> weights, int64_t rows, int64_t cols) {
    const std::vector<float> before(weights.begin(), weights.end());
    const Clock::time_point start = Clock::now();
    StoredWeights stored;
    try {
      const QuantizedTensor* prepared = options.prepared ? options.prepared(name) : nullptr;
      stored = prepared != nullptr ? decode(*prepared, weights, options.threads)
                                   : format.round_trip(weights, rows, cols, options.threads);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kInvalidArgument) fail(error.code(), "{}: {}", name, error.what());
      throw Refused{fmt::format("{}: {}", name, error.what())};
    }
    result.coding_seconds += seconds_since(start);
    result.bytes += stored.bytes;
    result.weights += weights.size();
    result.code_counts.resize(std::max(result.code_counts.size(), stored.code_counts.size()));
    for (size_t i = 0; i < stored.code_counts.size(); ++i) result.code_counts[i] += stored.code_counts[i];
    record(result, name, before, weights);
  };
  const std::string folder = resolve_model_path(path);
  {
    const Checkpoint checkpoint(folder);
    for (const TensorInfo& info : checkpoint.tensors()) plain_bytes += info.bytes;
    std::optional<Model> model;
    try {
      model = Model::load(folder, own);
    } catch (const Refused& refused) {
      FormatMeasurement none;
      none.name = format.name();
      none.summary = format.summary();
      none.refused = refused.why;
      return none;
    }
    if (result.tensors.empty()) {
      result.refused = "the weights are already quantized";
      return result;
    }
    if (options.loaded) options.loaded(*model);
    result.model_bytes = plain_bytes + result.bytes;
    for (const TensorError& tensor : result.tensors)
      result.model_bytes -= checkpoint.find(tensor.name)->bytes;
    PerplexityOptions scoring = options.scoring;
    scoring.precision = options.precision;
    try {
      result.divergence = divergence(reference, *model, tokens, scoring);
      if (options.tasks) result.tasks = options.tasks(*model);
    } catch (const Error& error) {
      // The plain model's numbers were finite: this format's error makes them grow.
      if (error.code() != ErrorCode::kNotFinite) throw;
      FormatMeasurement none;
      none.name = format.name();
      none.summary = format.summary();
      none.refused = error.what();
      return none;
    }
  }
  result.bits_per_weight = 8.0 * static_cast<double>(result.bytes) / static_cast<double>(result.weights);
  if (!result.code_counts.empty()) result.code_entropy = entropy(result.code_counts);
  DivergenceResult& found = result.divergence;
  const size_t middle = found.token_kl.size() / 2;
  for (size_t half = 0; half < 2; ++half) {
    const size_t begin = half == 0 ? 0 : middle, end = half == 0 ? middle : found.token_kl.size();
    for (size_t i = begin; i < end; ++i) {
      result.half_kl[half] += static_cast<double>(found.token_kl[i]) / static_cast<double>(end - begin);
      result.half_loss[half] += static_cast<double>(found.token_loss[i]) / static_cast<double>(end - begin);
    }
  }
  found.token_kl.clear();
  found.token_loss.clear();
  const std::optional<PackedFormat> packed = format.packed();
  if (packed && options.generate_tokens > 0)
    result.tokens_per_second = generation_speed(folder, *packed, options);
  return result;
}

}  // namespace nfloat
