// SPDX-License-Identifier: Apache-2.0
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "checkpoint/quant_state.h"
#include "nfloat/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const nfloat::QuantState state = nfloat::parse_quant_state(text, "fuzz");
    // What was understood is written and understood again.
    const nfloat::QuantState again = nfloat::parse_quant_state(nfloat::format_quant_state(state), "again");
    if (again.shape != state.shape || again.block_size != state.block_size || again.dtype != state.dtype ||
        again.nested != state.nested || again.nested_offset != state.nested_offset ||
        again.quant_type != state.quant_type) {
      std::abort();
    }
  } catch (const nfloat::Error& error) {
    if (std::string_view(error.what()).starts_with("again")) std::abort();
    if (std::string_view(error.what()).size() > 4096) std::abort();
  }
  return 0;
}
