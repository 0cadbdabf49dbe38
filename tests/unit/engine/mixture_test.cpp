// SPDX-License-Identifier: Apache-2.0
// Mixtures of experts of every engine that is there against double precision. Bounds are carried through the
// products: 1e-6 of the absolute terms of each sum.
#include <map>

#include "engine/expert_choice.h"
#include "engine_test.h"

namespace nfloat::testing {
namespace {

constexpr double kShare = 1e-6;

struct Case {
  int64_t experts, chosen, hidden, width, rows;
  bool normalize;
  float limit;
};

// Counts the rows of each product; adds `by` to the outputs of one.
class Watcher : public LinearObserver {
 public:
  void input(const LinearId& id, const ActivationRows& x) override { rows[id] += x.rows; }
  void output(const LinearId& id, const ActivationRows& x, float* y, int64_t y_stride) override {
    if (id != changed) return;
    for (int64_t row = 0; row < x.rows; ++row) y[row * y_stride] += by;
  }
  std::map<LinearId, int64_t> rows;
  LinearId changed{.layer = -1};
  float by = 0;
};

class EngineMixture : public EngineTest {
 protected:
  struct Matrix {
    std::vector<float> values, bias;
    int64_t rows, cols;
  };
  struct Mixture {
    LinearGroup router_group;
    std::vector<ExpertWeights> groups;
    Matrix router;
    std::vector<Matrix> gate_up, down;
  };
  struct Sum {
    double value, bound;
  };

  Matrix add(LinearGroup& group, int64_t rows, int64_t cols,
             DenseMatrix::Storage storage = DenseMatrix::Storage::kF32) {
    Matrix made{random(rows * cols, Inputs::kNormal, 1 / std::sqrt(static_cast<float>(cols))), random(rows),
                rows, cols};
    group.add(*device_, {DType::kF32, Shape({rows, cols}), std::as_bytes(std::span(made.values))}, storage,
              made.bias, 2);
    return made;
  }
  Mixture make(const Case& c, DenseMatrix::Storage experts = DenseMatrix::Storage::kF32) {
    Mixture made;
    made.router = add(made.router_group, c.experts, c.hidden);
    made.groups.resize(index(c.experts));
    for (ExpertWeights& expert : made.groups) {
      made.gate_up.push_back(add(expert.gate_up, 2 * c.width, c.hidden, experts));
      made.down.push_back(add(expert.down, c.hidden, c.width, experts));
    }
    return made;
  }
  static MixtureStep step_of(const Case& c, const Mixture& mixture) {
    return {.layer = 3,
            .router = &mixture.router_group,
            .experts = mixture.groups,
            .chosen = c.chosen,
            .normalize = c.normalize,
            .activation = {Activation::kSilu, true, c.limit, c.width}};
  }

  // Outputs for inputs with errors, with theirs.
  static std::vector<Sum> product(const Matrix& matrix, const std::vector<Sum>& x) {
    std::vector<Sum> y;
    for (int64_t row = 0; row < matrix.rows; ++row) {
      Sum sum{double{matrix.bias[index(row)]}, kShare * std::fabs(double{matrix.bias[index(row)]})};
      for (int64_t i = 0; i < matrix.cols; ++i) {
        const double weight = double{matrix.values[index(row * matrix.cols + i)]};
        sum.value += weight * x[index(i)].value;
        sum.bound += std::fabs(weight) * (kShare * std::fabs(x[index(i)].value) + x[index(i)].bound);
      }
      y.push_back(sum);
    }
    return y;
  }
  static Sum activated(const Case& c, const std::vector<Sum>& both, size_t i) {
    const size_t width = index(c.width);
    Sum gate = both[c.limit > 0 ? 2 * i : i], up = both[c.limit > 0 ? 2 * i + 1 : width + i];
    double slope = 1;
    if (c.limit > 0) {
      gate.value = std::min(gate.value, double{c.limit});
      up.value = std::clamp(up.value, -double{c.limit}, double{c.limit}) + 1;
      slope = 1.702;
    }
    const double own = gate.value / (1 + std::exp(-slope * gate.value));
    return {own * up.value, 1.2 * gate.bound * std::fabs(up.value) + std::fabs(own) * up.bound +
                                4e-6 * std::fabs(own * up.value)};
  }

