// SPDX-License-Identifier: Apache-2.0
// What models predict, what formats do to them, what weights are like.
#include <cstring>

#include "base/stopwatch.h"
#include "c_api/handles.h"
#include "evaluate/scoring.h"
#include "evaluate/windows.h"
#include "nfloat/comparison.h"
#include "nfloat/memory_plan.h"
#include "nfloat/results.h"

using nfloat::ErrorCode;
using nfloat::fail;
using namespace nfloat::c_api;

namespace {

// Throws kInvalidArgument unless each token of `text` that counts has its place.
void expect_room(const nfloat::Model& model, std::span<const int32_t> text,
                 const nfloat::PerplexityOptions& options, size_t capacity, const char* name) {
  const auto windows = nfloat::cut_windows(text, nfloat::resolved(model, options));
  const auto tokens = static_cast<size_t>(nfloat::tokens_to_score(windows));
  if (tokens > capacity)
    fail(ErrorCode::kInvalidArgument, "{} has room for {} tokens, {} count", name, capacity, tokens);
}

void copy_floats(const std::vector<float>& from, float* to) {
  if (to != nullptr) std::memcpy(to, from.data(), from.size() * sizeof(float));
}

}  // namespace

nfloat_status nfloat_model_describe(const nfloat_model* model, nfloat_buffer** json, nfloat_error** error) {
  return guard(error, [&] {
    needed_result(json, "json");
    needed(model, "model");
    *json = make_buffer(nfloat::model_json(model->value, model->defaults->path()));
  });
}

nfloat_status nfloat_divergence(const nfloat_model* reference, const nfloat_model* model,
                                const int32_t* tokens, size_t count, const nfloat_perplexity_options* given,
                                nfloat_control* control, float* token_kl, float* token_loss,
                                size_t token_capacity, nfloat_buffer** json, nfloat_error** error) {
  return guard(error, [&] {
    needed_result(json, "json");
    needed(reference, "reference");
    needed(model, "model");
    const nfloat::PerplexityOptions options = perplexity_options_of(given, control);
    const std::span<const int32_t> text = tokens_of(tokens, count);
    if (token_kl != nullptr || token_loss != nullptr)
      expect_room(model->value, text, options, token_capacity,
                  token_kl != nullptr ? "token_kl" : "token_loss");
    const nfloat::DivergenceResult made = nfloat::divergence(reference->value, model->value, text, options);
    copy_floats(made.token_kl, token_kl);
    copy_floats(made.token_loss, token_loss);
    const auto precision = [&](const nfloat_model* of) {
      return nfloat::precision_name(options.precision.value_or(of->value.options().precision));
    };
    *json = make_buffer(nfloat::divergence_json(made, {precision(model), reference->defaults->path(),
                                                       precision(reference), model->value.options().device}));
  });
}

nfloat_status nfloat_evaluate_task(const nfloat_model* model, const nfloat_tokenizer* tokenizer,
                                   const char* task, const char* data_path, int64_t limit,
                                   nfloat_control* control, nfloat_buffer** json, nfloat_error** error) {
  return guard(error, [&] {
    needed_result(json, "json");
    needed(model, "model");
    needed(tokenizer, "tokenizer");
    if (limit < 0) fail(ErrorCode::kInvalidArgument, "limit is {}: 0 or more", limit);
    const nfloat::Task loaded =
        nfloat::load_task(needed(task, "task"), needed(data_path, "data_path"), limit);
    nfloat::TaskOptions options;
    begin_progress(control, 0);
    options.progress = [control](int64_t done, int64_t total) {
      show_progress(control, static_cast<uint64_t>(done), static_cast<uint64_t>(total));
    };
    const nfloat::Stopwatch watch;
    const nfloat::TaskResult result = nfloat::evaluate_task(model->value, tokenizer->value, loaded, options);
    const double seconds = watch.seconds();
    *json = make_buffer(
        nfloat::evaluation_json(model->defaults->path(), {result}, seconds, model->value.options().device));
  });
}

