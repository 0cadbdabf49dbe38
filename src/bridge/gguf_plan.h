// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_BRIDGE_GGUF_PLAN_H_
#define NFLOAT_BRIDGE_GGUF_PLAN_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "gguf/writer.h"
#include "llama_cpp/architectures.h"
#include "nfloat/bridge.h"
#include "nfloat/checkpoint.h"
#include "nfloat/model_config.h"

namespace nfloat {

// A tensor of the checkpoint, or some rows of it.
struct GgufSource {
  std::string name;  // as the checkpoint has it
  GgufRowMap map;
  std::string changed;  // under which an adapter has what it adds; empty: `name`

  const std::string& adapted() const noexcept { return changed.empty() ? name : changed; }
};

// One tensor of a GGUF file to be written, and where its rows come from.
struct GgufTarget {
  std::string name;
  GgufType type = GgufType::kF32;
  Shape shape;
  int64_t rows = 1, cols = 1;
  std::vector<GgufSource> sources;  // in the order of their first rows
  bool transposed = false;          // plain ones are kept as [in, out]
  bool plus_one = false;
  bool mxfp4 = false;         // the source's codes ("_blocks") and scales go as they are
  std::vector<float> values;  // of a tensor that has no source
};

struct GgufPlan {
  const GgufArchitecture* architecture = nullptr;
  GgufMetadata metadata;
  std::vector<GgufTarget> targets;
  std::vector<std::string> notes;  // what is lost besides precision, and types that are not the one asked for
};

// Everything but the weights' values. Throws as parse_model_config and check_tensors do, and kUnsupported for
// a model that llama.cpp does not have. `untied_head`: the name under which an adapter has the head that it
// makes of an embedding which is both; else empty.
GgufPlan plan_gguf(const Checkpoint& checkpoint, const ModelConfig& config, const std::string& name,
                   std::optional<GgufType> type, const std::string& untied_head);

}  // namespace nfloat

#endif  // NFLOAT_BRIDGE_GGUF_PLAN_H_
