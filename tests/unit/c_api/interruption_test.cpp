// SPDX-License-Identifier: Apache-2.0
// Calls that take no control are ended by nfloat_control_call().
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "c_api/support.h"
#include "support/files.h"
#include "support/paths.h"

namespace nfloat::testing {
namespace {

using Codebook = Owned<nfloat_codebook, nfloat_codebook_free>;

class CInterruption : public TemporaryFolder {
 protected:
  void SetUp() override {
    TemporaryFolder::SetUp();
    for (size_t i = 0; i < weights_.size(); ++i)
      weights_[i] = std::sin(0.37f * static_cast<float>(i)) * static_cast<float>(1 + i % 97);
    tensor_ = {weights_.data(), NFLOAT_F32, 2, {kRows, kColumns}};
    ASSERT_EQ(nfloat_make_codebook("nf4", 0, codebook_.place(), nullptr), NFLOAT_OK);
    ASSERT_EQ(nfloat_tokenizer_load(source_path("/models/nfloat-tiny").c_str(), tokenizer_.place(), nullptr),
              NFLOAT_OK);
    ASSERT_EQ(quantize(), NFLOAT_OK);
    view_ = {sizeof view_,
             NFLOAT_F32,
             2,
             {kRows, kColumns},
             64,
             codes_.data(),
             nullptr,
             0,
             0,
             nullptr,
             nullptr,
             nullptr,
             nullptr,
             0,
             0,
             "nf4"};
    view_.levels = nfloat_codebook_levels(codebook_);
    view_.level_count = 16;
    view_.scales = scales_.data();
  }

  // What `work` gives in nfloat_control_call().
  nfloat_status within(const std::function<nfloat_status()>& work) {
    struct Call {
      const std::function<nfloat_status()>& work;
      nfloat_status status;
    } call{work, NFLOAT_INTERNAL};
    nfloat_control_call(
        control_,
        [](void* user) {
          auto* own = static_cast<Call*>(user);
          own->status = own->work();
        },
        &call);
    return call.status;
  }

  nfloat_status quantize() {
    nfloat_quantize_options options = defaults<nfloat_quantize_options>();
    options.scale = NFLOAT_SCALE_SEARCH;
    options.threads = 2;
    return nfloat_quantize_blockwise_into(&tensor_, codebook_, &options, codes_.data(), codes_.size(),
                                          scales_.data(), scales_.size(), nullptr, 0, nullptr, 0, nullptr,
                                          nullptr);
  }
  nfloat_status dequantize() {
    return nfloat_dequantize_blockwise(&view_, NFLOAT_F32, values_.data(), values_.size() * sizeof(float), 2,
                                       nullptr);
  }
  nfloat_status encode(const std::string& text, size_t* count = nullptr) {
    nfloat_buffer* tokens = nullptr;
    const nfloat_status status =
        nfloat_tokenizer_encode(tokenizer_, text.data(), text.size(), 0, &tokens, nullptr);
    EXPECT_EQ(tokens == nullptr, status != NFLOAT_OK);
    if (count != nullptr) *count = nfloat_buffer_bytes(tokens) / sizeof(int32_t);
    nfloat_buffer_free(tokens);
    return status;
  }

