// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_BASE_AVAILABLE_THREADS_H_
#define NFLOAT_BASE_AVAILABLE_THREADS_H_

#include <filesystem>
#include <string>
#include <string_view>

namespace nfloat {

inline constexpr int kMostThreads = 4096;  // of a team

// Processors that this process may use at once: those of its affinity mask, or fewer where the quota of a
// control group gives less time (a quota of one and a half gives 2). Read once; at least 1.
int available_processors() noexcept;

// What OMP_NUM_THREADS says ("4", or "4,2" for nested loops, of which the first counts); 0 for null and for
// what is not a positive number.
int parse_thread_variable(const char* text) noexcept;

// The whole processors that the quotas of a control group and of the groups around it allow, rounded up; 0
// without a quota. `membership`: the text of /proc/self/cgroup. `mount`: where the file systems of control
// groups are mounted, version 2 itself or version 1's "cpu" in it.
int quota_processors(std::string_view membership, const std::filesystem::path& mount);

}  // namespace nfloat

#endif  // NFLOAT_BASE_AVAILABLE_THREADS_H_
