// SPDX-License-Identifier: Apache-2.0
#include "linear/tiles.h"

#include <algorithm>
#include <cstring>

#include "base/parallel.h"
#include "kernels/dispatch.h"
#include "kernels/tiles.h"

namespace nfloat {
namespace {

using kernels::kOctet;
using kernels::kPackedOctetBytes;
using kernels::kPanelRows;
using kernels::kTileElements;
using kernels::kTileOctets;
using kernels::kTileSide;
using kernels::TileArgs;

// From this many rows on the tiles win although the weights must be expanded for them.
constexpr int64_t kTilesFromRows = 16;
// int8 tiles spare that, and pay with a conversion of each block's sums.
constexpr int64_t kByteTilesFromRows = 5;
// Of rows that go over all panels together: the second cache keeps them.
constexpr int64_t kByteRowsBytes = 512 << 10;
// The activations of a run (at most 384 KiB) and the sums of a block of panels (1 MiB) share the second
// cache.
constexpr int64_t kBlockRows = 512;
constexpr int64_t kBlockPanels = 32;

const kernels::TileKernels* tile_kernels(Precision precision) noexcept {
  const kernels::GemmKernels& gemm = kernels::table().gemm;
  return precision == Precision::kF32 ? gemm.exact_tiles : gemm.tiles;
}

int64_t row_blocks(int64_t m) noexcept {
  return (m + kTileSide - 1) / kTileSide;
}
int64_t steps_of(int64_t octets) noexcept {
  return (octets + kTileOctets - 1) / kTileOctets;
}

struct TileJob {
  const kernels::TileKernels& kernel;
  const uint16_t* x;
  int64_t m, octets, rows;
  float* y;
  int64_t y_stride;
  const float* bias;
};

// A pair of panels, or the last one alone, in a run of octets; and the one that comes after it.
struct Place {
  int64_t panel, octet, octets, next_panel, next_octet;
};

// Multiplies the panels of [begin, end) by all rows, pair by pair and run by run; weights(args, place) points
// args at tiles. `sums`: kBlockPanels panels by kBlockRows rows.
template <typename Weights>
void over_panels(const TileJob& job, int64_t begin, int64_t end, float* sums,
                 const Weights& weights) noexcept {
  const kernels::TileKernels& kernel = job.kernel;
  const int64_t run_octets = kernel.run_steps * kTileOctets;
  const int64_t step_elements = kernel.planes * kTileElements;
  for (int64_t row = 0; row < job.m; row += kBlockRows) {
    const int64_t rows = std::min(kBlockRows, job.m - row);
    const int64_t panel_sums = row_blocks(rows) * kTileSide * kPanelRows;
    for (int64_t first = begin; first < end; first += kBlockPanels) {
      const int64_t last = std::min(end, first + kBlockPanels);
      for (int64_t octet = 0; octet < job.octets; octet += run_octets)
        for (int64_t panel = first; panel < last; panel += 2) {
          Place at{panel, octet, std::min(run_octets, job.octets - octet), panel + 2, octet};
          if (at.next_panel >= last) {
            const bool more = octet + run_octets < job.octets;
            at.next_panel = more ? first : std::min(last, end - 1);
            at.next_octet = more ? octet + run_octets : 0;
          }
          TileArgs a{};
          a.panels = static_cast<int>(std::min<int64_t>(2, last - panel));
          a.steps = steps_of(at.octets);
          a.row_blocks = row_blocks(rows);
          a.x = job.x + (octet / kTileOctets * row_blocks(job.m) + row / kTileSide * a.steps) * step_elements;
          a.sums = sums + (panel - first) * panel_sums;
          a.accumulate = octet > 0;
          weights(a, at);
          kernel.multiply(a);
        }
      for (int64_t panel = first; panel < last; ++panel) {
        kernels::TileResult result;
        result.sums = sums + (panel - first) * panel_sums;
        result.m = rows;
        result.y = job.y + row * job.y_stride + panel * kPanelRows;
        result.y_stride = job.y_stride;
        result.columns = job.rows - panel * kPanelRows;
        result.bias = job.bias == nullptr ? nullptr : job.bias + panel * kPanelRows;
        kernel.store(result);
      }
    }
  }
}

size_t sums_bytes(int64_t m) noexcept {
  return static_cast<size_t>(row_blocks(std::min(m, kBlockRows)) * kTileSide * kPanelRows * kBlockPanels) *
         sizeof(float);
}

}  // namespace

bool tiles_serve(Precision precision, int64_t m) noexcept {
  return precision != Precision::kInt8 && m >= kTilesFromRows && tile_kernels(precision) != nullptr;
}

bool tiles_serve(const DenseMatrix::State& matrix, Precision precision, int64_t m) noexcept {
  return precision == Precision::kBF16 && tiles_serve(precision, m) &&
         matrix.storage == DenseMatrix::Storage::kBF16 && matrix.octets % kTileOctets == 0;
}

bool byte_tiles_serve(const PackedMatrix::State& matrix, Precision precision, int64_t m) noexcept {
  return precision == Precision::kInt8 && m >= kByteTilesFromRows &&
         matrix.group % kernels::kByteBlock == 0 && kernels::table().gemm.byte_tiles != nullptr;
}

Activations::State::ByteTiles Activations::State::prepared_byte_tiles(int threads) {
  constexpr int64_t kBlock = kernels::kByteBlock;
  const int64_t blocks = k / kBlock, rows = row_blocks(m) * kTileSide;
  int8_t* output = reinterpret_cast<int8_t*>(byte_tiles.at_least(static_cast<size_t>(rows * k)));
  float* scales = reinterpret_cast<float*>(byte_scales.at_least(static_cast<size_t>(rows * blocks) * 4));
  if (has_byte_tiles) return {output, scales};
  const auto x_block = kernels::table().gemm.byte_tiles->x_block;
  parallel_for(rows, 1, m < kTileSide ? 1 : threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t block = 0; block < blocks; ++block) {
        int8_t* to = output + ((row / kTileSide * blocks + block) * kTileSide + row % kTileSide) * kBlock;
        float& scale = scales[block * rows + row];
        if (row < m) {
          scale = x_block(x + row * x_stride + block * kBlock, to);
        } else {
          std::memset(to, 0, static_cast<size_t>(kBlock));
          scale = 0;
        }
      }
  });
  has_byte_tiles = true;
  return {output, scales};
}

