// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CHAT_TOKEN_READER_H_
#define NFLOAT_CHAT_TOKEN_READER_H_

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/fail.h"
#include "chat/syntax.h"

namespace nfloat::chat {

// A place in the tokens of a template, and what may stand there. Refusals name the source and the line.
class TokenReader {
 public:
  TokenReader(std::vector<Token> tokens, const std::string& source)
      : tokens_(std::move(tokens)), source_(source) {}

  const Token& now() const { return tokens_[at_]; }
  const Token& next() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  void step() {
    if (at_ + 1 < tokens_.size()) ++at_;
  }
  [[noreturn]] void refuse(const std::string& what) const {
    fail(ErrorCode::kMalformedFile, "{}, line {}: {}", source_, now().line, what);
  }
  bool symbol(std::string_view text) const { return now().kind == Token::kSymbol && now().text == text; }
  bool word(std::string_view text) const { return now().kind == Token::kName && now().text == text; }
  bool take(std::string_view text) {
    if (!symbol(text)) return false;
    step();
    return true;
  }
  bool take_word(std::string_view text) {
    if (!word(text)) return false;
    step();
    return true;
  }
  void expect(std::string_view text) {
    if (!take(text)) refuse(fmt::format("expected '{}', found '{}'", text, shown()));
  }
  std::string shown() const { return now().kind == Token::kEnd ? "end of the tag" : now().text; }
  std::string name() {
    if (now().kind != Token::kName) refuse(fmt::format("expected a name, found '{}'", shown()));
    std::string text = now().text;
    step();
    return text;
  }
  void end() {
    if (now().kind != Token::kEnd) refuse(fmt::format("expected the end of the tag, found '{}'", shown()));
    step();
  }

 protected:
  std::vector<Token> tokens_;
  const std::string& source_;
  size_t at_ = 0;
};

}  // namespace nfloat::chat

#endif  // NFLOAT_CHAT_TOKEN_READER_H_
