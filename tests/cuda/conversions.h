// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TESTS_CUDA_CONVERSIONS_H_
#define NFLOAT_TESTS_CUDA_CONVERSIONS_H_

#include "conformance.h"
#include "cuda/convert.h"

namespace conformance {

// Midpoints in float32, as bitsandbytes has them for NF4.
inline std::vector<float> thresholds_of(const std::vector<float>& levels) {
  std::vector<float> thresholds;
  for (size_t i = 0; i + 1 < levels.size(); ++i)
    thresholds.push_back(static_cast<float>((double{levels[i]} + double{levels[i + 1]}) / 2));
  return thresholds;
}

inline void check_dequantize(int64_t elements, int shift, bool nested, Random& random, Report& report) {
  const Matrix matrix(1, elements, shift, nested, random);
  const Buffer<float> wide(static_cast<size_t>(elements));
  const Buffer<gpu::Bf16> narrow(static_cast<size_t>(elements));
  gpu::dequantize_blocks(matrix.view(), wide.get(), 2);
  gpu::dequantize_blocks(matrix.view(), narrow.get(), 2);
  synchronize();
  const std::vector<float> got = wide.read();
  const std::vector<gpu::Bf16> bits = narrow.read();
  Errors errors, narrow_errors;
  bool rounded = wide.guards_whole() && narrow.guards_whole();
  for (int64_t i = 0; i < elements; ++i) {
    const size_t at = static_cast<size_t>(i);
    const double expected = matrix.at(i), size = std::fabs(expected) + 0.03;
    errors.take(got[at], expected, size);
    narrow_errors.take(bf16(bits[at].bits), expected, size);
    rounded = rounded && bits[at].bits == to_bf16(got[at]);
  }
  char name[96];
  std::snprintf(name, sizeof name, "dequantize %lld, blocks of %d%s", static_cast<long long>(elements),
                1 << shift, nested ? ", 8-bit scales" : "");
  report.add(name, rounded && errors.within(3e-7, 1e-6) && narrow_errors.within(4e-3, 3e-3),
             errors.text() + (rounded ? "" : ", bf16 is not the rounded float or a guard is broken"));
}

// Codes and scales by the definition: the nearest level of weight * (1 / absmax), found among all thresholds.
inline void check_quantize(int64_t elements, int shift, std::vector<float> levels, int64_t bad,
                           Random& random, Report& report) {
  std::vector<uint16_t> weights = random.bf16s(static_cast<size_t>(elements), 0.05f);
  const int64_t size = int64_t{1} << shift, blocks = (elements + size - 1) / size;
  if (blocks > 2)  // a block of zeros
    for (int64_t i = size; i < 2 * size; ++i) weights[static_cast<size_t>(i)] = 0;
  const std::vector<float> thresholds = thresholds_of(levels);
  std::vector<uint8_t> code_of_rank(16);
  for (int i = 0; i < 16; ++i) code_of_rank[static_cast<size_t>(i)] = static_cast<uint8_t>((i * 7 + 3) % 16);
  std::vector<gpu::Bf16> input(weights.size());
  for (size_t i = 0; i < input.size(); ++i) input[i].bits = weights[i];
  if (bad >= 0) input[static_cast<size_t>(bad)].bits = 0x7f80;
  const Buffer<gpu::Bf16> device(input);
  const Buffer<float> device_thresholds(thresholds);
  const Buffer<uint8_t> device_codes(code_of_rank);
  const Buffer<uint8_t> codes(static_cast<size_t>((elements + 1) / 2));
  const Buffer<float> scales(static_cast<size_t>(blocks));
  const Buffer<unsigned long long> first_bad(size_t{1});
  gpu::quantize_blocks(device.get(), elements, shift,
                       gpu::Code16{device_thresholds.get(), device_codes.get()}, codes.get(), scales.get(),
                       first_bad.get(), 2);
  synchronize();
  const std::vector<uint8_t> got = codes.read();
  const std::vector<float> got_scales = scales.read();
  int64_t wrong = 0;
  for (int64_t block = 0; block < blocks && bad < 0; ++block) {
    const int64_t end = std::min(elements, (block + 1) * size);
    float absmax = 0;
    for (int64_t i = block * size; i < end; ++i)
      absmax = std::max(absmax, std::fabs(bf16(weights[static_cast<size_t>(i)])));
    wrong += got_scales[static_cast<size_t>(block)] == absmax ? 0 : 1;
    const volatile float divisor = std::max(absmax, 1e-38f);
    const volatile float reciprocal = 1.0f / divisor;
    for (int64_t i = block * size; i < end; ++i) {
      const float weight = bf16(weights[static_cast<size_t>(i)]);
      const volatile float y = end - block * size == size ? weight * reciprocal : weight / divisor;
      size_t rank = 0;
      for (const float t : thresholds) rank += t < y ? 1u : 0u;
      const uint8_t byte = got[static_cast<size_t>(i / 2)];
      wrong += (i % 2 == 0 ? byte >> 4 : byte & 15) == code_of_rank[rank] ? 0 : 1;
    }
  }
  const unsigned long long found = first_bad.read()[0];
  const bool told = bad < 0 ? found == ~0ull : found == static_cast<unsigned long long>(bad);
  const bool guards = codes.guards_whole() && scales.guards_whole();
  char name[96], detail[96];
  std::snprintf(name, sizeof name, "quantize %lld, blocks of %d, levels from %g",
                static_cast<long long>(elements), 1 << shift, double{levels[0]});
  std::snprintf(detail, sizeof detail, "%lld codes or scales differ%s%s", static_cast<long long>(wrong),
                told ? "" : ", the first that is not finite is not told",
                guards ? "" : ", a guard is broken");
  report.add(name, wrong == 0 && told && guards, detail);
}

inline void check_conversions(bool large, Random& random, Report& report) {
  // Levels so close that two thresholds share a bin: the general way.
  std::vector<float> crowded(16);
  for (size_t i = 0; i < 16; ++i) crowded[i] = -0.1f + 0.01f * static_cast<float>(i);
  check_dequantize(1024, 6, false, random, report);
  check_dequantize(64 * 300 + 13, 6, true, random, report);
  // More than the blocks of a launch take in one turn.
  check_dequantize(64 * 2100 + 9, 6, true, random, report);
  for (const int shift : {6, 8}) check_quantize(64 * 1100 + 5, shift, nf4_levels(), -1, random, report);
  check_dequantize(4096 + 6, 12, false, random, report);
  check_dequantize(7, 6, false, random, report);
  for (const int shift : {4, 5, 6, 7, 8, 9, 12})
    check_quantize(9000 + 2 * shift, shift, nf4_levels(), -1, random, report);
  check_quantize(64 * 64, 6, crowded, -1, random, report);
  check_quantize(64 * 50 + 5, 6, nf4_levels(), -1, random, report);
  check_quantize(5000, 6, nf4_levels(), 4321, random, report);
  check_quantize(10000, 10, nf4_levels(), 9999, random, report);
  if (!large) return;
  check_dequantize(64 * 30011, 6, true, random, report);
  check_quantize(64 * 30011 + 3, 6, nf4_levels(), -1, random, report);
}

}  // namespace conformance

#endif  // NFLOAT_TESTS_CUDA_CONVERSIONS_H_
