// SPDX-License-Identifier: Apache-2.0
#include "report/score_documents.h"

#include <string>
#include <utility>

namespace nfloat {
namespace {

constexpr std::pair<const char*, double DivergenceResult::*> kDivergenceFields[] = {
    {"mean_kl", &DivergenceResult::mean_kl},
    {"mean_kl_standard_error", &DivergenceResult::mean_kl_error},
    {"median_kl", &DivergenceResult::median_kl},
    {"kl_90", &DivergenceResult::kl_90},
    {"kl_95", &DivergenceResult::kl_95},
    {"kl_99", &DivergenceResult::kl_99},
    {"kl_999", &DivergenceResult::kl_999},
    {"max_kl", &DivergenceResult::max_kl},
    {"log_perplexity_ratio", &DivergenceResult::log_ratio},
    {"log_perplexity_ratio_standard_error", &DivergenceResult::log_ratio_error},
    {"loss_correlation", &DivergenceResult::correlation},
    {"mean_delta_p", &DivergenceResult::mean_delta_p},
    {"mean_delta_p_standard_error", &DivergenceResult::mean_delta_p_error},
    {"rms_delta_p", &DivergenceResult::rms_delta_p},
    {"rms_delta_p_standard_error", &DivergenceResult::rms_delta_p_error},
    {"same_top", &DivergenceResult::same_top},
    {"same_top_standard_error", &DivergenceResult::same_top_error}};

}  // namespace

Json task_document(const TaskResult& r) {
  Json json = {{"task", r.name},
               {"questions", r.questions},
               {"accuracy", r.accuracy},
               {"accuracy_standard_error", r.accuracy_error},
               {"accuracy_95", Json::array({r.low, r.high})},
               {"chance", r.chance}};
  if (r.normalised_accuracy) {
    json["normalised_accuracy"] = *r.normalised_accuracy;
    json["normalised_accuracy_standard_error"] = r.normalised_error;
  }
  if (r.perplexity) json["perplexity"] = *r.perplexity;
  return json;
}

TaskResult task_of(const Json& json) {
  TaskResult r;
  json.at("task").get_to(r.name);
  json.at("questions").get_to(r.questions);
  json.at("accuracy").get_to(r.accuracy);
  json.at("accuracy_standard_error").get_to(r.accuracy_error);
  json.at("accuracy_95").at(0).get_to(r.low);
  json.at("accuracy_95").at(1).get_to(r.high);
  json.at("chance").get_to(r.chance);
  if (json.contains("normalised_accuracy")) {
    r.normalised_accuracy = json["normalised_accuracy"].get<double>();
    json.at("normalised_accuracy_standard_error").get_to(r.normalised_error);
  }
  if (json.contains("perplexity")) r.perplexity = json["perplexity"].get<double>();
  return r;
}

Json perplexity_document(const PerplexityResult& result) {
  return {{"perplexity", result.perplexity},
          {"tokens", result.tokens},
          {"windows", result.windows},
          {"mean_loss", result.mean_loss},
          {"standard_error", result.standard_error},
          {"perplexity_standard_error", result.perplexity_error()}};
}

Json divergence_document(const DivergenceResult& d) {
  Json json = Json::object();
  for (const auto& [name, field] : kDivergenceFields) json[name] = d.*field;
  return json;
}

Json measurement_document(const FormatMeasurement& m) {
  Json json = {{"name", m.name}, {"summary", m.summary}};
  if (!m.refused.empty()) {
    json["refused"] = m.refused;
    return json;
  }
  const TensorError total = m.total();
  json["bits_per_weight"] = m.bits_per_weight;
  json["weights"] = m.weights;
  json["bytes"] = m.bytes;
  json["model_bytes"] = m.model_bytes;
  json["sqnr_db"] = total.sqnr_db();
  json["nmse"] = total.squared_error / total.squared_original;
  json["zeros"] = total.zeros;
  json["zeros_kept"] = total.zeros_kept;
  json["code_counts"] = m.code_counts;
  json["code_entropy"] = m.code_entropy;
  json["coding_seconds"] = m.coding_seconds;
  json["tokens_per_second"] = m.tokens_per_second;
  json["perplexity"] = perplexity_document(m.divergence.model);
  json["reference"] = perplexity_document(m.divergence.reference);
  json["divergence"] = divergence_document(m.divergence);
  json["half_kl"] = m.half_kl;
  json["half_loss"] = m.half_loss;
  json["tasks"] = Json::array();
  for (const TaskResult& task : m.tasks) json["tasks"].push_back(task_document(task));
  json["tensors"] = Json::array();
  for (const TensorError& t : m.tensors)
    json["tensors"].push_back({{"name", t.name},
                               {"elements", t.elements},
                               {"squared_error", t.squared_error},
                               {"squared_original", t.squared_original},
                               {"max_error", t.max_error},
                               {"zeros", t.zeros},
                               {"zeros_kept", t.zeros_kept}});
  return json;
}

FormatMeasurement measurement_of(const Json& json) {
  FormatMeasurement m;
  json.at("name").get_to(m.name);
  json.at("summary").get_to(m.summary);
  if (json.contains("refused")) {
    json["refused"].get_to(m.refused);
    return m;
  }
  json.at("bits_per_weight").get_to(m.bits_per_weight);
  json.at("weights").get_to(m.weights);
  json.at("bytes").get_to(m.bytes);
  json.at("model_bytes").get_to(m.model_bytes);
  json.at("code_counts").get_to(m.code_counts);
  json.at("code_entropy").get_to(m.code_entropy);
  json.at("coding_seconds").get_to(m.coding_seconds);
  json.at("tokens_per_second").get_to(m.tokens_per_second);
  json.at("half_kl").get_to(m.half_kl);
  json.at("half_loss").get_to(m.half_loss);
  const auto read = [](PerplexityResult& result, const Json& from) {
    from.at("perplexity").get_to(result.perplexity);
    from.at("tokens").get_to(result.tokens);
    from.at("windows").get_to(result.windows);
    from.at("mean_loss").get_to(result.mean_loss);
    from.at("standard_error").get_to(result.standard_error);
  };
  DivergenceResult& d = m.divergence;
  read(d.model, json.at("perplexity"));
  read(d.reference, json.at("reference"));
  d.tokens = d.model.tokens;
  const Json& from = json.at("divergence");
  for (const auto& [name, field] : kDivergenceFields) from.at(name).get_to(d.*field);
  for (const Json& task : json.at("tasks")) m.tasks.push_back(task_of(task));
  for (const Json& t : json.at("tensors")) {
    TensorError& tensor = m.tensors.emplace_back();
    t.at("name").get_to(tensor.name);
    t.at("elements").get_to(tensor.elements);
    t.at("squared_error").get_to(tensor.squared_error);
    t.at("squared_original").get_to(tensor.squared_original);
    t.at("max_error").get_to(tensor.max_error);
    t.at("zeros").get_to(tensor.zeros);
    t.at("zeros_kept").get_to(tensor.zeros_kept);
  }
  return m;
}

}  // namespace nfloat
