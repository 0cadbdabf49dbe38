// SPDX-License-Identifier: Apache-2.0
// What a card is asked to do, held back so that a list of commands which came before runs as one graph: a
// token's hundreds of short launches then cost the host one. Plain C++, for CUDA and its emulation alike.
#ifndef NFLOAT_CUDA_COMMANDS_H_
#define NFLOAT_CUDA_COMMANDS_H_

#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "cuda/card.h"

namespace nfloat::gpu {

// Rows of bytes between a card and the host, or on the card.
struct CopyCommand {
  enum class Way : uint8_t { kToCard, kToHost, kOnCard };
  Way way = Way::kToCard;
  void* to = nullptr;
  const void* from = nullptr;
  uint64_t bytes = 0, rows = 1, to_stride = 0, from_stride = 0;
  friend bool operator==(const CopyCommand&, const CopyCommand&) = default;
};
struct ZeroCommand {
  void* memory = nullptr;
  uint64_t bytes = 0;
  friend bool operator==(const ZeroCommand&, const ZeroCommand&) = default;
};
struct RowsCommand {
  RowsOperation operation = RowsOperation::kCopy;
  RowsArguments arguments{};
  friend bool operator==(const RowsCommand&, const RowsCommand&) = default;
};
struct ProductCommand {
  bool transposed = false;
  const uint16_t* x = nullptr;  // in bf16, for tensor cores; none: in float32
  ProductArguments arguments{};
  friend bool operator==(const ProductCommand&, const ProductCommand&) = default;
};
struct BlocksCommand {
  bool quantizes = false;
  BlocksArguments arguments{};
  friend bool operator==(const BlocksCommand&, const BlocksCommand&) = default;
};
using Command = std::variant<CopyCommand, ZeroCommand, RowsCommand, NormArguments, ActivateArguments,
                             AttentionArguments, ProductCommand, BlocksCommand>;

// Whether the card is busy with it for so long that the host may as well launch what follows.
bool takes_long(const Command& command) noexcept;

// The same work in fewer commands, to the same bits: sums that a norm reads are made by it, and rows that are
// rounded to bf16 next are so by what makes them.
std::vector<Command> fuse(std::span<const Command> commands);
// How many of the commands, from the first on, none of which waits for another: products with the same rows
// whose results lie beside one another, at most `most`; else one.
size_t side_by_side(std::span<const Command> commands, size_t most) noexcept;

// A list of commands as the card runs it at once.
class Graph {
 public:
  virtual ~Graph() = default;
};

// Runs commands in their order, each after those before it.
class Runner {
 public:
  virtual void run(const Command& command) = 0;
  // null: it cannot, and `failure` says why.
  virtual std::unique_ptr<Graph> record(std::span<const Command> commands, std::string& failure) = 0;
  virtual void run(Graph& graph) = 0;

 protected:
  ~Runner() = default;
};

// Commands wait for flush(), or for one that takes long: from there on they run when they come, until the
// next flush(). A list that comes for the second time is recorded, and from then on runs as a graph: all
// arguments must be the same, pointers too, and what they point to is read when it runs. Where one cannot be
// recorded, every list runs command by command ever after. Any number of threads.
class CommandQueue {
 public:
  explicit CommandQueue(Runner& runner) noexcept : runner_(runner) {}
  void push(const Command& command);  // throws std::bad_alloc
  void flush() noexcept;

  struct Counts {
    uint64_t commands = 0;  // run on their own
    uint64_t recorded = 0, replayed = 0;
  };
  Counts counts() const;
  std::string graphs() const;  // as Card has it

 private:
  static constexpr size_t kWorthwhile = 8, kMostCommands = 8192;
  static constexpr size_t kMostSeen = 4, kMostGraphs = 8;
  using List = std::vector<Command>;
  struct Recording {
    List commands;
    std::unique_ptr<Graph> graph;
    uint64_t used = 0;
  };
  void run_waiting();
  bool replay();
  void run_each();

  Runner& runner_;
  mutable std::mutex mutex_;
  List waiting_;
  bool at_once_ = false;  // commands run when they come
  bool records_ = true;
  std::string failure_;     // why not
  std::vector<List> seen_;  // lately, and not recorded
  size_t oldest_ = 0;       // of them
  std::vector<Recording> recordings_;
  uint64_t clock_ = 0;
  Counts counts_;
};

}  // namespace nfloat::gpu

#endif  // NFLOAT_CUDA_COMMANDS_H_
