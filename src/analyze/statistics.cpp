// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <mutex>

#include "analyze/fit.h"
#include "base/fail.h"
#include "base/parallel.h"

namespace nfloat {
namespace {

constexpr int64_t kChunk = 4096;
constexpr size_t kLanes = 8;

// Sums of powers, in lanes that the compiler turns into vectors. Inside a run of kRun values they are float32
// sums of scaled values (relative error about 1e-6), between runs float64.
struct Sums {
  static constexpr int64_t kRun = 512;
  double one = 0, two = 0, three = 0, four = 0;
  float largest = 0;
  int64_t zeros = 0;

  // `scale`: a power of two that brings the values near 1, so that no fourth power leaves float32.
  void add(const float* x, int64_t count, float scale) noexcept {
    for (int64_t begin = 0; begin < count; begin += kRun)
      run(x + begin, std::min(kRun, count - begin), scale);
  }

  void run(const float* x, int64_t count, float scale) noexcept {
    float s1[kLanes] = {}, s2[kLanes] = {}, s3[kLanes] = {}, s4[kLanes] = {}, most[kLanes] = {};
    int32_t found[kLanes] = {};
    int64_t i = 0;
    for (; i + static_cast<int64_t>(kLanes) <= count; i += static_cast<int64_t>(kLanes)) {
      for (size_t lane = 0; lane < kLanes; ++lane) {
        const float v = x[static_cast<size_t>(i) + lane] * scale, square = v * v;
        s1[lane] += v;
        s2[lane] += square;
        s3[lane] += square * v;
        s4[lane] += square * square;
        const float magnitude = std::fabs(v);
        most[lane] = most[lane] > magnitude ? most[lane] : magnitude;
        found[lane] += v == 0;
      }
    }
    for (size_t lane = 0; lane < kLanes; ++lane) {
      one += static_cast<double>(s1[lane]);
      two += static_cast<double>(s2[lane]);
      three += static_cast<double>(s3[lane]);
      four += static_cast<double>(s4[lane]);
      largest = std::max(largest, most[lane]);
      zeros += found[lane];
    }
    for (; i < count; ++i) {
      const double v = static_cast<double>(x[i] * scale), square = v * v;
      one += v;
      two += square;
      three += square * v;
      four += square * square;
      largest = std::max(largest, std::fabs(x[i] * scale));
      zeros += v == 0;
    }
  }

