// SPDX-License-Identifier: Apache-2.0
#include "grammar/automaton.h"

#include <algorithm>
#include <set>

#include "base/fail.h"

namespace nfloat::grammar {
namespace {

constexpr size_t kMostConfigs = 32768;  // of one state
constexpr int32_t kDeepest = 256;       // rules in one another: deeper texts are not allowed

}  // namespace

Automaton::Automaton(Net net)
    : net_(std::move(net)),
      ends_(net_.edges.size()),
      shortest_(shortest_texts(net_)),
      plain_steps_(net_.edges.size()) {
  for (const Rule& rule : net_.rules) ends_[static_cast<size_t>(rule.end)] = true;
  std::array<bool, 257> begins{};
  for (const std::vector<Edge>& edges : net_.edges)
    for (const Edge& edge : edges)
      if (edge.kind == Edge::Kind::kBytes) begins[edge.low] = begins[size_t{edge.high} + 1] = true;
  begins[0] = true;
  for (size_t byte = 0; byte < 256; ++byte) {
    if (begins[byte]) byte_of_class_.push_back(static_cast<uint8_t>(byte));
    classes_[byte] = static_cast<uint8_t>(byte_of_class_.size() - 1);
  }
  class_count_ = byte_of_class_.size();
  start_ = make({{net_.rules[0].begin, -1}});
}

int32_t Automaton::frame(const Frame& wanted) {
  const auto [at, added] = frame_numbers_.try_emplace(wanted, static_cast<int32_t>(frames_.size()));
  if (added) {
    frames_.push_back(wanted);
    depths_.push_back(depth(wanted.parent) + 1);
    saturated_frames_.push_back(kUnknown);
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
  return number(accepts, std::move(kept));
}

int32_t Automaton::number(bool accepts, std::vector<Config> configs) {
  std::sort(configs.begin(), configs.end());
  configs.erase(std::unique(configs.begin(), configs.end()), configs.end());
  const auto [at, added] =
      numbers_.try_emplace({accepts, std::move(configs)}, static_cast<int32_t>(states_.size()));
  if (added) {
    if (states_.size() >= kMostStates) {
      numbers_.erase(at);
      fail(ErrorCode::kUnsupported, "the grammar has too many states");
    }
    states_.push_back({.configs = &at->first.second, .accepts = accepts});
    next_.resize(next_.size() + class_count_, kUnknown);
  }
  return at->second;
}

int32_t Automaton::follow(int32_t state, uint8_t byte_class) {
  const uint8_t byte = byte_of_class_[byte_class];
  std::vector<Config> open;
  for (const Config& config : *states_[static_cast<size_t>(state)].configs)
    for (const Edge& edge : net_.edges[static_cast<size_t>(config.state)])
      if (edge.kind == Edge::Kind::kBytes && byte >= edge.low && byte <= edge.high)
        open.push_back({edge.target, config.frame});
  const int32_t next = open.empty() ? kDead : make(std::move(open));
  next_[static_cast<size_t>(state) * class_count_ + byte_class] = next;
  return next;
}

// A text of `bytes` bytes ends the time at work by its first byte at the earliest, and others by as many more
// as their shortest text has. One repetition beyond those is as good as any number of them; nor does a text
// need times that take no byte, of which there are as many as are wanted.
int32_t Automaton::saturated_frame(int32_t frame_number, int32_t bytes) {
  if (frame_number < 0) return frame_number;
  const auto index = static_cast<size_t>(frame_number);
  if (saturated_frames_[index] != kUnknown) return saturated_frames_[index];
  Frame whole = frames_[index];
  whole.parent = saturated_frame(whole.parent, bytes);
  const int32_t enough = 2 + (bytes - 1) / std::max(shortest_[static_cast<size_t>(whole.rule)], 1);
  whole.least = std::min(whole.least, enough);
  if (whole.most >= enough) whole.most = -1;
  const int32_t found = frame(whole);
  saturated_frames_[index] = found;
  return found;
}

int32_t Automaton::saturated(int32_t state, int32_t bytes) {
  if (state == kDead) return kDead;
  const Made made = states_[static_cast<size_t>(state)];
  if (made.saturated != kUnknown) return made.saturated;
  std::vector<Config> configs = *made.configs;
  for (Config& config : configs) config.frame = saturated_frame(config.frame, bytes);
  const int32_t found = number(made.accepts, std::move(configs));
  states_[static_cast<size_t>(state)].saturated = found;
  return found;
}

int32_t Automaton::adopt_frame(const Automaton& other, int32_t frame_number, std::vector<int32_t>& known) {
  if (frame_number < 0) return frame_number;
  int32_t& own = known[static_cast<size_t>(frame_number)];
  if (own != kUnknown) return own;
  Frame whole = other.frames_[static_cast<size_t>(frame_number)];
  whole.parent = adopt_frame(other, whole.parent, known);
  return own = frame(whole);
}

int32_t Automaton::adopt(const Automaton& other, int32_t state) {
  if (state == kDead) return kDead;
  const Made& made = other.states_[static_cast<size_t>(state)];
  std::vector<Config> configs = *made.configs;
  std::vector<int32_t> known(other.frames_.size(), kUnknown);
  for (Config& config : configs) config.frame = adopt_frame(other, config.frame, known);
  return number(made.accepts, std::move(configs));
}

const PlainStep& Automaton::plain_step_of(int32_t state) {
  std::optional<PlainStep>& step = plain_steps_[static_cast<size_t>(state)];
  if (!step) step = plain_step(net_, ends_, state);
  return *step;
}

void Automaton::find_plain(int32_t state) {
  if (states_[static_cast<size_t>(state)].plain != kUnknown) return;
  std::vector<Config> open;
  bool some = false;
  for (const Config& config : *states_[static_cast<size_t>(state)].configs) {
    const PlainStep& step = plain_step_of(config.state);
    some = some || step.kind == PlainStep::Kind::kDifferent;
    for (const int32_t target : step.targets) open.push_back({target, config.frame});
  }
  const int32_t next = open.empty() ? kDead : make(std::move(open));
  states_[static_cast<size_t>(state)].some_plain = some;
  states_[static_cast<size_t>(state)].plain = next;
}

int32_t Automaton::plain_next(int32_t state) {
  find_plain(state);
  return states_[static_cast<size_t>(state)].plain;
}

bool Automaton::takes_some_plain(int32_t state) {
  find_plain(state);
  return states_[static_cast<size_t>(state)].some_plain;
}

}  // namespace nfloat::grammar
