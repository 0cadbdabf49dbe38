// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_BRIDGE_TOKENIZER_METADATA_H_
#define NFLOAT_BRIDGE_TOKENIZER_METADATA_H_

#include <cstdint>
#include <string>
#include <vector>

#include "gguf/writer.h"
#include "nfloat/checkpoint.h"

namespace nfloat {

// Appends the tokenizer of a checkpoint as llama.cpp keeps it: byte-level BPE ("gpt2", with the name of its
// pre-tokenizer) or SentencePiece's BPE ("llama"); special tokens, chat template. The list of tokens is
// padded or cut to `vocabulary`, which llama.cpp demands. `ends`: ids that end a text, the first that of the
// whole text. What has no place in a GGUF file is said in `notes`; a checkpoint without a tokenizer, or with
// one that llama.cpp does not have, gets "no_vocab".
void append_tokenizer(const Checkpoint& checkpoint, int64_t vocabulary, const std::vector<int32_t>& ends,
                      GgufMetadata& metadata, std::vector<std::string>& notes);

}  // namespace nfloat

#endif  // NFLOAT_BRIDGE_TOKENIZER_METADATA_H_
