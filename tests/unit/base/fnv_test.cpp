// SPDX-License-Identifier: Apache-2.0
#include "base/fnv.h"

#include <gtest/gtest.h>

#include "nfloat/text.h"

namespace nfloat {
namespace {

// Numbers of the reference implementation (Fowler, Noll and Vo).
TEST(Fnv, GivesTheNumbersOfItsAuthors) {
  static_assert(fnv("") == 0xcbf29ce484222325u);
  static_assert(fnv("a") == 0xaf63dc4c8601ec8cu);
  EXPECT_EQ(fnv("foobar"), 0x85944171f73967e8u);
  EXPECT_EQ(fnv(std::as_bytes(std::span("foobar", 6))), 0x85944171f73967e8u);
  EXPECT_EQ(fnv("bar", fnv("foo")), 0x85944171f73967e8u);
  EXPECT_EQ(text_hash("foobar"), 0x85944171f73967e8u);
  EXPECT_EQ(text_hash("bar", text_hash("foo")), 0x85944171f73967e8u);
  EXPECT_EQ(fnv("\xff"), fnv_step(kFnvStart, 0xff));
}

}  // namespace
}  // namespace nfloat
