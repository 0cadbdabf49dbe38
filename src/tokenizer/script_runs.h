// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TOKENIZER_SCRIPT_RUNS_H_
#define NFLOAT_TOKENIZER_SCRIPT_RUNS_H_

#include <string>

namespace nfloat {

// An expression that matches runs of one Unicode script, as the pre-tokenizer UnicodeScripts and
// SentencePiece cut them: kana and U+30FC count as Han; spaces and unassigned characters belong to the run
// before them.
std::string script_runs_expression();

}  // namespace nfloat

#endif  // NFLOAT_TOKENIZER_SCRIPT_RUNS_H_
