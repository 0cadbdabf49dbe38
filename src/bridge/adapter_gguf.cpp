// SPDX-License-Identifier: Apache-2.0
#include "nfloat/adapter_gguf.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <optional>
#include <set>

#include "base/fail.h"
#include "base/json.h"
#include "base/output_place.h"
#include "checkpoint/safetensors_writer.h"
#include "convert/adapter_config.h"
#include "convert/adapter_names.h"
#include "convert/output.h"
#include "gguf/writer.h"
#include "llama_cpp/architectures.h"
#include "model/finite.h"
#include "nfloat/model_config.h"
#include "tensor/floats.h"

namespace nfloat {
namespace {

namespace fs = std::filesystem;

// What an adapter's names and rows depend on.
class Base {
 public:
  explicit Base(const Checkpoint& checkpoint) : names_(checkpoint) {
    const std::string text = checkpoint.text_file("config.json");
    if (text.empty())
      fail(ErrorCode::kNotFound, "{}: no config.json; the adapter's model is a folder with its configuration",
           checkpoint.path());
    const ModelConfig config = parse_model_config(text, checkpoint.path() + "/config.json");
    architecture_ = find_huggingface_architecture(config.family);
    if (architecture_ == nullptr)
      fail(ErrorCode::kUnsupported, "{}: llama.cpp has no {} models; those that it has and that run here: {}",
           checkpoint.path(), config.family, gguf_architecture_names());
    heads_ = {config.heads, config.kv_heads};
  }

  const GgufArchitecture& architecture() const noexcept { return *architecture_; }
  // The model's name of a tensor; empty when it has none.
  std::string find(const std::string& tensor) const { return names_.find(tensor); }

  // Rows of the GGUF tensor among those of the model's. `source` and `tensor` are for errors.
  GgufRowMap rows(const GgufNameMatch& match, int64_t rows, const std::string& source,
                  const std::string& tensor) const {
    GgufRowMap map;
    std::string wrong = match.name->rows >= GgufRows::kFirstHalf || match.single_experts()
                            ? "experts have no pairs of their own in a GGUF adapter"
                            : make_row_map(*architecture_, match, heads_, rows, rows, 0, map);
    if (!wrong.empty()) fail(ErrorCode::kUnsupported, "{}: tensor '{}': {}", source, tensor, wrong);
    return map;
  }

