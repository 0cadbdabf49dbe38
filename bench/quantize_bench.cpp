// SPDX-License-Identifier: Apache-2.0
// Quantize, scale search and dequantize: every target that this machine runs, from memory and in cache,
// beside the read and the streaming-store bandwidth of the same run. "cold" passes over 256 MiB of float32
// weights, more than a core's share of any cache; "hot" over 8192 weights. items_per_second counts weights.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "base/parallel.h"
#include "bench/bandwidth.h"
#include "kernels/dispatch.h"
#include "nfloat/codebook.h"
#include "nfloat/tensor.h"
#include "quantize/blocks.h"

namespace {

using nfloat::kernels::ElementType;
using nfloat::kernels::KernelTable;

constexpr int64_t kBlock = 64;
constexpr int64_t kCold = int64_t{1} << 26;
constexpr int64_t kHot = 8192;

// 16-bit outputs and inputs use the front of the same memory.
struct Memory {
  nfloat::Buffer weights{static_cast<size_t>(kCold) * 4};
  nfloat::Buffer output{static_cast<size_t>(kCold) * 4};
  std::vector<uint8_t> codes = std::vector<uint8_t>(static_cast<size_t>(kCold / 2), 0x5a);
  std::vector<float> scales = std::vector<float>(static_cast<size_t>(kCold / 16), 1.0f);

  Memory() {
    std::mt19937_64 random(1);
    std::normal_distribution<float> normal;
    std::vector<float> some(1 << 16);
    for (float& value : some) value = 0.02f * normal(random);
    for (size_t i = 0; i < static_cast<size_t>(kCold); i += some.size())
      std::copy(some.begin(), some.end(), reinterpret_cast<float*>(weights.data()) + i);
    std::fill_n(output.data(), output.size(), std::byte{0});
  }
};

Memory& memory() {
  static Memory instance;
  return instance;
}

size_t bytes_of(ElementType type) {
  return type == ElementType::kF32 ? 4 : 2;
}

// body(first element, count) for each thread's share of whole blocks.
template <typename Body>
void run(benchmark::State& state, int64_t elements, int64_t block, int threads, Body body) {
  for (auto _ : state) {
    nfloat::parallel_for(elements / block, 64, threads,
                         [&](int64_t begin, int64_t end) { body(begin * block, (end - begin) * block); });
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * elements);
}

void add(const std::string& name, const std::function<void(benchmark::State&)>& body) {
  benchmark::RegisterBenchmark(name.c_str(), body)->UseRealTime()->MinTime(0.3);
}

enum class Operation { kQuantize, kFit, kSigned, kEncode };

void quantize(benchmark::State& state, const KernelTable* target, const std::string& code, ElementType type,
              Operation operation, int64_t elements, int64_t block, int threads) {
  const nfloat::kernels::CodeTable table = nfloat::make_code_table(nfloat::make_codebook(code, block));
  Memory& all = memory();
  run(state, elements, block, threads, [&](int64_t first, int64_t count) {
    const nfloat::kernels::BlocksArgs args{all.weights.data() + static_cast<size_t>(first) * bytes_of(type),
                                           type, count, block, &table};
    float* scales = all.scales.data() + first / block;
    uint8_t* codes = all.codes.data() + first / 2;
    switch (operation) {
      case Operation::kQuantize:
        target->quantize.quantize(args, scales, codes);
        break;
      case Operation::kEncode:
        target->quantize.encode(args, scales, codes);
        break;
      default:
        target->quantize.fit(args, operation == Operation::kSigned, scales);
    }
  });
  if (operation != Operation::kQuantize) return;
  const double bytes = static_cast<double>(bytes_of(type)) + 0.5 + 4.0 / static_cast<double>(block);
  state.SetBytesProcessed(
      static_cast<int64_t>(static_cast<double>(state.iterations()) * static_cast<double>(elements) * bytes));
}

void decode(benchmark::State& state, const KernelTable* target, ElementType type, int64_t elements,
            int threads) {
  const nfloat::kernels::CodeTable table = nfloat::make_code_table(nfloat::make_codebook("nf4"));
  Memory& all = memory();
  run(state, elements, kBlock, threads, [&](int64_t first, int64_t count) {
    target->quantize.decode({all.codes.data() + first / 2, all.scales.data() + first / kBlock, &table, count,
                             kBlock, type, all.output.data() + static_cast<size_t>(first) * bytes_of(type),
                             elements == kCold});
  });
  state.SetBytesProcessed(state.iterations() * elements * static_cast<int64_t>(bytes_of(type)));
}

void add_all() {
  for (int threads : {1, 2}) {
    add(fmt::format("read_bandwidth/threads:{}", threads), [=](benchmark::State& state) {
      for (auto _ : state) {
        benchmark::DoNotOptimize(
            nfloat::bench::read_pass(memory().weights.data(), memory().weights.size(), threads));
      }
      state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(memory().weights.size()));
    });
    add(fmt::format("stream_bandwidth/threads:{}", threads), [=](benchmark::State& state) {
      for (auto _ : state)
        nfloat::bench::stream_pass(memory().output.data(), memory().output.size(), threads);
      state.SetBytesProcessed(state.iterations() * static_cast<int64_t>(memory().output.size()));
    });
  }
  const struct {
    ElementType type;
    const char* name;
  } types[] = {{ElementType::kF32, "f32"}, {ElementType::kBF16, "bf16"}, {ElementType::kF16, "f16"}};
  for (const KernelTable* target : nfloat::kernels::runnable_tables()) {
    for (const auto& [type, type_name] : types) {
      for (int threads : {1, 2}) {
        for (const auto& [elements, place] : {std::pair{kCold, "cold"}, std::pair{kHot, "hot"}}) {
          if (elements == kHot && threads > 1) continue;
          const std::string rest =
              fmt::format("{}/{}/threads:{}/{}", type_name, place, threads, target->name);
          const ElementType t = type;
          const int64_t count = elements;
          add("quantize/nf4/" + rest, [=](benchmark::State& state) {
            quantize(state, target, "nf4", t, Operation::kQuantize, count, kBlock, threads);
          });
          add("dequantize/nf4/" + rest,
              [=](benchmark::State& state) { decode(state, target, t, count, threads); });
        }
      }
    }
    for (const auto& [name, operation] :
         {std::pair{"search", Operation::kFit}, std::pair{"signed", Operation::kSigned},
          std::pair{"encode", Operation::kEncode}}) {
      const Operation o = operation;
      for (const char* code : {"nf4", "fp4"}) {
        const std::string c = code;
        add(fmt::format("{}/{}/f32/hot/threads:1/{}", name, code, target->name),
            [=](benchmark::State& state) {
              quantize(state, target, c, ElementType::kF32, o, kHot, kBlock, 1);
            });
      }
    }
    for (int64_t block : {16, 32, 63, 128, 4096}) {
      add(fmt::format("quantize/nf4/f32/hot/block:{}/{}", block, target->name), [=](benchmark::State& state) {
        quantize(state, target, "nf4", ElementType::kF32, Operation::kQuantize, kHot / block * block, block,
                 1);
      });
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  add_all();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
