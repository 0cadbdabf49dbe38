// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <set>

#include "base/fail.h"
#include "base/output_place.h"
#include "base/stopwatch.h"
#include "bridge/adapter.h"
#include "bridge/count_not_finite.h"
#include "bridge/gguf_plan.h"
#include "bridge/over_ranks.h"
#include "bridge/row_reader.h"
#include "convert/output.h"
#include "gguf/tables.h"

namespace nfloat {
namespace {

// How many weights of the adapter are in the file; those that are not are named in `notes`.
size_t account_for(const LoraAdapter& lora, const GgufPlan& plan, std::vector<std::string>& notes) {
  std::set<std::string> used;
  for (const GgufTarget& target : plan.targets)
    for (const GgufSource& source : target.sources) {
      if (lora.find(source.adapted()) == nullptr) continue;
      if (target.mxfp4)
        fail(ErrorCode::kUnsupported, "'{}' stays MXFP4 in a GGUF file, and nothing can be added to it",
             source.name);
      used.insert(source.adapted());
    }
  std::vector<std::string> lost;
  for (const auto& [name, delta] : lora.deltas())
    if (!used.contains(name)) lost.push_back(name);
  if (lost.size() == 1)
    notes.push_back(fmt::format("of the adapter, '{}': the file does not have it", lost[0]));
  if (lost.size() > 1)
    notes.push_back(fmt::format("of the adapter, {} weights that the file does not have, '{}' to '{}'",
                                lost.size(), lost.front(), lost.back()));
  if (!lora.missing().empty()) notes.push_back(lora.missing());
  if (used.empty())
    fail(ErrorCode::kInvalidArgument,
         "the adapter changes nothing that a GGUF file has: '{}' is a weight of another part of the model",
         lost[0]);
  return used.size();
}

// Where the bytes of a tensor go: into the file, or beside what is in the file.
using Sink = std::function<void(uint64_t begin, std::span<const std::byte> bytes)>;

// What an importance matrix says of a tensor whose scales are searched for; null: nothing.
const ColumnImportance* importance_of(const BridgeOptions& options, const GgufTarget& target) {
  if (!options.importance || gguf_type_info(target.type).block_elements == 1 ||
      target.type == GgufType::kQ8_0 || target.mxfp4)
    return nullptr;
  const auto found = options.importance->tensors.find(target.name);
  if (found == options.importance->tensors.end()) return nullptr;
  const auto cols = static_cast<size_t>(target.cols);
  const size_t matrices = found->second.sums.size() / cols;
  if (matrices == 0 || found->second.sums.size() % cols != 0 ||
      static_cast<size_t>(target.rows) % matrices != 0)
    fail(ErrorCode::kInvalidArgument, "the importance matrix has {} values of '{}', which has {} columns",
         found->second.sums.size(), target.name, target.cols);
  return &found->second;
}

// One tensor of the file.
class TargetJob : public StreamJob {
 public:
  TargetJob(const Checkpoint& checkpoint, const LoraAdapter* lora, const BridgeOptions& options,
            const GgufTarget& target, BridgeTensor& result, Sink sink)
      : checkpoint_(checkpoint), target_(target), result_(result), sink_(std::move(sink)) {
    if (target.mxfp4) {
      const std::string& name = target.sources[0].name;
      for (const char* part : {"_blocks", "_scales"}) parts_.push_back(&*checkpoint.find(name + part));
      result.before = "MXFP4";
    }
    for (const GgufSource& source : target.mxfp4 ? std::vector<GgufSource>() : target.sources)
      readers_.push_back(
          std::make_unique<RowReader>(checkpoint, source.name, target.cols, target.transposed,
                                      lora != nullptr ? lora->find(source.adapted()) : nullptr));
    if (!readers_.empty()) result.before = readers_[0]->stored_type();
    chunk_rows_ = std::max<int64_t>(1, kChunkElements / std::max<int64_t>(1, target.cols));
    const GgufTypeInfo& type = gguf_type_info(target.type);
    if (options.prepared && plain_dtype(target.type) == nullptr)
      for (const GgufSource& source : target.sources) take_note_of(options.prepared(source.name), source);
    importance_ = importance_of(options, target);
    row_bytes_ = static_cast<uint64_t>(target.cols) * static_cast<uint64_t>(type.block_bytes) /
                 static_cast<uint64_t>(type.block_elements);
  }

