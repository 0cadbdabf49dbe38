// SPDX-License-Identifier: Apache-2.0
// Documents of what makes files of weights.
#include "base/json.h"
#include "nfloat/results.h"
#include "report/document.h"

namespace nfloat {
namespace {

Json plan_document(const QuantizationPlan& plan) {
  Json json;
  json["parameters"] = plan.parameters;
  json["quantized_parameters"] = plan.quantized_parameters;
  json["bytes_before"] = plan.bytes_before;
  json["bytes_after"] = plan.bytes_after;
  json["bits_per_weight_before"] = bits_per_weight(plan.bytes_before, plan.parameters);
  json["bits_per_weight_after"] = bits_per_weight(plan.bytes_after, plan.parameters);
  json["copied_files"] = plan.copied_files;
  json["tensors"] = Json::array();
  for (const TensorPlan& tensor : plan.tensors) {
    Json entry;
    entry["name"] = tensor.input.name;
    entry["dtype"] = dtype_name(tensor.input.dtype);
    entry["shape"] = tensor.input.shape.dims();
    entry["quantized"] = tensor.quantize;
    if (tensor.quantize)
      entry["block_size"] = tensor.block_size;
    else
      entry["reason"] = tensor.reason;
    entry["bytes_before"] = tensor.input.bytes;
    entry["bytes_after"] = tensor.bytes_after;
    json["tensors"].push_back(std::move(entry));
  }
  return json;
}

Json calibration_document(const CalibrationRecord& record) {
  const CalibrationReport& report = record.report;
  Json json = {{"text", record.text},
               {"text_fnv1a", record.text_hash},
               {"level", record.level},
               {"tokens", report.tokens},
               {"general_tokens", report.beside_tokens},
               {"held_back_tokens", report.held_tokens},
               {"tensors", report.tensors},
               {"kept_plain", report.kept_plain},
               {"proxy_loss", report.loss},
               {"proxy_loss_of_best", report.plain_loss},
               {"mean_kl", report.kl},
               {"mean_kl_of_best", report.plain_kl}};
  if (record.level >= 3) {
    json["mean_kl_of_level_2"] = report.start_kl;
    json["steps"] = report.steps;
    json["changed_codes"] = report.changed_codes;
  }
  if (!record.block_sizes.empty()) json["predicted_mean_kl"] = record.predicted_kl;
  return json;
}

void add_parts(Json& json, const ConvertResult& result) {
  json["shards"] = result.shards;
  json["shards_before"] = result.shards_before;
  json["shards_damaged"] = result.shards_damaged;
  json["whole"] = result.whole;
}

}  // namespace

std::string quantization_plan_json(const QuantizationPlan& plan) {
  return to_text(plan_document(plan));
}

std::string quantize_json(const ConvertResult& result, const std::optional<CalibrationRecord>& calibration) {
  Json json = plan_document(result.plan);
  json["files"] = result.files;
  json["seconds"] = result.seconds;
  json["sync_seconds"] = result.sync_seconds;
  add_parts(json, result);
  json["input_gigabytes_per_second"] =
      static_cast<double>(result.plan.bytes_before) / 1e9 / std::max(result.seconds, 1e-9);
  if (calibration) json["calibration"] = calibration_document(*calibration);
  return to_text(json);
}

std::string dequantize_json(const ConvertResult& result) {
  Json json;
  json["files"] = result.files;
  json["parameters"] = result.plan.parameters;
  json["dequantized_parameters"] = result.plan.quantized_parameters;
  json["bytes_before"] = result.plan.bytes_before;
  json["bytes_after"] = result.plan.bytes_after;
  json["seconds"] = result.seconds;
  json["sync_seconds"] = result.sync_seconds;
  add_parts(json, result);
  return to_text(json);
}

BridgeTensor adapter_total(const BridgeResult& result) {
  BridgeTensor total;
  for (const BridgeTensor& tensor : result.tensors) {
    if (tensor.squared_change == 0) continue;
    total.squared_error += tensor.squared_error;
    total.squared_change += tensor.squared_change;
    total.change_product += tensor.change_product;
  }
  return total;
}

std::string convert_json(const BridgeResult& result) {
  Json json;
  json["files"] = result.files;
  json["parameters"] = result.parameters;
  json["merged"] = result.merged;
  if (const BridgeTensor total = adapter_total(result); total.squared_change > 0) {
    json["adapter_left"] = total.adapter_left();
    json["adapter_error"] = total.adapter_error();
  }
  json["bytes_before"] = result.bytes_before;
  json["bytes_after"] = result.bytes_after;
  json["seconds"] = result.seconds;
  json["sync_seconds"] = result.sync_seconds;
  json["check_seconds"] = result.check_seconds;
  if (result.shards > 0) {
    json["shards"] = result.shards;
    json["shards_before"] = result.shards_before;
    json["shards_damaged"] = result.shards_damaged;
  }
  json["whole"] = result.whole;
  json["lost"] = result.notes;
  int64_t not_finite = 0;
  for (const BridgeTensor& tensor : result.tensors) not_finite += tensor.not_finite;
  json["not_finite"] = not_finite;
  if (!result.whole) return to_text(json);  // others make the other tensors
  for (const BridgeTensor& tensor : result.tensors) {
    Json one = {{"name", tensor.name},
                {"before", tensor.before},
                {"after", tensor.after},
                {"elements", tensor.elements},
                {"bytes", tensor.bytes}};
    one["exact"] = tensor.squared_error == 0;
    if (tensor.squared_error > 0) one["sqnr_db"] = tensor.sqnr_db();
    if (tensor.not_finite > 0) {
      one["not_finite"] = tensor.not_finite;
      one["first_not_finite"] = tensor.first_not_finite;
    }
    if (tensor.squared_change > 0) {
      one["adapter_left"] = tensor.adapter_left();
      one["adapter_error"] = tensor.adapter_error();
    }
    json["tensors"].push_back(std::move(one));
  }
  return to_text(json);
}

}  // namespace nfloat
