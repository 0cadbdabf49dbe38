// SPDX-License-Identifier: Apache-2.0
// The order in which a card's commands run, whatever is recorded meanwhile.
#include "cuda/commands.h"

#include <gtest/gtest.h>

#include <string>

namespace nfloat::gpu {
namespace {

// Commands are told apart by their first argument.
Command small(uint64_t number) {
  return ZeroCommand{nullptr, number};
}
Command long_one(int64_t rows) {
  return NormArguments{.rows = rows};
}

class Written final : public Runner {
 public:
  std::string text;
  bool records = true;

 private:
  struct List final : Graph {
    explicit List(std::string all) : commands(std::move(all)) {}
    const std::string commands;
  };
  static std::string name(const Command& command) {
    const auto* const zero = std::get_if<ZeroCommand>(&command);
    return zero != nullptr ? std::to_string(zero->bytes) : "L";
  }
  void run(const Command& command) override { text += name(command) + " "; }
  std::unique_ptr<Graph> record(std::span<const Command> commands, std::string& failure) override {
    if (!records) {
      failure = "no paper";
      return nullptr;
    }
    std::string all;
    for (const Command& command : commands) all += name(command) + " ";
    return std::make_unique<List>(all);
  }
  void run(Graph& graph) override { text += "[" + static_cast<List&>(graph).commands + "] "; }
};

constexpr const char* kTen = "0 1 2 3 4 5 6 7 8 9 ";

class Commands : public ::testing::Test {
 protected:
  // What ten commands, the last one as given, make run.
  std::string ten(uint64_t last = 9) {
    runner_.text.clear();
    for (uint64_t i = 0; i < 9; ++i) queue_.push(small(i));
    queue_.push(small(last));
    EXPECT_EQ(runner_.text, "") << "they wait";
    queue_.flush();
    return runner_.text;
  }
  Written runner_;
  CommandQueue queue_{runner_};
};

TEST_F(Commands, OfTheSecondTimeRunAsAGraph) {
  EXPECT_EQ(ten(), kTen);
  EXPECT_EQ(queue_.graphs(), "none yet");
  EXPECT_EQ(ten(), std::string("[") + kTen + "] ");
  EXPECT_EQ(queue_.graphs(), "in use");
  EXPECT_EQ(ten(), std::string("[") + kTen + "] ");
  EXPECT_EQ(queue_.counts().recorded, 1u);
  EXPECT_EQ(queue_.counts().replayed, 1u);
  EXPECT_EQ(queue_.counts().commands, 10u);
}

TEST_F(Commands, OneOtherArgumentIsAnotherList) {
  ten();
  ten();
  EXPECT_EQ(ten(11), "0 1 2 3 4 5 6 7 8 11 ");
  EXPECT_EQ(ten(), std::string("[") + kTen + "] ");
  EXPECT_EQ(ten(11), "[0 1 2 3 4 5 6 7 8 11 ] ");
}

TEST_F(Commands, FromALongOneOnTheyRunWhenTheyCome) {
  queue_.push(small(1));
  queue_.push(long_one(16));
  EXPECT_EQ(runner_.text, "");
  queue_.push(long_one(17));
  EXPECT_EQ(runner_.text, "1 L L ");
  queue_.push(small(2));
  EXPECT_EQ(runner_.text, "1 L L 2 ");
  queue_.flush();
  queue_.push(small(3));
  EXPECT_EQ(runner_.text, "1 L L 2 ");
  queue_.flush();
  EXPECT_EQ(runner_.text, "1 L L 2 3 ");
}

TEST_F(Commands, AFewAreNotWorthwhile) {
  for (int i = 0; i < 4; ++i) {
    queue_.push(small(1));
    queue_.flush();
  }
  EXPECT_EQ(runner_.text, "1 1 1 1 ");
  queue_.flush();
  EXPECT_EQ(runner_.text, "1 1 1 1 ");
  EXPECT_EQ(queue_.counts().commands, 4u);
}

// Lists that come seldom give way; those in use stay.
TEST_F(Commands, TheLeastUsedGraphIsForgotten) {
  ten();
  ten();
  for (uint64_t other = 100; other < 120; ++other) {
    ten(other);
    EXPECT_EQ(ten(other).substr(0, 1), "[");
    EXPECT_EQ(ten().substr(0, 1), "[") << other;
  }
  EXPECT_EQ(ten(100).substr(0, 1), "0");
  EXPECT_EQ(ten(119).substr(0, 1), "[");
  // One that came once is forgotten behind some others.
  for (uint64_t other = 200; other < 210; ++other) EXPECT_EQ(ten(other).substr(0, 1), "0");
  EXPECT_EQ(ten(200).substr(0, 1), "0");
}

// Of lists that came once, so many are known again as are kept.
TEST_F(Commands, TheOldestListIsForgotten) {
  for (const uint64_t others : {uint64_t{4}, uint64_t{3}}) {
    const uint64_t first = 300 + 10 * others;
    for (uint64_t i = 0; i <= others; ++i) EXPECT_EQ(ten(first + i).substr(0, 1), "0");
    EXPECT_EQ(ten(first).substr(0, 1), others < 4 ? "[" : "0");
    for (uint64_t i = 0; i < 4; ++i) ten(first + 100 + i);  // no place is left empty
  }
}

// Steps of a block as an engine queues them, on memory that nobody reads.
struct Block {
  float x[64], added[64], normed[64], gate[128];
  uint16_t halves[64];

