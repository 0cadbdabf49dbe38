// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_BRIDGE_ADAPTER_H_
#define NFLOAT_BRIDGE_ADAPTER_H_

#include <optional>

#include "convert/lora.h"
#include "nfloat/bridge.h"

namespace nfloat {

// The adapter that the options name, if they name one. Throws as LoraAdapter does.
inline std::optional<LoraAdapter> load_adapter(const BridgeOptions& options, const Checkpoint& base) {
  if (options.lora.empty()) return std::nullopt;
  return LoraAdapter(options.lora, base);
}

}  // namespace nfloat

#endif  // NFLOAT_BRIDGE_ADAPTER_H_
