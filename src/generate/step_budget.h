// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_GENERATE_STEP_BUDGET_H_
#define NFLOAT_GENERATE_STEP_BUDGET_H_

#include <algorithm>
#include <cstdint>

namespace nfloat {

// How many tokens of prompts fit into a step, by how long the last steps took.
class StepBudget {
 public:
  explicit StepBudget(double seconds) noexcept : seconds_(seconds) {}

  // `decoding`: other sequences wait for their next token in this step. A multiple of 64, or less than that.
  int64_t prompt_tokens(bool decoding) const noexcept {
    if (token_ <= 0) return kPiece;
    const double left = seconds_ - (decoding ? decode_ : 0);
    const auto tokens = static_cast<int64_t>(std::clamp(left / token_, 0.0, 512.0));
    if (tokens >= kPiece) return tokens / kPiece * kPiece;
    return decoding ? std::max<int64_t>(tokens / 8 * 8, 8) : kPiece;
  }
  double token_seconds() const noexcept { return token_; }  // of a prompt; 0: not known
  void took(double seconds, int64_t prompt_tokens, bool decoding) noexcept {
    if (prompt_tokens == 0)
      decode_ = mixed(decode_, seconds);
    else
      token_ = mixed(token_, std::max(seconds - (decoding ? decode_ : 0), seconds / 8) /
                                 static_cast<double>(prompt_tokens));
  }

 private:
  static constexpr int64_t kPiece = 64;
  static double mixed(double old, double now) noexcept { return old <= 0 ? now : 0.75 * old + 0.25 * now; }

  double seconds_;
  double decode_ = 0;  // a step without prompts
  double token_ = 0;   // of a prompt
};

}  // namespace nfloat

#endif  // NFLOAT_GENERATE_STEP_BUDGET_H_
