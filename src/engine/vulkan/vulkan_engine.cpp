// SPDX-License-Identifier: Apache-2.0
#include "engine/vulkan/vulkan_engine.h"

#include <algorithm>
#include <cstring>

#include "base/fail.h"
#include "engine/vulkan/steps.h"

namespace nfloat::vulkan {
namespace {

constexpr uint32_t kMostGroups = 65535;  // of a dispatch, in any direction
constexpr uint32_t kMostSplit = 256;     // queries times heads whose pages are shared out: more fill a device
constexpr uint32_t kFewestTiles = 32;    // workgroups of attention in tiles
constexpr uint32_t kMostTileBytes = 32768;  // shared memory of one: a device has room for several

uint32_t u32(int64_t value) noexcept {
  return static_cast<uint32_t>(value);
}

// Four numbers of each row lie at a multiple of 16 bytes.
bool in_vectors(Address x, int64_t stride) noexcept {
  return x % 16 == 0 && stride % 4 == 0;
}

// Of a product with a slab of a matrix, but for the activations.
ProductArguments arguments_of(const VulkanMatrix& matrix, const VulkanMatrix::Slab& slab) noexcept {
  return {.weights = slab.weights,
          .scales = slab.scales,
          .nested_absmax = slab.nested_absmax,
          .tables = matrix.tables(),
          .rows = u32(slab.rows),
          .cols = u32(matrix.cols()),
          .block = u32(matrix.block()),
          .nested_block = u32(matrix.nested_block()),
          .nested_offset = matrix.nested_offset()};
}

}  // namespace

Address address_of(const Constant& constant) {
  if (constant.empty()) return 0;
  if (!constant.resident)
    fail(ErrorCode::kUnsupported, "these weights are not on the device: this step computes on the CPU only");
  return static_cast<const PlacedConstant*>(constant.resident.get())->memory.address();
}

BufferId VulkanEngine::make(int64_t floats) {
  return buffers_.add(
      {GpuMemory(gpu_, static_cast<uint64_t>(floats) * sizeof(float), Place::kDevice), {}, 0, floats});
}

void VulkanEngine::drop(BufferId buffer) noexcept {
  buffers_.drop(buffer);
}

Address VulkanEngine::shadow(const BufferRows& rows) {
  Buffer& own = buffer(rows);
  if (own.shadow.host() == nullptr)
    own.shadow = GpuMemory(gpu_, static_cast<uint64_t>(own.floats) * sizeof(float), Place::kHost);
  return own.shadow.address() + static_cast<uint64_t>(rows.offset) * sizeof(float);
}

float* VulkanEngine::host(const BufferRows& rows, int64_t, int64_t) {
  shadow(rows);
  // A step that reads it may not have run.
  if (buffer(rows).written == recorder_.finished()) recorder_.finish();
  return shadow_in_host(rows);
}

void VulkanEngine::write(const BufferRows& rows, int64_t count, int64_t width) {
  over_rows(recorder_, RowsOperation::kCopy,
            {.from = shadow(rows),
             .to = address(rows),
             .rows = u32(count),
             .width = u32(width),
             .from_stride = u32(rows.stride),
             .to_stride = u32(rows.stride)});
  buffer(rows).written = recorder_.finished();
}

float* VulkanEngine::read(const BufferRows& rows, int64_t count, int64_t width) {
  over_rows(recorder_, RowsOperation::kCopy,
            {.from = address(rows),
             .to = shadow(rows),
             .rows = u32(count),
             .width = u32(width),
             .from_stride = u32(rows.stride),
             .to_stride = u32(rows.stride)});
  recorder_.finish();
  return shadow_in_host(rows);
}

bool VulkanEngine::finite(const BufferRows& rows, int64_t count, int64_t width) {
  if (looks_.words.host() == nullptr)
    looks_.words = GpuMemory(gpu_, Looks::kMost * sizeof(uint32_t), Place::kHost);
  if (looks_.end == Looks::kMost) collect_looks();
  const uint64_t place = looks_.end * sizeof(uint32_t);
  std::memset(looks_.words.host() + place, 0, sizeof(uint32_t));
  over_rows(recorder_, RowsOperation::kFindBroken,
            {.from = address(rows),
             .to = looks_.words.address() + place,
             .rows = u32(count),
             .width = u32(width),
             .from_stride = u32(rows.stride)});
  ++looks_.end;
  looks_.finished = recorder_.finished();
  return true;
}

void VulkanEngine::collect_looks() {
  if (looks_.finished == recorder_.finished()) recorder_.finish();  // else all of them are done
  for (uint32_t i = looks_.begin; i < looks_.end && looks_.broken < 0; ++i) {
    uint32_t found = 0;
    std::memcpy(&found, looks_.words.host() + i * sizeof found, sizeof found);
    if (found != 0) looks_.broken = looks_.collected + (i - looks_.begin);
  }
  looks_.collected += looks_.end - looks_.begin;
  looks_.begin = looks_.end = 0;
}

int64_t VulkanEngine::first_broken() {
  if (looks_.end > looks_.begin) collect_looks();
  const int64_t broken = looks_.broken;
  looks_.collected = 0;
  looks_.broken = -1;
  return broken;
}

// The places are not taken again before the recorder has finished what writes them.
void VulkanEngine::forget_looks() noexcept {
  looks_.begin = looks_.end;
  looks_.collected = 0;
  looks_.broken = -1;
}

void VulkanEngine::copy(const BufferRows& from, const BufferRows& to, int64_t rows, int64_t width) {
  over_rows(recorder_, RowsOperation::kCopy,
            {.from = address(from),
             .to = address(to),
             .rows = u32(rows),
             .width = u32(width),
             .from_stride = u32(from.stride),
             .to_stride = u32(to.stride)});
}

void VulkanEngine::embed(const EmbeddingStep& step, const BufferRows& x) {
  const Address positions = step.positions != nullptr ? address_of(*step.positions) : 0;
  int64_t row = 0;
  for (const EmbeddingStep::Run& run : step.runs) {
    const Address from = positions + static_cast<uint64_t>(run.first * step.width) * sizeof(float);
    over_rows(recorder_, RowsOperation::kEmbed,
              {.from = positions != 0 ? from : 0,
               .to = address(x.from(row)),
               .rows = u32(run.rows),
               .width = u32(step.width),
               .from_stride = u32(step.width),
               .to_stride = u32(x.stride),
               .scale = step.scale,
               .has_from = positions != 0 ? 1u : 0u},
              row > 0);
    row += run.rows;
  }
}

void VulkanEngine::norm(const NormStep& step, const BufferRows& from, const BufferRows& to, int64_t rows) {
  const bool centred = step.kind == NormKind::kLayer;
  recorder_.dispatch(Shader::kNorm, {centred ? 1u : 0u},
                     NormArguments{.from = address(from),
                                   .to = address(to),
                                   .weight = address_of(step.weights->weight),
                                   .bias = centred ? address_of(step.weights->bias) : 0,
                                   .from_stride = u32(from.stride),
                                   .to_stride = u32(to.stride),
                                   .width = u32(step.width),
                                   .part_stride = u32(step.part_stride),
                                   .epsilon = step.epsilon},
                     {u32(rows), u32(step.parts)});
}

const VulkanMatrix& VulkanEngine::on_gpu(const DeviceMatrix& matrix) const {
  const auto* const found = dynamic_cast<const VulkanMatrix*>(&matrix);
  if (found == nullptr)
    fail(ErrorCode::kUnsupported, "these weights are not on {} ({})", gpu_->name(), gpu_->model());
  return *found;
}

VulkanEngine::Halves VulkanEngine::to_halves(const BufferRows& x, int64_t rows, int64_t width) {
  const Halves made{address(scratch(halves_, rows, width / 2)), address(scratch(halves_factors_, rows, 1))};
  recorder_.dispatch(Shader::kHalves, {},
                     HalvesArguments{address(x), made.rows, made.factors, u32(x.stride), u32(width)},
                     {u32(rows)});
  return made;
}

void VulkanEngine::multiply(const DeviceMatrix& any, const Constant& bias, const BufferRows& x,
                            const BufferRows& y, int64_t rows, Precision precision,
                            std::optional<Halves>& halved, bool together) {
  const VulkanMatrix& matrix = on_gpu(any);
  const Address from = address(x), biases = address_of(bias);
  const uint32_t storage = static_cast<uint32_t>(matrix.storage()),
                 whole_words = matrix.whole_words() ? 1u : 0u, vectors = in_vectors(from, x.stride) ? 1u : 0u;
  const bool many = rows > kMostFew && gpu_->shared_bytes() >= kTileSharedBytes,
             halves = precision != Precision::kF32 && matrix.halves(),
             units = many && precision != Precision::kF32 && matrix.on_units();
  if (units && !halved) {
    halved = to_halves(x, rows, matrix.cols());
    together = false;
  }
  uint32_t batch = 1;
  while (batch < kMostBatch && batch < rows) batch *= 2;
  const uint32_t rows_of_group = kProductThreads / gpu_->subgroup() * kProductRows;
  for (const VulkanMatrix::Slab& slab : matrix.slabs()) {
    const uint64_t before = static_cast<uint64_t>(slab.first) * sizeof(float);
    ProductArguments arguments = arguments_of(matrix, slab);
    arguments.bias = biases != 0 ? biases + before : 0;
    arguments.biased = biases != 0 ? 1 : 0;
    arguments.x = from;
    arguments.y = address(y) + before;
    arguments.x_rows = u32(rows);
    arguments.x_stride = u32(x.stride);
    arguments.y_stride = u32(y.stride);
    const auto all = static_cast<uint64_t>(rows), slab_rows = static_cast<uint64_t>(slab.rows);
    const bool fits = parts_of(slab_rows, kTile) <= kMostGroups;
    if (units && fits) {
      arguments.x = halved->rows;
      arguments.x_factors = halved->factors;
      arguments.x_stride = u32(matrix.cols() / 2);
      const UnitShape& shape = gpu_->unit_shape();
      recorder_.dispatch(Shader::kUnits,
                         {storage, whole_words, shape.subgroup, 0, shape.rows, shape.batch, shape.depth},
                         arguments, {parts_of(slab_rows, kTile), parts_of(all, kTile)}, together);
    } else if (many && fits) {
      recorder_.dispatch(Shader::kTiles, {storage, whole_words, halves ? 1u : 0u, vectors}, arguments,
                         {parts_of(slab_rows, kTile), parts_of(all, kTile)}, together);
    } else {
      recorder_.dispatch(Shader::kProduct, {storage, whole_words, batch, vectors}, arguments,
                         {std::min(parts_of(slab_rows, rows_of_group), kMostGroups), parts_of(all, batch)},
                         together);
    }
    together = true;
  }
}

void VulkanEngine::multiply(const LinearGroup& weights, const BufferRows& x, const BufferRows& y,
                            int64_t rows, Precision precision) {
  BufferRows to = y;
  std::optional<Halves> halves;
  for (size_t part = 0; part < weights.parts(); ++part) {
    multiply(weights.matrix(part), weights.bias(part), x, to, rows, precision, halves, part > 0);
    to.offset += weights.outputs(part);
  }
}

void VulkanEngine::multiply_transposed(const LinearGroup& weights, const BufferRows& dy, const BufferRows& dx,
                                       int64_t rows, Precision) {
  uint64_t before = 0;  // bytes of a row of dy
  bool added = false;
  for (size_t part = 0; part < weights.parts(); ++part) {
    const VulkanMatrix& matrix = on_gpu(weights.matrix(part));
    for (const VulkanMatrix::Slab& slab : matrix.slabs()) {
      ProductArguments arguments = arguments_of(matrix, slab);
      arguments.x = address(dy) + before;
      arguments.y = address(dx);
      arguments.x_rows = u32(rows);
      arguments.x_stride = u32(dy.stride);
      arguments.y_stride = u32(dx.stride);
      arguments.biased = added ? 1 : 0;
      recorder_.dispatch(Shader::kTransposed,
                         {static_cast<uint32_t>(matrix.storage()), matrix.whole_words() ? 1u : 0u}, arguments,
                         {parts_of(static_cast<uint64_t>(matrix.cols()), kTransposedColumns),
                          parts_of(static_cast<uint64_t>(rows), kTransposedBatch)});
      before += static_cast<uint64_t>(slab.rows) * sizeof(float);
      added = true;
    }
  }
}

void VulkanEngine::attend(const AttentionStep& step, const BufferRows& projected,
                          const BufferRows& attended) {
  AttentionStep part = step;
  for (size_t first = 0; first < step.sequences.size(); first += part.sequences.size()) {
    const SequenceRows& own = step.sequences[first];
    size_t last = first + 1;
    while (last < step.sequences.size() && step.sequences[last].cache.type == own.cache.type) ++last;
    part.sequences = step.sequences.subspan(first, last - first);
    attend_alike(part, projected.from(own.row), attended.from(own.row));
  }
}

void VulkanEngine::attend_alike(const AttentionStep& step, const BufferRows& projected,
                                const BufferRows& attended) {
  const HeadLayout& heads = step.heads;
  if (heads.head_dim > kMostHeadDim)
    fail(ErrorCode::kUnsupported, "{}: heads of {} numbers; at most {} are supported", gpu_->name(),
         heads.head_dim, kMostHeadDim);
  const bool local = step.rope == LayerRope::kLocal, turns = step.rope != LayerRope::kNone;
  const kernels::KvType type = step.sequences.front().cache.type;
  uint64_t rows = 0, pages = 0;
  for (const SequenceRows& sequence : step.sequences) {
    const uint64_t own =
        parts_of(static_cast<uint64_t>(sequence.position + sequence.rows), kernels::kAttentionBlock);
    rows += static_cast<uint64_t>(sequence.rows);
    pages += own;
  }
  const Recorder::Params params = recorder_.params(rows * sizeof(RowPlace) + pages * sizeof(Address));
  auto* place = reinterpret_cast<RowPlace*>(params.host);
  auto* page = reinterpret_cast<Address*>(params.host + rows * sizeof(RowPlace));
  Address page_at = params.address + rows * sizeof(RowPlace);
  uint32_t turned = 0;
  for (const SequenceRows& sequence : step.sequences) {
    const Angles& angles = local ? sequence.local_angles : sequence.angles;
    if (turns) turned = u32(angles.dims);
    for (int64_t row = 0; row < sequence.rows; ++row) {
      const int64_t position = sequence.position + row;
      *place++ = {page_at,
                  turned == 0
                      ? 0
                      : address_of(angles.chunks[position / Angles::kChunk]) +
                            static_cast<uint64_t>(position % Angles::kChunk * angles.dims) * sizeof(float),
                  u32(position), 0};
    }
    const auto own =
        parts_of(static_cast<uint64_t>(sequence.position + sequence.rows), kernels::kAttentionBlock);
    for (uint32_t i = 0; i < own; ++i) *page++ = reinterpret_cast<Address>(sequence.cache.pages[i]);
    page_at += own * sizeof(Address);
  }
  const Address sinks = step.sinks != nullptr ? address_of(*step.sinks) : 0;
  const int64_t head_words = head_bytes(type, heads.head_dim) / 4;
  AttentionArguments arguments{.projected = address(projected),
                               .attended = address(attended),
                               .places = params.address,
                               .sinks = sinks,
                               .projected_stride = u32(projected.stride),
                               .attended_stride = u32(attended.stride),
                               .group = u32(heads.heads / heads.kv_heads),
                               .query_stride = u32(heads.query_stride()),
                               .key_at = u32(heads.key_at()),
                               .key_stride = u32(heads.key_stride()),
                               .value_after_key = u32(heads.value_after_key()),
                               .head_words = u32(head_words),
                               .first_word = u32(step.cache_layer * heads.kv_heads * head_words),
                               .turned = turned,
                               .window = u32(std::min<int64_t>(step.window, INT32_MAX)),
                               .scale = step.scale,
                               .softcap = step.softcap,
                               .has_sinks = sinks != 0 ? 1u : 0u};
  recorder_.dispatch(Shader::kStore, {static_cast<uint32_t>(type), u32(heads.head_dim)}, arguments,
                     {u32(static_cast<int64_t>(rows)), u32(heads.kv_heads)});
  // Long sequences go in tiles, those between them row by row.
  const uint32_t tile = attend_tile_queries(heads.head_dim, std::min(gpu_->shared_bytes(), kMostTileBytes));
  bool first = true;
  const auto next = [&](int64_t count) {  // arguments of the next rows
    AttentionArguments own = arguments;
    own.rows = u32(count);
    arguments.places += static_cast<uint64_t>(count) * sizeof(RowPlace);
    arguments.projected += static_cast<uint64_t>(count * projected.stride) * sizeof(float);
    arguments.attended += static_cast<uint64_t>(count * attended.stride) * sizeof(float);
    return own;
  };
  const auto tiles_of = [&](const SequenceRows& sequence) -> uint32_t {  // 0: row by row
    if (tile == 0 || sequence.rows < kPromptRows) return 0;
    const uint32_t tiles = parts_of(static_cast<uint64_t>(sequence.rows) * arguments.group, tile);
    // Fewer workgroups would leave most of a card idle.
    return gpu_->accelerator() && tiles * heads.kv_heads < kFewestTiles ? 0 : tiles;
  };
  for (size_t i = 0; i < step.sequences.size(); first = false) {
    if (const uint32_t tiles = tiles_of(step.sequences[i]); tiles > 0) {
      recorder_.dispatch(Shader::kAttendTiles, {static_cast<uint32_t>(type), u32(heads.head_dim), tile},
                         next(step.sequences[i++].rows), {tiles, u32(heads.kv_heads)}, !first);
      continue;
    }
    int64_t count = 0, longest = 0;
    do {
      count += step.sequences[i].rows;
      longest = std::max(longest, step.sequences[i].position + step.sequences[i].rows);
    } while (++i < step.sequences.size() && tiles_of(step.sequences[i]) == 0);
    attend_rows(heads, type, next(count),
                parts_of(static_cast<uint64_t>(longest), kPartPages * kernels::kAttentionBlock), !first);
  }
}

void VulkanEngine::attend_rows(const HeadLayout& heads, kernels::KvType type, AttentionArguments arguments,
                               uint32_t parts, bool together) {
  const auto stage = [&](AttendStage own) {
    return Constants{static_cast<uint32_t>(type), u32(heads.head_dim), static_cast<uint32_t>(own)};
  };
  const uint32_t queries = arguments.rows, all_heads = u32(heads.heads);
  if (parts == 1 || queries * all_heads > kMostSplit) {
    recorder_.dispatch(Shader::kAttend, stage(AttendStage::kAll), arguments, {queries, all_heads}, together);
    return;
  }
  const BufferRows partials =
      scratch(partials_, int64_t{queries} * all_heads, int64_t{parts} * (heads.head_dim + 2));
  arguments.partials = address(partials);
  arguments.parts = parts;
  recorder_.dispatch(Shader::kAttend, stage(AttendStage::kOnePart), arguments, {queries, all_heads, parts});
  recorder_.dispatch(Shader::kAttend, stage(AttendStage::kMergeParts), arguments, {queries, all_heads});
}

void VulkanEngine::activate(const ActivationStep& step, const BufferRows& gate_up, int64_t rows) {
  const bool clamped = step.limit > 0;
  recorder_.dispatch(
      Shader::kActivate, {static_cast<uint32_t>(step.kind), step.gated ? 1u : 0u, clamped ? 1u : 0u},
      ActivateArguments{address(gate_up), u32(gate_up.stride), u32(step.width), step.limit},
      {clamped ? 1u : parts_of(static_cast<uint64_t>(step.width), kActivateThreads), u32(rows)});
}

void VulkanEngine::add(const NormStep& before, float scale, const NormStep& after, const BufferRows& added,
                       const BufferRows& x, int64_t rows, int64_t width) {
  if (!before.empty()) norm(before, added, added, rows);
  over_rows(recorder_, RowsOperation::kAdd,
            {.from = address(added),
             .to = address(x),
             .rows = u32(rows),
             .width = u32(width),
             .from_stride = u32(added.stride),
             .to_stride = u32(x.stride),
             .scale = scale});
  if (!after.empty()) norm(after, x, x, rows);
}

void VulkanEngine::finish(float scale, float softcap, const BufferRows& x, int64_t rows, int64_t width) {
  over_rows(recorder_, RowsOperation::kSoftcap,
            {.to = address(x),
             .rows = u32(rows),
             .width = u32(width),
             .to_stride = u32(width),
             .scale = scale,
             .cap = softcap});
}

void VulkanEngine::zero(const BufferRows& to, int64_t rows, int64_t width) {
  over_rows(recorder_, RowsOperation::kZero,
            {.to = address(to), .rows = u32(rows), .width = u32(width), .to_stride = u32(to.stride)});
}

void VulkanEngine::gather(const BufferRows& from, std::span<const int32_t> list, const BufferRows& to,
                          int64_t width) {
  const Recorder::Params params = recorder_.params(list.size_bytes());
  std::memcpy(params.host, list.data(), list.size_bytes());
  over_rows(recorder_, RowsOperation::kGather,
            {.from = address(from),
             .to = address(to),
             .list = params.address,
             .rows = static_cast<uint32_t>(list.size()),
             .width = u32(width),
             .from_stride = u32(from.stride),
             .to_stride = u32(to.stride)});
}

void VulkanEngine::scatter_add(const BufferRows& from, std::span<const int32_t> list,
                               std::span<const float> shares, const BufferRows& to, int64_t width) {
  const Recorder::Params params = recorder_.params(list.size_bytes() + shares.size_bytes());
  std::memcpy(params.host, list.data(), list.size_bytes());
  std::memcpy(params.host + list.size_bytes(), shares.data(), shares.size_bytes());
  over_rows(recorder_, RowsOperation::kScatterAdd,
            {.from = address(from),
             .to = address(to),
             .list = params.address,
             .shares = params.address + list.size_bytes(),
             .rows = static_cast<uint32_t>(list.size()),
             .width = u32(width),
             .from_stride = u32(from.stride),
             .to_stride = u32(to.stride)});
}

}  // namespace nfloat::vulkan
