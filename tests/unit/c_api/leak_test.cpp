// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "c_api/support.h"
#include "support/paths.h"
#include "support/sanitizer.h"

namespace nfloat::testing {
namespace {

constexpr int kCalls = 100'000;
constexpr int64_t kMostGrowth = int64_t{1} << 20;

int64_t resident_bytes() {
  long total = 0, resident = 0;
  std::FILE* file = std::fopen("/proc/self/statm", "r");
  if (file == nullptr || std::fscanf(file, "%ld %ld", &total, &resident) != 2) resident = 0;
  if (file != nullptr) std::fclose(file);
  return int64_t{resident} * ::sysconf(_SC_PAGESIZE);
}

// Memory after many calls against that after a few.
void expect_no_growth(const char* what, int calls, const std::function<void()>& call) {
  for (int i = 0; i < calls / 50 + 10; ++i) call();
  const int64_t before = resident_bytes();
  for (int i = 0; i < calls; ++i) call();
  EXPECT_LE(resident_bytes() - before, kMostGrowth) << what << ", " << calls << " calls";
}

class CLeaks : public ::testing::Test {
 protected:
  void SetUp() override {
    if (kSanitized) GTEST_SKIP() << "resident memory says nothing under sanitizers";
    ASSERT_EQ(nfloat_make_codebook("nf4", 0, codebook_.place(), nullptr), NFLOAT_OK);
  }
  Owned<nfloat_codebook, nfloat_codebook_free> codebook_;
  std::vector<float> values_ = std::vector<float>(64, 0.5f);
  nfloat_tensor tensor_ = {values_.data(), NFLOAT_F32, 1, {64}};
};

TEST_F(CLeaks, QuantizingAndProducts) {
  nfloat_quantized_view view = defaults<nfloat_quantized_view>();
  expect_no_growth("quantize, view, dequantize", kCalls, [&] {
    nfloat_quantized_tensor* tensor = nullptr;
    nfloat_quantize_blockwise(&tensor_, codebook_, nullptr, &tensor, nullptr);
    nfloat_quantized_tensor_view(tensor, &view, nullptr);
    nfloat_dequantize_blockwise(&view, NFLOAT_F32, values_.data(), 256, 1, nullptr);
    nfloat_quantized_tensor_free(tensor);
  });
  std::vector<uint8_t> codes(32);
  float scale = 0;
  expect_no_growth("quantize into", kCalls, [&] {
    nfloat_quantize_blockwise_into(&tensor_, codebook_, nullptr, codes.data(), codes.size(), &scale, 1,
                                   nullptr, 0, nullptr, 0, nullptr, nullptr);
  });
  nfloat_quantized_tensor* square = nullptr;
  nfloat_tensor matrix = {values_.data(), NFLOAT_F32, 2, {8, 8}};
  ASSERT_EQ(nfloat_quantize_blockwise(&matrix, codebook_, nullptr, &square, nullptr), NFLOAT_OK);
  ASSERT_EQ(nfloat_quantized_tensor_view(square, &view, nullptr), NFLOAT_OK);
  expect_no_growth("pack, multiply, unpack", kCalls / 10, [&] {
    nfloat_packed_matrix* packed = nullptr;
    nfloat_packed_matrix_pack(&view, 1, &packed, nullptr);
    nfloat_activations* x = nfloat_activations_create();
    nfloat_activations_assign(x, &matrix, nullptr);
    std::vector<float> y(64);
    nfloat_linear(packed, x, nullptr, y.data(), 256, nullptr);
    nfloat_linear_transposed(packed, x, nullptr, y.data(), 256, nullptr);
    nfloat_packed_matrix_unpack(packed, codes.data(), codes.size(), nullptr);
    nfloat_activations_free(x);
    nfloat_packed_matrix_free(packed);
  });
  view.quant_type[0] = 'n', view.quant_type[1] = 'f', view.quant_type[2] = '4';
  expect_no_growth("quant_state", kCalls, [&] {
    nfloat_buffer* json = nullptr;
    nfloat_format_quant_state(&view, &json, nullptr);
    nfloat_quantized_view parsed = defaults<nfloat_quantized_view>();
    nfloat_parse_quant_state(static_cast<const char*>(nfloat_buffer_data(json)), nfloat_buffer_bytes(json),
                             &parsed, nullptr);
    nfloat_buffer_free(json);
  });
  nfloat_quantized_tensor_free(square);
}

TEST_F(CLeaks, Failures) {
  const nfloat_tensor nowhere = {nullptr, NFLOAT_F32, 1, {64}};
  expect_no_growth("failing calls", kCalls, [&] {
    nfloat_error* error = nullptr;
    nfloat_quantized_tensor* tensor = nullptr;
    nfloat_quantize_blockwise(&nowhere, codebook_, nullptr, &tensor, &error);
    nfloat_error_free(error);
    error = nullptr;
    nfloat_buffer* json = nullptr;
    nfloat_analyze_weights(&nowhere, 0, &json, &error);
    nfloat_error_free(error);
    nfloat_codebook* codebook = nullptr;
    nfloat_make_codebook("nf9", 0, &codebook, nullptr);
    nfloat_report_page("[]", 2, &json, nullptr);
  });
}

TEST_F(CLeaks, ModelsAndFiles) {
  const std::string tiny = source_path("/models/nfloat-tiny");
  Model model;
  TokenizerHandle tokenizer;
  ASSERT_EQ(nfloat_model_load(tiny.c_str(), nullptr, nullptr, model.place(), nullptr), NFLOAT_OK);
  ASSERT_EQ(nfloat_tokenizer_load(tiny.c_str(), tokenizer.place(), nullptr), NFLOAT_OK);
  expect_no_growth("encode, decode", kCalls, [&] {
    nfloat_buffer *tokens = nullptr, *text = nullptr;
    nfloat_tokenizer_encode(tokenizer, "the lamp", 8, 0, &tokens, nullptr);
    nfloat_tokenizer_decode(tokenizer, static_cast<const int32_t*>(nfloat_buffer_data(tokens)),
                            nfloat_buffer_bytes(tokens) / 4, 0, &text, nullptr);
    nfloat_buffer_free(tokens);
    nfloat_buffer_free(text);
  });
  const int32_t prompt[] = {5, 6};
  nfloat_generator_options options = defaults<nfloat_generator_options>();
  options.max_tokens = 1;
  options.top_logprobs = 2;
  expect_no_growth("sessions and generators", 1000, [&] {
    nfloat_session* session = nullptr;
    nfloat_session_create(model, nullptr, &session, nullptr);
    nfloat_generator* generator = nullptr;
    nfloat_generator_create(session, tokenizer, prompt, 2, &options, &generator, nullptr);
    nfloat_token token;
    nfloat_generator_next(generator, nullptr, &token, nullptr);
    nfloat_buffer* json = nullptr;
    nfloat_generator_result(generator, &json, nullptr);
    nfloat_buffer_free(json);
    nfloat_generator_free(generator);
    nfloat_session_free(session);
  });
  expect_no_growth("checkpoints", 1000, [&] {
    nfloat_checkpoint* checkpoint = nullptr;
    nfloat_checkpoint_open(tiny.c_str(), nullptr, &checkpoint, nullptr);
    nfloat_tensor view;
    nfloat_checkpoint_view(checkpoint, "model.norm.weight", &view, nullptr);
    nfloat_buffer* json = nullptr;
    nfloat_checkpoint_describe(checkpoint, &json, nullptr);
    nfloat_buffer_free(json);
    nfloat_checkpoint_free(checkpoint);
  });
}

}  // namespace
}  // namespace nfloat::testing
