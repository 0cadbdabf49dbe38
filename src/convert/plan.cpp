// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <filesystem>
#include <utility>

#include "architecture/skip_list.h"
#include "architecture/tensor_roles.h"
#include "base/expression.h"
#include "base/fail.h"
#include "base/json.h"
#include "convert/output.h"
#include "convert/quantize_job.h"
#include "nfloat/convert.h"

namespace nfloat {
namespace {

// The expressions of one field of the options.
class NameFilter {
 public:
  NameFilter(const std::vector<std::string>& expressions, const char* field) : field_(field) {
    for (const std::string& text : expressions) {
      try {
        expressions_.emplace_back(text, Expression(text, Expression::Text::kBytes));
      } catch (const ExpressionError& error) {
        fail(ErrorCode::kInvalidArgument, "{} '{}' is not a regular expression: {}", field, text,
             error.what());
      }
    }
  }

  bool empty() const { return expressions_.empty(); }

  // Whether any of them has a match in the name.
  bool names(const std::string& name) const {
    for (const auto& [text, expression] : expressions_) {
      try {
        Match match{};
        if (expression.find(name, 0, &match)) return true;
      } catch (const ExpressionError& error) {
        fail(ErrorCode::kInvalidArgument, "{} '{}': matching the tensor name {} failed: {}", field_, text,
             name, error.what());
      }
    }
    return false;
  }

