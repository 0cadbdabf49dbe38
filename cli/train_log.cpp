// SPDX-License-Identifier: Apache-2.0
#include "train_log.h"

#include <fmt/format.h>

#include <cerrno>
#include <cstring>

#include "base/json.h"
#include "nfloat/error.h"

namespace nfloat::cli {

TrainLog::TrainLog(const std::string& path, bool append, bool pairs)
    : path_(path), csv_(path.ends_with(".csv")) {
  if (path.empty()) return;
  file_ = std::fopen(path.c_str(), append ? "ab" : "wb");
  if (file_ == nullptr) throw Error(ErrorCode::kIo, fmt::format("{}: {}", path, std::strerror(errno)));
  if (csv_ && !append)
    fmt::print(file_, "step,loss,grad_norm,learning_rate,tokens,rows,seconds,held_out_loss{}\n",
               pairs ? ",pairs,reward_margin,accuracy,logp_chosen,logp_rejected" : "");
}

TrainLog::~TrainLog() {
  if (file_ != nullptr) std::fclose(file_);
}

void TrainLog::add(const TrainStep& step, const std::optional<double>& held_out) {
  if (file_ == nullptr) return;
  std::string line;
  if (csv_) {
    line = fmt::format("{},{:.12g},{:.12g},{:.12g},{},{},{:.6g},", step.step, step.loss, step.grad_norm,
                       step.learning_rate, step.tokens, step.rows, step.seconds);
    if (held_out) line += fmt::format("{:.12g}", *held_out);
    if (const auto& own = step.preference)
      line += fmt::format(",{},{:.12g},{:.12g},{:.12g},{:.12g}", own->pairs, own->margin, own->accuracy,
                          own->chosen, own->rejected);
  } else {
    Json json = {{"step", step.step},           {"loss", step.loss},
                 {"grad_norm", step.grad_norm}, {"learning_rate", step.learning_rate},
                 {"tokens", step.tokens},       {"rows", step.rows},
                 {"seconds", step.seconds}};
    if (const auto& own = step.preference) {
      json["pairs"] = own->pairs;
      json["reward_margin"] = own->margin;
      json["accuracy"] = own->accuracy;
      json["logp_chosen"] = own->chosen;
      json["logp_rejected"] = own->rejected;
    }
    if (held_out) json["held_out_loss"] = *held_out;
    line = json.dump();
  }
  line += '\n';
  if (std::fwrite(line.data(), 1, line.size(), file_) != line.size() || std::fflush(file_) != 0)
    throw Error(ErrorCode::kIo, fmt::format("{}: {}", path_, std::strerror(errno)));
}

}  // namespace nfloat::cli
