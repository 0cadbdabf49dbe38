// SPDX-License-Identifier: Apache-2.0
// Attention of every engine that is there against double precision: prompts and single tokens of several
// sequences at once, pages in any order, every type of cache. Bounds follow from the data: what a cache
// rounds off keys moves the scores, and those the weights of the values.
#include <optional>

#include "engine_test.h"

namespace nfloat::testing {
namespace {

using kernels::KvType;

constexpr int64_t kPage = kernels::kAttentionBlock;
constexpr int64_t kLayers = 2;

struct Case {
  HeadLayout heads;
  int64_t rotary = 0;  // dims; 0: the layer turns nothing
  int64_t window = 0;
  float softcap = 0;
  bool sinks = false;
  LayerRope rope = LayerRope::kMain;
};

class EngineAttention : public EngineTest {
 protected:
  // The past of one sequence: pages of the device, and what the oracle keeps.
  struct Sequence {
    std::vector<std::shared_ptr<std::byte>> owners;
    std::vector<std::byte*> pages;
    int64_t position = 0;
    std::vector<std::vector<reference::Row>> keys, values;  // [kv head][position]
  };

  Sequence make_sequence(const Case& c, KvType type, int64_t positions, int64_t past) {
    Sequence made;
    const auto bytes = index(device_->page_bytes({kLayers, c.heads.kv_heads, c.heads.head_dim, type}));
    for (int64_t i = 0; i < (positions + kPage - 1) / kPage; ++i) made.owners.push_back(device_->page(bytes));
    for (size_t i = made.owners.size(); i-- > 0;) made.pages.push_back(made.owners[i].get());
    made.position = past;
    made.keys.resize(index(c.heads.kv_heads));
    made.values.resize(index(c.heads.kv_heads));
    return made;
  }

  static double angle(const Case& c, int64_t position, int64_t pair) {
    return static_cast<double>(position) *
           std::pow(10000.0, -2.0 * static_cast<double>(pair) / static_cast<double>(c.rotary));
  }
  static reference::Row angles_at(const Case& c, int64_t position) {
    reference::Row all;
    for (int64_t pair = 0; pair < c.rotary / 2; ++pair) all.push_back(angle(c, position, pair));
    return all;
  }
  std::vector<Constant> angle_table(const Case& c, int64_t positions) {
    std::vector<Constant> chunks;
    for (int64_t first = 0; c.rotary > 0 && first < positions; first += Angles::kChunk) {
      std::vector<float> chunk;
      for (int64_t position = first; position < first + Angles::kChunk; ++position)
        for (const bool sine : {false, true})
          for (int64_t pair = 0; pair < c.rotary / 2; ++pair) {
            const double at = angle(c, position, pair);
            chunk.push_back(static_cast<float>(sine ? std::sin(at) : std::cos(at)));
          }
      chunks.push_back(constant(std::move(chunk)));
    }
    return chunks;
  }

  // One step over sequences with so many new tokens each, checked row by row.
  void step(const Case& c, KvType type, std::vector<Sequence>& sequences, const std::vector<int64_t>& counts,
            const Angles& angles, Inputs inputs) {
    const HeadLayout& h = c.heads;
    std::vector<SequenceRows> rows;
    int64_t total = 0;
    for (size_t s = 0; s < sequences.size(); ++s) {
      SequenceRows own{.cache = {type, sequences[s].pages.data()},
                       .angles = c.rope == LayerRope::kMain ? angles : Angles{},
                       .local_angles = c.rope == LayerRope::kLocal ? angles : Angles{},
                       .row = total,
                       .rows = counts[s],
                       .position = sequences[s].position};
      rows.push_back(own);
      total += counts[s];
    }
    const std::vector<float> x = random(total * h.row(), inputs, 1);
    const Constant sinks = constant(c.sinks ? random(h.heads) : std::vector<float>());
    const float scale = 1 / std::sqrt(static_cast<float>(h.head_dim));
    Table &projected = table(total, h.row(), 3), &attended = table(total, h.query_size(), 1);
    projected.fill(x);
    engine_->attend({.heads = h,
                     .sequences = rows,
                     .cache_layer = kLayers - 1,
                     .rope = c.rope,
                     .scale = scale,
                     .softcap = c.softcap,
                     .window = c.window,
                     .sinks = &sinks},
                    projected.at(), attended.at());
    const std::vector<float> y = attended.values();
    for (size_t s = 0; s < sequences.size(); ++s)
      for (int64_t r = 0; r < counts[s]; ++r)
        check_row(c, type, sequences[s], x.data() + (rows[s].row + r) * h.row(), scale,
                  c.sinks ? &sinks : nullptr, y.data() + (rows[s].row + r) * h.query_size());
  }

  static reference::Row head_of(const float* row, int64_t at, int64_t head_dim) {
    return reference::Row(row + at, row + at + head_dim);
  }
  static double largest_of(const reference::Row& row) {
    double largest = 0;
    for (const double value : row) largest = std::max(largest, std::fabs(value));
    return largest;
  }

