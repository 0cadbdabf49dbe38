// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>

#include "base/fail.h"
#include "base/parallel.h"
#include "kernels/dispatch.h"
#include "linear/state.h"
#include "tensor/block_scales.h"

namespace nfloat {
namespace {

using kernels::kOctet;
using kernels::kPackedOctetBytes;
using kernels::kPanelRows;

void check_length(const char* what, size_t found, int64_t expected) {
  if (static_cast<int64_t>(found) != expected)
    fail(ErrorCode::kInvalidArgument, "packing a matrix: {} has {} elements, {} expected", what, found,
         expected);
}

BlockScales scales_of(const PackSource& s) noexcept {
  if (s.nested_codes.empty()) return BlockScales(s.scales.data());
  return {s.nested_codes.data(), s.nested_map.data(), s.nested_absmax.data(),
          s.nested_offset,       s.nested_block_size, s.nested_first};
}

std::unique_ptr<const kernels::ScaleMap> make_scale_map(std::span<const float> values) {
  auto map = std::make_unique<kernels::ScaleMap>();
  for (size_t i = 0; i < values.size(); ++i) {
    map->values[i] = values[i];
    const auto bits = std::bit_cast<uint32_t>(values[i]);
    for (int byte = 0; byte < 4; ++byte) map->bytes[byte][i] = static_cast<uint8_t>(bits >> (8 * byte));
  }
  return map;
}

// [rows][groups] to [groups][16], rows past the last zero.
template <typename Scale>
void turn(const Scale* from, int64_t rows, int64_t groups, Scale* to) noexcept {
  constexpr int64_t kWord = sizeof(uint32_t) / sizeof(Scale);
  if (rows == kPanelRows && groups % kWord == 0) {
    const uint8_t* runs[kPanelRows];
    for (int64_t r = 0; r < kPanelRows; ++r) runs[r] = reinterpret_cast<const uint8_t*>(from + r * groups);
    const kernels::GemmKernels& kernel = kernels::table().gemm;
    const auto run = kWord == 1 ? kernel.turn : kernel.turn_bytes;
    return run(runs, groups / kWord, reinterpret_cast<uint8_t*>(to));
  }
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t r = 0; r < kPanelRows; ++r)
      to[g * kPanelRows + r] = r < rows ? from[r * groups + g] : Scale{0};
}

// Codes and scales of one panel; rows past the last are zero.
void pack_panel(const PackSource& source, PackedMatrix::State& state, int64_t panel) noexcept {
  const int64_t row_bytes = state.octets * kOctet / 2;
  const uint8_t* rows[kPanelRows];
  for (int64_t r = 0; r < kPanelRows; ++r) {
    const int64_t row = std::min(panel * kPanelRows + r, state.rows - 1);
    rows[r] = source.codes.data() + row * row_bytes;
  }
  uint8_t* codes = reinterpret_cast<uint8_t*>(state.codes.data());
  kernels::table().gemm.pack(rows, state.octets, codes + panel * state.octets * kPackedOctetBytes);
  const bool whole = state.group == state.block_size;
  const int64_t inside_rows = std::min<int64_t>(kPanelRows, state.rows - panel * kPanelRows);
  const int64_t first = panel * kPanelRows * state.groups;
  if (whole && state.nested()) {
    turn(source.nested_codes.data() + first, inside_rows, state.groups,
         reinterpret_cast<uint8_t*>(state.nested_codes.data()) + first);
    return;
  }
  if (whole && source.nested_codes.empty()) {
    turn(source.scales.data() + first, inside_rows, state.groups,
         reinterpret_cast<float*>(state.scales.data()) + first);
    return;
  }
  const BlockScales scales_from = scales_of(source);
  for (int64_t r = 0; r < kPanelRows; ++r) {
    const int64_t row = panel * kPanelRows + r;
    const bool inside = row < state.rows;
    int64_t to = panel * state.groups * kPanelRows + r;
    for (int64_t g = 0; g < state.groups; ++g, to += kPanelRows) {
      const int64_t block = (row * state.cols + g * state.group) / state.block_size;
      reinterpret_cast<float*>(state.scales.data())[to] = inside ? scales_from[block] : 0.0f;
    }
  }
}

void keep_as_it_is(const PackSource& source, PackedMatrix::State& state) {
  state.codes = WeightBuffer(source.codes.size());
  if (!source.codes.empty()) std::memcpy(state.codes.data(), source.codes.data(), source.codes.size());
  const int64_t blocks = (state.rows * state.cols + state.block_size - 1) / state.block_size;
  state.scales = WeightBuffer(static_cast<size_t>(blocks) * 4);
  float* scales = reinterpret_cast<float*>(state.scales.data());
  const BlockScales scales_from = scales_of(source);
  for (int64_t i = 0; i < blocks; ++i) scales[i] = scales_from[i];
  if (source.release) source.release(source.codes);
}

void pack_panels(const PackSource& source, PackedMatrix::State& state, int threads) {
  const size_t per_panel = static_cast<size_t>(state.groups * kPanelRows);
  state.codes = WeightBuffer(static_cast<size_t>(state.panels * state.octets * kPackedOctetBytes));
  // In whole blocks a row and a power of two a second-level block, 8 bits a scale are enough at run time too.
  const bool power_of_two = std::has_single_bit(static_cast<uint64_t>(source.nested_block_size));
  if (!source.nested_codes.empty() && state.group == state.block_size && power_of_two) {
    state.nested_absmax.assign(source.nested_absmax.begin(), source.nested_absmax.end());
    state.nested_map = make_scale_map(source.nested_map);
    state.nested_offset = source.nested_offset;
    state.nested_first = source.nested_first;
    state.nested_shift = std::countr_zero(static_cast<uint64_t>(source.nested_block_size));
    state.nested_codes = WeightBuffer(static_cast<size_t>(state.panels) * per_panel);
  } else {
    state.scales = WeightBuffer(static_cast<size_t>(state.panels) * per_panel * 4);
  }
  const int64_t panel_bytes = state.octets * kPackedOctetBytes;
  const int64_t step = std::max<int64_t>(1, kReleaseBytes / std::max<int64_t>(1, panel_bytes));
  for (int64_t first = 0; first < state.panels; first += step) {
    const int64_t last = std::min(state.panels, first + step);
    parallel_for(last - first, 1, threads, [&](int64_t begin, int64_t end) {
      for (int64_t panel = first + begin; panel < first + end; ++panel) pack_panel(source, state, panel);
    });
    if (!source.release) continue;
    const size_t from = static_cast<size_t>(first * panel_bytes);
    const size_t to = std::min(source.codes.size(), static_cast<size_t>(last * panel_bytes));
    source.release(source.codes.subspan(from, to - from));
  }
}

}  // namespace

