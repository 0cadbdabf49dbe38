// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_GENERATE_GUESS_LENGTH_H_
#define NFLOAT_GENERATE_GUESS_LENGTH_H_

#include <algorithm>
#include <cstdint>

namespace nfloat {

// How many tokens of one source are worth guessing, by how many were right before and by what a guess costs.
class GuessLength {
 public:
  // At most `most`. `cost`: of one guessed token, as a part of what a token costs without guesses.
  int64_t operator()(int64_t most, double cost) noexcept {
    int64_t best = 0;
    double most_gained = kWorthIt, expected = 1, all_right = 1;
    for (int64_t guesses = 1; guesses <= most; ++guesses) {
      all_right *= chance_;
      expected += all_right;
      const double gained = expected / (1 + static_cast<double>(guesses) * cost);
      if (gained <= most_gained) continue;
      most_gained = gained;
      best = guesses;
    }
    // What has become better shows only when it is tried.
    return best == 0 && most > 0 && ++skipped_ > pause_ ? 1 : best;
  }
  void checked(int64_t guessed, int64_t right) noexcept {
    if (guessed <= 0) return;
    // A source that was of no use is asked again ever more seldom.
    if (skipped_ > 0) pause_ = right > 0 ? kShortestPause : std::min(2 * pause_, kLongestPause);
    skipped_ = 0;
    const auto tries = static_cast<double>(std::min(right + 1, guessed));
    chance_ = (chance_ * kMemory + static_cast<double>(right)) / (kMemory + tries);
  }

 private:
  static constexpr double kMemory = 4;  // tries that the estimate remembers
  // Gained at least, as times are measured with errors, and guesses cost more than their rows.
  static constexpr double kWorthIt = 1.03;
  static constexpr int64_t kShortestPause = 16, kLongestPause = 512;  // passes
  double chance_ = 0.6;  // that a token is right when those before it are; at first not better than that
  int64_t skipped_ = 0, pause_ = kShortestPause;
};

// What passes cost: with one token of each of `sequences`, and with guesses beside. A clock that stands still
// makes guesses cost nothing.
class PassCost {
 public:
  void took(double seconds, int64_t sequences, int64_t guesses) noexcept {
    Plain& plain = plain_[place(sequences)];
    if (guesses == 0) {
      plain.seconds = plain.known ? 0.75 * plain.seconds + 0.25 * seconds : seconds;
      plain.known = true;
    } else if (plain.known) {
      const double each = std::max(seconds - plain.seconds, 0.0) / static_cast<double>(guesses);
      guess_ = guessed_ ? 0.75 * guess_ + 0.25 * each : each;
      guessed_ = true;
    }
  }
  bool known(int64_t sequences) const noexcept { return plain_[place(sequences)].known; }
  // Of a guess, as a part of what a token of one of the sequences costs. `else_seconds` stands for a guess
  // that was not measured yet, `more_seconds` is what making the guess takes.
  double guess(int64_t sequences, double else_seconds, double more_seconds = 0) const noexcept {
    const double plain = plain_[place(sequences)].seconds;
    return plain > 0
               ? ((guessed_ ? guess_ : else_seconds) + more_seconds) * static_cast<double>(sequences) / plain
               : 0;
  }

 private:
  struct Plain {
    double seconds = 0;
    bool known = false;
  };
  static size_t place(int64_t sequences) noexcept {
    return static_cast<size_t>(std::clamp<int64_t>(sequences, 1, kMost) - 1);
  }
  static constexpr int64_t kMost = 16;
  Plain plain_[kMost];
  double guess_ = 0;
  bool guessed_ = false;
};

}  // namespace nfloat

#endif  // NFLOAT_GENERATE_GUESS_LENGTH_H_
