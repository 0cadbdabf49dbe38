// SPDX-License-Identifier: Apache-2.0
#include "architecture/wrapped_names.h"

#include <algorithm>

namespace nfloat {

std::string core_name(std::string_view tensor) {
  constexpr std::array<std::string_view, 3> kWrappers{"model", "language_model", "transformer"};
  for (;;) {
    const size_t dot = tensor.find('.');
    if (dot == std::string_view::npos ||
        std::find(kWrappers.begin(), kWrappers.end(), tensor.substr(0, dot)) == kWrappers.end())
      return std::string(tensor);
    tensor.remove_prefix(dot + 1);
  }
}

std::string head_beside(std::string_view embedding, std::string_view module) {
  std::string name(embedding.starts_with(kHeadPrefix) ? kHeadPrefix : std::string_view());
  return name.append(module).append(".weight");
}

bool is_buffer(std::string_view tensor) noexcept {
  constexpr std::array<std::string_view, 5> kBuffers{"rotary_emb.inv_freq", "attn.bias", "attn.masked_bias",
                                                     "attention.bias", "attention.masked_bias"};
  return std::any_of(kBuffers.begin(), kBuffers.end(), [&](std::string_view buffer) {
    return tensor == buffer || (tensor.ends_with(buffer) && tensor[tensor.size() - buffer.size() - 1] == '.');
  });
}

}  // namespace nfloat