void expect_matrix(const PackSource& s) {
  constexpr int64_t kMost = int64_t{1} << 46;
  if (s.rows < 0 || s.cols < 0 || (s.cols > 0 && s.rows > kMost / s.cols))
    fail(ErrorCode::kInvalidArgument, "packing a matrix: no matrix has the shape [{}, {}]", s.rows, s.cols);
  if (s.block_size < 16)
    fail(ErrorCode::kInvalidArgument, "packing a matrix: block size {} is below 16", s.block_size);
  if (s.levels.empty() || s.levels.size() > 16)
    fail(ErrorCode::kInvalidArgument, "packing a matrix: {} levels, 1 to 16 expected", s.levels.size());
  const int64_t elements = s.rows * s.cols;
  const int64_t blocks = (elements + s.block_size - 1) / s.block_size;
  check_length("codes", s.codes.size(), (elements + 1) / 2);
  if (s.nested_codes.empty()) {
    check_length("scales", s.scales.size(), blocks);
    return;
  }
  check_length("scales beside nested_codes", s.scales.size(), 0);
  if (s.nested_block_size < 1)
    fail(ErrorCode::kInvalidArgument, "packing a matrix: nested block size {} is below 1",
         s.nested_block_size);
  check_length("nested_codes", s.nested_codes.size(), blocks);
  if (s.nested_first < 0 || s.nested_first >= s.nested_block_size)
    fail(ErrorCode::kInvalidArgument, "packing a matrix: nested first {} is not in a block of {}",
         s.nested_first, s.nested_block_size);
  check_length("nested_absmax", s.nested_absmax.size(),
               blocks == 0 ? 0 : (s.nested_first + blocks + s.nested_block_size - 1) / s.nested_block_size);
  check_length("nested_map", s.nested_map.size(), 256);
}