  // The shares of the chosen experts of a row, 0 for others.
  static std::vector<double> shares(const Case& c, const Mixture& mixture, const std::vector<Sum>& x,
                                    double* moved) {
    reference::Row logits;
    *moved = 0;
    for (const Sum& sum : product(mixture.router, x)) {
      logits.push_back(sum.value);
      *moved = std::max(*moved, sum.bound);
    }
    std::vector<double> all(logits.size(), 0.0);
    double total = 0;
    const std::vector<size_t> chosen = reference::chosen_experts(logits, index(c.chosen));
    for (const size_t e : chosen) all[e] = std::exp(logits[e]);
    for (size_t e = 0; e < logits.size(); ++e) total += c.normalize ? all[e] : std::exp(logits[e]);
    for (double& share : all) share /= total;
    return all;
  }

  void check(const Case& c, Inputs inputs, Watcher* observer, Watcher* beside) {
    const Mixture mixture = make(c);
    const std::vector<float> x = random(c.rows * c.hidden, inputs);
    Table &normed = table(c.rows, c.hidden, 2), &added = table(c.rows, c.hidden, 3);
    normed.fill(x);
    MixtureStep step = step_of(c, mixture);
    step.watch = {observer, beside};
    engine_->mix(step, normed.at(), added.at(), c.rows);
    const std::vector<float> y = added.values();
    std::map<int64_t, int64_t> rows;
    for (int64_t row = 0; row < c.rows; ++row) {
      std::vector<Sum> input;
      for (int64_t i = 0; i < c.hidden; ++i) input.push_back({double{x[index(row * c.hidden + i)]}, 0});
      double moved = 0;
      const std::vector<double> share = shares(c, mixture, input, &moved);
      std::vector<Sum> expected(index(c.hidden), Sum{0, 1e-7});
      for (size_t e = 0; e < share.size(); ++e) {
        if (share[e] == 0) continue;
        ++rows[static_cast<int64_t>(e)];
        const std::vector<Sum> both = product(mixture.gate_up[e], input);
        std::vector<Sum> inner;
        for (size_t i = 0; i < index(c.width); ++i) inner.push_back(activated(c, both, i));
        std::vector<Sum> own = product(mixture.down[e], inner);
        if (beside != nullptr && beside->changed.expert == static_cast<int64_t>(e))
          own[0].value += double{beside->by};
        for (size_t i = 0; i < own.size(); ++i) {
          expected[i].value += share[e] * own[i].value;
          expected[i].bound +=
              share[e] * (own[i].bound + (std::expm1(2 * moved) + 1e-6) * std::fabs(own[i].value));
        }
      }
      for (int64_t i = 0; i < c.hidden; ++i)
        ASSERT_NEAR(double{y[index(row * c.hidden + i)]}, expected[index(i)].value, expected[index(i)].bound)
            << "row " << row << " column " << i;
    }
    if (observer == nullptr) return;
    EXPECT_EQ((observer->rows[{3, LinearRole::kRouter}]), c.rows);
    for (const auto& [expert, count] : rows) {
      EXPECT_EQ((observer->rows[{3, LinearRole::kGateUp, expert}]), count) << expert;
      EXPECT_EQ((observer->rows[{3, LinearRole::kDown, expert}]), count) << expert;
    }
  }
};
NFLOAT_ON_EVERY_DEVICE(EngineMixture);

TEST_P(EngineMixture, MatchesTheOracle) {
  for (const Case& c :
       {Case{4, 2, 48, 72, 9, true, 0}, Case{4, 2, 48, 72, 1, true, 0}, Case{7, 3, 33, 17, 5, false, 0},
        Case{3, 1, 16, 8, 40, true, 7}, Case{5, 5, 64, 40, 2, true, 7}, Case{3, 2, 64, 72, 90, true, 0}})
    for (const Inputs inputs : {Inputs::kNormal, Inputs::kZero}) {
      SCOPED_TRACE(::testing::Message() << c.experts << " experts, rows " << c.rows);
      check(c, inputs, nullptr, nullptr);
      if (HasFatalFailure()) return;
    }
}

TEST_P(EngineMixture, ProductsAreSeenAndMayBeChanged) {
  for (const int64_t rows : {1, 12}) {
    Watcher observer, beside;
    beside.changed = {3, LinearRole::kDown, 1};
    beside.by = 5;
    check({2, 1, 32, 24, rows, true, 0}, Inputs::kNormal, &observer, &beside);
  }
}

TEST_P(EngineMixture, AnExpertsRowsDecideItsPrecision) {
  // Both experts are chosen by every row.
  for (const int64_t rows : {1, 3}) {
    const Case c{2, 2, 64, 32, rows, true, 0};
    const Mixture mixture = make(c, DenseMatrix::Storage::kInt8);
    Table &normed = table(rows, c.hidden), &added = table(rows, c.hidden);
    normed.fill(random(rows * c.hidden));
    const auto mixed = [&](Precision one, Precision many) {
      MixtureStep step = step_of(c, mixture);
      step.precision = one;
      step.many_rows_precision = many;
      engine_->mix(step, normed.at(), added.at(), rows);
      return added.values();
    };
    const std::vector<float> exact = mixed(Precision::kF32, Precision::kF32);
    const std::vector<float> rounded = mixed(Precision::kInt8, Precision::kInt8);
    if (device_->name() == "cpu") {  // others may compute all in float32
      EXPECT_NE(exact, rounded);
    }
    EXPECT_EQ(mixed(Precision::kF32, Precision::kInt8), rows == 1 ? exact : rounded);
    EXPECT_EQ(mixed(Precision::kInt8, Precision::kF32), rows == 1 ? rounded : exact);
  }
}

TEST_P(EngineMixture, OfEqualExpertsTheFirstAreChosen) {
  const Case c{4, 2, 16, 8, 3, true, 0};
  const Mixture mixture = make(c);
  LinearGroup flat;
  const std::vector<float> zeros(index(c.experts * c.hidden)), x = random(c.rows * c.hidden);
  flat.add(*device_, {DType::kF32, Shape({c.experts, c.hidden}), std::as_bytes(std::span(zeros))},
           DenseMatrix::Storage::kF32, {}, 1);
  MixtureStep step = step_of(c, mixture);
  step.router = &flat;
  Watcher observer;
  step.watch.observer = &observer;
  Table &normed = table(c.rows, c.hidden), &added = table(c.rows, c.hidden);
  normed.fill(x);
  engine_->mix(step, normed.at(), added.at(), c.rows);
  EXPECT_EQ((observer.rows[{3, LinearRole::kDown, 0}]), c.rows);
  EXPECT_EQ((observer.rows[{3, LinearRole::kDown, 1}]), c.rows);
  EXPECT_EQ((observer.rows[{3, LinearRole::kDown, 2}]), 0);
}

TEST(ExpertGroups, PlacesAscendForEachExpert) {
  std::vector<int64_t> memory;
  std::mt19937 generator(5);
  // The memory of more places, of more experts and of fewer.
  for (const auto& [places, experts] : {std::pair<int64_t, int64_t>{40, 7}, {3, 128}, {9, 2}, {1, 1}}) {
    std::vector<int32_t> chosen(index(places));
    for (int32_t& expert : chosen)
      expert = static_cast<int32_t>(generator() % static_cast<uint32_t>(experts));
    const ExpertGroups groups = group_by_expert(chosen, experts, memory);
    for (int64_t e = 0; e < experts; ++e) {
      std::vector<int64_t> expected;
      for (int64_t i = 0; i < places; ++i)
        if (chosen[index(i)] == e) expected.push_back(i);
      const std::span<const int64_t> found = groups.of(e);
      EXPECT_EQ(std::vector<int64_t>(found.begin(), found.end()), expected) << e << " of " << experts;
    }
  }
}

}  // namespace
}  // namespace nfloat::testing
