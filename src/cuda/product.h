// SPDX-License-Identifier: Apache-2.0
// Products in float32 with weights of any storage, any number of columns and any blocks. Those of tensor
// cores: multiply.h, gemm.h.
#ifndef NFLOAT_CUDA_PRODUCT_H_
#define NFLOAT_CUDA_PRODUCT_H_

#include "cuda/card.h"
#include "cuda/nf4.h"

namespace nfloat::gpu {
inline namespace NFLOAT_MACHINE {

inline constexpr int kProductThreads = 128, kProductWarps = kProductThreads / 32, kProductRows = 4;

struct ProductShared {
  float levels[16], map[256];
};

// Columns [k, k + 8) of a row of a matrix; zeros behind the last one.
template <Storage kStorage, bool kWholeWords>
NFLOAT_DEVICE void decode_eight(const Weights& w, const ProductShared& s, float offset, int64_t row,
                                int64_t k, float (&to)[8]) {
  if constexpr (kStorage == Storage::kCodes || kStorage == Storage::kNestedCodes) {
    const auto scale_at = [&](int64_t element) {
      const int64_t block = element / w.block;
      if constexpr (kStorage == Storage::kCodes)
        return load_cached(static_cast<const float*>(w.scales) + block);
      const float level = s.map[load_cached(static_cast<const uint8_t*>(w.scales) + block)];
      return add_rounded(multiply_rounded(level, load_cached(w.nested_absmax + block / w.nested_block)),
                         offset);
    };
    const int64_t element = row * w.cols + k;
    if constexpr (kWholeWords) {
      const uint32_t word = load_stream(static_cast<const uint32_t*>(w.elements) + element / 8);
      const float scale = scale_at(element);
      NFLOAT_UNROLL
      for (int i = 0; i < 4; ++i) {
        const uint32_t pair = word >> (8 * i);
        to[2 * i] = s.levels[pair >> 4 & 15u] * scale;
        to[2 * i + 1] = s.levels[pair & 15u] * scale;
      }
    } else {
      for (int i = 0; i < 8; ++i) {
        to[i] = 0;
        if (k + i >= w.cols) continue;
        const int64_t own = element + i;
        const uint32_t pair = load_cached(static_cast<const uint8_t*>(w.elements) + own / 2);
        to[i] = s.levels[(own % 2 != 0 ? pair : pair >> 4) & 15u] * scale_at(own);
      }
    }
  } else {
    const int64_t padded = (w.cols + 7) / 8 * 8, element = row * padded + k;
    if constexpr (kStorage == Storage::kF32) {
      const float* const from = static_cast<const float*>(w.elements) + element;
      NFLOAT_UNROLL
      for (int i = 0; i < 8; ++i) to[i] = load_stream(from + i);
    } else if constexpr (kStorage == Storage::kInt8) {
      const uint2 words =
          load_stream(reinterpret_cast<const uint2*>(static_cast<const int8_t*>(w.elements) + element));
      const float scale = load_cached(static_cast<const float*>(w.scales) + element / w.block);
      NFLOAT_UNROLL
      for (int i = 0; i < 8; ++i) {
        const uint32_t word = i < 4 ? words.x : words.y;
        to[i] = static_cast<float>(static_cast<int8_t>(word >> (8 * (i % 4)) & 255u)) * scale;
      }
    } else {
      const uint4 words =
          load_stream(reinterpret_cast<const uint4*>(static_cast<const uint16_t*>(w.elements) + element));
      const uint32_t pairs[4] = {words.x, words.y, words.z, words.w};
      NFLOAT_UNROLL
      for (int i = 0; i < 8; ++i) {
        const uint32_t half = i % 2 == 0 ? pairs[i / 2] & 0xffffu : pairs[i / 2] >> 16;
        to[i] = kStorage == Storage::kF16 ? f16_value(half) : bf16_value(half);
      }
    }
  }
}

// The tables of codes to shared memory, and the offset of their nested scales; for all threads of a block.
template <Storage kStorage>
NFLOAT_DEVICE float load_tables(const Weights& w, ProductShared& s, int threads) {
  constexpr bool kNested = kStorage == Storage::kNestedCodes;
  float offset = 0;
  if constexpr (kNested || kStorage == Storage::kCodes) {
    if (thread() < 16) s.levels[thread()] = load_cached(w.tables + kLevelsAt + thread());
    if constexpr (kNested) {
      for (int i = thread(); i < 256; i += threads) s.map[i] = load_cached(w.tables + kMapAt + i);
      offset = load_cached(w.tables + kOffsetAt);
    }
    barrier();
  }
  return offset;
}

// A warp takes kProductRows rows of W, its lanes eight columns each, so that what it reads lies together and
// eight numbers of x serve kProductRows rows. A row of y is summed in the same order whatever kBatch is.
// Blocks: rows of W (any number: they go on until none is left), batches of rows of x.
template <Storage kStorage, bool kWholeWords, int kBatch>
NFLOAT_KERNEL void product_rows(ProductArguments a) {
  const Weights& w = a.weights;
  ProductShared& s = shared<ProductShared>();
  const float offset = load_tables<kStorage>(w, s, kProductThreads);
  const int lane = thread() % 32;
  const int64_t x_row = int64_t{block_y()} * kBatch;
  const int64_t step = int64_t{blocks_x()} * kProductWarps * kProductRows;
  for (int64_t first = (int64_t{block_x()} * kProductWarps + thread() / 32) * kProductRows; first < w.rows;
       first += step) {
    constexpr int kSums = kBatch * kProductRows;
    float sums[kSums] = {};
    for (int64_t k = lane * 8; k < w.cols; k += 32 * 8) {
      float weights[kProductRows][8];
      NFLOAT_UNROLL
      for (int r = 0; r < kProductRows; ++r)
        decode_eight<kStorage, kWholeWords>(w, s, offset, first + r < w.rows ? first + r : w.rows - 1, k,
                                            weights[r]);
      NFLOAT_UNROLL
      for (int b = 0; b < kBatch; ++b) {
        const int64_t row = x_row + b < a.x_rows ? x_row + b : a.x_rows - 1;
        const float* const from = a.x + row * a.x_stride + k;
        float x[8];
        NFLOAT_UNROLL
        for (int i = 0; i < 8; ++i) x[i] = k + i < w.cols ? load_cached(from + i) : 0.0f;
        NFLOAT_UNROLL
        for (int r = 0; r < kProductRows; ++r) {
          float sum = 0;
          NFLOAT_UNROLL
          for (int i = 0; i < 8; ++i) sum = fused(weights[r][i], x[i], sum);
          sums[b * kProductRows + r] += sum;
        }
      }
    }
    // Every exchange halves the sums that a lane goes on with, as long as it has more than one: all are added
    // in the order of a butterfly over masks 16, 8, 4, 2, 1.
    int own = 0;
    NFLOAT_UNROLL
    for (int mask = 16, count = kSums; mask > 0; mask /= 2) {
      if (count > 1) {
        const bool high = (lane & mask) != 0;
        count /= 2;
        NFLOAT_UNROLL
        for (int i = 0; i < kSums / 2; ++i) {
          if (i >= count) continue;
          const float given = shuffle_xor(high ? sums[i] : sums[i + count], mask);
          sums[i] = (high ? sums[i + count] : sums[i]) + given;
        }
        own += high ? count : 0;
      } else {
        sums[0] += shuffle_xor(sums[0], mask);
      }
    }
    constexpr int kCopies = 32 / kSums;  // lanes that hold the same sum
    const int64_t row = first + own % kProductRows, to = x_row + own / kProductRows;
    if (lane % kCopies == 0 && row < w.rows && to < a.x_rows)
      a.y[to * a.y_stride + row] = a.bias != nullptr ? sums[0] + a.bias[row] : sums[0];
  }
}

// body(part, batches) for parts of the rows of x: more batches than a launch has blocks for go in several.
template <typename Body>
void over_batches(const ProductArguments& a, int64_t batch, Body&& body) {
  constexpr int64_t kMostBatches = 65535;
  ProductArguments part = a;
  for (int64_t done = 0; done < a.x_rows; done += part.x_rows) {
    part.x_rows = a.x_rows - done < kMostBatches * batch ? a.x_rows - done : kMostBatches * batch;
    part.x = a.x + done * a.x_stride;
    part.y = a.y + done * a.y_stride;
    body(part, static_cast<int>((part.x_rows + batch - 1) / batch));
  }
}

// body.operator()<kStorage, kWholeWords>() of a matrix.
template <typename Body>
void with_storage(const Weights& w, Body&& body) {
  // Eight codes that begin at a multiple of eight have one row and one scale.
  const bool whole = w.cols % 8 == 0 && w.block % 8 == 0;
  switch (w.storage) {
    case Storage::kF32:
      return body.template operator()<Storage::kF32, true>();
    case Storage::kF16:
      return body.template operator()<Storage::kF16, true>();
    case Storage::kBF16:
      return body.template operator()<Storage::kBF16, true>();
    case Storage::kInt8:
      return body.template operator()<Storage::kInt8, true>();
    case Storage::kCodes:
      return whole ? body.template operator()<Storage::kCodes, true>()
                   : body.template operator()<Storage::kCodes, false>();
    default:
      return whole ? body.template operator()<Storage::kNestedCodes, true>()
                   : body.template operator()<Storage::kNestedCodes, false>();
  }
}

template <Storage kStorage, bool kWholeWords>
void launch_product_of(const ProductArguments& a, int multiprocessors) {
  int batch = 1;
  while (batch < 8 && batch < a.x_rows) batch *= 2;
  const int64_t wanted = (a.weights.rows + kProductWarps * kProductRows - 1) / (kProductWarps * kProductRows);
  const int64_t most = int64_t{multiprocessors} * 16;
  const auto kernel = batch == 1   ? product_rows<kStorage, kWholeWords, 1>
                      : batch == 2 ? product_rows<kStorage, kWholeWords, 2>
                      : batch == 4 ? product_rows<kStorage, kWholeWords, 4>
                                   : product_rows<kStorage, kWholeWords, 8>;
  over_batches(a, batch, [&](const ProductArguments& part, int batches) {
    launch(kernel, static_cast<int>(wanted < most ? wanted : most), batches, kProductThreads,
           sizeof(ProductShared), part);
  });
}

inline void launch_product(const ProductArguments& a, int multiprocessors) {
  with_storage(a.weights, [&]<Storage kStorage, bool kWholeWords>() {
    launch_product_of<kStorage, kWholeWords>(a, multiprocessors);
  });
}

}  // namespace NFLOAT_MACHINE
}  // namespace nfloat::gpu

#endif  // NFLOAT_CUDA_PRODUCT_H_
