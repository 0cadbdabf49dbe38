// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_PYTHON_OPTIONS_H_
#define NFLOAT_PYTHON_OPTIONS_H_

#include <string>

#include "core.h"
#include "nfloat/checkpoint.h"
#include "nfloat/linear.h"
#include "nfloat/model.h"
#include "nfloat/quantize.h"

// Names of options to what the library has. All throw kInvalidArgument naming what there is.
namespace nfloat::python {

template <>
inline constexpr const char* kTypeName<const Codebook> = "nfloat.Codebook";
template <>
inline constexpr const char* kTypeName<const Checkpoint> = "nfloat.Checkpoint";
template <>
inline constexpr const char* kTypeName<const Model> = "nfloat.Model";

ScaleMethod scale_argument(const std::string& name);
Precision precision_argument(const std::string& name);
KvCacheType kv_cache_argument(const std::string& name);
inline std::optional<Precision> maybe_precision(Args& args) {
  const std::optional<std::string> name = args.maybe_text();
  return name ? std::optional(precision_argument(*name)) : std::nullopt;
}

}  // namespace nfloat::python

#endif  // NFLOAT_PYTHON_OPTIONS_H_
