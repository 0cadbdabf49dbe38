// SPDX-License-Identifier: Apache-2.0
#include "grammar/vocabulary.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "grammar/plain_step.h"

namespace nfloat {
namespace grammar {

void TokenTree::add(std::string_view text, int32_t token) {
  const auto common = static_cast<size_t>(
      std::mismatch(last_.begin(), last_.end(), text.begin(), text.end()).first - last_.begin());
  for (; open_.size() > common; open_.pop_back())
    nodes_[static_cast<size_t>(open_.back())].skip = static_cast<int32_t>(nodes_.size());
  for (size_t i = common; i < text.size(); ++i) {
    open_.push_back(static_cast<int32_t>(nodes_.size()));
    nodes_.push_back({0, -1, static_cast<uint16_t>(i), static_cast<uint8_t>(text[i])});
  }
  nodes_.back().token = token;
  deepest_ = std::max(deepest_, text.size());
  last_ = text;
}

void TokenTree::finish() {
  for (const int32_t node : open_)
    nodes_[static_cast<size_t>(node)].skip = static_cast<int32_t>(nodes_.size());
  open_.clear();
}

std::pair<int32_t, size_t> TokenTree::longest(std::string_view text) const noexcept {
  std::pair<int32_t, size_t> found{-1, 0};
  auto end = static_cast<int32_t>(nodes_.size());
  size_t depth = 0;
  for (int32_t at = 0; at < end && depth < text.size();) {
    const Node& node = nodes_[static_cast<size_t>(at)];
    if (node.byte != static_cast<uint8_t>(text[depth])) {
      at = node.skip;
      continue;
    }
    ++depth;
    if (node.token >= 0) found = {node.token, depth};
    end = node.skip;
    ++at;
  }
  return found;
}

}  // namespace grammar

GrammarVocabulary::State::State(const std::vector<std::string>& tokens)
    : texts(tokens), same(tokens.size(), -1) {
  std::vector<int32_t> order;
  for (size_t i = 0; i < tokens.size(); ++i)
    if (!tokens[i].empty() && tokens[i].size() < UINT16_MAX) order.push_back(static_cast<int32_t>(i));
  const auto text = [&](int32_t token) -> std::string_view { return texts[static_cast<size_t>(token)]; };
  std::sort(order.begin(), order.end(),
            [&](int32_t a, int32_t b) { return std::pair(text(a), a) < std::pair(text(b), b); });
  plain_masks.emplace_back(mask_words());
  int32_t before = -1;
  for (const int32_t token : order) {
    const bool known = before >= 0 && text(before) == text(token);
    if (known) same[static_cast<size_t>(before)] = token;
    before = token;
    const int32_t length = text(token).size() > kShort ? -1 : grammar::plain_length(text(token));
    if (length >= 0) {
      if (std::ssize(plain_masks) <= length)
        plain_masks.resize(static_cast<size_t>(length) + 1, grammar::TokenMask(mask_words()));
      grammar::allow(plain_masks[static_cast<size_t>(length)], token);
    }
    if (known) continue;
    grammar::TokenTree& tree = text(token).size() > kShort ? lengthy : length >= 0 ? plain : other;
    tree.add(text(token), token);
  }
  for (grammar::TokenTree* tree : {&plain, &other, &lengthy}) tree->finish();
  for (size_t length = 1; length < plain_masks.size(); ++length)
    for (size_t word = 0; word < mask_words(); ++word)
      plain_masks[length][word] |= plain_masks[length - 1][word];
}

int32_t GrammarVocabulary::State::longest(std::string_view text) const noexcept {
  std::pair<int32_t, size_t> found{-1, 0};
  for (const grammar::TokenTree* tree : {&plain, &other, &lengthy})
    if (const auto one = tree->longest(text); one.second > found.second) found = one;
  return found.first;
}

GrammarVocabulary::GrammarVocabulary(const std::vector<std::string>& tokens)
    : state_(std::make_shared<State>(tokens)) {}

}  // namespace nfloat
