// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <random>

#include "base/fail.h"
#include "base/parallel.h"
#include "codebook/source.h"
#include "nfloat/codebook_errors.h"

namespace nfloat {
namespace {

// Sums over one chunk: what one seed gives.
struct Sums {
  double squared = 0;
  double absolute = 0;
  std::vector<int64_t> counts;  // by code
};

class Sampler {
 public:
  Sampler(const SourceDistribution& source, uint64_t seed, uint64_t chunk)
      : source_(source), student_(source.degrees_of_freedom) {
    std::seed_seq sequence{seed, seed >> 32, chunk, chunk >> 32};
    engine_.seed(sequence);
  }
  float draw() {
    switch (source_.kind) {
      case SourceDistribution::Kind::kStudentT:
        return static_cast<float>(student_(engine_));
      case SourceDistribution::Kind::kLaplace: {
        const double magnitude = exponential_(engine_);
        return static_cast<float>((engine_() & 1) != 0 ? -magnitude : magnitude);
      }
      case SourceDistribution::Kind::kNormal:
        break;
    }
    return static_cast<float>(normal_(engine_));
  }

 private:
  SourceDistribution source_;
  std::mt19937_64 engine_;
  std::normal_distribution<double> normal_;
  std::student_t_distribution<double> student_;
  std::exponential_distribution<double> exponential_;
};

void quantize_block(const Codebook& codebook, const std::vector<float>& block, Sums& sums) {
  const float largest = *std::max_element(block.begin(), block.end(),
                                          [](float a, float b) { return std::fabs(a) < std::fabs(b); });
  const float scale = codebook.signed_scale ? largest : std::fabs(largest);
  const float inverse = 1.0f / scale;
  for (float weight : block) {
    const float y = std::clamp(weight * inverse, -1.0f, 1.0f);
    const auto rank = std::lower_bound(codebook.thresholds.begin(), codebook.thresholds.end(), y) -
                      codebook.thresholds.begin();
    const uint8_t code = codebook.code_of_rank[static_cast<size_t>(rank)];
    const double error = static_cast<double>(codebook.levels[code] * scale) - static_cast<double>(weight);
    sums.squared += error * error;
    sums.absolute += std::fabs(error);
    ++sums.counts[code];
  }
}

// Mean over chunks, and its standard error.
struct Estimate {
  double mean = 0;
  double standard_error = 0;
};

Estimate estimate(const std::vector<Sums>& chunks, double Sums::*member, double weights_a_chunk) {
  const auto count = static_cast<double>(chunks.size());
  Estimate result;
  for (const Sums& chunk : chunks) result.mean += chunk.*member / weights_a_chunk / count;
  double spread = 0;
  for (const Sums& chunk : chunks) spread += std::pow(chunk.*member / weights_a_chunk - result.mean, 2);
  if (count > 1) result.standard_error = std::sqrt(spread / (count * (count - 1)));
  return result;
}

constexpr int64_t kMaxBlock = 1 << 24;  // a block is held in memory
constexpr int64_t kMaxSamples = int64_t{1} << 40;
constexpr int64_t kMinChunks = 64;
constexpr int64_t kMaxChunks = 4096;
constexpr int64_t kChunkSamples = 1 << 16;

}  // namespace

SimulatedErrors simulate_codebook_errors(const Codebook& codebook, int64_t block_size,
                                         const SourceDistribution& distribution, int64_t samples,
                                         uint64_t seed, int threads) {
  if (block_size < 2 || block_size > kMaxBlock) {
    fail(ErrorCode::kInvalidArgument, "block size {}: expected 2 to {} to sample", block_size, kMaxBlock);
  }
  if (samples < 1 || samples > kMaxSamples) {
    fail(ErrorCode::kInvalidArgument, "{} samples: expected 1 to {}", samples, kMaxSamples);
  }
  const Source source(distribution);
  // Enough chunks for a standard error; each of as many whole blocks.
  const int64_t count = std::clamp(samples / kChunkSamples, kMinChunks, kMaxChunks);
  const int64_t blocks_a_chunk = (samples + count * block_size - 1) / (count * block_size);
  std::vector<Sums> chunks(static_cast<size_t>(count));
  for (Sums& chunk : chunks) chunk.counts.resize(codebook.levels.size());
  parallel_for(count, 1, threads, [&](int64_t begin, int64_t end) {
    std::vector<float> block(static_cast<size_t>(block_size));
    for (int64_t i = begin; i < end; ++i) {
      Sampler sampler(distribution, seed, static_cast<uint64_t>(i));
      for (int64_t b = 0; b < blocks_a_chunk; ++b) {
        for (float& weight : block) weight = sampler.draw();
        quantize_block(codebook, block, chunks[static_cast<size_t>(i)]);
      }
    }
  });
  const auto weights_a_chunk = static_cast<double>(blocks_a_chunk * block_size);
  const Estimate squared = estimate(chunks, &Sums::squared, weights_a_chunk);
  const Estimate absolute = estimate(chunks, &Sums::absolute, weights_a_chunk);
  SimulatedErrors result;
  const double deviation = std::sqrt(source.variance());
  result.samples = count * blocks_a_chunk * block_size;
  result.errors.mse = squared.mean / source.variance();
  result.mse_standard_error = squared.standard_error / source.variance();
  result.errors.mae = absolute.mean / deviation;
  result.mae_standard_error = absolute.standard_error / deviation;
  for (size_t code = 0; code < codebook.levels.size(); ++code) {
    int64_t occurrences = 0;
    for (const Sums& chunk : chunks) occurrences += chunk.counts[code];
    const double share = static_cast<double>(occurrences) / static_cast<double>(result.samples);
    if (share > 0) result.errors.entropy -= share * std::log2(share);
  }
  return result;
}

}  // namespace nfloat
