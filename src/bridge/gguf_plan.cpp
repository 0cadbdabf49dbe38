// SPDX-License-Identifier: Apache-2.0
#include "bridge/gguf_plan.h"

#include <algorithm>
#include <unordered_map>

#include "architecture/families.h"
#include "base/fail.h"
#include "bridge/tokenizer_metadata.h"
#include "gguf/tables.h"
#include "llama_cpp/config.h"
#include "model/loader.h"

namespace nfloat {
namespace {

// llama.cpp's numbers for "most of the file is".
uint32_t file_type(GgufType type) noexcept {
  switch (type) {
    case GgufType::kF16:
      return 1;
    case GgufType::kQ4_0:
      return 2;
    case GgufType::kQ8_0:
      return 7;
    case GgufType::kQ4_K:
      return 14;
    case GgufType::kQ5_K:
      return 16;
    case GgufType::kQ6_K:
      return 18;
    case GgufType::kIQ4_NL:
      return 25;
    case GgufType::kIQ4_XS:
      return 30;
    case GgufType::kBF16:
      return 32;
    default:
      return 0;
  }
}

GgufType type_of(DType dtype) noexcept {
  return dtype == DType::kF16 ? GgufType::kF16 : dtype == DType::kBF16 ? GgufType::kBF16 : GgufType::kF32;
}

// What llama.cpp keeps in F32 whatever the rest is.
bool stays_exact(const GgufName& name, bool bias, size_t rank) noexcept {
  return bias || rank < 2 || name.gguf.ends_with("norm") || name.gguf.ends_with("ffn_gate_inp") ||
         name.gguf == "position_embd";
}

// What a matrix is written in whose rows are not whole blocks: the smallest type of shorter blocks that has
// as many bits.
GgufType smaller_blocks(GgufType type) noexcept {
  switch (type) {
    case GgufType::kQ4_K:
    case GgufType::kIQ4_XS:
      return GgufType::kIQ4_NL;
    case GgufType::kQ5_K:
    case GgufType::kQ6_K:
      return GgufType::kQ8_0;
    default:
      return GgufType::kF16;
  }
}

class Planner {
 public:
  Planner(const Checkpoint& checkpoint, const ModelConfig& config, std::optional<GgufType> type,
          const std::string& untied_head)
      : checkpoint_(checkpoint),
        config_(config),
        type_(type),
        untied_head_(untied_head),
        names_(checkpoint.weight_names(), *find_family(config.family)) {}

  GgufPlan run(const std::string& name) {
    plan_.architecture = find_huggingface_architecture(config_.family);
    if (plan_.architecture == nullptr)
      fail(ErrorCode::kUnsupported, "{}: llama.cpp has no {} models; those that it has and that run here: {}",
           checkpoint_.path(), config_.family, gguf_architecture_names());
    check_tensors(checkpoint_, config_);
    for (const ExpectedTensor& expected : expected_tensors(config_, names_.experts())) add(expected);
    if (plan_.architecture->head_tied && (!config_.tied_head || !untied_head_.empty()))
      fail(ErrorCode::kUnsupported,
           "{}: a head beside the embedding{}: llama.cpp takes the embedding for it in every {} model",
           checkpoint_.path(), untied_head_.empty() ? "" : ", which the adapter makes",
           plan_.architecture->gguf);
    if (config_.tied_head && (plan_.architecture->head_required || !untied_head_.empty())) add_head();
    for (size_t i = 0; i < plan_.targets.size(); ++i)
      if (plan_.targets[i].sources.size() > 1) check_experts(plan_.targets[i]);

    std::vector<MetadataTensor> tensors;
    GgufMetadata model;
    append_model(config_, *plan_.architecture, model, tensors, plan_.notes);
    for (MetadataTensor& tensor : tensors) {
      GgufTarget target;
      target.name = tensor.name;
      target.cols = static_cast<int64_t>(tensor.values.size());
      target.shape = {target.cols};
      target.values = std::move(tensor.values);
      plan_.targets.push_back(std::move(target));
    }
    GgufMetadata& metadata = plan_.metadata;
    metadata.text("general.architecture", plan_.architecture->gguf);
    metadata.text("general.type", "model");
    if (!name.empty()) metadata.text("general.name", name);
    metadata.u32("general.file_type", file_type(most_frequent_type()));
    metadata.u32("general.quantization_version", 2);
    metadata.add(model);
    append_tokenizer(checkpoint_, config_.vocabulary, config_.eos_tokens, metadata, plan_.notes);
    return std::move(plan_);
  }

 private:
  void add(const ExpectedTensor& expected) {
    const bool codes = expected.name.ends_with("_blocks") && expected.bytes;
    if (expected.bytes && !codes) return;  // scales go with their codes
    const std::string name =
        codes ? expected.name.substr(0, expected.name.size() - std::string_view("_blocks").size())
              : expected.name;
    const std::vector<GgufNameMatch> matches = match_huggingface_name(*plan_.architecture, name);
    if (matches.empty())
      fail(ErrorCode::kUnsupported, "{}: tensor '{}' has no name in llama.cpp's {} models",
           checkpoint_.path(), expected.name, plan_.architecture->gguf);
    Shape shape = expected.shape;
    if (codes) shape = {shape[0], shape[1], shape[2] * 32};
    for (const GgufNameMatch& match : matches) add(expected, match, names_(name), shape, codes);
  }

