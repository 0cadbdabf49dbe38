// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/json.h"
#include "compare_job.h"
#include "evaluate_tasks.h"
#include "model_options.h"
#include "nfloat/error.h"
#include "scoring_input.h"

namespace nfloat::cli {
Json perplexity_json(const PerplexityResult& result) {
  return {{"perplexity", result.perplexity},
          {"tokens", result.tokens},
          {"windows", result.windows},
          {"mean_loss", result.mean_loss},
          {"standard_error", result.standard_error},
          {"perplexity_standard_error", result.perplexity_error()}};
}

Json divergence_json(const DivergenceResult& d) {
  return {{"mean_kl", d.mean_kl},
          {"mean_kl_standard_error", d.mean_kl_error},
          {"median_kl", d.median_kl},
          {"kl_90", d.kl_90},
          {"kl_95", d.kl_95},
          {"kl_99", d.kl_99},
          {"kl_999", d.kl_999},
          {"max_kl", d.max_kl},
          {"log_perplexity_ratio", d.log_ratio},
          {"log_perplexity_ratio_standard_error", d.log_ratio_error},
          {"loss_correlation", d.correlation},
          {"mean_delta_p", d.mean_delta_p},
          {"mean_delta_p_standard_error", d.mean_delta_p_error},
          {"rms_delta_p", d.rms_delta_p},
          {"rms_delta_p_standard_error", d.rms_delta_p_error},
          {"same_top", d.same_top},
          {"same_top_standard_error", d.same_top_error}};
}

Json measurement_json(const FormatMeasurement& m) {
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
  json["perplexity"] = perplexity_json(m.divergence.model);
  json["reference"] = perplexity_json(m.divergence.reference);
  json["divergence"] = divergence_json(m.divergence);
  json["half_kl"] = m.half_kl;
  json["half_loss"] = m.half_loss;
  json["tasks"] = Json::array();
  for (const TaskResult& task : m.tasks) json["tasks"].push_back(task_json(task));
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

FormatMeasurement measurement_from_json(const Json& json) {
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
  const std::pair<const char*, double*> kFields[] = {
      {"mean_kl", &d.mean_kl},
      {"mean_kl_standard_error", &d.mean_kl_error},
      {"median_kl", &d.median_kl},
      {"kl_90", &d.kl_90},
      {"kl_95", &d.kl_95},
      {"kl_99", &d.kl_99},
      {"kl_999", &d.kl_999},
      {"max_kl", &d.max_kl},
      {"log_perplexity_ratio", &d.log_ratio},
      {"log_perplexity_ratio_standard_error", &d.log_ratio_error},
      {"loss_correlation", &d.correlation},
      {"mean_delta_p", &d.mean_delta_p},
      {"mean_delta_p_standard_error", &d.mean_delta_p_error},
      {"rms_delta_p", &d.rms_delta_p},
      {"rms_delta_p_standard_error", &d.rms_delta_p_error},
      {"same_top", &d.same_top},
      {"same_top_standard_error", &d.same_top_error}};
  for (const auto& field : kFields) from.at(field.first).get_to(*field.second);
  for (const Json& task : json.at("tasks")) m.tasks.push_back(task_from_json(task));
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

// A line is {"check":"<16 digits>",REST with a hash of REST: what was damaged is measured again.
static constexpr std::string_view kCheck = "{\"check\":\"";
static constexpr size_t kCheckDigits = 16;

static std::string check_of(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (const char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
  return fmt::format("{:016x}", hash);
}

CompareWork::CompareWork(LockedFolder folder, const std::string& identity)
    : folder_(std::move(folder)), identity_(identity) {
  std::FILE* file = std::fopen(results_path().c_str(), "rb");
  if (file == nullptr) return;
  std::fclose(file);
  const std::string text = read_text(results_path(), size_t{1} << 30);
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.size(), text.find('\n', begin));
    const std::string_view line = std::string_view(text).substr(begin, end - begin);
    begin = end + 1;
    const size_t rest = kCheck.size() + kCheckDigits + 2;
    if (!line.starts_with(kCheck) || line.size() < rest ||
        line.substr(kCheck.size(), kCheckDigits) != check_of(line.substr(rest)))
      continue;
    try {
      const Json json = Json::parse(line);
      if (json["of"] != identity) continue;
      done_.push_back(measurement_from_json(json));
    } catch (const JsonError&) {
      continue;
    }
  }
}

bool CompareWork::find(const std::string& name, FormatMeasurement& measurement) const {
  for (const FormatMeasurement& done : done_) {
    if (done.name != name) continue;
    measurement = done;
    return true;
  }
  return false;
}

void CompareWork::add(const FormatMeasurement& measurement) {
  Json json = measurement_json(measurement);
  json["of"] = identity_;
  const std::string rest = json.dump().substr(1);
  // An end of line first: the last one may be torn.
  const std::string line = fmt::format("\n{}{}\",{}\n", kCheck, check_of(rest), rest);
  std::FILE* file = std::fopen(results_path().c_str(), "ab");
  const bool written = file != nullptr && std::fwrite(line.data(), 1, line.size(), file) == line.size();
  const bool closed = file != nullptr && std::fclose(file) == 0;
  if (!written || !closed)
    throw Error(ErrorCode::kIo, fmt::format("{}: cannot write: {} (--work FOLDER names another place)",
                                            results_path(), std::strerror(errno)));
  done_.push_back(measurement);
}

void CompareWork::clear() noexcept {
  ::unlink(results_path().c_str());
  ::unlink(reference_path().c_str());
  done_.clear();
}

void CompareWork::remove() noexcept {
  clear();
  folder_.remove();
}

}  // namespace nfloat::cli
