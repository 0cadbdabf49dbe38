// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_REPORT_SCORE_DOCUMENTS_H_
#define NFLOAT_REPORT_SCORE_DOCUMENTS_H_

#include "base/json.h"
#include "nfloat/compare.h"
#include "nfloat/comparison.h"
#include "nfloat/evaluate.h"
#include "nfloat/tasks.h"

// The parts of documents that say how well a model predicts.
namespace nfloat {

Json perplexity_document(const PerplexityResult& result);
Json divergence_document(const DivergenceResult& result);
Json task_document(const TaskResult& result);
Json measurement_document(const FormatMeasurement& measurement);
// The reverse of the last two. Throw JsonError where something is missing.
TaskResult task_of(const Json& json);
FormatMeasurement measurement_of(const Json& json);

// A measurement that a choice names by its index.
inline const FormatMeasurement& measurement_at(const Comparison& comparison, int index) {
  return comparison.measurements[static_cast<size_t>(index)];
}

}  // namespace nfloat

#endif  // NFLOAT_REPORT_SCORE_DOCUMENTS_H_
