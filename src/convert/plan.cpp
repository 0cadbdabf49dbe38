// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <filesystem>
#include <regex>

#include "base/fail.h"
#include "base/json.h"
#include "convert/output.h"
#include "convert/quantize_job.h"
#include "nfloat/convert.h"

namespace nfloat {
namespace {

// The module that owns a parameter, split at its dots: "model.layers.0.mlp.gate.weight" -> {"model", ...,
// "gate"}.
std::vector<std::string_view> module_path(std::string_view parameter) {
  std::vector<std::string_view> parts;
  for (size_t begin = 0; begin <= parameter.size();) {
    const size_t dot = std::min(parameter.find('.', begin), parameter.size());
    parts.push_back(parameter.substr(begin, dot - begin));
    begin = dot + 1;
  }
  parts.pop_back();
  return parts;
}

bool is_embedding(std::string_view module) {
  return module.find("embed") != std::string_view::npos || module == "wte" || module == "wpe" ||
         module == "shared" || module == "relative_attention_bias";
}

bool is_head(const std::vector<std::string_view>& path) {
  const std::string_view module = path.back();
  return module == "lm_head" || module == "embed_out" || module == "score" || module == "classifier" ||
         (module == "output" && path.size() == 1);
}

bool is_router(const std::vector<std::string_view>& path) {
  return path.back() == "gate" || path.back() == "shared_expert_gate" ||
         std::find(path.begin(), path.end(), "router") != path.end();
}

std::vector<std::regex> compile(const std::vector<std::string>& expressions, const char* option) {
  std::vector<std::regex> compiled;
  for (const std::string& text : expressions) {
    try {
      compiled.emplace_back(text, std::regex::ECMAScript | std::regex::optimize);
    } catch (const std::regex_error& error) {
      fail(ErrorCode::kInvalidArgument, "{} '{}' is not a regular expression: {}", option, text,
           error.what());
    }
  }
  return compiled;
}

bool any_match(const std::vector<std::regex>& expressions, const std::string& name) {
  return std::any_of(expressions.begin(), expressions.end(),
                     [&](const std::regex& expression) { return std::regex_search(name, expression); });
}

// Why a loader expects the tensor plain; empty when it expects it quantized.
std::string reason_to_keep(const TensorInfo& tensor, bool folder, bool quantize_experts) {
  if (!is_quantizable(tensor.dtype)) return fmt::format("{} is not quantized", dtype_name(tensor.dtype));
  if (tensor.shape.elements() == 0) return "empty";
  const size_t rank = tensor.shape.rank();
  if (!folder) return rank == 2 ? "" : fmt::format("{}-D", rank);
  const std::vector<std::string_view> path = module_path(tensor.name);
  if (rank == 3 && tensor.name.find("expert") != std::string::npos) {
    return quantize_experts ? "" : "3-D expert weights, which bitsandbytes leaves plain (--quantize-experts)";
  }
  if (rank < 2) return "norm or bias (1-D)";
  if (rank > 2) return fmt::format("{}-D, not a linear layer", rank);
  if (path.empty() || !tensor.name.ends_with(".weight")) return "not the weight of a linear layer";
  if (is_head(path)) return "output head";
  if (is_embedding(path.back())) return "embedding";
  if (is_router(path)) return "router";
  return "";
}

void refuse_quantized(const Checkpoint& input) {
  for (const TensorInfo& tensor : input.tensors()) {
    if (tensor.name.find(kQuantStateSuffix) != std::string::npos) {
      fail(ErrorCode::kUnsupported, "{}: already quantized with bitsandbytes ('{}'); dequantize it first",
           input.path(), tensor.name);
    }
  }
  const auto config = parse_config(input);
  if (const auto found = config.find("quantization_config"); found != nullptr && found->is_object()) {
    const std::string method = text_of(*found, "quant_method", "an unknown method");
    fail(ErrorCode::kUnsupported, "{}: already quantized: its config.json has a quantization_config of {}",
         input.path(), method);
  }
}

}  // namespace

bool stored_transposed(const std::string& model_type, const std::string& name) {
  if (model_type != "gpt2") return false;
  const std::vector<std::string_view> path = module_path(name);
  if (path.empty()) return false;
  return path.back() == "c_attn" || path.back() == "c_proj" || path.back() == "c_fc" ||
         path.back() == "q_attn";
}

QuantizationPlan plan_quantization(const Checkpoint& input, const QuantizeCheckpointOptions& options) {
  if (options.format != "nf4" && options.format != "fp4") {
    fail(ErrorCode::kInvalidArgument, "format '{}': bitsandbytes stores nf4 and fp4", options.format);
  }
  if (options.quantize.block_size < kMinBlockSize || options.quantize.block_size > kMaxBlockSize) {
    fail(ErrorCode::kInvalidArgument, "block size {}: expected {} to {}", options.quantize.block_size,
         kMinBlockSize, kMaxBlockSize);
  }
  refuse_quantized(input);
  const std::vector<std::regex> skip = compile(options.skip, "--skip");
  const std::vector<std::regex> only = compile(options.only, "--only");
  const std::string model_type = model_type_of(parse_config(input));

  QuantizationPlan plan;
  for (const TensorInfo& tensor : input.tensors()) {
    TensorPlan entry;
    entry.input = tensor;
    entry.reason = reason_to_keep(tensor, input.is_folder(), options.quantize_experts);
    if (entry.reason.empty() && any_match(skip, tensor.name)) entry.reason = "--skip";
    if (entry.reason.empty() && !only.empty() && !any_match(only, tensor.name))
      entry.reason = "not in --only";
    entry.quantize = entry.reason.empty();
    entry.bytes_after = tensor.bytes;
    if (entry.quantize) {
      entry.transpose = stored_transposed(model_type, tensor.name);
      check_storage(entry, options.storage);
      entry.bytes_after = quantized_layout(entry, options).bytes;
      plan.quantized_parameters += tensor.shape.elements();
    }
    plan.parameters += tensor.shape.elements();
    plan.bytes_before += tensor.bytes;
    plan.bytes_after += entry.bytes_after;
    plan.tensors.push_back(std::move(entry));
  }
  if (input.is_folder()) plan.copied_files = other_files(input);
  return plan;
}

}  // namespace nfloat
