// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TESTS_CUDA_LAYERS_H_
#define NFLOAT_TESTS_CUDA_LAYERS_H_

#include "conformance.h"
#include "cuda/transformer.h"

namespace conformance {

inline std::vector<double> widened(const std::vector<uint16_t>& bits) {
  std::vector<double> values;
  for (const uint16_t b : bits) values.push_back(double{bf16(b)});
  return values;
}

template <bool kCentred>
void check_norm(int rows, int width, bool adds, Random& random, Report& report) {
  const size_t n = static_cast<size_t>(rows) * static_cast<size_t>(width);
  std::vector<float> residual = random.normals(n), added = random.normals(n),
                     weight = random.normals(static_cast<size_t>(width)),
                     bias = random.normals(static_cast<size_t>(width));
  for (float& value : residual) value += 100.0f;  // a large mean
  const Buffer<float> d_residual(residual), d_added(added), d_weight(weight), d_bias(bias);
  const Buffer<uint16_t> out(n);
  gpu::launch(gpu::norm<kCentred>, rows, 1, 96, sizeof(gpu::SumsShared), d_residual.get(),
              adds ? d_added.get() : nullptr, d_weight.get(), kCentred ? d_bias.get() : nullptr, 1e-5f, width,
              out.get());
  synchronize();
  const std::vector<double> got = widened(out.read());
  Errors errors;
  for (size_t r = 0; r < static_cast<size_t>(rows); ++r) {
    const size_t at = r * static_cast<size_t>(width);
    std::vector<double> x(static_cast<size_t>(width));
    double mean = 0, squares = 0;
    for (size_t i = 0; i < x.size(); ++i)
      x[i] = static_cast<double>(adds ? residual[at + i] + added[at + i] : residual[at + i]);
    for (const double value : x) mean += value / static_cast<double>(width);
    if (!kCentred) mean = 0;
    for (const double value : x) squares += (value - mean) * (value - mean) / static_cast<double>(width);
    for (size_t i = 0; i < x.size(); ++i) {
      const double b = kCentred ? double{bias[i]} : 0,
                   product = (x[i] - mean) / std::sqrt(squares + 1e-5) * double{weight[i]};
      errors.take(got[at + i], product + b, std::fabs(product) + std::fabs(b) + 0.01);
    }
  }
  char name[96];
  std::snprintf(name, sizeof name, "%s %dx%d%s", kCentred ? "layer norm" : "rms norm", rows, width,
                adds ? ", adds" : "");
  report.add(name, errors.within(5e-3, 3e-3) && out.guards_whole() && d_residual.guards_whole(),
             errors.text());
}

// Rotates and stores a prompt position by position, then attends from each: the caches' order and the window
// are checked by the result.
template <int kPairs>
void check_attention(int rows, gpu::AttentionShape shape, int window, Random& random, Report& report) {
  const int half = shape.head / 2, width = (shape.query_heads + 2 * shape.key_heads) * shape.head;
  const std::vector<float> projected = random.normals(static_cast<size_t>(rows * width));
  std::vector<float> cosines(static_cast<size_t>(shape.capacity * half)), sines(cosines.size());
  for (int p = 0; p < shape.capacity; ++p)
    for (int i = 0; i < half; ++i) {
      const double angle = p * std::pow(10000.0, -static_cast<double>(i) / half);
      cosines[static_cast<size_t>(p * half + i)] = static_cast<float>(std::cos(angle));
      sines[static_cast<size_t>(p * half + i)] = static_cast<float>(std::sin(angle));
    }
  std::vector<int> positions(static_cast<size_t>(rows));
  for (int r = 0; r < rows; ++r) positions[static_cast<size_t>(r)] = r;
  const Buffer<float> d_projected(projected), d_cosines(cosines), d_sines(sines);
  const Buffer<int> d_positions(positions);
  const size_t cache = static_cast<size_t>(shape.key_heads * shape.capacity * shape.head);
  const Buffer<uint16_t> keys(cache), values(cache);  // NaN where nothing was stored
  const Buffer<uint16_t> out(static_cast<size_t>(rows * shape.query_heads * shape.head));
  const float scale = 1.0f / std::sqrt(static_cast<float>(shape.head));
  gpu::launch(gpu::rotate_and_store, rows, 1, 64, 0, d_projected.get(), d_positions.get(), d_cosines.get(),
              d_sines.get(), shape, keys.get(), values.get());
  gpu::launch(gpu::attend<kPairs>, rows, shape.query_heads, gpu::kAttendWarps * 32, sizeof(gpu::AttendShared),
              d_projected.get(), d_positions.get(), shape, scale, window, keys.get(), values.get(),
              out.get());
  synchronize();
  const std::vector<double> got = widened(out.read());
  const auto rotated = [&](int row, int which, int i) {
    const int at = i % half;
    const size_t from = static_cast<size_t>(row * width + which * shape.head + at);
    const double a = double{projected[from]}, b = double{projected[from + static_cast<size_t>(half)]};
    const double c = double{cosines[static_cast<size_t>(row * half + at)]},
                 d = double{sines[static_cast<size_t>(row * half + at)]};
    return i < half ? a * c - b * d : b * c + a * d;
  };
  Errors errors;
  for (int r = 0; r < rows; ++r)
    for (int h = 0; h < shape.query_heads; ++h) {
      const int kv = h / (shape.query_heads / shape.key_heads),
                first = window > 0 ? std::max(0, r - window + 1) : 0;
      std::vector<double> scores;
      double largest = -1e30, total = 0;
      for (int p = first; p <= r; ++p) {
        double score = 0;
        for (int i = 0; i < shape.head; ++i)
          score += rotated(r, h, i) * rotated(p, shape.query_heads + kv, i);
        scores.push_back(score / std::sqrt(static_cast<double>(shape.head)));
        largest = std::max(largest, scores.back());
      }
      for (double& score : scores) total += score = std::exp(score - largest);
      for (int i = 0; i < shape.head; ++i) {
        double value = 0, magnitudes = 0;
        for (int p = first; p <= r; ++p) {
          const size_t from =
              static_cast<size_t>(p * width + (shape.query_heads + shape.key_heads + kv) * shape.head + i);
          const double term = scores[static_cast<size_t>(p - first)] / total * double{projected[from]};
          value += term;
          magnitudes += std::fabs(term);
        }
        errors.take(got[static_cast<size_t>((r * shape.query_heads + h) * shape.head + i)], value,
                    magnitudes);
      }
    }
  char name[96];
  std::snprintf(name, sizeof name, "attention %d rows, %d/%d heads of %d, window %d", rows, shape.query_heads,
                shape.key_heads, shape.head, window);
  report.add(name,
             errors.within(2e-2, 5e-3) && out.guards_whole() && keys.guards_whole() && values.guards_whole(),
             errors.text());
}

template <gpu::Activation kActivation>
void check_activate(int rows, int width, Random& random, Report& report) {
  const size_t n = static_cast<size_t>(rows * width);
  const std::vector<float> gate_up = random.normals(2 * n, 3.0f);
  const Buffer<float> device(gate_up);
  const Buffer<uint16_t> out(n);
  gpu::launch(gpu::activate<kActivation>, 3, 1, 64, 0, device.get(), int64_t{rows}, width, out.get());
  synchronize();
  const std::vector<double> got = widened(out.read());
  Errors errors;
  for (size_t i = 0; i < n; ++i) {
    const size_t w = static_cast<size_t>(width), row = i / w, column = i % w;
    const double gate = double{gate_up[row * 2 * w + column]}, up = double{gate_up[row * 2 * w + w + column]};
    const double inner = std::sqrt(2 / 3.14159265358979323846) * (gate + 0.044715 * gate * gate * gate);
    const double expected = (kActivation == gpu::Activation::kSilu ? gate / (1 + std::exp(-gate))
                                                                   : gate / 2 * (1 + std::tanh(inner))) *
                            up;
    errors.take(got[i], expected, std::fabs(expected) + 1e-3);
  }
  report.add(kActivation == gpu::Activation::kSilu ? "silu" : "tanh gelu",
             errors.within(4e-3, 3e-3) && out.guards_whole(), errors.text());
}

inline void check_embed(Random& random, Report& report) {
  const std::vector<uint16_t> table = random.bf16s(7 * 33);
  const std::vector<int> tokens = {6, 0, 3, 3};
  const Buffer<uint16_t> d_table(table);
  const Buffer<int> d_tokens(tokens);
  const Buffer<float> out(size_t{4 * 33});
  gpu::launch(gpu::embed, 4, 1, 32, 0, d_table.get(), d_tokens.get(), 33, out.get());
  synchronize();
  const std::vector<float> got = out.read();
  bool same = out.guards_whole();
  for (size_t i = 0; i < got.size(); ++i)
    same = same && got[i] == bf16(table[static_cast<size_t>(tokens[i / 33]) * 33 + i % 33]);
  report.add("embedding", same, same ? "equal" : "differs");
}

inline void check_layers(bool large, Random& random, Report& report) {
  check_norm<false>(3, 200, false, random, report);
  check_norm<false>(2, 65, true, random, report);
  check_norm<true>(3, 333, true, random, report);
  check_attention<1>(21, {4, 2, 64, 24}, 0, random, report);
  check_attention<2>(13, {3, 1, 128, 13}, 5, random, report);
  check_activate<gpu::Activation::kSilu>(3, 77, random, report);
  check_activate<gpu::Activation::kGeluTanh>(2, 50, random, report);
  check_embed(random, report);
  if (!large) return;
  check_norm<false>(5, 4096, true, random, report);
  check_attention<2>(150, {8, 2, 128, 200}, 0, random, report);
}

}  // namespace conformance

#endif  // NFLOAT_TESTS_CUDA_LAYERS_H_