  int64_t next_stage() override {
    return started_++ > 0 ? 0 : (target_.rows + chunk_rows_ - 1) / chunk_rows_;
  }

  uint64_t run(int64_t chunk, Scratch& scratch) override {
    const int64_t first = chunk * chunk_rows_, count = std::min(chunk_rows_, target_.rows - first);
    const auto output = scratch.bytes(2, static_cast<size_t>(count) * row_bytes_);
    uint64_t consumed = 0;
    if (!target_.values.empty()) {
      std::memcpy(output.data(), target_.values.data(), output.size());
    } else if (target_.mxfp4) {
      consumed = repack(first, count, output);
    } else if (readers_[0]->plain() && plain_dtype(target_.type) != nullptr && !target_.plus_one &&
               *readers_[0]->plain() == *plain_dtype(target_.type)) {
      for_runs(first, count, [&](size_t source, int64_t from, int64_t at, int64_t rows) {
        const RowReader& reader = *readers_[source];
        reader.read_bytes(from, rows, output.subspan(static_cast<size_t>(at) * row_bytes_));
        consumed += reader.input_bytes(rows);
      });
    } else {
      consumed = encode(first, count, output, scratch);
    }
    sink_(static_cast<uint64_t>(first) * row_bytes_, output);
    return consumed;
  }

 private:
  // body(source, its first row, row of the chunk, rows) for rows that follow one another on both sides.
  template <typename Body>
  void for_runs(int64_t first, int64_t count, const Body& body) const {
    for (int64_t done = 0; done < count;) {
      const auto source =
          static_cast<size_t>(target_.sources.size() > 1 ? (first + done) / target_.sources[0].map.count : 0);
      const GgufRowMap& map = target_.sources[source].map;
      const int64_t row = first + done, from = map.huggingface(row);
      int64_t rows = 1;
      while (done + rows < count && row + rows < map.first + map.count &&
             map.huggingface(row + rows) == from + rows)
        ++rows;
      body(source, from, done, rows);
      done += rows;
    }
  }

  uint64_t encode(int64_t first, int64_t count, std::span<std::byte> output, Scratch& scratch) {
    const auto values = scratch.get<float>(3, static_cast<size_t>(count * target_.cols));
    uint64_t consumed = 0;
    for_runs(first, count, [&](size_t source, int64_t from, int64_t at, int64_t rows) {
      const RowReader& reader = *readers_[source];
      reader.read(from, rows, values.data() + at * target_.cols, scratch);
      consumed += reader.input_bytes(rows);
    });
    if (target_.plus_one)
      for (float& value : values) value += 1;
    encode_rows(first, values, output);
    if (!prepared_.empty()) take_prepared(first, count, output);
    if (target_.type != GgufType::kF32) measure(first, values, output, scratch);
    return consumed;
  }

  void encode_rows(int64_t first, std::span<const float> values, std::span<std::byte> output) const {
    if (importance_ == nullptr) return encode_gguf(target_.type, values, output);
    // The matrices of experts stand behind one another.
    const auto cols = static_cast<size_t>(target_.cols);
    const auto matrices = static_cast<int64_t>(importance_->sums.size() / cols);
    const int64_t matrix_rows = target_.rows / matrices;
    const auto count = static_cast<int64_t>(values.size() / cols);
    for (int64_t row = 0; row < count;) {
      const int64_t matrix = (first + row) / matrix_rows;
      const int64_t last = std::min(count, (matrix + 1) * matrix_rows - first);
      const auto begin = static_cast<size_t>(row), size = static_cast<size_t>(last - row);
      encode_gguf(target_.type, values.subspan(begin * cols, size * cols),
                  output.subspan(begin * row_bytes_, size * row_bytes_),
                  importance_->means(static_cast<size_t>(matrix), cols));
      row = last;
    }
  }

