// SPDX-License-Identifier: Apache-2.0
#include "nfloat/memory_plan.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "architecture/description.h"
#include "architecture/tensor_roles.h"
#include "base/fail.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "convert/output.h"
#include "kernels/attention.h"
#include "nfloat/convert.h"

namespace nfloat {
namespace {

namespace fs = std::filesystem;
constexpr int64_t kPrefillTokens = 512;                // that the forward pass takes at once
constexpr int64_t kLongestContext = int64_t{1} << 40;  // of which the bytes can be counted

Json read_config(const std::string& path) {
  const MappedFile file(path);
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  return parse_json_object(text, path, {.depth = 64, .bytes = size_t{16} << 20});
}

// Sorted as `nfloat quantize` sorts them.
void count_from_files(const std::string& folder, ModelSize* size) {
  const Checkpoint checkpoint(folder);
  size->linear_parameters = size->embedding_parameters = size->head_parameters = size->other_parameters = 0;
  bool quantized = false;
  for (const std::string& name : checkpoint.weight_names())
    quantized = quantized || checkpoint.is_quantized(name);
  if (quantized) {
    const TensorRoles roles(parse_config(checkpoint));
    for (const std::string& name : checkpoint.weight_names()) {
      if (checkpoint.is_quantized(name)) {
        size->linear_parameters += checkpoint.quantized(name).shape.elements();
      } else {
        const TensorInfo& tensor = *checkpoint.find(name);
        const TensorRole role = roles.of(name, tensor.shape);
        (role == TensorRole::kHead        ? size->head_parameters
         : role == TensorRole::kEmbedding ? size->embedding_parameters
                                          : size->other_parameters) += tensor.shape.elements();
      }
    }
    return;
  }
  QuantizeCheckpointOptions options;
  options.quantize_experts = true;
  const QuantizationPlan plan = plan_quantization(checkpoint, options);
  for (const TensorPlan& tensor : plan.tensors) {
    int64_t& count = tensor.quantize                         ? size->linear_parameters
                     : tensor.role == TensorRole::kHead      ? size->head_parameters
                     : tensor.role == TensorRole::kEmbedding ? size->embedding_parameters
                                                             : size->other_parameters;
    count += tensor.input.shape.elements();
  }
}

// The most tokens whose cache takes at most `bytes`.
int64_t largest_context(const ModelSize& model, uint64_t bytes) {
  int64_t fits = 0, too_many = (model.max_context > 0 ? model.max_context : kLongestContext) + 1;
  while (too_many - fits > 1) {
    const int64_t middle = fits + (too_many - fits) / 2;
    (model.kv_cache_bytes(middle, 2) <= bytes ? fits : too_many) = middle;
  }
  return fits;
}

}  // namespace

ModelSize measure_model(const std::string& path) {
  std::error_code error;
  const bool folder = fs::is_directory(path, error);
  const std::string config_path = folder ? (fs::path(path) / "config.json").string() : path;
  const Json config = read_config(config_path);
  ModelSize size = describe_model(config, config_path).size;
  if (!folder) return size;
  // The codes and scales of other quantizers are no parameters.
  if (const Json* quantized = config.find("quantization_config");
      quantized != nullptr && quantized->is_object() && text_of(*quantized, "quant_method") != "bitsandbytes")
    return size;
  for (const auto& entry : fs::directory_iterator(path))
    size.counted_in_files = size.counted_in_files || entry.path().extension() == ".safetensors";
  if (size.counted_in_files) count_from_files(path, &size);
  return size;
}

namespace {

// A row for each format, with its bits.
std::vector<MemoryPlanRow> plan_formats(int64_t context) {
  if (context < 1 || context > kLongestContext)
    fail(ErrorCode::kInvalidArgument, "context is {}: 1 to {}", context, kLongestContext);
  // A block of B weights: codes, and a scale of 32 bits, or of 8 bits with a 32nd of a bit more per 256 of
  // them.
  const auto block = [](double code_bits, double block_size) { return code_bits + 32 / block_size; };
  const auto nested = [](double code_bits, double block_size) {
    return code_bits + 8 / block_size + 32 / (block_size * 256);
  };
  const std::pair<const char*, double> formats[] = {
      {"float32", 32},
      {"bfloat16 or float16", 16},
      {"8 bits, blocks of 32 (16-bit scales)", 8.5},
      {"NF4, blocks of 32", block(4, 32)},
      {"NF4, blocks of 64", block(4, 64)},
      {"NF4, blocks of 64, double quantization", nested(4, 64)},
      {"NF4, blocks of 128, double quantization", nested(4, 128)}};
  std::vector<MemoryPlanRow> rows;
  for (const auto& [name, bits] : formats) {
    rows.emplace_back();
    rows.back().format = name;
    rows.back().bits_per_weight = bits;
  }
  return rows;
}

// Of what stays plain beside matrices of a format.
double plain_bits(const MemoryPlanRow& row) noexcept {
  return row.bits_per_weight == 32 ? 32 : 16;
}

}  // namespace

std::vector<MemoryPlanRow> plan_memory(const ModelSize& model, uint64_t memory_bytes, int64_t context) {
  std::vector<MemoryPlanRow> rows = plan_formats(context);
  const int64_t plain = model.embedding_parameters + model.head_parameters + model.other_parameters;
  const double widest = static_cast<double>(std::max(model.intermediate, 2 * model.hidden));
  const uint64_t working =
      static_cast<uint64_t>(4 * (static_cast<double>(std::min(context, kPrefillTokens)) *
                                     (4 * static_cast<double>(model.hidden) + 2 * widest) +
                                 static_cast<double>(model.vocabulary)));
  for (MemoryPlanRow& row : rows) {
    row.weight_bytes =
        static_cast<uint64_t>((row.bits_per_weight * static_cast<double>(model.linear_parameters) +
                               plain_bits(row) * static_cast<double>(plain)) /
                              8);
    row.kv_cache_bytes = model.kv_cache_bytes(context, 2);
    row.working_bytes = working;
    const uint64_t fixed = row.weight_bytes + row.working_bytes;
    if (memory_bytes > fixed) row.largest_context = largest_context(model, memory_bytes - fixed);
  }
  return rows;
}

std::vector<MemoryPlanRow> plan_device_memory(const ModelSize& model, uint64_t memory_bytes,
                                              int64_t context) {
  std::vector<MemoryPlanRow> rows = plan_formats(context);
  if (!model.why_not.empty()) fail(ErrorCode::kUnsupported, "no device runs this model: {}", model.why_not);
  constexpr int64_t kPage = kernels::kAttentionBlock;
  constexpr double kAllocation = 64 << 20;  // the last one of an allocator that takes so much at a time
  constexpr int64_t kLogitRows = 64;
  const auto hidden = static_cast<double>(model.hidden), inner = static_cast<double>(model.intermediate);
  const auto vocabulary = static_cast<double>(model.vocabulary);
  const double table = vocabulary * hidden;
  const double head = model.tied_head ? table : static_cast<double>(model.head_parameters);
  const double positions = std::max(0.0, static_cast<double>(model.embedding_parameters) - table);
  const double queries = static_cast<double>(model.heads * model.head_dim),
               keys = static_cast<double>(model.kv_heads * model.head_dim);
  double row_floats = 3 * hidden + 2 * queries + 2 * keys + 2 * inner;
  if (model.experts > 0) row_floats += 2 * hidden + 2 * inner + static_cast<double>(model.experts);
  const double working = 4 * (static_cast<double>(std::min(context, kPrefillTokens)) * row_floats +
                              static_cast<double>(std::min(context, kLogitRows)) * vocabulary) +
                         kAllocation;
  const double page = 4 * keys * static_cast<double>(model.layers * kPage);  // keys and values in f16
  for (MemoryPlanRow& row : rows) {
    const double linear = row.bits_per_weight * static_cast<double>(model.linear_parameters);
    const double other = 32 * (static_cast<double>(model.other_parameters) + positions);
    row.weight_bytes = static_cast<uint64_t>((linear + plain_bits(row) * head + other) / 8);
    row.kv_cache_bytes = static_cast<uint64_t>(page * static_cast<double>((context + kPage - 1) / kPage));
    row.working_bytes = static_cast<uint64_t>(working);
    const uint64_t fixed = row.weight_bytes + row.working_bytes;
    if (memory_bytes <= fixed || page <= 0) continue;
    const double fits = static_cast<double>(memory_bytes - fixed) / page;
    const int64_t most = model.max_context > 0 ? model.max_context : kLongestContext;
    row.largest_context =
        std::min(most, static_cast<int64_t>(std::min(fits, static_cast<double>(most))) * kPage);
  }
  return rows;
}

}  // namespace nfloat
