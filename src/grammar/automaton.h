// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_GRAMMAR_AUTOMATON_H_
#define NFLOAT_GRAMMAR_AUTOMATON_H_

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "grammar/net.h"
#include "grammar/plain_step.h"

namespace nfloat::grammar {

// The deterministic automaton of a net, made state by state as texts are followed.
class Automaton {
 public:
  static constexpr int32_t kDead = -1;
  static constexpr size_t kMostStates = 50000;

  explicit Automaton(Net net);

  int32_t start() const noexcept { return start_; }
  // Throws kUnsupported when there are more states than the bound.
  int32_t step(int32_t state, uint8_t byte) {
    if (state == kDead) return kDead;
    const uint8_t byte_class = classes_[byte];
    const int32_t known = next_[static_cast<size_t>(state) * class_count_ + byte_class];
    return known != kUnknown ? known : follow(state, byte_class);
  }
  bool accepts(int32_t state) const noexcept { return states_[static_cast<size_t>(state)].accepts; }
  bool goes_on(int32_t state) const noexcept { return !states_[static_cast<size_t>(state)].configs->empty(); }
  size_t size() const noexcept { return states_.size(); }
  const Net& net() const noexcept { return net_; }
  // The state that texts follow as they do `state` of `other`, an automaton of the same net.
  int32_t adopt(const Automaton& other, int32_t state);

  // A state from which the same texts of at most `bytes` bytes can be followed: repetitions that no such text
  // can end or use up are counted no further. `bytes` is the same in all calls.
  int32_t saturated(int32_t state, int32_t bytes);

  // Where a state's repetitions of any character lead by one plain character, whichever it is: kDead where
  // there are none.
  int32_t plain_next(int32_t state);
  // Some plain characters lead from the state elsewhere too.
  bool takes_some_plain(int32_t state);

 private:
  static constexpr int32_t kUnknown = -2;
  // Where a rule goes on when it has ended, and how often it has still to come, the time at work included.
  struct Frame {
    int32_t target, rule, least, most, parent;
    auto operator<=>(const Frame&) const = default;
  };
  struct Config {
    int32_t state, frame;  // frame -1: of the whole text
    auto operator<=>(const Config&) const = default;
  };
  struct Made {
    const std::vector<Config>* configs;  // with edges of bytes; the key of numbers_
    bool accepts = false, some_plain = false;
    int32_t plain = kUnknown, saturated = kUnknown;
  };

  int32_t frame(const Frame& wanted);
  int32_t depth(int32_t frame) const { return frame < 0 ? 0 : depths_[static_cast<size_t>(frame)]; }
  void enter(std::vector<Config>& open, const Edge& edge, int32_t parent);
  int32_t make(std::vector<Config> open);
  int32_t number(bool accepts, std::vector<Config> configs);
  int32_t follow(int32_t state, uint8_t byte_class);
  int32_t saturated_frame(int32_t frame, int32_t bytes);
  int32_t adopt_frame(const Automaton& other, int32_t frame, std::vector<int32_t>& known);
  const PlainStep& plain_step_of(int32_t state);
  void find_plain(int32_t state);

  Net net_;
  std::vector<bool> ends_;         // states that end a rule
  std::vector<int32_t> shortest_;  // texts of the rules, in bytes
  // Bytes that no edge of the net tells apart.
  std::array<uint8_t, 256> classes_{};
  std::vector<uint8_t> byte_of_class_;
  size_t class_count_ = 0;
  std::vector<std::optional<PlainStep>> plain_steps_;  // of the net's states
  std::vector<Frame> frames_;
  std::vector<int32_t> depths_, saturated_frames_;
  std::map<Frame, int32_t> frame_numbers_;
  std::vector<Made> states_;
  std::vector<int32_t> next_;  // by state and class
  std::map<std::pair<bool, std::vector<Config>>, int32_t> numbers_;
  int32_t start_;
};

}  // namespace nfloat::grammar

#endif  // NFLOAT_GRAMMAR_AUTOMATON_H_
