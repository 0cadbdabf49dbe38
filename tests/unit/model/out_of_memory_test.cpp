// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cstdlib>
#include <new>
#include <vector>

#include "nfloat/error.h"
#include "nfloat/model.h"
#include "random_model.h"

namespace {

// Allocations of this thread that still succeed; negative: all.
thread_local int64_t left = -1;

[[maybe_unused]] void* allocate(size_t bytes, size_t alignment) {
  if (left == 0) throw std::bad_alloc();
  if (left > 0) --left;
  bytes = (bytes + alignment - 1) / alignment * alignment;
  void* const memory = std::aligned_alloc(alignment, bytes == 0 ? alignment : bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

// The sanitizers bring allocation functions of their own.
#if defined(__has_feature)
#define NFLOAT_TEST_HAS(feature) __has_feature(feature)
#else
#define NFLOAT_TEST_HAS(feature) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || NFLOAT_TEST_HAS(address_sanitizer) || \
    NFLOAT_TEST_HAS(thread_sanitizer)
constexpr bool kReplaced = false;
#else
constexpr bool kReplaced = true;

// The program's own allocation functions, so that any of them can be made to fail. Not inlined: compilers
// would see new without delete and free() without malloc().
#define NFLOAT_TEST_APART __attribute__((noinline))
NFLOAT_TEST_APART void* operator new(size_t bytes) {
  return allocate(bytes, __STDCPP_DEFAULT_NEW_ALIGNMENT__);
}
NFLOAT_TEST_APART void* operator new(size_t bytes, std::align_val_t alignment) {
  return allocate(bytes, static_cast<size_t>(alignment));
}
NFLOAT_TEST_APART void operator delete(void* memory) noexcept {
  std::free(memory);
}
NFLOAT_TEST_APART void operator delete(void* memory, size_t) noexcept {
  std::free(memory);
}
NFLOAT_TEST_APART void operator delete(void* memory, std::align_val_t) noexcept {
  std::free(memory);
}
NFLOAT_TEST_APART void operator delete(void* memory, size_t, std::align_val_t) noexcept {
  std::free(memory);
}
#endif

namespace nfloat {
namespace {

using testing::RandomModel;

constexpr const char* kConfig = R"({"model_type": "llama", "hidden_size": 48, "intermediate_size": 72,
  "num_hidden_layers": 2, "num_attention_heads": 6, "num_key_value_heads": 2, "vocab_size": 61,
  "max_position_embeddings": 400, "tie_word_embeddings": false})";

std::vector<float> copy(std::span<const float> values) {
  return {values.begin(), values.end()};
}

// Every allocation of a pass fails once. The session must be as it was each time: its position, its logits or
// none, and what the next tokens give.
TEST(OutOfMemory, InsideAPassLeavesTheSessionAsItWas) {
  if (!kReplaced) GTEST_SKIP() << "the sanitizer's allocation functions cannot be made to fail";
  const RandomModel random(kConfig);
  ModelOptions options;
  options.precision = Precision::kF32;
  const Model model = Model::load(random.folder.path(), options);
  const std::vector<int32_t> tokens = random.tokens(300);
  const std::span<const int32_t> past = std::span(tokens).first(100), next = std::span(tokens).subspan(100);
  Session reference(model, {.context = 400, .threads = 1});
  const std::vector<float> before = copy(reference.prefill(past));
  const std::vector<float> after = copy(reference.prefill(next));

  int64_t failures = 0;
  for (bool finished = false; !finished; ++failures) {
    ASSERT_LT(failures, 10000);
    Session session(model, {.context = 400, .threads = 1});
    session.prefill(past);
    left = failures;
    try {
      session.prefill(next);
      finished = true;
    } catch (const std::bad_alloc&) {
    } catch (const Error&) {
    }
    left = -1;
    if (finished) {
      EXPECT_EQ(copy(session.logits()), after);
      break;
    }
    ASSERT_EQ(session.position(), 100) << failures;
    if (!session.logits().empty()) {
      ASSERT_EQ(copy(session.logits()), before) << failures;
    }
    ASSERT_EQ(copy(session.prefill(next)), after) << failures;
  }
  EXPECT_GT(failures, 0);
}

}  // namespace
}  // namespace nfloat
