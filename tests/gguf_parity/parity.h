// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TESTS_GGUF_PARITY_PARITY_H_
#define NFLOAT_TESTS_GGUF_PARITY_PARITY_H_

#include <string>

// The comparisons with llama.cpp; each prints a line or a table and returns the number of its failures.
// `folder` is for what they write.
namespace judge {

int compare_families(const std::string& folder);
int compare_blocks();
int compare_encoders();
int compare_tiny(const std::string& folder);
int compare_calibrated(const std::string& folder);
int compare_tokenizers(const std::string& folder);

}  // namespace judge

#endif  // NFLOAT_TESTS_GGUF_PARITY_PARITY_H_
