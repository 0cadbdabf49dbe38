// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_BRIDGE_OVER_RANKS_H_
#define NFLOAT_BRIDGE_OVER_RANKS_H_

#include <functional>
#include <string>

#include "nfloat/checkpoint.h"
#include "nfloat/ranks.h"

namespace nfloat {

// body() on this rank; then all ranks go on, or all throw what the first of them with an error has found,
// which names it where it is not rank 0. Without ranks body() alone.
void together(Ranks* ranks, const std::function<void()>& body);

// Throws on every rank where one has another input, adapter ("": none) or version of the output.
void expect_same_input(Ranks& ranks, const Checkpoint& input, const std::string& adapter,
                       const std::string& output);

// Of every byte of the files of an adapter.
std::string adapter_fingerprint(const std::string& folder);

}  // namespace nfloat

#endif  // NFLOAT_BRIDGE_OVER_RANKS_H_
