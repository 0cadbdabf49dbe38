// SPDX-License-Identifier: Apache-2.0
// Ranks by Open MPI. Its header gives types alone: the library is loaded when mpirun has started the process,
// so that the program runs where it is not installed.
#include "nfloat/ranks.h"

#include "base/fail.h"
#include "nfloat/version.h"
#include "ranks/host_memory.h"

#ifdef NFLOAT_MPI
#include <mpi.h>
#ifndef OMPI_MAJOR_VERSION
#undef NFLOAT_MPI
#endif
#endif

#ifdef NFLOAT_MPI
#include <dlfcn.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <thread>
#include <type_traits>

namespace nfloat {
namespace {

using Clock = std::chrono::steady_clock;

constexpr const char* kLibrary = "libmpi.so.40";  // of Open MPI 4 and 5
constexpr const char* kPackage = "libopenmpi3, which openmpi-bin brings";
// Bytes of a message. What is longer goes as several: Open MPI sends messages of more than 64 KiB over TCP by
// asking first, and takes two to three times as long as the wire.
constexpr size_t kPiece = size_t{60} << 10;
constexpr size_t kUnderWay = 16;  // messages to one rank, or from it, that MPI knows of at a time

struct OpenMpi {
  decltype(&MPI_Initialized) initialized;
  decltype(&MPI_Init_thread) init_thread;
  decltype(&MPI_Comm_set_errhandler) set_errhandler;
  decltype(&MPI_Comm_rank) comm_rank;
  decltype(&MPI_Comm_size) comm_size;
  decltype(&MPI_Isend) isend;
  decltype(&MPI_Irecv) irecv;
  decltype(&MPI_Test) test;
  decltype(&MPI_Cancel) cancel;
  decltype(&MPI_Abort) abort;
  decltype(&MPI_Finalize) finalize;
  MPI_Comm world;
  MPI_Datatype byte;
  MPI_Errhandler errors_return;
};

OpenMpi load_open_mpi() {
  // Its plug-ins look for its symbols among those of all.
  void* library = ::dlopen(kLibrary, RTLD_NOW | RTLD_GLOBAL);
  if (library == nullptr)
    fail(ErrorCode::kUnsupported, "several ranks need Open MPI, whose library is not here ({}): install {}",
         ::dlerror(), kPackage);
  OpenMpi mpi{};
  const auto find = [&](const char* name, auto& function) {
    void* found = ::dlsym(library, name);
    if (found == nullptr)
      fail(ErrorCode::kUnsupported, "{}: has no {}: not an Open MPI that this build knows", kLibrary, name);
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(found);
  };
  find("MPI_Initialized", mpi.initialized);
  find("MPI_Init_thread", mpi.init_thread);
  find("MPI_Comm_set_errhandler", mpi.set_errhandler);
  find("MPI_Comm_rank", mpi.comm_rank);
  find("MPI_Comm_size", mpi.comm_size);
  find("MPI_Isend", mpi.isend);
  find("MPI_Irecv", mpi.irecv);
  find("MPI_Test", mpi.test);
  find("MPI_Cancel", mpi.cancel);
  find("MPI_Abort", mpi.abort);
  find("MPI_Finalize", mpi.finalize);
  // What the header's MPI_COMM_WORLD, MPI_BYTE and MPI_ERRORS_RETURN stand for.
  find("ompi_mpi_comm_world", mpi.world);
  find("ompi_mpi_byte", mpi.byte);
  find("ompi_mpi_errors_return", mpi.errors_return);
  return mpi;
}

void expect_success(int code, const char* call) {
  if (code != MPI_SUCCESS) fail(ErrorCode::kIo, "{} failed with code {}", call, code);
}

class MpiRanks final : public Ranks {
 public:
  MpiRanks(const OpenMpi& mpi, int rank, int count, double timeout, const std::string& build)
      : Ranks(rank, count), mpi_(mpi), timeout_(timeout) {
    for (int i = 0; i < count; ++i) hosts_.emplace_back("its machine");
    meet(build);
    share_memory();
  }

  // The barrier only where all ranks get here; after an exchange that failed MPI is left as it is, and mpirun
  // ends the others when this process ends.
  ~MpiRanks() override {
    if (broken_ || in_child()) return;
    try {
      barrier();
      mpi_.finalize();
    } catch (const Error&) {
    }
  }

