// SPDX-License-Identifier: Apache-2.0
#include "best_loss.h"

#include <fmt/format.h>

#include "base/json.h"
#include "nfloat/text.h"

namespace nfloat::cli {
namespace {

std::string hash_of(std::span<const TrainRow> rows) {
  uint64_t hash = text_hash("");
  const auto add = [&hash](const std::vector<int32_t>& ids) {
    hash = text_hash(fmt::format("{} ", ids.size()), hash);
    hash = text_hash({reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(int32_t)}, hash);
  };
  for (const TrainRow& row : rows) {
    add(row.tokens);
    add(row.labels);
  }
  return fmt::format("{:016x}", hash);
}

}  // namespace

bool BestLoss::add(int64_t after, double next) noexcept {
  ++others;
  if (!(next < loss)) return false;
  *this = {next, after, 0};
  return true;
}

std::string BestLoss::note(std::span<const TrainRow> rows) const {
  if (!known()) return "";
  return Json{{"held_out", hash_of(rows)}, {"loss", loss}, {"step", step}, {"others", others}}.dump();
}

BestLoss BestLoss::of_note(const std::string& note, std::span<const TrainRow> rows,
                           const std::string& source) {
  if (note.empty()) return {};
  const Json json = parse_json_object(note, source);
  if (json.at("held_out").get<std::string>() != hash_of(rows)) return {};
  return {json.at("loss").get<double>(), json.at("step").get<int64_t>(), json.at("others").get<int64_t>()};
}

}  // namespace nfloat::cli