  // Adds the row to the past of its sequence and checks what was attended from there.
  static void check_row(const Case& c, KvType type, Sequence& sequence, const float* row, float scale,
                        const Constant* sinks, const float* y) {
    const HeadLayout& h = c.heads;
    const int64_t position = sequence.position++;
    const reference::Row angles = c.rope == LayerRope::kNone ? reference::Row() : angles_at(c, position);
    for (int64_t kv = 0; kv < h.kv_heads; ++kv) {
      const int64_t at = h.key_at() + kv * h.key_stride();
      sequence.keys[index(kv)].push_back(reference::turned(head_of(row, at, h.head_dim), angles));
      sequence.values[index(kv)].push_back(head_of(row, at + h.value_after_key(), h.head_dim));
    }
    const int64_t first = c.window > 0 ? std::max<int64_t>(0, position + 1 - c.window) : 0;
    for (int64_t head = 0; head < h.heads; ++head) {
      const size_t kv = index(head / (h.heads / h.kv_heads));
      const reference::Row query =
          reference::turned(head_of(row, head * h.query_stride(), h.head_dim), angles);
      const double sink = sinks != nullptr ? double{sinks->data()[head]} : 0;
      const reference::Attended expected =
          reference::attended(query, sequence.keys[kv], sequence.values[kv], index(first), index(position),
                              double{scale}, double{c.softcap}, sinks != nullptr ? &sink : nullptr);
      // What the cache rounds off a number at most, relative to it (f16) or to the largest of its head
      // (int8).
      const double relative = type == KvType::kF16 ? 0x1p-11 : 0,
                   stepped = type == KvType::kInt8 ? 1.0 / 254 : 0;
      double moved = 0, largest_value = 0, sizes = 0;
      for (const double value : query) sizes += std::fabs(value);
      for (int64_t p = first; p <= position; ++p) {
        moved = std::max(moved, stepped * largest_of(sequence.keys[kv][index(p)]) * sizes * double{scale});
        largest_value = std::max(largest_value, largest_of(sequence.values[kv][index(p)]));
      }
      moved += (relative + 24 * kUlp) * expected.reach + 4e-6;
      for (int64_t d = 0; d < h.head_dim; ++d) {
        const double size = expected.magnitudes[index(d)];
        const double bound = size * (std::expm1(2 * moved) + relative + 64 * kUlp) +
                             largest_value * (stepped * std::exp(2 * moved) + 0x1p-24) + 1e-7;
        ASSERT_NEAR(double{y[head * h.head_dim + d]}, expected.values[index(d)], bound)
            << "position " << position << " head " << head << " dim " << d << " type "
            << static_cast<int>(type);
      }
    }
  }
};
NFLOAT_ON_EVERY_DEVICE(EngineAttention);

constexpr Case kCases[] = {
    {.heads = {6, 2, 16}, .rotary = 16},
    {.heads = {4, 4, 20, true}, .rotary = 12, .window = 5},
    {.heads = {1, 1, 64}, .rotary = 64, .softcap = 20, .sinks = true, .rope = LayerRope::kLocal},
    {.heads = {40, 2, 16}, .rotary = 0, .window = 131, .rope = LayerRope::kNone},
    {.heads = {5, 1, 80}, .rotary = 80, .softcap = 50},
    {.heads = {2, 1, 150}, .rotary = 140},
};

TEST_P(EngineAttention, PromptsAndTokensOfSeveralSequences) {
  for (const Case& c : kCases)
    for (const KvType type : {KvType::kF32, KvType::kF16, KvType::kInt8})
      for (const Inputs inputs : {Inputs::kNormal, Inputs::kZero}) {
        SCOPED_TRACE(::testing::Message() << "case " << &c - kCases);
        const std::vector<Constant> chunks = angle_table(c, 400);
        const Angles angles{chunks.data(), c.rotary};
        std::vector<Sequence> sequences;
        for (const int64_t positions : {300, 40, 3})
          sequences.push_back(make_sequence(c, type, positions, 0));
        step(c, type, sequences, {130, 33, 1}, angles, inputs);  // crosses a page
        step(c, type, sequences, {1, 1, 1}, angles, inputs);
        step(c, type, sequences, {2, 1, 1}, angles, inputs);
        if (HasFatalFailure()) return;
      }
}

// Many pages behind one another, with and without a window that begins inside one.
TEST_P(EngineAttention, LongContexts) {
  for (const int64_t window : {0, 700}) {
    const Case c{.heads = {2, 1, 16}, .rotary = 16, .window = window};
    const std::vector<Constant> chunks = angle_table(c, 1300);
    std::vector<Sequence> sequences;
    sequences.push_back(make_sequence(c, KvType::kF16, 1300, 0));
    for (const int64_t rows : {1000, 1, 40, 1, 130})
      step(c, KvType::kF16, sequences, {rows}, {chunks.data(), c.rotary}, Inputs::kNormal);
    if (HasFatalFailure()) return;
  }
}

// A key far above the others takes all the weight.
TEST_P(EngineAttention, HeavyTails) {
  const Case c{.heads = {2, 1, 32}, .rotary = 32};
  const std::vector<Constant> chunks = angle_table(c, 256);
  std::vector<Sequence> sequences;
  sequences.push_back(make_sequence(c, KvType::kF32, 40, 0));
  step(c, KvType::kF32, sequences, {17}, {chunks.data(), c.rotary}, Inputs::kHeavyTailed);
  step(c, KvType::kF32, sequences, {1}, {chunks.data(), c.rotary}, Inputs::kHeavyTailed);
}

// A row's bits are the same alone, among other sequences and in pieces; what is not a number in one sequence
// stays there.
TEST_P(EngineAttention, RowsDoNotDependOnOtherSequences) {
  const Case c{.heads = {6, 2, 16}, .rotary = 16};
  const HeadLayout& h = c.heads;
  const std::vector<Constant> chunks = angle_table(c, 256);
  const Angles angles{chunks.data(), c.rotary};
  const int64_t count = 21;
  const std::vector<float> x = random(count * h.row()), bad(index(count * h.row()), kNaN);
  const auto run = [&](const std::vector<int64_t>& pieces, std::optional<KvType> among) {
    std::vector<float> all;
    Sequence own = make_sequence(c, KvType::kF16, 256, 0),
             other = make_sequence(c, among.value_or(KvType::kF16), 256, 0);
    int64_t done = 0;
    for (const int64_t piece : pieces) {
      std::vector<SequenceRows> rows;
      std::vector<float> values;
      if (among) {
        rows.push_back({.cache = {*among, other.pages.data()}, .angles = angles, .rows = 4});
        values.assign(bad.begin(), bad.begin() + 4 * h.row());
      }
      const int64_t first = among ? 4 : 0;
      rows.push_back({.cache = {KvType::kF16, own.pages.data()},
                      .angles = angles,
                      .row = first,
                      .rows = piece,
                      .position = done});
      values.insert(values.end(), x.begin() + done * h.row(), x.begin() + (done + piece) * h.row());
      Table &projected = table(first + piece, h.row()), &attended = table(first + piece, h.query_size());
      projected.fill(values);
      engine_->attend({.heads = h, .sequences = rows, .scale = 0.25f}, projected.at(), attended.at());
      const std::vector<float> y = attended.values();
      all.insert(all.end(), y.begin() + first * h.query_size(), y.end());
      done += piece;
    }
    return all;
  };
  const std::vector<float> whole = run({count}, std::nullopt);
  EXPECT_EQ(whole, run({count}, KvType::kF16));
  EXPECT_EQ(whole, run({16, 1, 4}, std::nullopt));
  EXPECT_EQ(whole, run({5, 16}, KvType::kInt8));  // each has a cache of its own type
}

// A number that is none is not lost in a cache, whatever it is kept as.
TEST_P(EngineAttention, WhatIsNoNumberStaysSo) {
  const Case c{.heads = {4, 2, 16}, .rotary = 16};
  const HeadLayout& h = c.heads;
  const std::vector<Constant> chunks = angle_table(c, 256);
  const Angles angles{chunks.data(), c.rotary};
  constexpr int64_t kRows = 3, kBad = 1;
  std::vector<float> x = random(kRows * h.row());
  std::fill_n(x.begin() + kBad * h.row(), h.row(), kNaN);
  for (const KvType type : {KvType::kF32, KvType::kF16, KvType::kInt8}) {
    const Sequence own = make_sequence(c, type, 256, 0);
    const std::vector<SequenceRows> rows{
        {.cache = {type, own.pages.data()}, .angles = angles, .rows = kRows}};
    Table &projected = table(kRows, h.row()), &attended = table(kRows, h.query_size());
    projected.fill(x);
    engine_->attend({.heads = h, .sequences = rows, .scale = 0.25f}, projected.at(), attended.at());
    const std::vector<float> y = attended.values();
    for (size_t i = index(kBad * h.query_size()); i < y.size(); ++i)
      EXPECT_TRUE(std::isnan(y[i])) << "element " << i << ", cache " << static_cast<int>(type);
  }
}

TEST_P(EngineAttention, PagesAreCopied) {
  const Case c{.heads = {2, 2, 16}, .rotary = 0, .rope = LayerRope::kNone};
  std::vector<Sequence> sequences;
  sequences.push_back(make_sequence(c, KvType::kF16, kPage, 0));
  step(c, KvType::kF16, sequences, {9}, {}, Inputs::kNormal);
  Sequence copy = make_sequence(c, KvType::kF16, kPage, 9);
  copy.keys = sequences[0].keys;
  copy.values = sequences[0].values;
  device_->copy_page(copy.pages[0], sequences[0].pages[0],
                     index(device_->page_bytes({kLayers, 2, 16, KvType::kF16})));
  std::vector<Sequence> copies;
  copies.push_back(std::move(copy));
  step(c, KvType::kF16, copies, {3}, {}, Inputs::kNormal);
  step(c, KvType::kF16, sequences, {2}, {}, Inputs::kNormal);
}

}  // namespace
}  // namespace nfloat::testing
