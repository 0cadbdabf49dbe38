// SPDX-License-Identifier: Apache-2.0
// Block types, bit for bit.
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "llama_cpp.h"
#include "nfloat/gguf.h"
#include "parity.h"

namespace judge {

using namespace nfloat;

namespace {

constexpr GgufType kTypes[] = {GgufType::kF16,    GgufType::kBF16,   GgufType::kQ4_0, GgufType::kQ4_1,
                               GgufType::kQ5_0,   GgufType::kQ5_1,   GgufType::kQ8_0, GgufType::kQ2_K,
                               GgufType::kQ3_K,   GgufType::kQ4_K,   GgufType::kQ5_K, GgufType::kQ6_K,
                               GgufType::kIQ4_NL, GgufType::kIQ4_XS, GgufType::kMXFP4};

bool same(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b) || (std::isnan(a) && std::isnan(b));
}

}  // namespace

int compare_blocks() {
  constexpr int kRounds = 1000, kBlocks = 1000;
  std::printf("decoding %d random blocks of each type, bit for bit:", kRounds * kBlocks);
  int failures = 0;
  std::mt19937_64 generator(41);
  for (const GgufType type : kTypes) {
    const GgufTypeInfo& info = gguf_type_info(type);
    const auto number = static_cast<uint32_t>(type);
    const auto elements = static_cast<size_t>(info.block_elements * kBlocks);
    if (block_bytes(number) != info.block_bytes || block_elements(number) != info.block_elements) {
      std::printf("\n%s: blocks of %lld elements there", info.name.data(),
                  static_cast<long long>(block_elements(number)));
      ++failures;
      continue;
    }
    std::vector<uint64_t> words((static_cast<size_t>(info.block_bytes * kBlocks) + 7) / 8);
    std::vector<float> own(elements), theirs(elements);
    uint64_t different = 0;
    for (int round = 0; round < kRounds; ++round) {
      for (uint64_t& word : words) word = generator();
      const auto bytes =
          std::as_bytes(std::span(words)).first(static_cast<size_t>(info.block_bytes * kBlocks));
      decode_gguf(type, bytes, own);
      if (!decode(number, bytes.data(), theirs.data(), static_cast<int64_t>(elements))) different = elements;
      for (size_t i = 0; i < elements; ++i) different += same(own[i], theirs[i]) ? 0 : 1;
    }
    if (different > 0)
      std::printf("\n%s: %llu differ", info.name.data(), static_cast<unsigned long long>(different));
    failures += different > 0 ? 1 : 0;
    std::printf(" %s", info.name.data());
  }
  std::printf("%s\n", failures > 0 ? "  FAILED" : "");
  return failures;
}

int compare_encoders() {
  constexpr int64_t kRows = 512, kCols = 4096;
  std::printf("encoding %lld normal weights, bytes that differ:", static_cast<long long>(kRows * kCols));
  std::vector<float> values(kRows * kCols);
  std::mt19937_64 generator(43);
  std::normal_distribution<float> normal(0, 0.02f);
  for (float& value : values) value = normal(generator);
  int failures = 0;
  for (const GgufType type :
       {GgufType::kF16, GgufType::kBF16, GgufType::kQ8_0, GgufType::kQ4_0, GgufType::kIQ4_NL}) {
    const GgufTypeInfo& info = gguf_type_info(type);
    std::vector<std::byte> own(static_cast<size_t>(kRows * kCols / info.block_elements * info.block_bytes)),
        theirs(own.size());
    encode_gguf(type, values, own);
    encode(static_cast<uint32_t>(type), values.data(), theirs.data(), kRows, kCols);
    uint64_t different = 0;
    for (size_t i = 0; i < own.size(); ++i) different += own[i] == theirs[i] ? 0 : 1;
    std::printf(" %s %llu", info.name.data(), static_cast<unsigned long long>(different));
    failures += different > 0 ? 1 : 0;
  }
  std::printf("%s\n", failures > 0 ? "  FAILED" : "");
  return failures;
}

}  // namespace judge
