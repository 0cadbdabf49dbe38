// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "llama_cpp/pre_tokenizers.h"

namespace nfloat {
namespace {

std::vector<std::string> steps(const GgufPreTokenizer& kind) {
  std::vector<std::string> result;
  for (const std::string_view expression : kind.expressions)
    if (!expression.empty()) result.emplace_back(expression);
  return result;
}

TEST(GgufPreTokenizer, WhatIsReadIsFoundAgain) {
  for (const char* name : {"gpt-2", "smollm", "llama-bpe", "smaug-bpe", "qwen2", "qwen35", "gpt-4o", "tekken",
                           "bailingmoe", "seed-coder", "deepseek-v3", "deepseek-llm", "deepseek-coder",
                           "falcon", "bloom", "viking", "superbpe"}) {
    const GgufPreTokenizer* kind = find_gguf_pre_tokenizer(name);
    ASSERT_NE(kind, nullptr) << name;
    const GgufPreTokenizer* found =
        match_gguf_pre_tokenizer(steps(*kind), kind->single_digits, kind->whole_words);
    ASSERT_NE(found, nullptr) << name;
    EXPECT_EQ(found->name, name);
  }
}

TEST(GgufPreTokenizer, OtherNamesOfTheSameSteps) {
  for (const auto& [name, same] : {std::pair{"mpt", "gpt-2"},
                                   {"llama4", "gpt-4o"},
                                   {"dbrx", "smaug-bpe"},
                                   {"megrez", "qwen2"},
                                   {"codeshell", "smollm"},
                                   {"pixtral", "llama-bpe"}}) {
    const GgufPreTokenizer *one = find_gguf_pre_tokenizer(name), *other = find_gguf_pre_tokenizer(same);
    ASSERT_NE(one, nullptr) << name;
    EXPECT_EQ(one->expressions, other->expressions) << name;
    EXPECT_EQ(one->single_digits, other->single_digits) << name;
  }
  EXPECT_EQ(find_gguf_pre_tokenizer("no-such-kind"), nullptr);
  EXPECT_EQ(match_gguf_pre_tokenizer({"x+"}, false, false), nullptr);
}

}  // namespace
}  // namespace nfloat
