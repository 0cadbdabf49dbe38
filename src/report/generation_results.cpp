// SPDX-License-Identifier: Apache-2.0
// Documents of generated texts.
#include "base/json.h"
#include "nfloat/results.h"
#include "report/document.h"

namespace nfloat {
namespace {

Json probability_document(const Tokenizer* tokenizer, int32_t token, double log_probability) {
  Json json;
  json["id"] = token;
  // A model's vocabulary may be padded beyond its tokenizer's.
  if (tokenizer != nullptr)
    json["text"] = token < tokenizer->vocab_size() ? tokenizer->token_bytes(token) : std::string();
  json["logprob"] = log_probability;
  return json;
}

}  // namespace

const char* finish_reason_name(FinishReason reason) noexcept {
  switch (reason) {
    case FinishReason::kEndOfText:
      return "end of text";
    case FinishReason::kStopText:
      return "stop";
    case FinishReason::kCancelled:
      return "interrupted";
    case FinishReason::kTokenLimit:
    case FinishReason::kContextFull:
      break;
  }
  return "length";
}

std::string generation_json(const GenerationRecord& record, const Tokenizer* tokenizer) {
  Json json{{"text", record.text},
            {"tokens", record.tokens},
            {"prompt_tokens", record.prompt},
            {"finish_reason", record.reason ? Json(finish_reason_name(*record.reason)) : Json()},
            {"prefill_seconds", record.prefill_seconds},
            {"decode_seconds", record.decode_seconds}};
  if (!record.precision.empty()) json["precision"] = record.precision;
  add_device(json, record.device);
  for (const GeneratedToken& token : record.log_probabilities) {
    Json entry = probability_document(tokenizer, token.token, token.log_probability);
    entry["top"] = Json::array();
    for (const TokenProbability& other : token.most_likely)
      entry["top"].push_back(
          probability_document(tokenizer, other.token, static_cast<double>(other.log_probability)));
    json["logprobs"].push_back(std::move(entry));
  }
  return to_text(json);
}

}  // namespace nfloat
