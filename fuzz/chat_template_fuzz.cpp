// SPDX-License-Identifier: Apache-2.0
// A chat template of foreign bytes, rendered over a conversation: text or a named error, in bounded time.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "nfloat/chat.h"
#include "nfloat/error.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr std::string_view kVariables =
      R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "tool_calls": []}],
          "tools": [{"type": "function", "function": {"name": "f"}}], "add_generation_prompt": true})";
  try {
    nfloat::ChatTemplate::parse({reinterpret_cast<const char*>(data), size}).render(kVariables);
  } catch (const nfloat::Error&) {
  }
  return 0;
}
