// SPDX-License-Identifier: Apache-2.0
#include "checkpoint/foreign.h"

#include <algorithm>
#include <array>
#include <bit>

#include "base/fail.h"
#include "base/json.h"
#include "checkpoint/quant_state.h"
#include "gguf/tables.h"

namespace nfloat {
namespace {

constexpr std::string_view kScaleInv = "_scale_inv", kScale = "_scale", kBlocks = "_blocks",
                           kScales = "_scales";

// Descriptions that are files of their own, with what writes them.
struct OwnFile {
  std::string_view name, method;
};
constexpr OwnFile kModelOptFile{"hf_quant_config.json", "ModelOpt"};
constexpr std::array<OwnFile, 3> kOwnFiles{
    {{"quantize_config.json", "GPTQ or AWQ"}, {"quant_config.json", "AWQ"}, kModelOptFile}};

// Ends of the names of tensors that hold codes, scales or zero points of methods that are not read.
struct Mark {
  std::string_view suffix, method;
};
constexpr std::array<Mark, 12> kMarks{{{".qweight", "GPTQ or AWQ"},
                                       {".qzeros", "GPTQ or AWQ"},
                                       {".SCB", "bitsandbytes in 8 bits"},
                                       {".W_q", "HQQ"},
                                       {".weight_packed", "compressed-tensors"},
                                       {".weight_zero_point", "compressed-tensors"},
                                       {".weight_global_scale", "compressed-tensors"},
                                       {".bitmask", "compressed-tensors (sparse)"},
                                       {".weight_scale_2", "ModelOpt"},
                                       {"pre_quant_scale", "ModelOpt"},
                                       {".scale_weight", "FP8 with 'scale_weight'"},
                                       {"scaled_fp8", "FP8 with 'scale_weight'"}}};

// Whole numbers of a module that are no weights: masks, places, buffers of attention.
constexpr std::array<std::string_view, 8> kBuffers{"bias", "mask",    "ids",      "index",
                                                   "idx",  "indices", "position", "positions"};

// Of activations: nothing is left to scale where weights are values.
constexpr std::array<std::string_view, 6> kActivationScales{
    ".input_scale", ".activation_scale", ".output_scale", ".q_scale", ".k_scale", ".v_scale"};

std::string text(const Json& object, const char* key) {
  const Json* found = object.find(key);
  return found != nullptr && found->is_string() ? found->text() : std::string();
}

// 0 for what is not a size.
int64_t integer(const Json* value) {
  if (value == nullptr || !value->is_number_integer()) return 0;
  const auto number = value->get<double>();
  return number > 0 && number < 1e15 ? static_cast<int64_t>(number) : 0;
}

// What a description in config.json names; empty for bitsandbytes in 4 bits and for what is not one.
std::string method_of(const Json* description) {
  if (description == nullptr || !description->is_object()) return {};
  const bool four_bits =
      std::any_of(description->items().begin(), description->items().end(),
                  [](const auto& member) { return member.first.starts_with("bnb_4bit_"); });
  const Json* named = description->find("quant_method");
  const std::string method = named != nullptr && named->is_string() ? named->text()
                             : four_bits                            ? "bitsandbytes"
                                                                    : "an unknown method";
  if (method != "bitsandbytes") return method;
  const Json* eight = description->find("load_in_8bit");
  return eight != nullptr && *eight == Json(true) ? "bitsandbytes in 8 bits" : "";
}

// MLX: "quantization": {"group_size": 64, "bits": 4}.
bool is_mlx(const Json& config) {
  const Json* own = config.find("quantization");
  return own != nullptr && own->is_object() && own->contains("bits") && own->contains("group_size");
}

Json parsed(const std::string& content, const std::string& name) {
  if (content.empty()) return Json::object();
  try {
    return parse_json_object(content, name, {.depth = 64});
  } catch (const Error&) {
    return Json::object();  // whoever needs it says what is wrong with it
  }
}

bool is_float8(DType dtype) noexcept {
  return dtype == DType::kF8E4M3 || dtype == DType::kF8E5M2;
}

bool is_whole_number(DType dtype) noexcept {
  return dtype == DType::kI8 || dtype == DType::kU8 || dtype == DType::kI16 || dtype == DType::kU16 ||
         dtype == DType::kI32 || dtype == DType::kU32;
}

bool is_scale_dtype(DType dtype) noexcept {
  return is_quantizable(dtype) || dtype == DType::kF8E8M0 || dtype == DType::kU8;
}

class Recognizer {
 public:
  explicit Recognizer(const ForeignInput& input) : input_(input) {}

