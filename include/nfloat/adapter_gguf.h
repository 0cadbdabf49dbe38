// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ADAPTER_GGUF_H_
#define NFLOAT_ADAPTER_GGUF_H_

#include <string>
#include <vector>

#include "nfloat/api.h"
#include "nfloat/checkpoint.h"

// Low-rank adapters between PEFT's folders and the GGUF files that llama.cpp puts beside a model.
namespace nfloat {

struct WrittenAdapter {
  size_t pairs = 0;
  std::vector<std::string> notes = {};  // pairs that adapter_config.json asks for and its file does not have
};

// Writes the adapter in `folder` for models converted from `base`: float32 pairs under llama.cpp's names, the
// rows of B in its order, one alpha; scales that are not alpha / rank (rank-stabilized, patterns) go into B.
// `overwrite`: a GGUF adapter that is there is replaced when the new one is whole; without it kAlreadyExists
// is thrown, and of many that write one name one succeeds. Throws kUnsupported (DoRA, biases, embeddings,
// whole modules: merge those; a model that llama.cpp does not have), kMalformedFile (modules that the model
// does not have, shapes), kNotFinite, naming file and tensor.
NFLOAT_API WrittenAdapter write_adapter_gguf(const std::string& folder, const Checkpoint& base,
                                             const std::string& output, bool overwrite = false);

// The reverse: a folder that PEFT, `--lora` and `train --init` read. With `overwrite` a folder is replaced
// that is empty or holds an adapter and nothing else. Throws kMalformedFile (no adapter, of
// another architecture than `base`, halves of pairs, shapes), kUnsupported (tensors that are no pair).
NFLOAT_API WrittenAdapter write_adapter_folder(const std::string& file, const Checkpoint& base,
                                               const std::string& output, bool overwrite = false);

}  // namespace nfloat

#endif  // NFLOAT_ADAPTER_GGUF_H_
