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
constexpr int64_t kRowsApart = 2048;  // for each thread a block of them in float32

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
void multiply(const Matrix& matrix, const PackedGradients& x, const PairOutput& y, int threads) {
  if (!x.in_pairs() || x.columns() != matrix.cols() || !multiplies_pairs(matrix))
    fail(ErrorCode::kInvalidArgument, "product in pairs of bf16: {} columns, {} expected", x.columns(),
         matrix.cols());
  if (matrix.rows() == 0 || x.rows() == 0) return;
  multiply_pair_blocks(Source(state_of(matrix)), matrix.cols(), matrix.rows(), x, 0, y, threads);
}

// One block of columns for some rows: its sums, where they are made, become what PairOutput says.
class BlockEnd {
 public:
  BlockEnd(const PairOutput& y, int64_t column, int64_t width, const Strips& strips, uint32_t* tail) noexcept
      : y_(y), column_(column), width_(width), strip_(strips.width), tail_(tail) {
    if (y.tail == nullptr) return;
    for (int64_t at = 0; at < width; at += strip_)
      y.tail->fill(column + at, std::min(strip_, width - at), tail + at * y.tail->pairs());
  }

  // Rows [row, row + rows) of the output, their sums at c.
  void operator()(int64_t row, int64_t rows, float* c, int64_t stride) const noexcept {
    const kernels::PairKernels& kernels = *kernels::table().train.pairs;
    if (y_.tail != nullptr)
      for (int64_t at = 0; at < width_; at += strip_)
        kernels.product({.a = y_.tail->x() + row * y_.tail->stride(),
                         .a_row = y_.tail->stride(),
                         .b = tail_ + at * y_.tail->pairs(),
                         .b_row = strip_,
                         .c = c + at,
                         .c_stride = stride,
                         .m = rows,
                         .n = std::min(strip_, width_ - at),
                         .pairs = y_.tail->pairs(),
                         .accumulate = true});
    for (int64_t i = 0; i < rows; ++i) {
      float* values = c + i * stride;
      if (y_.factors != nullptr)
        for (int64_t j = 0; j < width_; ++j) values[j] *= y_.factors[column_ + j];
      if (y_.bias != nullptr)
        for (int64_t j = 0; j < width_; ++j) values[j] += y_.bias[column_ + j];
      if (y_.half != nullptr) kernels.round_row(values, width_, y_.half + (row + i) * y_.stride + column_);
    }
  }

 private:
  const PairOutput& y_;
  int64_t column_, width_, strip_;
  uint32_t* tail_;
};

}  // namespace

void multiply_pair_blocks(const PairSource& source, int64_t terms, int64_t columns, const PackedGradients& x,
                          int64_t first, const PairOutput& y, int threads) {
  const kernels::PairKernels& kernels = *kernels::table().train.pairs;
  const int64_t block_columns =
      columns >= kWideBlocks * kWideBlockColumns ? kWideBlockColumns : kNarrowBlockColumns;
  const int64_t blocks = (columns + block_columns - 1) / block_columns, odd = first % 2;
  const int64_t chunk = std::max<int64_t>(1, kChunkRows / kernels.rows) * kernels.rows;
  // Sums that are rounded at the end lie apart until then.
  const int64_t together = y.half == nullptr ? x.rows() : std::min(x.rows(), kRowsApart);
  const int64_t tail_pairs = y.tail == nullptr ? 0 : y.tail->pairs();
  parallel_for(blocks, 1, threads, [&](int64_t begin, int64_t end) {
    const int64_t apart = y.half == nullptr ? 0 : together * block_columns;
    const size_t floats =
        static_cast<size_t>(kScratchFloats + (kBlockTerms + 2 + tail_pairs) * block_columns + apart);
    float* scratch = reinterpret_cast<float*>(thread_scratch(floats * sizeof(float)));
    float* block = scratch + kScratchFloats;
    float* sums = block + (kBlockTerms + 2) * block_columns;
    auto* tail = reinterpret_cast<uint32_t*>(sums + apart);
    for (int64_t b = begin; b < end; ++b) {
      const int64_t column = b * block_columns, width = std::min(block_columns, columns - column);
      for (int64_t top = 0; top < x.rows(); top += together) {
        const int64_t bottom = std::min(x.rows(), top + together);
        float* c = apart > 0 ? sums : y.data + top * y.stride + column;
        const int64_t c_stride = apart > 0 ? block_columns : y.stride;
        const BlockEnd finish(y, column, width, {kernels.columns, 0, 0}, tail);
        for (int64_t term = 0; term < terms; term += kBlockTerms) {
          const int64_t count = std::min(kBlockTerms, terms - term), pairs = (odd + count + 1) / 2;
          const Strips strips{kernels.columns, count, 2 * pairs};
          source.pairs(term, column, width, odd, strips, scratch, block);
          const uint32_t* from = x.pairs() + (first + term) / 2;
          for (int64_t row = top; row < bottom; row += chunk) {
            const int64_t rows = std::min(chunk, bottom - row);
            for (int64_t panel = 0; panel < width; panel += strips.width)
              kernels.product({.a = from + row * x.pair_stride(),
                               .a_row = x.pair_stride(),
                               .b = reinterpret_cast<const uint32_t*>(strips.at(block, 0, panel)),
                               .b_row = strips.width,
                               .c = c + (row - top) * c_stride + panel,
                               .c_stride = c_stride,
                               .m = rows,
                               .n = std::min(strips.width, width - panel),
                               .pairs = pairs,
                               .accumulate = y.accumulate || term > 0});
            if (term + count == terms) finish(row, rows, c + (row - top) * c_stride, c_stride);
          }
        }
      }
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

void multiply_pairs(const PackedMatrix& matrix, const PackedGradients& x, const PairOutput& y, int threads) {
  multiply<PackedColumns>(matrix, x, y, threads);
}

void multiply_pairs(const DenseMatrix& matrix, const PackedGradients& x, const PairOutput& y, int threads) {
  multiply<DenseColumns>(matrix, x, y, threads);
}

}  // namespace nfloat
