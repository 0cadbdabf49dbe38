// SPDX-License-Identifier: Apache-2.0
#include "architecture/tensor_roles.h"

#include <algorithm>
#include <cctype>
#include <span>

#include "base/ascii.h"

namespace nfloat {
namespace {

using Path = std::vector<std::string_view>;

// Model types whose linear layers of these names are Conv1D modules. gpt_bigcode and gpt_neo took the names,
// not the module.
constexpr std::string_view kConv1DTypes[] = {
    "gpt2",         "openai-gpt", "imagegpt", "decision_transformer", "clvp",
    "clvp_decoder", "gpt-sw3",    "gpt2-xl",  "clvp_encoder"};
constexpr std::string_view kConv1DModules[] = {"c_attn", "c_proj", "c_fc", "q_attn"};

// Modules that stay in float32 whatever is asked for, anywhere in models of these types.
struct KeptFloat {
  std::string_view model_type, module;
};
constexpr KeptFloat kKeptFloat[] = {{"t5", "wo"},
                                    {"mt5", "wo"},
                                    {"umt5", "wo"},
                                    {"longt5", "wo"},
                                    {"pop2piano", "wo"},
                                    {"udop", "wo"},
                                    {"switch_transformers", "wo"},
                                    {"blip-2", "qformer"},
                                    {"instructblip", "qformer"},
                                    {"instructblipvideo", "qformer"}};

// What model classes call their output embedding, where it is not lm_head.
struct OutputEmbedding {
  std::string_view model_type, module;
};
constexpr OutputEmbedding kOutputEmbeddings[] = {{"whisper", "proj_out"},
                                                 {"gpt_neox", "embed_out"},
                                                 {"gpt_neox_japanese", "embed_out"},
                                                 {"chatglm", "transformer.output_layer"},
                                                 {"rwkv", "head"},
                                                 {"biogpt", "output_projection"},
                                                 {"distilbert", "vocab_projector"},
                                                 {"albert", "predictions.decoder"},
                                                 {"bert", "cls.predictions.decoder"},
                                                 {"big_bird", "cls.predictions.decoder"},
                                                 {"convbert", "generator_lm_head"},
                                                 {"electra", "generator_lm_head"},
                                                 {"ernie", "cls.predictions.decoder"},
                                                 {"fnet", "cls.predictions.decoder"},
                                                 {"layoutlm", "cls.predictions.decoder"},
                                                 {"megatron-bert", "cls.predictions.decoder"},
                                                 {"mobilebert", "cls.predictions.decoder"},
                                                 {"deberta", "cls.predictions.decoder"},
                                                 {"deberta-v2", "cls.predictions.decoder"},
                                                 {"rembert", "cls.predictions.decoder"},
                                                 {"roformer", "cls.predictions.decoder"},
                                                 {"squeezebert", "cls.predictions.decoder"},
                                                 {"visual_bert", "cls.predictions.decoder"},
                                                 {"roberta", "lm_head.decoder"},
                                                 {"xlm-roberta", "lm_head.decoder"},
                                                 {"xlm-roberta-xl", "lm_head.decoder"},
                                                 {"camembert", "lm_head.decoder"},
                                                 {"mpnet", "lm_head.decoder"},
                                                 {"esm", "lm_head.decoder"},
                                                 {"longformer", "lm_head.decoder"},
                                                 {"data2vec-text", "lm_head.decoder"},
                                                 {"xmod", "lm_head.decoder"},
                                                 {"git", "output"},
                                                 {"blip", "text_decoder.cls.predictions.decoder"},
                                                 {"xlm", "pred_layer.proj"},
                                                 {"flaubert", "pred_layer.proj"},
                                                 {"xlnet", "lm_loss"}};

// The last module of a path, wherever it is, and of the model itself only.
constexpr std::string_view kHeads[] = {
    "lm_head",         "lm_heads",          "embed_out",          "output_layer",      "score",
    "classifier",      "qa_outputs",        "text_projection",    "visual_projection", "audio_projection",
    "vocab_projector", "output_projection", "seq_relationship",   "lm_loss",           "generator_lm_head",
    "pre_classifier",  "entity_classifier", "token_classifier",   "regression_head",   "summary",
    "logits_proj",     "output_head",       "classification_head"};
constexpr std::string_view kRootHeads[] = {"output", "head",    "heads",  "proj_out",  "logits",
                                           "fc",     "decoder", "linear", "projection"};
// The two last.
constexpr std::pair<std::string_view, std::string_view> kHeadPairs[] = {
    {"classifier", "out_proj"}, {"classifier", "dense"},    {"classification_head", "out_proj"},
    {"predictions", "decoder"}, {"lm_head", "decoder"},     {"pooler", "dense"},
    {"pred_layer", "proj"},     {"head", "out_proj"},       {"classification_head", "dense"},
    {"lm_head", "out_proj"},    {"qa_outputs", "out_proj"}, {"score", "out_proj"},
    {"last_linear", "out_proj"}};

constexpr std::string_view kEmbeddings[] = {"embed_tokens",
                                            "embed_positions",
                                            "embed_in",
                                            "embed_timestep",
                                            "embed_tokens_per_layer",
                                            "embed",
                                            "embedding",
                                            "embeddings",
                                            "word_embeddings",
                                            "word_embedding",
                                            "position_embeddings",
                                            "position_embedding",
                                            "token_type_embeddings",
                                            "token_embedding",
                                            "tok_embeddings",
                                            "tokens_embed",
                                            "positions_embed",
                                            "rel_embeddings",
                                            "lang_embeddings",
                                            "input_embeds_layer",
                                            "input_embeds_layers",
                                            "position_embeds_layer",
                                            "wte",
                                            "wpe",
                                            "shared",
                                            "relative_attention_bias"};

// Those of tokens, and heads that are tied to them.
constexpr std::string_view kTokenTables[] = {"embed_tokens", "embed_in", "word_embeddings", "tok_embeddings",
                                             "tokens_embed", "wte",      "shared"};
constexpr std::string_view kTiedHeads[] = {"lm_head", "embed_out"};

bool is_one_of(std::span<const std::string_view> names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool is_number(std::string_view part) {
  return !part.empty() && std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
}

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

Path split(std::string_view module) {
  Path parts;
  for (size_t begin = 0; begin < module.size();) {
    const size_t dot = std::min(module.find('.', begin), module.size());
    parts.push_back(module.substr(begin, dot - begin));
    begin = dot + 1;
  }
  return parts;
}

// Without the places in ModuleLists at its end.
std::string_view last_name(const Path& path) {
  const auto found = std::find_if_not(path.rbegin(), path.rend(), is_number);
  return found == path.rend() ? path.back() : *found;
}

bool is_head(const Path& path) {
  const std::string_view last = last_name(path);
  if (is_one_of(kHeads, last)) return true;
  if (path.size() == 1 && is_one_of(kRootHeads, last)) return true;
  return path.size() > 1 && std::find(std::begin(kHeadPairs), std::end(kHeadPairs),
                                      std::pair(path[path.size() - 2], last)) != std::end(kHeadPairs);
}

bool is_router(const Path& path) {
  const std::string_view last = path.back();
  if (last == "gate" || last == "wg" || last == "shared_expert_gate" || last == "expert_gate") return true;
  return std::any_of(path.begin(), path.end(),
                     [](std::string_view part) { return contains(part, "router") || part == "moe_gate"; });
}

// Letters of any case: HashBucketCodeEmbedder_0 is a table.
bool speaks_of_embedding(std::string_view part) {
  return contains(part, "embed") || contains(part, "Embed") || part.starts_with("emb") ||
         part.ends_with("_emb");
}

bool in_attention(const Path& path) {
  return std::any_of(path.begin(), path.end(), [](std::string_view part) {
    return contains(part, "attn") || contains(part, "attention");
  });
}

bool in_layers(const Path& path) {
  return std::any_of(path.begin(), path.end(), is_number);
}

// The letters and digits of a name, lowered: "openai-gpt" and "OpenAIGPTLMHeadModel" begin alike.
std::string letters(std::string_view text) {
  std::string result;
  for (const char c : text)
    if (std::isalnum(static_cast<unsigned char>(c))) result.push_back(lower(c));
  return result;
}

// The longest model type of the tables that the name of a class begins with.
std::string type_of_class(const std::string& name) {
  const std::string text = letters(name);
  std::string_view best;
  const auto consider = [&](std::string_view type) {
    if (text.starts_with(letters(type)) && type.size() > best.size()) best = type;
  };
  for (const std::string_view type : kConv1DTypes) consider(type);
  for (const KeptFloat& entry : kKeptFloat) consider(entry.model_type);
  for (const OutputEmbedding& entry : kOutputEmbeddings) consider(entry.model_type);
  return std::string(best);
}

}  // namespace

std::string module_of(const std::string& tensor) {
  const size_t dot = tensor.rfind('.');
  return dot == std::string::npos ? std::string() : tensor.substr(0, dot);
}

TensorRoles::TensorRoles(const Json& config) {
  add_parts(config, "", 0);
  for (const OutputEmbedding& entry : kOutputEmbeddings)
    if (!parts_.empty() && parts_.front().model_type == entry.model_type) output_embedding_ = entry.module;
}

void TensorRoles::add_parts(const Json& config, const std::string& prefix, int depth) {
  constexpr int kDeepest = 4;
  if (!config.is_object() || depth > kDeepest) return;
  std::string type;
  if (const Json* found = config.find("model_type"); found != nullptr && found->is_string())
    type = found->text();
  if (const Json* classes = config.find("architectures"); type.empty() && classes != nullptr)
    for (const Json& name : *classes)
      if (type.empty() && name.is_string()) type = type_of_class(name.text());
  if (depth == 0 || !type.empty()) parts_.push_back({type, prefix});
  for (const auto& [key, value] : config.items()) {
    if (value.is_object()) {
      // The parts of (vision-, speech-) encoder-decoder models are modules of the key's name.
      const bool module =
          key == "encoder" || key == "decoder" || key == "text_encoder" || key == "audio_encoder";
      add_parts(value, module ? prefix + key + "." : prefix, depth + 1);
    }
    if (!value.is_number_integer() || !value.is_number_unsigned()) continue;
    const auto number = static_cast<int64_t>(std::min<uint64_t>(value.get<uint64_t>(), INT64_MAX));
    if (number > 1 && contains(key, "experts") &&
        (key.starts_with("num_") || key.starts_with("n_") || key.starts_with("moe_num_")) &&
        !contains(key, "per_tok"))
      experts_.insert(number);
    if (number > 1 && key.ends_with("vocab_size")) vocabularies_.insert(number);
  }
}

bool TensorRoles::is_conv1d(const std::string& tensor) const {
  if (!tensor.ends_with(".weight")) return false;
  const std::string module = module_of(tensor);
  const Path path = split(module);
  if (path.empty() || !is_one_of(kConv1DModules, path.back())) return false;
  return std::any_of(parts_.begin(), parts_.end(), [&](const Part& part) {
    return is_one_of(kConv1DTypes, part.model_type) && tensor.starts_with(part.prefix);
  });
}

bool TensorRoles::may_be_tied(const std::string& tensor) const {
  const std::string module = module_of(tensor);
  const Path path = split(module);
  return !path.empty() && (is_one_of(kTokenTables, path.back()) || is_one_of(kTiedHeads, path.back()) ||
                           module == output_embedding_);
}

bool TensorRoles::is_kept_float(const std::string& tensor, const Path& path) const {
  if (path.size() > 1 && path.back() == "wo" && path[path.size() - 2] == "DenseReluDense") return true;
  for (const KeptFloat& entry : kKeptFloat) {
    if (std::find(path.begin(), path.end(), entry.module) == path.end()) continue;
    for (const Part& part : parts_)
      if (part.model_type == entry.model_type && tensor.starts_with(part.prefix)) return true;
  }
  return false;
}

TensorRole TensorRoles::of(const std::string& tensor, const Shape& shape) const {
  const size_t rank = shape.rank();
  if (rank == 3 && contains(tensor, "expert")) return TensorRole::kExpert;
  if (rank < 2) return TensorRole::kNorm;
  if (rank > 2) return TensorRole::kConvolution;
  const std::string module = module_of(tensor);
  const Path path = split(module);
  if (path.empty() || !tensor.ends_with(".weight")) return TensorRole::kOther;
  const std::string_view last = last_name(path);
  if (is_conv1d(tensor)) return TensorRole::kConv1D;
  if (is_kept_float(tensor, path)) return TensorRole::kKeptFloat;
  if (is_router(path)) return TensorRole::kRouter;
  if (is_head(path) || module == output_embedding_) return TensorRole::kHead;
  if (is_one_of(kEmbeddings, last)) return TensorRole::kEmbedding;
  // Linear layers beside or behind a table say so: embedding_projection, embeddings_project, embed_proj.
  const bool projects = contains(last, "proj") || contains(last, "linear");
  if (speaks_of_embedding(last) && !projects) return TensorRole::kEmbeddingOrLinear;
  if (!in_layers(path) && !projects && vocabularies_.contains(shape[0])) return TensorRole::kHead;
  if (experts_.contains(shape[0]) && !projects && !in_attention(path) && in_layers(path))
    return TensorRole::kRouter;
  return TensorRole::kLinear;
}

}  // namespace nfloat
