// SPDX-License-Identifier: Apache-2.0
#include "tokenizer/merges.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <queue>

#include "base/interruption.h"

namespace nfloat {

Merges::Merges(size_t expected) {
  slots_.resize(std::bit_ceil(std::max<size_t>(16, 2 * expected + 1)));
  mask_ = slots_.size() - 1;
}

void Merges::add(int32_t left, int32_t right, Rule rule) {
  if (2 * (count_ + 1) > slots_.size()) {
    Merges larger(2 * count_ + 2);
    for (const Slot& slot : slots_)
      if (slot.key != kEmpty)
        larger.add(static_cast<int32_t>(slot.key >> 32), static_cast<int32_t>(slot.key & UINT32_MAX),
                   slot.rule);
    *this = std::move(larger);
  }
  const uint64_t key = key_of(left, right);
  size_t slot = slot_of(key);
  while (slots_[slot].key != kEmpty && slots_[slot].key != key) slot = (slot + 1) & mask_;
  if (slots_[slot].key == kEmpty) ++count_;
  slots_[slot] = {key, rule};
}

void Merges::apply(std::vector<int32_t>& tokens) const {
  constexpr size_t kShort = 40;  // below, scanning all ranks beats a queue
  if (tokens.size() < 2) return;
  if (tokens.size() <= kShort)
    apply_short(tokens);
  else
    apply_long(tokens);
}

void Merges::apply_short(std::vector<int32_t>& tokens) const {
  constexpr size_t kMost = 64;
  Rule rules[kMost];  // rules[i]: of tokens i and i + 1
  size_t count = tokens.size();
  for (size_t i = 0; i + 1 < count; ++i) rules[i] = find(tokens[i], tokens[i + 1]);
  while (count > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < count; ++i)
      if (rules[i].rank < rules[best].rank) best = i;
    if (rules[best].rank == kNone) break;
    tokens[best] = rules[best].merged;
    for (size_t i = best + 1; i + 1 < count; ++i) {
      tokens[i] = tokens[i + 1];
      rules[i] = rules[i + 1];
    }
    --count;
    if (best > 0) rules[best - 1] = find(tokens[best - 1], tokens[best]);
    if (best + 1 < count) rules[best] = find(tokens[best], tokens[best + 1]);
  }
  tokens.resize(count);
}

void Merges::apply_long(std::vector<int32_t>& tokens) const {
  struct Link {
    uint32_t previous;
    uint32_t next;
  };
  struct Candidate {
    uint32_t rank;
    uint32_t at;
    int32_t left, right, merged;  // stale when the two tokens are no longer these
    bool operator>(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : at > other.at;
    }
  };
  const auto count = static_cast<uint32_t>(tokens.size());
  constexpr uint32_t kEnd = UINT32_MAX;
  std::vector<Link> links(count);
  std::vector<Candidate> candidates;
  const auto candidate = [&](uint32_t at, std::vector<Candidate>& into) {
    const uint32_t next = links[at].next;
    if (next == kEnd) return;
    const Rule rule = find(tokens[at], tokens[next]);
    if (rule.rank != kNone) into.push_back({rule.rank, at, tokens[at], tokens[next], rule.merged});
  };
  for (uint32_t i = 0; i < count; ++i) links[i] = {i == 0 ? kEnd : i - 1, i + 1 == count ? kEnd : i + 1};
  for (uint32_t i = 0; i < count; ++i) candidate(i, candidates);
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue({}, std::move(candidates));

  constexpr int32_t kGone = -1;
  std::vector<Candidate> fresh;
  Looks looks;
  while (!queue.empty()) {
    looks.step();
    const Candidate top = queue.top();
    queue.pop();
    const uint32_t next = tokens[top.at] == top.left ? links[top.at].next : kEnd;
    if (next == kEnd || tokens[next] != top.right) continue;
    tokens[top.at] = top.merged;
    tokens[next] = kGone;
    const uint32_t after = links[next].next;
    links[top.at].next = after;
    if (after != kEnd) links[after].previous = top.at;
    fresh.clear();
    candidate(top.at, fresh);
    if (links[top.at].previous != kEnd) candidate(links[top.at].previous, fresh);
    for (const Candidate& next_candidate : fresh) queue.push(next_candidate);
  }
  std::erase(tokens, kGone);
}

}  // namespace nfloat