 private:
  BaseNames names_;
  const GgufArchitecture* architecture_ = nullptr;
  GgufHeads heads_;
};

// One low-rank pair: a [rank, in], b [out, rank].
struct LowRankPair {
  std::string name;
  int64_t rank = 0, in = 0, out = 0;
  std::vector<float> a, b;
  double scale = 1;
};

void check_pair(const Shape& a, const Shape& b, const std::string& source, const std::string& name) {
  if (a.rank() != 2 || b.rank() != 2 || a[0] != b[1] || a[0] < 1)
    fail(ErrorCode::kMalformedFile, "{}: '{}' has A {} and B {}, expected [rank, in] and [out, rank]", source,
         name, a.to_string(), b.to_string());
}

void check_finite(std::span<const float> values, const std::string& source, const std::string& tensor) {
  if (const int64_t at = first_not_finite(values); at >= 0)
    fail(ErrorCode::kNotFinite, "{}: tensor '{}': element {} is not finite", source, tensor, at);
}

// Rows of `b` to or from llama.cpp's order.
std::vector<float> reordered(const LowRankPair& pair, const GgufRowMap& map, bool to_gguf) {
  std::vector<float> result(pair.b.size());
  for (int64_t row = 0; row < pair.out; ++row) {
    const int64_t there = map.huggingface(row), from = to_gguf ? there : row, to = to_gguf ? row : there;
    std::copy_n(pair.b.begin() + from * pair.rank, pair.rank, result.begin() + to * pair.rank);
  }
  return result;
}

std::vector<float> read_values(const Checkpoint& file, const std::string& name) {
  const TensorInfo& info = *file.find(name);
  if (!is_quantizable(info.dtype))
    fail(ErrorCode::kMalformedFile, "{}: tensor '{}' is {}, expected F32, F16 or BF16", file.path(), name,
         dtype_name(info.dtype));
  std::vector<float> values = floats_of(file.view(info));
  check_finite(values, file.path(), name);
  return values;
}

std::string without_weight(const std::string& name) {
  constexpr std::string_view kWeight = ".weight";
  return name.ends_with(kWeight) ? name.substr(0, name.size() - kWeight.size()) : name;
}

// The adapter of a folder, modules in the order of their names; `notes` gets the pairs of the model that it
// asks for and does not have.
std::vector<LowRankPair> read_folder(const std::string& folder, const Checkpoint& base, const Base& model,
                                     std::vector<std::string>& notes) {
  const AdapterConfig config(folder);
  const auto refuse = [&](const char* what) {
    fail(ErrorCode::kUnsupported, "{}: {}, which GGUF adapters cannot say; merge it with convert --lora",
         config.source(), what);
  };
  if (config.dora()) refuse("\"use_dora\" is true");
  if (config.bias_of_up()) refuse("\"lora_bias\" is true");
  if (!config.whole_modules().empty()) refuse("\"modules_to_save\" is not empty");
  const Checkpoint file((fs::path(folder) / "adapter_model.safetensors").string());
  std::map<std::string, std::pair<std::string, std::string>> names;
  AdapterTensors tensors(file.path());
  for (const TensorInfo& info : file.tensors()) {
    const AdapterTensor tensor = tensors.read(info.name);
    if (tensor.role == AdapterRole::kDown)
      names[tensor.module].first = info.name;
    else if (tensor.role == AdapterRole::kUp)
      names[tensor.module].second = info.name;
    else
      fail(ErrorCode::kUnsupported, "{}: tensor '{}' is not part of a low-rank pair of a matrix", file.path(),
           info.name);
  }
  std::vector<LowRankPair> pairs;
  for (const auto& [module, both] : names) {
    const auto& [a, b] = both;
    if (a.empty() || b.empty())
      fail(ErrorCode::kMalformedFile, "{}: '{}' has lora_{} alone", file.path(), module,
           a.empty() ? "B" : "A");
    const Shape down = file.find(a)->shape, up = file.find(b)->shape;
    check_pair(down, up, file.path(), module);
    LowRankPair pair{module, down[0], down[1], up[0], read_values(file, a), read_values(file, b)};
    pair.scale = config.scale(module, pair.rank);
    pairs.push_back(std::move(pair));
  }
  if (pairs.empty()) fail(ErrorCode::kMalformedFile, "{}: no tensors", file.path());
  std::set<std::string> there;
  for (const LowRankPair& pair : pairs) there.insert(without_weight(model.find(pair.name + ".weight")));
  std::vector<std::string> modules = linear_module_names(base, TensorRoles(parse_config(base)));
  std::erase_if(modules, [&](const std::string& module) { return there.contains(module); });
  if (std::string missing = config.missing(modules, file.path()); !missing.empty())
    notes.push_back(std::move(missing));
  return pairs;
}

constexpr const char* kConfigFile = "adapter_config.json";
constexpr const char* kWeightsFile = "adapter_model.safetensors";

// Throws for a folder that holds anything but an adapter.
void expect_adapter_alone(const std::string& folder, const std::string& name) {
  const auto refuse = [&](const std::string& why) {
    fail(ErrorCode::kAlreadyExists, "{}: is not replaced: {}", name, why);
  };
  if (!fs::is_directory(fs::symlink_status(folder))) refuse("it is not a folder");
  size_t files = 0;
  bool config = false;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    const std::string file = entry.path().filename().string();
    if ((file != kConfigFile && file != kWeightsFile) || !fs::is_regular_file(entry.symlink_status()))
      refuse(fmt::format("it holds '{}', which is no part of an adapter", file));
    config = config || file == kConfigFile;
    ++files;
  }
  if (files > 0 && !config) refuse("it holds no adapter_config.json");
}

// The place that `output` leads to, where it may be written: it is neither what is read nor around it, and
// nothing is there without `overwrite`.
std::string adapter_place(const std::string& input, const Checkpoint& base, const std::string& output,
                          bool overwrite) {
  const fs::path to = output_target(output);
  for (const std::string& read : {input, base.path()}) {
    const fs::path from = fs::canonical(read);
    if (std::mismatch(to.begin(), to.end(), from.begin(), from.end()).first == to.end())
      fail(ErrorCode::kInvalidArgument, "{}: the output is the input {} or lies around it", output, read);
  }
  if (!overwrite && fs::exists(fs::symlink_status(to)))
    fail(ErrorCode::kAlreadyExists, "{}: exists already (--overwrite replaces it when the new one is whole)",
         output);
  if (!fs::is_directory(to.parent_path()))
    fail(ErrorCode::kNotFound, "{}: the folder {} does not exist", output, to.parent_path().string());
  return to.string();
}

// What the metadata says of the adapter is known, and leaves the weights to its pairs.
void expect_understood(const GgufFile& file, const std::string& path) {
  // The last two are words for whoever runs it.
  static constexpr std::string_view kKnown[] = {"adapter.type", "adapter.lora.alpha",
                                                "adapter.lora.task_name", "adapter.lora.prompt_prefix"};
  for (const GgufValue& value : file.metadata()) {
    const std::string_view key = value.key;
    if (!key.starts_with("adapter.") ||
        std::find(std::begin(kKnown), std::end(kKnown), key) != std::end(kKnown))
      continue;
    if (key.starts_with("adapter.alora."))
      fail(ErrorCode::kUnsupported,
           "{}: metadata \"{}\": an activated LoRA (aLoRA) acts on some tokens only, which no weight can",
           path, key);
    fail(ErrorCode::kUnsupported,
         "{}: metadata \"{}\" is {}: what that does to the weights is not understood", path, key,
         value.to_string());
  }
}

Existing existing(bool overwrite) {
  return overwrite ? Existing::kReplace : Existing::kKeep;
}

}  // namespace

