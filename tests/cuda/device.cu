// SPDX-License-Identifier: Apache-2.0
// device conformance SEED | small SEED | bench MATMUL_TFLOPS OUT.json | decode IN OUT
// The conformance suite on a device, a part of it that is small enough for compute-sanitizer, times, and a
// decoder for others to compare with. Exit status 1 when a case fails, 77 when there is no device.
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>

#include "attention.h"
#include "bench_rows.h"
#include "conversions.h"
#include "layers.h"
#include "products.h"

namespace {

using namespace conformance;  // NOLINT

int run_suite(bool large, unsigned seed) {
  Random random{std::mt19937(seed)};
  Report report;
  report.quiet = true;
  check_conversions(large, random, report);
  check_products(large, random, report);
  check_layers(large, random, report);
  check_attention(large, random, report);
  std::printf("%d passed, %d failed, seed %u\n", report.passed, report.failed, seed);
  return report.failed == 0 ? 0 : 1;
}

// IN: rows, columns (int64), nested (int64), blocks of 64: codes; then float scales, or 8-bit scales, float
// absmax, 256 floats of map, offset; 16 levels. OUT: bf16 elements.
int decode(const char* in, const char* out) {
  std::ifstream file(in, std::ios::binary);
  const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  size_t at = 0;
  const auto take = [&](auto* to, size_t count) {
    const size_t size = count * sizeof *to;
    if (at + size > bytes.size()) std::exit(2);
    std::memcpy(to, bytes.data() + at, size);
    at += size;
  };
  int64_t header[3];
  take(header, 3);
  const size_t elements = static_cast<size_t>(header[0] * header[1]), blocks = (elements + 63) / 64;
  const bool nested = header[2] != 0;
  std::vector<uint8_t> codes((elements + 1) / 2), second(nested ? blocks : 0);
  std::vector<float> scales(nested ? 0 : blocks), tops(nested ? (blocks + 255) / 256 : 0),
      map(nested ? 256 : 0), offset(nested ? 1 : 0), levels(16);
  take(codes.data(), codes.size());
  take(scales.data(), scales.size());
  take(second.data(), second.size());
  take(tops.data(), tops.size());
  take(map.data(), map.size());
  take(offset.data(), offset.size());
  take(levels.data(), levels.size());
  const Buffer<uint8_t> d_codes(codes), d_second(second);
  const Buffer<float> d_scales(scales), d_tops(tops), d_map(map), d_offset(offset), d_levels(levels);
  const Buffer<gpu::Bf16> result(elements);
  const gpu::Nf4 view{d_codes.get(),
                      nested ? nullptr : d_scales.get(),
                      nested ? d_second.get() : nullptr,
                      d_tops.get(),
                      d_map.get(),
                      d_offset.get(),
                      d_levels.get(),
                      header[0],
                      header[1],
                      6};
  gpu::dequantize_blocks(view, result.get(), 132);
  const std::string fault = machine_fault();
  if (!fault.empty()) {
    std::printf("%s\n", fault.c_str());
    return 1;
  }
  const std::vector<gpu::Bf16> values = result.read();
  std::ofstream(out, std::ios::binary)
      .write(reinterpret_cast<const char*>(values.data()), static_cast<std::streamsize>(elements * 2));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices < 1) {
    std::printf("no device\n");
    return 77;
  }
  const std::string what = argc > 1 ? argv[1] : "";
  const unsigned seed = argc > 2 ? static_cast<unsigned>(std::atoi(argv[2])) : 7;
  if (what == "conformance") return run_suite(true, seed);
  if (what == "small") return run_suite(false, seed);
  if (what == "bench" && argc > 3) return run_bench(std::atof(argv[2]), argv[3]);
  if (what == "decode" && argc > 3) return decode(argv[2], argv[3]);
  std::printf("device conformance SEED | small SEED | bench MATMUL_TFLOPS OUT.json | decode IN OUT\n");
  return 2;
}
