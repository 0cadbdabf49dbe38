// SPDX-License-Identifier: Apache-2.0
#include "engine/cpu/cpu_engine.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace nfloat {
namespace {

void normalize(const kernels::TransformerKernels& kernels, const NormStep& step, const float* from,
               float* to) noexcept {
  for (int64_t part = 0; part < step.parts; ++part, from += step.part_stride, to += step.part_stride)
    if (step.kind == NormKind::kLayer)
      kernels.layer_norm(from, step.weights->weight.data(), step.weights->bias.data(), step.epsilon,
                         step.width, to);
    else
      kernels.rms_norm(from, step.weights->weight.data(), step.epsilon, step.width, to);
}

// gpt-oss: gate and up alternate; both are clamped, and up gets one more.
void clamped_swiglu(float* row, int64_t width, float limit) noexcept {
  constexpr float kSlope = 1.702f;
  for (int64_t i = 0; i < width; ++i) {
    const float gate = std::min(row[2 * i], limit);
    const float up = std::clamp(row[2 * i + 1], -limit, limit);
    row[i] = (up + 1) * gate / (1 + std::exp(-kSlope * gate));
  }
}

bool finite_row(const float* values, int64_t count) noexcept {
  constexpr uint32_t kExponent = 0x7f800000;
  uint32_t any = 0;
  for (int64_t i = 0; i < count; ++i)
    any |= (std::bit_cast<uint32_t>(values[i]) & kExponent) == kExponent ? 1 : 0;
  return any == 0;
}

}  // namespace

float* grown(Buffer& memory, int64_t floats) {
  const size_t bytes = static_cast<size_t>(floats) * sizeof(float);
  if (memory.size() < bytes) memory = Buffer(bytes);
  return reinterpret_cast<float*>(memory.data());
}

BufferId CpuEngine::make(int64_t floats) {
  return buffers_.add(Buffer(static_cast<size_t>(floats) * sizeof(float)));
}

void CpuEngine::drop(BufferId buffer) noexcept {
  buffers_.drop(buffer);
}

float* CpuEngine::host(const BufferRows& rows, int64_t, int64_t) {
  return at(rows);
}
void CpuEngine::write(const BufferRows&, int64_t, int64_t) {}
float* CpuEngine::read(const BufferRows& rows, int64_t, int64_t) {
  return at(rows);
}

bool CpuEngine::finite(const BufferRows& rows, int64_t count, int64_t width) {
  const float* from = at(rows);
  for (int64_t row = 0; row < count; ++row)
    if (!finite_row(from + row * rows.stride, width)) return false;
  return true;
}

void CpuEngine::copy(const BufferRows& from, const BufferRows& to, int64_t rows, int64_t width) {
  const float* const source = at(from);
  float* const target = at(to);
  over_rows(rows, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      std::copy(source + row * from.stride, source + row * from.stride + width, target + row * to.stride);
  });
}

void CpuEngine::embed(const EmbeddingStep& step, const BufferRows& x) {
  float* row = at(x);
  for (const EmbeddingStep::Run& run : step.runs)
    for (int64_t i = 0; i < run.rows; ++i, row += x.stride) {
      if (step.scale != 1.0f)
        for (int64_t d = 0; d < step.width; ++d) row[d] *= step.scale;
      if (step.positions == nullptr) continue;
      const float* learned = step.positions->data() + (run.first + i) * step.width;
      for (int64_t d = 0; d < step.width; ++d) row[d] += learned[d];
    }
}

void CpuEngine::norm(const NormStep& step, const BufferRows& from, const BufferRows& to, int64_t rows) {
  const float* const source = at(from);
  float* const target = at(to);
  over_rows(rows, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      normalize(kernels_, step, source + row * from.stride, target + row * to.stride);
  });
}

void CpuEngine::norm(const NormStep& step, float* rows, int64_t stride, int64_t count) {
  over_rows(count, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      normalize(kernels_, step, rows + row * stride, rows + row * stride);
  });
}

void CpuEngine::multiply(const LinearGroup& weights, const BufferRows& x, const BufferRows& y, int64_t rows,
                         Precision precision) {
  activations_.assign(at(x), x.stride, rows, weights.inputs());
  product(weights, activations_, at(y), y.stride, rows, precision);
}

void CpuEngine::product(const LinearGroup& group, const Activations& x, float* y, int64_t y_stride, int64_t,
                        Precision precision) {
  group.apply(x, y, y_stride, precision, threads_);
}

void CpuEngine::multiply_transposed(const LinearGroup& weights, const BufferRows& dy, const BufferRows& dx,
                                    int64_t rows, Precision precision) {
  gradients_.assign(at(dy), dy.stride, rows, weights.outputs(), precision != Precision::kF32, threads_);
  weights.apply_transposed(gradients_, 0, at(dx), dx.stride, false, threads_);
}

void CpuEngine::activate(const ActivationStep& step, const BufferRows& gate_up, int64_t rows) {
  activate(step, at(gate_up), gate_up.stride, rows);
}

void CpuEngine::activate(const ActivationStep& step, float* rows, int64_t stride, int64_t count) {
  const auto kind = static_cast<kernels::Activation>(step.kind);
  over_rows(count, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float* gate = rows + row * stride;
      if (step.limit > 0)
        clamped_swiglu(gate, step.width, step.limit);
      else
        kernels_.activate(kind, gate, step.gated ? gate + step.width : nullptr, step.width);
    }
  });
}

void CpuEngine::add(const NormStep& before, float scale, const NormStep& after, const BufferRows& added,
                    const BufferRows& x, int64_t rows, int64_t width) {
  float* const from = at(added);
  float* const to = at(x);
  over_rows(rows, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      float* const own = from + row * added.stride;
      float* const sum = to + row * x.stride;
      if (!before.empty()) normalize(kernels_, before, own, own);
      if (scale == 1.0f)
        for (int64_t i = 0; i < width; ++i) sum[i] += own[i];
      else
        for (int64_t i = 0; i < width; ++i) sum[i] += scale * own[i];
      if (!after.empty()) normalize(kernels_, after, sum, sum);
    }
  });
}

void CpuEngine::finish(float scale, float softcap, const BufferRows& x, int64_t rows, int64_t width) {
  finish(scale, softcap, at(x), rows * width);
}

void CpuEngine::finish(float scale, float softcap, float* values, int64_t count) const {
  if (scale != 1.0f)
    for (int64_t i = 0; i < count; ++i) values[i] *= scale;
  if (softcap > 0) kernels_.softcap(values, softcap, count);
}

}  // namespace nfloat