WrittenAdapter write_adapter_gguf(const std::string& folder, const Checkpoint& base,
                                  const std::string& output, bool overwrite) {
  const std::string place = adapter_place(folder, base, output, overwrite);
  if (fs::exists(place)) expect_replaceable(place, OutputKind::kGgufAdapter, output);
  const Base model(base);
  WrittenAdapter result;
  std::vector<LowRankPair> pairs = read_folder(folder, base, model, result.notes);
  // llama.cpp multiplies by alpha / rank of each pair. The largest alpha keeps every factor of B within 1.
  double alpha = 0;
  for (const LowRankPair& pair : pairs)
    alpha = std::max(alpha, std::abs(pair.scale * static_cast<double>(pair.rank)));
  if (static_cast<float>(alpha) == 0) alpha = 1;  // in the file 0 would say that pairs count as they are
  std::vector<GgufWriter::Declared> declared;
  for (LowRankPair& pair : pairs) {
    const std::string stored = model.find(pair.name + ".weight");
    if (stored.empty())
      fail(ErrorCode::kMalformedFile, "{}: the model {} has no '{}'", folder, base.path(), pair.name);
    const std::vector<GgufNameMatch> matches = match_huggingface_name(model.architecture(), stored);
    if (matches.size() != 1)
      fail(ErrorCode::kUnsupported, "{}: '{}' is not one tensor of llama.cpp's {} models", folder, pair.name,
           model.architecture().gguf);
    if (const Shape shape = base.weight_shape(stored); shape.elements() != pair.in * pair.out)
      fail(ErrorCode::kMalformedFile, "{}: '{}' is a pair for [{}, {}], the model's matrix is {}", folder,
           pair.name, pair.out, pair.in, shape.to_string());
    pair.b = reordered(pair, model.rows(matches[0], pair.out, folder, pair.name), true);
    const double factor = pair.scale * static_cast<double>(pair.rank) / alpha;
    if (std::abs(factor - 1) > 1e-9)
      for (float& value : pair.b) value = static_cast<float>(static_cast<double>(value) * factor);
    const std::string name = matches[0].gguf();
    declared.push_back({name + ".lora_a", GgufType::kF32, Shape({pair.rank, pair.in})});
    declared.push_back({name + ".lora_b", GgufType::kF32, Shape({pair.out, pair.rank})});
  }
  GgufMetadata metadata;
  metadata.text("general.architecture", model.architecture().gguf);
  metadata.text("general.type", "adapter");
  metadata.text("adapter.type", "lora");
  metadata.f32("adapter.lora.alpha", static_cast<float>(alpha));
  GgufWriter writer(place, metadata, declared);
  for (size_t i = 0; i < pairs.size(); ++i) {
    writer.write(2 * i, 0, std::as_bytes(std::span(pairs[i].a)));
    writer.write(2 * i + 1, 0, std::as_bytes(std::span(pairs[i].b)));
  }
  writer.sync();
  if (overwrite && fs::exists(place)) expect_replaceable(place, OutputKind::kGgufAdapter, output);
  writer.commit(existing(overwrite));
  result.pairs = pairs.size();
  return result;
}

