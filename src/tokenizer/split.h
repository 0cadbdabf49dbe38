// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TOKENIZER_SPLIT_H_
#define NFLOAT_TOKENIZER_SPLIT_H_

#include <string_view>
#include <vector>

#include "base/interruption.h"
#include "tokenizer/json_at.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/utf8.h"

namespace nfloat {

// What becomes of the matches of a split (delimiters) and of the text between them.
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

SplitBehavior split_behavior(const JsonAt& json, SplitBehavior fallback);

// Collects one piece's parts in order (match or not) and writes the ranges that the behaviour makes of them.
class Splitter {
 public:
  Splitter(SplitBehavior behavior, std::vector<Match>& out)
      : behavior_(behavior), out_(out), first_(out.size()) {}

  void add(size_t begin, size_t end, bool is_match) {
    if (begin == end && !is_match) return;
    switch (behavior_) {
      case SplitBehavior::kRemoved:
        if (!is_match) out_.push_back({begin, end});
        break;
      case SplitBehavior::kIsolated:
        out_.push_back({begin, end});
        break;
      case SplitBehavior::kContiguous:
        if (any_ && is_match == previous_)
          out_.back().end = end;
        else
          out_.push_back({begin, end});
        break;
      case SplitBehavior::kMergedWithPrevious:
        if (any_ && is_match && !previous_)
          out_.back().end = end;
        else
          out_.push_back({begin, end});
        break;
      case SplitBehavior::kMergedWithNext:
        if (any_ && previous_ && !is_match)
          out_.back().end = end;
        else
          out_.push_back({begin, end});
        break;
    }
    any_ = true;
    previous_ = is_match;
  }

  // Drops the empty ranges that empty matches left.
  void finish() {
    size_t kept = first_;
    for (size_t i = first_; i < out_.size(); ++i)
      if (out_[i].begin != out_[i].end) out_[kept++] = out_[i];
    out_.resize(kept);
  }

 private:
  SplitBehavior behavior_;
  std::vector<Match>& out_;
  size_t first_;
  bool any_ = false;
  bool previous_ = false;
};

// Splits every range of `pieces` at the matches of `find(subject, start, &match)`; `invert` swaps matches and
// the text between.
template <typename Find>
void split_pieces(Pieces& pieces, SplitBehavior behavior, bool invert, Find&& find) {
  std::vector<Match> out;
  out.reserve(pieces.ranges.size() + pieces.text.size() / 4);
  Looks looks;
  for (const Match& range : pieces.ranges) {
    looks.step();
    const std::string_view subject = pieces.at(range);
    Splitter splitter(behavior, out);
    size_t done = 0;
    Match match{};
    for (size_t at = 0; at < subject.size() && find(subject, at, &match);) {
      looks.step();
      splitter.add(range.begin + done, range.begin + match.begin, invert);
      splitter.add(range.begin + match.begin, range.begin + match.end, !invert);
      done = at = match.end;
      if (match.begin == match.end && at < subject.size()) at += next_char(subject, at).bytes;
    }
    splitter.add(range.begin + done, range.end, invert);
    splitter.finish();
  }
  pieces.ranges = std::move(out);
}

// The same at every single character with the property.
template <typename Property>
void split_pieces_at_chars(Pieces& pieces, SplitBehavior behavior, Property&& has_property) {
  split_pieces(pieces, behavior, false, [&](std::string_view subject, size_t start, Match* match) {
    for (size_t at = start; at < subject.size();) {
      const Utf8Char next = next_char(subject, at);
      if (has_property(next.value)) {
        *match = {at, at + next.bytes};
        return true;
      }
      at += next.bytes;
    }
    return false;
  });
}

}  // namespace nfloat

#endif  // NFLOAT_TOKENIZER_SPLIT_H_
