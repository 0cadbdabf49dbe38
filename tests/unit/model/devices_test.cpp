// SPDX-License-Identifier: Apache-2.0
// The embedded model on every device that is there beside the CPU in float32: divergence of each token's
// distribution, and the greedy text wherever the choice is clear.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/json.h"
#include "engine/device.h"
#include "nfloat/error.h"
#include "nfloat/memory_plan.h"
#include "nfloat/model.h"
#include "support/emulated_card.h"
#include "support/files.h"
#include "support/paths.h"
#include "support/sanitizer.h"

namespace nfloat {
namespace {

const std::string kFolder = testing::source_path("/models/nfloat-tiny");
using Rows = std::vector<std::vector<float>>;

std::vector<int32_t> prompt() {
  return Json::parse(testing::read_file(kFolder + "/reference.json"))["prompt_ids"]
      .get<std::vector<int32_t>>();
}

// Less of it where every step is emulated.
constexpr std::string_view kEmulated = "cuda:emulated";
std::vector<std::shared_ptr<Device>> devices_to_try() {
  std::vector<std::shared_ptr<Device>> all = devices();
  // The thread sanitizer takes its switches of stacks for errors, the others make minutes of it.
  if (testing::kSanitized) std::erase_if(all, [](const auto& device) { return device->name() == kEmulated; });
  return all;
}
std::vector<int32_t> prompt_for(const Device& device) {
  std::vector<int32_t> tokens = prompt();
  if (device.name() == kEmulated) tokens.resize(12);
  return tokens;
}

ModelOptions on(std::string_view device, const char* code, bool nested) {
  ModelOptions options;
  options.precision = Precision::kF32;
  if (*code != '\0') options.quantize = make_codebook(code);
  options.quantize_double = nested;
  options.device = device;
  return options;
}

Rows logits_of(Session& session, std::span<const int32_t> tokens) {
  Rows all;
  const BatchEntry entry{&session, tokens};
  forward_batch({&entry, 1}, [&](size_t, int64_t, std::span<const float> own) {
    all.emplace_back(own.begin(), own.end());
  });
  return all;
}

std::vector<double> probabilities(const std::vector<float>& logits) {
  const double largest = static_cast<double>(*std::max_element(logits.begin(), logits.end()));
  std::vector<double> all;
  double total = 0;
  for (const float logit : logits) total += all.emplace_back(std::exp(static_cast<double>(logit) - largest));
  for (double& p : all) p /= total;
  return all;
}

double divergence(const std::vector<float>& from, const std::vector<float>& to) {
  const std::vector<double> p = probabilities(from), q = probabilities(to);
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i)
    if (p[i] > 0) sum += p[i] * std::log(p[i] / std::max(q[i], 1e-300));
  return sum;
}

// A prompt that goes through the layers in tiles, then a few tokens beside it.
void expect_close(const Device& device, const char* code, Precision precision, double most) {
  SCOPED_TRACE(::testing::Message() << device.name() << " " << code << " " << static_cast<int>(precision));
  ModelOptions options = on(device.name(), code, true);
  options.precision = precision;
  const Model here = Model::load(kFolder, on("cpu", code, true)), there = Model::load(kFolder, options);
  Session own(here), other(there);
  std::vector<int32_t> tokens = prompt_for(device);
  while (device.name() != kEmulated && tokens.size() < 150) tokens.push_back(tokens[tokens.size() % 7]);
  for (int step = 0; step < 3; ++step) {
    const Rows expected = logits_of(own, tokens), found = logits_of(other, tokens);
    double sum = 0;
    for (size_t i = 0; i < found.size(); ++i) sum += divergence(expected[i], found[i]);
    EXPECT_LE(sum / static_cast<double>(found.size()), most) << "step " << step;
    tokens = {tokens[1 % tokens.size()]};
  }
}

void expect_same(const Device& device, const char* code, bool nested, KvCacheType cache, double most) {
  SCOPED_TRACE(::testing::Message() << device.name() << " " << code << (nested ? ":dq" : ""));
  const Model here = Model::load(kFolder, on("cpu", code, nested)),
              there = Model::load(kFolder, on(device.name(), code, nested));
  SessionOptions options;
  options.kv_cache = cache;
  Session own(here, options), other(there, options);
  std::vector<int32_t> tokens = prompt_for(device);
  const int steps = device.name() == kEmulated ? 4 : 16;
  // The prompt in one pass, then token by token along the CPU's greedy text.
  for (int step = 0; step <= steps; ++step) {
    const Rows expected = logits_of(own, tokens), found = logits_of(other, tokens);
    ASSERT_EQ(expected.size(), found.size());
    for (size_t i = 0; i < found.size(); ++i)
      ASSERT_LE(divergence(expected[i], found[i]), most) << "step " << step << " token " << i;
    std::vector<float> last = expected.back();
    const auto best = std::max_element(last.begin(), last.end());
    const auto choice = static_cast<int32_t>(best - last.begin());
    const float top = *best;
    *best = -INFINITY;
    if (top - *std::max_element(last.begin(), last.end()) > 1e-3f) {
      ASSERT_EQ(std::max_element(found.back().begin(), found.back().end()) - found.back().begin(), choice);
    }
    tokens = {choice};
  }
}

TEST(EmbeddedModelOnDevices, TheSameAsOnTheCpu) {
  const std::vector<std::shared_ptr<Device>> all = devices_to_try();
  if (all.size() == 1) GTEST_SKIP() << "no device here but the CPU";
  for (size_t i = 1; i < all.size(); ++i) {
    if (all[i]->name() != kEmulated) {
      expect_same(*all[i], "", false, KvCacheType::kF32, 1e-5);
      expect_same(*all[i], "nf4", false, KvCacheType::kF32, 1e-5);
    }
    expect_same(*all[i], "nf4", true, KvCacheType::kF16, 1e-5);
    expect_same(*all[i], "fp4", true, KvCacheType::kInt8, 1e-3);
    expect_close(*all[i], "nf4", Precision::kBF16, 1e-3);
    if (all[i]->name() == kEmulated) continue;
    expect_close(*all[i], "nf4", Precision::kF32, 1e-5);
    expect_close(*all[i], "", Precision::kBF16, 1e-3);
  }
}

// Sequences in one batch, forks that share pages, and layers that are read from the file in every pass.
TEST(EmbeddedModelOnDevices, BatchesForksAndStreamedLayers) {
  const std::vector<std::shared_ptr<Device>> all = devices_to_try();
  if (all.size() == 1) GTEST_SKIP() << "no device here but the CPU";
  for (size_t i = 1; i < all.size(); ++i) {
    ModelOptions options = on(all[i]->name(), "nf4", true);
    const Model model = Model::load(kFolder, options);
    options.stream_layers = true;
    const Model streamed = Model::load(kFolder, options);
    const std::vector<int32_t> tokens = prompt_for(*all[i]), one{tokens.back()};
    Session first(model), from_file(streamed);
    const Rows whole = logits_of(first, tokens), again = logits_of(from_file, tokens);
    EXPECT_EQ(whole, again);
    Session fork = first.fork();
    first.decode(5);  // goes on in a page that both have
    Session alone(model);
    logits_of(alone, tokens);
    const std::vector<float> expected = logits_of(alone, one).back();
    Session second(model);
    const BatchEntry entries[] = {{&fork, one}, {&second, tokens}};
    forward_batch(entries);
    const std::vector<float> of_fork(fork.logits().begin(), fork.logits().end());
    EXPECT_LE(divergence(expected, of_fork), 1e-9);
    const std::vector<float> of_second(second.logits().begin(), second.logits().end());
    EXPECT_LE(divergence(whole.back(), of_second), 1e-9);
  }
}

// What is planned beside what the device has less once the model is there and has read a prompt.
TEST(EmbeddedModelOnDevices, ThePlanIsWhatIsTaken) {
  const std::vector<std::shared_ptr<Device>> all = devices_to_try();
  if (all.size() == 1) GTEST_SKIP() << "no device here but the CPU";
  const ModelSize size = measure_model(kFolder);
  const int64_t context = 512;
  for (size_t i = 1; i < all.size(); ++i)
    for (const bool coded : {true, false}) {
      SCOPED_TRACE(::testing::Message() << all[i]->name() << " coded " << coded);
      ASSERT_TRUE(all[i]->free_bytes() && all[i]->total_bytes());
      const uint64_t before = *all[i]->free_bytes();
      EXPECT_LE(before, *all[i]->total_bytes());
      const std::vector<MemoryPlanRow> rows = plan_device_memory(size, before, context);
      const auto planned = std::find_if(rows.begin(), rows.end(), [&](const MemoryPlanRow& row) {
        return row.format == (coded ? "NF4, blocks of 64, double quantization" : "bfloat16 or float16");
      });
      ASSERT_NE(planned, rows.end());
      ModelOptions options = on(all[i]->name(), coded ? "nf4" : "", coded);
      options.precision = Precision::kBF16;
      const Model model = Model::load(kFolder, options);
      // Tables of levels, a kilobyte a matrix, are no small part of a model of this size.
      EXPECT_NEAR(static_cast<double>(model.memory().resident_bytes()),
                  static_cast<double>(planned->weight_bytes),
                  0.05 * static_cast<double>(planned->weight_bytes));
      Session session(model, {.context = context});
      EXPECT_EQ(kv_cache_bytes(model.config(), KvCacheType::kF16, context), planned->kv_cache_bytes);
      session.prefill(
          std::vector<int32_t>(all[i]->name() == kEmulated ? 9 : static_cast<size_t>(context), 5));
      const uint64_t taken = before - *all[i]->free_bytes();
      EXPECT_GE(taken, planned->weight_bytes);
      EXPECT_LE(taken, planned->peak_bytes());
      EXPECT_EQ(planned->largest_context, size.max_context);
    }
  ModelSize other = size;
  other.why_not = "its layers are recurrent";
  EXPECT_THROW(plan_device_memory(other, 1, context), Error);
  EXPECT_THROW(plan_device_memory(size, 1, 0), Error);
  EXPECT_EQ(plan_device_memory(size, 1 << 20, context)[0].largest_context, 0);
}

// The second of two tokens whose keys lie in the same pages is recorded; the next ones are one graph each,
// and give the bits of the steps that they are made of: up to eight rows do not change one another's.
TEST(EmbeddedModelOnDevices, TokensOnACardRunAsGraphs) {
  if (testing::kSanitized) GTEST_SKIP() << "minutes under a sanitizer";
  for (const Precision precision : {Precision::kF32, Precision::kBF16}) {
    ModelOptions options = on(kEmulated, "nf4", true);
    options.precision = precision;
    const Model model = Model::load(kFolder, options);
    Session session(model);
    session.prefill(std::vector<int32_t>{1, 5, 9});
    for (int i = 0; i < 5; ++i) {
      const uint64_t before = testing::emulated_graphs();
      session.decode(7 + i);
      EXPECT_EQ(testing::emulated_graphs() - before, i == 0 ? 0u : 1u) << "token " << i;
    }
    Session together(model);
    const uint64_t before = testing::emulated_graphs();
    const std::span<const float> steps = together.prefill(std::vector<int32_t>{1, 5, 9, 7, 8, 9, 10, 11});
    EXPECT_EQ(testing::emulated_graphs(), before);
    EXPECT_TRUE(std::equal(steps.begin(), steps.end(), session.logits().begin()));
  }
}

TEST(EmbeddedModelOnDevices, ADeviceThatIsNotThereIsNamed) {
  for (const char* name : {"vulkan:77", "abacus"}) try {
      Model::load(kFolder, on(name, "", false));
      ADD_FAILURE() << name;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(name), std::string::npos) << error.what();
    }
  EXPECT_EQ(resolved_device("cpu"), "cpu");
}

}  // namespace
}  // namespace nfloat
