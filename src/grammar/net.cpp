// SPDX-License-Identifier: Apache-2.0
#include "grammar/net.h"

#include <algorithm>
#include <functional>
#include <queue>
#include <utility>

namespace nfloat::grammar {

// Dijkstra's way from the ends of all rules backwards. A call costs what its rule does, so often; it is
// looked at again when the last of its two ends is known, and never costs less than either.
std::vector<int32_t> shortest_texts(const Net& net) {
  struct Step {
    int32_t from;
    const Edge* edge;
  };
  const size_t count = net.edges.size();
  std::vector<std::vector<Step>> into(count);  // a state, or the rule that begins with it
  const auto begin_of = [&](const Edge& edge) { return net.rules[static_cast<size_t>(edge.rule)].begin; };
  for (size_t from = 0; from < count; ++from)
    for (const Edge& edge : net.edges[from]) {
      const Step step{static_cast<int32_t>(from), &edge};
      into[static_cast<size_t>(edge.target)].push_back(step);
      if (edge.kind == Edge::Kind::kRepeat) into[static_cast<size_t>(begin_of(edge))].push_back(step);
    }
  std::vector<int32_t> left(count, kLongText);  // bytes to the end of the state's rule
  using Entry = std::pair<int32_t, int32_t>;    // bytes, state
  std::priority_queue<Entry, std::vector<Entry>, std::greater<>> open;
  const auto reach = [&](int32_t state, int64_t bytes) {
    if (bytes >= left[static_cast<size_t>(state)]) return;
    left[static_cast<size_t>(state)] = static_cast<int32_t>(bytes);
    open.emplace(static_cast<int32_t>(bytes), state);
  };
  for (const Rule& rule : net.rules) reach(rule.end, 0);
  while (!open.empty()) {
    const auto [bytes, state] = open.top();
    open.pop();
    if (bytes > left[static_cast<size_t>(state)]) continue;
    for (const Step& step : into[static_cast<size_t>(state)]) {
      const Edge& edge = *step.edge;
      int64_t cost = left[static_cast<size_t>(edge.target)];
      if (edge.kind == Edge::Kind::kBytes) cost += 1;
      if (edge.kind == Edge::Kind::kRepeat && edge.least > 0)
        cost += int64_t{edge.least} * left[static_cast<size_t>(begin_of(edge))];
      reach(step.from, cost);
    }
  }
  std::vector<int32_t> shortest;
  shortest.reserve(net.rules.size());
  for (const Rule& rule : net.rules) shortest.push_back(left[static_cast<size_t>(rule.begin)]);
  return shortest;
}

}  // namespace nfloat::grammar
