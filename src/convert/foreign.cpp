// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <array>
#include <string>

#include "base/fail.h"
#include "base/json.h"
#include "convert/output.h"

namespace nfloat {
namespace {

// Descriptions that are files of their own, with what writes them.
struct OwnFile {
  const char* name;
  const char* method;
};
constexpr std::array<OwnFile, 3> kOwnFiles{{{"quantize_config.json", "GPTQ or AWQ"},
                                            {"quant_config.json", "AWQ"},
                                            {"hf_quant_config.json", "ModelOpt"}}};

// Ends of the names of tensors that hold codes or their scales.
struct Mark {
  std::string_view suffix, method;
};
constexpr std::array<Mark, 9> kMarks{{{".qweight", "GPTQ or AWQ"},
                                      {".qzeros", "GPTQ or AWQ"},
                                      {".SCB", "bitsandbytes in 8 bits"},
                                      {".weight_scale_inv", "FP8 in blocks"},
                                      {".weight_scale", "FP8 or compressed-tensors"},
                                      {".weight_packed", "compressed-tensors"},
                                      {"_proj_blocks", "MXFP4"},
                                      {"_proj_scales", "MXFP4"},
                                      {".weight_scale_2", "ModelOpt"}}};

// What a description in config.json names; empty for bitsandbytes in 4 bits and for what is no description.
std::string method_of(const Json* description) {
  if (description == nullptr || !description->is_object()) return {};
  const bool four_bits =
      std::any_of(description->items().begin(), description->items().end(),
                  [](const auto& member) { return member.first.starts_with("bnb_4bit_"); });
  const std::string method =
      text_of(*description, "quant_method", four_bits ? "bitsandbytes" : "an unknown method");
  if (method != "bitsandbytes") return method;
  const Json* eight = description->find("load_in_8bit");
  return eight != nullptr && *eight == Json(true) ? "bitsandbytes in 8 bits" : "";
}

// MLX: "quantization": {"group_size": 64, "bits": 4}.
bool is_mlx(const Json& config) {
  const Json* own = config.find("quantization");
  return own != nullptr && own->is_object() && own->contains("bits") && own->contains("group_size");
}

}  // namespace

std::string foreign_quantization(const Checkpoint& input) {
  if (input.is_gguf()) return {};
  const Json config = parse_config(input);
  if (is_mlx(config)) return "MLX";
  for (const char* key : {"quantization_config", "compression_config"})
    if (std::string method = method_of(config.find(key)); !method.empty()) return method;
  for (const auto& [name, part] : config.items())
    if (part.is_object())
      if (std::string method = method_of(part.find("quantization_config")); !method.empty()) return method;
  for (const OwnFile& file : kOwnFiles)
    if (!input.text_file(file.name).empty()) return fmt::format("{} ({})", file.method, file.name);
  for (const TensorInfo& tensor : input.tensors()) {
    for (const Mark& mark : kMarks)
      if (tensor.name.ends_with(mark.suffix)) return fmt::format("{} ('{}')", mark.method, tensor.name);
  }
  return {};
}

void expect_own_weights(const Checkpoint& input, bool mxfp4) {
  const std::string method = foreign_quantization(input);
  const bool allowed = mxfp4 && (method.starts_with("mxfp4") || method.starts_with("MXFP4"));
  if (!method.empty() && !allowed)
    fail(ErrorCode::kUnsupported,
         "{}: quantized by another method: {}; nfloat reads plain weights, bitsandbytes in 4 bits and GGUF: "
         "take the "
         "original, or write it plain with the program that made it",
         input.path(), method);
  for (const TensorInfo& tensor : input.tensors())
    if (tensor.name.find(".lora_A.") != std::string::npos ||
        tensor.name.find(".lora_embedding_A") != std::string::npos)
      fail(ErrorCode::kUnsupported,
           "{}: '{}' is part of a LoRA adapter, which belongs to a model: merge it with --lora", input.path(),
           tensor.name);
}

void erase_quantization(Json& config) {
  if (config.empty()) return;
  config.erase("quantization_config");
  std::vector<std::string> parts;
  for (const auto& [name, part] : config.items())
    if (part.is_object() && part.contains("quantization_config")) parts.push_back(name);
  for (const std::string& name : parts) config[name].erase("quantization_config");
}

}  // namespace nfloat