  void take_note_of(const std::shared_ptr<const GgufMatrix>& rows, const GgufSource& source) {
    prepared_.push_back(rows);
    if (rows == nullptr) return;
    const GgufTypeInfo& type = gguf_type_info(target_.type);
    const auto size = static_cast<uint64_t>(rows->rows) * static_cast<uint64_t>(target_.cols) /
                      static_cast<uint64_t>(type.block_elements) * static_cast<uint64_t>(type.block_bytes);
    if (rows->type != target_.type || rows->columns != target_.cols || rows->bytes.size() != size)
      fail(ErrorCode::kInvalidArgument, "'{}': {} rows of {} in {} were prepared for rows of {} in {}",
           source.name, rows->rows, rows->columns, gguf_type_info(rows->type).name, target_.cols, type.name);
  }

  // Rows that were quantized before, over those that were encoded.
  void take_prepared(int64_t first, int64_t count, std::span<std::byte> output) const {
    for_runs(first, count, [&](size_t source, int64_t from, int64_t at, int64_t rows) {
      const GgufMatrix* prepared = prepared_[source].get();
      if (prepared == nullptr) return;
      const auto begin = static_cast<size_t>(from) * row_bytes_,
                 size = static_cast<size_t>(rows) * row_bytes_;
      if (prepared->bytes.size() < begin + size)
        fail(ErrorCode::kInvalidArgument, "'{}': {} rows were prepared, more were expected",
             target_.sources[source].name, prepared->rows);
      std::memcpy(output.data() + static_cast<size_t>(at) * row_bytes_, prepared->bytes.data() + begin, size);
    });
  }

  void measure(int64_t first, std::span<const float> values, std::span<const std::byte> output,
               Scratch& scratch) {
    const auto decoded = scratch.get<float>(0, values.size());
    decode_gguf(target_.type, output, decoded);
    double error = 0, original = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      const double value = double{values[i]}, off = double{decoded[i]} - value;
      error += off * off;
      original += value * value;
    }
    if (!std::isfinite(error) || !std::isfinite(original)) refuse(first, values, decoded);
    const std::lock_guard lock(mutex_);
    result_.squared_error += error;
    result_.squared_original += original;
  }

  [[noreturn]] void refuse(int64_t first, std::span<const float> values,
                           std::span<const float> decoded) const {
    size_t at = 0;
    while (at + 1 < values.size() && std::isfinite(values[at]) && std::isfinite(decoded[at])) ++at;
    const int64_t row = first + static_cast<int64_t>(at) / target_.cols;
    fail(ErrorCode::kNotFinite, "{}: {} at [{}, {}] of '{}' has no place in {}{}", checkpoint_.path(),
         values[at], row, static_cast<int64_t>(at) % target_.cols, target_.name,
         gguf_type_info(target_.type).name,
         !std::isfinite(values[at])        ? ""
         : target_.type == GgufType::kBF16 ? ": take f32"
                                           : ": take bf16 or f32");
  }

  // In the file, codes 16 apart share a byte; in the checkpoint neighbours do.
  uint64_t repack(int64_t first, int64_t count, std::span<std::byte> output) const {
    constexpr size_t kCodes = 16, kBytes = 17;
    const auto blocks = static_cast<size_t>(target_.cols / 32);
    std::vector<std::byte> codes(blocks * kCodes), scales(blocks);
    for (int64_t i = 0; i < count; ++i) {
      const auto row = static_cast<uint64_t>(target_.sources[0].map.huggingface(first + i));
      checkpoint_.read(*parts_[0], row * codes.size(), codes);
      checkpoint_.read(*parts_[1], row * scales.size(), scales);
      for (size_t b = 0; b < blocks; ++b) {
        std::byte* to = output.data() + (static_cast<size_t>(i) * blocks + b) * kBytes;
        const std::byte* from = codes.data() + b * kCodes;
        *to++ = scales[b];
        for (size_t k = 0; k < kCodes; ++k) {
          const auto nibble = [&](size_t element) {
            return element % 2 == 0 ? from[element / 2] & std::byte{15} : from[element / 2] >> 4;
          };
          to[k] = nibble(k) | nibble(k + 16) << 4;
        }
      }
    }
    return static_cast<uint64_t>(count) * (codes.size() + scales.size());
  }

