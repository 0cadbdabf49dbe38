// SPDX-License-Identifier: Apache-2.0
#include "cli/checkpoint_maker.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <random>
#include <sstream>
#include <stdexcept>

namespace nfloat::cli_test {
namespace {

struct Tensor {
  std::string name;
  int64_t rows, columns;  // columns 0: one dimension
  uint64_t bytes() const { return static_cast<uint64_t>(rows * std::max<int64_t>(columns, 1)) * 2; }
};

constexpr int64_t kHidden = 4096;

// Whole layers until the size is reached.
std::vector<Tensor> layout(const SyntheticModel& model, int64_t* layers) {
  std::vector<Tensor> tensors = {{"model.embed_tokens.weight", 1024, kHidden}};
  uint64_t bytes = tensors[0].bytes();
  if (model.largest_tensor_bytes > 0) {
    const auto rows = static_cast<int64_t>(model.largest_tensor_bytes / 2 / kHidden);
    tensors.push_back(
        {"model.beside.huge_proj.weight", rows, kHidden});  // of no layer: none would be read with it
    bytes += tensors.back().bytes();
  }
  *layers = 0;
  while (bytes < model.bytes) {
    std::string layer = "model.layers.";
    layer.append(std::to_string((*layers)++)).append(".");
    for (const auto& [name, rows, columns] :
         std::vector<Tensor>{{"input_layernorm.weight", kHidden, 0},
                             {"self_attn.q_proj.weight", kHidden, kHidden},
                             {"self_attn.k_proj.weight", 1024, kHidden},
                             {"self_attn.v_proj.weight", 1024, kHidden},
                             {"self_attn.o_proj.weight", kHidden, kHidden},
                             {"post_attention_layernorm.weight", kHidden, 0},
                             {"mlp.gate_proj.weight", 2 * kHidden, kHidden},
                             {"mlp.up_proj.weight", 2 * kHidden, kHidden},
                             {"mlp.down_proj.weight", kHidden, 2 * kHidden}}) {
      tensors.push_back({layer + name, rows, columns});
      bytes += tensors.back().bytes();
    }
  }
  tensors.push_back({"model.norm.weight", kHidden, 0});
  return tensors;
}

// Float32 bits to float16, cut; numbers below its normal ones are zeros.
uint16_t cut_to_f16(uint32_t bits) {
  const uint32_t sign = bits >> 16 & 0x8000, exponent = bits >> 23 & 0xff;
  return static_cast<uint16_t>(exponent < 113 ? sign : sign | (exponent - 112) << 10 | (bits >> 13 & 0x3ff));
}

// A few megabytes of N(0, 0.02); files repeat it from moving starts.
std::vector<uint16_t> gaussian(bool f16) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0.0F, 0.02F);
  std::vector<uint16_t> values(1 << 21);
  for (uint16_t& value : values) {
    const auto bits = std::bit_cast<uint32_t>(normal(random));
    value = f16 ? cut_to_f16(bits) : static_cast<uint16_t>(bits >> 16);
  }
  return values;
}

void write_shard(const std::filesystem::path& path, const std::vector<Tensor>& tensors,
                 const std::vector<uint16_t>& noise, bool f16) {
  std::ostringstream header;
  uint64_t end = 0;
  for (const Tensor& tensor : tensors) {
    const std::vector<int64_t> shape =
        tensor.columns == 0 ? std::vector{tensor.rows} : std::vector{tensor.rows, tensor.columns};
    header << (end > 0 ? ',' : '{')
           << entry(tensor.name, f16 ? "F16" : "BF16", shape, end, end + tensor.bytes());
    end += tensor.bytes();
  }
  header << '}';
  std::ofstream out(path, std::ios::binary);
  out << safetensors_bytes(header.str(), "");
  const auto* bytes = reinterpret_cast<const char*>(noise.data());
  const uint64_t period = noise.size() * 2;
  uint64_t start = 0;
  for (uint64_t done = 0; done < end;) {
    const uint64_t piece = std::min(end - done, period - start);
    out.write(bytes + start, static_cast<std::streamsize>(piece));
    done += piece;
    start = (start + piece + 8192 + 2 * 331) % period / 2 * 2;
  }
  if (!out.flush().good()) throw std::runtime_error(path.string() + ": cannot write");
}

}  // namespace

std::string safetensors_bytes(const std::string& header, const std::string& data) {
  std::string bytes(8, '\0');
  for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(header.size() >> (8 * i) & 0xff);
  return bytes.append(header).append(data);
}

std::string entry(const std::string& name, const std::string& dtype, const std::vector<int64_t>& shape,
                  uint64_t begin, uint64_t end) {
  std::ostringstream out;
  out << '"' << name << R"(":{"dtype":")" << dtype << R"(","shape":[)";
  for (size_t i = 0; i < shape.size(); ++i) out << (i > 0 ? "," : "") << shape[i];
  out << R"(],"data_offsets":[)" << begin << ',' << end << "]}";
  return out.str();
}

std::string plain_file(int64_t rows, int64_t columns) {
  std::string data(static_cast<size_t>(rows * columns) * 4, '\0');
  for (int64_t i = 0; i < rows * columns; ++i) {
    const float value = std::sin(static_cast<float>(i) * 0.7F) * 0.9F;
    std::memcpy(data.data() + i * 4, &value, 4);
  }
  std::string header = "{";
  header.append(entry("weight", "F32", {rows, columns}, 0, data.size())).append("}");
  return safetensors_bytes(header, data);
}

uint64_t make_checkpoint(const std::filesystem::path& folder, const SyntheticModel& model) {
  std::filesystem::create_directories(folder);
  int64_t layers = 0;
  const std::vector<Tensor> tensors = layout(model, &layers);
  std::vector<std::vector<Tensor>> shards(1);
  uint64_t in_shard = 0, total = 0;
  for (const Tensor& tensor : tensors) {
    if (!shards.back().empty() && in_shard + tensor.bytes() > model.shard_bytes) {
      shards.emplace_back();
      in_shard = 0;
    }
    shards.back().push_back(tensor);
    in_shard += tensor.bytes();
    total += tensor.bytes();
  }
  const std::vector<uint16_t> noise = gaussian(model.f16);
  std::ostringstream map;
  for (size_t i = 0; i < shards.size(); ++i) {
    char name[64] = "model.safetensors";
    if (shards.size() > 1)
      std::snprintf(name, sizeof(name), "model-%05zu-of-%05zu.safetensors", i + 1, shards.size());
    write_shard(folder / name, shards[i], noise, model.f16);
    for (const Tensor& tensor : shards[i]) {
      map << (map.tellp() > 0 ? ",\"" : "\"") << tensor.name << "\":\"" << name << '"';
    }
  }
  if (shards.size() > 1) {
    std::ofstream(folder / "model.safetensors.index.json")
        << "{\"metadata\":{\"total_size\":" << total << "},\"weight_map\":{" << map.str() << "}}\n";
  }
  std::ofstream(folder / "config.json")
      << "{\"architectures\":[\"LlamaForCausalLM\"],\"model_type\":\"llama\",\"hidden_size\":" << kHidden
      << ",\"intermediate_size\":" << 2 * kHidden << ",\"num_hidden_layers\":" << layers
      << ",\"num_attention_heads\":32,\"num_key_value_heads\":8,\"vocab_size\":1024,\"rms_norm_eps\":1e-05,"
         "\"max_position_embeddings\":4096,\"tie_word_embeddings\":true,\"torch_dtype\":\""
      << (model.f16 ? "float16" : "bfloat16") << "\"}\n";
  return total;
}

}  // namespace nfloat::cli_test
