// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_GRAMMAR_BUILDER_H_
#define NFLOAT_GRAMMAR_BUILDER_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "grammar/net.h"

namespace nfloat::grammar {

// A part of a net that is entered at `begin` and left at `end`.
struct Piece {
  int32_t begin, end;
};

// Characters, as inclusive ranges of code points.
using Characters = std::vector<std::pair<uint32_t, uint32_t>>;

// How characters stand in the text: as they are, or inside of a JSON string.
enum class Spelling : uint8_t { kPlain, kJson };

// Puts a net together from pieces. Throws kUnsupported when it has too many states.
class Builder {
 public:
  Builder();

  Piece empty();
  Piece bytes(uint8_t low, uint8_t high);
  Piece literal(std::string_view text);
  Piece one_of(const std::vector<std::string>& texts);
  Piece sequence(std::span<const Piece> pieces);
  Piece sequence(std::initializer_list<Piece> pieces) {
    return sequence(std::span(pieces.begin(), pieces.size()));
  }
  Piece either(std::span<const Piece> pieces);  // of none: nothing matches
  Piece either(std::initializer_list<Piece> pieces) {
    return either(std::span(pieces.begin(), pieces.size()));
  }
  Piece characters(const Characters& set, Spelling spelling);
  // A rule without a body yet, so that it may call itself.
  int32_t declare();
  void define(int32_t rule, Piece body);
  Piece call(int32_t rule) { return repeat(rule, 1, 1); }
  Piece repeat(int32_t rule, int32_t least, int32_t most);
  // The piece as a rule of its own, repeated.
  Piece repeat(Piece body, int32_t least, int32_t most);

  int32_t state();
  void connect(int32_t from, int32_t to) { add(from, {Edge::Kind::kEmpty, 0, 0, 0, 1, 1, to}); }
  void connect(int32_t from, uint8_t low, uint8_t high, int32_t to) {
    add(from, {Edge::Kind::kBytes, low, high, 0, 1, 1, to});
  }

  // The whole text, without the ways that no text can end by: what is begun can always be ended. Throws
  // kInvalidArgument when there is no text at all, or a rule calls itself before it has taken a byte.
  Net finish(Piece whole);

 private:
  // Whether a rule calls itself before it has taken a byte: a text of it would have no beginning.
  bool has_left_recursion() const;
  void add(int32_t from, const Edge& edge) { net_.edges[static_cast<size_t>(from)].push_back(edge); }
  bool drop_dead_ends();  // false: there is no text
  void utf8(Piece piece, uint32_t low, uint32_t high);

  Net net_;
};

// Every character of a JSON string.
const Characters& any_character();

}  // namespace nfloat::grammar

#endif  // NFLOAT_GRAMMAR_BUILDER_H_
