// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_GENERATE_PREFIX_STORE_H_
#define NFLOAT_GENERATE_PREFIX_STORE_H_

#include <cstdint>
#include <list>
#include <span>
#include <vector>

#include "nfloat/model.h"

namespace nfloat {

// Sessions of sequences that have ended, for others that begin in the same way. The one that has not been
// used for longest goes first.
class PrefixStore {
 public:
  explicit PrefixStore(size_t most) noexcept : most_(most) {}

  // Keeps `session`, which holds `tokens`, unless a kept one holds them too; those that it makes needless go.
  // `adapters`: those that the session was computed with.
  void keep(std::vector<int32_t> tokens, Session session, const LinearObserver* adapters);
  // The session that shares most with the beginning of `tokens`, and how much. Null: none shares anything.
  struct Found {
    const Session* session = nullptr;
    int64_t length = 0;
  };
  Found find(std::span<const int32_t> tokens, const LinearObserver* adapters);
  // False: it is empty.
  bool drop_one() noexcept;

 private:
  struct Entry {
    std::vector<int32_t> tokens;
    Session session;
    const LinearObserver* adapters;  // which the session keeps
  };
  size_t most_;
  std::list<Entry> entries_;  // used last first
};

}  // namespace nfloat

#endif  // NFLOAT_GENERATE_PREFIX_STORE_H_
