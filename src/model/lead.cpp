// SPDX-License-Identifier: Apache-2.0
#include "model/lead.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <type_traits>
#include <utility>

#include "base/fail.h"
#include "base/state_of.h"
#include "model/model_state.h"
#include "model/session_state.h"

namespace nfloat {
namespace {

enum class Act : uint8_t { kMake, kFork, kRewind, kDrop, kPass, kEnd };

template <typename T>
void put(std::string& message, const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  message.append(reinterpret_cast<const char*>(&value), sizeof value);
}

// One message, read from its beginning.
class Told {
 public:
  explicit Told(const std::string& message) : left_(message) {}

  bool more() const noexcept { return !left_.empty(); }
  template <typename T>
  T take() {
    T value;
    std::memcpy(&value, bytes(sizeof value), sizeof value);
    return value;
  }
  std::vector<int32_t> tokens(uint64_t count) {
    std::vector<int32_t> all(count);
    std::memcpy(all.data(), bytes(count * sizeof(int32_t)), count * sizeof(int32_t));
    return all;
  }

 private:
  const char* bytes(size_t count) {
    if (count > left_.size()) fail(ErrorCode::kIo, "rank 0 has told less than it should have");
    const char* const from = left_.data();
    left_.remove_prefix(count);
    return from;
  }

  std::string_view left_;
};

// A rank above 0.
class Follower {
 public:
  explicit Follower(const LedModels& led) : led_(led), workspaces_(led.models.size()) {}

  // Until rank 0 says that it is over.
  void run(Ranks& ranks) {
    std::string message;
    while (true) {
      ranks.at("waiting for rank 0", -1);
      ranks.instruct(message);
      Told told(message);
      while (told.more())
        if (!act(told)) return;
    }
  }

 private:
  struct Known {
    size_t model;
    Session session;
  };

  Known& known(uint64_t number) {
    const auto found = sessions_.find(number);
    if (found == sessions_.end()) fail(ErrorCode::kIo, "rank 0 runs a session that is not known here");
    return found->second;
  }

  bool act(Told& told) {
    const auto what = told.take<Act>();
    if (what == Act::kEnd) return false;
    if (what == Act::kPass) {
      pass(told);
      return true;
    }
    const auto number = told.take<uint64_t>();
    if (what == Act::kMake) {
      make(number, told);
    } else if (what == Act::kFork) {
      const Known& from = known(told.take<uint64_t>());
      sessions_.emplace(number, Known{from.model, from.session.fork()});
    } else if (what == Act::kRewind) {
      known(number).session.rewind(told.take<int64_t>());
    } else {
      sessions_.erase(number);
    }
    return true;
  }

  void make(uint64_t number, Told& told) {
    const auto model = told.take<uint64_t>();
    SessionOptions options;
    options.context = told.take<int64_t>();
    options.kv_cache = told.take<KvCacheType>();
    options.precision = told.take<Precision>();
    const auto many = told.take<Precision>();
    if (many != *options.precision) options.many_rows_precision = many;
    options.expect_finite = told.take<bool>();
    sessions_.emplace(number, Known{model, Session(led_.models.at(model), options)});
  }

  void pass(Told& told) {
    const auto count = told.take<uint64_t>();
    std::vector<std::vector<int32_t>> tokens;
    std::vector<BatchEntry> entries;
    tokens.reserve(count);
    size_t model = 0;
    for (uint64_t i = 0; i < count; ++i) {
      Known& one = known(told.take<uint64_t>());
      model = one.model;
      if (told.take<int64_t>() != one.session.position())
        fail(ErrorCode::kIo, "rank 0 is at another position of a session");
      const auto adapters = told.take<int32_t>();
      state_of(one.session).options.adapters =
          adapters < 0 ? nullptr : led_.adapters.at(static_cast<size_t>(adapters));
      const auto wanted = told.take<WantedLogits>();
      const auto best = told.take<int64_t>();
      tokens.push_back(told.tokens(told.take<uint64_t>()));
      entries.push_back({&one.session, tokens.back(), wanted, best});
    }
    // One workspace for all passes, rather than one in every session that was ever the first.
    Workspace& lent = state_of(*entries[0].session).workspace;
    std::swap(workspaces_[model], lent);
    try {
      forward_batch(entries);
    } catch (const Error& error) {
      if (error.code() != ErrorCode::kNotFinite) throw;  // that, rank 0 finds and says
    }
    std::swap(workspaces_[model], lent);
  }

