// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_FORMATS_H_
#define NFLOAT_FORMATS_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nfloat/api.h"
#include "nfloat/codebook.h"

// Number formats to compare: each replaces weights by the values that its files would give back.
namespace nfloat {

// How a code's scales are stored.
enum class ScaleStorage : uint8_t { kF32, kF16, kDouble };  // kDouble: bitsandbytes' double quantization

// The parts of a format that nfloat's own kernels run without unpacking.
struct PackedFormat {
  Codebook codebook;
  int64_t block_size = 64;
  bool double_quantization = false;
};

// Size and statistics of a round trip, besides the values.
struct StoredWeights {
  uint64_t bytes = 0;  // of codes and scales, packed as tightly as the format's files do (3 bits take 3)
  std::vector<uint64_t> code_counts;  // how often each code occurs; empty where codebook() is null
};

class NFLOAT_API Format {
 public:
  Format(std::string name, std::string summary) : name_(std::move(name)), summary_(std::move(summary)) {}
  Format(const Format&) = delete;
  Format& operator=(const Format&) = delete;
  virtual ~Format();

  const std::string& name() const noexcept { return name_; }        // as make_format accepts it
  const std::string& summary() const noexcept { return summary_; }  // in one line

  // Replaces each weight of the row-major matrix [rows, cols] by the value that the format gives back, in
  // float32. The same for every number of threads. Throws kNotFinite naming the index, kInvalidArgument for a
  // row length that the format cannot store.
  virtual StoredWeights round_trip(std::span<float> weights, int64_t rows, int64_t cols,
                                   int threads = 0) const = 0;

  // Bits a weight for a large matrix.
  virtual double bits_per_weight() const noexcept = 0;
  // Weights that share a scale.
  virtual int64_t block_size() const noexcept = 0;
  // The codebook of the format, where all blocks share one: its levels, and statistics of its codes.
  virtual const Codebook* codebook() const noexcept { return nullptr; }
  // Whether a round trip depends on the matrix alone; false: on the model, prepared before it is measured.
  virtual bool separable() const noexcept { return true; }
  // The form that kernels run directly; empty where weights are decoded first.
  virtual std::optional<PackedFormat> packed() const { return std::nullopt; }

 private:
  std::string name_, summary_;
};

// A format by name. Codes of the codebook room: CODE[:BLOCK][:search|:signed][:f16|:dq], as "nf4",
// "nf4:128:signed:dq", "bof4-s:64" (block 64, absmax scales in float32 where nothing is said; codes of more
// than 16 levels take absmax only). Others: "int4-asym[:BLOCK]", "q4_0", "q4_k", "q5_k", "q6_k",
// "iq4_nl", "iq4_xs", "q8_0", "mxfp4", "nvfp4", "nvfp4-4over6". Throws kNotFound listing all
// formats, kInvalidArgument.
NFLOAT_API std::unique_ptr<Format> make_format(std::string_view name);

struct FormatInfo {
  std::string name;     // with its options: "nf4[:BLOCK][:search|:signed][:f16|:dq]"
  std::string summary;  // in one line
};
NFLOAT_API std::vector<FormatInfo> format_list();

// The default of `nfloat compare`: codes at each block size, scale searches, and the formats
// of other programs.
NFLOAT_API std::vector<std::string> default_formats(std::span<const int64_t> block_sizes);

}  // namespace nfloat

#endif  // NFLOAT_FORMATS_H_
