// SPDX-License-Identifier: Apache-2.0
// The input is a tokenizer.model; where it loads, a text goes through it and back.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "nfloat/error.h"
#include "tokenizer_exercise.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view file(reinterpret_cast<const char*>(data), size);
  try {
    nfloat::exercise(nfloat::Tokenizer::from_sentencepiece(file, "fuzz"));
  } catch (const nfloat::Error& error) {
    if (std::string(error.what()).size() > 4096) std::abort();  // a hostile name must not flood the message
  }
  return 0;
}