  const LedModels& led_;
  std::vector<Workspace> workspaces_;  // by model
  std::map<uint64_t, Known> sessions_;
};

}  // namespace

LedSession::LedSession(LedSession&& other) noexcept
    : leader_(std::move(other.leader_)), number_(std::exchange(other.number_, 0)) {}

LedSession& LedSession::operator=(LedSession&& other) noexcept {
  std::swap(leader_, other.leader_);
  std::swap(number_, other.number_);
  return *this;
}

LedSession::~LedSession() {
  if (number_ == 0) return;
  try {
    leader_->add(Act::kDrop, number_);
  } catch (const std::bad_alloc&) {
    leader_->ranks_->give_up("out of memory on rank 0");
  }
}

LedSession LedSession::fork() const {
  LedSession other;
  if (number_ == 0) return other;
  {
    const std::lock_guard lock(leader_->mutex_);
    other.number_ = leader_->next_++;
  }
  other.leader_ = leader_;
  leader_->add(Act::kFork, other.number_, number_);
  return other;
}

void LedSession::rewind(int64_t position) {
  if (number_ != 0) leader_->add(Act::kRewind, number_, position);
}

RankLeader::RankLeader(std::shared_ptr<Ranks> ranks, std::vector<std::shared_ptr<LinearObserver>> adapters)
    : ranks_(std::move(ranks)), adapters_(std::move(adapters)) {}

RankLeader::~RankLeader() {
  if (!ranks_->failure().empty()) return;
  try {
    add(Act::kEnd);
    ranks_->instruct(told_);
  } catch (const std::exception& error) {
    ranks_->give_up(error.what());
  }
}

template <typename... Values>
void RankLeader::add(Values... values) {
  const std::lock_guard lock(mutex_);
  (put(told_, values), ...);
}

int32_t RankLeader::number_of(const LinearObserver* adapters) const {
  if (adapters == nullptr) return -1;
  const auto found = std::find_if(adapters_.begin(), adapters_.end(),
                                  [&](const auto& one) { return one.get() == adapters; });
  if (found == adapters_.end())
    fail(ErrorCode::kInvalidArgument, "a session has adapters that the other ranks were not given");
  return static_cast<int32_t>(found - adapters_.begin());
}

void RankLeader::add_session(LedSession& session, size_t model, const SessionOptions& options,
                             int64_t whole_context) {
  session.leader_ = shared_from_this();
  session.number_ = next_++;
  put(told_, Act::kMake);
  put(told_, session.number_);
  put(told_, uint64_t{model});
  // Who names a length asks for its memory at once.
  put(told_, options.context == whole_context ? int64_t{0} : options.context);
  put(told_, options.kv_cache);
  put(told_, *options.precision);
  put(told_, options.many_rows_precision.value_or(*options.precision));
  put(told_, options.expect_finite);
}

RankLeader::Pass::Pass(RankLeader& leader, size_t model, std::span<const BatchEntry> entries,
                       std::span<const WantedLogits> wanted)
    : leader_(leader), turn_(leader.turn_) {
  if (const std::string why = leader.ranks_->failure(); !why.empty()) fail(ErrorCode::kIo, "{}", why);
  std::vector<int32_t> adapters;
  for (const BatchEntry& entry : entries)
    adapters.push_back(leader.number_of(state_of(*entry.session).options.adapters.get()));
  try {
    std::string message = leader.told_of(model, entries, wanted, adapters);
    leader.ranks_->at("a step", -1);
    leader.ranks_->instruct(message);
  } catch (const std::bad_alloc&) {  // a part of it may be said already
    leader.ranks_->give_up("out of memory on rank 0");
    throw;
  }
}

std::string RankLeader::told_of(size_t model, std::span<const BatchEntry> entries,
                                std::span<const WantedLogits> wanted, std::span<const int32_t> adapters) {
  const std::lock_guard lock(mutex_);
  for (const BatchEntry& entry : entries) {
    Session::State& session = state_of(*entry.session);
    if (session.led.number_ == 0)
      add_session(session.led, model, session.options, session.model.config().context);
  }
  put(told_, Act::kPass);
  put(told_, uint64_t{entries.size()});
  for (size_t i = 0; i < entries.size(); ++i) {
    const std::span<const int32_t> tokens = entries[i].tokens;
    const Session::State& session = state_of(*entries[i].session);
    put(told_, session.led.number_);
    put(told_, session.position);
    put(told_, adapters[i]);
    put(told_, wanted[i]);
    put(told_, entries[i].best);
    put(told_, uint64_t{tokens.size()});
    told_.append(reinterpret_cast<const char*>(tokens.data()), tokens.size_bytes());
  }
  return std::exchange(told_, {});
}

void RankLeader::Pass::failed_here(const char* why) noexcept {
  leader_.ranks_->give_up(why);
}

void expect_not_led(const Model& model) {
  if (state_of(model).leader)
    fail(ErrorCode::kUnsupported, "rank 0 leads this model: sessions alone run over its ranks");
}

bool lead_ranks(const LedModels& led) {
  const std::shared_ptr<Ranks> ranks = led.models.empty() ? nullptr : led.models[0].options().ranks;
  for (const Model& model : led.models)
    if (model.options().ranks != ranks)
      fail(ErrorCode::kInvalidArgument, "the models that rank 0 is to lead are over different ranks");
  if (!ranks || ranks->count() == 1) return true;
  if (ranks->rank() != 0) {
    Follower(led).run(*ranks);
    return false;
  }
  const auto leader = std::make_shared<RankLeader>(ranks, led.adapters);
  for (size_t i = 0; i < led.models.size(); ++i) {
    state_of(led.models[i]).leader = leader;
    state_of(led.models[i]).led_number = i;
  }
  return true;
}

}  // namespace nfloat
