// SPDX-License-Identifier: Apache-2.0
#include "base/fnv.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <vector>

#include "base/checksum.h"
#include "nfloat/error.h"
#include "nfloat/text.h"
#include "support/files.h"

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

TEST(Checksum, EveryChangeOfABitIsSeen) {
  std::vector<std::byte> bytes(203);
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i * 37 >> 2);
  const auto sum = [&](size_t count) {
    Checksum all;
    all.add(std::span(bytes).first(count));
    return all.value();
  };
  const uint64_t whole = sum(bytes.size());
  for (size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    const std::byte flip = std::byte{1} << (bit % 8);
    bytes[bit / 8] ^= flip;
    EXPECT_NE(sum(bytes.size()), whole) << bit;
    // Two changes of the same bit of two words, the highest among them, do not make each other good.
    if (bit + 64 < 8 * bytes.size()) {
      bytes[bit / 8 + 8] ^= flip;
      EXPECT_NE(sum(bytes.size()), whole) << bit;
      bytes[bit / 8 + 8] ^= flip;
    }
    bytes[bit / 8] ^= flip;
  }
  Checksum in_pieces;
  in_pieces.add(std::span(bytes).first(64));
  in_pieces.add(std::span(bytes).subspan(64, 136));
  in_pieces.add(std::span(bytes).subspan(200));
  EXPECT_EQ(in_pieces.value(), whole);
}

TEST(Checksum, OfAFileIsThatOfItsBytes) {
  const std::string path =
      (std::filesystem::temp_directory_path() / ("nfloat-checksum-" + std::to_string(::getpid()))).string();
  for (const size_t size : {size_t{0}, size_t{5}, size_t{4} << 20, (size_t{8} << 20) + 3}) {
    std::string bytes(size, '\0');
    for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<char>(i * 1103515245 >> 7);
    testing::write_file(path, bytes);
    Checksum sum;
    sum.add(std::as_bytes(std::span(bytes)));
    EXPECT_EQ(checksum_of_file(path), sum.value()) << size;
  }
  std::filesystem::remove(path);
  EXPECT_THROW(checksum_of_file(path), Error);
}

}  // namespace
}  // namespace nfloat