  Foreign run() {
    read_descriptions();
    for (size_t i = 0; i < input_.tensors.size(); ++i) read_tensor(i);
    settle_unscaled();
    if (result_.refusal.empty() && !result_.method.empty() && !found_)
      refuse(result_.method, "no tensor is quantized so");
    if (!result_.refusal.empty()) {
      if (result_.refusal.find(example_) == std::string::npos)
        result_.refusal += fmt::format(" ('{}')", example_);
      result_.scaled.clear();
      result_.companions.clear();
    } else if (!result_.method.empty()) {
      hide_activation_scales();
    }
    return std::move(result_);
  }

 private:
  // The first reason is the one that is told, after the method that the checkpoint says of itself.
  void refuse(const std::string& method, const std::string& why) {
    if (!result_.refusal.empty()) return;
    std::string& text = result_.refusal;
    text = result_.method;
    for (const std::string& part : {method, why})
      if (!part.empty() && part != text) text += (text.empty() ? "" : ": ") + part;
    if (result_.method.empty()) result_.method = method;
  }

  void read_descriptions() {
    const Json config = parsed(input_.text_file("config.json"), "config.json");
    if (is_mlx(config)) return refuse("MLX", "");
    for (const char* key : {"quantization_config", "compression_config"}) read_description(config, key);
    for (const auto& [name, part] : config.items())
      if (part.is_object()) read_description(part, "quantization_config");
    for (const OwnFile& file : kOwnFiles) {
      const std::string content = input_.text_file(std::string(file.name));
      if (content.empty()) continue;
      const std::string method = fmt::format("{} ({})", file.method, file.name);
      if (file.name != kModelOptFile.name) return refuse(method, "");
      if (result_.method.empty()) result_.method = method;
      const Json own = parsed(content, std::string(file.name));
      const Json* inside = own.find("quantization");
      read_modelopt(inside != nullptr && inside->is_object() ? *inside : own);
    }
  }

  // Transformers writes an object, or null where nothing is quantized.
  void read_description(const Json& config, const char* key) {
    const Json* description = config.find(key);
    if (description != nullptr && !description->is_object() && !description->is_null())
      return refuse("", fmt::format("\"{}\" of config.json is {}, expected an object", key,
                                    description->dump(-1, Json::Invalid::kReplaceAndEscape).substr(0, 60)));
    const std::string method = method_of(description);
    if (method.empty() || !result_.method.empty()) return;
    result_.method = method;
    if (method == "fp8") {
      add_block(description->find("weight_block_size"));
    } else if (method == "compressed-tensors") {
      read_compressed_tensors(*description);
    } else if (method == "modelopt") {
      read_modelopt(*description);
    } else if (method != "fbgemm_fp8" && method != "mxfp4") {
      refuse(method, "");
    }
  }

  void read_compressed_tensors(const Json& description) {
    const auto format = [&](const Json& object) {
      const std::string name = text(object, "format");
      if (!name.empty() && name != "float-quantized" && name != "naive-quantized" && name != "dense")
        refuse("", fmt::format("format '{}'", name));
    };
    format(description);
    if (const Json* sparse = description.find("sparsity_config"); sparse != nullptr && sparse->is_object())
      format(*sparse);
    if (const Json* rotated = description.find("transform_config");
        rotated != nullptr && rotated->is_object() && !rotated->empty())
      refuse("", "transform_config (weights that are rotated)");
    const Json* groups = description.find("config_groups");
    if (groups == nullptr || !groups->is_object()) return;
    for (const auto& [name, group] : groups->items()) {
      const Json* weights = group.is_object() ? group.find("weights") : nullptr;
      if (weights == nullptr || !weights->is_object()) continue;
      format(group);
      if (text(*weights, "type") != "float" || integer(weights->find("num_bits")) != 8)
        refuse("", fmt::format("{} weights of {} bits", text(*weights, "type"),
                               integer(weights->find("num_bits"))));
      add_block(weights->find("block_structure"));
      if (const int64_t size = integer(weights->find("group_size")); size > 0) blocks_.push_back({1, size});
    }
  }

