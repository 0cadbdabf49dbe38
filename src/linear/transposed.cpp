// SPDX-License-Identifier: Apache-2.0
#include "linear/transposed.h"

#include <algorithm>
#include <bit>

#include "base/fail.h"
#include "base/parallel.h"
#include "base/state_of.h"
#include "kernels/dispatch.h"
#include "linear/pair_blocks.h"

namespace nfloat {
namespace {

using kernels::kOctet;
using kernels::kPackedOctetBytes;
using kernels::kPanelRows;

// A block of the matrix expanded at a time: one of its strips fills half of the first cache, all of it a part
// of the second one, as do the gradients of kChunkRows rows.
constexpr int64_t kExpandedRows = 256;
constexpr int64_t kBlockColumns = 64;

void round_to_bf16(float* values, int64_t count) noexcept {
  // Infinities and NaN stay what they are.
  for (int64_t i = 0; i < count; ++i) {
    const auto bits = std::bit_cast<uint32_t>(values[i]);
    const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
    values[i] = std::bit_cast<float>((bits & 0x7f800000u) == 0x7f800000u ? bits : rounded);
  }
}

// Rows [first, first + strips.rows) of a matrix, columns [column, column + columns), to strips. `first` and
// `column` are multiples of a panel and an octet.
class Expander : public PairSource {
 public:
  void pairs(int64_t first, int64_t column, int64_t columns, int64_t odd, const Strips& strips,
             float* scratch, float* block) const noexcept override;

  virtual void expand(int64_t first, int64_t column, int64_t columns, const Strips& strips, float* scratch,
                      float* output) const noexcept = 0;
  // The same rounded to bf16, pairs of rows, those of a strip where its rows begin. False where there is no
  // such way, as for rows that are no whole panels.
  virtual bool expand_pairs(int64_t first, int64_t column, int64_t columns, const Strips& strips,
                            float* scratch, float* output) const noexcept = 0;
};

void Expander::pairs(int64_t first, int64_t column, int64_t columns, int64_t odd, const Strips& strips,
                     float* scratch, float* block) const noexcept {
  if (odd == 0 && expand_pairs(first, column, columns, strips, scratch, block)) return;
  expand(first, column, columns, strips, scratch, block + odd * strips.width);
  for (int64_t panel = 0; panel < columns; panel += strips.width) {
    float* strip = strips.at(block, 0, panel);
    if (odd > 0) std::fill_n(strip, strips.width, 0.0f);
    if (odd + strips.rows < strips.pitch)
      std::fill_n(strip + (odd + strips.rows) * strips.width, strips.width, 0.0f);
    kernels::table().train.pairs->pair_weights(strip, strips.pitch / 2, reinterpret_cast<uint32_t*>(strip));
  }
}

class PackedExpander final : public Expander {
 public:
  explicit PackedExpander(const PackedMatrix::State& state) : s_(state) {}
  void expand(int64_t first, int64_t column, int64_t columns, const Strips& strips, float* scratch,
              float* output) const noexcept override {
    if (s_.group == 0) return decode(first, column, columns, strips, output);
    const int64_t octet = column / kOctet, octets = columns / kOctet, per_group = s_.group / kOctet;
    const kernels::KernelTable& table = kernels::table();
    float* scales = scratch + kPanelRows * kWideBlockColumns;
    for (int64_t row = 0; row < strips.rows; row += kPanelRows) {
      const int64_t panel = (first + row) / kPanelRows;
      table.gemm.expand_f32(
          reinterpret_cast<const uint8_t*>(s_.codes.data()) + (panel * s_.octets + octet) * kPackedOctetBytes,
          octets, s_.levels, reinterpret_cast<uint8_t*>(scratch));
      for (int64_t done = 0; done < octets;) {
        const int64_t group = (octet + done) / per_group;
        const int64_t count = std::min(
            {octets - done, per_group - (octet + done) % per_group, strips.octets_from(done * kOctet)});
        if (s_.nested()) s_.panel_scales(panel, group, 1, scales);
        const float* own = s_.nested() ? scales
                                       : reinterpret_cast<const float*>(s_.scales.data()) +
                                             (panel * s_.groups + group) * kPanelRows;
        table.train.panel_rows(scratch + done * kOctet * kPanelRows, count, own, count,
                               std::min<int64_t>(kPanelRows, strips.rows - row),
                               strips.at(output, row, done * kOctet), strips.width);
        done += count;
      }
    }
  }
  bool expand_pairs(int64_t first, int64_t column, int64_t columns, const Strips& strips, float* scratch,
                    float* output) const noexcept override {
    if (s_.group == 0 || strips.rows % kPanelRows != 0) return false;
    const int64_t octet = column / kOctet, octets = columns / kOctet, per_group = s_.group / kOctet;
    for (int64_t row = 0; row < strips.rows; row += kPanelRows) {
      const int64_t panel = (first + row) / kPanelRows;
      const auto* codes =
          reinterpret_cast<const uint8_t*>(s_.codes.data()) + (panel * s_.octets + octet) * kPackedOctetBytes;
      int64_t decoded = -1;  // the group whose scales are in `scratch`
      for (int64_t done = 0; done < octets;) {
        const int64_t group = (octet + done) / per_group;
        const int64_t count = std::min(
            {octets - done, per_group - (octet + done) % per_group, strips.octets_from(done * kOctet)});
        if (s_.nested() && group != decoded) s_.panel_scales(panel, decoded = group, 1, scratch);
        const float* own = s_.nested() ? scratch
                                       : reinterpret_cast<const float*>(s_.scales.data()) +
                                             (panel * s_.groups + group) * kPanelRows;
        kernels::table().train.pairs->pair_codes(codes + done * kPackedOctetBytes, count, s_.levels, own,
                                                 strips.pairs_at(output, row, done * kOctet));
        done += count;
      }
    }
    return true;
  }

