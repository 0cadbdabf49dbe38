// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TESTS_SUPPORT_SANITIZER_H_
#define NFLOAT_TESTS_SUPPORT_SANITIZER_H_

// Sanitizer builds are many times slower and keep shadow memory: tests of time-consuming figures take fewer
// samples there, tests of peak memory assert nothing. GCC defines macros, clang (thread sanitizer) has
// features.
namespace nfloat::testing {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#elif defined(__has_feature)
inline constexpr bool kSanitized = __has_feature(address_sanitizer) || __has_feature(thread_sanitizer);
#else
inline constexpr bool kSanitized = false;
#endif

}  // namespace nfloat::testing

#endif  // NFLOAT_TESTS_SUPPORT_SANITIZER_H_