bool PackedMatrix::State::panel_nested(int64_t panel, kernels::PanelNested& output) const noexcept {
  if (!nested()) return false;
  for (int64_t r = 0; r < kPanelRows; ++r) {
    const int64_t first = nested_first + std::min(panel * kPanelRows + r, rows - 1) * groups;
    const int64_t block = first >> nested_shift;
    if ((first + groups - 1) >> nested_shift != block) return false;
    output.absmax[r] = nested_absmax[static_cast<size_t>(block)];
  }
  output.codes = reinterpret_cast<const uint8_t*>(nested_codes.data()) + panel * groups * kPanelRows;
  output.map = nested_map.get();
  output.offset = nested_offset;
  return true;
}

void PackedMatrix::State::panel_scales(int64_t panel, int64_t first_group, int64_t count,
                                       float* output) const noexcept {
  const int64_t at = (panel * groups + first_group) * kPanelRows;
  kernels::NestedArgs args{.codes = reinterpret_cast<const uint8_t*>(nested_codes.data()) + at,
                           .absmax = nested_absmax.data(),
                           .map = nested_map.get(),
                           .offset = nested_offset,
                           .first_block = {},
                           .absmax_shift = nested_shift,
                           .groups = count,
                           .scales = output};
  for (int64_t r = 0; r < kPanelRows; ++r)
    args.first_block[r] = nested_first + std::min(panel * kPanelRows + r, rows - 1) * groups + first_group;
  kernels::table().gemm.nested_scales(args);
}

PackedMatrix::PackedMatrix() noexcept = default;
PackedMatrix::PackedMatrix(PackedMatrix&&) noexcept = default;
PackedMatrix& PackedMatrix::operator=(PackedMatrix&&) noexcept = default;
PackedMatrix::~PackedMatrix() = default;

PackSource pack_source(const QuantizedTensor& tensor) {
  if (tensor.shape.rank() != 2)
    fail(ErrorCode::kInvalidArgument, "packing a matrix: its shape is [out, in], not {}",
         tensor.shape.to_string());
  PackSource source;
  source.codes = tensor.codes;
  source.levels = tensor.codebook.levels;
  source.rows = tensor.shape[0];
  source.cols = tensor.shape[1];
  source.block_size = tensor.block_size;
  if (tensor.double_quantized()) {
    source.nested_codes = tensor.nested.codes;
    source.nested_absmax = tensor.nested.absmax;
    source.nested_map = dynamic_codebook().levels;
    source.nested_offset = tensor.nested.offset;
    source.nested_block_size = kNestedBlockSize;
  } else {
    source.scales = tensor.scales;
  }
  return source;
}

PackedMatrix PackedMatrix::pack(const PackSource& source, int threads) {
  expect_matrix(source);
  PackedMatrix matrix;
  matrix.state_ = std::make_unique<State>();
  State& state = *matrix.state_;
  state.rows = source.rows;
  state.cols = source.cols;
  state.block_size = source.block_size;
  state.levels = make_level_tables(source.levels);
  const int64_t common = std::gcd(source.cols, source.block_size);
  if (common % kOctet != 0 || source.rows == 0 || source.cols == 0) {
    keep_as_it_is(source, state);
    return matrix;
  }
  state.group = common;
  state.octets = source.cols / kOctet;
  state.groups = source.cols / common;
  state.panels = (source.rows + kPanelRows - 1) / kPanelRows;
  pack_panels(source, state, threads);
  return matrix;
}