  void read_modelopt(const Json& description) {
    const std::string algorithm = text(description, "quant_algo");
    if (algorithm == "FP8_PB_WO")
      blocks_.push_back({128, 128});
    else if (algorithm != "FP8" && algorithm != "FP8_PER_CHANNEL_PER_TOKEN")
      refuse("ModelOpt", fmt::format("quant_algo '{}'", algorithm));
  }

  // [rows, columns]
  void add_block(const Json* sizes) {
    if (sizes == nullptr || !sizes->is_array() || sizes->size() != 2) return;
    const int64_t rows = integer(&(*sizes)[0]), columns = integer(&(*sizes)[1]);
    if (rows > 0 && columns > 0) blocks_.push_back({rows, columns});
  }

  const TensorInfo* with(std::string_view base, std::string_view suffix) const {
    return input_.find(std::string(base) + std::string(suffix));
  }
  size_t index_of(const TensorInfo* tensor) const {
    return static_cast<size_t>(tensor - input_.tensors.data());
  }
  bool is_bitsandbytes(std::string_view name) const {
    const std::string state = std::string(name) + std::string(kQuantStateSuffix);
    return input_.find(state + "nf4") != nullptr || input_.find(state + "fp4") != nullptr;
  }

  void read_tensor(size_t index) {
    const TensorInfo& tensor = input_.tensors[index];
    const std::string_view name = tensor.name;
    for (const Mark& mark : kMarks)
      if (name.ends_with(mark.suffix)) {
        if (example_.empty()) example_ = name;
        refuse(fmt::format("{} ('{}')", mark.method, name), "");
      }
    if (name.ends_with(".scales")) {
      const TensorInfo* weight = with(name.substr(0, name.size() - 7), ".weight");
      if (weight != nullptr && weight->dtype == DType::kU32) refuse(fmt::format("MLX ('{}')", name), "");
    }
    for (const std::string_view suffix : {kScaleInv, kScale})
      if (name.ends_with(suffix) && read_scale(tensor, name.substr(0, name.size() - suffix.size()), suffix))
        return;
    if (name.ends_with(kBlocks) && (tensor.dtype == DType::kU8 || name.ends_with("_proj_blocks")))
      return read_mxfp4(index);
    if (name.ends_with("_proj_scales") && with(name.substr(0, name.size() - 7), kBlocks) == nullptr)
      refuse(fmt::format("MXFP4 ('{}')", name), "its codes are not there");
    if (is_float8(tensor.dtype) && !is_bitsandbytes(name)) read_float8(index);
    const bool of_blocks =
        name.ends_with(kScales) && with(name.substr(0, name.size() - kScales.size()), kBlocks) != nullptr;
    if (holds_codes(tensor) && !of_blocks && !is_bitsandbytes(name)) {
      if (example_.empty()) example_ = name;
      refuse(fmt::format("codes of a method that is not known ('{}' {})", name, dtype_name(tensor.dtype)),
             "");
    }
  }

  // Whether whole numbers stand where a model has weights.
  static bool holds_codes(const TensorInfo& tensor) {
    if (!is_whole_number(tensor.dtype) || tensor.shape.rank() < 2) return false;
    const std::string_view last = std::string_view(tensor.name).substr(tensor.name.rfind('.') + 1);
    return std::none_of(kBuffers.begin(), kBuffers.end(), [&](std::string_view buffer) {
      return last == buffer || (last.ends_with(buffer) && last[last.size() - buffer.size() - 1] == '_');
    });
  }

