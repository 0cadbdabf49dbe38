// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_C_API_HANDLES_H_
#define NFLOAT_C_API_HANDLES_H_

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "c_api/c_api.h"
#include "generate/generation_defaults.h"
#include "nfloat/checkpoint.h"
#include "nfloat/convert.h"
#include "nfloat/evaluate.h"
#include "nfloat/generate.h"

// The handles that several sections use, and what these sections share.

struct nfloat_checkpoint {
  nfloat::Checkpoint value;
  std::set<std::string, std::less<>> companions;
  explicit nfloat_checkpoint(nfloat::Checkpoint opened) : value(std::move(opened)) {}

  // What was shown stays as long as the checkpoint: weights decoded from blocks own their bytes.
  const nfloat::TensorView& view(const std::string& name) const {
    const std::lock_guard lock(mutex);
    const auto found = views.find(name);
    return found != views.end() ? found->second : views.emplace(name, value.view(name)).first->second;
  }
  const nfloat::QuantizedView& quantized(const std::string& name) const {
    const std::lock_guard lock(mutex);
    const auto found = quantized_views.find(name);
    return found != quantized_views.end()
               ? found->second
               : quantized_views.emplace(name, value.quantized(name)).first->second;
  }

 private:
  mutable std::mutex mutex;
  mutable std::map<std::string, nfloat::TensorView> views;
  mutable std::map<std::string, nfloat::QuantizedView> quantized_views;
};

struct nfloat_tokenizer {
  nfloat::Tokenizer value;
};

namespace nfloat::c_api {

std::string_view text_of(const char* text, size_t bytes, const char* name);
std::span<const int32_t> tokens_of(const int32_t* tokens, size_t count);
std::vector<std::string> texts_of(const char* const* texts, size_t count, const char* name);
// Throws kUnsupported unless 0.
void check_reserved(int32_t reserved, const char* type);

// How far a conversion is, and whether it is to end. `control` may be null.
ConvertControl convert_control(nfloat_control* control, int32_t threads, bool overwrite);
PerplexityOptions perplexity_options_of(const nfloat_perplexity_options* options, nfloat_control* control);

}  // namespace nfloat::c_api

struct nfloat_model {
  nfloat::Model value;
  std::shared_ptr<const nfloat::GenerationDefaults> defaults;
};

struct nfloat_session {
  nfloat::Session value;
  std::shared_ptr<const nfloat::GenerationDefaults> defaults;
};

#endif  // NFLOAT_C_API_HANDLES_H_
