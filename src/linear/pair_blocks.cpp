// SPDX-License-Identifier: Apache-2.0
#include "linear/pair_blocks.h"

#include <algorithm>

#include "base/fail.h"
#include "base/parallel.h"
#include "base/state_of.h"
#include "kernels/dispatch.h"

namespace nfloat {
namespace {

constexpr int64_t kBlockTerms = 512;  // a strip of them fills two thirds of the first cache
// Of wide matrices more columns are expanded at a time, as x is read again for each block; with as many
// blocks there is a share for every thread.
constexpr int64_t kNarrowBlockColumns = 64;
constexpr int64_t kWideBlocks = 8;

// Terms are columns of the matrix, columns its rows.
class PackedColumns final : public PairSource {
 public:
  explicit PackedColumns(const PackedMatrix::State& state) : s_(state) {}
  void pairs(int64_t first, int64_t column, int64_t columns, int64_t, const Strips& strips, float* scratch,
             float* block) const noexcept override {
    const kernels::PairKernels& kernels = *kernels::table().train.pairs;
    const int64_t octet = first / kernels::kOctet, octets = strips.rows / kernels::kOctet;
    const int64_t per_group = s_.group / kernels::kOctet, group = octet / per_group;
    const int64_t groups = (octet + octets - 1) / per_group + 1 - group;
    for (int64_t n = 0; n < columns; n += kernels::kPanelRows) {
      const int64_t panel = (column + n) / kernels::kPanelRows;
      const auto* codes = reinterpret_cast<const uint8_t*>(s_.codes.data()) +
                          (panel * s_.octets + octet) * kernels::kPackedOctetBytes;
      const float* scales = scratch;
      if (s_.nested())
        s_.panel_scales(panel, group, groups, scratch);
      else
        scales = reinterpret_cast<const float*>(s_.scales.data()) +
                 (panel * s_.groups + group) * kernels::kPanelRows;
      auto* to = reinterpret_cast<uint32_t*>(strips.at(block, 0, n));
      for (int64_t done = 0; done < octets;) {
        const int64_t own = (octet + done) / per_group - group;
        const int64_t count = std::min(octets - done, per_group - (octet + done) % per_group);
        kernels.pair_columns(codes + done * kernels::kPackedOctetBytes, count, s_.levels,
                             scales + own * kernels::kPanelRows,
                             to + done * kernels::kOctet / 2 * strips.width);
        done += count;
      }
    }
  }

 private:
  const PackedMatrix::State& s_;
};

class DenseColumns final : public PairSource {
 public:
  explicit DenseColumns(const DenseMatrix::State& state) : s_(state) {}
  void pairs(int64_t first, int64_t column, int64_t columns, int64_t, const Strips& strips, float*,
             float* block) const noexcept override {
    for (int64_t n = 0; n < columns; n += kernels::kPanelRows) {
      const int64_t octet = (column + n) / kernels::kPanelRows * s_.octets + first / kernels::kOctet;
      kernels::table().train.pairs->pair_half_columns(
          reinterpret_cast<const uint8_t*>(s_.weights.data()) + octet * kernels::kHalfOctetBytes,
          strips.rows / kernels::kOctet, reinterpret_cast<uint32_t*>(strips.at(block, 0, n)));
    }
  }

 private:
  const DenseMatrix::State& s_;
};

template <typename Source, typename Matrix>
void multiply(const Matrix& matrix, const PackedGradients& x, float* y, int64_t y_stride, const float* bias,
              int threads) {
  if (!x.in_pairs() || x.columns() != matrix.cols() || !multiplies_pairs(matrix))
    fail(ErrorCode::kInvalidArgument, "product in pairs of bf16: {} columns, {} expected", x.columns(),
         matrix.cols());
  if (matrix.rows() == 0 || x.rows() == 0) return;
  multiply_pair_blocks(Source(state_of(matrix)), matrix.cols(), matrix.rows(), x, 0, y, y_stride, false,
                       threads, bias);
}

}  // namespace

void multiply_pair_blocks(const PairSource& source, int64_t terms, int64_t columns, const PackedGradients& x,
                          int64_t first, float* out, int64_t out_stride, bool accumulate, int threads,
                          const float* bias) {
  const kernels::PairKernels& kernels = *kernels::table().train.pairs;
  const int64_t block_columns =
      columns >= kWideBlocks * kWideBlockColumns ? kWideBlockColumns : kNarrowBlockColumns;
  const int64_t blocks = (columns + block_columns - 1) / block_columns, odd = first % 2;
  const int64_t chunk = std::max<int64_t>(1, kChunkRows / kernels.rows) * kernels.rows;
  parallel_for(blocks, 1, threads, [&](int64_t begin, int64_t end) {
    const size_t floats = static_cast<size_t>(kScratchFloats + (kBlockTerms + 2) * block_columns);
    float* scratch = reinterpret_cast<float*>(thread_scratch(floats * sizeof(float)));
    float* block = scratch + kScratchFloats;
    for (int64_t b = begin; b < end; ++b) {
      const int64_t column = b * block_columns, width = std::min(block_columns, columns - column);
      for (int64_t term = 0; term < terms; term += kBlockTerms) {
        const int64_t count = std::min(kBlockTerms, terms - term), pairs = (odd + count + 1) / 2;
        const Strips strips{kernels.columns, count, 2 * pairs};
        source.pairs(term, column, width, odd, strips, scratch, block);
        const uint32_t* from = x.pairs() + (first + term) / 2;
        for (int64_t done = 0; done < x.rows(); done += chunk)
          for (int64_t panel = 0; panel < width; panel += strips.width)
            kernels.product({.a = from + done * x.pair_stride(),
                             .a_row = x.pair_stride(),
                             .b = reinterpret_cast<const uint32_t*>(strips.at(block, 0, panel)),
                             .c = out + done * out_stride + column + panel,
                             .c_stride = out_stride,
                             .m = std::min(chunk, x.rows() - done),
                             .n = std::min(strips.width, width - panel),
                             .pairs = pairs,
                             .accumulate = accumulate || term > 0});
      }
      if (bias == nullptr) continue;
      for (int64_t i = 0; i < x.rows(); ++i)
        for (int64_t c = column; c < column + width; ++c) out[i * out_stride + c] += bias[c];
    }
  });
}

bool target_multiplies_pairs() noexcept {
  return kernels::table().train.pairs != nullptr && kernels::table().gemm.tiles == nullptr;
}

bool multiplies_pairs(const PackedMatrix& matrix) noexcept {
  return target_multiplies_pairs() && state_of(matrix).group != 0 && matrix.cols() % kernels::kOctet == 0;
}

bool multiplies_pairs(const DenseMatrix& matrix) noexcept {
  const DenseMatrix::State& s = state_of(matrix);
  return target_multiplies_pairs() && s.storage == DenseStorage::kBF16 && s.cols % kernels::kOctet == 0;
}

void multiply_pairs(const PackedMatrix& matrix, const PackedGradients& x, float* y, int64_t y_stride,
                    const float* bias, int threads) {
  multiply<PackedColumns>(matrix, x, y, y_stride, bias, threads);
}

void multiply_pairs(const DenseMatrix& matrix, const PackedGradients& x, float* y, int64_t y_stride,
                    const float* bias, int threads) {
  multiply<DenseColumns>(matrix, x, y, y_stride, bias, threads);
}

}  // namespace nfloat
