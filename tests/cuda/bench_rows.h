// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TESTS_CUDA_BENCH_ROWS_H_
#define NFLOAT_TESTS_CUDA_BENCH_ROWS_H_

#include <fstream>

#include "bench.h"
#include "bench_attention.h"
#include "conversions.h"

namespace conformance {

// Every row, printed and written to `path` as JSON. `matmul`: TFLOP/s of a large bf16 product on this card, 0
// if not measured.
inline int run_bench(double matmul, const char* path) {
  cudaDeviceProp device;
  cudaGetDeviceProperties(&device, 0);
  const int multiprocessors = device.multiProcessorCount;
  const bool large_blocks = device.sharedMemPerBlockOptin >= size_t{160} << 10;
  Limits limits = measure_limits();
  limits.matmul_tflops = matmul;
  std::vector<Row> rows;
  const auto add = [&](Row row) {
    std::printf(
        "%-28s %-12s m %-4d %.3f bits  %8.2f us  %6.0f GB/s  %5.0f TFLOP/s  %5.1f %%  spread %.1f %%\n",
        row.name.c_str(), row.shape.c_str(), row.m, row.bits, row.timing.us, row.gbs, row.tflops,
        row.share * 100, row.timing.spread * 100);
    rows.push_back(row);
  };
  DeviceArray<uint16_t> x(int64_t{512} * 14336, 9, 1.0f);
  DeviceArray<float> y(int64_t{512} * 28672, 8, 1.0f);
  for (int twice = 0; twice < 2; ++twice) {
    for (const auto& [r, c] : {std::pair<int64_t, int64_t>{14336, 4096}, {4096, 14336}, {28672, 8192}})
      for (const bool nested : {true, false}) {
        const Weights w(r, c, nested, Weights::for_gib(r, c));
        const std::string shape = std::to_string(r) + "x" + std::to_string(c);
        const double elements = static_cast<double>(r) * static_cast<double>(c),
                     bits = w.bytes() * 8 / elements;
        for (const int m : {1, 2, 4, 8}) {
          const Timing t = time_graph(w.copies, 15, [&](int i) {
            gpu::multiply_few(w.view(i), x.data, m, y.data, w.rows, multiprocessors);
          });
          const double gbs = w.bytes() / t.us * 1e-3;
          add({"few rows", shape, m, bits, t, gbs, 2 * m * elements / t.us * 1e-6, gbs / limits.copy_gbs});
        }
        if (r != 14336 || !nested) continue;
        for (const int m : {16, 64, 128, 512}) {
          const Timing t = time_graph(4, 10, [&](int i) {
            gpu::multiply_many<false>(w.view(i), x.data, c, m, y.data, r, large_blocks, multiprocessors);
          });
          const double rate = 2 * m * elements / t.us * 1e-6;
          add({"many rows", shape, m, bits, t, w.bytes() / t.us * 1e-3, rate,
               matmul > 0 ? rate / matmul : 0});
        }
        const Timing back = time_graph(4, 10, [&](int i) {
          gpu::multiply_many<true>(w.view(i), x.data, r, 512, y.data, c, large_blocks, multiprocessors);
        });
        const double rate = 2 * 512 * elements / back.us * 1e-6;
        add({"transposed", shape, 512, bits, back, w.bytes() / back.us * 1e-3, rate,
             matmul > 0 ? rate / matmul : 0});
        DeviceArray<uint16_t> wide(r * c * 4, 1, 1.0f);
        const Timing out = time_graph(4, 20, [&](int i) {
          gpu::dequantize_blocks(w.view(i), reinterpret_cast<gpu::Bf16*>(wide.data + i * r * c),
                                 multiprocessors);
        });
        double gbs = (w.bytes() + 2 * elements) / out.us * 1e-3;
        add({"dequantize to bf16", shape, 0, bits, out, gbs, 0, gbs / limits.copy_gbs});
        const Buffer<float> thresholds(thresholds_of(nf4_levels()));
        const Buffer<uint8_t> codes(
            std::vector<uint8_t>{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15});
        const Buffer<unsigned long long> bad(size_t{1});
        const Timing in = time_graph(4, 20, [&](int i) {
          gpu::quantize_blocks(reinterpret_cast<const gpu::Bf16*>(wide.data + i * r * c), r * c, 6,
                               gpu::Code16{thresholds.get(), codes.get()}, w.codes.data + i * r * c / 2,
                               w.scales.data, bad.get(), multiprocessors);
        });
        gbs = elements * (2.5 + 1.0 / 16) / in.us * 1e-3;
        add({"quantize absmax from bf16", shape, 0, 4.5, in, gbs, 0, gbs / limits.copy_gbs});
      }
  }
  // What the card's multiprocessors could do in float32: 128 fused sums a clock.
  int kilohertz = 0;
  cudaDeviceGetAttribute(&kilohertz, cudaDevAttrClockRate, 0);
  const double float_tflops = 256.0 * multiprocessors * kilohertz * 1e-9;
  for (const int m : {512, 4096})
    for (const bool in_tiles : {true, false})
      add(attention_row(m, 0, in_tiles, multiprocessors, float_tflops));
  add(attention_row(1, 4095, false, multiprocessors, float_tflops));
  const std::string fault = machine_fault();
  std::ofstream json(path);
  json << "{\"device\": \"" << device.name << "\", \"multiprocessors\": " << multiprocessors
       << ", \"limits\": {\"copy_gbs\": " << limits.copy_gbs << ", \"read_gbs\": " << limits.read_gbs
       << ", \"matmul_tflops\": " << matmul << ", \"launch_us\": " << limits.launch_us << "}, \"fault\": \""
       << fault << "\", \"bench\": [";
  for (size_t i = 0; i < rows.size(); ++i) {
    const Row& row = rows[i];
    json << (i == 0 ? "\n" : ",\n") << "  {\"name\": \"" << row.name << "\", \"shape\": \"" << row.shape
         << "\", \"m\": " << row.m << ", \"bits\": " << row.bits << ", \"us\": " << row.timing.us
         << ", \"spread\": " << row.timing.spread << ", \"gbs\": " << row.gbs
         << ", \"tflops\": " << row.tflops << ", \"share\": " << row.share << "}";
  }
  json << "\n]}\n";
  return fault.empty() ? 0 : 1;
}

}  // namespace conformance

#endif  // NFLOAT_TESTS_CUDA_BENCH_ROWS_H_