void byte_tiled(const PackedMatrix::State& s, Activations::State& x, float* y, int64_t y_stride,
                const LinearOptions& options, int64_t run_octets) {
  constexpr int64_t kBlock = kernels::kByteBlock;
  const Activations::State::ByteTiles prepared = x.prepared_byte_tiles(options.threads);
  const auto multiply = kernels::table().gemm.byte_tiles->multiply;
  const int64_t together = std::max<int64_t>(1, kByteRowsBytes / (x.k * kTileSide)) * kTileSide;
  parallel_for(s.panels, 1, options.threads, [&](int64_t begin, int64_t end) {
    const auto sums = static_cast<size_t>(std::min(together, row_blocks(x.m) * kTileSide) * kPanelRows);
    float* scratch = reinterpret_cast<float*>(
        thread_scratch((sums + static_cast<size_t>(s.groups * kPanelRows)) * sizeof(float)));
    kernels::ByteTileArgs a{};
    a.levels = &s.levels;
    a.x_blocks = x.k / kBlock;
    a.x_rows = row_blocks(x.m) * kTileSide;
    a.sums = scratch;
    a.y_stride = y_stride;
    const auto multiply_rows = [&](int64_t panel, int64_t row) {
      const uint8_t* const codes =
          reinterpret_cast<const uint8_t*>(s.codes.data()) + panel * s.octets * kPackedOctetBytes;
      const float* scales = scratch + sums;
      if (s.nested()) {
        s.panel_scales(panel, 0, s.groups, scratch + sums);
      } else {
        scales = reinterpret_cast<const float*>(s.scales.data()) + panel * s.groups * kPanelRows;
      }
      a.m = std::min(together, x.m - row);
      a.y = y + row * y_stride + panel * kPanelRows;
      a.columns = s.rows - panel * kPanelRows;
      a.bias = options.bias == nullptr ? nullptr : options.bias + panel * kPanelRows;
      for (int64_t octet = 0; octet < s.octets; octet += run_octets) {
        const int64_t block = octet * kOctet / kBlock;
        a.codes = codes + octet * kPackedOctetBytes;
        a.scales = scales + octet * kOctet / s.group * kPanelRows;
        a.blocks = std::min(run_octets, s.octets - octet) * kOctet / kBlock;
        a.blocks_per_group = std::min(s.group / kBlock, a.blocks);
        a.x = prepared.x + row * x.k + block * kBlock * kTileSide;
        a.x_scales = prepared.scales + block * a.x_rows + row;
        a.accumulate = octet > 0;
        multiply(a);
      }
    };
    for (int64_t row = 0; row < x.m; row += together)
      for (int64_t panel = begin; panel < end; ++panel) multiply_rows(panel, row);
  });
}

