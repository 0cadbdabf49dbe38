// SPDX-License-Identifier: Apache-2.0
// One panel by a block of activation rows, on every target that this machine runs, against sums in double
// precision of what the kernels are given: levels and activations as each precision rounds them.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "base/cpu_features.h"
#include "base/float16.h"
#include "kernels/dispatch.h"

namespace nfloat::kernels {

#if defined(__x86_64__)
extern const GemmKernels kEmulatedAvxVnni;
#endif

namespace {

struct Target {
  std::string name;
  const GemmKernels* gemm;
};

std::vector<Target> targets() {
  std::vector<Target> list;
  for (const KernelTable* table : runnable_tables()) list.push_back({table->name, &table->gemm});
#if defined(__x86_64__)
  if (cpu_features().avx2) list.push_back({"avxvnni, emulated", &kEmulatedAvxVnni});
#endif
  return list;
}

size_t index(int64_t i) {
  return static_cast<size_t>(i);
}

enum class Kind { kF32, kBf16, kInt8 };

// Weights of sixteen rows, scales a group of each, activations of m rows.
struct Problem {
  int64_t m, octets, octets_per_group, octets_per_block;
  LevelTables levels{};
  std::vector<uint8_t> codes;  // [octets][16][8]
  std::vector<uint8_t> packed;
  std::vector<float> scales;  // [groups][16]
  std::vector<float> x;       // [m][octets * 8]

  Problem(int64_t rows, int64_t all, int64_t group, int64_t block)
      : m(rows), octets(all), octets_per_group(group), octets_per_block(block) {
    std::mt19937 generator(static_cast<uint32_t>(7 * rows + 31 * all + group));
    std::normal_distribution<float> normal;
    for (int i = 0; i < 16; ++i) {
      levels.f32[i] = std::round(127 * std::sin(static_cast<float>(i) / 5 - 1.5f)) / 127;
      levels.bf16[i] = levels.bf16[i + 16] = float_to_bf16(levels.f32[i]);
    }
    levels.u8_scale = 1.0f / 127;
    for (int i = 0; i < 64; ++i)
      levels.u8[i] = static_cast<uint8_t>(128 + static_cast<int>(std::lround(127 * levels.f32[i % 16])));
    for (int64_t i = 0; i < octets * 128; ++i) codes.push_back(generator() % 16);
    packed.resize(index(octets * kPackedOctetBytes));
    for (int64_t i = 0; i < octets; ++i)
      for (int64_t r = 0; r < kPanelRows; ++r)
        for (int64_t j = 0; j < 4; ++j)
          packed[index(64 * i + 4 * r + j)] = static_cast<uint8_t>(code(i, r, j) | code(i, r, j + 4) << 4);
    for (int64_t i = 0; i < groups() * kPanelRows; ++i) scales.push_back(0.5f + std::fabs(normal(generator)));
    for (int64_t i = 0; i < m * columns(); ++i) x.push_back(normal(generator));
    x[0] = 40;  // a block whose other activations take few of the 127 steps
  }

  int64_t groups() const { return octets / octets_per_group; }
  int64_t columns() const { return octets * kOctet; }
  uint8_t code(int64_t octet, int64_t row, int64_t j) const {
    return codes[index((octet * kPanelRows + row) * kOctet + j)];
  }
};

// Sums and sums of magnitudes, [m][16].
struct Oracle {
  std::vector<double> y, magnitude;
};

Oracle multiply(const Problem& p, Kind kind) {
  Oracle o;
  const int64_t block = p.octets_per_block * kOctet;
  for (int64_t m = 0; m < p.m; ++m)
    for (int64_t r = 0; r < kPanelRows; ++r) {
      double sum = 0, magnitude = 0;
      for (int64_t k = 0; k < p.columns(); ++k) {
        const uint8_t code = p.code(k / kOctet, r, k % kOctet);
        const float* row = p.x.data() + m * p.columns();
        double x = row[k], w = p.levels.f32[code];
        if (kind == Kind::kBf16) {
          x = bf16_to_float(float_to_bf16(row[k]));
          w = bf16_to_float(p.levels.bf16[code]);
        } else if (kind == Kind::kInt8) {
          float largest = 0;
          for (int64_t i = k / block * block; i < k / block * block + block; ++i)
            largest = std::max(largest, std::fabs(row[i]));
          const float scaled = row[k] * (127.0f / largest);
          x = std::trunc(scaled + (scaled < 0 ? -0.5f : 0.5f)) * double{largest / 127.0f};
          w = (p.levels.u8[code] - 128) * double{p.levels.u8_scale};
        }
        const double product =
            w * x * double{p.scales[index(k / kOctet / p.octets_per_group * kPanelRows + r)]};
        sum += product;
        magnitude += std::fabs(product);
      }
      o.y.push_back(sum);
      o.magnitude.push_back(magnitude);
    }
  return o;
}

// Activations as `kernel` wants them, in a vector that lives as long as the arguments.
struct Prepared {
  std::vector<float> x, scales;
  std::vector<int32_t> offsets;
  PanelArgs args{};

