// SPDX-License-Identifier: Apache-2.0
#include "grammar/automaton.h"

#include <algorithm>
#include <set>
#include <utility>

#include "base/fail.h"

namespace nfloat::grammar {
namespace {

constexpr size_t kMostStates = 50000;
constexpr size_t kMostConfigs = 32768;  // of one state
constexpr int32_t kDeepest = 256;       // rules in one another: deeper texts are not allowed

}  // namespace

Automaton::Automaton(Net net) : net_(std::move(net)), ends_(net_.edges.size()) {
  for (const Rule& rule : net_.rules) ends_[static_cast<size_t>(rule.end)] = true;
  start_ = make({{net_.rules[0].begin, -1}});
}

int32_t Automaton::frame(const Frame& wanted) {
  const auto [at, added] = frame_numbers_.try_emplace(wanted, static_cast<int32_t>(frames_.size()));
  if (added) {
    frames_.push_back(wanted);
    depths_.push_back(depth(wanted.parent) + 1);
  }
  return at->second;
}

// An edge that repeats a rule: past it where it may be left out, and into the rule.
void Automaton::enter(std::vector<Config>& open, const Edge& edge, int32_t parent) {
  if (edge.least <= 0) open.push_back({edge.target, parent});
  if (edge.most == 0 || depth(parent) >= kDeepest) return;
  open.push_back({net_.rules[static_cast<size_t>(edge.rule)].begin,
                  frame({edge.target, edge.rule, edge.least, edge.most, parent})});
}

// The state of these configurations and of all that they reach without a byte.
int32_t Automaton::make(std::vector<Config> open) {
  std::set<Config> seen;
  std::vector<Config> kept;
  bool accepts = false;
  while (!open.empty()) {
    const Config config = open.back();
    open.pop_back();
    if (!seen.insert(config).second) continue;
    if (seen.size() > kMostConfigs) fail(ErrorCode::kUnsupported, "the grammar is too ambiguous");
    if (ends_[static_cast<size_t>(config.state)]) {
      if (config.frame < 0) {
        accepts = true;
      } else {
        const Frame done = frames_[static_cast<size_t>(config.frame)];
        const int32_t most = done.most < 0 ? -1 : done.most - 1;
        enter(open, {Edge::Kind::kRepeat, 0, 0, done.rule, std::max(done.least - 1, 0), most, done.target},
              done.parent);
      }
    }
    bool bytes = false;
    for (const Edge& edge : net_.edges[static_cast<size_t>(config.state)]) {
      if (edge.kind == Edge::Kind::kEmpty)
        open.push_back({edge.target, config.frame});
      else if (edge.kind == Edge::Kind::kRepeat)
        enter(open, edge, config.frame);
      else
        bytes = true;
    }
    if (bytes) kept.push_back(config);
  }
  if (kept.empty() && !accepts) return kDead;
  std::sort(kept.begin(), kept.end());
  const auto [at, added] =
      numbers_.try_emplace({accepts, std::move(kept)}, static_cast<int32_t>(states_.size()));
  if (added) {
    if (states_.size() >= kMostStates) fail(ErrorCode::kUnsupported, "the grammar has too many states");
    Made made;
    made.configs = at->first.second;
    made.accepts = accepts;
    states_.push_back(std::move(made));
  }
  return at->second;
}

void Automaton::keep_mask(int32_t state, const std::vector<uint64_t>& mask) {
  const size_t bytes = mask.size() * sizeof mask[0];
  if (mask_bytes_ + bytes > kMostMaskBytes) {
    for (Made& made : states_) made.mask.reset();
    mask_bytes_ = 0;
  }
  states_[static_cast<size_t>(state)].mask = std::make_unique<std::vector<uint64_t>>(mask);
  mask_bytes_ += bytes;
}

int32_t Automaton::step(int32_t state, uint8_t byte) {
  constexpr int32_t kUnknown = -2;
  if (state == kDead) return kDead;
  if (!states_[static_cast<size_t>(state)].next) {
    states_[static_cast<size_t>(state)].next = std::make_unique<std::array<int32_t, 256>>();
    states_[static_cast<size_t>(state)].next->fill(kUnknown);
  }
  if (const int32_t known = (*states_[static_cast<size_t>(state)].next)[byte]; known != kUnknown)
    return known;
  std::vector<Config> open;
  for (const Config& config : states_[static_cast<size_t>(state)].configs)
    for (const Edge& edge : net_.edges[static_cast<size_t>(config.state)])
      if (edge.kind == Edge::Kind::kBytes && byte >= edge.low && byte <= edge.high)
        open.push_back({edge.target, config.frame});
  const int32_t next = open.empty() ? kDead : make(std::move(open));
  (*states_[static_cast<size_t>(state)].next)[byte] = next;
  return next;
}

}  // namespace nfloat::grammar
