// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_LLAMA_CPP_ARCHITECTURES_H_
#define NFLOAT_LLAMA_CPP_ARCHITECTURES_H_

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

// How the two worlds call the same model and its tensors: data, from which reading and writing follow.
namespace nfloat {

// Where the rows of a GGUF tensor are in the Hugging Face tensor.
enum class GgufRows : uint8_t {
  kSame,
  kQuery,      // heads whose pairs are neighbours here and half a head apart there, if the family turns rows
  kKey,        // the same, with the number of key heads
  kThirds,     // all queries, all keys, all values; there query, key and value of one head after the other
  kFirstHalf,  // of every expert, rows of one tensor: gates before ups
  kSecondHalf,
  kEven,  // of every expert, rows of one tensor: gates and ups in turn
  kOdd,
};

// One tensor under its two names, without ".weight" or ".bias"; the first "{}" stands for the layer's number,
// the second for an expert's: single experts there are rows of one tensor here.
struct GgufName {
  std::string_view huggingface, gguf;
  GgufRows rows = GgufRows::kSame;
  bool bare = false;        // there: no ".weight", and "_bias"
  bool transposed = false;  // there, when plain: [in, out], or [experts, in, out]
};

// A key of config.json with another name in one family.
struct GgufConfigKey {
  std::string_view usual, own;
};

struct GgufArchitecture {
  std::string_view model_type;  // Hugging Face's
  std::string_view class_name;
  std::string_view gguf;
  std::span<const GgufName> own_names;  // before the common ones
  std::span<const GgufName> names;
  std::span<const GgufConfigKey> config_keys = {};
  bool turned = false;         // rows of query and key are in llama.cpp's order
  bool norm_plus_one = false;  // norm weights are stored with 1 added
  bool experts = false;        // in every layer
  bool head_required = false;  // llama.cpp wants a head beside the embedding
  bool head_tied = false;      // ... takes the embedding for it, whatever else there is
  bool layer_norm = false;     // with biases and "layer_norm_epsilon"
  std::string_view activation = "silu";
};

std::span<const GgufArchitecture> gguf_architectures() noexcept;
// Null when there is none. Several model types share a GGUF name: those with experts, with a window in every
// layer ("mistral"), or the first.
const GgufArchitecture* find_gguf_architecture(std::string_view gguf, bool experts, bool window) noexcept;
const GgufArchitecture* find_huggingface_architecture(std::string_view model_type) noexcept;
// "llama, mistral, qwen2": those of Hugging Face, for messages.
std::string gguf_architecture_names();

// A tensor's name taken apart.
struct GgufNameMatch {
  const GgufName* name = nullptr;  // null: there is no such name
  int64_t layer = -1;
  int64_t expert = -1;  // of a Hugging Face name
  bool bias = false;

  std::string gguf() const;
  // `expert`: for names of single experts.
  std::string huggingface(int64_t expert = -1) const;
  bool single_experts() const noexcept;
};

// Of a Hugging Face name; two where one tensor there is two here.
std::vector<GgufNameMatch> match_huggingface_name(const GgufArchitecture& architecture,
                                                  std::string_view name);
// Of a GGUF name: all Hugging Face layouts of the same tensor, the most usual first.
std::vector<GgufNameMatch> match_gguf_name(const GgufArchitecture& architecture, std::string_view name);

// The rows of one Hugging Face tensor among those of one GGUF tensor, which begin there at `first`.
struct GgufRowMap {
  GgufRows rows = GgufRows::kSame;
  int64_t first = 0;     // in the GGUF tensor
  int64_t count = 0;     // rows that they share
  int64_t head_dim = 1;  // kQuery, kKey, kThirds
  int64_t group = 1;     // kFirstHalf to kOdd: rows of one expert in the GGUF tensor

  // Row of the Hugging Face tensor that is row `row` of the GGUF one, first <= row < first + count.
  int64_t huggingface(int64_t row) const noexcept;
  // The reverse; -1 when the row is in another GGUF tensor.
  int64_t gguf(int64_t row) const noexcept;
};

// What the maps depend on.
struct GgufHeads {
  int64_t heads = 0, kv_heads = 0;
};

// `gguf_rows`: all rows of the GGUF tensor (product of all dimensions but the innermost; of a bias: its
// elements), `huggingface_rows` those of one Hugging Face tensor. Null text when they agree, else what is
// wrong.
std::string make_row_map(const GgufArchitecture& architecture, const GgufNameMatch& match,
                         const GgufHeads& heads, int64_t gguf_rows, int64_t huggingface_rows, int64_t experts,
                         GgufRowMap& map);

}  // namespace nfloat

#endif  // NFLOAT_LLAMA_CPP_ARCHITECTURES_H_
