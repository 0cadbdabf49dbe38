// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "base/json.h"
#include "nfloat/model.h"
#include "support/files.h"
#include "support/paths.h"

// The model of the repository against the numbers that its trainer wrote down
// (models/nfloat-tiny/reference.json).
namespace nfloat {
namespace {

const std::string kFolder = testing::source_path("/models/nfloat-tiny");

const Json& reference_values() {
  static const Json values = Json::parse(testing::read_file(kFolder + "/reference.json"));
  return values;
}

ModelOptions quantized(const char* code) {
  ModelOptions options;
  options.precision = Precision::kF32;
  if (*code != '\0') options.quantize = make_codebook(code);
  return options;
}

void expect_reference_logits(const char* code, const char* key) {
  const Json& expected = reference_values()[key];
  const auto prompt = reference_values()["prompt_ids"].get<std::vector<int32_t>>();
  const auto last = expected["last_logits"].get<std::vector<float>>();
  const Model model = Model::load(kFolder, quantized(code));
  Session session(model);
  const BatchEntry entry{&session, prompt};
  forward_batch({&entry, 1}, [&](size_t, int64_t index, std::span<const float> logits) {
    const auto ids = expected["top5_ids"][static_cast<size_t>(index)].get<std::vector<size_t>>();
    const auto values = expected["top5_logits"][static_cast<size_t>(index)].get<std::vector<float>>();
    for (size_t i = 0; i < ids.size(); ++i) EXPECT_NEAR(logits[ids[i]], values[i], 1e-3) << "token " << index;
  });
  ASSERT_EQ(session.logits().size(), last.size());
  for (size_t i = 0; i < last.size(); ++i) ASSERT_NEAR(session.logits()[i], last[i], 1e-3) << "logit " << i;

  std::vector<int32_t> greedy;
  for (std::span<const float> logits = session.logits(); greedy.size() < 32;
       logits = session.decode(greedy.back()))
    greedy.push_back(static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin()));
  EXPECT_EQ(greedy, expected["greedy_32"].get<std::vector<int32_t>>());
}

TEST(EmbeddedModel, LogitsAndGreedyText) {
  expect_reference_logits("", "plain");
}
TEST(EmbeddedModel, Nf4LogitsAndGreedyText) {
  expect_reference_logits("nf4", "nf4");
}

}  // namespace
}  // namespace nfloat
