// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_BRIDGE_ADAPTER_H_
#define NFLOAT_BRIDGE_ADAPTER_H_

#include <fmt/format.h>

#include <optional>
#include <string>

#include "convert/lora.h"
#include "nfloat/bridge.h"

namespace nfloat {

// The adapter that the options name, if they name one. Throws as LoraAdapter does.
inline std::optional<LoraAdapter> load_adapter(const BridgeOptions& options, const Checkpoint& base) {
  if (options.lora.empty()) return std::nullopt;
  LoraAdapter adapter(options.lora, base);
  adapter.weigh(options.lora_weight);
  return adapter;
}

// What is lost where the merged model has a head of its own.
inline std::string untied_note(const LoraAdapter& adapter) {
  return fmt::format("the tie of embedding and head: the adapter changes one of them, and '{}' is new",
                     adapter.untied_head());
}

}  // namespace nfloat

#endif  // NFLOAT_BRIDGE_ADAPTER_H_