  // True when the tensor is the scale of a weight.
  bool read_scale(const TensorInfo& scale, std::string_view base, std::string_view suffix) {
    const TensorInfo* weight = input_.find(base);
    if (weight != nullptr && is_float8(weight->dtype)) return true;
    // Only such names say of themselves that they belong to codes.
    if (!base.ends_with(".weight") && (weight == nullptr || is_quantizable(weight->dtype))) return false;
    const std::string method = fmt::format(
        "{} ('{}')", suffix == kScaleInv ? "FP8 in blocks" : "FP8 or compressed-tensors", scale.name);
    refuse(method, weight == nullptr ? fmt::format("'{}' is not there", base)
                                     : fmt::format("'{}' is {}, not FP8", base, dtype_name(weight->dtype)));
    return true;
  }

  void read_float8(size_t index) {
    const TensorInfo& tensor = input_.tensors[index];
    const TensorInfo *inverse = with(tensor.name, kScaleInv), *plain = with(tensor.name, kScale);
    ScaledTensor scaled;
    scaled.name = tensor.name;
    scaled.codes = index;
    scaled.shape = tensor.shape;
    const TensorInfo* scale = inverse != nullptr ? inverse : plain;
    if (scale == nullptr) {
      unscaled_.push_back(std::move(scaled));
      return;
    }
    const std::string method =
        fmt::format("{} ('{}')", inverse != nullptr ? "FP8 in blocks" : "FP8", scale->name);
    if (inverse != nullptr && plain != nullptr)
      return refuse(method, fmt::format("'{}' is a scale too", plain->name));
    if (!is_scale_dtype(scale->dtype))
      return refuse(method, fmt::format("a scale of type {}", dtype_name(scale->dtype)));
    scaled.block = block_of(tensor.shape, scale->shape);
    if (scaled.block.empty() && !blocks_.empty())
      return refuse(method, fmt::format("'{}' is {}, its scales are {}, which blocks of {} x {} do not give",
                                        tensor.name, tensor.shape.to_string(), scale->shape.to_string(),
                                        blocks_[0][0], blocks_[0][1]));
    if (scaled.block.empty() && (tensor.shape.rank() > 0 || scale->shape.elements() != 1))
      return refuse(method,
                    fmt::format("'{}' is {}: which of its blocks the scales {} belong to is not clear",
                                tensor.name, tensor.shape.to_string(), scale->shape.to_string()));
    scaled.scales = index_of(scale);
    keep(std::move(scaled), method);
  }

  void keep(ScaledTensor scaled, const std::string& method) {
    if (result_.method.empty()) result_.method = method;
    found_ = true;
    result_.companions.push_back(*scaled.scales);
    result_.scaled.push_back(std::move(scaled));
  }

  // Values along each axis for one scale; empty when the shapes do not tell.
  std::vector<int64_t> block_of(const Shape& weight, const Shape& scale) const {
    std::vector<int64_t> grid = scale.dims();
    const std::vector<int64_t>& dims = weight.dims();
    if (weight.elements() == 0) return std::vector<int64_t>(dims.size(), 1);
    if (scale.elements() == 1) grid.assign(dims.size(), 1);
    if (grid.size() == 1 && dims.size() > 1) grid.resize(dims.size(), 1);  // one for each row
    if (grid.size() != dims.size()) return {};
    const auto ceil_div = [](int64_t a, int64_t b) { return a / b + (a % b != 0 ? 1 : 0); };
    // One for all along an axis, or one for each.
    const auto whole = [&](size_t axis) -> int64_t {
      return grid[axis] == 1 ? dims[axis] : grid[axis] == dims[axis] ? 1 : 0;
    };
    const auto try_axes = [&](const auto& size_at) {
      std::vector<int64_t> block;
      for (size_t axis = 0; axis < dims.size(); ++axis) {
        const int64_t size = size_at(axis);
        if (size < 1 || ceil_div(dims[axis], size) != grid[axis]) return std::vector<int64_t>();
        block.push_back(size);
      }
      return block;
    };
    if (auto block = try_axes(whole); !block.empty()) return block;
    for (const auto& sizes : blocks_) {
      const auto configured = [&](size_t axis) {
        return axis + 2 < dims.size() ? whole(axis) : sizes[axis + 2 - dims.size()];
      };
      if (dims.size() < 2) continue;
      if (auto block = try_axes(configured); !block.empty()) return block;
    }
    if (!blocks_.empty()) return {};  // not what the description says
    return try_axes([&](size_t axis) -> int64_t {
      if (const int64_t size = whole(axis); size > 0) return size;
      if (grid[axis] < 1 || dims[axis] % grid[axis] != 0) return 0;
      const int64_t size = dims[axis] / grid[axis];
      return std::has_single_bit(static_cast<uint64_t>(size)) ? size : 0;
    });
  }

