// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CLI_TRAIN_STORY_H_
#define NFLOAT_CLI_TRAIN_STORY_H_

#include <optional>
#include <string>
#include <vector>

#include "best_loss.h"
#include "nfloat/model.h"
#include "nfloat/tokenizer.h"
#include "nfloat/train.h"
#include "nfloat/train_report.h"

namespace nfloat::cli {

// Mean loss of rows that are held out: nats a token, or, of pairs of answers, of a pair.
double held_out_loss(Trainer& trainer, const std::vector<TrainRow>& rows, bool pairs,
                     bool with_adapter = true);

// Gathers what a run shows of itself besides its adapter: a report page, samples, the loss of a second text.
class TrainStory {
 public:
  struct Options {
    std::string report;                // HTML file; "": none
    std::vector<std::string> samples;  // texts to be continued before and after
    std::string also;                  // a text that is not trained on: what is forgotten
    int64_t sample_tokens = 60;
    bool pairs = false;  // the held-out rows are pairs of answers
  };
  // `folder`: of the tokenizer. Throws as read_train_data for `also`, kIo for a report that cannot be
  // written, kInvalidArgument for a sample that the context has no room for.
  TrainStory(const Options& options, const Model& model, const std::string& folder, int64_t length);

  // Before the first step: `held_out` may be empty.
  void before(Trainer& trainer, const std::vector<TrainRow>& held_out);
  void add(const TrainStep& step);
  // A loss of the held-out rows.
  void held_out(int64_t step, double loss);
  // Behind the last step: what the adapter in the folder `adapter` comes to, the one of `best` where that is
  // known. Prints samples and the second text's losses. The trainer is left with that adapter.
  void after(Trainer& trainer, const std::string& adapter, const BestLoss& best);
  // The page, if one is asked for.
  void write(std::string model, std::string data, std::vector<std::pair<std::string, std::string>> facts);

 private:
  std::string continued(const std::string& prompt) const;

  Options options_;
  const Model& model_;
  std::optional<Tokenizer> tokenizer_;  // for samples
  std::vector<TrainRow> also_;
  TrainReport report_;
  size_t held_out_at_ = 0, also_at_ = 0;  // among the report's losses
};

}  // namespace nfloat::cli

#endif  // NFLOAT_CLI_TRAIN_STORY_H_
