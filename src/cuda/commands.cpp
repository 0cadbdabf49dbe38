// SPDX-License-Identifier: Apache-2.0
#include "cuda/commands.h"

#include <algorithm>
#include <cstdint>
#include <new>

namespace nfloat::gpu {

bool takes_long(const Command& command) noexcept {
  constexpr int64_t kManyRows = 16;
  constexpr uint64_t kManyBytes = uint64_t{4} << 20;
  struct Long {
    bool operator()(const CopyCommand& c) const noexcept { return c.bytes * c.rows > kManyBytes; }
    bool operator()(const ZeroCommand& c) const noexcept { return c.bytes > kManyBytes; }
    bool operator()(const RowsCommand& c) const noexcept { return c.arguments.rows > kManyRows; }
    bool operator()(const NormArguments& a) const noexcept { return a.rows > kManyRows; }
    bool operator()(const ActivateArguments& a) const noexcept { return a.rows > kManyRows; }
    bool operator()(const AttentionArguments& a) const noexcept { return a.rows > kManyRows; }
    bool operator()(const ProductCommand& c) const noexcept { return c.arguments.x_rows > kManyRows; }
    bool operator()(const BlocksCommand&) const noexcept { return true; }
  };
  return std::visit(Long(), command);
}

namespace {

// Rows of floats that a command writes.
struct Written {
  const float* at = nullptr;
  int64_t rows = 0, width = 0, stride = 0;
  friend bool operator==(const Written&, const Written&) = default;
};

// Rows in memory, with what lies between them. Blocks of a launch run in any order: what one writes must not
// be what another still reads, which two launches would have kept apart.
struct Stretch {
  uintptr_t begin = 0, end = 0;
  bool is_apart(const Stretch& other) const noexcept { return end <= other.begin || other.end <= begin; }
};
template <typename Element>
Stretch stretch(const Element* at, int64_t rows, int64_t width, int64_t stride) noexcept {
  const auto begin = reinterpret_cast<uintptr_t>(at);
  if (at == nullptr || rows < 1) return {begin, begin};
  return {begin, begin + static_cast<uint64_t>((rows - 1) * stride + width) * sizeof(Element)};
}
Stretch stretch(const Written& rows) noexcept {
  return stretch(rows.at, rows.rows, rows.width, rows.stride);
}

// The norm reads what was added to, and nothing but that; the rows that were added are its own, or elsewhere.
bool reads_sum(const NormArguments& norm, const RowsCommand& add) noexcept {
  const RowsArguments& a = add.arguments;
  const Written added{a.from, a.rows, a.width, a.from_stride},
      to{norm.to, norm.rows, norm.width, norm.to_stride};
  return add.operation == RowsOperation::kAdd && norm.added == nullptr && norm.parts == 1 &&
         Written{norm.from, norm.rows, norm.width, norm.from_stride} ==
             Written{static_cast<const float*>(a.to), a.rows, a.width, a.to_stride} &&
         (added == to || stretch(added).is_apart(stretch(to)));
}

// `command` also writes what `round` would.
bool take_over(Command& command, const RowsCommand& round) noexcept {
  if (round.operation != RowsOperation::kRound) return false;
  const RowsArguments& a = round.arguments;
  const Written wanted{a.from, a.rows, a.width, a.from_stride};
  auto* const to = static_cast<uint16_t*>(a.to);
  const Stretch written = stretch(to, a.rows, a.width, a.width);
  if (auto* const norm = std::get_if<NormArguments>(&command)) {
    if (norm->parts != 1 || norm->rounded != nullptr ||
        wanted != Written{norm->to, norm->rows, norm->width, norm->to_stride} ||
        !written.is_apart(stretch(norm->from, norm->rows, norm->width, norm->from_stride)) ||
        !written.is_apart(stretch(norm->added, norm->rows, norm->width, norm->added_stride)))
      return false;
    norm->rounded = to;
    return true;
  }
  if (auto* const activate = std::get_if<ActivateArguments>(&command)) {
    if (activate->rounded != nullptr ||
        wanted != Written{activate->at, activate->rows, activate->width, activate->stride} ||
        !written.is_apart(stretch(activate->at, activate->rows, 2 * activate->width, activate->stride)))
      return false;
    activate->rounded = to;
    return true;
  }
  if (auto* const attend = std::get_if<AttentionArguments>(&command)) {
    if (attend->rounded != nullptr || attend->rows >= kPromptRows ||
        wanted != Written{attend->attended, attend->rows, int64_t{attend->heads} * attend->head,
                          attend->attended_stride} ||
        !written.is_apart(
            stretch(attend->projected, attend->rows, attend->projected_stride, attend->projected_stride)))
      return false;
    attend->rounded = to;
    return true;
  }
  return false;
}

}  // namespace

std::vector<Command> fuse(std::span<const Command> commands) {
  std::vector<Command> result;
  result.reserve(commands.size());
  for (const Command& command : commands) {
    if (!result.empty()) {
      const auto* const before = std::get_if<RowsCommand>(&result.back());
      const auto* const norm = std::get_if<NormArguments>(&command);
      if (before != nullptr && norm != nullptr && reads_sum(*norm, *before)) {
        NormArguments both = *norm;
        both.added = before->arguments.from;
        both.added_stride = before->arguments.from_stride;
        both.scale = before->arguments.scale;
        result.back() = both;
        continue;
      }
      const auto* const rows = std::get_if<RowsCommand>(&command);
      if (rows != nullptr && take_over(result.back(), *rows)) continue;
    }
    result.push_back(command);
  }
  return result;
}

namespace {

bool are_side_by_side(const Command& one, const Command& other) noexcept {
  const auto* const a = std::get_if<ProductCommand>(&one);
  const auto* const b = std::get_if<ProductCommand>(&other);
  if (a == nullptr || b == nullptr || a->transposed || b->transposed || a->x != b->x) return false;
  const ProductArguments &first = a->arguments, &second = b->arguments;
  return first.x == second.x && first.weights.cols == second.weights.cols && first.x_rows == second.x_rows &&
         first.y_stride == second.y_stride && second.y >= first.y + first.weights.rows &&
         second.y + second.weights.rows <= first.y + first.y_stride;
}

}  // namespace

size_t side_by_side(std::span<const Command> commands, size_t most) noexcept {
  size_t count = std::min<size_t>(commands.size(), 1);
  // Each lies behind the one before it, and within the rows of the first.
  while (count < commands.size() && count < most && are_side_by_side(commands[count - 1], commands[count]) &&
         are_side_by_side(commands[0], commands[count]))
    ++count;
  return count;
}

void CommandQueue::push(const Command& command) {
  const std::scoped_lock lock(mutex_);
  if (at_once_) {
    ++counts_.commands;
    return runner_.run(command);
  }
  waiting_.push_back(command);
  if (waiting_.size() < kMostCommands && !takes_long(command)) return;
  run_each();
  at_once_ = true;
}

void CommandQueue::flush() noexcept {
  const std::scoped_lock lock(mutex_);
  at_once_ = false;
  bool done = false;
  try {
    done = waiting_.size() >= kWorthwhile && records_ && replay();
  } catch (const std::bad_alloc&) {  // what runs needs no memory
  }
  if (!done) run_each();
  waiting_.clear();
}

bool CommandQueue::replay() {
  const auto found = std::find_if(recordings_.begin(), recordings_.end(),
                                  [&](const Recording& own) { return own.commands == waiting_; });
  if (found != recordings_.end()) {
    found->used = ++clock_;
    ++counts_.replayed;
    runner_.run(*found->graph);
    return true;
  }
  const auto before = std::find(seen_.begin(), seen_.end(), waiting_);
  if (before == seen_.end()) {
    if (seen_.size() < kMostSeen) {
      seen_.push_back(waiting_);
    } else {
      seen_[oldest_] = waiting_;
      oldest_ = (oldest_ + 1) % kMostSeen;
    }
    return false;
  }
  std::unique_ptr<Graph> graph = runner_.record(fuse(waiting_), failure_);
  if (graph == nullptr) {
    records_ = false;
    return false;
  }
  before->clear();  // no list that waits is empty
  if (recordings_.size() == kMostGraphs)
    recordings_.erase(
        std::min_element(recordings_.begin(), recordings_.end(),
                         [](const Recording& a, const Recording& b) { return a.used < b.used; }));
  recordings_.push_back({waiting_, std::move(graph), ++clock_});
  ++counts_.recorded;
  runner_.run(*recordings_.back().graph);
  return true;
}

void CommandQueue::run_each() {
  for (const Command& command : waiting_) runner_.run(command);
  counts_.commands += waiting_.size();
  waiting_.clear();
}

CommandQueue::Counts CommandQueue::counts() const {
  const std::scoped_lock lock(mutex_);
  return counts_;
}

std::string CommandQueue::graphs() const {
  const std::scoped_lock lock(mutex_);
  if (!records_) return "failed (" + failure_ + ")";
  return counts_.recorded > 0 ? "in use" : "none yet";
}

}  // namespace nfloat::gpu
