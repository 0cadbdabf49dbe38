// SPDX-License-Identifier: Apache-2.0
#include "evaluate/format_work.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "base/fail.h"
#include "base/parallel.h"
#include "base/stopwatch.h"
#include "model/loader.h"
#include "nfloat/sampler.h"

namespace nfloat {
namespace {

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

// Layers of a packed model that take no more memory than a decoded one, or as much as no cache of a
// processor holds.
int64_t distinct_layers(const std::string& path, const PackedFormat& packed, const MeasureOptions& options) {
  constexpr double kBeyondCaches = 256e6;
  double layers = 0, weights = 0;
  const Checkpoint checkpoint(path);
  layers = static_cast<double>(
      parse_model_config(checkpoint.text_file("config.json"), path + "/config.json").layers);
  for (const TensorPlan& tensor : plan_quantization(checkpoint, {}).tensors)
    if (tensor.quantize) weights += static_cast<double>(tensor.input.shape.elements());
  const double decoded = options.precision == Precision::kF32 ? 4 : 2;
  const double bytes =
      0.5 + (packed.double_quantization ? 1.0 : 4.0) / static_cast<double>(packed.block_size);
  return static_cast<int64_t>(
      std::min(layers, std::max(decoded / bytes, kBeyondCaches / (bytes * weights / layers))));
}

// Speed of decoding after a few tokens that warm the kernels.
double generation_speed(const std::string& path, const PackedFormat& packed, const MeasureOptions& options) {
  ModelOptions own;
  own.quantize = packed.codebook;
  own.quantize_block_size = packed.block_size;
  own.quantize_double = packed.double_quantization;
  own.threads = options.threads;
  own.device = options.device;
  // What is attached belongs to layers by their numbers.
  const Model model = options.loaded ? Model::load(path, own)
                                     : load_repeating(path, own, distinct_layers(path, packed, options));
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
    const Stopwatch watch;
    for (int64_t i = 0; i < room; ++i) token = most_likely(session.decode(token));
    const double seconds = watch.seconds();
    best = std::max(best, static_cast<double>(room) / seconds);
    spent += seconds;
  }
  return best;
}

}  // namespace

TensorError FormatMeasurement::total() const {
  return total_error(tensors);
}

double GenerationSpeeds::measure(const std::string& path, const PackedFormat& packed,
                                 const MeasureOptions& options) {
  const auto [place, added] = found_.try_emplace({packed.block_size, packed.double_quantization}, 0.0);
  if (added) place->second = generation_speed(path, packed, options);
  return place->second;
}

FormatWork::FormatWork(const Format& format, const MeasureOptions& options, std::vector<float>& scratch)
    : format_(format), options_(options), before_(scratch) {
  result_.name = format.name();
  result_.summary = format.summary();
}

void FormatWork::transform(const std::string& name, std::span<float> weights, int64_t rows, int64_t cols) {
  before_.resize(weights.size());
  parallel_for(static_cast<int64_t>(weights.size()), 1 << 16, options_.threads,
               [&](int64_t begin, int64_t end) {
                 std::copy(weights.begin() + begin, weights.begin() + end, before_.begin() + begin);
               });
  const Stopwatch watch;
  StoredWeights stored;
  try {
    const QuantizedTensor* prepared = options_.prepared ? options_.prepared(name) : nullptr;
    stored = prepared != nullptr ? decode(*prepared, weights, options_.threads)
                                 : format_.round_trip(weights, rows, cols, options_.threads);
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kInvalidArgument) fail(error.code(), "{}: {}", name, error.what());
    throw Refused{fmt::format("{}: {}", name, error.what())};
  }
  result_.coding_seconds += watch.seconds();
  result_.bytes += stored.bytes;
  result_.weights += weights.size();
  result_.code_counts.resize(std::max(result_.code_counts.size(), stored.code_counts.size()));
  for (size_t i = 0; i < stored.code_counts.size(); ++i) result_.code_counts[i] += stored.code_counts[i];
  record(name, weights);
}

void FormatWork::record(const std::string& name, std::span<const float> after) {
  const auto count = static_cast<int64_t>(after.size());
  double squared_error = 0, squared_original = 0, max_error = 0;
  int64_t zeros = 0, zeros_kept = 0;
  const auto error_at = [&](size_t i) {
    return static_cast<double>(after[i]) - static_cast<double>(before_[i]);
  };
  // One sum after the other would take longer than quantizing. Each has one order of summands, so that it is
  // the same for every number of threads.
  parallel_for(2, 1, options_.threads, [&](int64_t begin, int64_t end) {
    if (begin == 0)
      for (size_t i = 0; i < after.size(); ++i) squared_error += error_at(i) * error_at(i);
    if (end < 2) return;
    for (size_t i = 0; i < after.size(); ++i) {
      const double original = before_[i];
      squared_original += original * original;
      max_error = std::max(max_error, std::fabs(error_at(i)));
      if (before_[i] == 0) {
        ++zeros;
        zeros_kept += after[i] == 0;
      }
    }
  });
  TensorError& error = result_.tensors.emplace_back();
  error.name = name;
  error.elements = count;
  error.squared_error = squared_error;
  error.squared_original = squared_original;
  error.max_error = max_error;
  error.zeros = zeros;
  error.zeros_kept = zeros_kept;
}

Json FormatWork::found() const {
  Json tensors = Json::array();
  for (const TensorError& tensor : result_.tensors)
    tensors.push_back(
        Json::array({tensor.name, tensor.elements, tensor.squared_error, tensor.squared_original,
                     tensor.max_error, tensor.zeros, tensor.zeros_kept}));
  return {{"bytes", result_.bytes},
          {"weights", result_.weights},
          {"code_counts", result_.code_counts},
          {"coding_seconds", result_.coding_seconds},
          {"tensors", tensors}};
}

void FormatWork::restore(const Json& found) {
  result_.bytes = found["bytes"].get<uint64_t>();
  result_.weights = found["weights"].get<uint64_t>();
  result_.code_counts = found["code_counts"].get<std::vector<uint64_t>>();
  result_.coding_seconds = found["coding_seconds"].get<double>();
  result_.tensors.clear();
  for (const Json& values : found["tensors"]) {
    TensorError& tensor = result_.tensors.emplace_back();
    tensor.name = values[0].get<std::string>();
    tensor.elements = values[1].get<int64_t>();
    tensor.squared_error = values[2].get<double>();
    tensor.squared_original = values[3].get<double>();
    tensor.max_error = values[4].get<double>();
    tensor.zeros = values[5].get<int64_t>();
    tensor.zeros_kept = values[6].get<int64_t>();
  }
}

FormatMeasurement FormatWork::refused(const std::string& why) const {
  FormatMeasurement none;
  none.name = format_.name();
  none.summary = format_.summary();
  none.refused = why;
  return none;
}

FormatMeasurement FormatWork::finish(const std::string& path, const Checkpoint& checkpoint,
                                     DivergenceResult divergence, GenerationSpeeds& speeds) {
  FormatMeasurement result = std::move(result_);
  for (const TensorInfo& info : checkpoint.tensors()) result.model_bytes += info.bytes;
  result.model_bytes += result.bytes;
  for (const TensorError& tensor : result.tensors) result.model_bytes -= checkpoint.find(tensor.name)->bytes;
  result.divergence = std::move(divergence);
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
  const std::optional<PackedFormat> packed = format_.packed();
  if (packed && options_.generate_tokens > 0)
    result.tokens_per_second = speeds.measure(path, *packed, options_);
  return result;
}

}  // namespace nfloat