WrittenAdapter write_adapter_folder(const std::string& path, const Checkpoint& base,
                                    const std::string& output, bool overwrite) {
  const std::string place = adapter_place(path, base, output, overwrite);
  if (fs::exists(fs::symlink_status(place))) expect_adapter_alone(place, output);
  const Base model(base);
  const GgufFile file(path);
  const auto expect = [&](const char* key, std::string_view wanted) {
    if (const std::string text = file.text_or(key, ""); text != wanted)
      fail(ErrorCode::kMalformedFile, "{}: \"{}\" is \"{}\", expected \"{}\"", path, key, text, wanted);
  };
  expect("general.type", "adapter");
  expect("adapter.type", "lora");
  expect("general.architecture", model.architecture().gguf);
  expect_understood(file, path);
  const double alpha = file.number_or("adapter.lora.alpha", 0);
  if (!std::isfinite(alpha))
    fail(ErrorCode::kMalformedFile, "{}: metadata \"adapter.lora.alpha\" is {}", path, alpha);

  std::map<std::string, std::pair<const GgufTensor*, const GgufTensor*>> tensors;
  for (const GgufTensor& tensor : file.tensors()) {
    const bool a = tensor.name.ends_with(".lora_a");
    if (!a && !tensor.name.ends_with(".lora_b"))
      fail(ErrorCode::kUnsupported, "{}: tensor '{}' is not part of a low-rank pair", path, tensor.name);
    auto& pair = tensors[tensor.name.substr(0, tensor.name.size() - 7)];
    (a ? pair.first : pair.second) = &tensor;
  }
  std::vector<LowRankPair> pairs;
  for (const auto& [name, both] : tensors) {
    const auto& [a, b] = both;
    if (a == nullptr || b == nullptr)
      fail(ErrorCode::kMalformedFile, "{}: '{}' has lora_{} alone", path, name, a == nullptr ? "b" : "a");
    check_pair(a->shape, b->shape, path, name);
    LowRankPair pair{"", a->shape[0], a->shape[1], b->shape[0], {}, {}};
    const GgufNameMatch* match = nullptr;
    const std::vector<GgufNameMatch> matches = match_gguf_name(model.architecture(), name);
    for (const GgufNameMatch& one : matches) {
      if (match != nullptr || one.single_experts()) continue;
      pair.name = model.find(one.huggingface());
      if (!pair.name.empty()) match = &one;
    }
    if (match == nullptr)
      fail(ErrorCode::kMalformedFile, "{}: the model {} has no '{}'", path, base.path(), name);
    pair.name = without_weight(pair.name);
    const auto values = [&](const GgufTensor& tensor) {
      if (!is_decodable(tensor.type))
        fail(ErrorCode::kUnsupported, "{}: tensor '{}' is of integers", path, tensor.name);
      std::vector<float> result(static_cast<size_t>(tensor.shape.elements()));
      decode_gguf(tensor.type, file.bytes(tensor), result);
      check_finite(result, path, tensor.name);
      return result;
    };
    pair.a = values(*a);
    pair.b = values(*b);
    pair.b = reordered(pair, model.rows(*match, pair.out, path, name), false);
    pairs.push_back(std::move(pair));
  }
  if (pairs.empty()) fail(ErrorCode::kMalformedFile, "{}: no tensors", path);
  std::sort(pairs.begin(), pairs.end(),
            [](const LowRankPair& x, const LowRankPair& y) { return x.name < y.name; });

  AtomicFolder whole(place);
  std::vector<SafetensorsWriter::Declared> declared;
  Json modules = Json::array(), ranks = Json::object(), alphas = Json::object();
  const auto alpha_of = [&](const LowRankPair& pair) {
    return alpha == 0 ? static_cast<double>(pair.rank) : alpha;  // 0: the pair counts as it is
  };
  for (const LowRankPair& pair : pairs) {
    declared.push_back({fmt::format("base_model.model.{}.lora_A.weight", pair.name), DType::kF32,
                        Shape({pair.rank, pair.in})});
    declared.push_back({fmt::format("base_model.model.{}.lora_B.weight", pair.name), DType::kF32,
                        Shape({pair.out, pair.rank})});
    modules.push_back(pair.name);
    if (pair.rank != pairs[0].rank) ranks[pair.name] = pair.rank;
    if (alpha_of(pair) != alpha_of(pairs[0])) alphas[pair.name] = alpha_of(pair);
  }
  SafetensorsWriter writer((fs::path(whole.path()) / kWeightsFile).string(), declared, {});
  for (size_t i = 0; i < pairs.size(); ++i) {
    writer.write(2 * i, 0, std::as_bytes(std::span(pairs[i].a)));
    writer.write(2 * i + 1, 0, std::as_bytes(std::span(pairs[i].b)));
  }
  writer.finish();
  writer.commit();
  const double first = alpha_of(pairs[0]);
  const bool whole_number = first == std::floor(first) && std::abs(first) < 1e15;  // as PEFT has it
  const Json config = {{"alpha_pattern", alphas},
                       {"base_model_name_or_path", base.path()},
                       {"bias", "none"},
                       {"fan_in_fan_out", false},
                       {"inference_mode", true},
                       {"init_lora_weights", true},
                       {"lora_alpha", whole_number ? Json(static_cast<int64_t>(first)) : Json(first)},
                       {"lora_dropout", 0.0},
                       {"peft_type", "LORA"},
                       {"r", pairs[0].rank},
                       {"rank_pattern", ranks},
                       {"target_modules", modules},
                       {"task_type", "CAUSAL_LM"}};
  write_file_atomically((fs::path(whole.path()) / kConfigFile).string(), config.dump(2) + "\n");
  whole.commit(existing(overwrite),
               [&output](const std::string& there) { expect_adapter_alone(there, output); });
  return {.pairs = pairs.size()};
}

}  // namespace nfloat