int64_t PackedMatrix::rows() const noexcept {
  return state_ ? state_->rows : 0;
}
int64_t PackedMatrix::cols() const noexcept {
  return state_ ? state_->cols : 0;
}
uint64_t PackedMatrix::bytes() const noexcept {
  if (!state_) return 0;
  return state_->codes.size() + state_->scales.size() + state_->nested_codes.size() +
         4 * state_->nested_absmax.size() + (state_->nested() ? sizeof(kernels::ScaleMap) : 0) +
         sizeof(State);
}

void PackedMatrix::dequantize_row(int64_t row, float* output) const noexcept {
  const State& s = *state_;
  const uint8_t* codes = reinterpret_cast<const uint8_t*>(s.codes.data());
  const float* scales = reinterpret_cast<const float*>(s.scales.data());
  if (s.group == 0) {
    for (int64_t k = 0; k < s.cols; ++k) {
      const int64_t i = row * s.cols + k;
      output[k] = s.levels.f32[code_at(codes, i)] * scales[i / s.block_size];
    }
    return;
  }
  const int64_t panel = row / kPanelRows, lane = row % kPanelRows;
  const uint8_t* from = codes + panel * s.octets * kPackedOctetBytes + 4 * lane;
  for (int64_t g = 0; g < s.groups; ++g) {
    const int64_t at = (panel * s.groups + g) * kPanelRows + lane;
    const float scale = s.nested() ? s.nested_map->values[static_cast<uint8_t>(s.nested_codes.data()[at])] *
                                             s.nested_absmax[static_cast<size_t>(
                                                 (s.nested_first + row * s.groups + g) >> s.nested_shift)] +
                                         s.nested_offset
                                   : scales[at];
    for (int64_t k = g * s.group; k < (g + 1) * s.group; ++k) {
      const uint8_t byte = from[k / kOctet * kPackedOctetBytes + k % 4];
      output[k] = s.levels.f32[k % kOctet < 4 ? byte & 15 : byte >> 4] * scale;
    }
  }
}

void PackedMatrix::unpack(std::span<uint8_t> codes) const {
  if (const int64_t expected = (rows() * cols() + 1) / 2; static_cast<int64_t>(codes.size()) != expected)
    fail(ErrorCode::kInvalidArgument, "unpacking a matrix: {} bytes of codes, {} expected", codes.size(),
         expected);
  if (codes.empty()) return;
  const State& s = *state_;
  const auto* from = reinterpret_cast<const uint8_t*>(s.codes.data());
  if (s.group == 0) {
    std::memcpy(codes.data(), from, codes.size());
    return;
  }
  // Columns j and 4 + j of an octet are the nibbles of byte j of its row (kernels/gemm.h).
  constexpr int64_t kRowBytes = kOctet / 2;
  for (int64_t row = 0; row < s.rows; ++row)
    for (int64_t octet = 0; octet < s.octets; ++octet) {
      const uint8_t* packed =
          from + (row / kPanelRows * s.octets + octet) * kPackedOctetBytes + row % kPanelRows * kRowBytes;
      uint8_t column[kOctet];
      for (int64_t j = 0; j < kRowBytes; ++j) {
        column[j] = packed[j] & 15;
        column[kRowBytes + j] = packed[j] >> 4;
      }
      uint8_t* to = codes.data() + (row * s.octets + octet) * kRowBytes;
      for (int64_t j = 0; j < kRowBytes; ++j)
        to[j] = static_cast<uint8_t>(column[2 * j] << 4 | column[2 * j + 1]);
    }
}

}  // namespace nfloat
