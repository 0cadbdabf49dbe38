// SPDX-License-Identifier: Apache-2.0
// The parts of a layer that are not matrix products, on every target that this machine runs, against the
// same in double precision: odd lengths, pages in any order, every type of cache.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "base/float16.h"
#include "kernels/dispatch.h"

namespace nfloat::kernels {
namespace {

constexpr int64_t kLengths[] = {1, 3, 7, 8, 15, 16, 17, 33, 64, 100, 1000};

size_t index(int64_t i) {
  return static_cast<size_t>(i);
}

std::vector<float> gaussian(int64_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(index(count));
  for (float& value : values) value = normal(generator);
  return values;
}

template <typename Body>
void on_every_target(const Body& body) {
  for (const KernelTable* table : runnable_tables()) {
    SCOPED_TRACE(table->name);
    body(table->transformer);
  }
}

TEST(Transformer, Norms) {
  on_every_target([](const TransformerKernels& kernels) {
    for (const int64_t count : kLengths) {
      std::vector<float> x = gaussian(count, 1), weight = gaussian(count, 2), bias = gaussian(count, 3);
      for (float& value : x) value += 5;  // a mean far from zero
      double sum = 0, squares = 0, variance = 0;
      for (const float value : x) sum += value, squares += double{value} * value;
      const double n = static_cast<double>(count), mean = sum / n;
      for (const float value : x) variance += (value - mean) * (value - mean) / n;
      const double rms = 1 / std::sqrt(squares / n + 1e-5), deviation = 1 / std::sqrt(variance + 1e-5);
      std::vector<float> y(x.size()), z(x.size());
      kernels.rms_norm(x.data(), weight.data(), 1e-5f, count, y.data());
      kernels.layer_norm(x.data(), weight.data(), bias.data(), 1e-5f, count, z.data());
      for (size_t i = 0; i < x.size(); ++i) {
        const double expected = x[i] * rms * weight[i],
                     normal = (x[i] - mean) * deviation * weight[i] + bias[i];
        ASSERT_NEAR(y[i], expected, 1e-6 * std::fabs(expected) + 1e-7) << count << " " << i;
        // The mean is rounded once: half an ulp of 5 in each difference.
        ASSERT_NEAR(z[i], normal, 1e-6 * std::fabs(normal) + 2e-6 * deviation * std::fabs(weight[i]) + 1e-6)
            << count << " " << i;
      }
    }
  });
}

double activated(Activation kind, double x) {
  switch (kind) {
    case Activation::kSilu:
      return x / (1 + std::exp(-x));
    case Activation::kGelu:
      return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    case Activation::kGeluTanh:
      return 0.5 * x * (1 + std::tanh(std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x)));
    case Activation::kQuickGelu:
      return x / (1 + std::exp(-1.702 * x));
    default:
      return std::max(x, 0.0);
  }
}

TEST(Transformer, Activations) {
  on_every_target([](const TransformerKernels& kernels) {
    for (const Activation kind : {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh,
                                  Activation::kQuickGelu, Activation::kRelu})
      for (const int64_t count : kLengths)
        for (const bool gated : {false, true}) {
          std::vector<float> x = gaussian(count, 4), up = gaussian(count, 5);
          for (float& value : x) value *= 4;
          std::vector<float> y = x;
          kernels.activate(kind, y.data(), gated ? up.data() : nullptr, count);
          for (size_t i = 0; i < x.size(); ++i) {
            const double expected = activated(kind, x[i]) * (gated ? up[i] : 1);
            // The argument of tanh is rounded: relative 1e-6 of what is far below zero is lost with it.
            ASSERT_NEAR(y[i], expected, 4e-6 * std::fabs(expected) + 1e-7)
                << static_cast<int>(kind) << " " << x[i];
          }
        }
  });
}

TEST(Transformer, SoftcapAndSumOfExponentials) {
  on_every_target([](const TransformerKernels& kernels) {
    for (const int64_t count : kLengths) {
      std::vector<float> x = gaussian(count, 6);
      for (float& value : x) value *= 20;
      double total = 0;
      for (const float value : x) total += std::exp(double{value - 60.0f});
      EXPECT_NEAR(kernels.sum_exp(x.data(), 60, count), total, 1e-6 * total);
      std::vector<float> y = x;
      kernels.softcap(y.data(), 30, count);
      for (size_t i = 0; i < x.size(); ++i) {
        const double expected = 30 * std::tanh(x[i] / 30.0);
        ASSERT_NEAR(y[i], expected, 1e-6 * std::fabs(expected)) << x[i];
      }
    }
  });
}

TEST(Transformer, Rotation) {
  on_every_target([](const TransformerKernels& kernels) {
    for (const int64_t dim : {2, 6, 16, 20, 64, 80, 96, 128}) {
      const std::vector<float> x = gaussian(dim, 7);
      std::vector<float> table(index(dim)), y(index(dim));
      const size_t half = index(dim / 2);
      for (size_t i = 0; i < half; ++i) {
        table[i] = static_cast<float>(std::cos(0.7 * static_cast<double>(i)));
        table[half + i] = static_cast<float>(std::sin(0.7 * static_cast<double>(i)));
      }
      kernels.rotate(x.data(), table.data(), 0.25f, dim, y.data());
      for (size_t i = 0; i < half; ++i) {
        const double c = table[i], s = table[half + i];
        ASSERT_NEAR(y[i], (x[i] * c - x[half + i] * s) * 0.25, 1e-6) << dim << " " << i;
        ASSERT_NEAR(y[half + i], (x[half + i] * c + x[i] * s) * 0.25, 1e-6) << dim << " " << i;
      }
    }
  });
}

// Keys and values of a head, in pages that do not follow one another; page 0 of the sequence comes last.
struct Cache {
  std::vector<std::vector<std::byte>> memory;
  std::vector<std::byte*> pages;
  KvHead head{};

