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
  bool pairs = false;     // chosen and rejected answers, for DPO and ORPO
};

struct TrainData {
  std::vector<TrainRow> rows;
  std::vector<int64_t> lines;    // of the file, by row; from 1 on
  int64_t tokens = 0;            // of all rows, after cutting
  int64_t trained = 0;           // of them are predicted
  int64_t longest = 0;           // before cutting
  std::vector<int64_t> cut;      // lines longer than `length`
  std::vector<int64_t> dropped;  // lines with nothing to predict
  std::vector<int64_t> same;     // pairs: lines whose two answers are the same, which teach DPO nothing
};

// Reads what a model is to learn. `path`: a file, one JSON object a line, each of
//   {"input_ids": [...], "labels": [...]}  labels optional; -100: not predicted
//   {"text": "..."}                        an end of text is added
//   {"prompt": "...", "completion": "..."}
//   {"instruction": "...", "input": "...", "output": "..."}  input optional
//   {"messages": [{"role": "...", "content": "..."}, ...]}   by the model's chat template; "tools" optional
//   {"conversations": [{"from": "human", "value": "..."}, ...]}
// With `pairs` every line is two rows, the chosen and the rejected answer to the same prompt:
//   {"prompt": "...", "chosen": "...", "rejected": "..."}    an end of text is added to both
//   {"prompt": [messages], "chosen": [messages], "rejected": [messages]}   "tools" optional; without
//     "prompt" it is what both begin with. The chat template renders them; what follows the prompt is
//     trained.
// Of a pair that is longer than `length`, the prompt loses its first tokens but for a BOS token, for both
// answers alike; an answer that alone leaves no room for a token of the prompt is cut at its end.
// Else: a .txt file, cut into rows of `length` tokens; or a folder with train.jsonl. `model`: the folder with
// the tokenizer and the chat template. Throws kMalformedFile naming file and line (not JSON, keys that are
// not known, a conversation whose beginning the template renders otherwise than the whole, rows of one kind
// where the other is asked for, an empty answer of a pair), kInvalidArgument when nothing is trained or no
// answer's end is.
NFLOAT_API TrainData read_train_data(const std::string& path, const std::string& model,
                                     const TrainDataOptions& options = {});

// A row as text, what is trained between [[ and ]].
NFLOAT_API std::string marked_text(const Tokenizer& tokenizer, const TrainRow& row);

}  // namespace nfloat

#endif  // NFLOAT_TRAIN_DATA_H_
