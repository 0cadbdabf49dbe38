// SPDX-License-Identifier: Apache-2.0
// gguf_judge LIBRARIES FOLDER: llama.cpp, from a package, on the files that this library writes, and the
// other way round. Exit status 1 when anything differs by more than it may.
#include <cstdio>
#include <exception>

#include "llama_cpp.h"
#include "parity.h"

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: gguf_judge LIBRARIES FOLDER\n");
    return 2;
  }
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  const std::string folder = argv[2];
  int failures = 0;
  try {
    judge::LlamaCpp::start(argv[1]);
    failures += judge::compare_blocks();
    failures += judge::compare_encoders();
    failures += judge::compare_families(folder);
    failures += judge::compare_tiny(folder);
    failures += judge::compare_calibrated(folder);
    failures += judge::compare_tokenizers(folder);
  } catch (const std::exception& error) {
    std::printf("FAILED: %s\n", error.what());
    return 1;
  }
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
