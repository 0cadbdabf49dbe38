// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TESTS_CLI_CHECKPOINT_MAKER_H_
#define NFLOAT_TESTS_CLI_CHECKPOINT_MAKER_H_

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

// Checkpoints for tests, written by hand: independent of the library's own writer, so that they may also lie.
namespace nfloat::cli_test {

// The 8 bytes of length, the header as given, then `data`.
std::string safetensors_bytes(const std::string& header, const std::string& data);

// One header entry: "name":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}.
std::string entry(const std::string& name, const std::string& dtype, const std::vector<int64_t>& shape,
                  uint64_t begin, uint64_t end);

// One F32 tensor "weight" of [rows, columns], values of a fixed sequence in (-1, 1).
std::string plain_file(int64_t rows, int64_t columns);

struct SyntheticModel {
  uint64_t bytes = 0;                 // of weights, about
  uint64_t largest_tensor_bytes = 0;  // one tensor of this size as well; 0: none
  uint64_t shard_bytes = 2'000'000'000;
  bool f16 = false;  // instead of bf16
};

// A Llama-shaped 16-bit checkpoint folder with Gaussian weights: shards, index, config.json. Returns the
// bytes of its weights.
uint64_t make_checkpoint(const std::filesystem::path& folder, const SyntheticModel& model);

}  // namespace nfloat::cli_test

#endif  // NFLOAT_TESTS_CLI_CHECKPOINT_MAKER_H_
