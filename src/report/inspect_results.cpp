// SPDX-License-Identifier: Apache-2.0
// Documents of what files of weights hold.
#include <fmt/format.h>

#include <cmath>

#include "base/json.h"
#include "nfloat/error.h"
#include "nfloat/results.h"
#include "report/document.h"

namespace nfloat {
namespace {

Json weight_documents(const std::vector<StoredWeight>& weights) {
  Json list = Json::array();
  for (const StoredWeight& weight : weights) {
    Json entry;
    entry["name"] = weight.name;
    entry["dtype"] = dtype_name(weight.dtype);
    entry["shape"] = weight.shape.dims();
    entry["layout"] = weight.layout;
    entry["bytes"] = weight.bytes;
    entry["bits_per_weight"] = bits_per_weight(weight.bytes, weight.shape.elements());
    list.push_back(std::move(entry));
  }
  return list;
}

Json error_document(const TensorError& error) {
  Json entry;
  entry["name"] = error.name;
  entry["elements"] = error.elements;
  entry["squared_error"] = error.squared_error;
  entry["squared_original"] = error.squared_original;
  entry["relative_error"] = error.squared_original > 0 ? error.squared_error / error.squared_original : 0.0;
  entry["sqnr_db"] = error.sqnr_db();  // null when exact, and where squares are too large
  entry["max_error"] = error.max_error;
  entry["zeros"] = error.zeros;
  entry["zeros_kept"] = error.zeros_kept;
  return entry;
}

Json gguf_document(const GgufFile& file) {
  Json json;
  json["path"] = file.files().front();
  json["version"] = file.version();
  json["files"] = file.files();
  json["alignment"] = file.alignment();
  json["metadata"] = Json::object();
  for (const GgufValue& value : file.metadata()) {
    Json& entry = json["metadata"][std::string(value.key)];
    if (value.is_array)
      entry = value.to_string();
    else if (value.is_text())
      entry = std::string(value.text());
    else if (value.is_float())
      entry = value.number();
    else if (value.type == GgufValueType::kBool)
      entry = value.integer() != 0;
    else
      entry = value.integer();
  }
  json["tensors"] = Json::array();
  for (const GgufTensor& tensor : file.tensors())
    json["tensors"].push_back({{"name", tensor.name},
                               {"type", gguf_type_info(tensor.type).name},
                               {"shape", tensor.shape.dims()},
                               {"bytes", tensor.bytes},
                               {"bits_per_weight", bits_per_weight(tensor.bytes, tensor.shape.elements())}});
  return json;
}

}  // namespace

std::vector<StoredWeight> stored_weights(const Checkpoint& checkpoint) {
  std::vector<StoredWeight> weights;
  for (const std::string& name : checkpoint.weight_names()) {
    const TensorInfo& info = *checkpoint.find(name);
    StoredWeight weight{name, "plain", info.dtype, info.shape, checkpoint.stored_bytes(name)};
    if (checkpoint.is_quantized(name)) {
      try {
        const QuantizedView view = checkpoint.quantized(name);
        weight.layout = fmt::format("{}, blocks of {}{}", view.quant_type, view.block_size,
                                    view.nested ? ", double" : "");
        weight.dtype = view.dtype;
        weight.shape = view.shape;
      } catch (const Error&) {
        weight.layout = "damaged (see --check)";
      }
    } else if (const std::string stored = checkpoint.stored_type(name); stored != dtype_name(info.dtype)) {
      weight.layout = stored;
    }
    weights.push_back(std::move(weight));
  }
  return weights;
}

std::string inspect_json(const GgufFile& file) {
  return to_text(gguf_document(file));
}

std::string inspect_json(const Checkpoint& checkpoint, const std::optional<std::vector<Finding>>& findings,
                         const std::optional<std::vector<TensorError>>& errors) {
  Json json;
  if (is_gguf_path(checkpoint.path())) {
    json = gguf_document(GgufFile(checkpoint.path()));
  } else {
    json["path"] = checkpoint.path();
    json["tensors"] = weight_documents(stored_weights(checkpoint));
    for (const UnknownTensor& tensor : checkpoint.unknown())
      json["tensors"].push_back(
          {{"name", tensor.name},
           {"dtype", tensor.dtype},
           {"shape", tensor.shape.dims()},
           {"layout", "unknown"},
           {"bytes", tensor.bytes},
           {"bits_per_weight", bits_per_weight(tensor.bytes, tensor.shape.elements())}});
    if (!checkpoint.foreign_method().empty()) json["quantized_by"] = checkpoint.foreign_method();
  }
  if (findings) {
    bool sound = true;
    for (const Finding& finding : *findings) sound = sound && !finding.error;
    json["sound"] = sound;
    json["findings"] = Json::array();
    for (const Finding& finding : *findings)
      json["findings"].push_back(
          {{"error", finding.error}, {"tensor", finding.tensor}, {"text", finding.text}});
  }
  if (errors) {
    json["total"] = error_document(total_error(*errors));
    json["total_of_inexact"] = error_document(total_error(*errors, true));
    json["errors"] = Json::array();
    for (const TensorError& error : *errors) json["errors"].push_back(error_document(error));
  }
  return to_text(json);
}

}  // namespace nfloat
