// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_GGUF_NAMES_H_
#define NFLOAT_GGUF_NAMES_H_

#include <cstdint>
#include <string>
#include <string_view>

namespace nfloat {

// One architecture under its two names.
struct GgufArchitecture {
  std::string_view model_type;  // Hugging Face's
  std::string_view class_name;
  std::string_view gguf;
  // Rows of query and key are stored in another order: Hugging Face turns element i of a head against element
  // i + half, GGUF against its neighbour.
  bool interleaved;
};

// Null when there is none. Several model types share a GGUF name; the first in the table is taken back.
const GgufArchitecture* find_gguf_architecture(std::string_view gguf) noexcept;
const GgufArchitecture* find_huggingface_architecture(std::string_view model_type) noexcept;
// "llama, mistral, qwen2": those of Hugging Face, for messages.
std::string gguf_architecture_names();

// "model.layers.3.self_attn.q_proj.weight" <-> "blk.3.attn_q.weight". Empty when there is no such name.
std::string gguf_tensor_name(std::string_view huggingface);
std::string huggingface_tensor_name(std::string_view gguf);

// Whose rows are interleaved, if the architecture does that: 'q', 'k', or 0. Takes the Hugging Face name.
char interleaved_rows(std::string_view huggingface) noexcept;

// Row of the Hugging Face matrix that is row `row` of the interleaved one.
inline int64_t plain_row(int64_t row, int64_t head_dim) noexcept {
  const int64_t head = row / head_dim, within = row % head_dim;
  return head * head_dim + within % 2 * (head_dim / 2) + within / 2;
}

// The reverse: row of the interleaved matrix that is row `row` of the Hugging Face one.
inline int64_t interleaved_row(int64_t row, int64_t head_dim) noexcept {
  const int64_t head = row / head_dim, within = row % head_dim, half = head_dim / 2;
  return head * head_dim + within % half * 2 + within / half;
}

}  // namespace nfloat

#endif  // NFLOAT_GGUF_NAMES_H_
