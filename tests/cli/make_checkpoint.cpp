// SPDX-License-Identifier: Apache-2.0
// make_checkpoint FOLDER GIGABYTES [LARGEST_TENSOR_GIGABYTES]: a synthetic sharded bf16 checkpoint to measure
// with.
#include <cstdio>
#include <cstdlib>
#include <exception>

#include "cli/checkpoint_maker.h"

int main(int argc, char** argv) {
  if (argc < 3 || argc > 4) {
    std::fprintf(stderr, "usage: make_checkpoint FOLDER GIGABYTES [LARGEST_TENSOR_GIGABYTES]\n");
    return 2;
  }
  nfloat::cli_test::SyntheticModel model;
  model.bytes = static_cast<uint64_t>(std::strtod(argv[2], nullptr) * 1e9);
  if (argc == 4) model.largest_tensor_bytes = static_cast<uint64_t>(std::strtod(argv[3], nullptr) * 1e9);
  try {
    const uint64_t bytes = nfloat::cli_test::make_checkpoint(argv[1], model);
    std::printf("%s: %.3f GB of bf16 weights\n", argv[1], static_cast<double>(bytes) / 1e9);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "make_checkpoint: %s\n", error.what());
    return 1;
  }
  return 0;
}
