// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TOOLS_TRAIN_STORY_H_
#define NFLOAT_TOOLS_TRAIN_STORY_H_

#include <string>
#include <vector>

#include "nfloat/model.h"
#include "nfloat/train.h"
#include "nfloat/train_report.h"

namespace nfloat::cli {

// Gathers what a run shows of itself besides its adapter: a report page, samples, the loss of a second text.
class TrainStory {
 public:
  struct Options {
    std::string report;                // HTML file; "": none
    std::vector<std::string> samples;  // texts to be continued before and after
    std::string also;                  // a text that is not trained on: what is forgotten
    int64_t sample_tokens = 60;
  };
  // `folder`: of the tokenizer. Throws as read_train_data for `also`, kIo for a report that cannot be
  // written.
  TrainStory(const Options& options, const Model& model, const std::string& folder, int64_t length);

  // Before the first step: `held_out` may be empty.
  void before(Trainer& trainer, const std::vector<TrainRow>& held_out);
  void add(const TrainStep& step);
  // A loss of the held-out rows; the last one counts as the one after.
  void held_out(int64_t step, double loss);
  // Behind the last step, with the adapter in `adapter`. Prints samples and the second text's losses.
  void after(Trainer& trainer, const std::string& adapter);
  // The page, if one is asked for.
  void write(std::string model, std::string data, std::vector<std::pair<std::string, std::string>> facts);

 private:
  std::string continued(const std::string& prompt) const;

  Options options_;
  const Model& model_;
  std::string folder_;
  std::vector<TrainRow> also_;
  TrainReport report_;
  size_t held_out_at_ = 0, also_at_ = 0;  // among the report's losses
};

}  // namespace nfloat::cli

#endif  // NFLOAT_TOOLS_TRAIN_STORY_H_
