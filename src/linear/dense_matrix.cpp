// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "base/fail.h"
#include "base/float16.h"
#include "base/parallel.h"
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

void put_row(DenseMatrix::State& state, int64_t row, const float* values) noexcept {
  const int64_t panel = row / kPanelRows, lane = row % kPanelRows;
  const int64_t padded = state.octets * kOctet;
  std::byte* base = state.weights.data() + static_cast<size_t>(panel * state.octets) * state.octet_bytes();
  const size_t width = element_bytes(state.storage);
  for (int64_t k = 0; k < padded; ++k) {
    std::byte* to = base + static_cast<size_t>(k / kOctet) * state.octet_bytes() +
                    static_cast<size_t>(place(state.storage, k, lane)) * width;
    if (state.storage == DenseStorage::kInt8) {
      const int64_t g = k / state.group;
      float* scale = reinterpret_cast<float*>(state.scales.data()) +
                     (panel * (padded / state.group) + g) * kPanelRows + lane;
      if (k % state.group == 0) {
        // A group that holds NaN or an infinity has the scale NaN: what is computed from it shows it.
        float largest = 0;
        bool finite = true;
        for (int64_t i = 0; i < state.group; ++i) {
          finite = finite && std::isfinite(values[k + i]);
          largest = std::max(largest, std::fabs(values[k + i]));
        }
        *scale = finite ? largest / 127.0f : std::numeric_limits<float>::quiet_NaN();
      }
      const float scaled = *scale > 0 ? values[k] / *scale : 0.0f;
      *reinterpret_cast<uint8_t*>(to) =
          static_cast<uint8_t>(128 + std::clamp(std::nearbyint(scaled), -127.0f, 127.0f));
    } else if (state.storage == DenseStorage::kF32) {
      std::memcpy(to, values + k, 4);
    } else {
      const uint16_t half =
          state.storage == DenseStorage::kBF16 ? float_to_bf16(values[k]) : float_to_f16(values[k]);
      std::memcpy(to, &half, 2);
    }
  }
}

}  // namespace

size_t DenseMatrix::State::octet_bytes() const noexcept {
  return element_bytes(storage) * kOctet * kPanelRows;
}

DenseMatrix::DenseMatrix() noexcept = default;
DenseMatrix::DenseMatrix(DenseMatrix&&) noexcept = default;
DenseMatrix& DenseMatrix::operator=(DenseMatrix&&) noexcept = default;
DenseMatrix::~DenseMatrix() = default;

DenseMatrix DenseMatrix::pack(const TensorView& weights, DenseStorage storage, int threads,
                              const std::function<void(std::span<const uint8_t>)>& release) {
  if (weights.shape.rank() != 2)
    fail(ErrorCode::kInvalidArgument, "packing a matrix: shape {} found, two dimensions expected",
         weights.shape.to_string());
  if (!is_quantizable(weights.dtype))
    fail(ErrorCode::kInvalidArgument, "packing a matrix: dtype {} found, F32, F16 or BF16 expected",
         dtype_name(weights.dtype));
  DenseMatrix matrix;
  matrix.state_ = std::make_unique<State>();
  State& state = *matrix.state_;
  state.storage = storage;
  state.rows = weights.shape[0];
  state.cols = weights.shape[1];
  if (static_cast<uint64_t>(weights.elements()) * dtype_bytes(weights.dtype) != weights.bytes.size())
    fail(ErrorCode::kInvalidArgument, "packing a matrix: {} bytes found, shape {} of {} expected",
         weights.bytes.size(), weights.shape.to_string(), dtype_name(weights.dtype));
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
    std::vector<float> values(static_cast<size_t>(padded));
    for (int64_t row = begin * kPanelRows; row < end * kPanelRows; ++row) {
      std::fill(values.begin(), values.end(), 0.0f);
      if (row < state.rows) {
        const TensorView view{weights.dtype, Shape({state.cols}),
                              weights.bytes.subspan(static_cast<size_t>(row) * row_bytes, row_bytes)};
        convert_elements(view, DType::kF32,
                         std::as_writable_bytes(std::span(values).first(static_cast<size_t>(state.cols))));
      }
      put_row(state, row, values.data());
    }
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