 private:
  const char* field_;
  std::vector<std::pair<std::string, Expression>> expressions_;
};

// Why a loader expects the tensor plain; kNot when it expects it quantized.
KeptBecause role_reason(const TensorInfo& tensor, TensorRole role, bool folder, bool quantize_experts) {
  if (!is_quantizable(tensor.dtype)) return KeptBecause::kDtype;
  if (tensor.shape.elements() == 0) return KeptBecause::kEmpty;
  if (!folder) return tensor.shape.rank() == 2 ? KeptBecause::kNot : KeptBecause::kRank;
  if (role == TensorRole::kLinear || role == TensorRole::kConv1D) return KeptBecause::kNot;
  if (role == TensorRole::kExpert && quantize_experts) return KeptBecause::kNot;
  return KeptBecause::kRole;
}

std::string role_text(const TensorPlan& tensor) {
  switch (tensor.role) {
    case TensorRole::kOther:
      return "not the weight of a linear layer";
    case TensorRole::kNorm:
      return "norm or bias (1-D)";
    case TensorRole::kConvolution:
      return fmt::format("{}-D, not a linear layer", tensor.input.shape.rank());
    case TensorRole::kExpert:
      return "3-D expert weights, which bitsandbytes leaves plain (quantize_experts)";
    case TensorRole::kHead:
      return "output head";
    case TensorRole::kRouter:
      return "router";
    case TensorRole::kKeptFloat:
      return "loaders keep it in float32";
    case TensorRole::kEmbedding:
      return "embedding";
    case TensorRole::kEmbeddingOrLinear:
      return "embedding or linear, its name does not tell";
    case TensorRole::kLinear:
    case TensorRole::kConv1D:
      break;
  }
  return "";
}

std::string reason_text(const TensorPlan& tensor) {
  switch (tensor.kept) {
    case KeptBecause::kNot:
      return "";
    case KeptBecause::kDtype:
      return fmt::format("{} is not quantized", dtype_name(tensor.input.dtype));
    case KeptBecause::kEmpty:
      return "empty";
    case KeptBecause::kRank:
      return fmt::format("{}-D", tensor.input.shape.rank());
    case KeptBecause::kRole:
      return role_text(tensor);
    case KeptBecause::kSkipped:
      return "matches skip";
    case KeptBecause::kNotSelected:
      return "matches no only";
    case KeptBecause::kChosen:
      return "chosen to stay plain";
    case KeptBecause::kNamedByList:
      return "loaders read the name of another plain layer as its own";
  }
  return "";
}

// Fills the list of plain linear layers. An entry names more than its own module (SkipList), and what is
// named stays plain.
void settle_skip_list(const TensorRoles& roles, QuantizationPlan* plan) {
  SkipList list;
  const auto put = [&](const std::string& module) {
    if (std::find(plan->skip_modules.begin(), plan->skip_modules.end(), module) != plan->skip_modules.end())
      return;
    list.add(module);
    plan->skip_modules.push_back(module);
  };
  for (const TensorPlan& tensor : plan->tensors)
    if (tensor.kept != KeptBecause::kNot && is_linear_layer(tensor.role)) put(module_of(tensor.input.name));
  put(roles.output_embedding());
  for (bool changed = true; changed;) {
    changed = false;
    for (TensorPlan& tensor : plan->tensors) {
      const std::string module = module_of(tensor.input.name);
      if (tensor.kept != KeptBecause::kNot || !is_linear_layer(tensor.role) || list.find(module).empty())
        continue;
      tensor.kept = KeptBecause::kNamedByList;
      put(module);
      changed = true;
    }
  }
}

void refuse_quantized(const Checkpoint& input) {
  for (const TensorInfo& tensor : input.tensors()) {
    if (tensor.name.find(kQuantStateSuffix) != std::string::npos) {
      fail(ErrorCode::kUnsupported, "{}: already quantized with bitsandbytes ('{}'); dequantize it first",
           input.path(), tensor.name);
    }
  }
}

}  // namespace

QuantizationPlan plan_quantization(const Checkpoint& input, const QuantizeCheckpointOptions& options) {
  if (options.format != "nf4" && options.format != "fp4") {
    fail(ErrorCode::kInvalidArgument, "format '{}': bitsandbytes stores nf4 and fp4", options.format);
  }
  const auto expect_block_size = [](int64_t size) {
    if (size < kMinBlockSize || size > kMaxBlockSize)
      fail(ErrorCode::kInvalidArgument, "block size {}: expected {} to {}", size, kMinBlockSize,
           kMaxBlockSize);
  };
  expect_block_size(options.quantize.block_size);
  for (const auto& [name, size] : options.block_sizes)
    if (size != 0) expect_block_size(size);
  if (options.storage != DType::kU8 && !is_quantizable(options.storage)) {
    fail(ErrorCode::kInvalidArgument, "storage {}: expected uint8, bfloat16, float16 or float32",
         dtype_torch_name(options.storage));
  }
  device_converter(options);  // throws where the device cannot do that
  refuse_quantized(input);
  expect_own_weights(input);
  const NameFilter skip(options.skip, "skip");
  const NameFilter only(options.only, "only");
  const TensorRoles roles(parse_config(input));

  QuantizationPlan plan;
  for (const TensorInfo& tensor : input.tensors()) {
    TensorPlan entry;
    entry.input = tensor;
    if (input.is_folder()) entry.role = roles.of(tensor.name, tensor.shape);
    entry.kept = role_reason(tensor, entry.role, input.is_folder(), options.quantize_experts);
    if (entry.kept == KeptBecause::kNot && skip.names(tensor.name)) entry.kept = KeptBecause::kSkipped;
    if (entry.kept == KeptBecause::kNot && !only.empty() && !only.names(tensor.name))
      entry.kept = KeptBecause::kNotSelected;
    if (entry.kept == KeptBecause::kNot && options.block_size_of(tensor.name) == 0)
      entry.kept = KeptBecause::kChosen;
    plan.tensors.push_back(std::move(entry));
  }
  if (input.is_folder()) settle_skip_list(roles, &plan);
  for (TensorPlan& entry : plan.tensors) {
    const TensorInfo& tensor = entry.input;
    entry.reason = reason_text(entry);
    entry.quantize = entry.kept == KeptBecause::kNot;
    entry.bytes_after = tensor.bytes;
    if (entry.quantize) {
      entry.transpose = entry.role == TensorRole::kConv1D;
      entry.block_size = options.block_size_of(tensor.name);
      check_storage(entry, options.storage);
      entry.bytes_after = quantized_layout(entry, options).bytes;
      plan.quantized_parameters += tensor.shape.elements();
    }
    plan.parameters += tensor.shape.elements();
    plan.bytes_before += input.is_gguf() ? tensor.bytes : input.stored_bytes(tensor.name);
    plan.bytes_after += entry.bytes_after;
  }
  if (!only.empty() && plan.quantized_parameters == 0)
    fail(ErrorCode::kInvalidArgument,
         "{}: nothing to quantize: no tensor that can be quantized matches 'only' ({})", input.path(),
         fmt::join(options.only, ", "));
  if (input.is_folder()) plan.copied_files = other_files(input);
  return plan;
}

}  // namespace nfloat
