// SPDX-License-Identifier: Apache-2.0
// Perplexity, divergence, tests with known answers, number formats.
#include "nfloat/evaluate.h"

#include "base/fail.h"
#include "base/json.h"
#include "core.h"
#include "handles.h"
#include "nfloat/analyze.h"
#include "nfloat/formats.h"
#include "nfloat/machine.h"
#include "nfloat/tasks.h"

namespace nfloat::python {

template <>
inline constexpr const char* kTypeName<const Format> = "nfloat.Format";

namespace {

Json to_json(const PerplexityResult& result) {
  return {{"tokens", result.tokens},         {"windows", result.windows},
          {"mean_loss", result.mean_loss},   {"standard_error", result.standard_error},
          {"perplexity", result.perplexity}, {"perplexity_error", result.perplexity_error()}};
}

// protocol, context, kv_cache, precision or None, progress, control
struct Scoring {
  explicit Scoring(Args& args) {
    options.protocol = parse_perplexity_protocol(args.text());
    options.context = args.integer();
    options.kv_cache = kv_cache_argument(args.text());
    options.precision = maybe_precision(args);
    progress = args.object();
    watch.emplace(control_of(args.object()));
    options.progress = [this](int64_t done, int64_t total, double) {
      watch->show(static_cast<uint64_t>(done), static_cast<uint64_t>(total));
    };
    options.cancelled = [this] { return watch->stopped(); };
  }
  Scoring(const Scoring&) = delete;
  PerplexityOptions options;
  PyObject* progress;
  std::optional<Watch> watch;
};

Ref perplexity(Args& args) {
  const std::shared_ptr<const Model> model = args.handle<const Model>();
  const Array tokens = args.array();
  Scoring scoring(args);
  const auto ids = tokens.items<int32_t>("tokens");
  PerplexityResult result;
  scoring.watch->run(scoring.progress, [&] { result = nfloat::perplexity(*model, ids, scoring.options); });
  return text(to_json(result).dump());
}
// reference, model, tokens and so on: JSON, memory of token_kl, memory of token_loss.
Ref divergence(Args& args) {
  const std::shared_ptr<const Model> reference = args.handle<const Model>();
  const std::shared_ptr<const Model> model = args.handle<const Model>();
  const Array tokens = args.array();
  Scoring scoring(args);
  const auto ids = tokens.items<int32_t>("tokens");
  DivergenceResult result;
  scoring.watch->run(scoring.progress,
                     [&] { result = nfloat::divergence(*reference, *model, ids, scoring.options); });
  const Json json{{"tokens", result.tokens},
                  {"mean_kl", result.mean_kl},
                  {"mean_kl_error", result.mean_kl_error},
                  {"median_kl", result.median_kl},
                  {"kl_99", result.kl_99},
                  {"max_kl", result.max_kl},
                  {"log_ratio", result.log_ratio},
                  {"same_top", result.same_top},
                  {"rms_delta_p", result.rms_delta_p},
                  {"reference", to_json(result.reference)},
                  {"model", to_json(result.model)}};
  return tuple(text(json.dump()), copied_memory<float>(result.token_kl),
               copied_memory<float>(result.token_loss));
}

Ref task_names(Args&) {
  return list(nfloat::task_names(), [](const std::string& name) { return text(name); });
}
// model, tokenizer, task, data, limit, add_bos, progress, control
Ref evaluate_task(Args& args) {
  const std::shared_ptr<const Model> model = args.handle<const Model>();
  const std::shared_ptr<const Tokenizer> tokenizer = args.handle<const Tokenizer>();
  const std::string name = args.text(), path = args.text();
  const int64_t limit = args.integer();
  TaskOptions options;
  options.add_bos = args.flag();
  PyObject* progress = args.object();
  Watch watch(control_of(args.object()));
  options.progress = [&](int64_t done, int64_t total) {
    watch.show(static_cast<uint64_t>(done), static_cast<uint64_t>(total));
  };
  options.cancelled = [&] { return watch.stopped(); };
  TaskResult result;
  watch.run(progress, [&] {
    const Task task = load_task(name, path, limit);
    result = nfloat::evaluate_task(*model, *tokenizer, task, options);
  });
  Json json{{"name", result.name},         {"questions", result.questions},
            {"accuracy", result.accuracy}, {"accuracy_error", result.accuracy_error},
            {"low", result.low},           {"high", result.high},
            {"chance", result.chance}};
  json["normalised_accuracy"] = result.normalised_accuracy ? Json(*result.normalised_accuracy) : Json();
  json["perplexity"] = result.perplexity ? Json(*result.perplexity) : Json();
  return text(json.dump());
}

Ref make_format(Args& args) {
  return make_handle<const Format>(std::shared_ptr<const Format>(nfloat::make_format(args.text())));
}
// name, summary, bits a weight, block size
Ref format_info(Args& args) {
  const Format& format = *args.handle<const Format>();
  return tuple(text(format.name()), text(format.summary()), real(format.bits_per_weight()),
               integer(format.block_size()));
}
// format, weights in float32 (changed in place), rows, columns, threads
Ref round_trip(Args& args) {
  const std::shared_ptr<const Format> format = args.handle<const Format>();
  const Array weights = args.array("", true);
  const int64_t rows = args.integer(), columns = args.integer();
  const int threads = thread_argument(args.integer());
  const auto values = weights.items<float>("weights");
  if (rows < 0 || columns < 0 || (columns != 0 && rows != static_cast<int64_t>(values.size()) / columns))
    fail(ErrorCode::kInvalidArgument, "{} weights are no matrix of {} rows and {} columns", values.size(),
         rows, columns);
  over_memory(
      weights.bytes(), [&] { format->round_trip(values, rows, columns, threads); }, kLongSlowBytes);
  return none();
}
Ref format_list(Args&) {
  return list(nfloat::format_list(),
              [](const FormatInfo& info) { return tuple(text(info.name), text(info.summary)); });
}
// A list of block sizes.
Ref default_formats(Args& args) {
  std::vector<int64_t> sizes;
  PyObject* given = args.object();
  if (PyList_Check(given) == 0) raise(PyExc_TypeError, "block_sizes: a list is needed");
  for (Py_ssize_t i = 0; i < PyList_Size(given); ++i) {
    PyObject* item = PyList_GetItem(given, i);
    Args one("block_sizes", &item, 1);
    sizes.push_back(one.integer());
  }
  return list(nfloat::default_formats(sizes), [](const std::string& name) { return text(name); });
}

// weights, dtype said, block_size
Ref analyze_weights(Args& args) {
  PyObject* given = args.object();
  const Array weights = Array::of(given, args.maybe_text().value_or(""));
  AnalyzeOptions options;
  options.block_size = args.integer();
  if (weights.view().dtype == DType::kU16)
    raise(PyExc_TypeError, "weights are uint16: say dtype=\"bfloat16\" where these are the bits of bfloat16");
  WeightStatistics s;
  over_memory(
      weights.bytes(), [&] { s = nfloat::analyze_weights(weights.view(), options); }, kLongSlowBytes);
  const auto distribution = [](const DistributionStatistics& d) {
    return Json{{"normal_distance", d.normal_distance},
                {"normal_accepted", d.normal_accepted()},
                {"student_degrees_of_freedom", d.student.degrees_of_freedom},
                {"student_distance", d.student.distance},
                {"student_accepted", d.student_accepted()},
                {"excess_kurtosis", d.excess_kurtosis},
                {"sample", d.sample}};
  };
  const Json json{{"elements", s.elements},
                  {"mean", s.mean},
                  {"deviation", s.deviation},
                  {"skew", s.skew},
                  {"absmax", s.absmax},
                  {"outlier_share", s.outlier_share},
                  {"has_outliers", s.has_outliers()},
                  {"zeros", s.zeros},
                  {"block_size", s.block_size},
                  {"block_peak", s.block_peak},
                  {"plain", distribution(s.plain)},
                  {"normalised", distribution(s.normalised)},
                  {"source", source_distribution_name(s.source())}};
  return text(json.dump());
}

Ref measure_machine(Args& args) {
  MachineOptions options;
  options.threads = thread_argument(args.integer());
  const MachineLimits limits = unlocked([&] { return nfloat::measure_machine(options); });
  const Json json{{"threads", limits.threads},
                  {"read", limits.read},
                  {"write", limits.write},
                  {"copy", limits.copy},
                  {"cached_read", limits.cached_read},
                  {"fma_f32", limits.fma_f32},
                  {"dot_bf16", limits.dot_bf16},
                  {"dot_int8", limits.dot_int8},
                  {"tile_bf16", limits.tile_bf16},
                  {"tile_int8", limits.tile_int8},
                  {"region_seconds", limits.region_seconds}};
  return text(json.dump());
}

}  // namespace

std::vector<PyMethodDef> evaluate_methods() {
  return {method<python::perplexity>("perplexity"),
          method<python::divergence>("divergence"),
          method<python::task_names>("task_names"),
          method<python::evaluate_task>("evaluate_task"),
          method<python::make_format>("make_format"),
          method<format_info>("format_info"),
          method<round_trip>("round_trip"),
          method<python::format_list>("format_list"),
          method<python::default_formats>("default_formats"),
          method<python::analyze_weights>("analyze_weights"),
          method<python::measure_machine>("measure_machine")};
}

}  // namespace nfloat::python
