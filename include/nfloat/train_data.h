// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TRAIN_DATA_H_
#define NFLOAT_TRAIN_DATA_H_

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "nfloat/api.h"
#include "nfloat/tokenizer.h"
#include "nfloat/train.h"

namespace nfloat {

// Which tokens of a row are predicted: the answers of a conversation or a completion, all tokens, the last
// answer only. Rows of text or of token ids have no answers: all of theirs are.
enum class TrainOn : uint8_t { kAnswers, kAll, kLast };

struct TrainDataOptions {
  TrainOn train_on = TrainOn::kAnswers;
  int64_t length = 1024;  // tokens of a row that are kept
};

struct TrainData {
  std::vector<TrainRow> rows;
  std::vector<int64_t> lines;    // of the file, by row; from 1 on
  int64_t tokens = 0;            // of all rows, after cutting
  int64_t trained = 0;           // of them are predicted
  int64_t longest = 0;           // before cutting
  std::vector<int64_t> cut;      // lines longer than `length`
  std::vector<int64_t> dropped;  // lines with nothing to predict
};

// Reads what a model is to learn. `path`: a file, one JSON object a line, each of
//   {"input_ids": [...], "labels": [...]}  labels optional; -100: not predicted
//   {"text": "..."}                        an end of text is added
//   {"prompt": "...", "completion": "..."}
//   {"instruction": "...", "input": "...", "output": "..."}  input optional
//   {"messages": [{"role": "...", "content": "..."}, ...]}   by the model's chat template; "tools" optional
//   {"conversations": [{"from": "human", "value": "..."}, ...]}
// a .txt file, cut into rows of `length` tokens; or a folder with train.jsonl. `model`: the folder with the
// tokenizer and the chat template. Throws kMalformedFile naming file and line (not JSON, keys that are not
// known, a conversation whose beginning the template renders otherwise than the whole), kInvalidArgument when
// nothing is trained or no answer's end is.
NFLOAT_API TrainData read_train_data(const std::string& path, const std::string& model,
                                     const TrainDataOptions& options = {});

// A row as text, what is trained between [[ and ]].
NFLOAT_API std::string marked_text(const Tokenizer& tokenizer, const TrainRow& row);

}  // namespace nfloat

#endif  // NFLOAT_TRAIN_DATA_H_