 private:
  // Blocks that begin inside octets: element by element.
  void decode(int64_t first, int64_t column, int64_t columns, const Strips& strips,
              float* output) const noexcept {
    const uint8_t* codes = reinterpret_cast<const uint8_t*>(s_.codes.data());
    const float* scales = reinterpret_cast<const float*>(s_.scales.data());
    for (int64_t row = 0; row < strips.rows; ++row)
      for (int64_t k = 0; k < columns; ++k) {
        const int64_t i = (first + row) * s_.cols + column + k;
        *strips.at(output, row, k) =
            s_.levels.f32[i % 2 == 0 ? codes[i / 2] >> 4 : codes[i / 2] & 15] * scales[i / s_.block_size];
      }
  }
  const PackedMatrix::State& s_;
};

class DenseExpander final : public Expander {
 public:
  explicit DenseExpander(const DenseMatrix::State& state) : s_(state) {}
  void expand(int64_t first, int64_t column, int64_t columns, const Strips& strips, float* scratch,
              float* output) const noexcept override {
    const kernels::KernelTable& table = kernels::table();
    const int64_t octet = column / kOctet, octets = (columns + kOctet - 1) / kOctet;
    const int64_t groups = s_.group == 0 ? 0 : s_.octets * kOctet / s_.group;
    const int64_t per_group = s_.group == 0 ? s_.octets : s_.group / kOctet;
    for (int64_t row = 0; row < strips.rows; row += kPanelRows) {
      const int64_t panel = (first + row) / kPanelRows;
      const std::byte* stored =
          s_.weights.data() + static_cast<size_t>(panel * s_.octets + octet) * s_.octet_bytes();
      const uint8_t* bytes = reinterpret_cast<const uint8_t*>(stored);
      const float* expanded = scratch;
      if (s_.storage == DenseStorage::kF32)
        expanded = reinterpret_cast<const float*>(stored);
      else if (s_.storage == DenseStorage::kF16)
        table.gemm.widen_f16(bytes, octets, reinterpret_cast<uint8_t*>(scratch));
      else if (s_.storage == DenseStorage::kBF16)
        table.gemm.widen_bf16(bytes, octets, reinterpret_cast<uint8_t*>(scratch));
      else
        table.gemm.widen_int8(bytes, octets, reinterpret_cast<uint8_t*>(scratch));
      for (int64_t done = 0; done < octets;) {
        const int64_t group = (octet + done) / per_group;
        const int64_t count = std::min(
            {octets - done, per_group - (octet + done) % per_group, strips.octets_from(done * kOctet)});
        const float* own = s_.group == 0 ? nullptr
                                         : reinterpret_cast<const float*>(s_.scales.data()) +
                                               (panel * groups + group) * kPanelRows;
        table.train.panel_rows(expanded + done * kOctet * kPanelRows, count, own, count,
                               std::min<int64_t>(kPanelRows, strips.rows - row),
                               strips.at(output, row, done * kOctet), strips.width);
        done += count;
      }
    }
  }
  bool expand_pairs(int64_t first, int64_t column, int64_t columns, const Strips& strips, float*,
                    float* output) const noexcept override {
    if (s_.storage != DenseStorage::kBF16 || s_.group != 0 || strips.rows % kPanelRows != 0) return false;
    const int64_t octet = column / kOctet, octets = (columns + kOctet - 1) / kOctet;
    for (int64_t row = 0; row < strips.rows; row += kPanelRows) {
      const auto* halves = reinterpret_cast<const uint8_t*>(s_.weights.data()) +
                           ((first + row) / kPanelRows * s_.octets + octet) * kernels::kHalfOctetBytes;
      for (int64_t done = 0; done < octets;) {
        const int64_t count = std::min(octets - done, strips.octets_from(done * kOctet));
        kernels::table().train.pairs->pair_halves(halves + done * kernels::kHalfOctetBytes, count,
                                                  strips.pairs_at(output, row, done * kOctet));
        done += count;
      }
    }
    return true;
  }

