// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "c_api/support.h"
#include "support/paths.h"

namespace nfloat::testing {
namespace {

const std::string kTiny = source_path("/models/nfloat-tiny");

class CGenerator : public ::testing::Test {
 protected:
  void SetUp() override {
    nfloat_error* error = nullptr;
    ASSERT_EQ(nfloat_model_load(kTiny.c_str(), nullptr, nullptr, model_.place(), &error), NFLOAT_OK)
        << taken(error);
    ASSERT_EQ(nfloat_tokenizer_load(kTiny.c_str(), tokenizer_.place(), &error), NFLOAT_OK) << taken(error);
    ASSERT_EQ(nfloat_session_create(model_, nullptr, session_.place(), &error), NFLOAT_OK) << taken(error);
    prompt_ = tokens("The old lighthouse");
    options_.struct_size = sizeof options_;
  }
  std::vector<int32_t> tokens(const std::string& text) {
    nfloat_buffer* buffer = nullptr;
    EXPECT_EQ(nfloat_tokenizer_encode(tokenizer_, text.data(), text.size(), 0, &buffer, nullptr), NFLOAT_OK);
    const auto* ids = static_cast<const int32_t*>(nfloat_buffer_data(buffer));
    std::vector<int32_t> result(ids, ids + nfloat_buffer_bytes(buffer) / sizeof(int32_t));
    nfloat_buffer_free(buffer);
    return result;
  }
  void create(Generator& generator) {
    nfloat_error* error = nullptr;
    ASSERT_EQ(nfloat_generator_create(session_, tokenizer_, prompt_.data(), prompt_.size(), &options_,
                                      generator.place(), &error),
              NFLOAT_OK)
        << taken(error);
  }
  // All of it: text and why it ended.
  std::string run(nfloat_generator* generator, nfloat_finish* finish, std::vector<int32_t>* ids = nullptr) {
    std::string text;
    nfloat_token token = {};
    do {
      nfloat_error* error = nullptr;
      if (nfloat_generator_next(generator, nullptr, &token, &error) != NFLOAT_OK) {
        ADD_FAILURE() << taken(error);
        break;
      }
      text.append(token.text, token.text_bytes);
      if (token.token >= 0 && ids != nullptr) ids->push_back(token.token);
      EXPECT_EQ(token.finish == NFLOAT_FINISH_NONE, token.token >= 0);
    } while (token.finish == NFLOAT_FINISH_NONE);
    *finish = token.finish;
    return text;
  }
  static Json result(nfloat_generator* generator) {
    nfloat_buffer* json = nullptr;
    EXPECT_EQ(nfloat_generator_result(generator, &json, nullptr), NFLOAT_OK);
    return Json::parse(taken(json));
  }

