// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "base/json.h"
#include "c_api/support.h"
#include "nfloat/checkpoint.h"
#include "nfloat/nfloat.h"
#include "support/files.h"
#include "support/paths.h"

namespace nfloat {
namespace {

// The layout that programs were compiled with (64-bit): a field that moves needs another NFLOAT_ABI_VERSION.
static_assert(NFLOAT_ABI_VERSION == 1 && sizeof(void*) == 8);
static_assert(sizeof(nfloat_tensor) == 80 && offsetof(nfloat_tensor, shape) == 16);
static_assert(sizeof(nfloat_quantize_options) == 32 && offsetof(nfloat_quantize_options, threads) == 28);
static_assert(sizeof(nfloat_quantized_view) == 168 && offsetof(nfloat_quantized_view, codes) == 88 &&
              offsetof(nfloat_quantized_view, scales) == 112 &&
              offsetof(nfloat_quantized_view, nested_offset) == 152 &&
              offsetof(nfloat_quantized_view, quant_type) == 156);
static_assert(sizeof(nfloat_tensor_info) == 120 && offsetof(nfloat_tensor_info, companion) == 116);
static_assert(sizeof(nfloat_checkpoint_options) == 16);
static_assert(sizeof(nfloat_linear_options) == 32 && offsetof(nfloat_linear_options, output) == 24);
static_assert(sizeof(nfloat_model_options) == 48 && offsetof(nfloat_model_options, threads) == 32 &&
              offsetof(nfloat_model_options, device) == 40 && sizeof(nfloat_session_options) == 32);
static_assert(sizeof(nfloat_batch_entry) == 24 && sizeof(nfloat_perplexity_options) == 32 &&
              sizeof(nfloat_perplexity_result) == 48 && sizeof(nfloat_codebook_error_result) == 32);
static_assert(sizeof(nfloat_quantize_checkpoint_options) == 80 &&
              offsetof(nfloat_quantize_checkpoint_options, storage) == 24 &&
              offsetof(nfloat_quantize_checkpoint_options, skip) == 32 &&
              offsetof(nfloat_quantize_checkpoint_options, shard_bytes) == 64 &&
              offsetof(nfloat_quantize_checkpoint_options, overwrite) == 72);
static_assert(sizeof(nfloat_convert_options) == 56 && offsetof(nfloat_convert_options, keep_packed) == 24 &&
              offsetof(nfloat_convert_options, part_bytes) == 32 &&
              offsetof(nfloat_convert_options, threads) == 48);
static_assert(sizeof(nfloat_sampler_options) == 40 && offsetof(nfloat_sampler_options, temperature) == 24 &&
              offsetof(nfloat_sampler_options, repetition_penalty) == 36);
static_assert(sizeof(nfloat_generator_options) == 64 && offsetof(nfloat_generator_options, stop) == 24 &&
              offsetof(nfloat_generator_options, end_tokens) == 40 &&
              offsetof(nfloat_generator_options, ignore_end) == 56);
static_assert(sizeof(nfloat_token) == 32 && offsetof(nfloat_token, log_probability) == 16 &&
              offsetof(nfloat_token, token) == 24 && offsetof(nfloat_token, finish) == 28);
static_assert(sizeof(nfloat_compare_options) == 64 && offsetof(nfloat_compare_options, scoring) == 24 &&
              offsetof(nfloat_compare_options, budget_bytes) == 40 &&
              offsetof(nfloat_compare_options, threads) == 56);
static_assert(NFLOAT_FINISH_NONE == 0 && NFLOAT_FINISH_END == 1 && NFLOAT_FINISH_STOP == 2 &&
              NFLOAT_FINISH_LENGTH == 3 && NFLOAT_FINISH_CONTEXT == 4);

const std::filesystem::path kGolden = testing::source_path("/tests/golden/bitsandbytes");
const std::string kTiny = testing::source_path("/models/nfloat-tiny");

using testing::taken;

nfloat_tensor tensor_of(const TensorView& view) {
  nfloat_tensor tensor = {};
  tensor.data = view.data();
  tensor.dtype = static_cast<nfloat_dtype>(view.dtype) + 1;
  tensor.rank = static_cast<int32_t>(view.shape.rank());
  for (size_t i = 0; i < view.shape.rank(); ++i) tensor.shape[i] = view.shape[i];
  return tensor;
}

bool same(const void* bytes, const TensorView& expected) {
  return std::memcmp(bytes, expected.bytes.data(), expected.bytes.size()) == 0;
}

TEST(CApi, GoldenBytesIntoTheCallersMemoryAndBack) {
  size_t cases = 0;
  for (const auto& entry : Json::parse(testing::read_file(kGolden / "cases.json"))) {
    const std::string name = entry.at("case").text();
    SCOPED_TRACE(name);
    ++cases;
    const Checkpoint file((kGolden / (name + ".safetensors")).string());
    const QuantizedView expected = file.quantized("weight");
    const TensorView input = file.view("input");
    const TensorView output = file.view("dequantized");
    nfloat_error* error = nullptr;
    nfloat_codebook* codebook = nullptr;
    ASSERT_EQ(nfloat_make_codebook(expected.quant_type.c_str(), 0, &codebook, &error), NFLOAT_OK)
        << taken(error);
    EXPECT_TRUE(same(nfloat_codebook_levels(codebook), expected.quant_map));
    nfloat_quantize_options options = {};
    options.struct_size = sizeof options;
    options.block_size = expected.block_size;
    options.double_quantization = expected.nested ? 1 : 0;
    const nfloat_tensor weights = tensor_of(input);
    const auto elements = static_cast<size_t>(input.elements());
    const auto block = static_cast<size_t>(expected.block_size);
    const size_t blocks = (elements + block - 1) / block;
    std::vector<uint8_t> codes((elements + 1) / 2), nested_codes(expected.nested ? blocks : 0);
    std::vector<float> scales(expected.nested ? 0 : blocks),
        absmax(expected.nested ? (blocks + 255) / 256 : 0);
    float offset = 0;
    ASSERT_EQ(nfloat_quantize_blockwise_into(&weights, codebook, &options, codes.data(), codes.size(),
                                             expected.nested ? nullptr : scales.data(), scales.size(),
                                             expected.nested ? nested_codes.data() : nullptr,
                                             nested_codes.size(), expected.nested ? absmax.data() : nullptr,
                                             absmax.size(), expected.nested ? &offset : nullptr, &error),
              NFLOAT_OK)
        << taken(error);
    EXPECT_TRUE(same(codes.data(), expected.codes));
    EXPECT_TRUE(same(expected.nested ? static_cast<const void*>(nested_codes.data()) : scales.data(),
                     expected.absmax));
    if (expected.nested) {
      EXPECT_TRUE(same(absmax.data(), expected.nested_absmax));
      EXPECT_EQ(offset, expected.nested_offset);
    }
    nfloat_quantized_tensor* tensor = nullptr;
    ASSERT_EQ(nfloat_quantize_blockwise(&weights, codebook, &options, &tensor, &error), NFLOAT_OK)
        << taken(error);
    nfloat_quantized_view view = {};
    view.struct_size = sizeof view;
    ASSERT_EQ(nfloat_quantized_tensor_view(tensor, &view, &error), NFLOAT_OK) << taken(error);
    EXPECT_EQ(view.quant_type, expected.quant_type);
    EXPECT_TRUE(same(view.codes, expected.codes));
    std::vector<std::byte> restored(output.bytes.size());
    ASSERT_EQ(nfloat_dequantize_blockwise(&view, tensor_of(output).dtype, restored.data(), restored.size(), 1,
                                          &error),
              NFLOAT_OK)
        << taken(error);
    EXPECT_TRUE(same(restored.data(), output));
    nfloat_quantized_tensor_free(tensor);
    nfloat_codebook_free(codebook);
  }
  EXPECT_GT(cases, 0u);
}

TEST(CApi, DoubleQuantizedIntoTheCallersMemoryIsTheOwnTensorsForEveryScale) {
  constexpr size_t kElements = 64 * 300;
  std::vector<float> weights(kElements);
  for (size_t i = 0; i < kElements; ++i)
    weights[i] = std::sin(0.7f * static_cast<float>(i)) * static_cast<float>(i % 997);
  const nfloat_tensor from = tensor_of({DType::kF32, {300, 64}, std::as_bytes(std::span(weights))});
  nfloat_error* error = nullptr;
  nfloat_codebook* codebook = nullptr;
  ASSERT_EQ(nfloat_make_codebook("nf4", 0, &codebook, &error), NFLOAT_OK) << taken(error);
  for (const nfloat_scale_method scale : {NFLOAT_SCALE_ABSMAX, NFLOAT_SCALE_SEARCH, NFLOAT_SCALE_SIGNED}) {
    nfloat_quantize_options options = {};
    options.struct_size = sizeof options;
    options.scale = scale;
    options.double_quantization = 1;
    nfloat_quantized_tensor* tensor = nullptr;
    ASSERT_EQ(nfloat_quantize_blockwise(&from, codebook, &options, &tensor, &error), NFLOAT_OK)
        << taken(error);
    nfloat_quantized_view view = {};
    view.struct_size = sizeof view;
    ASSERT_EQ(nfloat_quantized_tensor_view(tensor, &view, &error), NFLOAT_OK) << taken(error);
    std::vector<uint8_t> codes(kElements / 2), nested_codes(300);
    std::vector<float> absmax(2);
    float offset = 0;
    ASSERT_EQ(nfloat_quantize_blockwise_into(&from, codebook, &options, codes.data(), codes.size(), nullptr,
                                             0, nested_codes.data(), nested_codes.size(), absmax.data(),
                                             absmax.size(), &offset, &error),
              NFLOAT_OK)
        << taken(error);
    EXPECT_EQ(std::memcmp(codes.data(), view.codes, codes.size()), 0) << scale;
    EXPECT_EQ(std::memcmp(nested_codes.data(), view.nested_codes, nested_codes.size()), 0) << scale;
    EXPECT_EQ(std::memcmp(absmax.data(), view.nested_absmax, sizeof(float) * absmax.size()), 0) << scale;
    EXPECT_EQ(offset, view.nested_offset) << scale;
    nfloat_quantized_tensor_free(tensor);
  }
  nfloat_codebook_free(codebook);
}

TEST(CApi, ProductsAreSumsOfTheRowsThatThePackedMatrixGives) {
  constexpr int64_t kOut = 17, kIn = 128, kRows = 3;
  std::vector<float> weights(kOut * kIn), x(kRows * kIn), y(kRows * kOut), row(kIn);
  for (size_t i = 0; i < weights.size(); ++i) weights[i] = std::sin(0.7f * static_cast<float>(i));
  for (size_t i = 0; i < x.size(); ++i) x[i] = std::cos(0.3f * static_cast<float>(i));
  for (const int32_t nested : {0, 1}) {
    nfloat_codebook* codebook = nullptr;
    nfloat_quantized_tensor* tensor = nullptr;
    nfloat_packed_matrix* matrix = nullptr;
    nfloat_error* error = nullptr;
    ASSERT_EQ(nfloat_make_codebook("nf4", 0, &codebook, &error), NFLOAT_OK) << taken(error);
    nfloat_quantize_options options = {};
    options.struct_size = sizeof options;
    options.double_quantization = nested;
    const nfloat_tensor from = tensor_of({DType::kF32, {kOut, kIn}, std::as_bytes(std::span(weights))});
    ASSERT_EQ(nfloat_quantize_blockwise(&from, codebook, &options, &tensor, &error), NFLOAT_OK)
        << taken(error);
    nfloat_quantized_view view = {};
    view.struct_size = sizeof view;
    ASSERT_EQ(nfloat_quantized_tensor_view(tensor, &view, &error), NFLOAT_OK) << taken(error);
    ASSERT_EQ(nfloat_packed_matrix_pack(&view, 1, &matrix, &error), NFLOAT_OK) << taken(error);
    nfloat_quantized_tensor_free(tensor);
    EXPECT_EQ(nfloat_packed_matrix_rows(matrix), kOut);
    nfloat_activations* activations = nfloat_activations_create();
    const nfloat_tensor rows = tensor_of({DType::kF32, {kRows, kIn}, std::as_bytes(std::span(x))});
    ASSERT_EQ(nfloat_activations_assign(activations, &rows, &error), NFLOAT_OK) << taken(error);
    nfloat_linear_options exact = {};
    exact.struct_size = sizeof exact;
    exact.precision = NFLOAT_PRECISION_F32;
    ASSERT_EQ(nfloat_linear(matrix, activations, &exact, y.data(), y.size() * sizeof(float), &error),
              NFLOAT_OK)
        << taken(error);
    for (int64_t n = 0; n < kOut; ++n) {
      ASSERT_EQ(nfloat_packed_matrix_dequantize_row(matrix, n, row.data(), row.size(), &error), NFLOAT_OK);
      for (int64_t m = 0; m < kRows; ++m) {
        double sum = 0, absolute = 0;
        for (int64_t k = 0; k < kIn; ++k) {
          const double product = double{x[static_cast<size_t>(m * kIn + k)]} * row[static_cast<size_t>(k)];
          sum += product;
          absolute += std::abs(product);
        }
        EXPECT_NEAR(y[static_cast<size_t>(m * kOut + n)], sum, 1e-6 * absolute + 1e-6);
      }
    }
    nfloat_activations_free(activations);
    nfloat_packed_matrix_free(matrix);
    nfloat_codebook_free(codebook);
  }
}

TEST(CApi, ACheckpointShowsItsTensorsAndItsQuantizedWeights) {
  const std::string path = (kGolden / "fp4_bf16.safetensors").string();
  const Checkpoint file(path);
  nfloat_error* error = nullptr;
  nfloat_checkpoint* checkpoint = nullptr;
  ASSERT_EQ(nfloat_checkpoint_open(path.c_str(), nullptr, &checkpoint, &error), NFLOAT_OK) << taken(error);
  ASSERT_EQ(nfloat_checkpoint_tensors(checkpoint), file.tensors().size());
  int quantized = 0, companions = 0;
  for (size_t i = 0; i < file.tensors().size(); ++i) {
    nfloat_tensor_info info = {};
    info.struct_size = sizeof info;
    ASSERT_EQ(nfloat_checkpoint_tensor_info(checkpoint, i, &info, &error), NFLOAT_OK) << taken(error);
    EXPECT_EQ(info.name, file.tensors()[i].name);
    EXPECT_EQ(info.bytes, file.tensors()[i].bytes);
    quantized += info.quantized;
    companions += info.companion;
  }
  EXPECT_EQ(quantized, 1);
  EXPECT_EQ(static_cast<size_t>(companions), file.companions("weight").size());
  nfloat_quantized_view view = {};
  view.struct_size = sizeof view;
  ASSERT_EQ(nfloat_checkpoint_quantized(checkpoint, "weight", &view, &error), NFLOAT_OK) << taken(error);
  const TensorView expected = file.view("dequantized");
  std::vector<std::byte> restored(expected.bytes.size());
  ASSERT_EQ(nfloat_dequantize_blockwise(&view, tensor_of(expected).dtype, restored.data(), restored.size(), 0,
                                        &error),
            NFLOAT_OK)
      << taken(error);
  EXPECT_TRUE(same(restored.data(), expected));
  // Its quant_state is the text of the file, and reads back as the same description.
  nfloat_buffer* json = nullptr;
  ASSERT_EQ(nfloat_format_quant_state(&view, &json, &error), NFLOAT_OK) << taken(error);
  const TensorView stored = file.view("weight.quant_state.bitsandbytes__fp4");
  ASSERT_EQ(nfloat_buffer_bytes(json), stored.bytes.size());
  EXPECT_TRUE(same(nfloat_buffer_data(json), stored));
  nfloat_quantized_view parsed = {};
  parsed.struct_size = sizeof parsed;
  const auto* text = static_cast<const char*>(nfloat_buffer_data(json));
  ASSERT_EQ(nfloat_parse_quant_state(text, nfloat_buffer_bytes(json), &parsed, &error), NFLOAT_OK)
      << taken(error);
  EXPECT_EQ(parsed.block_size, view.block_size);
  EXPECT_EQ(parsed.dtype, view.dtype);
  EXPECT_EQ(std::memcmp(parsed.levels, view.levels, 16 * sizeof(float)), 0);
  EXPECT_STREQ(parsed.quant_type, "fp4");
  nfloat_buffer_free(json);
  nfloat_tensor tensor = {};
  EXPECT_EQ(nfloat_checkpoint_view(checkpoint, "nowhere", &tensor, nullptr), NFLOAT_NOT_FOUND);
  EXPECT_EQ(nfloat_checkpoint_quantized(checkpoint, "input", &view, nullptr), NFLOAT_INVALID_ARGUMENT);
  nfloat_checkpoint_free(checkpoint);
}

TEST(CApi, FailuresSayWhatTheyAreAndLeaveNoHandle) {
  nfloat_error* error = nullptr;
  auto* codebook = reinterpret_cast<nfloat_codebook*>(1);
  EXPECT_EQ(nfloat_make_codebook("nf9", 0, &codebook, &error), NFLOAT_NOT_FOUND);
  EXPECT_EQ(codebook, nullptr);
  EXPECT_EQ(nfloat_error_status(error), NFLOAT_NOT_FOUND);
  EXPECT_NE(taken(error).find("nf9"), std::string::npos);
  error = nullptr;
  EXPECT_EQ(nfloat_make_codebook("nf4", 0, nullptr, &error), NFLOAT_INVALID_ARGUMENT);
  EXPECT_EQ(taken(error), "codebook is null");
  EXPECT_EQ(nfloat_make_codebook(nullptr, 0, &codebook, nullptr), NFLOAT_INVALID_ARGUMENT);
  EXPECT_STREQ(nfloat_status_name(NFLOAT_NOT_FINITE), "not_finite");
  EXPECT_STREQ(nfloat_status_name(77), "unknown");
  EXPECT_STREQ(nfloat_error_message(nullptr), "");
}

TEST(CApi, LongerOptionsAreTakenWhenTheirRestIsZero) {
  struct {
    nfloat_quantize_options known;
    int64_t later;
  } options = {};
  options.known.struct_size = sizeof options;
  const std::vector<float> values(64, 1.0f);
  const nfloat_tensor weights = tensor_of({DType::kF32, {64}, std::as_bytes(std::span(values))});
  nfloat_codebook* codebook = nullptr;
  ASSERT_EQ(nfloat_make_codebook("nf4", 0, &codebook, nullptr), NFLOAT_OK);
  nfloat_quantized_tensor* tensor = nullptr;
  EXPECT_EQ(nfloat_quantize_blockwise(&weights, codebook, &options.known, &tensor, nullptr), NFLOAT_OK);
  nfloat_quantized_tensor_free(tensor);
  options.later = 1;
  EXPECT_EQ(nfloat_quantize_blockwise(&weights, codebook, &options.known, &tensor, nullptr),
            NFLOAT_UNSUPPORTED);
  options.known.struct_size = 0;
  EXPECT_EQ(nfloat_quantize_blockwise(&weights, codebook, &options.known, &tensor, nullptr),
            NFLOAT_INVALID_ARGUMENT);
  nfloat_codebook_free(codebook);
}

TEST(CApi, ACancelledPrefillForgetsWhatItTookIn) {
  nfloat_error* error = nullptr;
  nfloat_model* model = nullptr;
  nfloat_session* session = nullptr;
  ASSERT_EQ(nfloat_model_load(kTiny.c_str(), nullptr, nullptr, &model, &error), NFLOAT_OK) << taken(error);
  ASSERT_EQ(nfloat_session_create(model, nullptr, &session, &error), NFLOAT_OK) << taken(error);
  const auto vocabulary = static_cast<size_t>(nfloat_model_vocabulary(model));
  nfloat_model_free(model);
  const std::vector<int32_t> tokens(100, 5);
  nfloat_control* control = nfloat_control_create();
  nfloat_control_set_function(
      control,
      [](void* user, uint64_t done, uint64_t) {
        if (done >= 64) nfloat_control_cancel(static_cast<nfloat_control*>(user));
      },
      control);
  EXPECT_EQ(nfloat_session_prefill(session, tokens.data(), tokens.size(), nullptr, 0, control, nullptr),
            NFLOAT_INTERRUPTED);
  EXPECT_EQ(nfloat_session_position(session), 0);
  EXPECT_EQ(nfloat_session_logits(session), nullptr);
  nfloat_control_set_function(control, nullptr, nullptr);
  nfloat_control_reset(control);
  std::vector<float> all(tokens.size() * vocabulary);
  ASSERT_EQ(
      nfloat_session_prefill(session, tokens.data(), tokens.size(), all.data(), all.size(), control, &error),
      NFLOAT_OK)
      << taken(error);
  EXPECT_EQ(nfloat_session_position(session), 100);
  EXPECT_EQ(
      std::memcmp(nfloat_session_logits(session), all.data() + 99 * vocabulary, vocabulary * sizeof(float)),
      0);
  uint64_t done = 0, total = 0;
  nfloat_control_progress(control, &done, &total);
  EXPECT_EQ(done, 100u);
  EXPECT_EQ(total, 100u);
  nfloat_control_free(control);
  nfloat_session_free(session);
}

}  // namespace
}  // namespace nfloat