  Cache(KvType type, int64_t head_dim, int64_t positions) {
    const int64_t offset = 64, count = (positions + kAttentionBlock - 1) / kAttentionBlock;
    for (int64_t i = 0; i < count; ++i)
      memory.emplace_back(index(offset + kv_head_bytes(type, head_dim)), std::byte{0});
    for (int64_t i = 0; i < count; ++i) pages.push_back(memory[index(count - 1 - i)].data());
    head = {type, head_dim, pages.data(), offset};
  }
};

// What a cache of this type keeps of a vector.
std::vector<double> kept(KvType type, const float* x, int64_t count) {
  std::vector<double> values;
  float largest = 0;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, std::fabs(x[i]));
  const float scale = largest / 127;
  for (int64_t i = 0; i < count; ++i) {
    const float clamped = std::clamp(x[i], -65504.0f, 65504.0f);
    const float whole = scale > 0 ? x[i] * (1 / scale) : 0;
    values.push_back(type == KvType::kF32   ? double{x[i]}
                     : type == KvType::kF16 ? double{f16_to_float(float_to_f16(clamped))}
                                            : std::trunc(whole + (whole < 0 ? -0.5f : 0.5f)) * double{scale});
  }
  return values;
}

struct AttentionCase {
  int64_t head_dim, positions, queries;
  float softcap;
  bool sinks;
  int64_t window;  // 0: none
};

void check_attention(const TransformerKernels& kernels, KvType type, const AttentionCase& c) {
  const std::vector<float> keys = gaussian(c.positions * c.head_dim, 8),
                           values = gaussian(c.positions * c.head_dim, 9),
                           queries = gaussian(c.queries * c.head_dim, 10), sinks = gaussian(c.queries, 11);
  Cache cache(type, c.head_dim, c.positions);
  std::vector<std::vector<double>> kept_keys, kept_values;
  for (int64_t i = 0; i < c.positions; ++i) {
    const float* key = keys.data() + i * c.head_dim;
    const float* value = values.data() + i * c.head_dim;
    kernels.store(cache.head, i, key, value);
    kept_keys.push_back(kept(type, key, c.head_dim));
    kept_values.push_back(kept(type, value, c.head_dim));
  }
  std::vector<float> y(queries.size(), NAN);
  std::vector<float> scratch(index(attention_scratch_floats(c.head_dim, c.queries)), NAN);
  std::vector<const float*> from;
  std::vector<float*> to;
  std::vector<int64_t> begins, ends;
  for (int64_t q = 0; q < c.queries; ++q) {
    from.push_back(queries.data() + q * c.head_dim);
    to.push_back(y.data() + q * c.head_dim);
    ends.push_back(c.positions - c.queries + q + 1);
    begins.push_back(c.window == 0 ? 0 : std::max<int64_t>(0, ends.back() - c.window));
  }
  AttentionArgs args{cache.head,    c.queries,   from.data(),   to.data(),
                     begins.data(), ends.data(), scratch.data()};
  args.softcap = c.softcap;
  if (c.sinks) args.sinks = sinks.data();
  kernels.attend(args);
  for (int64_t q = 0; q < c.queries; ++q) {
    std::vector<double> scores, sum(index(c.head_dim), 0.0);
    double total = c.sinks ? std::exp(double{sinks[index(q)]}) : 0;
    for (int64_t i = begins[index(q)]; i < ends[index(q)]; ++i) {
      double score = 0;
      for (int64_t d = 0; d < c.head_dim; ++d) score += from[index(q)][d] * kept_keys[index(i)][index(d)];
      if (c.softcap > 0) score = c.softcap * std::tanh(score / c.softcap);
      total += std::exp(score);
      for (int64_t d = 0; d < c.head_dim; ++d)
        sum[index(d)] += std::exp(score) * kept_values[index(i)][index(d)];
    }
    for (int64_t d = 0; d < c.head_dim; ++d)
      ASSERT_NEAR(to[index(q)][d], sum[index(d)] / total, 2e-5)
          << "type " << static_cast<int>(type) << " dim " << c.head_dim << " positions " << c.positions
          << " query " << q << " column " << d;
  }
}

