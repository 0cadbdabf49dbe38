// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CALIBRATE_MATRIX_H_
#define NFLOAT_CALIBRATE_MATRIX_H_

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "nfloat/codebook.h"
#include "nfloat/gguf.h"
#include "nfloat/quantize.h"

// Quantizes one matrix so that what it gives to its inputs changes least: the loss of an error R = Q - W is
// tr(R H R^T) with H the mean of x x^T over the inputs x (GPTQ, arXiv:2210.17323), in blocks whose scales are
// chosen while the error is fed back, then improved block by block.
namespace nfloat {

// Square, row-major, symmetric or triangular as said.
using SquareMatrix = std::vector<float>;

inline constexpr double kDamping = .03;      // lambda where there are inputs enough
inline constexpr double kDampingOfFew = .1;  // of fewer than 16 a column

// H plus `damping` times the mean of its diagonal, which inputs that were always zero get as their own.
SquareMatrix damped(SquareMatrix hessian, int64_t size, double damping);

// H damped, and the upper triangular U with U^T U = H^-1.
struct HessianFactor {
  int64_t size = 0;
  double damping = 0;  // lambda: share of the mean of the diagonal that was added to it
  SquareMatrix damped;
  SquareMatrix upper;
};

// `hessian`: mean of x x^T over `tokens` inputs. Damping is kDamping, kDampingOfFew where tokens < 16 * size,
// and grows four times, at most six times, where the factor does not exist; after that H is its diagonal.
// Throws kNotFinite, kOutOfMemory.
HessianFactor factorize(SquareMatrix hessian, int64_t size, int64_t tokens, int threads);

// What judges an expert: the mean over the `seen` inputs that it saw, whose sum of x x^T is `own` (empty
// where there are none), mixed with the mean of its layer, whose share is size / (seen + size): few inputs
// say little.
SquareMatrix mixed_with_layer(std::span<const float> own, int64_t seen, std::span<const float> layer_mean,
                              int64_t size);

// W + alpha W (C - H)(H + lambda I)^-1: what W has to be on the inputs y of a quantized model to give what W
// gives on the inputs x of the original. H = E[y y^T], C = E[x y^T]; `difference`: C - H, [size][size].
std::vector<float> corrected_target(std::span<const float> weights, int64_t rows,
                                    std::span<const float> difference, const HessianFactor& factor,
                                    float alpha, int threads);

struct CalibratedOptions {
  Codebook codebook;  // of at most 16 levels
  int64_t block_size = 64;
  std::optional<GgufType> gguf = std::nullopt;  // instead of `codebook` and `block_size`
  int sweeps = 4;                               // of block descent
  bool whole = true;  // sweeps choose blocks anew; false: scales and single codes only
  int finalists = 8;  // scales of a block judged with feedback, at most 8
  int threads = 0;
};

struct CalibratedMatrix {
  QuantizedTensor tensor;   // double-quantized, nested offset 0
  GgufMatrix blocks;        // of `gguf`, instead
  double loss = 0;          // tr(R H R^T) of it, H damped
  double plain_loss = 0;    // of signed scales with the least squared error, chosen without H; of encode_gguf
  bool kept_plain = false;  // the latter was not worse and is what `tensor` holds
};

// weights: [rows][factor.size], what the inputs of `factor` are multiplied with. The same bytes for every
// number of threads. Throws kNotFinite.
CalibratedMatrix calibrate_matrix(std::span<const float> weights, int64_t rows, const HessianFactor& factor,
                                  const CalibratedOptions& options);

// tr(R H R^T), R = values - weights.
double proxy_loss(std::span<const float> values, std::span<const float> weights, int64_t rows,
                  const HessianFactor& factor, int threads);

double proxy_loss(const QuantizedTensor& tensor, std::span<const float> weights, int64_t rows,
                  const HessianFactor& factor, int threads);

// A matrix [rows][columns] in the bytes of a type, as encode_gguf has it; and what they stand for.
GgufMatrix encoded_rows(GgufType type, std::span<const float> weights, int64_t rows, int64_t columns,
                        int threads);
void decode_rows(const GgufMatrix& matrix, std::span<float> values, int threads);

}  // namespace nfloat

#endif  // NFLOAT_CALIBRATE_MATRIX_H_