  void gather(const void* own, std::span<const size_t> sizes, void* all) override {
    exchange([&] { start(own, sizes, all); });
    size_t before = 0;
    for (int i = 0; i < rank(); ++i) before += sizes[static_cast<size_t>(i)];
    const size_t size = sizes[static_cast<size_t>(rank())];
    if (size > 0) std::memcpy(static_cast<char*>(all) + before, own, size);
  }

  void broadcast(void* bytes, size_t count, int from, Patience patience) override {
    const bool patient = patience == Patience::kAnyTime && rank() != from;
    exchange(
        [&] {
          for (int other = 0; other < this->count(); ++other)
            if (rank() == from && other != from) send(static_cast<const char*>(bytes), count, other);
          if (rank() != from) receive(static_cast<char*>(bytes), count, from);
        },
        patient);
  }

  void abort(int exit_code) noexcept override {
    mpi_.abort(mpi_.world, exit_code);
    std::_Exit(exit_code);
  }

 private:
  // Bytes on their way to a rank, or from it: messages in their order, some of them at a time.
  struct Stream {
    int other;
    bool receives;
    char* next;  // of what MPI has not been told of
    size_t left;
    std::deque<MPI_Request> under_way;
  };

  void send(const char* bytes, size_t size, int to) {
    if (size > 0) begin({to, false, const_cast<char*>(bytes), size, {}});  // MPI only reads it
  }
  void receive(char* bytes, size_t size, int from) {
    if (size > 0) begin({from, true, bytes, size, {}});
  }
  void begin(Stream stream) {
    streams_.push_back(std::move(stream));
    fill(streams_.back());
  }
  void fill(Stream& stream) {
    while (stream.left > 0 && stream.under_way.size() < kUnderWay) {
      const size_t size = std::min(kPiece, stream.left);
      const auto length = static_cast<int>(size);
      MPI_Request request{};
      if (stream.receives)
        expect_success(mpi_.irecv(stream.next, length, mpi_.byte, stream.other, 0, mpi_.world, &request),
                       "MPI_Irecv");
      else
        expect_success(mpi_.isend(stream.next, length, mpi_.byte, stream.other, 0, mpi_.world, &request),
                       "MPI_Isend");
      stream.under_way.push_back(request);
      stream.next += size;
      stream.left -= size;
    }
  }
  // Whether all of it is through. Messages of a stream end in their order.
  bool proceed(Stream& stream) {
    while (!stream.under_way.empty()) {
      int done = 0;
      expect_success(mpi_.test(&stream.under_way.front(), &done, MPI_STATUS_IGNORE), "MPI_Test");
      if (done == 0) return false;
      stream.under_way.pop_front();
      fill(stream);
    }
    return true;
  }

  // Sends and receives what `start` starts. After one that failed the ranks are of no use: who is how far is
  // not known.
  template <typename Start>
  void exchange(const Start& start, bool patient = false) {
    if (in_child())
      fail(ErrorCode::kUnsupported,
           "this process is a child of the one that joined the ranks: they are that one's alone");
    if (broken_) fail(ErrorCode::kIo, "an exchange between the ranks failed before");
    try {
      start();
      wait(patient);
    } catch (const std::exception& error) {
      broken_ = true;
      give_up(error.what());
      forget_receives();
      throw;
    }
  }

  bool in_child() const noexcept { return ::getpid() != process_; }

  // Who is where, and whether all are the same program: others exchange other things after this. A text
  // without a second line is that of a version that did not ask.
  void meet(const std::string& build) {
    std::array<char, 256> name{};
    ::gethostname(name.data(), name.size() - 1);
    const std::vector<std::string> texts =
        gather_texts(fmt::format("{}\n{} {}", name.data(), version(), build));
    std::vector<std::string> builds;
    for (size_t i = 0; i < texts.size(); ++i) {
      const size_t end = std::min(texts[i].find('\n'), texts[i].size());
      hosts_[i] = texts[i].substr(0, end);
      builds.push_back(end < texts[i].size() ? texts[i].substr(end + 1) : "of an older version");
    }
    for (int i = 1; i < count(); ++i)
      if (const std::string& other = builds[static_cast<size_t>(i)]; other != builds[0]) {
        broken_ = true;
        fail(ErrorCode::kUnsupported, "{} runs nfloat {}, {} nfloat {}: all ranks must run the same program",
             this->name(i), other, this->name(0), builds[0]);
      }
  }