  const Checkpoint& checkpoint_;
  const GgufTarget& target_;
  BridgeTensor& result_;
  const Sink sink_;
  std::vector<std::unique_ptr<RowReader>> readers_;          // beside the sources
  std::vector<const TensorInfo*> parts_;                     // codes and scales of MXFP4
  std::vector<std::shared_ptr<const GgufMatrix>> prepared_;  // beside the sources; empty: none
  const ColumnImportance* importance_ = nullptr;
  int64_t chunk_rows_ = 1;
  uint64_t row_bytes_ = 0;
  std::mutex mutex_;
  int started_ = 0;
};

struct Part {
  std::string path;
  std::vector<size_t> targets;
  std::unique_ptr<GgufWriter> writer;
};

// "DIR/x.gguf" -> "DIR/x-00001-of-00003.gguf".
std::string part_path(const std::string& path, size_t part, size_t parts) {
  if (parts == 1) return path;
  constexpr std::string_view kEnding = ".gguf";
  return fmt::format("{}-{:05}-of-{:05}.gguf", path.substr(0, path.size() - kEnding.size()), part + 1, parts);
}

// Of the files of this one process, or of rank 0; the other ranks join them. What fails on one fails on all.
std::vector<Part> make_parts(const std::string& path, const GgufPlan& plan, uint64_t part_bytes,
                             std::span<const std::string> begun = {}) {
  std::vector<Part> parts(1);
  uint64_t bytes = 0;
  for (size_t i = 0; i < plan.targets.size(); ++i) {
    const uint64_t size = gguf_tensor_bytes(plan.targets[i].type, plan.targets[i].shape);
    if (part_bytes > 0 && !parts.back().targets.empty() && bytes + size > part_bytes) {
      parts.emplace_back();
      bytes = 0;
    }
    parts.back().targets.push_back(i);
    bytes += size;
  }
  for (size_t i = 0; i < parts.size(); ++i) {
    parts[i].path = part_path(path, i, parts.size());
    GgufMetadata metadata = i == 0 ? plan.metadata : GgufMetadata();
    if (parts.size() > 1) {
      metadata.u16("split.no", static_cast<uint16_t>(i));
      metadata.u16("split.count", static_cast<uint16_t>(parts.size()));
      metadata.i32("split.tensors.count", static_cast<int32_t>(plan.targets.size()));
    }
    std::vector<GgufWriter::Declared> declared;
    for (const size_t target : parts[i].targets)
      declared.push_back({plan.targets[target].name, plan.targets[target].type, plan.targets[target].shape});
    parts[i].writer = std::make_unique<GgufWriter>(parts[i].path, metadata, declared,
                                                   begun.empty() ? std::string() : begun[i]);
  }
  return parts;
}

// All ranks get the path and the temporary files of rank 0, which are returned.
std::vector<std::string> tell_parts(Ranks& ranks, std::string& path, std::span<const Part> parts) {
  ranks.broadcast_text(path);
  uint64_t count = parts.size();
  ranks.broadcast(&count, sizeof count);
  std::vector<std::string> begun;
  for (size_t i = 0; i < count; ++i) {
    begun.push_back(i < parts.size() ? parts[i].writer->temporary_path() : std::string());
    ranks.broadcast_text(begun.back());
  }
  return begun;
}

// The first part last: without it nothing opens the others.
void commit_parts(std::span<Part> parts, bool overwrite,
                  const std::function<void(const std::string&)>& expect_place) {
  for (const Part& part : parts) expect_place(part.path);
  size_t left = parts.size();
  try {
    for (; left > 0; --left) parts[left - 1].writer->commit(overwrite ? Existing::kReplace : Existing::kKeep);
  } catch (...) {
    if (!overwrite)
      for (; left < parts.size(); ++left) std::remove(parts[left].path.c_str());
    throw;
  }
}

// Reads the written files and compares every byte with what the checkpoint gives.
void check_written(const Checkpoint& input, const LoraAdapter* lora, const BridgeOptions& options,
                   const GgufPlan& plan, const std::string& path, const ConvertProgress& progress,
                   const ConvertControl& control) {
  const GgufFile file(path);
  std::vector<BridgeTensor> ignored(plan.targets.size());
  run_stream(
      plan.targets.size(),
      [&](size_t i) -> std::unique_ptr<StreamJob> {
        const GgufTarget& target = plan.targets[i];
        const GgufTensor* tensor = file.find(target.name);
        if (tensor == nullptr || tensor->type != target.type || tensor->shape != target.shape)
          fail(ErrorCode::kMalformedFile, "{}: tensor '{}' is not as it was written", path, target.name);
        return std::make_unique<TargetJob>(
            input, lora, options, target, ignored[i],
            [&, tensor](uint64_t begin, std::span<const std::byte> bytes) {
              const auto stored = file.bytes(*tensor).subspan(begin, bytes.size());
              if (std::memcmp(stored.data(), bytes.data(), bytes.size()) != 0)
                fail(ErrorCode::kMalformedFile, "{}: tensor '{}' differs near its byte {}", path,
                     tensor->name, begin);
              file.release(stored);
            });
      },
      progress, control);
}

}  // namespace

