// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/normalizer.h"

#include <functional>
#include <utility>
#include <vector>

#include "base/interruption.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/charsmap.h"
#include "tokenizer/pattern.h"
#include "tokenizer/unicode_forms.h"
#include "tokenizer/utf8.h"

namespace nfloat {
namespace {

using Step = std::function<void(std::string&)>;

// Rewrites character by character: `change` appends what becomes of one.
void map_chars(std::string& text, const std::function<void(std::string&, char32_t)>& change) {
  std::string out;
  out.reserve(text.size());
  Looks looks;
  for (size_t at = 0; at < text.size();) {
    looks.step();
    const Utf8Char next = next_char(text, at);
    at += next.bytes;
    change(out, next.value);
  }
  text = std::move(out);
}

void remove_chars(std::string& text, bool (*removed)(char32_t) noexcept) {
  map_chars(text, [&](std::string& out, char32_t c) {
    if (!removed(c)) append_utf8(out, c);
  });
}

void strip(std::string& text, bool left, bool right) {
  size_t begin = 0, end = 0;
  bool seen = false;
  for (size_t at = 0; at < text.size();) {
    const Utf8Char next = next_char(text, at);
    const bool space = is_white_space(next.value);
    if (!space && !seen) begin = at;
    seen = seen || !space;
    at += next.bytes;
    if (!space) end = at;
  }
  if (!seen) begin = text.size();
  if (right) text.resize(std::max(begin, end));
  if (left) text.erase(0, std::min(begin, text.size()));
}

// SentencePiece's "nmt" rule: control characters go, kinds of space become spaces.
void nmt(std::string& text) {
  map_chars(text, [](std::string& out, char32_t c) {
    const bool dropped =
        (c >= 0x1 && c <= 0x8) || c == 0xB || (c >= 0xE && c <= 0x1F) || c == 0x7F || c == 0x8F || c == 0x9F;
    if (dropped) return;
    const bool space = c == 0x9 || c == 0xA || c == 0xC || c == 0xD || c == 0x1680 ||
                       (c >= 0x200B && c <= 0x200F) || c == 0x2028 || c == 0x2029 || c == 0x2581 ||
                       c == 0xFEFF || c == kReplacementChar;
    append_utf8(out, space ? U' ' : c);
  });
}

bool is_chinese(char32_t c) noexcept {
  return (c >= 0x4E00 && c <= 0x9FFF) || (c >= 0x3400 && c <= 0x4DBF) || (c >= 0x20000 && c <= 0x2A6DF) ||
         (c >= 0x2A700 && c <= 0x2B73F) || (c >= 0x2B740 && c <= 0x2B81F) || (c >= 0x2B920 && c <= 0x2CEAF) ||
         (c >= 0xF900 && c <= 0xFAFF) || (c >= 0x2F800 && c <= 0x2FA1F);
}

// Control characters go first: of the white space that they are, only these three stay.
void clean_for_bert(std::string& text) {
  map_chars(text, [](std::string& out, char32_t c) {
    const bool kept = c == '\t' || c == '\n' || c == '\r';
    if (c == 0 || c == kReplacementChar || (!kept && is_control(c))) return;
    append_utf8(out, is_white_space(c) ? U' ' : c);
  });
}

Step bert_step(const JsonAt& json) {
  const bool clean = json["clean_text"].flag_or(true);
  const bool chinese = json["handle_chinese_chars"].flag_or(true);
  const bool lower = json["lowercase"].flag_or(true);
  const bool accents = json["strip_accents"].flag_or(lower);
  return [=](std::string& text) {
    if (clean) clean_for_bert(text);
    if (chinese)
      map_chars(text, [](std::string& out, char32_t c) {
        if (is_chinese(c)) out += ' ';
        append_utf8(out, c);
        if (is_chinese(c)) out += ' ';
      });
    if (accents) {
      normalize(text, NormalForm::kNfd);
      remove_chars(text, is_nonspacing_mark);
    }
    if (lower) lower_case(text);
  };
}

Step form_step(NormalForm form) {
  return [form](std::string& text) { normalize(text, form); };
}

Step charsmap_step(const JsonAt& json) {
  std::string blob;
  if (!decode_base64(json.text(), blob)) json.malformed("it is not base64");
  if (blob.empty()) return [](std::string&) {};
  if (!is_sound_charsmap(blob))
    json.malformed(fmt::format("the character map of {} bytes leads outside itself", blob.size()));
  return [map = std::make_shared<const CharsMap>(blob)](std::string& text) { map->apply(text); };
}

void add_steps(const JsonAt& json, std::vector<Step>& steps) {
  const std::string& type = json["type"].text();
  if (type == "Sequence") {
    for (const JsonAt& child : json["normalizers"].elements()) add_steps(child, steps);
  } else if (type == "NFC") {
    steps.push_back(form_step(NormalForm::kNfc));
  } else if (type == "NFD") {
    steps.push_back(form_step(NormalForm::kNfd));
  } else if (type == "NFKC") {
    steps.push_back(form_step(NormalForm::kNfkc));
  } else if (type == "NFKD") {
    steps.push_back(form_step(NormalForm::kNfkd));
  } else if (type == "Lowercase") {
    steps.push_back(lower_case);
  } else if (type == "Strip") {
    const bool left = json["strip_left"].flag_or(true), right = json["strip_right"].flag_or(true);
    steps.push_back([=](std::string& text) { strip(text, left, right); });
  } else if (type == "StripAccents") {
    steps.push_back([](std::string& text) { remove_chars(text, is_mark); });
  } else if (type == "Prepend") {
    const std::string prefix = json["prepend"].text();
    steps.push_back([prefix](std::string& text) {
      if (!text.empty()) text.insert(0, prefix);
    });
  } else if (type == "Replace") {
    auto pattern = std::make_shared<const Pattern>(json["pattern"]);
    const std::string content = json["content"].text();
    steps.push_back([=](std::string& text) { text = replace_all(text, *pattern, content); });
  } else if (type == "Nmt") {
    steps.push_back(nmt);
  } else if (type == "BertNormalizer") {
    steps.push_back(bert_step(json));
  } else if (type == "Precompiled") {
    steps.push_back(charsmap_step(json["precompiled_charsmap"]));
  } else if (type == "ByteLevel") {
    steps.push_back([](std::string& text) { text = to_byte_level(text); });
  } else {
    json.unsupported("normalizers of the kind \"" + type.substr(0, 60) + "\" are not supported");
  }
}

class NormalizerSteps final : public Normalizer {
 public:
  explicit NormalizerSteps(std::vector<Step> steps, std::string where)
      : steps_(std::move(steps)), where_(std::move(where)) {}

  void apply(std::string& text) const override {
    constexpr size_t kMaxGrowth = 64;
    const size_t most = (size_t{1} << 20) + kMaxGrowth * text.size();
    for (const Step& step : steps_) {
      step(text);
      if (text.size() > most)
        fail(ErrorCode::kUnsupported, "{}: normalizing makes a text more than {} times as long", where_,
             kMaxGrowth);
    }
  }

 private:
  std::vector<Step> steps_;
  std::string where_;
};

}  // namespace

std::unique_ptr<const Normalizer> make_normalizer(const JsonAt& json) {
  if (!json.present()) return nullptr;
  std::vector<Step> steps;
  add_steps(json, steps);
  return std::make_unique<NormalizerSteps>(std::move(steps), json.where());
}

}  // namespace nfloat
