// SPDX-License-Identifier: Apache-2.0
#include "generate/prefix_store.h"

#include <utility>

#include "generate/stream.h"

namespace nfloat {

void PrefixStore::keep(std::vector<int32_t> tokens, Session session, const LinearObserver* adapters) {
  const auto length = static_cast<int64_t>(tokens.size());
  if (length == 0 || most_ == 0) return;
  for (auto entry = entries_.begin(); entry != entries_.end();) {
    const int64_t common = entry->adapters == adapters ? common_length(entry->tokens, tokens) : -1;
    if (common == length) {
      entries_.splice(entries_.begin(), entries_, entry);
      return;
    }
    entry = common == static_cast<int64_t>(entry->tokens.size()) ? entries_.erase(entry) : std::next(entry);
  }
  entries_.push_front({std::move(tokens), std::move(session), adapters});
  if (entries_.size() > most_) entries_.pop_back();
}

PrefixStore::Found PrefixStore::find(std::span<const int32_t> tokens, const LinearObserver* adapters) {
  Found best;
  auto at = entries_.end();
  for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
    if (entry->adapters != adapters) continue;
    const int64_t common = common_length(entry->tokens, tokens);
    if (common <= best.length) continue;
    best = {&entry->session, common};
    at = entry;
  }
  if (at != entries_.end()) entries_.splice(entries_.begin(), entries_, at);
  return best;
}

bool PrefixStore::drop_one() noexcept {
  if (entries_.empty()) return false;
  entries_.pop_back();
  return true;
}

}  // namespace nfloat
