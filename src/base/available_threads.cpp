// SPDX-License-Identifier: Apache-2.0
#include "base/available_threads.h"

#if defined(__linux__)
#include <sched.h>
#endif

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <thread>

#include "nfloat/threads.h"

namespace nfloat {
namespace {

std::string read_text(const std::filesystem::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// "QUOTA PERIOD" in microseconds as processors; 0 for "max", for -1 and for what is not two numbers.
double processors(const std::string& text) {
  const char* const end = text.data() + text.size();
  double quota = 0, period = 0;
  const auto first = std::from_chars(text.data(), end, quota);
  if (first.ec != std::errc() || first.ptr == end) return 0;
  const auto second = std::from_chars(first.ptr + 1, end, period);
  return second.ec == std::errc() && quota > 0 && period > 0 ? quota / period : 0;
}

// The quota of the control group in one folder.
double folder_quota(const std::filesystem::path& folder) {
  const double unified = processors(read_text(folder / "cpu.max"));
  if (unified > 0) return unified;
  std::string quota = read_text(folder / "cpu.cfs_quota_us");
  quota.erase(std::find(quota.begin(), quota.end(), '\n'), quota.end());
  return processors(quota + " " + read_text(folder / "cpu.cfs_period_us"));
}

// The least quota from mount/group up to the mount; 0 without one. Folders that are not there (a container
// sees its own group as the mount) count as having none.
double least_quota(const std::filesystem::path& mount, std::filesystem::path group) {
  double least = 0;
  for (group = group.relative_path();; group = group.parent_path()) {
    const double quota = folder_quota(mount / group);
    if (quota > 0) least = least > 0 ? std::min(least, quota) : quota;
    if (group.empty()) return least;
  }
}

// Whether "cpu" is among the controllers of a line, as in "cpu,cpuacct".
bool names_cpu(std::string_view controllers) {
  while (!controllers.empty()) {
    const size_t comma = std::min(controllers.find(','), controllers.size());
    if (controllers.substr(0, comma) == "cpu") return true;
    controllers.remove_prefix(std::min(controllers.size(), comma + 1));
  }
  return false;
}

int affinity_processors() noexcept {
#if defined(__linux__)
  // The kernel refuses a mask with fewer bits than it has processors.
  for (int bits = 1024; bits <= (1 << 20); bits *= 4) {
    const std::unique_ptr<cpu_set_t, void (*)(cpu_set_t*)> mask(CPU_ALLOC(static_cast<size_t>(bits)),
                                                                [](cpu_set_t* set) { CPU_FREE(set); });
    const size_t bytes = CPU_ALLOC_SIZE(static_cast<size_t>(bits));
    if (mask == nullptr) break;
    if (::sched_getaffinity(0, bytes, mask.get()) == 0) return CPU_COUNT_S(bytes, mask.get());
  }
#endif
  return static_cast<int>(std::thread::hardware_concurrency());
}

int count_processors() noexcept {
  int quota = 0;
  try {
    quota = quota_processors(read_text("/proc/self/cgroup"), "/sys/fs/cgroup");
  } catch (const std::exception&) {  // no memory for a path: as without a quota
  }
  const int found = affinity_processors();
  return std::clamp(quota > 0 ? std::min(quota, found) : found, 1, kMostThreads);
}

int count_threads() noexcept {
  const int asked = parse_thread_variable(std::getenv("OMP_NUM_THREADS"));
  return asked > 0 ? asked : available_processors();
}

// count(), called at first use. A static local would be locked for ever in a child forked during that.
template <int (*count)()>
int counted() noexcept {
  static std::atomic<int> known{0};
  int number = known.load(std::memory_order_relaxed);
  if (number == 0) known.store(number = count(), std::memory_order_relaxed);
  return number;
}

}  // namespace

int quota_processors(std::string_view membership, const std::filesystem::path& mount) {
  double least = 0;
  while (!membership.empty()) {
    const size_t end = std::min(membership.find('\n'), membership.size());
    const std::string_view line = membership.substr(0, end);
    membership.remove_prefix(std::min(membership.size(), end + 1));
    // NUMBER:CONTROLLERS:PATH; version 2 has the number 0 and no controllers.
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == line.npos || second == line.npos) continue;
    const std::string_view controllers = line.substr(first + 1, second - first - 1);
    const std::filesystem::path group(line.substr(second + 1));
    double quota = 0;
    if (controllers.empty()) quota = least_quota(mount, group);
    if (names_cpu(controllers)) quota = least_quota(mount / "cpu", group);
    if (quota > 0) least = least > 0 ? std::min(least, quota) : quota;
  }
  return static_cast<int>(std::min<double>(std::ceil(least), kMostThreads));
}

int parse_thread_variable(const char* text) noexcept {
  if (text == nullptr) return 0;
  std::string_view rest = text;
  rest.remove_prefix(std::min(rest.find_first_not_of(" \t"), rest.size()));
  int number = 0;
  const auto [end, error] = std::from_chars(rest.data(), rest.data() + rest.size(), number);
  rest.remove_prefix(static_cast<size_t>(end - rest.data()));
  rest.remove_prefix(std::min(rest.find_first_not_of(" \t"), rest.size()));
  if (error != std::errc() || !(rest.empty() || rest.front() == ',')) return 0;
  return std::clamp(number, 0, kMostThreads);
}

int available_processors() noexcept {
  return counted<count_processors>();
}

namespace {
std::atomic<int> chosen_threads{0};
}  // namespace

int default_threads() noexcept {
  const int chosen = chosen_threads.load(std::memory_order_relaxed);
  return chosen > 0 ? chosen : counted<count_threads>();
}

void set_threads(int threads) noexcept {
  chosen_threads.store(std::clamp(threads, 0, kMostThreads), std::memory_order_relaxed);
}

}  // namespace nfloat
