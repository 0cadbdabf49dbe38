// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_SERVER_PARTS_H_
#define NFLOAT_SERVER_PARTS_H_

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "nfloat/engine.h"
#include "server/api_request.h"

namespace nfloat {

// A piece of an answer: of its text, of what the model thought before, or of a call of a function.
struct Part {
  enum class Kind : uint8_t { kText, kThought, kCall, kArguments } kind = Kind::kText;
  std::string text;  // kCall: the function's name
  std::string id;    // kCall
};

// Takes the text of one choice apart, as it comes.
class PartSplitter {
 public:
  virtual ~PartSplitter() = default;
  virtual std::vector<Part> push(const EngineEvent& event) = 0;
  // What was held back.
  virtual std::vector<Part> finish(FinishReason reason) = 0;
};

std::unique_ptr<PartSplitter> make_parts(const ChatRequest& request);
// What it takes text apart by. A special token of this name has to be in the text.
std::vector<std::string_view> part_marks(const ChatRequest& request);

// What ends the thought in which `prompt`, or the end of one, ends; empty: it ends in none.
std::string open_thought(std::string_view prompt);

// "call_" and random characters.
std::string new_id(const char* prefix);

}  // namespace nfloat

#endif  // NFLOAT_SERVER_PARTS_H_
