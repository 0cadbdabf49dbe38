// SPDX-License-Identifier: Apache-2.0
#include "base/available_threads.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "base/parallel.h"
#include "nfloat/threads.h"

namespace nfloat {
namespace {

TEST(AvailableThreads, TheVariableIsReadAsOpenMpReadsIt) {
  EXPECT_EQ(parse_thread_variable("3"), 3);
  EXPECT_EQ(parse_thread_variable(" 5 "), 5);
  EXPECT_EQ(parse_thread_variable("4,2,1"), 4);
  EXPECT_EQ(parse_thread_variable("100000"), 4096);
  for (const char* ignored : {"", " ", "0", "-2", "x", "3x", "2.5", "99999999999999999999", ",4"})
    EXPECT_EQ(parse_thread_variable(ignored), 0) << ignored;
  EXPECT_EQ(parse_thread_variable(nullptr), 0);
}

TEST(AvailableThreads, WhatIsAskedForIsTaken) {
  EXPECT_EQ(thread_count(7), 7);
  EXPECT_EQ(thread_count(0), default_threads());
  EXPECT_GE(default_threads(), 1);
  if (std::getenv("OMP_NUM_THREADS") == nullptr) {
    EXPECT_EQ(default_threads(), available_processors());
  }
}

class Quota : public testing::Test {
 protected:
  void SetUp() override {
    const auto* info = testing::UnitTest::GetInstance()->current_test_info();
    mount_ = std::filesystem::path(testing::TempDir()) / (std::string("quota_") + info->name());
    std::filesystem::remove_all(mount_);
  }
  void TearDown() override { std::filesystem::remove_all(mount_); }

  void put(const std::string& name, const std::string& text) const {
    std::filesystem::create_directories((mount_ / name).parent_path());
    std::ofstream(mount_ / name) << text;
  }

  std::filesystem::path mount_;
};

TEST_F(Quota, OfTheUnifiedHierarchyCountsUpToTheMount) {
  put("a/b/cpu.max", "max 100000\n");
  EXPECT_EQ(quota_processors("0::/a/b\n", mount_), 0);
  put("a/cpu.max", "350000 100000\n");
  EXPECT_EQ(quota_processors("0::/a/b\n", mount_), 4);
  put("a/b/cpu.max", "150000 100000\n");
  EXPECT_EQ(quota_processors("0::/a/b\n", mount_), 2);
  put("cpu.max", "20000 100000\n");
  EXPECT_EQ(quota_processors("0::/a/b\n", mount_), 1);
  // The folder of the group's own name is not visible in a container.
  EXPECT_EQ(quota_processors("0::/docker/123\n", mount_), 1);
}

TEST_F(Quota, OfTheFirstVersionIsTwoFiles) {
  put("cpu/a/cpu.cfs_quota_us", "-1\n");
  put("cpu/a/cpu.cfs_period_us", "100000\n");
  const std::string membership = "9:name=systemd:/\n4:cpuset:/\n2:cpu,cpuacct:/a\n0::/\n";
  EXPECT_EQ(quota_processors(membership, mount_), 0);
  put("cpu/a/cpu.cfs_quota_us", "300000\n");
  EXPECT_EQ(quota_processors(membership, mount_), 3);
}

TEST_F(Quota, TextThatIsNotOneIsIgnored) {
  put("cpu.max", "many\n");
  put("a/cpu.max", "-100000 100000\n");
  put("b/cpu.max", "100000");
  put("c/cpu.max", "100000 0\n");
  for (const char* membership : {"", "\n", "0::/", "0::/a\n", "0::/b", "0::/c", "0:", "nonsense\n::\n"})
    EXPECT_EQ(quota_processors(membership, mount_), 0) << membership;
}

}  // namespace
}  // namespace nfloat