 private:
  const DenseMatrix::State& s_;
};

void expect_columns(const PackedGradients& dy, int64_t first, int64_t rows) {
  if (first < 0 || dy.columns() < first + rows)
    fail(ErrorCode::kInvalidArgument,
         "transposed product: gradients of {} columns, {} expected from column {} on", dy.columns(), rows,
         first);
}

template <typename Source, typename Matrix>
void run_pairs(const Matrix& matrix, const PackedGradients& dy, int64_t first, const PairOutput& dx,
               int threads) {
  expect_columns(dy, first, matrix.rows());
  if (!dy.in_pairs()) fail(ErrorCode::kInvalidArgument, "transposed product: gradients that are no pairs");
  multiply_pair_blocks(Source(state_of(matrix)), matrix.rows(), matrix.cols(), dy, first, dx, threads);
}

void run(const Expander& expander, int64_t rows, int64_t columns, const PackedGradients& dy, int64_t first,
         float* dx, int64_t dx_stride, bool accumulate, int threads) {
  expect_columns(dy, first, rows);
  if (dy.in_pairs())
    return multiply_pair_blocks(expander, rows, columns, dy, first,
                                {.data = dx, .stride = dx_stride, .accumulate = accumulate}, threads);
  const kernels::TrainKernels& train = kernels::table().train;
  const int64_t group_rows = train.product_rows;
  const int64_t groups = (dy.rows() + group_rows - 1) / group_rows;
  const int64_t chunk = std::max<int64_t>(1, kChunkRows / group_rows);
  const int64_t blocks = (columns + kBlockColumns - 1) / kBlockColumns;
  parallel_for(blocks, 1, threads, [&](int64_t begin, int64_t end) {
    const size_t floats = static_cast<size_t>(kScratchFloats + kExpandedRows * kBlockColumns);
    float* scratch = reinterpret_cast<float*>(thread_scratch(floats * sizeof(float)));
    float* block = scratch + kScratchFloats;
    for (int64_t b = begin; b < end; ++b) {
      const int64_t column = b * kBlockColumns, width = std::min(kBlockColumns, columns - column);
      for (int64_t row = 0; row < rows; row += kExpandedRows) {
        const int64_t count = std::min(kExpandedRows, rows - row);
        const Strips strips{train.product_columns, count, count};
        expander.expand(row, column, width, strips, scratch, block);
        if (dy.bf16()) round_to_bf16(block, count * kBlockColumns);
        for (int64_t g = 0; g < groups; g += chunk)
          for (int64_t panel = 0; panel < width; panel += train.product_columns)
            for (int64_t one = g; one < std::min(groups, g + chunk); ++one) {
              const PackedGradients::Place from = dy.at(one * group_rows, first + row);
              train.product({.a = from.data,
                             .a_row = from.row_stride,
                             .a_column = from.column_stride,
                             .b = strips.at(block, 0, panel),
                             .b_stride = strips.width,
                             .c = dx + one * group_rows * dx_stride + column + panel,
                             .c_stride = dx_stride,
                             .m = std::min(group_rows, dy.rows() - one * group_rows),
                             .n = std::min<int64_t>(train.product_columns, width - panel),
                             .k = count,
                             .accumulate = accumulate || row > 0});
            }
      }
    }
  });
}

// Products of few rows are bound by the decoding, which an expanded block pays for with many. Here a code is
// looked up once for each row of gradients and added to the sum of its column, lane by lane: nothing is
// turned or stored but these sums, kSumColumns columns at a time in the first cache.
constexpr int64_t kFewRows = 4;
constexpr int64_t kSumOctets = 32;
constexpr int64_t kPanelsTogether = 8;

// Float32 scales of `groups` groups of a panel, decoded into `scratch` where they are nested.
const float* scales_at(const PackedMatrix::State& s, int64_t panel, int64_t group, int64_t groups,
                       float* scratch) noexcept {
  if (!s.nested())
    return reinterpret_cast<const float*>(s.scales.data()) + (panel * s.groups + group) * kPanelRows;
  s.panel_scales(panel, group, groups, scratch);
  return scratch;
}

// Sums of the columns of `octets` octets from `first` on, one row of `dy` after the other.
void sum_columns(const PackedMatrix::State& s, int64_t first, int64_t octets, const float* dy, int64_t stride,
                 int64_t m, float* scratch, float* sums) noexcept {
  const int64_t per_group = s.group / kOctet, group = first / per_group;
  const int64_t groups = (first + octets - 1) / per_group + 1 - group;
  const int64_t row_floats = kSumOctets * kOctet * kPanelRows;
  std::fill_n(sums, m * row_floats, 0.0f);
  for (int64_t panel = 0; panel < s.panels; panel += kPanelsTogether) {
    const int64_t panels = std::min(kPanelsTogether, s.panels - panel);
    const float* scales[kPanelsTogether] = {};
    for (int64_t p = 0; p < panels; ++p)
      scales[p] = scales_at(s, panel + p, group, groups, scratch + p * (kSumOctets + 1) * kPanelRows);
    for (int64_t done = 0; done < octets;) {
      const int64_t own = (first + done) / per_group;
      const int64_t count = std::min(octets - done, per_group - (first + done) % per_group);
      for (int64_t i = 0; i < m; ++i) {
        float factors[kPanelsTogether * kPanelRows] = {};
        for (int64_t p = 0; p < panels; ++p) {
          const int64_t row = (panel + p) * kPanelRows, rows = std::min<int64_t>(kPanelRows, s.rows - row);
          const float* scale = scales[p] + (own - group) * kPanelRows;
          for (int64_t r = 0; r < rows; ++r)
            factors[p * kPanelRows + r] = dy[i * stride + row + r] * scale[r];
        }
        kernels::table().train.column_sums({.codes = reinterpret_cast<const uint8_t*>(s.codes.data()) +
                                                     (panel * s.octets + first + done) * kPackedOctetBytes,
                                            .panel_bytes = s.octets * kPackedOctetBytes,
                                            .panels = panels,
                                            .octets = count,
                                            .levels = &s.levels,
                                            .factors = factors,
                                            .sums = sums + i * row_floats + done * kOctet * kPanelRows});
      }
      done += count;
    }
  }
}

void multiply_few(const PackedMatrix::State& s, const float* dy, int64_t stride, int64_t m, float* dx,
                  int64_t dx_stride, int threads) {
  const int64_t blocks = (s.octets + kSumOctets - 1) / kSumOctets;
  parallel_for(blocks, 1, threads, [&](int64_t begin, int64_t end) {
    constexpr int64_t kScales = kPanelsTogether * (kSumOctets + 1) * kPanelRows;
    const int64_t row_floats = kSumOctets * kOctet * kPanelRows;
    float* scratch = reinterpret_cast<float*>(
        thread_scratch(static_cast<size_t>(kScales + m * row_floats) * sizeof(float)));
    float* sums = scratch + kScales;
    for (int64_t b = begin; b < end; ++b) {
      const int64_t first = b * kSumOctets, octets = std::min(kSumOctets, s.octets - first);
      sum_columns(s, first, octets, dy, stride, m, scratch, sums);
      const int64_t columns = std::min(octets * kOctet, s.cols - first * kOctet);
      for (int64_t i = 0; i < m; ++i)
        for (int64_t k = 0; k < columns; ++k) {
          float* lanes = sums + i * row_floats + k * kPanelRows;
          for (int64_t half = kPanelRows / 2; half > 0; half /= 2)
            for (int64_t l = 0; l < half; ++l) lanes[l] += lanes[l + half];
          dx[i * dx_stride + first * kOctet + k] = lanes[0];
        }
    }
  });
}

}  // namespace

void PackedGradients::assign(const float* dy, int64_t stride, int64_t m, int64_t n, bool bf16, int threads) {
  group_ = kernels::table().train.product_rows;
  m_ = m, n_ = n, stride_ = stride, bf16_ = bf16;
  data_ = dy;
  paired_ = bf16 && kernels::table().train.pairs != nullptr;
  if (paired_) return assign_pairs(dy, stride, threads);
  if (!bf16) return;
  const int64_t groups = (m + group_ - 1) / group_;
  float* data = reinterpret_cast<float*>(
      memory_.at_least(static_cast<size_t>(groups * group_ * n) * sizeof(float) + 64));
  data_ = data;
  parallel_for(groups, 1, threads, [&](int64_t begin, int64_t end) {
    for (int64_t g = begin; g < end; ++g) {
      float* to = data + g * group_ * n;
      const int64_t rows = std::min(group_, m - g * group_);
      for (int64_t i = 0; i < group_; ++i) {
        const float* from = dy + (g * group_ + i) * stride;
        if (i >= rows)
          for (int64_t l = 0; l < n; ++l) to[l * group_ + i] = 0;
        else
          for (int64_t l = 0; l < n; ++l) to[l * group_ + i] = from[l];
      }
      round_to_bf16(to, group_ * n);
    }
  });
}

void PackedGradients::assign_pairs(const float* dy, int64_t stride, int threads) {
  const kernels::PairKernels& kernels = *kernels::table().train.pairs;
  stride_ = pair_row_stride(n_) / 2;
  auto* data = reinterpret_cast<uint16_t*>(
      memory_.at_least(static_cast<size_t>(m_ * stride_) * sizeof(uint32_t) + 64));
  data_ = reinterpret_cast<const float*>(data);
  parallel_for(m_, kChunkRows, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      kernels.round_row(dy + i * stride, n_, data + i * 2 * stride_);
      if (n_ % 2 != 0) data[i * 2 * stride_ + n_] = 0;  // the second of the last pair
    }
  });
}

