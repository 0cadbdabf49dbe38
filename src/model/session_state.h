// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_MODEL_SESSION_STATE_H_
#define NFLOAT_MODEL_SESSION_STATE_H_

#include <memory>
#include <vector>

#include "model/kv_cache.h"
#include "model/lead.h"
#include "model/rope.h"
#include "model/workspace.h"
#include "nfloat/model.h"

namespace nfloat {

// The longest sequence that a model takes. Dynamic RoPE is made for sequences beyond the trained context;
// everything else ends there.
int64_t largest_context(const ModelConfig& config) noexcept;

// What kAuto means.
KvCacheType resolved_cache(KvCacheType type, Precision precision) noexcept;

struct Session::State {
  Model model;
  SessionOptions options;  // context resolved
  int64_t position = 0;
  std::shared_ptr<RopeTable> rope;        // the model's; null when no layer has it
  std::shared_ptr<RopeTable> local_rope;  // of LayerRope::kLocal
  KvCache cache;
  Workspace workspace;
  std::vector<float> logits;  // vocabulary floats, made once
  bool has_logits = false;
  LedSession led = {};
};

}  // namespace nfloat

#endif  // NFLOAT_MODEL_SESSION_STATE_H_
