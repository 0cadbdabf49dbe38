// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_RANKS_H_
#define NFLOAT_RANKS_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nfloat/api.h"

// Processes, of one machine or of several, that compute one model together: each does the same in the same
// order, and holds a part of every matrix.
namespace nfloat {

// Which of how many processes this one is.
struct RankPlace {
  int rank = 0, count = 1;
  int local_count = 1;  // of them on this machine
  int local_rank = 0;   // of this one among those
};

// As mpirun has told in the environment; {0, 1, 1, 0} elsewhere.
NFLOAT_API RankPlace rank_place() noexcept;

// Calls that exchange something are made by all ranks, in the same order, with sizes that agree. Each wait
// has a deadline: who does not answer is named in a kIo error, with the machine and the place. One thread at
// a time.
class NFLOAT_API Ranks {
 public:
  virtual ~Ranks();

  int rank() const noexcept { return rank_; }
  int count() const noexcept { return count_; }
  const std::string& host(int rank) const noexcept { return hosts_[static_cast<size_t>(rank)]; }
  // "rank 2 on machine-c".
  std::string name(int rank) const;

  // `all` = what every rank gave, in their order without gaps: sizes[r] bytes of rank r; `own` has
  // sizes[rank()] and lies outside of `all`.
  virtual void gather(const void* own, std::span<const size_t> sizes, void* all) = 0;
  // `bytes` becomes what rank `from` has there. The others may wait for it without a deadline.
  enum class Patience : uint8_t { kDeadline, kAnyTime };
  virtual void broadcast(void* bytes, size_t count, int from = 0,
                         Patience patience = Patience::kDeadline) = 0;
  void barrier();
  // Texts of any lengths.
  std::vector<std::string> gather_texts(const std::string& own);
  void broadcast_text(std::string& text, int from = 0);
  // A text of rank 0, for which the others wait as long as it takes to come.
  void instruct(std::string& text);

  // Why the ranks cannot go on together; empty while they can. Of both the first reason stays; from any
  // thread.
  std::string failure() const;
  void give_up(const std::string& why) noexcept;

  // What is thrown next is thrown by all ranks: rank 0 will say it.
  void all_fail() noexcept { all_fail_ = true; }
  bool have_all_failed() const noexcept { return all_fail_; }

  // Where the work is, for messages: "layer 17"; not copied.
  void at(const char* what, int64_t number) noexcept { what_ = what, number_ = number; }
  std::string place() const;

  // Ends all ranks; of processes, with this exit code.
  [[noreturn]] virtual void abort(int exit_code) noexcept = 0;

 protected:
  Ranks(int rank, int count) noexcept : rank_(rank), count_(count) {}
  // Gives up.
  [[noreturn]] void fail_waiting(std::span<const int> missing, double seconds);

  std::vector<std::string> hosts_;

 private:
  const int rank_, count_;
  const char* what_ = nullptr;
  int64_t number_ = 0;
  bool all_fail_ = false;
  mutable std::mutex mutex_;  // of what follows
  std::string failure_;
};

// Whether this build knows Open MPI; its library may be missing all the same.
NFLOAT_API bool knows_open_mpi() noexcept;

inline constexpr double kRankTimeout = 60;  // seconds

// Joins the processes that mpirun has started, by Open MPI, whose library is loaded now; they part when the
// process ends or the object goes. `timeout`: seconds of the deadline. `build`: what is the same of all
// programs that may go together, beside their version; a commit. Once a process. Throws kUnsupported naming
// the package that is missing, where MPI has begun already, or a rank that is another program, and kIo.
NFLOAT_API std::shared_ptr<Ranks> join_ranks(double timeout = kRankTimeout, const std::string& build = {});

// Rank r has a share of the rows of a matrix that is `weights[r]` of their sum. The rows [result[r], result[r
// + 1]) are rank r's; boundaries are multiples of `unit`, but for the end.
NFLOAT_API std::vector<int64_t> share_rows(int64_t rows, int64_t unit, std::span<const double> weights);

}  // namespace nfloat

#endif  // NFLOAT_RANKS_H_