int64_t pair_row_stride(int64_t n) noexcept {
  constexpr int64_t kLine = 32;
  const int64_t lines = (n + kLine - 1) / kLine;
  return (lines % 2 == 0 ? lines + 1 : lines) * kLine;
}

void PackedGradients::assign_halves(const uint16_t* dy, int64_t stride, int64_t m, int64_t n) noexcept {
  group_ = kernels::table().train.product_rows;
  m_ = m, n_ = n, stride_ = stride / 2;
  bf16_ = paired_ = true;
  data_ = reinterpret_cast<const float*>(dy);
}

PackedGradients::Place PackedGradients::at(int64_t row, int64_t column) const noexcept {
  if (bf16_) return {data_ + row * n_ + column * group_, 1, group_};
  return {data_ + row * stride_ + column, stride_, 1};
}

void multiply_transposed(const PackedMatrix& matrix, const PackedGradients& dy, int64_t first, float* dx,
                         int64_t dx_stride, bool accumulate, int threads) {
  if (matrix.rows() == 0 || matrix.cols() == 0 || dy.rows() == 0) return;
  run(PackedExpander(state_of(matrix)), matrix.rows(), matrix.cols(), dy, first, dx, dx_stride, accumulate,
      threads);
}

void multiply_transposed(const DenseMatrix& matrix, const PackedGradients& dy, int64_t first, float* dx,
                         int64_t dx_stride, bool accumulate, int threads) {
  if (matrix.rows() == 0 || matrix.cols() == 0 || dy.rows() == 0) return;
  run(DenseExpander(state_of(matrix)), matrix.rows(), matrix.cols(), dy, first, dx, dx_stride, accumulate,
      threads);
}