  // Transformers' name and shape of the values: "W" [experts, in, out].
  void read_mxfp4(size_t index) {
    const TensorInfo& codes = input_.tensors[index];
    const std::string base = codes.name.substr(0, codes.name.size() - kBlocks.size());
    const TensorInfo* scales = with(base, kScales);
    const std::string method = fmt::format("MXFP4 ('{}')", codes.name);
    if (scales == nullptr) {
      if (codes.name.ends_with("_proj_blocks")) refuse(method, "its scales are not there");
      return;
    }
    const Shape& shape = codes.shape;
    if (codes.dtype != DType::kU8 || scales->dtype != DType::kU8 || shape.rank() != 4 ||
        shape[3] != kMxfp4Block / 2 || scales->shape != Shape({shape[0], shape[1], shape[2]}))
      return refuse(method, fmt::format("codes {} {} and scales {} {}, expected U8 [experts, out, in/32, 16] "
                                        "and U8 [experts, out, in/32]",
                                        dtype_name(codes.dtype), shape.to_string(), dtype_name(scales->dtype),
                                        scales->shape.to_string()));
    if (input_.find(base) != nullptr) return refuse(method, fmt::format("'{}' is there too", base));
    if (input_.keep_mxfp4) {
      found_ = true;
      return;
    }
    ScaledTensor scaled;
    scaled.name = base;
    scaled.mxfp4 = true;
    scaled.codes = index;
    scaled.scales = index_of(scales);
    scaled.shape = {shape[0], shape[2] * kMxfp4Block, shape[1]};
    keep(std::move(scaled), method);
  }

  // 8-bit floats that nothing scales are the values themselves, if nothing says otherwise.
  void settle_unscaled() {
    if (unscaled_.empty()) return;
    const std::string& name = unscaled_[0].name;
    if (!result_.method.empty()) return refuse("", fmt::format("'{}' has no scale", name));
    for (const TensorInfo& tensor : input_.tensors)
      if (tensor.name.substr(tensor.name.rfind('.') + 1).find("scale") != std::string::npos)
        return refuse(fmt::format("FP8 ('{}')", name),
                      fmt::format("whether '{}' scales it is not known", tensor.name));
    result_.scaled = std::move(unscaled_);
  }

  void hide_activation_scales() {
    for (size_t i = 0; i < input_.tensors.size(); ++i)
      if (std::any_of(kActivationScales.begin(), kActivationScales.end(),
                      [&](std::string_view suffix) { return input_.tensors[i].name.ends_with(suffix); }))
        result_.companions.push_back(i);
  }

  const ForeignInput& input_;
  Foreign result_;
  std::vector<std::array<int64_t, 2>> blocks_;  // that a description names: rows, columns
  std::vector<ScaledTensor> unscaled_;
  std::string example_;  // a tensor that only methods which are not read have
  bool found_ = false;   // a tensor that is quantized as described
};

}  // namespace

Foreign recognize_foreign(const ForeignInput& input) {
  return Recognizer(input).run();
}

bool is_foreign_description(std::string_view file_name) noexcept {
  return std::any_of(kOwnFiles.begin(), kOwnFiles.end(),
                     [&](const OwnFile& file) { return file.name == file_name; });
}

void expect_readable(const Checkpoint& input) {
  if (input.foreign_refusal().empty()) return;
  fail(ErrorCode::kUnsupported,
       "{}: quantized by another method: {}; nfloat reads plain weights, FP8 and MXFP4 with their scales, "
       "bitsandbytes in 4 bits and GGUF: take the original, or write it plain with the program that made it",
       input.path(), input.foreign_refusal());
}

}  // namespace nfloat
