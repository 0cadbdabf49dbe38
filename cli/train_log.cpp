// SPDX-License-Identifier: Apache-2.0
#include "train_log.h"

#include <fmt/format.h>

#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "base/json.h"
#include "nfloat/error.h"

namespace nfloat::cli {
namespace {

namespace fs = std::filesystem;

// -1: not a line of a log.
int64_t step_of(const std::string& line, bool csv) {
  int64_t step = -1;
  if (csv) {
    const auto [end, error] = std::from_chars(line.data(), line.data() + line.size(), step);
    return error == std::errc() && end != line.data() + line.size() && *end == ',' ? step : -1;
  }
  try {
    const Json json = Json::parse(line);
    return json.is_object() && json.contains("step") ? json["step"].get<int64_t>() : -1;
  } catch (const JsonError&) {
    return -1;
  }
}

// Bytes of a log up to the first line of a step behind `finished`, or the first that has no end.
uint64_t kept_bytes(const std::string& path, int64_t finished, bool csv) {
  std::ifstream file(path, std::ios::binary);
  std::string line;
  uint64_t kept = 0;
  for (int64_t number = 1; std::getline(file, line) && !file.eof(); ++number) {
    const bool names = csv && number == 1 && line.starts_with("step,");
    const int64_t step = names ? 0 : step_of(line, csv);
    if (step < 0)
      throw Error(
          ErrorCode::kMalformedFile,
          fmt::format("{}:{}: is not a line of this run's log, which --resume goes on with", path, number));
    if (step > finished) break;
    kept += line.size() + 1;
  }
  return kept;
}

}  // namespace

TrainLog::TrainLog(const std::string& path, std::optional<int64_t> finished, bool pairs)
    : path_(path), csv_(path.ends_with(".csv")) {
  if (path.empty()) return;
  bool begins = true;
  std::error_code error;
  if (finished && fs::is_regular_file(path, error)) {
    const uint64_t kept = kept_bytes(path, *finished, csv_);
    begins = kept == 0;
    fs::resize_file(path, kept, error);
    if (error) throw Error(ErrorCode::kIo, fmt::format("{}: {}", path, error.message()));
  }
  file_ = std::fopen(path.c_str(), finished ? "ab" : "wb");
  if (file_ == nullptr) throw Error(ErrorCode::kIo, fmt::format("{}: {}", path, std::strerror(errno)));
  if (csv_ && begins)
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