nfloat_status nfloat_compare_formats(const char* model_path, const int32_t* tokens, size_t count,
                                     const nfloat_compare_options* given, nfloat_control* control,
                                     nfloat_buffer** json, nfloat_error** error) {
  return guard(error, [&] {
    needed_result(json, "json");
    const auto from = read_options(given, "nfloat_compare_options");
    check_reserved(from.reserved, "nfloat_compare_options");
    if (from.generate_tokens < -1)
      fail(ErrorCode::kInvalidArgument, "generate_tokens is {}: -1 or more", from.generate_tokens);
    if (!(from.budget_bytes >= 0) || !(from.max_divergence >= 0))
      fail(ErrorCode::kInvalidArgument, "budget_bytes is {} and max_divergence {}: 0 or more",
           from.budget_bytes, from.max_divergence);
    nfloat::CompareOptions options;
    options.formats = texts_of(from.formats, from.format_count, "formats");
    options.measure.scoring = perplexity_options_of(from.scoring, nullptr);
    options.measure.precision = options.measure.scoring.precision.value_or(nfloat::Precision::kF32);
    options.measure.threads = thread_count(from.threads);
    if (from.generate_tokens != 0)
      options.measure.generate_tokens = from.generate_tokens < 0 ? 0 : from.generate_tokens;
    options.limits.budget_bytes = from.budget_bytes;
    options.limits.max_divergence = from.max_divergence;
    // The plain model counts as a format.
    const uint64_t total =
        1 + (options.formats.empty() ? nfloat::default_formats(std::vector<int64_t>{64}).size()
                                     : options.formats.size());
    begin_progress(control, total);
    options.progress = [&](const nfloat::CompareProgress& progress) {
      show_progress(control, static_cast<uint64_t>(progress.share * static_cast<double>(total)), total);
    };
    const nfloat::Comparison result =
        nfloat::compare_formats(needed(model_path, "model_path"), tokens_of(tokens, count), options);
    report_progress(control, total, total);
    *json = make_buffer(nfloat::comparison_json(result));
  });
}

nfloat_status nfloat_report_page(const char* json, size_t json_bytes, nfloat_buffer** html,
                                 nfloat_error** error) {
  return guard(error, [&] {
    needed_result(html, "html");
    *html = make_buffer(nfloat::comparison_page(text_of(json, json_bytes, "json")));
  });
}

nfloat_status nfloat_analyze_weights(const nfloat_tensor* weights, int64_t block_size, nfloat_buffer** json,
                                     nfloat_error** error) {
  return guard(error, [&] {
    needed_result(json, "json");
    const nfloat::TensorView view = view_of(weights, "weights");
    nfloat::AnalyzeOptions options;
    if (block_size != 0) options.block_size = block_size;
    if (options.block_size < nfloat::kMinBlockSize)
      fail(ErrorCode::kInvalidArgument, "block_size is {}: at least {}", block_size, nfloat::kMinBlockSize);
    nfloat::AnalyzedWeight analyzed;
    analyzed.name = "weights";
    analyzed.shape = view.shape;
    analyzed.statistics = nfloat::analyze_weights(view, options);
    std::vector<nfloat::Codebook> codes;
    for (const std::string& name : nfloat::analyzed_codes())
      codes.push_back(nfloat::make_codebook(name, options.block_size));
    analyzed.codes = nfloat::analyze_codes(view, analyzed.statistics, codes, options);
    *json = make_buffer(nfloat::weight_analysis_json(analyzed));
  });
}

nfloat_status nfloat_plan_memory(const char* path, uint64_t memory_bytes, int64_t context,
                                 nfloat_buffer** json, nfloat_error** error) {
  return guard(error, [&] {
    needed_result(json, "json");
    const nfloat::ModelSize model = nfloat::measure_model(nfloat::resolve_model_path(needed(path, "path")));
    const int64_t planned = context != 0 ? context : nfloat::planned_context(model);
    *json = make_buffer(nfloat::memory_plan_json(model, nfloat::plan_memory(model, memory_bytes, planned),
                                                 memory_bytes, planned));
  });
}
