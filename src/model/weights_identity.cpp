// SPDX-License-Identifier: Apache-2.0
#include "model/weights_identity.h"

#include <fmt/format.h>

#include "base/fnv.h"

namespace nfloat {

std::string weights_identity(const Model::State& model, const std::string& files) {
  uint64_t hash = fnv(files);
  const ModelOptions& options = model.options;
  if (options.quantize) {
    for (const float level : options.quantize->levels) hash = fnv(fmt::format("{:a} ", level), hash);
    hash = fnv(fmt::format("{} {} {}", options.quantize->signed_scale, options.quantize_block_size,
                           options.quantize_double),
               hash);
  }
  hash = fnv_step(hash, static_cast<uint64_t>(options.head));
  return fmt::format("{:016x}", hash);
}

}  // namespace nfloat