  RowsCommand add() {
    return {
        RowsOperation::kAdd,
        {.from = added, .to = x, .rows = 2, .width = 8, .from_stride = 9, .to_stride = 10, .scale = 0.5f}};
  }
  NormArguments norm() {
    return {.from = x, .to = normed, .rows = 2, .parts = 1, .width = 8, .from_stride = 10, .to_stride = 11};
  }
  RowsCommand round(const float* from, int64_t stride) {
    return {RowsOperation::kRound,
            {.from = from, .to = halves, .rows = 2, .width = 8, .from_stride = stride}};
  }
  ActivateArguments activate() { return {.at = gate, .rows = 2, .width = 8, .stride = 16}; }
};

TEST(FusedCommands, SumsAndRoundingsGoWithTheirNeighbours) {
  Block b;
  const std::vector<Command> list{b.add(), b.norm(), b.round(b.normed, 11), b.activate(),
                                  b.round(b.gate, 16)};
  NormArguments norm = b.norm();
  norm.added = b.added;
  norm.added_stride = 9;
  norm.scale = 0.5f;
  norm.rounded = b.halves;
  ActivateArguments activate = b.activate();
  activate.rounded = b.halves;
  EXPECT_EQ(fuse(list), (std::vector<Command>{norm, activate}));
}

TEST(FusedCommands, WhatFewRowsAttendIsRoundedByAttention) {
  std::vector<float> projected(64 * 24), attended(64 * 8);
  std::vector<uint16_t> halves(64 * 8);
  AttentionArguments attend{.projected = projected.data(),
                            .attended = attended.data(),
                            .rows = 2,
                            .projected_stride = 24,
                            .attended_stride = 8,
                            .heads = 2,
                            .kv_heads = 1,
                            .head = 4};
  RowsCommand round{RowsOperation::kRound,
                    {.from = attended.data(), .to = halves.data(), .rows = 2, .width = 8, .from_stride = 8}};
  AttentionArguments both = attend;
  both.rounded = halves.data();
  EXPECT_EQ(fuse(std::vector<Command>{attend, round}), std::vector<Command>{both});
  EXPECT_EQ(fuse(std::vector<Command>{attend, round, round}).size(), 2u);
  for (int64_t* other : {&round.arguments.width, &round.arguments.from_stride, &round.arguments.rows}) {
    ++*other;
    EXPECT_EQ(fuse(std::vector<Command>{attend, round}).size(), 2u);
    --*other;
  }
  // Tiles of a prompt round nothing.
  attend.rows = round.arguments.rows = kPromptRows;
  EXPECT_EQ(fuse(std::vector<Command>{attend, round}).size(), 2u);
}

TEST(FusedCommands, OtherRowsStayOnTheirOwn) {
  Block b;
  const auto expect_kept = [](const std::vector<Command>& list) { EXPECT_EQ(fuse(list), list); };
  NormArguments parts = b.norm();
  parts.parts = 2;
  expect_kept({b.add(), parts, b.round(b.normed, 11)});
  NormArguments fewer = b.norm();
  fewer.rows = 1;
  expect_kept({b.add(), fewer});
  RowsCommand narrow = b.add();
  narrow.arguments.width = 7;
  expect_kept({narrow, b.norm()});
  RowsCommand other = b.add();
  other.arguments.to = b.gate;
  expect_kept({other, b.norm()});
  RowsCommand copy = b.add();
  copy.operation = RowsOperation::kCopy;
  expect_kept({copy, b.norm()});
  expect_kept({b.norm(), b.round(b.normed, 12)});
  expect_kept({b.norm(), b.round(b.x, 10)});
  expect_kept({b.norm(), b.activate(), b.round(b.normed, 11)});
  expect_kept({b.activate(), b.round(b.normed, 16)});
  expect_kept({b.round(b.x, 10), b.round(b.x, 10)});
  // A second one is not forgotten.
  const RowsCommand round = b.round(b.normed, 11);
  EXPECT_EQ(fuse(std::vector<Command>{b.norm(), round, round}).size(), 2u);
  EXPECT_EQ(fuse(std::vector<Command>{b.add(), b.add(), b.norm()}).size(), 2u);
}

// Blocks of one launch run in any order.
TEST(FusedCommands, WhatAnotherBlockReadsIsNotOverwritten) {
  Block b;
  const auto expect_kept = [](const std::vector<Command>& list) { EXPECT_EQ(fuse(list), list); };
  NormArguments over_added = b.norm();  // rows of other strides
  over_added.to = b.added;
  expect_kept({b.add(), over_added});
  over_added.to = b.added + 9 + 7;
  expect_kept({b.add(), over_added});
  over_added.to = b.added + 9 + 8;
  EXPECT_EQ(fuse(std::vector<Command>{b.add(), over_added}).size(), 1u);
  over_added.to = b.added;
  over_added.to_stride = 9;  // a block its own row
  EXPECT_EQ(fuse(std::vector<Command>{b.add(), over_added}).size(), 1u);
  RowsCommand one_row = b.add();
  over_added.to = b.added + 1;
  one_row.arguments.rows = over_added.rows = 1;
  expect_kept({one_row, over_added});
  const auto over = [](RowsCommand round, float* at) {
    round.arguments.to = at;
    return round;
  };
  expect_kept({b.norm(), over(b.round(b.normed, 11), b.x)});
  expect_kept({b.norm(), over(b.round(b.normed, 11), b.x + 17)});
  EXPECT_EQ(fuse(std::vector<Command>{b.norm(), over(b.round(b.normed, 11), b.x + 18)}).size(), 1u);
  EXPECT_EQ(fuse(std::vector<Command>{b.add(), b.norm(), over(b.round(b.normed, 11), b.added)}).size(), 2u);
  expect_kept({b.activate(), over(b.round(b.gate, 16), b.gate + 8)});
}

TEST(FusedCommands, ProductsSideBySideDoNotOverlap) {
  Block b;
  const auto beside = [](const std::vector<Command>& list, size_t most = 3) {
    return side_by_side(list, most);
  };
  ProductCommand first{false, b.halves, {.x = b.x, .y = b.gate, .x_rows = 2, .x_stride = 10, .y_stride = 32}};
  first.arguments.weights.rows = 8;
  ProductCommand second = first;
  second.arguments.y += 8;
  EXPECT_EQ(beside({first, second}), 2u);
  EXPECT_EQ(beside({first, first}), 1u);
  ProductCommand overlapping = second;
  overlapping.arguments.y -= 1;
  EXPECT_EQ(beside({first, overlapping}), 1u);
  ProductCommand next_row = second;
  next_row.arguments.y = first.arguments.y + 30;
  EXPECT_EQ(beside({first, next_row}), 1u);
  ProductCommand others_rows = second;
  others_rows.x = nullptr;
  EXPECT_EQ(beside({first, others_rows}), 1u);
  ProductCommand transposed = second;
  transposed.transposed = true;
  EXPECT_EQ(beside({first, transposed}), 1u);
  EXPECT_EQ(beside({first, b.norm()}), 1u);
  ProductCommand wider = second;
  wider.arguments.weights.cols = 64;
  EXPECT_EQ(beside({first, wider}), 1u);
  ProductCommand third = second;
  third.arguments.y += 8;
  EXPECT_EQ(beside({first, second, third, b.norm()}), 3u);
  EXPECT_EQ(beside({first, second, third}, 2), 2u);
  EXPECT_EQ(beside({first}), 1u);
  EXPECT_EQ(beside({}), 0u);
  third.arguments.weights.rows = 20;  // within the rows of the second, but not within the first's
  EXPECT_EQ(beside({first, second, third}), 2u);
}

TEST_F(Commands, WhatCannotBeRecordedRunsOnItsOwn) {
  ten();
  ten();
  runner_.records = false;
  EXPECT_EQ(ten(), std::string("[") + kTen + "] ");
  EXPECT_EQ(queue_.graphs(), "in use");
  for (int i = 0; i < 4; ++i) EXPECT_EQ(ten(11), "0 1 2 3 4 5 6 7 8 11 ");
  EXPECT_EQ(queue_.graphs(), "failed (no paper)");
  EXPECT_EQ(ten(), kTen);  // what was recorded before, too
  EXPECT_EQ(queue_.counts().recorded, 1u);
}

}  // namespace
}  // namespace nfloat::gpu