// By runs, so that what is used at a time lies together and does not compete for the same cache sets.
const uint16_t* Activations::State::prepared_tiles(const kernels::TileKernels& kernel, int threads) {
  const int64_t steps = steps_of(octets());
  const int64_t blocks = row_blocks(m);
  const int64_t step_elements = kernel.planes * kTileElements;
  ReusedMemory& memory = kernel.planes == 1 ? tiles : exact_tiles;
  bool& ready = kernel.planes == 1 ? has_tiles : has_exact_tiles;
  uint16_t* output = reinterpret_cast<uint16_t*>(
      memory.at_least(static_cast<size_t>(blocks * steps * step_elements) * sizeof(uint16_t)));
  if (ready) return output;
  parallel_for(blocks * kTileSide, kTileSide, threads, [&](int64_t begin, int64_t end) {
    for (int64_t first = 0; first < steps; first += kernel.run_steps) {
      const int64_t run = std::min(kernel.run_steps, steps - first);
      const int64_t column = first * kTileOctets * kOctet;
      for (int64_t row = begin; row < end; ++row)
        kernel.x_row(x + row * x_stride + column, row < m ? k - column : 0, run,
                     output + (first * blocks + row / kTileSide * run) * step_elements +
                         row % kTileSide * (kTileElements / kTileSide));
    }
  });
  ready = true;
  return output;
}

void tiled(const PackedMatrix::State& s, Activations::State& x, float* y, int64_t y_stride,
           const LinearOptions& options) {
  const kernels::TileKernels& kernel = *tile_kernels(options.precision);
  const TileJob job{
      kernel, x.prepared_tiles(kernel, options.threads), x.m, s.octets, s.rows, y, y_stride, options.bias};
  parallel_for(s.panels, 2, options.threads, [&](int64_t begin, int64_t end) {
    const int64_t run_octets = kernel.run_steps * kTileOctets;
    const size_t panel_elements = static_cast<size_t>(kernel.run_steps * kernel.planes) * kTileElements;
    std::byte* scratch = thread_scratch(2 * panel_elements * sizeof(uint16_t) + sums_bytes(x.m) +
                                        static_cast<size_t>(run_octets + 1) * kPanelRows * sizeof(float));
    uint16_t* expanded = reinterpret_cast<uint16_t*>(scratch);
    float* sums = reinterpret_cast<float*>(expanded + 2 * panel_elements);
    float* nested = sums + sums_bytes(x.m) / sizeof(float);
    const uint8_t* codes = reinterpret_cast<const uint8_t*>(s.codes.data());
    const float* scales = reinterpret_cast<const float*>(s.scales.data());
    const int64_t group_octets = s.group / kOctet;
    over_panels(job, begin, end, sums, [&](TileArgs& a, const Place& at) {
      const int64_t group = at.octet / group_octets;
      for (int64_t p = 0; p < a.panels; ++p) {
        const int64_t panel = at.panel + p, next = std::min(at.next_panel + p, s.panels - 1);
        kernels::TileWeights w;
        w.codes = codes + (panel * s.octets + at.octet) * kPackedOctetBytes;
        w.codes_ahead = codes + (next * s.octets + at.next_octet) * kPackedOctetBytes;
        w.levels = s.levels.f32;
        w.octets = at.octets;
        w.octets_per_group = group_octets;
        w.octets_before = at.octet % group_octets;
        if (s.nested()) {
          s.panel_scales(panel, group, (at.octet + at.octets - 1) / group_octets - group + 1, nested);
          w.scales = w.scales_ahead = nested;
        } else {
          w.scales = scales + (panel * s.groups + group) * kPanelRows;
          w.scales_ahead = scales + (next * s.groups + at.next_octet / group_octets) * kPanelRows;
        }
        kernel.expand(w, expanded + static_cast<size_t>(p) * panel_elements);
      }
      a.weights = expanded;
      a.weights_stride = panel_elements;
    });
  });
}

void tiled(const DenseMatrix::State& s, Activations::State& x, float* y, int64_t y_stride,
           const LinearOptions& options) {
  const kernels::TileKernels& kernel = *tile_kernels(options.precision);
  const TileJob job{
      kernel, x.prepared_tiles(kernel, options.threads), x.m, s.octets, s.rows, y, y_stride, options.bias};
  parallel_for(s.panels, 2, options.threads, [&](int64_t begin, int64_t end) {
    float* sums = reinterpret_cast<float*>(thread_scratch(sums_bytes(x.m)));
    over_panels(job, begin, end, sums, [&](TileArgs& a, const Place& at) {
      a.weights_stride = static_cast<size_t>(s.octets) * kOctet * kPanelRows;
      a.weights = reinterpret_cast<const uint16_t*>(s.weights.data()) +
                  static_cast<size_t>(at.panel) * a.weights_stride + at.octet * kOctet * kPanelRows;
    });
  });
}

}  // namespace nfloat
