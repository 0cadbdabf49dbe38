// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TRAIN_REPORT_H_
#define NFLOAT_TRAIN_REPORT_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "nfloat/api.h"
#include "nfloat/train.h"

namespace nfloat {

// What a training run came to.
struct TrainReport {
  struct Losses {
    std::string name;                                 // "held-out rows"
    std::vector<std::pair<int64_t, double>> values;   // after how many steps, nats a token
    std::optional<double> of_adapter = std::nullopt;  // with the one that is kept; unset: the last value
    bool pairs = false;                               // of pairs of answers, else of tokens
  };
  struct Sample {
    std::string prompt, before, after;  // the model's own text behind the prompt, and with the adapter
  };
  std::string model, data;
  std::vector<std::pair<std::string, std::string>> facts;  // name and value, in the order of the page
  std::vector<TrainStep> steps;                            // not empty
  std::vector<Losses> losses;                              // of texts that are not trained on
  std::vector<Sample> samples;
};

// One HTML file that loads nothing: curves of the loss, of pairs also of reward margin, accuracy and
// log-probabilities, of the norm of the gradients, the learning rate and the speed, the losses of other texts
// before and after, samples. Throws kInvalidArgument without a finite step.
NFLOAT_API std::string train_page(const TrainReport& report);

}  // namespace nfloat

#endif  // NFLOAT_TRAIN_REPORT_H_