  Prepared(const Problem& p, const GemmKernels& kernel, Kind kind, bool words)
      : x(index(p.m * p.columns())),
        scales(index(p.m * p.octets / p.octets_per_block)),
        offsets(scales.size()) {
    for (int64_t m = 0; m < p.m; ++m) {
      const float* row = p.x.data() + m * p.columns();
      const int64_t block = p.octets_per_block * kOctet;
      if (kind == Kind::kF32) kernel.x_f32(row, p.columns(), p.m, x.data() + m * kOctet);
      if (kind == Kind::kBf16)
        kernel.x_bf16(row, p.columns(), p.m, reinterpret_cast<uint16_t*>(x.data()) + m * kOctet);
      if (kind == Kind::kInt8 && !words)
        kernel.x_int8(row, p.columns(), p.m, block, reinterpret_cast<int8_t*>(x.data()) + m * kOctet,
                      scales.data() + m, offsets.data() + m);
      if (kind == Kind::kInt8 && words)
        kernel.x_words(row, p.columns(), p.m, block, reinterpret_cast<int16_t*>(x.data()) + m * kOctet,
                       scales.data() + m, offsets.data() + m);
    }
    args.weights = p.packed.data();
    args.scales = p.scales.data();
    args.scales_stride = p.scales.size();
    args.levels = &p.levels;
    args.octets = p.octets;
    args.octets_per_group = p.octets_per_group;
    args.x = x.data();
    args.m = p.m;
    args.x_scales = scales.data();
    args.x_offsets = offsets.data();
    args.octets_per_block = p.octets_per_block;
    args.y_stride = kPanelRows;
    args.columns = kPanelRows;
    args.factor = kind == Kind::kInt8 ? p.levels.u8_scale : 1.0f;
  }

