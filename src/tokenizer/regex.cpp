// SPDX-License-Identifier: Apache-2.0
#define PCRE2_CODE_UNIT_WIDTH 8
#include "tokenizer/regex.h"

#include <pcre2.h>

#include <algorithm>
#include <cstdint>

#include "base/fail.h"

namespace nfloat {
namespace {

constexpr size_t kMaxPatternBytes = 64 << 10;
constexpr size_t kMaxJitStack = 4 << 20;
constexpr uint32_t kHeapLimitKib = 64 << 10;

template <auto free_function>
struct Free {
  template <typename T>
  void operator()(T* pointer) const noexcept {
    free_function(pointer);
  }
};
using MatchData = std::unique_ptr<pcre2_match_data, Free<pcre2_match_data_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Free<pcre2_match_context_free>>;
using CompileContext = std::unique_ptr<pcre2_compile_context, Free<pcre2_compile_context_free>>;
using JitStack = std::unique_ptr<pcre2_jit_stack, Free<pcre2_jit_stack_free>>;

// What one thread needs to match, whatever the expression.
struct Workspace {
  MatchData data{pcre2_match_data_create(1, nullptr)};
  MatchContext context{pcre2_match_context_create(nullptr)};
  JitStack stack{pcre2_jit_stack_create(32 << 10, kMaxJitStack, nullptr)};
  Workspace() {
    if (!data || !context) throw std::bad_alloc();
    pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
    pcre2_set_heap_limit(context.get(), kHeapLimitKib);
  }
};

Workspace& workspace() {
  thread_local Workspace instance;
  return instance;
}

std::string message_of(int code) {
  PCRE2_UCHAR buffer[256] = {};
  pcre2_get_error_message(code, buffer, sizeof buffer);
  return reinterpret_cast<const char*>(buffer);
}

}  // namespace

Regex::Regex(std::string_view expression, const std::string& where) : where_(where) {
  const std::string pattern = oniguruma_to_pcre2(expression, where);
  CompileContext context(pcre2_compile_context_create(nullptr));
  if (!context) throw std::bad_alloc();
  pcre2_set_max_pattern_length(context.get(), kMaxPatternBytes);
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                   PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error,
                                   &offset, context.get());
  if (code == nullptr)
    fail(ErrorCode::kUnsupported, "{}: the expression does not compile: {} (at {} of {})", where,
         message_of(error), offset, pattern.substr(0, 200));
  code_ =
      std::shared_ptr<void>(code, [](void* pointer) { pcre2_code_free(static_cast<pcre2_code*>(pointer)); });
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // where it is not available, pcre2_match interprets
}

bool Regex::find(std::string_view subject, size_t start, Match* match) const {
  Workspace& work = workspace();
  // Expressions of real files need a few steps a byte; the bound leaves room for runs that are matched,
  // given back and matched again.
  const size_t limit = std::min<size_t>(200'000 + 32 * (subject.size() - start), UINT32_MAX);
  pcre2_set_match_limit(work.context.get(), static_cast<uint32_t>(limit));
  const int count =
      pcre2_match(static_cast<const pcre2_code*>(code_.get()), reinterpret_cast<PCRE2_SPTR>(subject.data()),
                  subject.size(), start, PCRE2_NO_UTF_CHECK, work.data.get(), work.context.get());
  if (count == PCRE2_ERROR_NOMATCH) return false;
  if (count < 0)
    fail(ErrorCode::kUnsupported, "{}: matching the expression at byte {} of a text of {} failed: {}", where_,
         start, subject.size(), message_of(count));
  const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(work.data.get());
  *match = {bounds[0], std::max(bounds[0], bounds[1])};
  return true;
}

}  // namespace nfloat
