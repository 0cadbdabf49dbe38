// SPDX-License-Identifier: Apache-2.0
#include "llama_cpp/architectures.h"

namespace nfloat {
namespace {

using enum GgufRows;

#define NFLOAT_HF "model.layers.{}."
#define NFLOAT_GGUF "blk.{}."

// Llama and all that call their tensors like it.
constexpr GgufName kLlamaNames[] = {
    {"model.embed_tokens", "token_embd"},
    {"model.norm", "output_norm"},
    {"lm_head", "output"},
    {NFLOAT_HF "input_layernorm", NFLOAT_GGUF "attn_norm"},
    {NFLOAT_HF "self_attn.q_proj", NFLOAT_GGUF "attn_q", kQuery},
    {NFLOAT_HF "self_attn.k_proj", NFLOAT_GGUF "attn_k", kKey},
    {NFLOAT_HF "self_attn.v_proj", NFLOAT_GGUF "attn_v"},
    {NFLOAT_HF "self_attn.o_proj", NFLOAT_GGUF "attn_output"},
    {NFLOAT_HF "self_attn.q_norm", NFLOAT_GGUF "attn_q_norm"},
    {NFLOAT_HF "self_attn.k_norm", NFLOAT_GGUF "attn_k_norm"},
    {NFLOAT_HF "post_attention_layernorm", NFLOAT_GGUF "ffn_norm"},
    {NFLOAT_HF "mlp.gate_proj", NFLOAT_GGUF "ffn_gate"},
    {NFLOAT_HF "mlp.up_proj", NFLOAT_GGUF "ffn_up"},
    {NFLOAT_HF "mlp.down_proj", NFLOAT_GGUF "ffn_down"},
};

constexpr GgufName kFourNorms[] = {
    {NFLOAT_HF "post_attention_layernorm", NFLOAT_GGUF "post_attention_norm"},
    {NFLOAT_HF "pre_feedforward_layernorm", NFLOAT_GGUF "ffn_norm"},
    {NFLOAT_HF "post_feedforward_layernorm", NFLOAT_GGUF "post_ffw_norm"},
};

constexpr GgufName kFused[] = {
    {NFLOAT_HF "self_attn.qkv_proj", NFLOAT_GGUF "attn_qkv"},
    {NFLOAT_HF "mlp.gate_up_proj", NFLOAT_GGUF "ffn_up"},
};

constexpr GgufName kExperts[] = {
    {NFLOAT_HF "mlp.gate", NFLOAT_GGUF "ffn_gate_inp"},
    {NFLOAT_HF "mlp.experts.{}.gate_proj", NFLOAT_GGUF "ffn_gate_exps"},
    {NFLOAT_HF "mlp.experts.{}.up_proj", NFLOAT_GGUF "ffn_up_exps"},
    {NFLOAT_HF "mlp.experts.{}.down_proj", NFLOAT_GGUF "ffn_down_exps"},
    {NFLOAT_HF "mlp.experts.gate_up_proj", NFLOAT_GGUF "ffn_gate_exps", kFirstHalf, true},
    {NFLOAT_HF "mlp.experts.gate_up_proj", NFLOAT_GGUF "ffn_up_exps", kSecondHalf, true},
    {NFLOAT_HF "mlp.experts.down_proj", NFLOAT_GGUF "ffn_down_exps", kSame, true},
};

constexpr GgufName kMixtral[] = {
    {NFLOAT_HF "block_sparse_moe.gate", NFLOAT_GGUF "ffn_gate_inp"},
    {NFLOAT_HF "block_sparse_moe.experts.{}.w1", NFLOAT_GGUF "ffn_gate_exps"},
    {NFLOAT_HF "block_sparse_moe.experts.{}.w3", NFLOAT_GGUF "ffn_up_exps"},
    {NFLOAT_HF "block_sparse_moe.experts.{}.w2", NFLOAT_GGUF "ffn_down_exps"},
    {NFLOAT_HF "block_sparse_moe.experts.gate_up_proj", NFLOAT_GGUF "ffn_gate_exps", kFirstHalf, true},
    {NFLOAT_HF "block_sparse_moe.experts.gate_up_proj", NFLOAT_GGUF "ffn_up_exps", kSecondHalf, true},
    {NFLOAT_HF "block_sparse_moe.experts.down_proj", NFLOAT_GGUF "ffn_down_exps", kSame, true},
};

constexpr GgufName kGptOss[] = {
    {NFLOAT_HF "post_attention_layernorm", NFLOAT_GGUF "post_attention_norm"},
    {NFLOAT_HF "self_attn.sinks", NFLOAT_GGUF "attn_sinks", kSame, true},
    {NFLOAT_HF "mlp.router", NFLOAT_GGUF "ffn_gate_inp"},
    {NFLOAT_HF "mlp.experts.gate_up_proj", NFLOAT_GGUF "ffn_gate_exps", kEven, true, true},
    {NFLOAT_HF "mlp.experts.gate_up_proj", NFLOAT_GGUF "ffn_up_exps", kOdd, true, true},
    {NFLOAT_HF "mlp.experts.down_proj", NFLOAT_GGUF "ffn_down_exps", kSame, true, true},
};

#undef NFLOAT_HF
#define NFLOAT_HF "transformer.h.{}."

constexpr GgufName kGpt2Names[] = {
    {"transformer.wte", "token_embd"},
    {"transformer.wpe", "position_embd"},
    {"transformer.ln_f", "output_norm"},
    {"lm_head", "output"},
    {NFLOAT_HF "ln_1", NFLOAT_GGUF "attn_norm"},
    {NFLOAT_HF "attn.c_attn", NFLOAT_GGUF "attn_qkv", kSame, false, true},
    {NFLOAT_HF "attn.c_proj", NFLOAT_GGUF "attn_output", kSame, false, true},
    {NFLOAT_HF "ln_2", NFLOAT_GGUF "ffn_norm"},
    {NFLOAT_HF "mlp.c_fc", NFLOAT_GGUF "ffn_up", kSame, false, true},
    {NFLOAT_HF "mlp.c_proj", NFLOAT_GGUF "ffn_down", kSame, false, true},
};

#undef NFLOAT_HF
#define NFLOAT_HF "gpt_neox.layers.{}."

constexpr GgufName kNeoxNames[] = {
    {"gpt_neox.embed_in", "token_embd"},
    {"gpt_neox.final_layer_norm", "output_norm"},
    {"embed_out", "output"},
    {NFLOAT_HF "input_layernorm", NFLOAT_GGUF "attn_norm"},
    {NFLOAT_HF "attention.query_key_value", NFLOAT_GGUF "attn_qkv", kThirds},
    {NFLOAT_HF "attention.dense", NFLOAT_GGUF "attn_output"},
    {NFLOAT_HF "post_attention_layernorm", NFLOAT_GGUF "ffn_norm"},
    {NFLOAT_HF "mlp.dense_h_to_4h", NFLOAT_GGUF "ffn_up"},
    {NFLOAT_HF "mlp.dense_4h_to_h", NFLOAT_GGUF "ffn_down"},
};
#undef NFLOAT_HF
#undef NFLOAT_GGUF

constexpr GgufConfigKey kGpt2Keys[] = {
    {"num_hidden_layers", "n_layer"},           {"hidden_size", "n_embd"},
    {"num_attention_heads", "n_head"},          {"intermediate_size", "n_inner"},
    {"max_position_embeddings", "n_positions"}, {"hidden_act", "activation_function"},
    {"norm_epsilon", "layer_norm_epsilon"}};
constexpr GgufConfigKey kNeoxKeys[] = {{"norm_epsilon", "layer_norm_eps"},
                                       {"rope_theta", "rotary_emb_base"},
                                       {"partial_rotary_factor", "rotary_pct"}};
constexpr GgufConfigKey kGemmaKeys[] = {{"hidden_act", "hidden_activation"}};
constexpr GgufConfigKey kLocalExpertsKeys[] = {{"num_experts", "num_local_experts"}};

constexpr std::string_view kGeluTanh = "gelu_pytorch_tanh";

constexpr GgufArchitecture kArchitectures[] = {
    {.model_type = "llama",
     .class_name = "LlamaForCausalLM",
     .gguf = "llama",
     .own_names = {},
     .names = kLlamaNames,
     .turned = true},
    {.model_type = "mistral",
     .class_name = "MistralForCausalLM",
     .gguf = "llama",
     .own_names = {},
     .names = kLlamaNames,
     .turned = true},
    {.model_type = "mixtral",
     .class_name = "MixtralForCausalLM",
     .gguf = "llama",
     .own_names = kMixtral,
     .names = kLlamaNames,
     .config_keys = kLocalExpertsKeys,
     .turned = true,
     .experts = true},
    {.model_type = "qwen2",
     .class_name = "Qwen2ForCausalLM",
     .gguf = "qwen2",
     .own_names = {},
     .names = kLlamaNames},
    {.model_type = "qwen3",
     .class_name = "Qwen3ForCausalLM",
     .gguf = "qwen3",
     .own_names = {},
     .names = kLlamaNames},
    {.model_type = "qwen3_moe",
     .class_name = "Qwen3MoeForCausalLM",
     .gguf = "qwen3moe",
     .own_names = kExperts,
     .names = kLlamaNames,
     .experts = true},
    {.model_type = "gemma2",
     .class_name = "Gemma2ForCausalLM",
     .gguf = "gemma2",
     .own_names = kFourNorms,
     .names = kLlamaNames,
     .config_keys = kGemmaKeys,
     .norm_plus_one = true,
     .head_tied = true,
     .activation = kGeluTanh},
    {.model_type = "gemma3_text",
     .class_name = "Gemma3ForCausalLM",
     .gguf = "gemma3",
     .own_names = kFourNorms,
     .names = kLlamaNames,
     .config_keys = kGemmaKeys,
     .norm_plus_one = true,
     .activation = kGeluTanh},
    {.model_type = "phi3",
     .class_name = "Phi3ForCausalLM",
     .gguf = "phi3",
     .own_names = kFused,
     .names = kLlamaNames},
    {.model_type = "granite",
     .class_name = "GraniteForCausalLM",
     .gguf = "granite",
     .own_names = {},
     .names = kLlamaNames,
     .turned = true},
    {.model_type = "olmo2",
     .class_name = "Olmo2ForCausalLM",
     .gguf = "olmo2",
     .own_names = kFourNorms,
     .names = kLlamaNames,
     .head_required = true},
    {.model_type = "olmoe",
     .class_name = "OlmoeForCausalLM",
     .gguf = "olmoe",
     .own_names = kExperts,
     .names = kLlamaNames,
     .experts = true,
     .head_required = true},
    {.model_type = "smollm3",
     .class_name = "SmolLM3ForCausalLM",
     .gguf = "smollm3",
     .own_names = {},
     .names = kLlamaNames,
     .turned = true},
    {.model_type = "gpt_oss",
     .class_name = "GptOssForCausalLM",
     .gguf = "gpt-oss",
     .own_names = kGptOss,
     .names = kLlamaNames,
     .config_keys = kLocalExpertsKeys,
     .experts = true,
     .head_required = true},
    {.model_type = "gpt2",
     .class_name = "GPT2LMHeadModel",
     .gguf = "gpt2",
     .own_names = {},
     .names = kGpt2Names,
     .config_keys = kGpt2Keys,
     .layer_norm = true,
     .activation = "gelu_new"},
    {.model_type = "gpt_neox",
     .class_name = "GPTNeoXForCausalLM",
     .gguf = "gptneox",
     .own_names = {},
     .names = kNeoxNames,
     .config_keys = kNeoxKeys,
     .head_required = true,
     .layer_norm = true,
     .activation = "gelu"},
};

// Takes a number of at most 6 digits off the front of `text`; -1 when there is none.
int64_t take_number(std::string_view& text) noexcept {
  size_t digits = 0;
  int64_t number = 0;
  for (; digits < text.size() && text[digits] >= '0' && text[digits] <= '9'; ++digits) {
    if (digits == 6) return -1;
    number = 10 * number + (text[digits] - '0');
  }
  if (digits == 0) return -1;
  text.remove_prefix(digits);
  return number;
}

// Whether `name` is `pattern` and then `rest`; numbers go where "{}" is.
bool match(std::string_view pattern, std::string_view name, int64_t (&numbers)[2], std::string_view& rest) {
  numbers[0] = numbers[1] = -1;
  for (size_t i = 0;; ++i) {
    const size_t hole = pattern.find("{}");
    const std::string_view part = pattern.substr(0, hole);
    if (!name.starts_with(part)) return false;
    name.remove_prefix(part.size());
    if (hole == std::string_view::npos) break;
    numbers[i] = take_number(name);
    if (numbers[i] < 0) return false;
    pattern.remove_prefix(hole + 2);
  }
  rest = name;
  return true;
}

std::string filled(std::string_view pattern, int64_t layer, int64_t expert) {
  std::string text;
  for (const int64_t number : {layer, expert}) {
    const size_t hole = pattern.find("{}");
    if (hole == std::string_view::npos) break;
    text += pattern.substr(0, hole);
    text += std::to_string(number);
    pattern.remove_prefix(hole + 2);
  }
  return text += pattern;
}

// Appends the matches of `name`; `from` chooses the side. False when the first one found ends the search.
void append_matches(std::span<const GgufName> names, std::string_view GgufName::*from, std::string_view name,
                    std::vector<GgufNameMatch>& matches) {
  for (const GgufName& entry : names) {
    int64_t numbers[2];
    std::string_view rest;
    if (!match(entry.*from, name, numbers, rest)) continue;
    const bool bare = entry.bare && from == &GgufName::huggingface;
    if (rest != (bare ? "" : ".weight") && rest != (bare ? "_bias" : ".bias")) continue;
    matches.push_back({&entry, numbers[0], numbers[1], rest.ends_with("bias")});
  }
}

std::vector<GgufNameMatch> match_name(const GgufArchitecture& architecture, std::string_view GgufName::*from,
                                      std::string_view name) {
  std::vector<GgufNameMatch> matches;
  append_matches(architecture.own_names, from, name, matches);
  if (matches.empty()) append_matches(architecture.names, from, name, matches);
  return matches;
}

}  // namespace

std::span<const GgufArchitecture> gguf_architectures() noexcept {
  return kArchitectures;
}

const GgufArchitecture* find_gguf_architecture(std::string_view gguf, bool experts, bool window) noexcept {
  const GgufArchitecture* first = nullptr;
  for (const GgufArchitecture& entry : kArchitectures) {
    if (entry.gguf != gguf) continue;
    if (first == nullptr) first = &entry;
    if (experts ? entry.experts : window && entry.model_type == "mistral") return &entry;
  }
  return first;
}

const GgufArchitecture* find_huggingface_architecture(std::string_view model_type) noexcept {
  for (const GgufArchitecture& entry : kArchitectures)
    if (entry.model_type == model_type) return &entry;
  return nullptr;
}

std::string gguf_architecture_names() {
  std::string names;
  for (const GgufArchitecture& entry : kArchitectures) {
    if (!names.empty()) names += ", ";
    names += entry.model_type;
  }
  return names;
}

std::string GgufNameMatch::gguf() const {
  return filled(name->gguf, layer, -1) + (bias ? ".bias" : ".weight");
}

std::string GgufNameMatch::huggingface(int64_t number) const {
  const char* suffix = name->bare ? (bias ? "_bias" : "") : (bias ? ".bias" : ".weight");
  return filled(name->huggingface, layer, number) + suffix;
}

bool GgufNameMatch::single_experts() const noexcept {
  const size_t hole = name->huggingface.find("{}");
  return hole != std::string_view::npos && name->huggingface.find("{}", hole + 2) != std::string_view::npos;
}

std::vector<GgufNameMatch> match_huggingface_name(const GgufArchitecture& architecture,
                                                  std::string_view name) {
  return match_name(architecture, &GgufName::huggingface, name);
}

std::vector<GgufNameMatch> match_gguf_name(const GgufArchitecture& architecture, std::string_view name) {
  return match_name(architecture, &GgufName::gguf, name);
}

int64_t GgufRowMap::huggingface(int64_t row) const noexcept {
  const int64_t at = row - first;
  switch (rows) {
    case kSame:
      return at;
    case kQuery:
    case kKey: {
      const int64_t within = at % head_dim;
      return at - within + within % 2 * (head_dim / 2) + within / 2;
    }
    case kThirds: {
      const int64_t third = count / 3, part = at / third, within = at % third;
      return (within / head_dim * 3 + part) * head_dim + within % head_dim;
    }
    case kFirstHalf:
      return at / group * 2 * group + at % group;
    case kSecondHalf:
      return at / group * 2 * group + group + at % group;
    case kEven:
      return 2 * at;
    case kOdd:
      return 2 * at + 1;
  }
  return at;
}

int64_t GgufRowMap::gguf(int64_t row) const noexcept {
  switch (rows) {
    case kSame:
      return first + row;
    case kQuery:
    case kKey: {
      const int64_t within = row % head_dim, half = head_dim / 2;
      return first + row - within + within % half * 2 + within / half;
    }
    case kThirds: {
      const int64_t head = row / (3 * head_dim), part = row / head_dim % 3;
      return first + part * (count / 3) + head * head_dim + row % head_dim;
    }
    case kFirstHalf:
    case kSecondHalf: {
      const int64_t within = row % (2 * group), half = rows == kSecondHalf ? 1 : 0;
      return within / group == half ? first + row / (2 * group) * group + within % group : -1;
    }
    case kEven:
      return row % 2 == 0 ? first + row / 2 : -1;
    case kOdd:
      return row % 2 == 1 ? first + row / 2 : -1;
  }
  return -1;
}

std::string make_row_map(const GgufArchitecture& architecture, const GgufNameMatch& match,
                         const GgufHeads& heads, int64_t gguf_rows, int64_t huggingface_rows, int64_t experts,
                         GgufRowMap& map) {
  const auto counts = [&](int64_t gguf, int64_t huggingface) {
    return std::to_string(gguf) + " rows in GGUF, " + std::to_string(huggingface) + " in Hugging Face's";
  };
  map = {};
  map.rows = match.name->rows;
  if ((map.rows == kQuery || map.rows == kKey) && !architecture.turned) map.rows = kSame;
  map.count = huggingface_rows;
  if (match.single_experts()) {
    if (huggingface_rows * experts != gguf_rows)
      return counts(gguf_rows, huggingface_rows) + " for each of " + std::to_string(experts) + " experts";
    map.first = match.expert * huggingface_rows;
    return {};
  }
  const bool half = map.rows >= kFirstHalf;
  if ((half ? 2 : 1) * gguf_rows != huggingface_rows) return counts(gguf_rows, huggingface_rows);
  if (half) {
    map.count = gguf_rows;
    if (experts < 1 || gguf_rows % experts != 0)
      return counts(gguf_rows, huggingface_rows) + ", which " + std::to_string(experts) +
             " experts do not divide";
    map.group = gguf_rows / experts;
    return {};
  }
  const int64_t count = map.rows == kKey      ? heads.kv_heads
                        : map.rows == kThirds ? 3 * heads.heads
                                              : heads.heads;
  if (map.rows == kSame) return {};
  if (count < 1 || gguf_rows % count != 0 || gguf_rows / count % 2 != 0)
    return std::to_string(gguf_rows) + " rows, which " + std::to_string(count) + " heads do not divide";
  map.head_dim = gguf_rows / count;
  return {};
}

}  // namespace nfloat