  void add(const ExpectedTensor& expected, const GgufNameMatch& match, const std::string& stored,
           const Shape& shape, bool codes) {
    const bool halves = match.name->rows >= GgufRows::kFirstHalf;
    const int64_t experts = config_.experts.count;
    const std::string gguf = match.gguf();
    const auto [known, fresh] = by_name_.emplace(gguf, plan_.targets.size());
    if (fresh) {
      GgufTarget& target = plan_.targets.emplace_back();
      std::vector<int64_t> dims = shape.dims();
      if (halves) dims[1] /= 2;
      if (match.single_experts()) dims.insert(dims.begin(), experts);
      target.name = gguf;
      target.shape = Shape(dims);
      const bool by_element = dims.size() == 1 || match.bias;
      target.cols = by_element ? 1 : dims.back();
      target.rows = target.shape.elements() / std::max<int64_t>(1, target.cols);
      target.transposed = expected.stored_transposed && !match.bias;
      target.plus_one = plan_.architecture->norm_plus_one && match.name->gguf.ends_with("norm");
      target.mxfp4 = codes;
      choose_type(target, match, stored);
    }
    GgufTarget& target = plan_.targets[known->second];
    const int64_t rows = shape.elements() / target.cols;
    GgufSource source{stored, {}, {}};
    const std::string wrong = make_row_map(*plan_.architecture, match, {config_.heads, config_.kv_heads},
                                           target.rows, rows, experts, source.map);
    if (!wrong.empty())
      fail(ErrorCode::kMalformedFile, "{}: tensor '{}' is {}: {}", checkpoint_.path(), stored,
           shape.to_string(), wrong);
    target.sources.push_back(std::move(source));
  }

  void choose_type(GgufTarget& target, const GgufNameMatch& match, const std::string& stored) {
    if (stays_exact(*match.name, match.bias, target.shape.rank())) return;
    if (target.mxfp4) {
      target.type = GgufType::kMXFP4;
      return;
    }
    DType dtype = checkpoint_.find(stored)->dtype;
    if (checkpoint_.is_quantized(stored))
      dtype = checkpoint_.quantized(stored).dtype;
    else if (!checkpoint_.is_gguf() && checkpoint_.stored_type(stored) != dtype_name(dtype))
      dtype = DType::kBF16;
    target.type = type_ ? *type_ : type_of(dtype);
    const bool table = match.name->gguf == "token_embd" || match.name->gguf == "output";
    const bool blocks = plain_dtype(target.type) == nullptr;
    if (table && blocks) target.type = GgufType::kQ8_0;  // embedding and head stay in 8 bits
    const GgufType wanted = target.type;
    while (target.cols % gguf_type_info(target.type).block_elements != 0)
      target.type = smaller_blocks(target.type);
    if (target.type == wanted) return;
    const std::string note = fmt::format("rows of {} are not whole blocks of {} as {} needs them: {}",
                                         target.cols, gguf_type_info(wanted).block_elements,
                                         gguf_type_info(wanted).name, gguf_type_info(target.type).name);
    if (std::find(plan_.notes.begin(), plan_.notes.end(), note) == plan_.notes.end())
      plan_.notes.push_back(note);
  }

  // A head of its own where llama.cpp does not share the embedding.
  void add_head() {
    const auto found = by_name_.find("token_embd.weight");
    GgufTarget head = plan_.targets[found->second];
    head.name = "output.weight";
    if (!untied_head_.empty()) head.sources[0].changed = untied_head_;
    plan_.targets.push_back(std::move(head));
  }

  void check_experts(const GgufTarget& target) const {
    for (size_t i = 0; i < target.sources.size(); ++i)
      if (target.sources[i].map.first != target.sources[0].map.count * static_cast<int64_t>(i))
        fail(ErrorCode::kMalformedFile, "{}: the experts of '{}' are not in order", checkpoint_.path(),
             target.name);
  }

  GgufType most_frequent_type() const {
    std::unordered_map<uint32_t, int64_t> counts;
    for (const GgufTarget& target : plan_.targets)
      counts[static_cast<uint32_t>(target.type)] += target.shape.elements();
    uint32_t most = 0;
    for (const auto& [type, count] : counts)
      if (count > counts[most]) most = type;
    return static_cast<GgufType>(most);
  }

  const Checkpoint& checkpoint_;
  const ModelConfig& config_;
  const std::optional<GgufType> type_;
  const std::string untied_head_;
  const TensorNames names_;
  GgufPlan plan_;
  std::unordered_map<std::string, size_t> by_name_;
};

}  // namespace

GgufPlan plan_gguf(const Checkpoint& checkpoint, const ModelConfig& config, const std::string& name,
                   std::optional<GgufType> type, const std::string& untied_head) {
  return Planner(checkpoint, config, type, untied_head).run(name);
}

}  // namespace nfloat