  // Ranks of one machine exchange through its memory, where all of them can.
  void share_memory() {
    std::vector<int> here;
    for (int other = 0; other < count(); ++other)
      if (host(other) == host(rank())) here.push_back(other);
    const auto members = static_cast<int>(here.size());
    const bool first = here[0] == rank();
    HostMemory memory;
    if (first && members > 1) memory = HostMemory::make(members);
    const std::vector<std::string> names = gather_texts(memory.name());
    const std::string& name = names[static_cast<size_t>(here[0])];
    if (!first && !name.empty()) memory = HostMemory::open(name, members);
    const std::vector<std::string> have = gather_texts(memory.empty() ? "" : "it");
    if (first && !memory.empty()) memory.forget_name();
    for (const int other : here)
      if (have[static_cast<size_t>(other)].empty()) return;
    memory_ = std::move(memory);
    here_ = std::move(here);
    member_ = static_cast<int>(std::find(here_.begin(), here_.end(), rank()) - here_.begin());
  }

  // The caller's memory may go now. A message that came in part cannot be cancelled: no call to MPI follows
  // that would go on with it.
  void forget_receives() noexcept {
    for (Stream& stream : streams_)
      if (stream.receives)
        for (MPI_Request& request : stream.under_way) mpi_.cancel(&request);
  }

  // Everyone sends to everyone, in one step: whose message does not come is known.
  void start(const void* own, std::span<const size_t> sizes, void* all) {
    const auto* const from = static_cast<const char*>(own);
    const size_t size = sizes[static_cast<size_t>(rank())];
    char* to = static_cast<char*>(all);
    size_t most = 0;  // of one rank of this machine
    for (int other = 0; other < count(); ++other) {
      const size_t part = sizes[static_cast<size_t>(other)];
      if (is_here(other))
        most = std::max(most, part);
      else if (other != rank())
        receive(to, part, other);
      if (is_here(other) && other != rank()) takes_.push_back({other, to, part});
      to += part;
    }
    // The next one first, so that not all begin with rank 0.
    for (int i = 1; i < count(); ++i)
      if (const int other = (rank() + i) % count(); !is_here(other)) send(from, size, other);
    gives_ = {from, size};
    turns_ = (most + HostMemory::kCapacity - 1) / HostMemory::kCapacity;
    begin_turn();
  }

  bool is_here(int other) const noexcept {
    return std::find(here_.begin(), here_.end(), other) != here_.end();
  }

  // What this rank gives and takes in the machine's memory, a part in each turn.
  void begin_turn() noexcept {
    if (turns_ == 0) return takes_.clear();
    const size_t size = std::min(gives_.size(), HostMemory::kCapacity);
    memory_.give(member_, gives_.first(size));
    gives_ = gives_.subspan(size);
    for (Take& take : takes_) take.missing = true;
  }
  void take_turns() noexcept {
    while (!takes_.empty()) {
      bool all = true;
      for (size_t i = 0; i < takes_.size(); ++i) {
        Take& take = takes_[i];
        if (!take.missing) continue;
        const auto member = std::find(here_.begin(), here_.end(), take.other) - here_.begin();
        const char* const from = memory_.given(static_cast<int>(member));
        if (from == nullptr) {
          all = false;
          continue;
        }
        const size_t size = std::min(take.left, HostMemory::kCapacity);
        if (size > 0) std::memcpy(take.to, from, size);
        take.to += size;
        take.left -= size;
        take.missing = false;
      }
      if (!all) return;
      --turns_;
      begin_turn();
    }
  }

