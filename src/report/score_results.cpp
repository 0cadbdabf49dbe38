// SPDX-License-Identifier: Apache-2.0
// Documents of what a model predicts.
#include "nfloat/results.h"
#include "report/document.h"
#include "report/score_documents.h"

namespace nfloat {

std::string evaluation_json(const std::string& model, const std::vector<TaskResult>& results, double seconds,
                            const std::string& device) {
  Json json = {{"model", model}, {"seconds", seconds}, {"tasks", Json::array()}};
  add_device(json, device);
  for (const TaskResult& result : results) json["tasks"].push_back(task_document(result));
  return to_text(json);
}

std::string perplexity_json(const PerplexityResult& result, const std::string& protocol, double seconds,
                            const std::string& device) {
  Json json = perplexity_document(result);
  json["protocol"] = protocol;
  json["seconds"] = seconds;
  add_device(json, device);
  return to_text(json);
}

std::string divergence_json(const DivergenceResult& result, const DivergenceNames& names) {
  Json json = perplexity_document(result.model);
  json["precision"] = names.precision;
  add_device(json, names.device);
  json["reference"] = perplexity_document(result.reference);
  json["reference"]["model"] = names.reference;
  json["reference"]["precision"] = names.reference_precision;
  json["divergence"] = divergence_document(result);
  return to_text(json);
}

}  // namespace nfloat