  static constexpr int64_t kRows = 512, kColumns = 512;
  std::vector<float> weights_ = std::vector<float>(kRows * kColumns);
  std::vector<float> values_ = std::vector<float>(kRows * kColumns);
  std::vector<uint8_t> codes_ = std::vector<uint8_t>(kRows * kColumns / 2);
  std::vector<float> scales_ = std::vector<float>(kRows * kColumns / 64);
  nfloat_tensor tensor_ = {};
  nfloat_quantized_view view_ = {};
  Codebook codebook_;
  TokenizerHandle tokenizer_;
  Control control_{nfloat_control_create()};
};

TEST_F(CInterruption, WhatIsCancelledBeforeItBeginsTouchesNoMemory) {
  std::string text;
  for (int i = 0; i < 4000; ++i) text += "a word " + std::to_string(i) + ", ";
  Owned<nfloat_packed_matrix, nfloat_packed_matrix_free> matrix;
  ASSERT_EQ(nfloat_packed_matrix_pack(&view_, 2, matrix.place(), nullptr), NFLOAT_OK);
  Owned<nfloat_activations, nfloat_activations_free> rows(nfloat_activations_create());
  ASSERT_EQ(nfloat_activations_assign(rows, &tensor_, nullptr), NFLOAT_OK);
  const std::string saved = path("saved.safetensors");
  const char* name = "weight";
  const std::vector<std::pair<std::string, std::function<nfloat_status()>>> calls = {
      {"quantize", [&] { return quantize(); }},
      {"dequantize", [&] { return dequantize(); }},
      {"encode", [&] { return encode(text); }},
      {"linear",
       [&] { return nfloat_linear(matrix, rows, nullptr, values_.data(), values_.size() * 4, nullptr); }},
      {"transposed",
       [&] {
         return nfloat_linear_transposed(matrix, rows, nullptr, values_.data(), values_.size() * 4, nullptr);
       }},
      {"save", [&] { return nfloat_save_tensors(saved.c_str(), &name, &tensor_, 1, 0, nullptr); }},
      {"analyze",
       [&] {
         nfloat_buffer* json = nullptr;
         const nfloat_status status = nfloat_analyze_weights(&tensor_, 0, &json, nullptr);
         nfloat_buffer_free(json);
         return status;
       }},
  };
  for (const auto& [what, call] : calls) {
    SCOPED_TRACE(what);
    std::fill(values_.begin(), values_.end(), 7.0f);
    const std::vector<uint8_t> codes = codes_;
    const std::vector<float> scales = scales_;
    nfloat_control_cancel(control_);
    EXPECT_EQ(within(call), NFLOAT_INTERRUPTED);
    EXPECT_TRUE(std::all_of(values_.begin(), values_.end(), [](float v) { return v == 7; }));
    EXPECT_FALSE(std::filesystem::exists(saved));
    // Only inside, and only while it is cancelled.
    EXPECT_EQ(call(), NFLOAT_OK);
    std::remove(saved.c_str());
    nfloat_control_reset(control_);
    EXPECT_EQ(within(call), NFLOAT_OK);
    std::remove(saved.c_str());
    EXPECT_EQ(codes_, codes);
    EXPECT_EQ(scales_, scales);
  }
  int calls_without = 0;
  nfloat_control_call(
      nullptr, [](void* user) { ++*static_cast<int*>(user); }, &calls_without);
  nfloat_control_call(control_, nullptr, nullptr);
  EXPECT_EQ(calls_without, 1);
}

// Ever more is given until the thread that cancels comes before the end.
TEST_F(CInterruption, AnotherThreadEndsWhatIsAtWork) {
  std::string text = "Once upon a time there was a king who had 1001 daughters; ";
  const std::vector<std::function<nfloat_status()>> calls = {
      [&] { return encode(text); },
      [&] {
        nfloat_status status = NFLOAT_OK;
        for (size_t i = 0; i < text.size() / 58 && status == NFLOAT_OK; ++i) status = quantize();
        return status;
      },
  };
  for (const auto& call : calls) {
    nfloat_status status = NFLOAT_OK;
    for (text.resize(58); status == NFLOAT_OK && text.size() < (size_t{1} << 28); text += text) {
      nfloat_control_reset(control_);
      std::atomic<bool> begun = false;
      std::thread canceller([&] {
        begun.wait(false);
        nfloat_control_cancel(control_);
      });
      status = within([&] {
        begun = true;
        begun.notify_one();
        return call();
      });
      canceller.join();
    }
    EXPECT_EQ(status, NFLOAT_INTERRUPTED);
  }
}

}  // namespace
}  // namespace nfloat::testing
