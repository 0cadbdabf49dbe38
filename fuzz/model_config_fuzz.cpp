// SPDX-License-Identifier: Apache-2.0
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "nfloat/error.h"
#include "nfloat/model.h"
#include "nfloat/model_config.h"
#include "nfloat/sampler.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const nfloat::ModelConfig config = nfloat::parse_model_config(text, "fuzz");
    // What was accepted must be usable: sizes positive, products within 64 bits.
    if (config.layers < 1 || config.kv_heads < 1 || config.heads % config.kv_heads != 0 ||
        config.head_dim % 2 != 0 || config.parameters() < 1 ||
        nfloat::kv_cache_bytes(config, nfloat::KvCacheType::kF16, config.context) == 0)
      std::abort();
    nfloat::parse_generation_config(text, "fuzz", config, nullptr);
  } catch (const nfloat::Error& error) {
    if (std::string_view(error.what()).size() > 4096) std::abort();
  }
  return 0;
}
