// SPDX-License-Identifier: Apache-2.0
// Between 4 bits and floats in device memory, byte for byte what the CPU makes (include/nfloat/quantize.h).
#ifndef NFLOAT_CUDA_CONVERT_H_
#define NFLOAT_CUDA_CONVERT_H_

#include "cuda/nf4.h"

namespace nfloat::gpu {
inline namespace NFLOAT_MACHINE {

// Elements of weights: float, Bf16 or F16 bits.
struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

NFLOAT_DEVICE float widen(float value) {
  return value;
}
NFLOAT_DEVICE float widen(Bf16 value) {
  return bf16_value(value.bits);
}
NFLOAT_DEVICE float widen(F16 value) {
  const uint32_t sign = (value.bits & 0x8000u) << 16, magnitude = value.bits & 0x7fffu;
  if (magnitude >= 0x7c00u)
    return bits_to_float(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13 |
                         ((magnitude & 0x3ffu) != 0 ? 0x400000u : 0u));
  if (magnitude < 0x400u)
    return bits_to_float(sign | float_to_bits(static_cast<float>(magnitude) * 0x1p-24f));
  return bits_to_float(sign | ((magnitude << 13) + 0x38000000u));
}
NFLOAT_DEVICE void narrow(float value, float* to) {
  *to = value;
}
NFLOAT_DEVICE void narrow(float value, Bf16* to) {
  to->bits = round_bf16(value);
}
NFLOAT_DEVICE void narrow(float value, F16* to) {
  const uint32_t bits = float_to_bits(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u | (magnitude >> 13 & 0x3ffu);
  } else if (magnitude >= 0x477ff000u) {
    half = 0x7c00u;
  } else if (magnitude < 0x38800000u) {
    half = float_to_bits(add_rounded(bits_to_float(magnitude), 0.5f)) - 0x3f000000u;
  } else {
    half = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  }
  to->bits = static_cast<uint16_t>(sign | half);
}

template <typename Element>
struct alignas(16) Eight {
  Element values[8];
};

// level * scale in float32, rounded once. A thread takes 8 elements; `out` on 16 bytes.
struct DequantizeShared {
  FloatPairTable<4> table;
};

template <typename Element>
NFLOAT_KERNEL void dequantize(Nf4 w, Element* out) {
  constexpr int kAtOnce = 4;
  DequantizeShared& s = shared<DequantizeShared>();
  s.table.fill(w.levels);
  barrier();
  const int64_t elements = w.rows * w.columns, octets = elements / 8;
  const int64_t stride = int64_t{blocks_x()} * threads();
  for (int64_t first = int64_t{block_x()} * threads() + thread(); first < octets; first += stride * kAtOnce) {
    uint32_t words[kAtOnce];
    float scales[kAtOnce];
    NFLOAT_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      const int64_t octet = first + i * stride;
      words[i] = 0;
      scales[i] = 0;
      if (octet < octets) {
        words[i] = load_stream(reinterpret_cast<const uint32_t*>(w.codes) + octet);
        scales[i] = scale_of(w, octet * 8 >> w.block_shift);
      }
    }
    NFLOAT_UNROLL
    for (int i = 0; i < kAtOnce; ++i) {
      const int64_t octet = first + i * stride;
      Eight<Element> result;
      NFLOAT_UNROLL
      for (int b = 0; b < 4; ++b) {
        const float2 pair = s.table.at(words[i] >> (8 * b) & 255u, thread());
        narrow(multiply_rounded(pair.x, scales[i]), &result.values[2 * b]);
        narrow(multiply_rounded(pair.y, scales[i]), &result.values[2 * b + 1]);
      }
      if (octet < octets) {
        const uint4* from = reinterpret_cast<const uint4*>(&result);
        uint4* to = reinterpret_cast<uint4*>(out + octet * 8);
        NFLOAT_UNROLL
        for (int part = 0; part < static_cast<int>(sizeof result / 16); ++part)
          store_stream(to + part, from[part]);
      }
    }
  }
  const int64_t last = octets * 8 + thread();  // the elements behind the last eight
  if (block_x() == 0 && thread() < 8 && last < elements) {
    const uint32_t byte = w.codes[last / 2], code = last % 2 == 0 ? byte >> 4 : byte & 15u;
    narrow(multiply_rounded(load_cached(w.levels + code), scale_of(w, last >> w.block_shift)), out + last);
  }
}

template <typename Element>
void dequantize_blocks(const Nf4& w, Element* out, int multiprocessors) {
  const int64_t wanted = (w.elements() / 8 + 1023) / 1024;
  const int64_t most = int64_t{multiprocessors} * 8;
  launch(dequantize<Element>,
         static_cast<int>(wanted < 1      ? 1
                          : wanted < most ? wanted
                                          : most),
         1, 256, sizeof(DequantizeShared), w, out);
}

// How a code with 16 levels encodes: thresholds ascending (infinite behind the last), code by rank. Device
// pointers.
struct Code16 {
  const float* thresholds;      // 15
  const uint8_t* code_of_rank;  // 16
};

// Bins of y = weight / absmax in [-1, 1], 1/32 wide: where none holds two thresholds, the bin and one
// comparison give the rank.
inline constexpr int kBins = 128;  // every value of bin_of, NaN too
struct Bin {
  float threshold;
  uint32_t codes;  // at or below it; above it in the high half
};
struct QuantizeShared {
  float thresholds[16];
  uint32_t codes[16];
  alignas(16) Bin bins[kBins];
  int crowded[kBins];
};
// Monotone in y, 1 to 66 for |y| up to 1 and some ulp.
NFLOAT_DEVICE int bin_of(float y) {
  const uint32_t bits = float_to_bits(add_rounded(multiply_rounded(y, 32.0f) + 33.5f, 8388608.0f));
  return static_cast<int>(bits & 127u);
}

// Absmax quantization in blocks of 2^block_shift elements (16 to 4096): scales float32, codes two a byte. A
// group of lanes takes a block, 8 elements a lane and turn. `first_bad` (set to all ones before) takes the
// smallest index that is not finite; the codes of its block are then undefined. Weights on 16 bytes.
template <typename Element>
NFLOAT_KERNEL void quantize(const Element* weights, int64_t elements, int block_shift, Code16 code,
                            uint8_t* codes, float* scales, unsigned long long* first_bad) {
  QuantizeShared& s = shared<QuantizeShared>();
  if (thread() < 16) {
    s.thresholds[thread()] = thread() < 15 ? code.thresholds[thread()] : bits_to_float(0x7f800000u);
    s.codes[thread()] = code.code_of_rank[thread()];
  }
  barrier();
  if (thread() < kBins) {
    const int bin = thread();
    int below = 0, inside = 0;
    float threshold = bits_to_float(0x7f800000u);
    for (int i = 0; i < 15; ++i) {
      const float t = s.thresholds[i];
      const int own = t < -1.0f ? -1 : t > 1.0f ? kBins : bin_of(t);
      below += own < bin ? 1 : 0;
      if (own == bin && inside++ == 0) threshold = t;
    }
    s.bins[bin] = Bin{threshold, s.codes[below] | s.codes[below + (inside > 0 ? 1 : 0)] << 16};
    s.crowded[bin] = inside > 1 ? 1 : 0;
  }
  barrier();
  int crowded = 0;
  for (int i = thread() % 32; i < kBins; i += 32) crowded |= s.crowded[i];
  for (int mask = 1; mask < 32; mask *= 2) crowded |= shuffle_xor(crowded, mask);
  const int64_t size = int64_t{1} << block_shift;
  const int group = size >= 256 ? 32 : static_cast<int>(size / 8);  // lanes that share a block
  const int64_t blocks = (elements + size - 1) >> block_shift;
  const int groups = threads() / group, own = thread() % group;
  const auto load = [&](int64_t at, int64_t end) {
    Eight<Element> run;
    if (at + 8 <= end) {
      const uint4* from = reinterpret_cast<const uint4*>(weights + at);
      uint4* to = reinterpret_cast<uint4*>(&run);
      NFLOAT_UNROLL
      for (int part = 0; part < static_cast<int>(sizeof run / 16); ++part)
        to[part] = load_stream(from + part);
    } else {
      NFLOAT_UNROLL
      for (int i = 0; i < 8; ++i) run.values[i] = at + i < end ? weights[at + i] : Element{};
    }
    return run;
  };
  const auto largest_of = [](const Eight<Element>& run) {
    uint32_t largest = 0;
    NFLOAT_UNROLL
    for (int i = 0; i < 8; ++i) {
      const uint32_t magnitude = float_to_bits(widen(run.values[i])) & 0x7fffffffu;
      largest = magnitude > largest ? magnitude : largest;
    }
    return largest;
  };
  // Every lane of a warp goes round as often: the exchanges need all of them.
  const int64_t turns = (blocks + int64_t{groups} * blocks_x() - 1) / (int64_t{groups} * blocks_x());
  const auto block_of = [&](int64_t turn) {
    return (turn * blocks_x() + block_x()) * groups + thread() / group;
  };
  Eight<Element> next = load((block_of(0) << block_shift) + own * 8, elements);
  for (int64_t turn = 0; turn < turns; ++turn) {
    const int64_t block = block_of(turn), begin = block << block_shift;
    const int64_t end = begin + size < elements ? begin + size : elements;
    Eight<Element> run = next;
    if (turn + 1 < turns) next = load((block_of(turn + 1) << block_shift) + own * 8, elements);
    uint32_t largest = largest_of(run);
    for (int64_t at = begin + (own + group) * 8; at < end; at += group * 8) {
      const uint32_t other = largest_of(load(at, end));
      largest = other > largest ? other : largest;
    }
    for (int mask = 1; mask < group; mask *= 2) {
      const uint32_t other = shuffle_xor(largest, mask);
      largest = other > largest ? other : largest;
    }
    if (largest >= 0x7f800000u && own == 0) {
      for (int64_t i = begin; i < end; ++i) {
        if ((float_to_bits(widen(weights[i])) & 0x7fffffffu) < 0x7f800000u) continue;
        atomic_min(first_bad, static_cast<unsigned long long>(i));
        break;
      }
    }
    const float absmax = bits_to_float(largest);
    const float divisor = absmax < 1e-38f ? 1e-38f : absmax;
    const float reciprocal = divide_rounded(1.0f, divisor);
    const bool whole = begin + size <= elements;
    if (own == 0 && block < blocks) scales[block] = absmax;
    for (int64_t at = begin + own * 8; at < end; at += group * 8) {
      if (size > 256) run = load(at, end);
      uint32_t word = 0;
      if (whole && crowded == 0) {
        NFLOAT_UNROLL
        for (int i = 0; i < 8; ++i) {
          const float y = multiply_rounded(widen(run.values[i]), reciprocal);
          const Bin bin = s.bins[bin_of(y)];
          const uint32_t nibble = bin.threshold < y ? bin.codes >> 16 : bin.codes & 15u;
          word |= nibble << (i / 2 * 8 + (i % 2 == 0 ? 4 : 0));
        }
      } else {
        NFLOAT_UNROLL
        for (int i = 0; i < 8; ++i) {
          const float value = widen(run.values[i]);
          const float y = whole ? multiply_rounded(value, reciprocal) : divide_rounded(value, divisor);
          int rank = s.thresholds[7] < y ? 8 : 0;
          rank += s.thresholds[rank + 3] < y ? 4 : 0;
          rank += s.thresholds[rank + 1] < y ? 2 : 0;
          rank += s.thresholds[rank] < y ? 1 : 0;
          word |= s.codes[rank] << (i / 2 * 8 + (i % 2 == 0 ? 4 : 0));
        }
      }
      if (at + 8 <= end) {
        store_stream(reinterpret_cast<uint32_t*>(codes + at / 2), word);
      } else {
        for (int64_t i = at; i < end; i += 2) codes[i / 2] = static_cast<uint8_t>(word >> ((i - at) / 2 * 8));
      }
    }
  }
}

template <typename Element>
void quantize_blocks(const Element* weights, int64_t elements, int block_shift, const Code16& code,
                     uint8_t* codes, float* scales, unsigned long long* first_bad, int multiprocessors) {
  const int64_t wanted = (elements / 8 + 255) / 256, most = int64_t{multiprocessors} * 16;
  launch(quantize<Element>,
         static_cast<int>(wanted < 1      ? 1
                          : wanted < most ? wanted
                                          : most),
         1, 256, sizeof(QuantizeShared), weights, elements, block_shift, code, codes, scales, first_bad);
}

}  // namespace NFLOAT_MACHINE
}  // namespace nfloat::gpu

#endif  // NFLOAT_CUDA_CONVERT_H_
