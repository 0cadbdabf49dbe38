// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/decoder.h"

#include <algorithm>
#include <charconv>
#include <utility>

#include "llama_cpp/vocabulary.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/pattern.h"
#include "tokenizer/utf8.h"

namespace nfloat {
namespace {

void byte_level(Decoding& decoding) {
  for (DecodedPiece& piece : decoding.pieces) {
    std::string bytes;
    if (!piece.added && append_bytes_of(piece.text, bytes)) piece.text = std::move(bytes);
  }
}

// The byte of "<0x0A>"; -1 for any other text.
int byte_of(std::string_view text) noexcept {
  if (text.size() != 6 || !text.starts_with("<0x") || text.back() != '>') return -1;
  int value = -1;
  const auto [end, error] = std::from_chars(text.data() + 3, text.data() + 5, value, 16);
  return error == std::errc{} && end == text.data() + 5 ? value : -1;
}

void fuse(Decoding& decoding) {
  DecodedPiece joined;
  for (const DecodedPiece& piece : decoding.pieces) joined.text += piece.text;
  decoding.pieces.assign(1, std::move(joined));
  decoding.fused = true;
}

void strip(Decoding& decoding, std::string_view content, size_t start, size_t stop) {
  for (DecodedPiece& piece : decoding.pieces) {
    std::string_view text = piece.text;
    if (!decoding.fused || decoding.at_start)
      for (size_t i = 0; i < start && text.starts_with(content); ++i) text.remove_prefix(content.size());
    if (!decoding.fused || decoding.at_end)
      for (size_t i = 0; i < stop && text.ends_with(content); ++i) text.remove_suffix(content.size());
    piece.text = std::string(text);
  }
}

void metaspace(Decoding& decoding, const Pattern& replacement, bool drop_first) {
  for (size_t i = 0; i < decoding.pieces.size(); ++i) {
    std::string& text = decoding.pieces[i].text;
    text = replace_all(text, replacement, " ");
    if (drop_first && i == 0 && decoding.at_start && text.starts_with(' ')) text.erase(0, 1);
  }
}

void clean_up(std::string& text) {
  static constexpr std::pair<const char*, const char*> kRules[] = {
      {" .", "."},   {" ?", "?"},           {" !", "!"},   {" ,", ","},     {" ' ", "'"},    {" n't", "n't"},
      {" 'm", "'m"}, {" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"},
  };
  for (const auto& [from, to] : kRules) text = replace_all(text, Pattern(std::string(from)), to);
}

void word_piece(Decoding& decoding, const std::string& prefix, bool cleanup) {
  for (size_t i = 0; i < decoding.pieces.size(); ++i) {
    std::string& text = decoding.pieces[i].text;
    if (i > 0 || !decoding.at_start) {
      if (!prefix.empty() && text.starts_with(prefix))
        text.erase(0, prefix.size());
      else
        text.insert(text.begin(), ' ');
    }
    if (cleanup) clean_up(text);
  }
}

void word_end(Decoding& decoding, const Pattern& suffix) {
  for (size_t i = 0; i < decoding.pieces.size(); ++i) {
    const bool last = decoding.at_end && i + 1 == decoding.pieces.size();
    decoding.pieces[i].text = replace_all(decoding.pieces[i].text, suffix, last ? "" : " ");
  }
}

// Connectionist temporal classification: a token heard on and on is one, the blank token is silence.
void ctc(Decoding& decoding, const Pattern& blank, const Pattern& word_delimiter, bool cleanup) {
  std::vector<DecodedPiece>& pieces = decoding.pieces;
  const auto same = [](const DecodedPiece& a, const DecodedPiece& b) { return a.text == b.text; };
  pieces.erase(std::unique(pieces.begin(), pieces.end(), same), pieces.end());
  for (DecodedPiece& piece : pieces) {
    piece.text = replace_all(piece.text, blank, "");
    if (!cleanup) continue;
    clean_up(piece.text);
    piece.text = replace_all(piece.text, word_delimiter, " ");
  }
}

}  // namespace

void decode_byte_tokens(Decoding& decoding) {
  std::vector<DecodedPiece>& pieces = decoding.pieces;
  for (size_t i = 0; i < pieces.size();) {
    std::string run;
    size_t end = i;
    for (int byte = 0; end < pieces.size() && (byte = byte_of(pieces[end].text)) >= 0; ++end)
      run += static_cast<char>(byte);
    const bool broken = decoding.whole_bytes && !is_valid_utf8(run);
    for (size_t at = i; at < end; ++at) {
      pieces[at].text.assign(1, run[at - i]);
      if (broken) {
        pieces[at].text.clear();
        append_utf8(pieces[at].text, kReplacementChar);
      }
    }
    i = end + 1;
  }
}

Decoder::Decoder(const JsonAt& json) {
  if (!json.present()) return;
  joins_with_spaces_ = false;
  add(json);
}

void Decoder::add(const JsonAt& json) {
  const std::string& type = json["type"].text();
  if (type == "Sequence") {
    for (const JsonAt& child : json["decoders"].elements()) add(child);
  } else if (type == "ByteLevel") {
    steps_.push_back(byte_level);
  } else if (type == "ByteFallback") {
    steps_.push_back(decode_byte_tokens);
  } else if (type == "Fuse") {
    steps_.push_back(fuse);
  } else if (type == "Strip") {
    const std::string content = json["content"].text();
    if (content.empty()) json["content"].wrong("a character");
    const auto start = static_cast<size_t>(json["start"].integer_or(0, 1 << 20, 0));
    const auto stop = static_cast<size_t>(json["stop"].integer_or(0, 1 << 20, 0));
    steps_.push_back([=](Decoding& decoding) { strip(decoding, content, start, stop); });
  } else if (type == "Replace") {
    auto pattern = std::make_shared<const Pattern>(json["pattern"]);
    const std::string content = json["content"].text();
    steps_.push_back([=](Decoding& decoding) {
      for (DecodedPiece& piece : decoding.pieces)
        if (is_valid_utf8(piece.text)) piece.text = replace_all(piece.text, *pattern, content);
    });
  } else if (type == "Metaspace") {
    const std::string replacement = json["replacement"].text_or(kVisibleSpace.data());
    if (replacement.empty()) json["replacement"].wrong("a character");
    const bool drop_first =
        json["prepend_scheme"].text_or("always") != "never" && json["add_prefix_space"].flag_or(true);
    steps_.push_back([=, pattern = Pattern(replacement)](Decoding& decoding) {
      metaspace(decoding, pattern, drop_first);
    });
  } else if (type == "WordPiece") {
    const std::string prefix = json["prefix"].text_or("##");
    const bool cleanup = json["cleanup"].flag_or(true);
    steps_.push_back([=](Decoding& decoding) { word_piece(decoding, prefix, cleanup); });
  } else if (type == "BPEDecoder") {
    const std::string suffix = json["suffix"].text_or("</w>");
    if (suffix.empty()) json["suffix"].wrong("a text that is not empty");
    steps_.push_back([pattern = Pattern(suffix)](Decoding& decoding) { word_end(decoding, pattern); });
  } else if (type == "CTC") {
    const std::string blank = json["pad_token"].text_or("<pad>");
    const std::string delimiter = json["word_delimiter_token"].text_or("|");
    if (blank.empty()) json["pad_token"].wrong("a text that is not empty");
    if (delimiter.empty()) json["word_delimiter_token"].wrong("a text that is not empty");
    const bool cleanup = json["cleanup"].flag_or(true);
    steps_.push_back([=, blank = Pattern(blank), delimiter = Pattern(delimiter)](Decoding& decoding) {
      ctc(decoding, blank, delimiter, cleanup);
    });
  } else {
    json.unsupported("decoders of the kind \"" + type.substr(0, 60) + "\" are not supported");
  }
}

std::string Decoder::run(Decoding decoding) const {
  for (const Step& step : steps_) step(decoding);
  std::string bytes;
  for (size_t i = 0; i < decoding.pieces.size(); ++i) {
    if (joins_with_spaces_ && (i > 0 || !decoding.at_start)) bytes += ' ';
    bytes += decoding.pieces[i].text;
  }
  return bytes;
}

}  // namespace nfloat
