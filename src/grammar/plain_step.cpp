// SPDX-License-Identifier: Apache-2.0
#include "grammar/plain_step.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <optional>
#include <tuple>
#include <utility>

namespace nfloat::grammar {
namespace {

// The bytes of UTF-8's characters beyond ASCII: the first one, the second one, and how many of 80 to bf
// follow (Unicode, table 3-7).
struct Utf8Form {
  uint8_t first_low, first_high, second_low, second_high;
  int more;
};
constexpr Utf8Form kForms[] = {{0xc2, 0xdf, 0x80, 0xbf, 0}, {0xe0, 0xe0, 0xa0, 0xbf, 1},
                               {0xe1, 0xec, 0x80, 0xbf, 1}, {0xed, 0xed, 0x80, 0x9f, 1},
                               {0xee, 0xef, 0x80, 0xbf, 1}, {0xf0, 0xf0, 0x90, 0xbf, 2},
                               {0xf1, 0xf3, 0x80, 0xbf, 2}, {0xf4, 0xf4, 0x80, 0x8f, 2}};

constexpr bool is_plain_ascii(int byte) noexcept {
  return byte >= 0x20 && byte < 0x80 && byte != '"' && byte != '\\';
}

using States = std::vector<int32_t>;
// Nothing: bytes lead to different states, or to such as are left without a byte.
using Common = std::optional<States>;

class Follower {
 public:
  Follower(const Net& net, const std::vector<bool>& ends) : net_(net), ends_(ends) {}

  // By each text of a first byte, a second one and `more` others.
  Common by(const States& from, const Utf8Form& form) {
    Common all;
    for (int byte = form.first_low; byte <= form.first_high; ++byte)
      if (!add(all, tail(by(from, byte), form.second_low, form.second_high, form.more))) return std::nullopt;
    return all;
  }
  States by(const States& from, int byte) const {
    States to;
    for (const int32_t state : from)
      for (const Edge& edge : net_.edges[static_cast<size_t>(state)])
        if (edge.kind == Edge::Kind::kBytes && byte >= edge.low && byte <= edge.high)
          to.push_back(edge.target);
    std::sort(to.begin(), to.end());
    to.erase(std::unique(to.begin(), to.end()), to.end());
    return to;
  }
  // False: not what came before.
  static bool add(Common& all, const Common& one) {
    if (!one || (all && *all != *one)) return false;
    all = one;
    return true;
  }

 private:
  Common tail(const States& from, int low, int high, int more) {
    if (from.empty()) return from;
    const auto [at, added] = known_.try_emplace(std::tuple(from, low, high, more));
    if (!added) return at->second;
    const bool bytes_only = std::all_of(from.begin(), from.end(), [&](int32_t state) {
      const std::vector<Edge>& edges = net_.edges[static_cast<size_t>(state)];
      return !ends_[static_cast<size_t>(state)] &&
             std::all_of(edges.begin(), edges.end(),
                         [](const Edge& edge) { return edge.kind == Edge::Kind::kBytes; });
    });
    Common all;
    for (int byte = low; bytes_only && byte <= high; ++byte) {
      States to = by(from, byte);
      if (add(all, more > 0 ? tail(to, 0x80, 0xbf, more - 1) : Common(std::move(to)))) continue;
      all.reset();
      break;
    }
    return known_[std::tuple(from, low, high, more)] = all;
  }

  const Net& net_;
  const std::vector<bool>& ends_;
  std::map<std::tuple<States, int, int, int>, Common> known_;
};

}  // namespace

int32_t plain_length(std::string_view text) noexcept {
  const auto byte = [&](size_t at) { return at < text.size() ? static_cast<uint8_t>(text[at]) : 0; };
  int32_t length = 0;
  for (size_t at = 0; at < text.size(); ++length) {
    const int first = byte(at++);
    if (is_plain_ascii(first)) continue;
    const auto* const form = std::find_if(std::begin(kForms), std::end(kForms), [&](const Utf8Form& one) {
      return first >= one.first_low && first <= one.first_high;
    });
    if (form == std::end(kForms)) return -1;
    const int second = byte(at++);
    if (second < form->second_low || second > form->second_high) return -1;
    for (int i = 0; i < form->more; ++i)
      if ((byte(at++) & 0xc0) != 0x80) return -1;
  }
  return length;
}

PlainStep plain_step(const Net& net, const std::vector<bool>& ends, int32_t state) {
  Follower follower(net, ends);
  const States from{state};
  Common all;
  bool alike = true;
  for (int byte = 0; byte < 0x80 && alike; ++byte)
    if (is_plain_ascii(byte)) alike = Follower::add(all, follower.by(from, byte));
  for (const Utf8Form& form : kForms)
    if (alike) alike = Follower::add(all, follower.by(from, form));
  if (!alike) return {PlainStep::Kind::kDifferent, {}};
  const bool nowhere = all->empty();
  return {nowhere ? PlainStep::Kind::kNowhere : PlainStep::Kind::kAlike, std::move(*all)};
}

}  // namespace nfloat::grammar
