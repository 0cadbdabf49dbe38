// SPDX-License-Identifier: Apache-2.0
// The steps of a card as launches of kernels, for CUDA and for the emulation alike.
#ifndef NFLOAT_CUDA_LAUNCHES_H_
#define NFLOAT_CUDA_LAUNCHES_H_

#include "cuda/attention_tiles.h"
#include "cuda/commands.h"
#include "cuda/convert.h"
#include "cuda/gemm.h"
#include "cuda/multiply.h"
#include "cuda/plain_gemm.h"
#include "cuda/product.h"
#include "cuda/steps.h"
#include "cuda/transposed.h"

namespace nfloat::gpu {
inline namespace NFLOAT_MACHINE {

class Launches : public Card, private Runner {
 public:
  void copy_to_card(void* to, const void* from, uint64_t bytes, uint64_t rows, uint64_t to_stride,
                    uint64_t from_stride) final {
    queue_.push(CopyCommand{CopyCommand::Way::kToCard, to, from, bytes, rows, to_stride, from_stride});
  }
  void copy_to_host(void* to, const void* from, uint64_t bytes, uint64_t rows, uint64_t to_stride,
                    uint64_t from_stride) final {
    queue_.push(CopyCommand{CopyCommand::Way::kToHost, to, from, bytes, rows, to_stride, from_stride});
  }
  void copy_on_card(void* to, const void* from, uint64_t bytes) final {
    queue_.push(CopyCommand{CopyCommand::Way::kOnCard, to, from, bytes});
  }
  void zero(void* memory, uint64_t bytes) final { queue_.push(ZeroCommand{memory, bytes}); }
  void rows(RowsOperation operation, const RowsArguments& a) final { queue_.push(RowsCommand{operation, a}); }
  void norm(const NormArguments& a) final { queue_.push(a); }
  void activate(const ActivateArguments& a) final { queue_.push(a); }
  void attend(const AttentionArguments& a) final { queue_.push(a); }
  void multiply(const ProductArguments& a) final { queue_.push(ProductCommand{false, nullptr, a}); }
  void multiply_bf16(const ProductArguments& a, const uint16_t* x) final {
    queue_.push(ProductCommand{false, x, a});
  }
  void multiply_transposed(const ProductArguments& a) final { queue_.push(ProductCommand{true, nullptr, a}); }
  void multiply_transposed_bf16(const ProductArguments& a, const uint16_t* x) final {
    queue_.push(ProductCommand{true, x, a});
  }
  void quantize(const BlocksArguments& a) final { queue_.push(BlocksCommand{true, a}); }
  void dequantize(const BlocksArguments& a) final { queue_.push(BlocksCommand{false, a}); }
  std::string graphs() const final { return queue_.graphs(); }

 protected:
  // `large_blocks`: a block may have 130 KiB of shared memory.
  Launches(int multiprocessors, bool large_blocks) noexcept
      : queue_(*this), multiprocessors_(multiprocessors), large_blocks_(large_blocks) {}

  // Launches kernels and begins copies for one command, where the machine runs them in order.
  void launch_command(const Command& command) const {
    std::visit([this](const auto& own) { start(own); }, command);
  }
  virtual void begin(const CopyCommand& command) const = 0;
  virtual void begin(const ZeroCommand& command) const = 0;

  CommandQueue queue_;

 private:
  void start(const CopyCommand& c) const { begin(c); }
  void start(const ZeroCommand& c) const { begin(c); }
  void start(const RowsCommand& c) const { launch_rows_of(c.operation, c.arguments); }
  void start(const NormArguments& a) const { launch_norm(a); }
  void start(const ActivateArguments& a) const { launch_activate(a); }
  void start(const AttentionArguments& a) const { launch_attention(a, multiprocessors_); }
  void start(const ProductCommand& c) const {
    const ProductArguments& a = c.arguments;
    if (c.x == nullptr) return c.transposed ? launch_transposed(a) : launch_product(a, multiprocessors_);
    const auto count = static_cast<int>(a.x_rows);
    if (is_plain_bf16(a.weights)) {
      if (c.transposed)
        return multiply_plain<true>(a.weights, c.x, a.x_stride, count, a.y, a.y_stride, a.accumulate);
      multiply_plain<false>(a.weights, c.x, a.weights.cols, count, a.y, a.y_stride);
    } else {
      const Nf4 w = view(a.weights);
      if (c.transposed)
        return multiply_many<true>(w, c.x, a.x_stride, count, a.y, a.y_stride, large_blocks_,
                                   multiprocessors_, a.accumulate);
      if (a.x_rows <= kFewRows)
        multiply_few(w, c.x, count, a.y, a.y_stride, multiprocessors_);
      else
        multiply_many<false>(w, c.x, w.columns, count, a.y, a.y_stride, large_blocks_, multiprocessors_);
    }
    if (a.bias == nullptr) return;
    RowsArguments bias;
    bias.from = a.bias;
    bias.to = a.y;
    bias.rows = a.x_rows;
    bias.width = a.weights.rows;
    bias.to_stride = a.y_stride;
    launch_rows<RowsOperation::kAddToAll>(bias);
  }
  void start(const BlocksCommand& c) const {
    const BlocksArguments& a = c.arguments;
    with_elements(a, [&](auto* weights) {
      if (c.quantizes)
        return quantize_blocks(weights, a.elements, a.block_shift, Code16{a.thresholds, a.code_of_rank},
                               a.codes, a.scales, a.first_not_finite, multiprocessors_);
      const Nf4 codes{a.codes, a.scales, nullptr,    nullptr,    nullptr,
                      nullptr, a.levels, int64_t{1}, a.elements, a.block_shift};
      dequantize_blocks(codes, weights, multiprocessors_);
    });
  }
  template <typename Body>
  static void with_elements(const BlocksArguments& a, const Body& body) {
    switch (a.element) {
      case Element::kF32:
        return body(static_cast<float*>(a.weights));
      case Element::kF16:
        return body(static_cast<F16*>(a.weights));
      case Element::kBF16:
        return body(static_cast<Bf16*>(a.weights));
    }
  }
  static Nf4 view(const Weights& w) {
    const bool nested = w.storage == Storage::kNestedCodes;
    int shift = 0;
    while (int64_t{1} << shift < w.block) ++shift;
    return {static_cast<const uint8_t*>(w.elements),
            nested ? nullptr : static_cast<const float*>(w.scales),
            nested ? static_cast<const uint8_t*>(w.scales) : nullptr,
            w.nested_absmax,
            w.tables + kMapAt,
            w.tables + kOffsetAt,
            w.tables + kLevelsAt,
            w.rows,
            w.cols,
            shift};
  }
  static void launch_rows_of(RowsOperation operation, const RowsArguments& a) {
    switch (operation) {
      case RowsOperation::kCopy:
        return launch_rows<RowsOperation::kCopy>(a);
      case RowsOperation::kGather:
        return launch_rows<RowsOperation::kGather>(a);
      case RowsOperation::kScatterAdd:
        return launch_rows<RowsOperation::kScatterAdd>(a);
      case RowsOperation::kZero:
        return launch_rows<RowsOperation::kZero>(a);
      case RowsOperation::kAdd:
        return launch_rows<RowsOperation::kAdd>(a);
      case RowsOperation::kAddToAll:
        return launch_rows<RowsOperation::kAddToAll>(a);
      case RowsOperation::kEmbed:
        return launch_rows<RowsOperation::kEmbed>(a);
      case RowsOperation::kSoftcap:
        return launch_rows<RowsOperation::kSoftcap>(a);
      case RowsOperation::kFindBroken:
        return launch_rows<RowsOperation::kFindBroken>(a);
      case RowsOperation::kRound:
        return launch_rows<RowsOperation::kRound>(a);
    }
  }

  const int multiprocessors_;
  const bool large_blocks_;
};

}  // namespace NFLOAT_MACHINE
}  // namespace nfloat::gpu

#endif  // NFLOAT_CUDA_LAUNCHES_H_
