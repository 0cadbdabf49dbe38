// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/pre_tokenizer.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "base/ascii.h"
#include "base/interruption.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/pattern.h"
#include "tokenizer/script_runs.h"
#include "tokenizer/split.h"

namespace nfloat {

SplitBehavior split_behavior(const JsonAt& json, SplitBehavior fallback) {
  if (!json.present()) return fallback;
  // Written "MergedWithPrevious" by the Rust library, "merged_with_previous" by its Python binding.
  std::string name;
  for (const char c : json.text())
    if (c != '_') name += lower(c);
  if (name == "removed") return SplitBehavior::kRemoved;
  if (name == "isolated") return SplitBehavior::kIsolated;
  if (name == "mergedwithprevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "mergedwithnext") return SplitBehavior::kMergedWithNext;
  if (name == "contiguous") return SplitBehavior::kContiguous;
  json.unsupported("this behaviour of a split is not supported");
}

namespace {

using CutStep = std::function<void(Pieces&)>;

constexpr std::string_view kGpt2Expression =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Rewrites every range: `rewrite(range's text, index, out)` appends what it becomes. Ranges stay in place.
void rewrite_pieces(Pieces& pieces,
                    const std::function<void(std::string_view, size_t, std::string&)>& rewrite) {
  std::string out;
  out.reserve(pieces.text.size());
  Looks looks;
  for (size_t i = 0; i < pieces.ranges.size(); ++i) {
    looks.step();
    const size_t begin = out.size();
    rewrite(pieces.at(pieces.ranges[i]), i, out);
    pieces.ranges[i] = {begin, out.size()};
  }
  pieces.text = std::move(out);
}

void add_byte_level(const JsonAt& json, bool keep_bytes, std::vector<CutStep>& steps) {
  if (json["add_prefix_space"].flag_or(true)) {
    steps.push_back([](Pieces& pieces) {
      rewrite_pieces(pieces, [](std::string_view text, size_t, std::string& out) {
        if (!text.starts_with(' ')) out += ' ';
        out += text;
      });
    });
  }
  if (json["use_regex"].flag_or(true)) {
    steps.push_back([regex = Regex(kGpt2Expression, json.where())](Pieces& pieces) {
      split_pieces(pieces, SplitBehavior::kIsolated, false,
                   [&](std::string_view subject, size_t start, Match* match) {
                     return regex.find(subject, start, match);
                   });
    });
  }
  if (keep_bytes) {
    steps.push_back([](Pieces& pieces) { pieces.byte_level = true; });
  } else {
    steps.push_back([](Pieces& pieces) {
      rewrite_pieces(pieces,
                     [](std::string_view text, size_t, std::string& out) { out += to_byte_level(text); });
    });
  }
}

enum class Prepend { kAlways, kFirst, kNever };

Prepend prepend_scheme(const JsonAt& json) {
  const JsonAt scheme = json["prepend_scheme"];
  if (!scheme.present()) return json["add_prefix_space"].flag_or(true) ? Prepend::kAlways : Prepend::kNever;
  const std::string& name = scheme.text();
  if (name == "always") return Prepend::kAlways;
  if (name == "first") return Prepend::kFirst;
  if (name == "never") return Prepend::kNever;
  scheme.wrong("\"always\", \"first\" or \"never\"");
}

void add_metaspace(const JsonAt& json, std::vector<CutStep>& steps) {
  const std::string replacement = json["replacement"].text();
  if (replacement.empty()) json["replacement"].wrong("a character");
  const Prepend scheme = prepend_scheme(json);
  steps.push_back([=](Pieces& pieces) {
    rewrite_pieces(pieces, [&](std::string_view text, size_t index, std::string& out) {
      const bool wanted =
          scheme == Prepend::kAlways || (scheme == Prepend::kFirst && index == 0 && pieces.at_text_start);
      if (wanted && !text.starts_with(replacement) && !text.starts_with(' ')) out += replacement;
      for (const char c : text) {
        if (c == ' ')
          out += replacement;
        else
          out += c;
      }
    });
  });
  if (!json["split"].flag_or(true)) return;
  steps.push_back([pattern = Pattern(replacement)](Pieces& pieces) {
    split_pieces(pieces, SplitBehavior::kMergedWithNext, false,
                 [&](std::string_view subject, size_t start, Match* match) {
                   return pattern.find(subject, start, match);
                 });
  });
}

void add_chars(SplitBehavior behavior, bool (*property)(char32_t) noexcept, std::vector<CutStep>& steps) {
  steps.push_back([=](Pieces& pieces) { split_pieces_at_chars(pieces, behavior, property); });
}

void add_split(SplitBehavior behavior, bool invert, Pattern pattern, std::vector<CutStep>& steps) {
  steps.push_back([behavior, invert, pattern = std::move(pattern)](Pieces& pieces) {
    split_pieces(pieces, behavior, invert, [&](std::string_view subject, size_t start, Match* match) {
      return pattern.find(subject, start, match);
    });
  });
}

// Runs of word characters and runs of neither word characters nor spaces, the spaces dropped.
void split_words(Pieces& pieces) {
  split_pieces_at_chars(pieces, SplitBehavior::kRemoved, is_white_space);
  std::vector<Match> out;
  Looks looks;
  for (const Match& range : pieces.ranges) {
    looks.step();
    Splitter splitter(SplitBehavior::kContiguous, out);
    for (size_t at = range.begin; at < range.end;) {
      const Utf8Char next = next_char(pieces.text, at);
      splitter.add(at, at + next.bytes, is_word(next.value));
      at += next.bytes;
    }
  }
  pieces.ranges = std::move(out);
}

void split_fixed(Pieces& pieces, size_t length) {
  std::vector<Match> out;
  Looks looks;
  for (const Match& range : pieces.ranges) {
    size_t count = 0;
    for (size_t at = range.begin; at < range.end; ++count) {
      looks.step();
      const uint32_t bytes = next_char(pieces.text, at).bytes;
      if (count % length == 0) out.push_back({at, at});
      at += bytes;
      out.back().end = at;
    }
  }
  pieces.ranges = std::move(out);
}

void add_steps(const JsonAt& json, bool keep_bytes, std::vector<CutStep>& steps) {
  const std::string& type = json["type"].text();
  if (type == "Sequence") {
    const std::vector<JsonAt> children = json["pretokenizers"].elements();
    for (size_t i = 0; i < children.size(); ++i)
      add_steps(children[i], keep_bytes && i + 1 == children.size(), steps);
  } else if (type == "ByteLevel") {
    add_byte_level(json, keep_bytes, steps);
  } else if (type == "Split") {
    add_split(split_behavior(json["behavior"], SplitBehavior::kIsolated), json["invert"].flag_or(false),
              Pattern(json["pattern"]), steps);
  } else if (type == "Digits") {
    const bool individual = json["individual_digits"].flag_or(false);
    add_chars(individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous, is_numeric, steps);
  } else if (type == "Metaspace") {
    add_metaspace(json, steps);
  } else if (type == "Whitespace") {
    steps.push_back(split_words);
  } else if (type == "WhitespaceSplit") {
    add_chars(SplitBehavior::kRemoved, is_white_space, steps);
  } else if (type == "Punctuation") {
    add_chars(split_behavior(json["behavior"], SplitBehavior::kIsolated), is_punctuation, steps);
  } else if (type == "BertPreTokenizer") {
    add_chars(SplitBehavior::kRemoved, is_white_space, steps);
    add_chars(SplitBehavior::kIsolated, is_punctuation, steps);
  } else if (type == "CharDelimiterSplit") {
    const JsonAt delimiter = json["delimiter"];
    if (delimiter.text().empty()) delimiter.wrong("a character");
    add_split(SplitBehavior::kRemoved, false, Pattern(delimiter.text()), steps);
  } else if (type == "UnicodeScripts") {
    // What no run begins with, spaces before the first one, is dropped.
    steps.push_back([regex = Regex(script_runs_expression(), json.where())](Pieces& pieces) {
      split_pieces(pieces, SplitBehavior::kRemoved, true,
                   [&](std::string_view subject, size_t start, Match* match) {
                     return regex.find(subject, start, match);
                   });
    });
  } else if (type == "FixedLength") {
    const auto length = static_cast<size_t>(json["length"].integer(1, 1 << 20));
    steps.push_back([length](Pieces& pieces) { split_fixed(pieces, length); });
  } else {
    json.unsupported("pre-tokenizers of the kind \"" + type.substr(0, 60) + "\" are not supported");
  }
}

class PreTokenizerSteps final : public PreTokenizer {
 public:
  explicit PreTokenizerSteps(std::vector<CutStep> steps, std::string where)
      : steps_(std::move(steps)), where_(std::move(where)) {}

  void run(Pieces& pieces) const override {
    constexpr size_t kMaxGrowth = 64;
    const size_t most = (size_t{1} << 20) + kMaxGrowth * pieces.text.size();
    for (const CutStep& step : steps_) {
      step(pieces);
      if (pieces.text.size() > most)
        fail(ErrorCode::kUnsupported, "{}: splitting makes a text more than {} times as long", where_,
             kMaxGrowth);
    }
  }

 private:
  std::vector<CutStep> steps_;
  std::string where_;
};

}  // namespace

std::unique_ptr<const PreTokenizer> make_pre_tokenizer(const JsonAt& json, bool keep_bytes) {
  if (!json.present()) return nullptr;
  std::vector<CutStep> steps;
  add_steps(json, keep_bytes, steps);
  return std::make_unique<PreTokenizerSteps>(std::move(steps), json.where());
}

}  // namespace nfloat
