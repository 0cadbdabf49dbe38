// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/fail.h"
#include "base/float16.h"
#include "base/parallel.h"
#include "kernels/dispatch.h"
#include "linear/state.h"

namespace nfloat {
namespace {

using kernels::kOctet;
using kernels::kPanelRows;

// Where column `k` of lane `r` lies in its octet, in elements of the storage (kernels/gemm.h).
int64_t place(DenseStorage storage, int64_t k, int64_t r) noexcept {
  constexpr int64_t kPairOf[kOctet] = {0, 2, 0, 2, 1, 3, 1, 3};
  const int64_t column = k % kOctet;
  switch (storage) {
    case DenseStorage::kInt8:
      return 64 * (column / 4) + 4 * r + column % 4;
    case DenseStorage::kBF16:
      return 32 * kPairOf[column] + 2 * r + column / 2 % 2;
    default:
      return 16 * column + r;
  }
}

size_t element_bytes(DenseStorage storage) noexcept {
  return storage == DenseStorage::kF32 ? 4 : storage == DenseStorage::kInt8 ? 1 : 2;
}

constexpr float kInt8Range = 127.0f;

bool stored_as(DType dtype, DenseStorage storage) noexcept {
  return (dtype == DType::kF32 && storage == DenseStorage::kF32) ||
         (dtype == DType::kF16 && storage == DenseStorage::kF16) ||
         (dtype == DType::kBF16 && storage == DenseStorage::kBF16);
}

// Packs panels of one matrix, one after the other.
class PanelPacker {
 public:
  PanelPacker(const TensorView& weights, DenseMatrix::State& state)
      : weights_(weights),
        state_(state),
        padded_(static_cast<size_t>(state.octets * kOctet)),
        run_bytes_(padded_ * element_bytes(state.storage)),
        as_they_are_(stored_as(weights.dtype, state.storage) && state.cols % kOctet == 0),
        runs_((as_they_are_ ? 1 : kPanelRows) * run_bytes_),
        values_(padded_) {}

  void pack(int64_t panel) {
    const uint8_t* runs[kPanelRows];
    for (int64_t r = 0; r < kPanelRows; ++r) runs[r] = run_of(panel, r);
    const kernels::GemmKernels& kernel = kernels::table().gemm;
    const auto turn = state_.storage == DenseStorage::kBF16  ? kernel.turn_pairs
                      : state_.storage == DenseStorage::kF16 ? kernel.turn_halves
                                                             : kernel.turn;
    std::byte* to = state_.weights.data() + static_cast<size_t>(panel * state_.octets) * state_.octet_bytes();
    turn(runs, static_cast<int64_t>(run_bytes_ / sizeof(uint32_t)), reinterpret_cast<uint8_t*>(to));
  }

 private:
  // Row `r` of a panel in the elements of the storage, zeros past the last column and the last row.
  const uint8_t* run_of(int64_t panel, int64_t r) {
    const int64_t row = panel * kPanelRows + r;
    const size_t bytes = static_cast<size_t>(state_.cols) * dtype_bytes(weights_.dtype);
    const TensorView view{weights_.dtype, Shape({state_.cols}),
                          row < state_.rows ? weights_.bytes.subspan(static_cast<size_t>(row) * bytes, bytes)
                                            : std::span<const std::byte>()};
    if (as_they_are_)
      return row < state_.rows ? static_cast<const uint8_t*>(view.data()) : runs_.data();  // zeros
    uint8_t* run = runs_.data() + static_cast<size_t>(r) * run_bytes_;
    std::fill(values_.begin(), values_.end(), 0.0f);
    if (row < state_.rows)
      convert_elements(view, DType::kF32,
                       std::as_writable_bytes(std::span(values_).first(static_cast<size_t>(state_.cols))));
    if (state_.storage == DenseStorage::kInt8) {
      const auto padded = static_cast<int64_t>(padded_);
      float* scales =
          reinterpret_cast<float*>(state_.scales.data()) + panel * padded / state_.group * kPanelRows;
      round_row(values_.data(), padded, state_.group, run, scales + r, kPanelRows);
    } else if (state_.storage == DenseStorage::kF32) {
      std::memcpy(run, values_.data(), run_bytes_);
    } else {
      const bool bf16 = state_.storage == DenseStorage::kBF16;
      for (size_t k = 0; k < padded_; ++k) {
        const uint16_t half = bf16 ? float_to_bf16(values_[k]) : float_to_f16(values_[k]);
        std::memcpy(run + k * sizeof half, &half, sizeof half);
      }
    }
    return run;
  }

