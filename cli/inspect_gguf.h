// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CLI_INSPECT_GGUF_H_
#define NFLOAT_CLI_INSPECT_GGUF_H_

#include <string>

namespace nfloat::cli {

// `nfloat inspect` of a GGUF file: its metadata and tensors, equal ones of the layers in one row unless
// `all`.
void inspect_gguf(const std::string& path, bool all, bool json);

}  // namespace nfloat::cli

#endif  // NFLOAT_CLI_INSPECT_GGUF_H_