  std::vector<float> run(const auto& kernel) {
    std::vector<float> y(index(args.m * kPanelRows), NAN);
    args.y = y.data();
    kernel(args);
    return y;
  }
};

void expect_close(const std::vector<float>& y, const Oracle& o) {
  for (size_t i = 0; i < y.size(); ++i) ASSERT_NEAR(y[i], o.y[i], 1e-6 * o.magnitude[i]) << "element " << i;
}

const struct {
  int64_t m, octets, octets_per_group, octets_per_block;
} kShapes[] = {{1, 8, 8, 8},   {2, 16, 8, 8}, {3, 24, 8, 8},  {4, 6, 2, 2},   {5, 9, 3, 1},
               {6, 32, 16, 8}, {7, 5, 1, 1},  {8, 64, 64, 8}, {8, 128, 8, 8}, {1, 7, 7, 1}};

TEST(Products, PackedAndExpandedOnEveryTarget) {
  for (const auto& s : kShapes) {
    const Problem p(s.m, s.octets, s.octets_per_group, s.octets_per_block);
    for (const Kind kind : {Kind::kF32, Kind::kBf16, Kind::kInt8}) {
      const Oracle o = multiply(p, kind);
      for (const Target& target : targets()) {
        SCOPED_TRACE(::testing::Message() << target.name << ", m " << s.m << " octets " << s.octets
                                          << " precision " << static_cast<int>(kind));
        const GemmKernels& kernel = *target.gemm;
        Prepared prepared(p, kernel, kind, false);
        const auto packed = kind == Kind::kF32    ? kernel.f32_packed
                            : kind == Kind::kBf16 ? kernel.bf16_packed
                                                  : kernel.int8_packed;
        const std::vector<float> y = prepared.run(packed);
        expect_close(y, o);
        std::vector<uint8_t> expanded(index(p.octets * kF32OctetBytes));
        const auto expand = kind == Kind::kF32    ? kernel.expand_f32
                            : kind == Kind::kBf16 ? kernel.expand_bf16
                                                  : kernel.expand_int8;
        const auto dense = kind == Kind::kF32    ? kernel.f32_dense
                           : kind == Kind::kBf16 ? kernel.bf16_dense
                                                 : kernel.int8_dense;
        expand(p.packed.data(), p.octets, p.levels, expanded.data());
        prepared.args.weights = expanded.data();
        const std::vector<float> of_expanded = prepared.run([&](const PanelArgs& a) { dense(a, 1); });
        expect_close(of_expanded, o);
        const auto expand_own = kind == Kind::kBf16   ? kernel.expand_own_bf16
                                : kind == Kind::kInt8 ? kernel.expand_own_int8
                                                      : nullptr;
        if (expand_own != nullptr) {
          const auto own = kind == Kind::kBf16 ? kernel.own_bf16_dense : kernel.own_int8_dense;
          expand_own(p.packed.data(), p.octets, p.levels, expanded.data());
          EXPECT_EQ(prepared.run([&](const PanelArgs& a) { own(a, 1); }), of_expanded);
        }
        if (kind != Kind::kInt8) continue;
        EXPECT_EQ(of_expanded, y);
        if (kernel.words_dense == nullptr) continue;
        Prepared in_words(p, kernel, kind, true);
        kernel.expand_words(p.packed.data(), p.octets, p.octets_per_block, p.levels, expanded.data());
        in_words.args.weights = expanded.data();
        EXPECT_EQ(in_words.run([&](const PanelArgs& a) { kernel.words_dense(a, 1); }), y);
      }
    }
  }
}

// The sums of bytes are exact, so that targets with the same width of vectors give the same bits.
TEST(Products, EightBitScalesGiveTheBitsOfTheirValues) {
  const int64_t groups = 13;
  const Problem p(3, 8 * groups, 8, 8);
  ScaleMap map;
  PanelNested nested;
  std::vector<uint8_t> codes;
  std::mt19937 generator(5);
  for (size_t i = 0; i < 256; ++i) {
    map.values[i] = std::ldexp(static_cast<float>(i) - 127.3f, -static_cast<int>(i % 9));
    uint32_t bits;
    std::memcpy(&bits, map.values + i, sizeof bits);
    for (int byte = 0; byte < 4; ++byte) map.bytes[byte][i] = static_cast<uint8_t>(bits >> (8 * byte));
  }
  for (int64_t i = 0; i < groups * kPanelRows; ++i) codes.push_back(static_cast<uint8_t>(generator()));
  for (int r = 0; r < kPanelRows; ++r) nested.absmax[r] = 0.1f + static_cast<float>(r) / 7;
  nested.codes = codes.data();
  nested.map = &map;
  nested.offset = 0.37f;
  std::vector<float> scales(codes.size());
  for (size_t i = 0; i < codes.size(); ++i)
    scales[i] = map.values[codes[i]] * nested.absmax[i % kPanelRows] + nested.offset;
  for (const Target& target : targets())
    for (const Kind kind : {Kind::kF32, Kind::kBf16, Kind::kInt8}) {
      const auto packed = kind == Kind::kF32    ? target.gemm->f32_packed
                          : kind == Kind::kBf16 ? target.gemm->bf16_packed
                                                : target.gemm->int8_packed;
      Prepared prepared(p, *target.gemm, kind, false);
      prepared.args.scales = scales.data();
      const std::vector<float> expected = prepared.run(packed);
      prepared.args.nested = &nested;
      EXPECT_EQ(prepared.run(packed), expected) << target.name;
    }
}

// Packed, and in bytes and words expanded.
TEST(Products, WhatIsNoNumberShowsInItsRow) {
  for (const float bad : {NAN, INFINITY, -INFINITY})
    for (const int64_t m : {1, 3, 4, 8}) {
      Problem p(m, 16, 8, 8);
      const int64_t row = m - 1, columns = p.columns();
      p.x[index(row * columns + columns / 2 + 3)] = bad;  // of the second block
      for (const Target& target : targets())
        for (const Kind kind : {Kind::kF32, Kind::kBf16, Kind::kInt8}) {
          SCOPED_TRACE(::testing::Message() << target.name << ", m " << m << " of " << bad << " precision "
                                            << static_cast<int>(kind));
          const GemmKernels& kernel = *target.gemm;
          const auto check = [&](const std::vector<float>& y) {
            for (size_t i = 0; i < y.size(); ++i)
              ASSERT_EQ(std::isfinite(y[i]), static_cast<int64_t>(i) / kPanelRows != row) << i;
          };
          Prepared prepared(p, kernel, kind, false);
          check(prepared.run(kind == Kind::kF32    ? kernel.f32_packed
                             : kind == Kind::kBf16 ? kernel.bf16_packed
                                                   : kernel.int8_packed));
          if (kind != Kind::kInt8) continue;
          std::vector<uint8_t> expanded(index(p.octets * kF32OctetBytes));
          kernel.expand_int8(p.packed.data(), p.octets, p.levels, expanded.data());
          prepared.args.weights = expanded.data();
          check(prepared.run([&](const PanelArgs& a) { kernel.int8_dense(a, 1); }));
          if (kernel.words_dense == nullptr) continue;
          Prepared in_words(p, kernel, kind, true);
          kernel.expand_words(p.packed.data(), p.octets, p.octets_per_block, p.levels, expanded.data());
          in_words.args.weights = expanded.data();
          check(in_words.run([&](const PanelArgs& a) { kernel.words_dense(a, 1); }));
        }
    }
}

// 127 over the largest magnitude of a block is no float below 4e-37.
TEST(Products, TinyActivationsAreNothing) {
  Problem p(3, 16, 8, 8);
  for (size_t i = 0; i < p.x.size(); ++i) p.x[i] = i % 2 == 0 ? 1e-38f : -3e-40f;
  for (const Target& target : targets()) {
    Prepared prepared(p, *target.gemm, Kind::kInt8, false);
    for (const float y : prepared.run(target.gemm->int8_packed))
      EXPECT_LT(std::fabs(y), 1e-34f) << target.name;
  }
}

#if defined(__x86_64__)
TEST(Products, EmulatedAvxVnniGivesTheBitsOfAvx2) {
  if (!cpu_features().avx2) GTEST_SKIP() << "this processor has no AVX2";
  const GemmKernels* avx2 = nullptr;
  for (const KernelTable* table : runnable_tables())
    if (std::string(table->name) == "avx2") avx2 = &table->gemm;
  ASSERT_NE(avx2, nullptr);
  for (const auto& s : kShapes) {
    const Problem p(s.m, s.octets, s.octets_per_group, s.octets_per_block);
    Prepared one(p, *avx2, Kind::kInt8, false), other(p, kEmulatedAvxVnni, Kind::kInt8, false);
    EXPECT_EQ(one.run(avx2->int8_packed), other.run(kEmulatedAvxVnni.int8_packed)) << s.m << " " << s.octets;
  }
}
#endif

// The target is listed where the processor has the instructions, and only there.
TEST(Products, AvxVnniRunsOnlyWhereTheProcessorHasIt) {
  bool listed = false;
  for (const KernelTable* table : runnable_tables()) listed = listed || std::string(table->name) == "avxvnni";
  EXPECT_EQ(listed, cpu_features().avx_vnni);
}

}  // namespace
}  // namespace nfloat::kernels
