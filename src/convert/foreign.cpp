// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/foreign.h"

#include <string>
#include <vector>

#include "base/fail.h"
#include "base/json.h"
#include "convert/output.h"

namespace nfloat {

void expect_own_weights(const Checkpoint& input, bool mxfp4) {
  expect_readable(input);
  for (const TensorInfo& tensor : input.tensors()) {
    if (tensor.name.find(".lora_A.") != std::string::npos ||
        tensor.name.find(".lora_embedding_A") != std::string::npos)
      fail(ErrorCode::kUnsupported,
           "{}: '{}' is part of a LoRA adapter, which belongs to a model: merge it into one", input.path(),
           tensor.name);
    if (!mxfp4 && tensor.dtype == DType::kU8 && tensor.name.ends_with("_proj_blocks"))
      fail(ErrorCode::kUnsupported, "{}: '{}' is in MXFP4, for which the output has no place (keep_mxfp4)",
           input.path(), tensor.name);
  }
}

void erase_quantization(Json& config) {
  if (!config.is_object() || config.empty()) return;
  config.erase("quantization_config");
  config.erase("compression_config");
  std::vector<std::string> parts;
  for (const auto& [name, part] : config.items())
    if (part.is_object()) parts.push_back(name);
  for (const std::string& name : parts) erase_quantization(config[name]);
}

}  // namespace nfloat
