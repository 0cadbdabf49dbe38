// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <string>
#include <thread>

#include "base/mapped_file.h"
#include "base/parallel.h"
#include "nfloat/error.h"

#if defined(__has_feature)
#define NFLOAT_TEST_HAS(feature) __has_feature(feature)
#else
#define NFLOAT_TEST_HAS(feature) 0
#endif

namespace nfloat {
namespace {

#if defined(__SANITIZE_THREAD__) || NFLOAT_TEST_HAS(thread_sanitizer)
constexpr bool kThreadSanitizer = true;
#else
constexpr bool kThreadSanitizer = false;
#endif
#if defined(__SANITIZE_ADDRESS__) || NFLOAT_TEST_HAS(address_sanitizer)
constexpr bool kAddressSanitizer = true;
#else
constexpr bool kAddressSanitizer = false;
#endif

int64_t sum_of_loop(int threads) {
  std::atomic<int64_t> sum = 0;
  parallel_for(1000, 1, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) sum += i;
  });
  return sum;
}

// The exit code of a child that runs `work`; -1 when it did not end within two minutes.
template <typename Work>
int exit_code_of_child(Work&& work) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(work());
  const auto limit = std::chrono::steady_clock::now() + std::chrono::minutes(2);
  int status = 0;
  while (::waitpid(child, &status, WNOHANG) == 0) {
    if (std::chrono::steady_clock::now() > limit) {
      ::kill(child, SIGKILL);
      ::waitpid(child, &status, 0);
      return -1;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(Fork, ChildRunsLoopsThoughOneWasRunningInTheParent) {
  if (kThreadSanitizer) GTEST_SKIP() << "the thread sanitizer ends a forked child that begins threads";
  std::atomic<bool> stop = false;
  std::atomic<int64_t> loops = 0;
  std::thread busy([&] {
    while (!stop) {
      EXPECT_EQ(sum_of_loop(2), 499500);
      ++loops;
    }
  });
  while (loops == 0) std::this_thread::yield();
  for (int round = 0; round < 12; ++round) {
    EXPECT_EQ(sum_of_loop(3), 499500);  // this thread has a team of its own to forget
    EXPECT_EQ(exit_code_of_child([] {
                for (int loop = 0; loop < 100; ++loop)
                  if (sum_of_loop(2 + loop % 2) != 499500) return 1;
                return 0;
              }),
              0);
  }
  stop = true;
  busy.join();
}

TEST(Fork, ChildOfAChildAndOfALoopsBody) {
  if (kThreadSanitizer) GTEST_SKIP() << "the thread sanitizer ends a forked child that begins threads";
  EXPECT_EQ(exit_code_of_child([] {
              if (sum_of_loop(2) != 499500) return 1;
              return exit_code_of_child([] { return sum_of_loop(2) == 499500 ? 7 : 1; });
            }),
            7);
  std::atomic<int> wrong = 0;
  parallel_for(2, 1, 2, [&](int64_t, int64_t) {
    if (exit_code_of_child([] { return sum_of_loop(2) == 499500 ? 0 : 1; }) != 0) ++wrong;
  });
  EXPECT_EQ(wrong, 0);
}

// No more threads for this user, or no address space for their stacks: loops run with those that there are.
TEST(Fork, LoopsRunWhereTheSystemRefusesThreads) {
  if (kThreadSanitizer) GTEST_SKIP() << "the thread sanitizer ends a forked child that begins threads";
  EXPECT_EQ(exit_code_of_child([] {
              // An administrator's processes are not counted; the address space is. The address sanitizer
              // ends a process that has none left.
              const rlimit none{1, 1};
              ::setrlimit(RLIMIT_NPROC, &none);
              if (!kAddressSanitizer) ::setrlimit(RLIMIT_AS, &none);
              for (int loop = 0; loop < 100; ++loop)
                if (sum_of_loop(8) != 499500) return 1;
              return 0;
            }),
            0);
}

// A limit on addresses counts mapped files: what to do instead is said.
TEST(Fork, AFileThatTheLimitOnAddressesKeepsOutNamesTheLimit) {
  if (kAddressSanitizer || kThreadSanitizer)
    GTEST_SKIP() << "sanitizers take more addresses than a limit lets";
  const std::string path = ::testing::TempDir() + "/mapped." + std::to_string(::getpid());
  const int fd = ::open(path.c_str(), O_CREAT | O_WRONLY, 0600);
  ASSERT_GE(fd, 0);
  const bool sparse = ::ftruncate(fd, off_t{1} << 36) == 0;
  ::close(fd);
  if (sparse) {
    EXPECT_EQ(exit_code_of_child([&] {
                const rlimit limit{rlim_t{1} << 35, rlim_t{1} << 35};
                ::setrlimit(RLIMIT_AS, &limit);
                try {
                  const MappedFile file(path);
                  return 1;
                } catch (const Error& error) {
                  const std::string text = error.what();
                  for (const std::string& word : {path, std::string("ulimit -v"), std::string("65536 MiB"),
                                                  std::string("32768 MiB"), std::string("MemoryMax")})
                    if (text.find(word) == std::string::npos) return 2;
                  return error.code() == ErrorCode::kOutOfMemory ? 0 : 3;
                }
              }),
              0);
  }
  ::unlink(path.c_str());
  if (!sparse) GTEST_SKIP() << "no sparse file of 64 GiB here";
}

}  // namespace
}  // namespace nfloat
