// SPDX-License-Identifier: Apache-2.0
// Bodies of requests, and the parts of an answer that comes in pieces.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "nfloat/error.h"
#include "server/api_error.h"
#include "server/api_request.h"
#include "server/parts.h"

namespace {

using nfloat::ApiError;

void split(const nfloat::ChatRequest& request, std::string_view text) {
  const auto splitter = nfloat::make_parts(request);
  size_t given = 0, taken = 0;
  const auto count = [&](const std::vector<nfloat::Part>& parts) {
    for (const nfloat::Part& part : parts) taken += part.text.size();
  };
  for (size_t at = 0, step = 1; at < text.size(); at += step, step = step % 7 + 1) {
    nfloat::EngineEvent event;
    event.piece.text = text.substr(at, step);
    given += event.piece.text.size();
    count(splitter->push(event));
  }
  count(splitter->finish(nfloat::FinishReason::kTokenLimit));
  if (request.tools.empty() && taken > given) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const nfloat::ApiBounds bounds{.choices = 4, .vocabulary = 1000, .defaults = {}};
  for (const bool chat : {true, false}) {
    try {
      const nfloat::Json body = nfloat::parse_body(text);
      if (chat) {
        const nfloat::ChatRequest request = nfloat::parse_chat_request(body, bounds);
        if (request.messages.empty() || request.choices < 1 || request.choices > bounds.choices) std::abort();
        split(request, text);
      } else if (nfloat::parse_completion_request(body, bounds).prompts.empty()) {
        std::abort();
      }
    } catch (const ApiError& error) {
      if (error.status != 400 || error.message.empty() || error.message.size() > 65536) std::abort();
    } catch (const nfloat::JsonError&) {
      std::abort();  // every field is looked at before it is used
    }
  }
  split({}, text);
  return 0;
}
