// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_LEAD_H_
#define NFLOAT_LEAD_H_

#include <memory>
#include <vector>

#include "nfloat/api.h"
#include "nfloat/model.h"

namespace nfloat {

// Models over the same ranks (ModelOptions::ranks), and the adapters that their sessions may have: the same
// on all ranks, in the same order.
struct LedModels {
  std::vector<Model> models;
  std::vector<std::shared_ptr<LinearObserver>> adapters = {};  // SessionOptions::adapters
};

// For what rank 0 alone knows, a person at a terminal or requests. On rank 0 returns true: its sessions of
// these models are used as those of one process, from any threads that take turns, and each pass tells the
// others what to do; logits are on rank 0. On the other ranks does what rank 0 does until that lets the last
// copy of its models go, then returns false; waits for it as long as that takes, asleep. Models of one
// process: true, and nothing else. Sessions are made afterwards. Where ranks cannot go on together
// (Ranks::failure()) rank 0 throws from the pass, the others from here. What works without sessions
// (forward_sequences) is refused then.
NFLOAT_API bool lead_ranks(const LedModels& led);

}  // namespace nfloat

#endif  // NFLOAT_LEAD_H_