void multiply_transposed(const PackedMatrix& matrix, const PackedGradients& dy, int64_t first,
                         const PairOutput& dx, int threads) {
  run_pairs<PackedExpander>(matrix, dy, first, dx, threads);
}

void multiply_transposed(const DenseMatrix& matrix, const PackedGradients& dy, int64_t first,
                         const PairOutput& dx, int threads) {
  run_pairs<DenseExpander>(matrix, dy, first, dx, threads);
}

void multiply_transposed(const PackedMatrix& matrix, const float* dy, int64_t stride, int64_t m, float* dx,
                         int64_t dx_stride, bool bf16, int threads) {
  if (const PackedMatrix::State& s = state_of(matrix); m <= kFewRows && s.group != 0 && s.rows > 0)
    return multiply_few(s, dy, stride, m, dx, dx_stride, threads);
  PackedGradients gradients;
  gradients.assign(dy, stride, m, matrix.rows(), bf16, threads);
  multiply_transposed(matrix, gradients, 0, dx, dx_stride, false, threads);
}

void linear_transposed(const PackedMatrix& matrix, const Activations& x, float* y,
                       const LinearOptions& options) {
  const Activations::State& from = state_of(x);
  if (options.bias != nullptr) fail(ErrorCode::kInvalidArgument, "a transposed product has no bias");
  if (from.k != matrix.rows())
    fail(ErrorCode::kInvalidArgument, "activations have {} columns, the matrix has {} rows", from.k,
         matrix.rows());
  const int64_t stride = options.y_stride > 0 ? options.y_stride : matrix.cols();
  if (matrix.rows() == 0)
    for (int64_t i = 0; i < from.m; ++i) std::fill_n(y + i * stride, matrix.cols(), 0.0f);
  multiply_transposed(matrix, from.x, from.x_stride, from.m, y, stride, options.precision != Precision::kF32,
                      options.threads);
}

}  // namespace nfloat
