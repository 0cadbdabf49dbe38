// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_MODEL_LEAD_H_
#define NFLOAT_MODEL_LEAD_H_

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "nfloat/lead.h"
#include "nfloat/ranks.h"

namespace nfloat {

class RankLeader;

// A session as the other ranks know it: not at all before its first pass.
class LedSession {
 public:
  LedSession() = default;
  LedSession(LedSession&& other) noexcept;
  LedSession& operator=(LedSession&& other) noexcept;
  ~LedSession();

  // Of a session with the same past.
  LedSession fork() const;
  void rewind(int64_t position);

 private:
  friend class RankLeader;
  std::shared_ptr<RankLeader> leader_;
  uint64_t number_ = 0;
};

// What rank 0 tells the others: all that happens to sessions, sent with the next pass. Destroyed, it tells
// them that it is over.
class RankLeader : public std::enable_shared_from_this<RankLeader> {
 public:
  RankLeader(std::shared_ptr<Ranks> ranks, std::vector<std::shared_ptr<LinearObserver>> adapters);
  ~RankLeader();

  // One pass of rank 0, from the message to its end: the others run the same.
  class Pass {
   public:
    // Sends it. `wanted`: what is computed of each entry, not kAuto.
    Pass(RankLeader& leader, size_t model, std::span<const BatchEntry> entries,
         std::span<const WantedLogits> wanted);
    // Not to be called where the pass failed on every rank alike.
    void failed_here(const char* why) noexcept;

   private:
    RankLeader& leader_;
    const std::lock_guard<std::mutex> turn_;
  };

 private:
  friend class LedSession;

  template <typename... Values>
  void add(Values... values);
  void add_session(LedSession& session, size_t model, const SessionOptions& options, int64_t whole_context);
  int32_t number_of(const LinearObserver* adapters) const;
  // The message of a pass.
  std::string told_of(size_t model, std::span<const BatchEntry> entries, std::span<const WantedLogits> wanted,
                      std::span<const int32_t> adapters);

  const std::shared_ptr<Ranks> ranks_;
  const std::vector<std::shared_ptr<LinearObserver>> adapters_;
  std::mutex turn_;   // passes go one after the other
  std::mutex mutex_;  // of what follows
  std::string told_;  // and not sent yet
  uint64_t next_ = 1;
};

// Throws kUnsupported where rank 0 leads: what is called would need the other ranks to call it too.
void expect_not_led(const Model& model);

}  // namespace nfloat

#endif  // NFLOAT_MODEL_LEAD_H_
