// SPDX-License-Identifier: Apache-2.0
// Activations times packed NF4-sized weights, 4096 x 4096, block 64, beside the read bandwidth of the same
// run. Cold: calls rotate over 512 MiB of matrices. bytes_per_second counts the packed bytes,
// items_per_second two operations a weight and row.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <array>
#include <string>
#include <vector>

#include "bench/bandwidth.h"
#include "kernels/dispatch.h"
#include "nfloat/linear.h"

namespace {

using nfloat::PackedMatrix;
using nfloat::Precision;

constexpr int64_t kSide = 4096;
constexpr int64_t kBlock = 64;
constexpr size_t kMatrices = 64;

struct Weights {
  std::array<float, 16> levels{};
  std::vector<uint8_t> codes, nested_codes;
  std::vector<float> scales, nested_absmax, nested_map;

  Weights()
      : codes(static_cast<size_t>(kSide * kSide / 2)),
        nested_codes(static_cast<size_t>(kSide * kSide / kBlock), 100),
        scales(nested_codes.size(), 0.01f),
        nested_absmax(nested_codes.size() / 256, 1.0f),
        nested_map(256, 0.01f) {
    for (size_t i = 0; i < levels.size(); ++i) levels[i] = (static_cast<float>(i) - 7.5f) / 7.5f;
    for (size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<uint8_t>(i * 2654435761u >> 13);
  }

  nfloat::PackSource source(bool nested) const {
    nfloat::PackSource s;
    s.codes = codes;
    s.levels = levels;
    s.rows = s.cols = kSide;
    s.block_size = kBlock;
    if (nested) {
      s.nested_codes = nested_codes;
      s.nested_absmax = nested_absmax;
      s.nested_map = nested_map;
    } else {
      s.scales = scales;
    }
    return s;
  }
};

const Weights& weights() {
  static const Weights instance;
  return instance;
}

const std::vector<PackedMatrix>& matrices(bool nested) {
  const auto make = [](bool with_nested) {
    std::vector<PackedMatrix> all;
    for (size_t i = 0; i < kMatrices; ++i) all.push_back(PackedMatrix::pack(weights().source(with_nested)));
    return all;
  };
  static const std::vector<PackedMatrix> plain = make(false), doubly = make(true);
  return nested ? doubly : plain;
}

void multiply(benchmark::State& state, int64_t m, Precision precision, bool nested, int threads) {
  const auto& all = matrices(nested);
  std::vector<float> x(static_cast<size_t>(m * kSide)), y(x.size());
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 37 % 101) / 50.0f - 1.0f;
  nfloat::Activations activations;
  nfloat::LinearOptions options;
  options.precision = precision;
  options.threads = threads;
  size_t next = 0;
  for (auto _ : state) {
    activations.assign(x.data(), kSide, m, kSide);
    nfloat::linear(all[next], activations, y.data(), options);
    next = (next + 1) % kMatrices;
  }
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(all[0].bytes()));
  state.SetItemsProcessed(state.iterations() * 2 * m * kSide * kSide);
}

void pack(benchmark::State& state, int threads) {
  for (auto _ : state) benchmark::DoNotOptimize(PackedMatrix::pack(weights().source(false), threads));
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(weights().codes.size()));
}

void read_memory(benchmark::State& state, int threads) {
  const std::vector<double> memory(size_t{1} << 26, 1.0);
  for (auto _ : state)
    benchmark::DoNotOptimize(
        nfloat::bench::read_pass(memory.data(), memory.size() * sizeof(double), threads));
  state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(memory.size() * sizeof(double)));
}

}  // namespace

int main(int argc, char** argv) {
  constexpr const char* kNames[] = {"f32", "bf16", "int8"};
  for (const int threads : {1, 2}) {
    benchmark::RegisterBenchmark(fmt::format("read/threads:{}", threads).c_str(), read_memory, threads)
        ->UseRealTime();
    benchmark::RegisterBenchmark(fmt::format("pack/threads:{}", threads).c_str(), pack, threads)
        ->UseRealTime();
    for (const int64_t m : {1, 2, 4, 8, 16, 24, 32, 64, 128, 512})
      for (const Precision precision : {Precision::kInt8, Precision::kBF16, Precision::kF32})
        for (const bool nested : {false, true}) {
          if (nested && m > 1) continue;
          const std::string name =
              fmt::format("linear/{}/m:{}/{}/threads:{}", kNames[static_cast<int>(precision)], m,
                          nested ? "nested" : "plain", threads);
          benchmark::RegisterBenchmark(name.c_str(), multiply, m, precision, nested, threads)->UseRealTime();
        }
  }
  benchmark::AddCustomContext("target", nfloat::kernels::table().name);
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