TEST(Transformer, Attention) {
  const AttentionCase cases[] = {{16, 1, 1, 0, false, 0},     {20, 17, 2, 0, false, 0},
                                 {64, 128, 1, 0, true, 0},    {64, 129, 5, 0, false, 0},
                                 {80, 300, 9, 0, false, 100}, {96, 257, 16, 20, true, 31},
                                 {128, 400, 3, 0, false, 0},  {40, 140, 11, 30, false, 129}};
  on_every_target([&](const TransformerKernels& kernels) {
    for (const KvType type : {KvType::kF32, KvType::kF16, KvType::kInt8})
      for (const AttentionCase& c : cases) check_attention(kernels, type, c);
  });
}

// A query gives the same bits alone and among others.
TEST(Transformer, QueriesDoNotDependOnOneAnother) {
  const int64_t dim = 48, positions = 200, count = 13;
  on_every_target([&](const TransformerKernels& kernels) {
    Cache cache(KvType::kF16, dim, positions);
    for (int64_t i = 0; i < positions; ++i)
      kernels.store(cache.head, i, gaussian(dim, static_cast<uint32_t>(i)).data(),
                    gaussian(dim, static_cast<uint32_t>(1000 + i)).data());
    const std::vector<float> queries = gaussian(count * dim, 12);
    std::vector<float> together(queries.size()), alone(index(dim));
    std::vector<float> scratch(index(attention_scratch_floats(dim, count)));
    std::vector<const float*> from;
    std::vector<float*> to;
    const std::vector<int64_t> begins(index(count), 0), ends(index(count), positions);
    for (int64_t q = 0; q < count; ++q) {
      from.push_back(queries.data() + q * dim);
      to.push_back(together.data() + q * dim);
    }
    kernels.attend({cache.head, count, from.data(), to.data(), begins.data(), ends.data(), scratch.data()});
    for (int64_t q = 0; q < count; ++q) {
      float* const single = alone.data();
      kernels.attend({cache.head, 1, &from[index(q)], &single, begins.data(), ends.data(), scratch.data()});
      ASSERT_EQ(std::memcmp(alone.data(), to[index(q)], alone.size() * 4), 0) << q;
    }
  });
}

// Halves end at 65504: what is beyond is stored as that, and a head of zeros has no scale.
TEST(Transformer, CachesKeepExtremes) {
  on_every_target([](const TransformerKernels& kernels) {
    for (const KvType type : {KvType::kF16, KvType::kInt8}) {
      Cache cache(type, 16, 1);
      std::vector<float> key(16, 0.0f), value(16, 1e6f), query(16, 0.0f), y(16), scratch(4096);
      value[3] = -1e6f;
      kernels.store(cache.head, 0, key.data(), value.data());
      const float* from = query.data();
      float* to = y.data();
      const int64_t begin = 0, end = 1;
      kernels.attend({cache.head, 1, &from, &to, &begin, &end, scratch.data()});
      const float most = type == KvType::kF16 ? 65504.0f : 1e6f;
      for (size_t i = 0; i < 16; ++i) EXPECT_NEAR(y[i], i == 3 ? -most : most, 1) << i;
    }
  });
}

}  // namespace
}  // namespace nfloat::kernels
