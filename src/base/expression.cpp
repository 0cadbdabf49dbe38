// SPDX-License-Identifier: Apache-2.0
#define PCRE2_CODE_UNIT_WIDTH 8
#include "base/expression.h"

#include <fmt/format.h>
#include <pcre2.h>

#include <algorithm>
#include <cstdint>
#include <string>

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

Expression::Expression(std::string_view pattern, Text text) {
  CompileContext context(pcre2_compile_context_create(nullptr));
  if (!context) throw std::bad_alloc();
  pcre2_set_max_pattern_length(context.get(), kMaxPatternBytes);
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  const uint32_t options =
      PCRE2_NEVER_BACKSLASH_C | (text == Text::kUtf8 ? PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE
                                                     : PCRE2_NEVER_UTF | PCRE2_DOLLAR_ENDONLY);
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), options,
                                   &error, &offset, context.get());
  if (code == nullptr) throw ExpressionError(fmt::format("{} (at {})", message_of(error), offset));
  code_ =
      std::shared_ptr<void>(code, [](void* pointer) { pcre2_code_free(static_cast<pcre2_code*>(pointer)); });
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // where it is not available, pcre2_match interprets
}

bool Expression::run(std::string_view subject, size_t start, bool anchored, Match* match) const {
  Workspace& work = workspace();
  // Expressions of real files need a few steps a byte; the bound leaves room for runs that are matched,
  // given back and matched again.
  const size_t limit = std::min<size_t>(200'000 + 32 * (subject.size() - start), UINT32_MAX);
  pcre2_set_match_limit(work.context.get(), static_cast<uint32_t>(limit));
  const int count =
      pcre2_match(static_cast<const pcre2_code*>(code_.get()), reinterpret_cast<PCRE2_SPTR>(subject.data()),
                  subject.size(), start, PCRE2_NO_UTF_CHECK | (anchored ? PCRE2_ANCHORED : 0),
                  work.data.get(), work.context.get());
  if (count == PCRE2_ERROR_NOMATCH) return false;
  if (count < 0) throw ExpressionError(message_of(count));
  const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(work.data.get());
  *match = {bounds[0], std::max(bounds[0], bounds[1])};
  return true;
}

bool Expression::find(std::string_view subject, size_t start, Match* match) const {
  return run(subject, start, false, match);
}

bool Expression::matches_beginning(std::string_view subject) const {
  Match match{};
  return run(subject, 0, true, &match);
}

}  // namespace nfloat
