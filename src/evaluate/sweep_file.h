// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_EVALUATE_SWEEP_FILE_H_
#define NFLOAT_EVALUATE_SWEEP_FILE_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "evaluate/hidden_states.h"

namespace nfloat {

// How far a version of a model has come in a pass over the layers.
struct SweepPlace {
  std::string name;
  int64_t layers = 0;  // that all of its tokens went through
  int64_t tokens = 0;  // the first of them, that the next layer is done with too
  Json found;          // FormatWork::found(); null of the model itself
};

// Writes the hidden states and how far each version is, whole or not at all. `identity` says of what (the
// caller's words). Throws kIo naming the path.
void write_sweep(const std::string& path, std::string_view identity, const std::vector<SweepPlace>& places,
                 HiddenStates& states);

// The places and hidden states of the versions that `places` names, where the file has all of them and is of
// `identity`; false, with nothing changed, where it has not, is damaged or is not there.
bool read_sweep(const std::string& path, std::string_view identity, std::vector<SweepPlace>& places,
                HiddenStates& states);

}  // namespace nfloat

#endif  // NFLOAT_EVALUATE_SWEEP_FILE_H_
