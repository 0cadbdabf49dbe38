// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_GRAMMAR_AUTOMATON_H_
#define NFLOAT_GRAMMAR_AUTOMATON_H_

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <vector>

namespace nfloat::grammar {

// A nondeterministic automaton over bytes whose rules may call each other: a step into a rule is remembered
// until the rule has ended.
struct Edge {
  enum class Kind : uint8_t { kBytes, kEmpty, kRepeat } kind;
  uint8_t low = 0, high = 0;    // kBytes: inclusive
  int32_t rule = 0;             // kRepeat: so often, one after the other
  int32_t least = 1, most = 1;  // most -1: without end
  int32_t target = 0;
};
struct Rule {
  int32_t begin, end;  // states
};
struct Net {
  std::vector<std::vector<Edge>> edges;  // of each state
  std::vector<Rule> rules;               // the first is the whole text
};

// The deterministic automaton of a net, made state by state as texts are followed.
class Automaton {
 public:
  static constexpr int32_t kDead = -1;

  explicit Automaton(Net net);

  int32_t start() const noexcept { return start_; }
  // Throws kUnsupported when there are more states than the bound.
  int32_t step(int32_t state, uint8_t byte);
  bool accepts(int32_t state) const noexcept { return states_[static_cast<size_t>(state)].accepts; }
  bool goes_on(int32_t state) const noexcept { return !states_[static_cast<size_t>(state)].configs.empty(); }

  // What keep_mask() was given for a state; null at first, and when others took its room.
  const std::vector<uint64_t>* mask(int32_t state) const noexcept {
    return states_[static_cast<size_t>(state)].mask.get();
  }
  void keep_mask(int32_t state, const std::vector<uint64_t>& mask);
  size_t mask_bytes() const noexcept { return mask_bytes_; }
  static constexpr size_t kMostMaskBytes = size_t{16} << 20;
  size_t size() const noexcept { return states_.size(); }

 private:
  // Where a rule goes on when it has ended, and how often it has still to come.
  struct Frame {
    int32_t target, rule, least, most, parent;
    auto operator<=>(const Frame&) const = default;
  };
  struct Config {
    int32_t state, frame;  // frame -1: of the whole text
    auto operator<=>(const Config&) const = default;
  };
  struct Made {
    std::vector<Config> configs;  // with edges of bytes
    bool accepts = false;
    std::unique_ptr<std::array<int32_t, 256>> next;
    std::unique_ptr<std::vector<uint64_t>> mask;
  };

  int32_t frame(const Frame& wanted);
  int32_t depth(int32_t frame) const { return frame < 0 ? 0 : depths_[static_cast<size_t>(frame)]; }
  void enter(std::vector<Config>& open, const Edge& edge, int32_t parent);
  int32_t make(std::vector<Config> open);

  Net net_;
  std::vector<bool> ends_;  // states that end a rule
  std::vector<Frame> frames_;
  std::vector<int32_t> depths_;
  std::map<Frame, int32_t> frame_numbers_;
  std::vector<Made> states_;
  size_t mask_bytes_ = 0;
  std::map<std::pair<bool, std::vector<Config>>, int32_t> numbers_;
  int32_t start_;
};

}  // namespace nfloat::grammar

#endif  // NFLOAT_GRAMMAR_AUTOMATON_H_
