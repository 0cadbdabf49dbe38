// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TESTS_UNIT_ENGINE_CARD_TEST_H_
#define NFLOAT_TESTS_UNIT_ENGINE_CARD_TEST_H_

#include "engine_test.h"
#include "reference/gemm.h"

namespace nfloat::testing {

// Products on one device, which the test sets.
class CardTest : public virtual ::testing::Test {
 protected:
  std::vector<float> random(int64_t count) {
    std::normal_distribution<float> normal;
    std::vector<float> values(index(count));
    for (float& value : values) value = normal(generator_);
    return values;
  }

  // Codes of a matrix with scales of any kind, as a file has them.
  struct Coded {
    std::vector<uint8_t> codes, nested;
    std::vector<float> levels, scales, absmax, map;
    PackSource source;
  };
  Coded coded(int64_t rows, int64_t cols, int64_t block, int64_t nested_block) {
    Coded made;
    const int64_t blocks = (rows * cols + block - 1) / block;
    made.codes.resize(index((rows * cols + 1) / 2));
    for (uint8_t& code : made.codes) code = static_cast<uint8_t>(generator_());
    made.levels = random(16);
    made.source.codes = made.codes;
    made.source.levels = made.levels;
    made.source.rows = rows;
    made.source.cols = cols;
    made.source.block_size = block;
    if (nested_block > 0) {
      made.nested.resize(index(blocks));
      for (uint8_t& code : made.nested) code = static_cast<uint8_t>(generator_());
      made.absmax = random((blocks + nested_block - 1) / nested_block);
      made.map = random(256);
      made.source.nested_codes = made.nested;
      made.source.nested_absmax = made.absmax;
      made.source.nested_map = made.map;
      made.source.nested_offset = 0.25f;
      made.source.nested_block_size = nested_block;
    } else {
      made.scales = random(blocks);
      made.source.scales = made.scales;
    }
    return made;
  }
  // As the CPU decodes them.
  static std::vector<float> decoded(const PackSource& source) {
    const PackedMatrix packed = PackedMatrix::pack(source, 1);
    std::vector<float> values(index(source.rows * source.cols));
    for (int64_t row = 0; row < source.rows; ++row)
      packed.dequantize_row(row, values.data() + row * source.cols);
    return values;
  }

  std::vector<float> product(const LinearGroup& group, const std::vector<float>& x, int64_t rows,
                             Precision precision) {
    const std::unique_ptr<LayerEngine> engine = device_->engine();
    Table from(*engine, rows, group.inputs(), 3), to(*engine, rows, group.outputs(), 2);
    from.fill(x);
    engine->multiply(group, from.at(), to.at(), rows, precision);
    return to.values();
  }
  // The product against double precision, each sum within a share of its absolute terms.
  void expect_product(const Coded& made, int64_t rows, Precision precision, double share) {
    LinearGroup group;
    const std::vector<float> bias = random(made.source.rows);
    group.add(*device_, made.source, bias, 1);
    const std::vector<float> x = random(rows * made.source.cols), y = product(group, x, rows, precision);
    const reference::Product expected =
        reference::multiply(x, decoded(made.source), bias, rows, made.source.rows, made.source.cols);
    for (size_t i = 0; i < y.size(); ++i)
      ASSERT_NEAR(double{y[i]}, expected.y[i], share * expected.magnitude[i] + 1e-37)
          << "row " << i / index(made.source.rows) << " output " << i % index(made.source.rows);
  }

  std::shared_ptr<Device> device_;
  std::mt19937 generator_{99};
};

}  // namespace nfloat::testing

#endif  // NFLOAT_TESTS_UNIT_ENGINE_CARD_TEST_H_
