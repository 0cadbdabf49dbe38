// SPDX-License-Identifier: Apache-2.0
#include "tune/run_identity.h"

#include "base/fail.h"
#include "base/fnv.h"
#include "checkpoint/fingerprint.h"
#include "model/weights_identity.h"
#include "tune/random.h"

namespace nfloat {
namespace {

uint64_t fingerprint(std::span<const TrainRow> rows) noexcept {
  uint64_t hash = rows.size();
  for (const TrainRow& row : rows) {
    hash = mixed(hash ^ row.tokens.size());
    for (size_t t = 0; t < row.tokens.size(); ++t)
      hash = mixed(hash ^ (static_cast<uint64_t>(static_cast<uint32_t>(row.tokens[t])) << 32 |
                           static_cast<uint32_t>(row.labels[t])));
  }
  return hash;
}

Json as_json(const std::vector<std::pair<std::string, double>>& pattern) {
  Json list = Json::array();
  for (const auto& [expression, value] : pattern) list.push_back(Json::array({expression, value}));
  return list;
}

}  // namespace

std::string base_fingerprint(const Model::State& model) {
  return weights_identity(model, model.checkpoint ? contents_fingerprint(*model.checkpoint) : "no files");
}

Json run_identity(const TrainOptions& o, int64_t steps, std::span<const TrainRow> rows,
                  const std::string& base) {
  Json run = {{"base", base},
              {"data", fmt::format("{:016x}", fingerprint(rows))},
              {"steps", steps},
              {"rank", o.rank},
              {"alpha", o.alpha},
              {"rank_stabilized", o.rank_stabilized},
              {"targets", o.targets},
              {"layers", o.layers},
              {"rank_pattern", as_json(o.rank_pattern)},
              {"alpha_pattern", as_json(o.alpha_pattern)},
              {"length", o.length},
              {"packing", o.packing},
              {"shuffle", o.shuffle},
              {"rows_per_batch", o.rows_per_batch},
              {"accumulate", o.accumulate},
              {"tokens_per_step", o.tokens_per_step},
              {"learning_rate", o.learning_rate},
              {"lora_plus", o.lora_plus},
              {"schedule", static_cast<int>(o.schedule)},
              {"warmup_steps", o.warmup_steps},
              {"warmup_share", o.warmup_share},
              {"betas", std::vector<double>{o.beta1, o.beta2}},
              {"epsilon", o.epsilon},
              {"weight_decay", o.weight_decay},
              {"clip", o.clip},
              {"dropout", o.dropout},
              {"dora", o.dora},
              {"seed", o.seed},
              {"bf16", o.bf16}};
  if (o.objective == TrainObjective::kTokens) return run;
  run["loss"] = o.objective == TrainObjective::kDpo ? "dpo" : "orpo";
  run["beta"] = o.beta;
  run["label_smoothing"] = o.label_smoothing;
  return run;
}

void expect_same_run(const Json& saved, const Json& now, const std::string& path) {
  if (!saved.contains("base"))
    fail(ErrorCode::kMalformedFile, "{}: does not say which model the run trains beside", path);
  if (saved.contains("loss") && !now.contains("loss"))
    fail(ErrorCode::kInvalidArgument, "{}: was saved by a run on pairs of answers, with the loss {}", path,
         saved["loss"].dump());
  if (!(saved["base"] == now.at("base")))
    fail(ErrorCode::kInvalidArgument,
         "{}: the weights of the model are not those that the saved run trains beside (fingerprints {} and "
         "{})",
         path, now.at("base").dump(), saved["base"].dump());
  if (!(saved["data"] == now.at("data")))
    fail(ErrorCode::kInvalidArgument, "{}: the rows of the data are not those of the saved run", path);
  for (const auto& [key, value] : now.items())
    if (!(saved[key] == value))
      fail(ErrorCode::kInvalidArgument, "{}: \"{}\" was {} when the run was saved and is {} now", path, key,
           saved[key].dump(), value.dump());
}

}  // namespace nfloat
