// SPDX-License-Identifier: Apache-2.0
#include "grammar/builder.h"

#include <algorithm>
#include <array>
#include <functional>
#include <map>

#include "base/fail.h"

namespace nfloat::grammar {
namespace {

constexpr size_t kMostBuilt = 500000;

struct Utf8 {
  std::array<uint8_t, 4> bytes;
  size_t count;
};

Utf8 encoded(uint32_t c) noexcept {
  const auto tail = [&](int shift) { return static_cast<uint8_t>(0x80 | ((c >> shift) & 0x3f)); };
  if (c < 0x80) return {{static_cast<uint8_t>(c)}, 1};
  if (c < 0x800) return {{static_cast<uint8_t>(0xc0 | (c >> 6)), tail(0)}, 2};
  if (c < 0x10000) return {{static_cast<uint8_t>(0xe0 | (c >> 12)), tail(6), tail(0)}, 3};
  return {{static_cast<uint8_t>(0xf0 | (c >> 18)), tail(12), tail(6), tail(0)}, 4};
}

}  // namespace

const Characters& any_character() {
  static const Characters kAll{{0, 0x10ffff}};
  return kAll;
}

Builder::Builder() {
  net_.rules.push_back({0, 0});  // the whole text
}

int32_t Builder::state() {
  if (net_.edges.size() >= kMostBuilt) fail(ErrorCode::kUnsupported, "the grammar has too many states");
  net_.edges.emplace_back();
  return static_cast<int32_t>(net_.edges.size() - 1);
}

Piece Builder::empty() {
  const int32_t one = state();
  return {one, one};
}

Piece Builder::bytes(uint8_t low, uint8_t high) {
  const Piece piece{state(), state()};
  connect(piece.begin, low, high, piece.end);
  return piece;
}

Piece Builder::literal(std::string_view text) {
  Piece piece{state(), 0};
  piece.end = piece.begin;
  for (const char c : text) {
    const int32_t next = state();
    connect(piece.end, static_cast<uint8_t>(c), static_cast<uint8_t>(c), next);
    piece.end = next;
  }
  return piece;
}

Piece Builder::one_of(const std::vector<std::string>& texts) {
  const Piece whole{state(), state()};
  std::map<std::string_view, int32_t> known;  // by what came so far
  for (const std::string& text : texts) {
    int32_t at = whole.begin;
    for (size_t i = 1; i <= text.size(); ++i) {
      int32_t& next = known.try_emplace(std::string_view(text).substr(0, i), -1).first->second;
      if (next < 0) {
        next = state();
        const auto byte = static_cast<uint8_t>(text[i - 1]);
        connect(at, byte, byte, next);
      }
      at = next;
    }
    connect(at, whole.end);
  }
  return whole;
}

Piece Builder::sequence(std::span<const Piece> pieces) {
  Piece whole{state(), 0};
  whole.end = whole.begin;
  for (const Piece& piece : pieces) {
    connect(whole.end, piece.begin);
    whole.end = piece.end;
  }
  // Pieces that end where they begin could otherwise be entered from behind.
  const int32_t end = state();
  connect(whole.end, end);
  whole.end = end;
  return whole;
}

Piece Builder::either(std::span<const Piece> pieces) {
  const Piece whole{state(), state()};
  for (const Piece& piece : pieces) {
    connect(whole.begin, piece.begin);
    connect(piece.end, whole.end);
  }
  return whole;
}

void Builder::utf8(Piece piece, uint32_t low, uint32_t high) {
  static constexpr std::array<uint32_t, 5> kEnds{0x7f, 0x7ff, 0xd7ff, 0xffff, 0x10ffff};
  if (low > high) return;
  // Surrogates are not characters.
  if (low >= 0xd800 && low <= 0xdfff) return utf8(piece, 0xe000, high);
  for (const uint32_t end : kEnds)
    if (low <= end && high > end) {
      utf8(piece, low, end);
      return utf8(piece, end + 1, high);
    }
  for (int tail = 1; tail <= 3; ++tail) {
    const uint32_t mask = (uint32_t{1} << (6 * tail)) - 1;
    if (high < 0x80 || (low & ~mask) == (high & ~mask)) continue;
    if ((low & mask) != 0) {
      utf8(piece, low, low | mask);
      return utf8(piece, (low | mask) + 1, high);
    }
    if ((high & mask) != mask) {
      utf8(piece, low, (high & ~mask) - 1);
      return utf8(piece, high & ~mask, high);
    }
  }
  const Utf8 first = encoded(low), last = encoded(high);
  int32_t at = piece.begin;
  for (size_t i = 0; i < first.count; ++i) {
    const int32_t next = i + 1 == first.count ? piece.end : state();
    connect(at, first.bytes[i], last.bytes[i], next);
    at = next;
  }
}

Piece Builder::characters(const Characters& set, Spelling spelling) {
  const Piece piece{state(), state()};
  if (spelling == Spelling::kPlain) {
    for (const auto& [low, high] : set) utf8(piece, low, high);
    return piece;
  }
  std::vector<std::string> escapes;
  const auto escaped = [&](uint32_t c) {
    static constexpr std::string_view kShort = "\"\"\\\\\bb\ff\nn\rr\tt";
    std::string text = "\\";
    for (size_t i = 0; i < kShort.size(); i += 2)
      if (static_cast<uint32_t>(kShort[i]) == c) text += kShort[i + 1];
    if (text.size() == 1) text += fmt::format("u{:04x}", c);
    escapes.push_back(std::move(text));
  };
  for (const auto& [low, high] : set) {
    for (uint32_t c = low; c <= high && c < 0x20; ++c) escaped(c);
    uint32_t from = std::max<uint32_t>(low, 0x20);
    for (const uint32_t c : {uint32_t{'"'}, uint32_t{'\\'}}) {
      if (c < from || c > high) continue;
      escaped(c);
      utf8(piece, from, c - 1);
      from = c + 1;
    }
    if (from <= high) utf8(piece, from, high);
  }
  // One way for all of them, as far as they are alike: states have fewer configurations then.
  if (!escapes.empty()) {
    const Piece one = one_of(escapes);
    connect(piece.begin, one.begin);
    connect(one.end, piece.end);
  }
  return piece;
}

int32_t Builder::declare() {
  net_.rules.push_back({state(), state()});
  return static_cast<int32_t>(net_.rules.size() - 1);
}

void Builder::define(int32_t rule, Piece body) {
  const Rule own = net_.rules[static_cast<size_t>(rule)];
  connect(own.begin, body.begin);
  connect(body.end, own.end);
}

Piece Builder::repeat(int32_t rule, int32_t least, int32_t most) {
  const Piece piece{state(), state()};
  add(piece.begin, {Edge::Kind::kRepeat, 0, 0, rule, least, most, piece.end});
  return piece;
}

Piece Builder::repeat(Piece body, int32_t least, int32_t most) {
  const int32_t rule = declare();
  define(rule, body);
  return repeat(rule, least, most);
}

Net Builder::finish(Piece whole) {
  const Piece own{state(), state()};
  connect(own.begin, whole.begin);
  connect(whole.end, own.end);
  net_.rules[0] = {own.begin, own.end};
  if (has_left_recursion())
    fail(ErrorCode::kInvalidArgument, "the schema refers to itself without a value between");
  if (!drop_dead_ends())
    fail(ErrorCode::kInvalidArgument, "nothing is allowed: no text that ends keeps to it");
  return net_;
}

bool Builder::drop_dead_ends() {
  struct Step {
    int32_t from;
    Edge edge;
  };
  std::vector<std::vector<Step>> into(net_.edges.size()), calling(net_.edges.size());
  for (size_t from = 0; from < net_.edges.size(); ++from)
    for (const Edge& edge : net_.edges[from]) {
      into[static_cast<size_t>(edge.target)].push_back({static_cast<int32_t>(from), edge});
      if (edge.kind == Edge::Kind::kRepeat)
        calling[static_cast<size_t>(net_.rules[static_cast<size_t>(edge.rule)].begin)].push_back(
            {static_cast<int32_t>(from), edge});
    }
  // States from which the end of their rule can be reached by texts that end.
  std::vector<bool> ends(net_.edges.size());
  const auto leads_on = [&](const Edge& edge) {
    return ends[static_cast<size_t>(edge.target)] &&
           (edge.kind != Edge::Kind::kRepeat || edge.least <= 0 ||
            ends[static_cast<size_t>(net_.rules[static_cast<size_t>(edge.rule)].begin)]);
  };
  std::vector<int32_t> open;
  const auto reach = [&](int32_t state) {
    if (ends[static_cast<size_t>(state)]) return;
    ends[static_cast<size_t>(state)] = true;
    open.push_back(state);
  };
  for (const Rule& rule : net_.rules) reach(rule.end);
  while (!open.empty()) {
    const auto state = static_cast<size_t>(open.back());
    open.pop_back();
    for (const std::vector<Step>* steps : {&into[state], &calling[state]})
      for (const Step& step : *steps)
        if (leads_on(step.edge)) reach(step.from);
  }
  for (std::vector<Edge>& edges : net_.edges) {
    std::erase_if(edges, [&](const Edge& edge) { return !leads_on(edge); });
    for (Edge& edge : edges)
      if (edge.kind == Edge::Kind::kRepeat &&
          !ends[static_cast<size_t>(net_.rules[static_cast<size_t>(edge.rule)].begin)])
        edge = {Edge::Kind::kEmpty, 0, 0, 0, 1, 1, edge.target};
  }
  return ends[static_cast<size_t>(net_.rules[0].begin)];
}

bool Builder::has_left_recursion() const {
  // Rules that are called from the beginning of a rule; what is behind a call counts only after a repetition
  // that may be left out.
  const auto first_calls = [&](const Rule& rule) {
    std::vector<int32_t> open{rule.begin}, calls;
    std::vector<bool> seen(net_.edges.size());
    while (!open.empty()) {
      const int32_t at = open.back();
      open.pop_back();
      if (seen[static_cast<size_t>(at)]) continue;
      seen[static_cast<size_t>(at)] = true;
      for (const Edge& edge : net_.edges[static_cast<size_t>(at)]) {
        if (edge.kind == Edge::Kind::kRepeat && edge.most != 0) calls.push_back(edge.rule);
        if (edge.kind == Edge::Kind::kEmpty || (edge.kind == Edge::Kind::kRepeat && edge.least <= 0))
          open.push_back(edge.target);
      }
    }
    return calls;
  };
  enum class Mark : uint8_t { kNew, kOpen, kDone };
  std::vector<Mark> marks(net_.rules.size());
  const std::function<bool(int32_t)> visit = [&](int32_t rule) {
    Mark& mark = marks[static_cast<size_t>(rule)];
    if (mark != Mark::kNew) return mark == Mark::kOpen;
    mark = Mark::kOpen;
    for (const int32_t called : first_calls(net_.rules[static_cast<size_t>(rule)]))
      if (visit(called)) return true;
    marks[static_cast<size_t>(rule)] = Mark::kDone;
    return false;
  };
  for (size_t rule = 1; rule < net_.rules.size(); ++rule)
    if (visit(static_cast<int32_t>(rule))) return true;
  return false;
}

}  // namespace nfloat::grammar
