// SPDX-License-Identifier: Apache-2.0
#include "engine/cuda/cuda_engine.h"

#include <algorithm>
#include <cstring>

#include "base/fail.h"

namespace nfloat::cuda {
namespace {

static_assert(gpu::kPagePositions == kernels::kAttentionBlock);

gpu::Gate gate_of(Activation kind) noexcept {
  switch (kind) {
    case Activation::kSilu:
      return gpu::Gate::kSilu;
    case Activation::kGelu:
      return gpu::Gate::kGelu;
    case Activation::kGeluTanh:
      return gpu::Gate::kGeluTanh;
    case Activation::kQuickGelu:
      return gpu::Gate::kQuickGelu;
    default:
      return gpu::Gate::kRelu;
  }
}

int64_t parts_of(int64_t count, int64_t size) noexcept {
  return (count + size - 1) / size;
}

constexpr uint64_t bytes_of(int64_t floats) noexcept {
  return static_cast<uint64_t>(floats) * sizeof(float);
}

}  // namespace

const float* address_of(const Constant& constant) {
  if (constant.empty()) return nullptr;
  if (!constant.resident)
    fail(ErrorCode::kUnsupported, "these weights are not on the device: this step computes on the CPU only");
  return static_cast<const CardMemory*>(constant.resident.get())->as<float>();
}

gpu::Cache cache_of(kernels::KvType type) noexcept {
  return type == kernels::KvType::kF32   ? gpu::Cache::kF32
         : type == kernels::KvType::kF16 ? gpu::Cache::kF16
                                         : gpu::Cache::kInt8;
}

CudaEngine::~CudaEngine() {
  try {
    gpu_->wait();                    // for what uses its memory
  } catch (const std::exception&) {  // a card that failed runs nothing any more
  }
}

void CudaEngine::wait() {
  const auto looks = static_cast<uint64_t>(looks_.asked);
  if (looks > 0) gpu_->card().copy_to_host(looks_.shadow.as(), looks_.places.as(), looks * sizeof(int32_t));
  gpu_->wait();
  params_.reset();
  ++waits_;
  const auto* const found = looks_.shadow.as<const int32_t>();
  for (int32_t i = 0; i < looks_.asked && looks_.broken < 0; ++i)
    if (found[i] != 0) looks_.broken = looks_.collected + i;
  looks_.collected += looks_.asked;
  looks_.asked = 0;
}

BufferId CudaEngine::make(int64_t floats) {
  return buffers_.add({CardMemory(gpu_, bytes_of(floats)), {}, 0, floats});
}

void CudaEngine::drop(BufferId buffer) noexcept {
  buffers_.drop(buffer);
}

float* CudaEngine::shadow(const BufferRows& rows) {
  Buffer& own = buffer(rows);
  if (own.shadow.bytes() == 0) own.shadow = HostMemory(gpu_, bytes_of(own.floats));
  return own.shadow.as<float>() + rows.offset;
}

float* CudaEngine::host(const BufferRows& rows, int64_t, int64_t) {
  if (buffer(rows).written == waits_) wait();  // a copy from it may not have run
  return shadow(rows);
}

void CudaEngine::write(const BufferRows& rows, int64_t count, int64_t width) {
  gpu_->card().copy_to_card(at(rows), shadow(rows), bytes_of(width), static_cast<uint64_t>(count),
                            bytes_of(rows.stride), bytes_of(rows.stride));
  buffer(rows).written = waits_;
}

float* CudaEngine::read(const BufferRows& rows, int64_t count, int64_t width) {
  gpu_->card().copy_to_host(shadow(rows), at(rows), bytes_of(width), static_cast<uint64_t>(count),
                            bytes_of(rows.stride), bytes_of(rows.stride));
  wait();
  return shadow(rows);
}

bool CudaEngine::finite(const BufferRows& rows, int64_t count, int64_t width) {
  constexpr uint64_t kBytes = Looks::kMost * sizeof(int32_t);
  if (looks_.places.bytes() == 0) {
    looks_.shadow = HostMemory(gpu_, kBytes);
    looks_.places = CardMemory(gpu_, kBytes);
  }
  if (looks_.asked == Looks::kMost) wait();
  if (looks_.asked == 0) gpu_->card().zero(looks_.places.as(), kBytes);
  over_rows(gpu::RowsOperation::kFindBroken, {.from = at(rows),
                                              .to = looks_.places.as<int32_t>() + looks_.asked,
                                              .rows = count,
                                              .width = width,
                                              .from_stride = rows.stride});
  ++looks_.asked;
  return true;
}

int64_t CudaEngine::first_broken() {
  if (looks_.asked > 0) wait();
  const int64_t broken = looks_.broken;
  looks_.collected = 0;
  looks_.broken = -1;
  return broken;
}

void CudaEngine::forget_looks() noexcept {
  looks_.asked = 0;
  looks_.collected = 0;
  looks_.broken = -1;
}

void CudaEngine::copy(const BufferRows& from, const BufferRows& to, int64_t rows, int64_t width) {
  over_rows(gpu::RowsOperation::kCopy, {.from = at(from),
                                        .to = at(to),
                                        .rows = rows,
                                        .width = width,
                                        .from_stride = from.stride,
                                        .to_stride = to.stride});
}

void CudaEngine::embed(const EmbeddingStep& step, const BufferRows& x) {
  const float* const positions = step.positions != nullptr ? address_of(*step.positions) : nullptr;
  int64_t row = 0;
  for (const EmbeddingStep::Run& run : step.runs) {
    over_rows(gpu::RowsOperation::kEmbed,
              {.from = positions != nullptr ? positions + run.first * step.width : nullptr,
               .to = at(x.from(row)),
               .rows = run.rows,
               .width = step.width,
               .from_stride = step.width,
               .to_stride = x.stride,
               .scale = step.scale});
    row += run.rows;
  }
}

void CudaEngine::norm(const NormStep& step, const BufferRows& from, const BufferRows& to, int64_t rows) {
  gpu_->card().norm({.from = at(from),
                     .to = at(to),
                     .weight = address_of(step.weights->weight),
                     .bias = step.kind == NormKind::kLayer ? address_of(step.weights->bias) : nullptr,
                     .centred = step.kind == NormKind::kLayer,
                     .rows = rows,
                     .parts = step.parts,
                     .width = step.width,
                     .from_stride = from.stride,
                     .to_stride = to.stride,
                     .part_stride = step.part_stride,
                     .epsilon = step.epsilon});
}

const CudaMatrix& CudaEngine::on_card(const DeviceMatrix& matrix) const {
  const auto* const found = dynamic_cast<const CudaMatrix*>(&matrix);
  if (found == nullptr)
    fail(ErrorCode::kUnsupported, "these weights are not on {} ({})", gpu_->name(), gpu_->model());
  return *found;
}

const uint16_t* CudaEngine::rounded(const BufferRows& from, int64_t rows, int64_t width) {
  const auto bytes = static_cast<uint64_t>(rows * width) * sizeof(uint16_t);
  if (rounded_.bytes() < bytes) rounded_ = CardMemory(gpu_, bytes);
  over_rows(
      gpu::RowsOperation::kRound,
      {.from = at(from), .to = rounded_.as(), .rows = rows, .width = width, .from_stride = from.stride});
  return rounded_.as<uint16_t>();
}

void CudaEngine::multiply(const LinearGroup& weights, const BufferRows& x, const BufferRows& y, int64_t rows,
                          Precision precision) {
  const uint16_t* halves = nullptr;
  gpu::ProductArguments product{
      .x = at(x), .y = at(y), .x_rows = rows, .x_stride = x.stride, .y_stride = y.stride};
  for (size_t part = 0; part < weights.parts(); ++part) {
    product.weights = on_card(weights.matrix(part)).weights();
    product.bias = address_of(weights.bias(part));
    if (precision != Precision::kF32 && gpu::multiplies_bf16(product.weights, rows)) {
      if (halves == nullptr) halves = rounded(x, rows, product.weights.cols);
      gpu_->card().multiply_bf16(product, halves);
    } else {
      gpu_->card().multiply(product);
    }
    product.y += product.weights.rows;
  }
}

void CudaEngine::multiply_transposed(const LinearGroup& weights, const BufferRows& dy, const BufferRows& dx,
                                     int64_t rows, Precision precision) {
  gpu::ProductArguments product{
      .x = at(dy), .y = at(dx), .x_rows = rows, .x_stride = dy.stride, .y_stride = dx.stride};
  // All outputs' gradients are rounded where every matrix begins and ends at a whole eight of them.
  bool halves = precision != Precision::kF32;
  for (size_t part = 0; part < weights.parts(); ++part)
    halves = halves && gpu::multiplies_transposed_bf16(on_card(weights.matrix(part)).weights(), rows);
  const uint16_t* from = nullptr;
  if (halves) {
    product.x_stride = weights.outputs();
    from = rounded(dy, rows, product.x_stride);
  }
  for (size_t part = 0; part < weights.parts(); ++part) {
    product.weights = on_card(weights.matrix(part)).weights();
    if (halves) {
      gpu_->card().multiply_transposed_bf16(product, from);
      from += product.weights.rows;
    } else {
      gpu_->card().multiply_transposed(product);
      product.x += product.weights.rows;
    }
    product.accumulate = true;
  }
}

void CudaEngine::attend(const AttentionStep& step, const BufferRows& projected, const BufferRows& attended) {
  AttentionStep part = step;
  for (size_t first = 0; first < step.sequences.size(); first += part.sequences.size()) {
    const SequenceRows& own = step.sequences[first];
    size_t last = first + 1;
    // A prompt goes on its own, in tiles of its rows.
    const auto alone = [](const SequenceRows& sequence) { return sequence.rows >= gpu::kPromptRows; };
    while (last < step.sequences.size() && step.sequences[last].cache.type == own.cache.type && !alone(own) &&
           !alone(step.sequences[last]))
      ++last;
    part.sequences = step.sequences.subspan(first, last - first);
    attend_alike(part, projected.from(own.row), attended.from(own.row));
  }
}

void CudaEngine::attend_alike(const AttentionStep& step, const BufferRows& projected,
                              const BufferRows& attended) {
  const HeadLayout& heads = step.heads;
  if (heads.head_dim > gpu::kMostHead)
    fail(ErrorCode::kUnsupported, "{}: heads of {} numbers; at most {} are supported", gpu_->name(),
         heads.head_dim, gpu::kMostHead);
  const bool local = step.rope == LayerRope::kLocal, turns = step.rope != LayerRope::kNone;
  const gpu::Cache type = cache_of(step.sequences.front().cache.type);
  // The pages of all sequences, then the places of all rows, which point to them.
  int64_t rows = 0, pages = 0, most_pages = 1, turned = 0;
  for (const SequenceRows& sequence : step.sequences) {
    const int64_t own = parts_of(sequence.position + sequence.rows, gpu::kPagePositions);
    rows += sequence.rows;
    pages += own;
    most_pages = std::max(most_pages, own);
  }
  places_.resize(static_cast<size_t>(pages) * sizeof(std::byte*));
  std::byte* to = places_.data();
  for (const SequenceRows& sequence : step.sequences) {
    const auto own = static_cast<size_t>(parts_of(sequence.position + sequence.rows, gpu::kPagePositions));
    std::memcpy(to, sequence.cache.pages, own * sizeof(std::byte*));
    to += own * sizeof(std::byte*);
  }
  const auto* page = reinterpret_cast<std::byte* const*>(params_.place(places_));
  places_.resize(static_cast<size_t>(rows) * sizeof(gpu::RowPlace));
  to = places_.data();
  for (const SequenceRows& sequence : step.sequences) {
    const Angles& angles = local ? sequence.local_angles : sequence.angles;
    if (turns) turned = angles.dims;
    for (int64_t row = 0; row < sequence.rows; ++row, to += sizeof(gpu::RowPlace)) {
      const int64_t position = sequence.position + row;
      const float* const own = turned == 0 ? nullptr
                                           : address_of(angles.chunks[position / Angles::kChunk]) +
                                                 position % Angles::kChunk * angles.dims;
      const gpu::RowPlace place{page, own, position};
      std::memcpy(to, &place, sizeof place);
    }
    page += parts_of(sequence.position + sequence.rows, gpu::kPagePositions);
  }
  gpu_->card().attend(
      {.projected = at(projected),
       .attended = at(attended),
       .places = reinterpret_cast<const gpu::RowPlace*>(params_.place(places_)),
       .sinks = step.sinks != nullptr ? address_of(*step.sinks) : nullptr,
       .type = type,
       .rows = rows,
       .projected_stride = projected.stride,
       .attended_stride = attended.stride,
       .one_sequence = step.sequences.size() == 1,
       .heads = static_cast<int32_t>(heads.heads),
       .kv_heads = static_cast<int32_t>(heads.kv_heads),
       .head = static_cast<int32_t>(heads.head_dim),
       .query_stride = static_cast<int32_t>(heads.query_stride()),
       .key_at = static_cast<int32_t>(heads.key_at()),
       .key_stride = static_cast<int32_t>(heads.key_stride()),
       .value_after_key = static_cast<int32_t>(heads.value_after_key()),
       .first_word = step.cache_layer * heads.kv_heads * gpu::head_words(type, heads.head_dim),
       .most_pages = most_pages,
       .turned = static_cast<int32_t>(turned),
       .window = step.window,
       .scale = step.scale,
       .softcap = step.softcap});
}

void CudaEngine::activate(const ActivationStep& step, const BufferRows& gate_up, int64_t rows) {
  gpu_->card().activate({.at = at(gate_up),
                         .rows = rows,
                         .width = step.width,
                         .stride = gate_up.stride,
                         .kind = gate_of(step.kind),
                         .gated = step.gated,
                         .limit = step.limit});
}

void CudaEngine::add(const NormStep& before, float scale, const NormStep& after, const BufferRows& added,
                     const BufferRows& x, int64_t rows, int64_t width) {
  if (!before.empty()) norm(before, added, added, rows);
  over_rows(gpu::RowsOperation::kAdd, {.from = at(added),
                                       .to = at(x),
                                       .rows = rows,
                                       .width = width,
                                       .from_stride = added.stride,
                                       .to_stride = x.stride,
                                       .scale = scale});
  if (!after.empty()) norm(after, x, x, rows);
}

void CudaEngine::finish(float scale, float softcap, const BufferRows& x, int64_t rows, int64_t width) {
  over_rows(gpu::RowsOperation::kSoftcap,
            {.to = at(x), .rows = rows, .width = width, .to_stride = width, .scale = scale, .cap = softcap});
}

void CudaEngine::zero(const BufferRows& to, int64_t rows, int64_t width) {
  over_rows(gpu::RowsOperation::kZero, {.to = at(to), .rows = rows, .width = width, .to_stride = to.stride});
}

void CudaEngine::gather(const BufferRows& from, std::span<const int32_t> list, const BufferRows& to,
                        int64_t width) {
  over_rows(gpu::RowsOperation::kGather,
            {.from = at(from),
             .to = at(to),
             .list = reinterpret_cast<const int32_t*>(params_.place(std::as_bytes(list))),
             .rows = static_cast<int64_t>(list.size()),
             .width = width,
             .from_stride = from.stride,
             .to_stride = to.stride});
}

void CudaEngine::scatter_add(const BufferRows& from, std::span<const int32_t> list,
                             std::span<const float> shares, const BufferRows& to, int64_t width) {
  const auto* const placed = reinterpret_cast<const int32_t*>(params_.place(std::as_bytes(list)));
  over_rows(gpu::RowsOperation::kScatterAdd,
            {.from = at(from),
             .to = at(to),
             .list = placed,
             .shares = reinterpret_cast<const float*>(params_.place(std::as_bytes(shares))),
             .rows = static_cast<int64_t>(list.size()),
             .width = width,
             .from_stride = from.stride,
             .to_stride = to.stride});
}

}  // namespace nfloat::cuda
