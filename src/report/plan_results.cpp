// SPDX-License-Identifier: Apache-2.0
// Documents of what a model is and needs.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "nfloat/model.h"
#include "nfloat/results.h"
#include "nfloat/targets.h"
#include "report/document.h"

namespace nfloat {

int64_t planned_context(const ModelSize& model) noexcept {
  return model.max_context > 0 ? std::min<int64_t>(model.max_context, 4096) : 2048;
}

std::string estimate_remark(const ModelSize& model) {
  return fmt::format("estimate{}: {} {} not understood", model.counted_in_files ? " of the KV cache" : "",
                     fmt::join(model.not_understood, ", "), model.not_understood.size() == 1 ? "is" : "are");
}

std::string memory_plan_json(const ModelSize& model, const std::vector<MemoryPlanRow>& rows,
                             uint64_t memory_bytes, int64_t context) {
  Json json;
  json["model_type"] = model.model_type;
  json["parameters"] = model.parameters();
  json["linear_parameters"] = model.linear_parameters;
  json["embedding_parameters"] = model.embedding_parameters;
  json["head_parameters"] = model.head_parameters;
  json["other_parameters"] = model.other_parameters;
  json["tied_head"] = model.tied_head;
  if (!model.not_understood.empty()) json["estimate"] = estimate_remark(model);
  json["runs"] = model.why_not.empty();
  if (!model.why_not.empty()) json["why_not"] = model.why_not;
  if (!model.left_out.empty()) json["not_counted"] = model.left_out;
  json["context"] = context;
  if (memory_bytes > 0) json["memory_bytes"] = memory_bytes;
  json["formats"] = Json::array();
  for (const MemoryPlanRow& row : rows) {
    Json entry;
    entry["format"] = row.format;
    entry["bits_per_weight"] = row.bits_per_weight;
    entry["weight_bytes"] = row.weight_bytes;
    entry["kv_cache_bytes"] = row.kv_cache_bytes;
    entry["working_bytes"] = row.working_bytes;
    entry["peak_bytes"] = row.peak_bytes();
    if (memory_bytes > 0) {
      entry["fits"] = row.peak_bytes() <= memory_bytes;
      entry["largest_context"] = row.largest_context;
    }
    json["formats"].push_back(std::move(entry));
  }
  return to_text(json);
}

namespace {

Json device_document(const std::string& name) {
  const DeviceInfo device = device_info(name);
  Json json{{"name", device.name}, {"model", device.model}};
  if (device.name == "cpu") json["target"] = active_target();
  if (!device.matrix_units.empty()) json["matrix_units"] = device.matrix_units;
  if (!device.graphs.empty()) json["graphs"] = device.graphs;
  return json;
}

}  // namespace

std::string device_json(const std::string& device) {
  return to_text(device_document(device));
}

std::string device_summary(const DeviceInfo& device) {
  std::string text = device.name + " (" + device.model;
  if (!device.matrix_units.empty() && device.matrix_units != "none")
    text += ", matrix units: " + device.matrix_units;
  if (device.graphs.starts_with("failed")) text += ", graphs " + device.graphs;
  return text + ")";
}

void add_device(Json& json, const std::string& device) {
  if (!device.empty()) json["device"] = device_document(device);
}

std::string model_json(const Model& model, const std::string& path) {
  const ModelMemory& memory = model.memory();
  const std::string config = Checkpoint(path).text_file("config.json");
  Json json;
  json["path"] = path;
  json["vocabulary"] = model.config().vocabulary;
  json["context"] = model.config().context;
  json["precision"] = precision_name(model.options().precision);
  json["threads"] = model.options().threads;
  add_device(json, model.options().device);
  json["memory"] = {
      {"projection_bytes", memory.projection_bytes},         {"head_bytes", memory.head_bytes},
      {"embedding_bytes", memory.embedding_bytes},           {"other_bytes", memory.other_bytes},
      {"read_per_token_bytes", memory.read_per_token_bytes}, {"resident_bytes", memory.resident_bytes()}};
  json["config"] = config.empty() ? Json::object() : parse_json_object(config, path + "/config.json");
  return to_text(json);
}

}  // namespace nfloat
