// SPDX-License-Identifier: Apache-2.0
#include "nfloat/linear.h"

#include <algorithm>

#include "base/cpu_features.h"
#include "base/fail.h"
#include "base/parallel.h"
#include "base/state_of.h"
#include "kernels/dispatch.h"
#include "linear/tiles.h"

namespace nfloat {
namespace {

using kernels::GemmKernels;
using kernels::kActivationRows;
using kernels::kOctet;
using kernels::kPackedOctetBytes;
using kernels::kPanelRows;
using kernels::PanelArgs;

// From this many rows on, panels are expanded once and used for all of them.
constexpr int64_t kExpandFromRows = 24;
constexpr int64_t kExpandWordsFromRows = 6;  // where int8 multiplies words
// Up to this many rows, 8-bit scales are decoded where they are used; more would decode them again and again.
constexpr int64_t kDecodeScalesRows = 8;
// Of a row of expanded weights in one go: three panels fill a good part of the second cache, and y is read
// and written again only for matrices of more columns (at 512 bytes, 512 rows ran at two thirds of the
// speed).
constexpr int64_t kRunBytes = 8192;

// How far ahead packed weights are asked for. Sapphire Rapids wants them in the second cache first, past the
// end of the page that its prefetchers follow, and then in the first: one of the two leaves a quarter of the
// bandwidth. Zen 5 reads fastest when they go to the first at once: two requests a line leave an eighth
// (docs/benchmarks.md); the second one then finds its line on the way, which costs nothing.
struct Ahead {
  int32_t near_bytes, far_bytes;
};
Ahead ahead() noexcept {
  constexpr Ahead kTwoSteps{2048, 16384}, kOneStep{8192, 8192};
  return cpu_features().amd ? kOneStep : kTwoSteps;
}

// One precision, with what depends on it.
struct Format {
  Precision precision;
  int64_t element_bytes;
  int64_t block = 0;  // int8: columns an activation scale
  const std::byte* x = nullptr;
  const float* x_scales = nullptr;
  const int32_t* x_offsets = nullptr;
};

struct Job {
  const Activations::State& x;
  Format format;
  float* y;
  int64_t y_stride, rows, octets;
  const float* bias;
};

Format prepare(Activations::State& x, Precision precision, int64_t block, bool words, int threads) {
  switch (precision) {
    case Precision::kF32:
      return {precision, 4, 0, reinterpret_cast<const std::byte*>(x.prepared_f32(threads)), nullptr, nullptr};
    case Precision::kBF16:
      return {precision, 2,      0, reinterpret_cast<const std::byte*>(x.prepared_bf16(threads)),
              nullptr,   nullptr};
    default: {
      const auto int8 = x.prepared_int8(block, words, threads);
      return {precision, words ? 2 : 1, block, int8.x, int8.scales, int8.offsets};
    }
  }
}

// The arguments for activation rows from `row` on, octets from `octet` on and panels from `panel` on; the
// caller adds the weights.
PanelArgs arguments(const Job& job, int64_t row, int64_t octet, int64_t octets, int64_t panel) noexcept {
  const int64_t m = std::min<int64_t>(kActivationRows, job.x.m - row);
  const int64_t first = row * job.octets * kOctet + octet * kOctet * m;
  PanelArgs a{};
  a.octets = octets;
  a.x = job.format.x + first * job.format.element_bytes;
  a.m = m;
  if (job.format.block != 0) {
    a.x_scales = job.format.x_scales + first / job.format.block;
    a.x_offsets = job.format.x_offsets + first / job.format.block;
    a.octets_per_block = job.format.block / kOctet;
  }
  a.y = job.y + row * job.y_stride + panel * kPanelRows;
  a.y_stride = job.y_stride;
  a.columns = job.rows - panel * kPanelRows;
  a.bias = job.bias == nullptr ? nullptr : job.bias + panel * kPanelRows;
  a.accumulate = octet > 0;
  a.factor = 1;
  return a;
}

// Octets of a run: whole groups of about kRunBytes, or an equal part of a group in whole activation blocks.
int64_t run_octets(int64_t octets, int64_t group, int64_t block, int64_t element_bytes) noexcept {
  const int64_t target = kRunBytes / element_bytes;
  if (group == 0) return std::min(octets, target / kOctet);
  if (group <= target) return std::min(octets, target / group * group / kOctet);
  int64_t part = target;
  while (part > 0 && (group % part != 0 || part % std::max<int64_t>(block, kOctet) != 0)) part -= kOctet;
  return (part > 0 ? part : group) / kOctet;
}

// Those of a packed matrix, for every number of activation rows alike: each sum is taken in one order then,
// and rows in int8 give the same bits alone and among others.
int64_t packed_run_octets(const PackedMatrix::State& s, const Format& format) noexcept {
  const bool words = format.precision == Precision::kInt8 && kernels::table().gemm.words_dense != nullptr;
  return run_octets(s.octets, s.group, format.block, words ? 2 : format.element_bytes);
}

using DenseKernel = void (*)(const PanelArgs&, int) noexcept;

DenseKernel dense_kernel(const GemmKernels& kernel, Precision precision) noexcept {
  return precision == Precision::kF32    ? kernel.f32_dense
         : precision == Precision::kBF16 ? kernel.bf16_dense
                                         : kernel.int8_dense;
}

// How weights that are expanded for one call lie, and what multiplies them.
struct Expanded {
  void (*expand)(const uint8_t*, int64_t, const kernels::LevelTables&, uint8_t*) noexcept;
  DenseKernel run;
};

Expanded expanded_order(const GemmKernels& kernel, Precision precision) noexcept {
  if (precision == Precision::kInt8 && kernel.own_int8_dense != nullptr)
    return {kernel.expand_own_int8, kernel.own_int8_dense};
  if (precision == Precision::kBF16 && kernel.own_bf16_dense != nullptr)
    return {kernel.expand_own_bf16, kernel.own_bf16_dense};
  return {precision == Precision::kF32    ? kernel.expand_f32
          : precision == Precision::kBF16 ? kernel.expand_bf16
                                          : kernel.expand_int8,
          dense_kernel(kernel, precision)};
}

void packed_directly(const PackedMatrix::State& s, const Job& job, int64_t begin, int64_t end) {
  const GemmKernels& kernel = kernels::table().gemm;
  const auto run = job.format.precision == Precision::kF32    ? kernel.f32_packed
                   : job.format.precision == Precision::kBF16 ? kernel.bf16_packed
                                                              : kernel.int8_packed;
  const int64_t octets = packed_run_octets(s, job.format);
  const int64_t group_octets = s.group / kOctet;
  const auto [near_bytes, far_bytes] = ahead();
  float* scratch =
      s.nested() ? reinterpret_cast<float*>(thread_scratch(static_cast<size_t>(s.groups) * kPanelRows * 4))
                 : nullptr;
  for (int64_t panel = begin; panel < end; ++panel) {
    kernels::PanelNested nested;
    const bool on_the_fly = job.x.m <= kDecodeScalesRows && s.panel_nested(panel, nested);
    if (s.nested() && !on_the_fly) s.panel_scales(panel, 0, s.groups, scratch);
    const float* scales =
        s.nested() ? scratch
                   : reinterpret_cast<const float*>(s.scales.data()) + panel * s.groups * kPanelRows;
    const uint8_t* nested_codes = nested.codes;
    for (int64_t octet = 0; octet < s.octets; octet += octets) {
      const int64_t count = std::min(octets, s.octets - octet);
      const int64_t group = octet / group_octets;
      if (on_the_fly) nested.codes = nested_codes + group * kPanelRows;
      for (int64_t row = 0; row < job.x.m; row += kActivationRows) {
        PanelArgs a = arguments(job, row, octet, count, panel);
        a.weights =
            reinterpret_cast<const uint8_t*>(s.codes.data()) + (panel * s.octets + octet) * kPackedOctetBytes;
        a.scales = scales + group * kPanelRows;
        if (on_the_fly) a.nested = &nested;
        a.levels = &s.levels;
        a.near_bytes = near_bytes;
        a.far_bytes = far_bytes;
        a.octets_per_group = std::min(group_octets, count);
        if (job.format.precision == Precision::kInt8) a.factor = s.levels.u8_scale;
        run(a);
      }
    }
  }
}

// Panels [begin, end) in as many parts as it takes for the columns of y that belong to one to stay in the
// second cache while all runs of octets are added to them; `together`: panels of one kernel's call.
template <typename Body>
void by_outputs(const Job& job, int64_t together, int64_t begin, int64_t end, Body&& body) {
  constexpr int64_t kOutputBytes = 384 << 10;
  const int64_t panel_bytes = job.x.m * kPanelRows * static_cast<int64_t>(sizeof(float));
  const int64_t part = std::max<int64_t>(1, kOutputBytes / panel_bytes / together) * together;
  for (int64_t panel = begin; panel < end; panel += part) body(panel, std::min(end, panel + part));
}

void packed_expanded(const PackedMatrix::State& s, const Job& job, int64_t begin, int64_t end) {
  const GemmKernels& kernel = kernels::table().gemm;
  const Precision precision = job.format.precision;
  const bool words = precision == Precision::kInt8 && kernel.words_dense != nullptr;
  const Expanded expanded_as = expanded_order(kernel, precision);
  const DenseKernel run = words ? kernel.words_dense : expanded_as.run;
  const int64_t octets = packed_run_octets(s, job.format);
  const int64_t octet_bytes = kOctet * kPanelRows * job.format.element_bytes;
  const int64_t group_octets = s.group / kOctet;
  const int64_t groups = std::max<int64_t>(1, octets / group_octets);
  const int64_t block_octets = job.format.block / kOctet;
  const int64_t corrections = words ? octets / block_octets * kernels::kCorrectionBytes : 0;
  const size_t panel_bytes = static_cast<size_t>(octets * octet_bytes + corrections);
  std::byte* scratch = thread_scratch(static_cast<size_t>(kernel.max_panels) *
                                      (panel_bytes + static_cast<size_t>(groups) * kPanelRows * 4));
  uint8_t* expanded = reinterpret_cast<uint8_t*>(scratch);
  float* nested = reinterpret_cast<float*>(scratch + static_cast<size_t>(kernel.max_panels) * panel_bytes);
  for (int64_t octet = 0; octet < s.octets; octet += octets) {
    const int64_t count = std::min(octets, s.octets - octet);
    const int64_t group = octet / group_octets;
    const int64_t group_count = std::max<int64_t>(1, count / group_octets);
    for (int64_t panel = begin; panel < end; panel += kernel.max_panels) {
      const int panels = static_cast<int>(std::min<int64_t>(kernel.max_panels, end - panel));
      for (int64_t p = 0; p < panels; ++p) {
        const uint8_t* codes = reinterpret_cast<const uint8_t*>(s.codes.data()) +
                               ((panel + p) * s.octets + octet) * kPackedOctetBytes;
        uint8_t* to = expanded + static_cast<size_t>(p) * panel_bytes;
        if (words) {
          kernel.expand_words(codes, count, block_octets, s.levels, to);
        } else {
          expanded_as.expand(codes, count, s.levels, to);
        }
        if (s.nested()) s.panel_scales(panel + p, group, group_count, nested + p * groups * kPanelRows);
      }
      for (int64_t row = 0; row < job.x.m; row += kActivationRows) {
        PanelArgs a = arguments(job, row, octet, count, panel);
        a.weights = expanded;
        a.weights_stride = panel_bytes;
        a.scales = s.nested() ? nested
                              : reinterpret_cast<const float*>(s.scales.data()) +
                                    (panel * s.groups + group) * kPanelRows;
        a.scales_stride = static_cast<size_t>((s.nested() ? groups : s.groups) * kPanelRows);
        a.octets_per_group = std::min(group_octets, count);
        if (precision == Precision::kInt8) a.factor = s.levels.u8_scale;
        // While these rows are computed, a panel that will be expanded next comes nearer.
        if (const int64_t soon = panel + kernel.max_panels + row / kActivationRows;
            row / kActivationRows < kernel.max_panels && soon < end)
          a.ahead = reinterpret_cast<const uint8_t*>(s.codes.data()) +
                    (soon * s.octets + octet) * kPackedOctetBytes;
        run(a, panels);
      }
    }
  }
}

// Rows whose blocks begin inside octets: decoded one by one, float32 whatever the precision.
void unpacked(const PackedMatrix& matrix, const Job& job, int64_t begin, int64_t end) {
  const int64_t cols = matrix.cols();
  float* weights = reinterpret_cast<float*>(thread_scratch(static_cast<size_t>(cols) * 4));
  for (int64_t n = begin; n < end; ++n) {
    matrix.dequantize_row(n, weights);
    for (int64_t m = 0; m < job.x.m; ++m) {
      const float* x = job.x.x + m * job.x.x_stride;
      float sums[8] = {};
      int64_t k = 0;
      for (; k + 8 <= cols; k += 8)
        for (int64_t j = 0; j < 8; ++j) sums[j] += weights[k + j] * x[k + j];
      for (; k < cols; ++k) sums[k % 8] += weights[k] * x[k];
      float sum = job.bias == nullptr ? 0.0f : job.bias[n];
      for (const float part : sums) sum += part;
      job.y[m * job.y_stride + n] = sum;
    }
  }
}

void dense(const DenseMatrix::State& s, const Job& job, int64_t begin, int64_t end) {
  const GemmKernels& kernel = kernels::table().gemm;
  const Precision precision = job.format.precision;
  const bool as_stored = (s.storage == DenseStorage::kF32 && precision == Precision::kF32) ||
                         (s.storage == DenseStorage::kBF16 && precision == Precision::kBF16) ||
                         (s.storage == DenseStorage::kInt8 && precision == Precision::kInt8);
  const auto widen = s.storage == DenseStorage::kF16    ? kernel.widen_f16
                     : s.storage == DenseStorage::kBF16 ? kernel.widen_bf16
                                                        : kernel.widen_int8;
  const DenseKernel run = dense_kernel(kernel, precision);
  const int most_panels = job.x.m == 1 ? kernel.row_panels : kernel.max_panels;
  const int64_t octets = run_octets(s.octets, s.group, job.format.block, job.format.element_bytes);
  const size_t panel_bytes = static_cast<size_t>(octets) * kernels::kF32OctetBytes;
  uint8_t* widened =
      as_stored ? nullptr
                : reinterpret_cast<uint8_t*>(thread_scratch(static_cast<size_t>(most_panels) * panel_bytes));
  const int64_t groups = s.group == 0 ? 0 : s.octets * kOctet / s.group;
  for (int64_t octet = 0; octet < s.octets; octet += octets) {
    const int64_t count = std::min(octets, s.octets - octet);
    for (int64_t panel = begin; panel < end; panel += most_panels) {
      const int panels = static_cast<int>(std::min<int64_t>(most_panels, end - panel));
      const auto stored = [&](int64_t p) {
        return reinterpret_cast<const uint8_t*>(s.weights.data()) +
               static_cast<size_t>((panel + p) * s.octets + octet) * s.octet_bytes();
      };
      if (!as_stored)
        for (int64_t p = 0; p < panels; ++p)
          widen(stored(p), count, widened + static_cast<size_t>(p) * panel_bytes);
      for (int64_t row = 0; row < job.x.m; row += kActivationRows) {
        PanelArgs a = arguments(job, row, octet, count, panel);
        a.weights = as_stored ? stored(0) : widened;
        a.weights_stride = as_stored ? static_cast<size_t>(s.octets) * s.octet_bytes() : panel_bytes;
        if (s.group != 0) {
          a.scales = reinterpret_cast<const float*>(s.scales.data()) +
                     (panel * groups + octet * kOctet / s.group) * kPanelRows;
          a.scales_stride = static_cast<size_t>(groups * kPanelRows);
        }
        a.octets_per_group = s.group == 0 ? count : s.group / kOctet;
        run(a, panels);
      }
    }
  }
}

int64_t checked_stride(int64_t rows, int64_t cols, const Activations::State& x,
                       const LinearOptions& options) {
  if (x.k != cols)
    fail(ErrorCode::kInvalidArgument, "linear: activations of {} columns, the matrix [{}, {}] expects {}",
         x.k, rows, cols, cols);
  const int64_t stride = options.y_stride == 0 ? rows : options.y_stride;
  if (stride < rows)
    fail(ErrorCode::kInvalidArgument, "linear: rows of y are {} apart, at least {} expected", stride, rows);
  return stride;
}

// No columns: the bias alone.
void empty_sum(const Job& job) noexcept {
  for (int64_t m = 0; m < job.x.m; ++m)
    for (int64_t n = 0; n < job.rows; ++n)
      job.y[m * job.y_stride + n] = job.bias == nullptr ? 0.0f : job.bias[n];
}

}  // namespace

const char* precision_name(Precision precision) noexcept {
  return precision == Precision::kF32 ? "f32" : precision == Precision::kBF16 ? "bf16" : "int8";
}

Precision fast_precision() noexcept {
  return kernels::table().gemm.multiplies_bf16 ? Precision::kBF16 : Precision::kInt8;
}

std::byte* thread_scratch(size_t bytes) {
  static thread_local ReusedMemory scratch;
  return scratch.at_least(bytes);
}

void linear(const PackedMatrix& matrix, const Activations& activations, float* y,
            const LinearOptions& options) {
  Activations::State& x = state_of(activations);
  const int64_t stride = checked_stride(matrix.rows(), matrix.cols(), x, options);
  if (matrix.rows() == 0 || x.m == 0) return;
  const PackedMatrix::State& s = state_of(matrix);
  Job job{x, {}, y, stride, s.rows, s.octets, options.bias};
  if (s.group == 0) {
    parallel_for(s.rows, 1, options.threads,
                 [&](int64_t begin, int64_t end) { unpacked(matrix, job, begin, end); });
    return;
  }
  if (byte_tiles_serve(s, options.precision, x.m))
    return byte_tiled(s, x, y, stride, options, run_octets(s.octets, s.group, activation_block(s.group), 1));
  if (tiles_serve(options.precision, x.m)) return tiled(s, x, y, stride, options);
  const bool has_words =
      options.precision == Precision::kInt8 && kernels::table().gemm.words_dense != nullptr;
  const bool expanded = x.m >= (has_words ? kExpandWordsFromRows : kExpandFromRows);
  const bool words = expanded && kernels::table().gemm.words_dense != nullptr;
  job.format = prepare(x, options.precision, activation_block(s.group), words, options.threads);
  parallel_for(s.panels, 1, options.threads, [&](int64_t begin, int64_t end) {
    if (!expanded) return packed_directly(s, job, begin, end);
    by_outputs(job, kernels::table().gemm.max_panels, begin, end,
               [&](int64_t first, int64_t last) { packed_expanded(s, job, first, last); });
  });
}

void linear(const DenseMatrix& matrix, const Activations& activations, float* y,
            const LinearOptions& options) {
  Activations::State& x = state_of(activations);
  const int64_t stride = checked_stride(matrix.rows(), matrix.cols(), x, options);
  if (matrix.rows() == 0 || x.m == 0) return;
  const DenseMatrix::State& s = state_of(matrix);
  Job job{x, {}, y, stride, s.rows, s.octets, options.bias};
  if (s.octets == 0) return empty_sum(job);
  if (tiles_serve(s, options.precision, x.m)) return tiled(s, x, y, stride, options);
  Precision precision = Precision::kF32;
  if (s.storage == DenseStorage::kBF16 && options.precision != Precision::kF32) precision = Precision::kBF16;
  if (s.storage == DenseStorage::kInt8 && options.precision == Precision::kInt8) precision = Precision::kInt8;
  job.format = prepare(x, precision, s.group, false, options.threads);
  parallel_for(s.panels, 1, options.threads, [&](int64_t begin, int64_t end) {
    if (x.m == 1) return dense(s, job, begin, end);
    by_outputs(job, kernels::table().gemm.max_panels, begin, end,
               [&](int64_t first, int64_t last) { dense(s, job, first, last); });
  });
}

}  // namespace nfloat
