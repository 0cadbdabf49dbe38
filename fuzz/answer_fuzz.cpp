// SPDX-License-Identifier: Apache-2.0
// The state of a streamed chat answer: the first byte chooses the request, what follows the pieces that the
// engine gives. The events are well formed, in order, and say together what the whole answer says.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "server/answer.h"

namespace {

using nfloat::Json;

void require(bool good) {
  if (!good) std::abort();
}

struct Choice {
  bool begun = false;
  std::string text, thoughts, finish;
  std::vector<std::string> arguments;
};

void read_chunk(const Json& chunk, std::vector<Choice>& choices) {
  require(chunk["object"] == "chat.completion.chunk" && chunk["choices"].size() == 1);
  const Json& one = chunk["choices"][0];
  Choice& choice = choices.at(one["index"].get<size_t>());
  require(choice.finish.empty());
  const Json& delta = one["delta"];
  require((delta.find("role") != nullptr) == !choice.begun);
  choice.begun = true;
  if (const Json* text = delta.find("content"); text != nullptr && text->is_string())
    choice.text += text->text();
  if (const Json* thought = delta.find("reasoning_content")) choice.thoughts += thought->text();
  if (const Json* calls = delta.find("tool_calls"))
    for (const Json& call : *calls) {
      const auto index = call["index"].get<size_t>();
      if (call.find("id") != nullptr) {
        require(index == choice.arguments.size() && !call["function"]["name"].text().empty());
        choice.arguments.emplace_back();
      }
      choice.arguments.at(index) += call["function"]["arguments"].text();
    }
  if (!one["finish_reason"].is_null()) choice.finish = one["finish_reason"].text();
}

// Every event is one line of JSON.
void read_events(std::string_view text, std::vector<Choice>& choices) {
  while (!text.empty()) {
    require(text.starts_with("data: "));
    const size_t end = text.find("\n\n");
    require(end != std::string_view::npos && text.find('\n') == end);
    read_chunk(Json::parse(text.substr(6, end - 6)), choices);
    text.remove_prefix(end + 2);
  }
}

std::string text_of(const Json& value) {
  return value.is_string() ? value.text() : std::string();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const nfloat::Tokenizer tokenizer = nfloat::Tokenizer::from_json(
      R"({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}})", "fuzz");
  if (size == 0) return 0;
  const uint8_t kind = *data++;
  --size;
  nfloat::ChatRequest request;
  request.stream = true;
  request.choices = 1 + (kind & 1);
  if ((kind & 2) != 0) request.thinks = (kind & 32) != 0 ? "[/THINK]" : "</think>";
  if ((kind & 4) != 0) {
    request.tools = Json::parse(R"([{"type": "function", "function": {"name": "f", "parameters": {}}}])");
    request.tool_choice = nfloat::ChatRequest::ToolChoice::kAuto;
  }
  if ((kind & 16) != 0) request.log_probabilities = 0;
  const auto answer = nfloat::make_chat_answer({"id", "model", "nfloat", 1}, request, tokenizer);
  std::vector<Choice> choices(static_cast<size_t>(request.choices));
  // A byte that says which choice and how long, then the text of a piece.
  std::vector<bool> ended(choices.size());
  while (size > 0) {
    const uint8_t head = *data++;
    --size;
    const size_t which = head % choices.size(), length = std::min<size_t>(head / 8U, size);
    nfloat::EngineEvent event;
    event.choice = static_cast<int>(which);
    for (size_t i = 0; i < length; ++i)  // the engine gives valid UTF-8
      event.piece.text += static_cast<char>(data[i] & 0x7f);
    data += length;
    size -= length;
    if (ended[which]) continue;
    event.piece.token = (head & 4) != 0 ? 0 : -1;
    if ((head & 6) == 2) {
      event.finish = nfloat::FinishReason::kEndOfText;
      ended[which] = true;
    }
    read_events(answer->take(0, event), choices);
  }
  for (size_t i = 0; i < choices.size(); ++i) {
    if (ended[i]) continue;
    nfloat::EngineEvent event;
    event.choice = static_cast<int>(i);
    event.finish = nfloat::FinishReason::kTokenLimit;
    read_events(answer->take(0, event), choices);
  }
  const Json whole = answer->whole({});
  for (size_t i = 0; i < choices.size(); ++i) {
    const Json& one = whole["choices"][i];
    const Json& message = one["message"];
    require(choices[i].begun && choices[i].finish == one["finish_reason"].text());
    require(choices[i].text == text_of(message["content"]));
    const Json* thoughts = message.find("reasoning_content");
    require(choices[i].thoughts == (thoughts == nullptr ? "" : text_of(*thoughts)));
    const Json* calls = message.find("tool_calls");
    require(choices[i].arguments.size() == (calls == nullptr ? 0 : calls->size()));
    for (size_t c = 0; c < choices[i].arguments.size(); ++c)
      require(choices[i].arguments[c] == (*calls)[c]["function"]["arguments"].text());
  }
  return 0;
}