  void add(const Sums& other) noexcept {
    one += other.one;
    two += other.two;
    three += other.three;
    four += other.four;
    largest = std::max(largest, other.largest);
    zeros += other.zeros;
  }
};

// 2^-e where 2^e is about the largest magnitude of the values; 1 without any.
float scale_for(const std::vector<float>& values) {
  float largest = 0;
  for (const float v : values)
    if (std::isfinite(v)) largest = std::max(largest, std::fabs(v));
  return largest > 0 ? std::ldexp(1.0f, std::clamp(-std::ilogb(largest), -100, 100)) : 1.0f;
}

TensorView part(const TensorView& weights, int64_t begin, int64_t count) {
  const size_t width = dtype_bytes(weights.dtype);
  return {weights.dtype, Shape({count}),
          weights.bytes.subspan(static_cast<size_t>(begin) * width, static_cast<size_t>(count) * width)};
}

void read(const TensorView& weights, int64_t begin, int64_t count, float* output) {
  convert_elements(part(weights, begin, count), DType::kF32,
                   std::as_writable_bytes(std::span(output, static_cast<size_t>(count))));
}

// body(values, count) over the whole tensor, each thread with its own chunk of floats.
template <typename Body>
void over_chunks(const TensorView& weights, int threads, Body&& body) {
  parallel_for(weights.elements(), kChunk * 16, threads, [&](int64_t begin, int64_t end) {
    std::vector<float> values(kChunk);
    for (int64_t at = begin; at < end; at += kChunk) {
      const int64_t count = std::min(kChunk, end - at);
      read(weights, at, count, values.data());
      body(begin, values.data(), count);
    }
  });
}

}  // namespace

void expect_block_size(int64_t block_size) {
  if (block_size < 1) fail(ErrorCode::kInvalidArgument, "block size {}: at least 1", block_size);
}

std::vector<float> spread_sample(const TensorView& weights, int64_t most, int64_t block) {
  const int64_t elements = weights.elements();
  std::vector<float> sample;
  if (elements <= most) {
    sample.resize(static_cast<size_t>(elements));
    read(weights, 0, elements, sample.data());
    return sample;
  }
  const int64_t runs = std::max<int64_t>(1, most / block), blocks = elements / block;
  sample.resize(static_cast<size_t>(runs * block));
  for (int64_t run = 0; run < runs; ++run)
    read(weights, blocks * run / runs * block, block, sample.data() + run * block);
  return sample;
}

namespace {

std::vector<float> thinned(const std::vector<float>& values, int64_t most) {
  const size_t step = std::max<size_t>(1, values.size() / static_cast<size_t>(std::max<int64_t>(1, most)));
  std::vector<float> sample;
  for (size_t i = step / 2; i < values.size() && sample.size() < static_cast<size_t>(most); i += step)
    sample.push_back(values[i]);
  return sample;
}

void describe(const std::vector<float>& values, double mean, double deviation, int64_t sample,
              DistributionStatistics& result) {
  result.student = fit_student(values, mean);
  if (deviation > 0) measure_distances(thinned(values, sample), mean, deviation, result);
}

}  // namespace

bool DistributionStatistics::normal_accepted() const noexcept {
  return sample > 0 && normal_distance * std::sqrt(static_cast<double>(sample)) < 1.63;
}
bool DistributionStatistics::student_accepted() const noexcept {
  return sample > 0 && student.distance * std::sqrt(static_cast<double>(sample)) < 1.63;
}
bool WeightStatistics::has_outliers() const noexcept {
  return deviation > 0 && (absmax > 12 * deviation || outlier_share > 1e-4);
}
WeightStatistics analyze_weights(const TensorView& weights, const AnalyzeOptions& options) {
  if (!is_quantizable(weights.dtype) || weights.elements() < 1)
    fail(ErrorCode::kInvalidArgument, "{} weights of {}: at least one of F32, F16 or BF16 expected",
         weights.elements(), dtype_name(weights.dtype));
  expect_block_size(options.block_size);
  WeightStatistics result;
  result.elements = weights.elements();
  const auto count = static_cast<double>(result.elements);
  const int64_t block = std::min(options.block_size, result.elements);
  std::vector<float> sample = spread_sample(weights, options.fit_sample, block);
  const float scale = scale_for(sample);
  std::mutex guard;
  std::vector<std::pair<int64_t, Sums>> shares;  // summed in order: the same for every schedule
  over_chunks(weights, options.threads, [&](int64_t share, const float* values, int64_t length) {
    Sums sums;
    sums.add(values, length, scale);
    const std::lock_guard lock(guard);
    const auto own =
        std::find_if(shares.begin(), shares.end(), [&](const auto& s) { return s.first == share; });
    if (own == shares.end())
      shares.emplace_back(share, sums);
    else
      own->second.add(sums);
  });
  std::sort(shares.begin(), shares.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  Sums sums;
  for (const auto& share : shares) sums.add(share.second);
  const double unit = 1 / static_cast<double>(scale);
  const double m1 = sums.one / count * unit, m2 = sums.two / count * unit * unit;
  const double m3 = sums.three / count * std::pow(unit, 3), m4 = sums.four / count * std::pow(unit, 4);
  if (!std::isfinite(m4)) {
    std::vector<float> values(kChunk);
    for (int64_t at = 0; at < result.elements; at += kChunk) {
      const int64_t length = std::min(kChunk, result.elements - at);
      read(weights, at, length, values.data());
      for (int64_t i = 0; i < length; ++i)
        if (!std::isfinite(values[static_cast<size_t>(i)]))
          fail(ErrorCode::kNotFinite, "the weight at index {} is NaN or infinite", at + i);
    }
  }
  const double variance = std::max(0.0, m2 - m1 * m1);
  result.mean = m1;
  result.deviation = std::sqrt(variance);
  result.absmax = static_cast<double>(sums.largest) * unit;
  result.zeros = sums.zeros;
  if (!(variance > 0)) return result;
  result.skew = (m3 - 3 * m1 * m2 + 2 * m1 * m1 * m1) / (variance * result.deviation);
  result.plain.excess_kurtosis =
      (m4 - 4 * m1 * m3 + 6 * m1 * m1 * m2 - 3 * m1 * m1 * m1 * m1) / (variance * variance) - 3;
  if (result.absmax > 6 * result.deviation - std::fabs(m1)) {
    std::vector<std::pair<int64_t, int64_t>> found;
    const auto limit = static_cast<float>(6 * result.deviation), centre = static_cast<float>(m1);
    int64_t beyond = 0;
    over_chunks(weights, options.threads, [&](int64_t, const float* values, int64_t length) {
      int64_t own = 0;
      for (int64_t i = 0; i < length; ++i) own += std::fabs(values[i] - centre) > limit;
      const std::lock_guard lock(guard);
      beyond += own;
    });
    result.outlier_share = static_cast<double>(beyond) / count;
  }
  describe(sample, m1, result.deviation, options.sample, result.plain);
  double squares = 0, fourths = 0, total = 0, peaks = 0;
  for (size_t begin = 0; begin < sample.size(); begin += static_cast<size_t>(block)) {
    const size_t end = std::min(sample.size(), begin + static_cast<size_t>(block));
    double sum = 0, largest = 0;
    for (size_t i = begin; i < end; ++i) {
      const double square = static_cast<double>(sample[i]) * static_cast<double>(sample[i]);
      sum += square;
      largest = std::max(largest, square);
    }
    const double rms = std::sqrt(sum / static_cast<double>(end - begin));
    total += sum;
    peaks += largest * static_cast<double>(end - begin);
    for (size_t i = begin; i < end; ++i) {
      const double value = rms > 0 ? static_cast<double>(sample[i]) / rms : 0;
      sample[i] = static_cast<float>(value);
      squares += value * value;
      fourths += value * value * value * value;
    }
  }
  result.block_size = block;
  result.block_peak = total > 0 ? peaks / total : 0;
  const auto samples = static_cast<double>(sample.size());
  if (squares > 0) {
    result.normalised.excess_kurtosis = fourths * samples / (squares * squares) - 3;
    describe(sample, 0, std::sqrt(squares / samples), options.sample, result.normalised);
  }
  return result;
}

WeightHistogram weight_histogram(const TensorView& weights, const WeightStatistics& statistics, size_t bins,
                                 double limit) {
  WeightHistogram histogram{limit, std::vector<uint64_t>(bins), 0};
  const double inverse = statistics.deviation > 0 ? 1 / statistics.deviation : 0;
  std::vector<float> values(kChunk);
  for (int64_t at = 0; at < weights.elements(); at += kChunk) {
    const int64_t length = std::min(kChunk, weights.elements() - at);
    read(weights, at, length, values.data());
    for (int64_t i = 0; i < length; ++i) {
      const double z = (static_cast<double>(values[static_cast<size_t>(i)]) - statistics.mean) * inverse;
      const double place = (z + limit) / (2 * limit) * static_cast<double>(bins);
      if (place >= 0 && place < static_cast<double>(bins))
        ++histogram.counts[static_cast<size_t>(place)];
      else
        ++histogram.beyond;
    }
  }
  return histogram;
}

}  // namespace nfloat