double BridgeTensor::sqnr_db() const noexcept {
  return squared_error > 0 ? 10 * std::log10(squared_original / squared_error)
                           : std::numeric_limits<double>::infinity();
}

double BridgeTensor::adapter_left() const noexcept {
  return squared_change > 0 ? change_product / squared_change : 1;
}

double BridgeTensor::adapter_error() const noexcept {
  return squared_change > 0 ? std::sqrt(squared_error / squared_change) : 0;
}

BridgeResult write_gguf(const Checkpoint& input, const std::string& output, const BridgeOptions& options,
                        const ConvertControl& control) {
  if (!is_gguf_path(output))
    fail(ErrorCode::kInvalidArgument, "{}: the name of a GGUF file ends in .gguf", output);
  if (options.type && !is_encodable(*options.type))
    fail(ErrorCode::kInvalidArgument, "{} is not written: {}", gguf_type_info(*options.type).name,
         kGgufWritten);
  const Stopwatch watch;
  const std::string text = input.text_file("config.json");
  if (text.empty())
    fail(ErrorCode::kNotFound, "{}: no config.json; a model is a folder with its configuration",
         input.path());
  const ModelConfig config = parse_model_config(text, input.path() + "/config.json");
  const std::string name = std::filesystem::path(input.path()).lexically_normal().stem().string();
  expect_own_weights(input, true);
  const auto adapter = load_adapter(options, input);
  const LoraAdapter* lora = adapter ? &*adapter : nullptr;
  const GgufPlan plan =
      plan_gguf(input, config, name, options.type, lora != nullptr ? lora->untied_head() : std::string());
  BridgeResult result;
  result.notes = plan.notes;
  if (lora != nullptr && !lora->untied_head().empty()) result.notes.push_back(untied_note(*lora));
  if (lora != nullptr) result.merged = account_for(*lora, plan, result.notes);
  for (const GgufTarget& target : plan.targets) result.weighted += importance_of(options, target) != nullptr;
  if (options.importance && result.weighted == 0)
    fail(ErrorCode::kInvalidArgument,
         "{}: the importance matrix has nothing of its tensors whose scales are searched for", input.path());
  ConvertProgress progress;
  progress.tensors_total = plan.targets.size();
  for (const TensorInfo& tensor : input.tensors()) progress.input_bytes_total += tensor.bytes;
  result.bytes_before = stored_bytes(input);
  for (const GgufTarget& target : plan.targets) {
    BridgeTensor tensor;
    tensor.name = target.name;
    tensor.after = gguf_type_info(target.type).name;
    tensor.elements = target.shape.elements();
    tensor.bytes = gguf_tensor_bytes(target.type, target.shape);
    result.parameters += tensor.elements;
    result.bytes_after += tensor.bytes;
    result.tensors.push_back(std::move(tensor));
  }
  std::vector<NamedPath> reads = read_of(input);
  reads.push_back({options.lora});
  const auto expect_place = [&](const std::string& place) {
    expect_checkpoint_apart(place, reads);
    if (!std::filesystem::exists(place)) return;
    if (control.overwrite) return expect_replaceable(place, OutputKind::kGguf, place);
    fail(ErrorCode::kAlreadyExists, "{}: exists already (--overwrite replaces it when the new one is whole)",
         place);
  };
  Ranks* const ranks = options.ranks.get();
  const size_t rank = ranks != nullptr ? static_cast<size_t>(ranks->rank()) : 0;
  const size_t count = ranks != nullptr ? static_cast<size_t>(ranks->count()) : 1;
  if (ranks != nullptr) expect_same_input(*ranks, input, options.lora, plan.metadata.bytes());
  std::vector<Part> parts;
  std::string path;
  std::vector<std::string> begun;  // path and temporary files of rank 0
  together(ranks, [&] {
    if (rank > 0) return;
    path = check_output(input, output, OutputKind::kGguf, control.overwrite,
                        result.bytes_after + plan.metadata.bytes().size());
    remove_stale_temporaries(path);
    parts = make_parts(path, plan, options.part_bytes);
    for (const Part& part : parts) expect_place(part.path);
  });
  if (ranks != nullptr) begun = tell_parts(*ranks, path, parts);
  together(ranks, [&] {
    if (rank > 0) parts = make_parts(path, plan, options.part_bytes, begun);
  });
  std::vector<std::pair<GgufWriter*, size_t>> places;
  for (Part& part : parts)
    for (size_t i = 0; i < part.targets.size(); ++i) places.emplace_back(part.writer.get(), i);
  together(ranks, [&] {
    const size_t own = (plan.targets.size() + count - 1 - rank) / count;
    ConvertProgress of_rank = progress;
    of_rank.tensors_total = own;
    of_rank.input_bytes_total /= count;
    run_stream(
        own,
        [&](size_t turn) -> std::unique_ptr<StreamJob> {
          const size_t i = turn * count + rank;
          return std::make_unique<TargetJob>(
              input, lora, options, plan.targets[i], result.tensors[i],
              [&, i, place = places[i]](uint64_t begin, std::span<const std::byte> bytes) {
                if (const DType* plain = plain_dtype(plan.targets[i].type); plain != nullptr)
                  count_not_finite(*plain, begin, bytes, result.tensors[i]);
                place.first->write(place.second, begin, bytes);
              });
        },
        of_rank, control);
    result.seconds = watch.seconds();
    const Stopwatch syncing;
    for (Part& part : parts) part.writer->sync();
    result.sync_seconds = syncing.seconds();
    if (control.cancelled && control.cancelled())
      fail(ErrorCode::kInterrupted, "interrupted; nothing was changed");
  });
  together(ranks, [&] {
    if (rank == 0) commit_parts(parts, control.overwrite, expect_place);
  });
  for (const Part& part : parts) result.files.push_back(part.path);
  result.whole = true;
  if (options.check && rank == 0) {
    const Stopwatch checking;
    check_written(input, lora, options, plan, parts[0].path, progress, control);
    result.check_seconds = checking.seconds();
  }
  return result;
}

}  // namespace nfloat