  const TensorView& weights_;
  DenseMatrix::State& state_;
  size_t padded_;  // columns
  size_t run_bytes_;
  bool as_they_are_;
  std::vector<uint8_t> runs_;
  std::vector<float> values_;
};

}  // namespace

void expect_matrix(const TensorView& weights) {
  if (weights.shape.rank() != 2)
    fail(ErrorCode::kInvalidArgument, "packing a matrix: shape {} found, two dimensions expected",
         weights.shape.to_string());
  if (!is_quantizable(weights.dtype))
    fail(ErrorCode::kInvalidArgument, "packing a matrix: dtype {} found, F32, F16 or BF16 expected",
         dtype_name(weights.dtype));
  if (static_cast<uint64_t>(weights.elements()) * dtype_bytes(weights.dtype) != weights.bytes.size())
    fail(ErrorCode::kInvalidArgument, "packing a matrix: {} bytes found, shape {} of {} expected",
         weights.bytes.size(), weights.shape.to_string(), dtype_name(weights.dtype));
}

void round_row(const float* values, int64_t count, int64_t group, uint8_t* codes, float* scales,
               int64_t step) noexcept {
  constexpr float kUnits = 0x1.8p23f;  // a sum with it has a unit of 1 in its last place
  constexpr auto kZero = std::bit_cast<int32_t>(kUnits) - 128;
  for (; count > 0; count -= group, values += group, codes += group, scales += step) {
    int32_t largest = 0;  // magnitudes are ordered as their bits
    for (int64_t i = 0; i < group; ++i)
      largest = std::max(largest, std::bit_cast<int32_t>(values[i]) & 0x7fffffff);
    const auto magnitude = std::bit_cast<float>(largest);
    const float scale =
        std::isfinite(magnitude) ? magnitude / kInt8Range : std::numeric_limits<float>::quiet_NaN();
    *scales = scale;
    if (!(scale > 0)) {
      std::memset(codes, 128, static_cast<size_t>(group));
      continue;
    }
    for (int64_t i = 0; i < group; ++i) {
      const float scaled = std::min(std::max(values[i] / scale, -kInt8Range), kInt8Range);
      codes[i] = static_cast<uint8_t>(std::bit_cast<int32_t>(scaled + kUnits) - kZero);
    }
  }
}

size_t DenseMatrix::State::octet_bytes() const noexcept {
  return element_bytes(storage) * kOctet * kPanelRows;
}

DenseMatrix::DenseMatrix() noexcept = default;
DenseMatrix::DenseMatrix(DenseMatrix&&) noexcept = default;
DenseMatrix& DenseMatrix::operator=(DenseMatrix&&) noexcept = default;
DenseMatrix::~DenseMatrix() = default;

DenseMatrix DenseMatrix::pack(const TensorView& weights, DenseStorage storage, int threads,
                              const std::function<void(std::span<const uint8_t>)>& release) {
  expect_matrix(weights);
  DenseMatrix matrix;
  matrix.state_ = std::make_unique<State>();
  State& state = *matrix.state_;
  state.storage = storage;
  state.rows = weights.shape[0];
  state.cols = weights.shape[1];
  state.panels = (state.rows + kPanelRows - 1) / kPanelRows;
  state.octets = (state.cols + kOctet - 1) / kOctet;
  const int64_t padded = state.octets * kOctet;
  const size_t row_bytes = static_cast<size_t>(state.cols) * dtype_bytes(weights.dtype);
  state.weights = WeightBuffer(static_cast<size_t>(state.panels * state.octets) * state.octet_bytes());
  if (storage == DenseStorage::kInt8) {
    state.group = padded == 0 ? kOctet : activation_block(padded);
    state.scales = WeightBuffer(static_cast<size_t>(state.panels * padded / state.group * kPanelRows) * 4);
  }
  const auto pack_panels = [&](int64_t begin, int64_t end) {
    PanelPacker packer(weights, state);
    for (int64_t panel = begin; panel < end; ++panel) packer.pack(panel);
  };
  const int64_t panel_bytes = std::max<int64_t>(1, static_cast<int64_t>(row_bytes) * kPanelRows);
  const int64_t step = std::max<int64_t>(1, kReleaseBytes / panel_bytes);
  for (int64_t first = 0; first < state.panels; first += step) {
    const int64_t last = std::min(state.panels, first + step);
    parallel_for(last - first, 1, threads,
                 [&](int64_t begin, int64_t end) { pack_panels(first + begin, first + end); });
    if (!release) continue;
    const auto* bytes = reinterpret_cast<const uint8_t*>(weights.bytes.data());
    const size_t from = static_cast<size_t>(first * panel_bytes);
    const size_t to = std::min(weights.bytes.size(), static_cast<size_t>(last * panel_bytes));
    release({bytes + from, to - from});
  }
  return matrix;
}

int64_t DenseMatrix::rows() const noexcept {
  return state_ ? state_->rows : 0;
}
int64_t DenseMatrix::cols() const noexcept {
  return state_ ? state_->cols : 0;
}
uint64_t DenseMatrix::bytes() const noexcept {
  return state_ ? state_->weights.size() + state_->scales.size() + sizeof(State) : 0;
}

void DenseMatrix::dequantize_row(int64_t row, float* output) const noexcept {
  const State& s = *state_;
  const int64_t panel = row / kPanelRows, lane = row % kPanelRows;
  const std::byte* base = s.weights.data() + static_cast<size_t>(panel * s.octets) * s.octet_bytes();
  for (int64_t k = 0; k < s.cols; ++k) {
    const std::byte* from = base + static_cast<size_t>(k / kOctet) * s.octet_bytes() +
                            static_cast<size_t>(place(s.storage, k, lane)) * element_bytes(s.storage);
    uint16_t half = 0;
    if (s.storage == DenseStorage::kInt8) {
      const int64_t groups = s.octets * kOctet / s.group;
      const float scale =
          reinterpret_cast<const float*>(s.scales.data())[(panel * groups + k / s.group) * kPanelRows + lane];
      output[k] = static_cast<float>(std::to_integer<int>(*from) - 128) * scale;
    } else if (s.storage == DenseStorage::kF32) {
      std::memcpy(output + k, from, 4);
    } else {
      std::memcpy(&half, from, 2);
      output[k] = s.storage == DenseStorage::kBF16 ? bf16_to_float(half) : f16_to_float(half);
    }
  }
}

}  // namespace nfloat
