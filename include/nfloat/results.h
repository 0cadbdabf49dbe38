// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_RESULTS_H_
#define NFLOAT_RESULTS_H_

#include <optional>
#include <string>
#include <vector>

#include "nfloat/analyze.h"
#include "nfloat/api.h"
#include "nfloat/bridge.h"
#include "nfloat/calibrate.h"
#include "nfloat/checkpoint.h"
#include "nfloat/convert.h"
#include "nfloat/evaluate.h"
#include "nfloat/generate.h"
#include "nfloat/gguf.h"
#include "nfloat/memory_plan.h"
#include "nfloat/tasks.h"
#include "nfloat/tokenizer.h"

// Results as JSON documents: what `nfloat COMMAND --json` prints, without its last line break. A number that
// is infinite or not defined is null.
namespace nfloat {

// What a checkpoint was calibrated with.
struct CalibrationRecord {
  CalibrationReport report;
  std::string text;       // its name
  std::string text_hash;  // of its bytes, FNV-1a in hexadecimal digits
  int level = 1;
  std::string block_sizes;  // chosen for each weight (nfloat/budget.h), in words; empty: all alike
  double predicted_kl = 0;  // of them
};

// As `nfloat quantize --dry-run`.
NFLOAT_API std::string quantization_plan_json(const QuantizationPlan& plan);
// As `nfloat quantize`.
NFLOAT_API std::string quantize_json(const ConvertResult& result,
                                     const std::optional<CalibrationRecord>& calibration = std::nullopt);
// As `nfloat dequantize`.
NFLOAT_API std::string dequantize_json(const ConvertResult& result);
// As `nfloat convert`: of write_gguf and write_folder.
NFLOAT_API std::string convert_json(const BridgeResult& result);

// The squared error of all weights, of an adapter's change that was quantized again.
NFLOAT_API BridgeTensor adapter_total(const BridgeResult& result);

// One weight with everything that belongs to it.
struct StoredWeight {
  std::string name;
  std::string layout;  // "plain", "nf4, blocks of 64, double", "Q4_0"
  DType dtype = DType::kF32;
  Shape shape;
  uint64_t bytes = 0;  // companions included
};
NFLOAT_API std::vector<StoredWeight> stored_weights(const Checkpoint& checkpoint);

// As `nfloat inspect`, with the findings of check_checkpoint and the errors of compare_checkpoints where
// they are given. Of a GGUF file its metadata and tensors.
NFLOAT_API std::string inspect_json(const Checkpoint& checkpoint,
                                    const std::optional<std::vector<Finding>>& findings = std::nullopt,
                                    const std::optional<std::vector<TensorError>>& errors = std::nullopt);
NFLOAT_API std::string inspect_json(const GgufFile& file);

// A text that was generated.
struct GenerationRecord {
  std::string text;
  std::vector<int32_t> prompt, tokens;
  std::optional<FinishReason> reason;  // unset: it goes on
  double prefill_seconds = 0, decode_seconds = 0;
  std::string precision;                          // that would give it again, as "int8"; empty: left out
  std::string device;                             // of the model (ModelOptions::device); empty: left out
  std::vector<GeneratedToken> log_probabilities;  // of each token; empty: not asked for
};
// "end of text", "stop", "length", "interrupted".
NFLOAT_API const char* finish_reason_name(FinishReason reason) noexcept;
// As `nfloat generate`. `tokenizer` null: log-probabilities have ids and no texts.
NFLOAT_API std::string generation_json(const GenerationRecord& record, const Tokenizer* tokenizer);

// Tokens of context that a plan counts when nobody says: the model's own, at most 4096; 2048 where it has
// none.
NFLOAT_API int64_t planned_context(const ModelSize& model) noexcept;
// Why the numbers of a plan are estimates: of a model with keys that are not understood.
NFLOAT_API std::string estimate_remark(const ModelSize& model);
// As `nfloat plan`. `memory_bytes` 0: no limit.
NFLOAT_API std::string memory_plan_json(const ModelSize& model, const std::vector<MemoryPlanRow>& rows,
                                        uint64_t memory_bytes, int64_t context);

// One weight with what analyze_weights and analyze_codes found.
struct AnalyzedWeight {
  std::string name;
  Shape shape;
  WeightStatistics statistics;
  CodeAnalysis codes;
  double power() const noexcept;  // sum of squares
};
// The codes that are tried when nobody says which.
NFLOAT_API std::vector<std::string> analyzed_codes();
// All weights as one set: moments from their moments, errors weighted by their squares. At least one.
NFLOAT_API AnalyzedWeight analysis_total(const std::vector<AnalyzedWeight>& weights);
// As `nfloat analyze` has it of one tensor, and of all.
NFLOAT_API std::string weight_analysis_json(const AnalyzedWeight& weight);
NFLOAT_API std::string analysis_json(const std::string& model, const std::vector<AnalyzedWeight>& weights,
                                     int64_t block_size, uint64_t bytes, double seconds);

// What a document says of the device that computed it (ModelOptions::device).
NFLOAT_API std::string device_json(const std::string& device);
// The same in a line: "cuda:0 (its model, graphs failed (REASON))".
NFLOAT_API std::string device_summary(const DeviceInfo& device);
// As `nfloat evaluate`. `device` here and below: of the model; empty: left out.
NFLOAT_API std::string evaluation_json(const std::string& model, const std::vector<TaskResult>& results,
                                       double seconds, const std::string& device = {});
// As `nfloat perplexity`. `protocol`: "paper", "llama.cpp", "bos" or "sequences".
NFLOAT_API std::string perplexity_json(const PerplexityResult& result, const std::string& protocol,
                                       double seconds, const std::string& device = {});
// As `nfloat perplexity --reference`: the two models by name, and their precisions.
struct DivergenceNames {
  std::string precision, reference, reference_precision;
  std::string device = {};
};
NFLOAT_API std::string divergence_json(const DivergenceResult& result, const DivergenceNames& names);

// A model that is loaded: its size, precision, memory, and config.json of the folder `path`.
NFLOAT_API std::string model_json(const Model& model, const std::string& path);

}  // namespace nfloat

#endif  // NFLOAT_RESULTS_H_