  // Until all is through: spins, then sleeps longer and longer.
  void wait(bool patient) {
    using std::chrono::milliseconds, std::chrono::microseconds;
    constexpr milliseconds kSpin{2}, kLong{1000};
    constexpr microseconds kShortSpin{20}, kNap{1000}, kLongNap{20000};
    Clock::time_point start = Clock::now(), looked = start;
    for (;;) {
      take_turns();
      std::erase_if(streams_, [&](Stream& stream) { return proceed(stream); });
      if (streams_.empty() && takes_.empty()) return;
      const Clock::time_point now = Clock::now();
      if (now - looked > kLong) start += now - looked;  // this process stood still, and not the others
      looked = now;
      const auto waited = now - start;
      if (!patient && waited > std::chrono::duration<double>(timeout_)) break;
      if (streams_.empty() && (waited > kSpin || (crowded(now) && waited > kShortSpin)))
        memory_.wait(first_missing(), waited < kLong ? kNap : kLongNap);
      else if (waited < kSpin)
        let_others(now);
      else
        std::this_thread::sleep_for(waited < kLong ? microseconds(100) : milliseconds(1));
    }
    std::vector<int> missing;
    for (const Stream& stream : streams_)
      if (stream.receives) missing.push_back(stream.other);
    for (const Take& take : takes_)
      if (take.missing) missing.push_back(take.other);
    std::sort(missing.begin(), missing.end());
    if (missing.empty())
      for (const Stream& stream : streams_) missing.push_back(stream.other);
    fail_waiting(missing, timeout_);
  }

  // Whether other programs want this processor, so that a rank that spins is set back for it, and one that
  // sleeps until it is woken is not.
  bool crowded(Clock::time_point now) const noexcept { return now < crowded_until_; }
  void let_others(Clock::time_point now) noexcept {
    constexpr std::chrono::microseconds kTaken{200};
    constexpr std::chrono::milliseconds kRemembered{500};
    if (crowded(now) && streams_.empty()) return;
    ::sched_yield();
    if (const Clock::time_point back = Clock::now(); back - now > kTaken) crowded_until_ = back + kRemembered;
  }

  int first_missing() const noexcept {
    const auto take = std::find_if(takes_.begin(), takes_.end(), [](const Take& one) { return one.missing; });
    return static_cast<int>(std::find(here_.begin(), here_.end(), take->other) - here_.begin());
  }

  // What another rank of this machine gives.
  struct Take {
    int other;
    char* to;
    size_t left;
    bool missing = true;  // has not come in this turn
  };

  const OpenMpi mpi_;
  const double timeout_;
  const pid_t process_ = ::getpid();
  std::vector<Stream> streams_;
  HostMemory memory_;
  std::vector<int> here_;  // ranks that share memory_, this one among them; none
  int member_ = 0;         // which of them this one is
  std::span<const char> gives_;
  std::vector<Take> takes_;
  size_t turns_ = 0;
  Clock::time_point crowded_until_{};
  bool broken_ = false;  // an exchange failed
};

}  // namespace

bool knows_open_mpi() noexcept {
  return true;
}

std::shared_ptr<Ranks> join_ranks(double timeout, const std::string& build) {
  const OpenMpi mpi = load_open_mpi();
  // Without it ranks that wait keep the processors from the network: a thousand times slower between
  // machines.
  ::setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
  int initialized = 0, provided = 0, rank = 0, count = 1;
  expect_success(mpi.initialized(&initialized), "MPI_Initialized");
  if (initialized != 0)
    fail(ErrorCode::kUnsupported,
         "this process has begun MPI already: ranks are joined once, and by nfloat alone");
  expect_success(mpi.init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided), "MPI_Init_thread");
  if (provided < MPI_THREAD_SERIALIZED)
    fail(ErrorCode::kUnsupported, "this Open MPI cannot be called from several threads in turn");
  // Else MPI ends the process where a call fails.
  expect_success(mpi.set_errhandler(mpi.world, mpi.errors_return), "MPI_Comm_set_errhandler");
  expect_success(mpi.comm_rank(mpi.world, &rank), "MPI_Comm_rank");
  expect_success(mpi.comm_size(mpi.world, &count), "MPI_Comm_size");
  return std::make_shared<MpiRanks>(mpi, rank, count, timeout, build);
}

}  // namespace nfloat

#else

namespace nfloat {

bool knows_open_mpi() noexcept {
  return false;
}

std::shared_ptr<Ranks> join_ranks(double, const std::string&) {
  fail(ErrorCode::kUnsupported,
       "this nfloat was built without MPI: several ranks need one that is built where libopenmpi-dev is "
       "installed");
}

}  // namespace nfloat

#endif