  Model model_;
  TokenizerHandle tokenizer_;
  Session session_;
  std::vector<int32_t> prompt_;
  nfloat_generator_options options_ = {};
};

TEST_F(CGenerator, TakesTheMostLikelyTokensUpToTheLimit) {
  // The same by hand.
  Session plain;
  ASSERT_EQ(nfloat_session_fork(session_, plain.place(), nullptr), NFLOAT_OK);
  std::vector<int32_t> expected;
  std::vector<int32_t> next = prompt_;
  for (int i = 0; i < 8; ++i) {
    ASSERT_EQ(nfloat_session_prefill(plain, next.data(), next.size(), nullptr, 0, nullptr, nullptr),
              NFLOAT_OK);
    const float* logits = nfloat_session_logits(plain);
    next = {
        static_cast<int32_t>(std::max_element(logits, logits + nfloat_model_vocabulary(model_)) - logits)};
    expected.push_back(next[0]);
  }
  options_.max_tokens = 8;
  options_.top_logprobs = 2;
  Generator generator;
  ASSERT_NO_FATAL_FAILURE(create(generator));
  EXPECT_TRUE(result(generator)["finish_reason"] == Json());
  std::vector<int32_t> ids;
  nfloat_finish finish = NFLOAT_FINISH_NONE;
  const std::string text = run(generator, &finish, &ids);
  EXPECT_EQ(ids, expected);
  EXPECT_EQ(finish, NFLOAT_FINISH_LENGTH);
  const Json json = result(generator);
  EXPECT_EQ(json["text"].text(), text);
  EXPECT_EQ(json["tokens"].get<std::vector<int32_t>>(), ids);
  EXPECT_EQ(json["prompt_tokens"].get<std::vector<int32_t>>(), prompt_);
  EXPECT_EQ(json["finish_reason"].text(), "length");
  ASSERT_EQ(json["logprobs"].size(), ids.size());
  // Of the most likely token always, the first of the top is the token itself.
  EXPECT_EQ(json["logprobs"][0]["top"].size(), 2u);
  EXPECT_EQ(json["logprobs"][0]["top"][0]["id"].get<int32_t>(), ids[0]);
  // It has ended, and says so again.
  nfloat_token token = {};
  ASSERT_EQ(nfloat_generator_next(generator, nullptr, &token, nullptr), NFLOAT_OK);
  EXPECT_EQ(token.token, -1);
  EXPECT_EQ(token.text_bytes, 0u);
  EXPECT_EQ(token.finish, NFLOAT_FINISH_LENGTH);
}

TEST_F(CGenerator, EndsBeforeAStopTextAndWhenTheContextIsFull) {
  options_.max_tokens = 8;
  nfloat_finish finish = NFLOAT_FINISH_NONE;
  std::string whole;
  {
    Generator generator;
    ASSERT_NO_FATAL_FAILURE(create(generator));
    whole = run(generator, &finish);
  }
  ASSERT_GT(whole.size(), 6u);
  ASSERT_EQ(nfloat_session_rewind(session_, 0, nullptr), NFLOAT_OK);
  const std::string stop = whole.substr(3, 2);
  const char* stops[] = {stop.c_str()};
  options_.stop = stops;
  options_.stop_count = 1;
  {
    Generator generator;
    ASSERT_NO_FATAL_FAILURE(create(generator));
    EXPECT_EQ(run(generator, &finish), whole.substr(0, whole.find(stop)));
    EXPECT_EQ(finish, NFLOAT_FINISH_STOP);
    EXPECT_EQ(result(generator)["finish_reason"].text(), "stop");
  }
  nfloat_session_options small = defaults<nfloat_session_options>();
  small.context = static_cast<int64_t>(prompt_.size()) + 2;
  Session narrow;
  ASSERT_EQ(nfloat_session_create(model_, &small, narrow.place(), nullptr), NFLOAT_OK);
  options_ = defaults<nfloat_generator_options>();
  options_.ignore_end = 1;
  Generator generator;
  ASSERT_EQ(nfloat_generator_create(narrow, nullptr, prompt_.data(), prompt_.size(), &options_,
                                    generator.place(), nullptr),
            NFLOAT_OK);
  std::vector<int32_t> ids;
  EXPECT_EQ(run(generator, &finish, &ids), "");  // no tokenizer, no text
  EXPECT_EQ(ids.size(), 3u);
  EXPECT_EQ(finish, NFLOAT_FINISH_CONTEXT);
}

TEST_F(CGenerator, GoesOnAfterACancellation) {
  options_.max_tokens = 4;
  std::vector<int32_t> expected, ids;
  nfloat_finish finish = NFLOAT_FINISH_NONE;
  {
    Generator generator;
    ASSERT_NO_FATAL_FAILURE(create(generator));
    run(generator, &finish, &expected);
  }
  ASSERT_EQ(nfloat_session_rewind(session_, 0, nullptr), NFLOAT_OK);
  Generator generator;
  ASSERT_NO_FATAL_FAILURE(create(generator));
  const Control control(nfloat_control_create());
  nfloat_control_cancel(control);
  nfloat_token token = {};
  EXPECT_EQ(nfloat_generator_next(generator, control, &token, nullptr), NFLOAT_INTERRUPTED);
  EXPECT_EQ(nfloat_session_position(session_), 0);
  nfloat_control_reset(control);
  ASSERT_EQ(nfloat_generator_next(generator, control, &token, nullptr), NFLOAT_OK);
  ids.push_back(token.token);
  uint64_t done = 0, total = 0;
  nfloat_control_progress(control, &done, &total);
  EXPECT_EQ(done, prompt_.size());
  EXPECT_EQ(total, prompt_.size());
  nfloat_control_cancel(control);
  EXPECT_EQ(nfloat_generator_next(generator, control, &token, nullptr), NFLOAT_INTERRUPTED);
  run(generator, &finish, &ids);
  EXPECT_EQ(ids, expected);
}

TEST_F(CGenerator, GoesOnFromWhatTheSessionHasRead) {
  options_.max_tokens = 4;
  std::vector<int32_t> expected, ids;
  nfloat_finish finish = NFLOAT_FINISH_NONE;
  Generator whole, rest;
  ASSERT_NO_FATAL_FAILURE(create(whole));
  run(whole, &finish, &expected);
  ASSERT_EQ(nfloat_session_rewind(session_, 0, nullptr), NFLOAT_OK);
  EXPECT_EQ(nfloat_generator_create(session_, tokenizer_, nullptr, 0, &options_, rest.place(), nullptr),
            NFLOAT_INVALID_ARGUMENT);
  ASSERT_EQ(nfloat_session_prefill(session_, prompt_.data(), prompt_.size(), nullptr, 0, nullptr, nullptr),
            NFLOAT_OK);
  ASSERT_EQ(nfloat_generator_create(session_, tokenizer_, nullptr, 0, &options_, rest.place(), nullptr),
            NFLOAT_OK);
  run(rest, &finish, &ids);
  EXPECT_EQ(ids, expected);
}

TEST_F(CGenerator, SamplesWithASeedAndRefusesWhatCannotBe) {
  nfloat_sampler_options sampler = defaults<nfloat_sampler_options>();
  sampler.seed = 7;
  ASSERT_EQ(nfloat_generation_defaults(model_, &sampler, nullptr), NFLOAT_OK);
  EXPECT_EQ(sampler.seed, 7u);
  sampler.temperature = 1;
  options_.max_tokens = 6;
  options_.sampler = &sampler;
  std::vector<int32_t> ids[2];
  nfloat_finish finish = NFLOAT_FINISH_NONE;
  for (auto& run_ids : ids) {
    ASSERT_EQ(nfloat_session_rewind(session_, 0, nullptr), NFLOAT_OK);
    Generator generator;
    ASSERT_NO_FATAL_FAILURE(create(generator));
    run(generator, &finish, &run_ids);
  }
  EXPECT_EQ(ids[0], ids[1]);
  sampler.top_p = 2;
  Generator refused;
  nfloat_error* error = nullptr;
  EXPECT_EQ(nfloat_generator_create(session_, tokenizer_, prompt_.data(), prompt_.size(), &options_,
                                    refused.place(), &error),
            NFLOAT_INVALID_ARGUMENT);
  EXPECT_NE(taken(error).find("top-p"), std::string::npos);
  sampler.top_p = 0;
  prompt_.push_back(1 << 30);
  EXPECT_EQ(nfloat_generator_create(session_, tokenizer_, prompt_.data(), prompt_.size(), &options_,
                                    refused.place(), nullptr),
            NFLOAT_INVALID_ARGUMENT);
}

}  // namespace
}  // namespace nfloat::testing
