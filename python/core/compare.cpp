// SPDX-License-Identifier: Apache-2.0
// Number formats compared on a model.
#include "core.h"
#include "handles.h"
#include "nfloat/comparison.h"

namespace nfloat::python {
namespace {

// path, tokens, formats, protocol, context, budget_bytes, max_divergence, threads, progress, control: the
// document of `nfloat compare --json`.
Ref compare_formats(Args& args) {
  const std::string path = resolve_model_path(args.text());
  const Array tokens = args.array();
  CompareOptions options;
  options.formats = args.texts();
  options.measure.scoring.protocol = parse_perplexity_protocol(args.text());
  options.measure.scoring.context = args.integer();
  options.limits.budget_bytes = args.real();
  options.limits.max_divergence = args.real();
  options.measure.threads = thread_argument(args.integer());
  PyObject* progress = args.object();
  Watch watch(control_of(args.object()));
  const auto ids = tokens.items<int32_t>("tokens");
  if (options.formats.empty()) options.formats = default_formats(std::vector<int64_t>{64});
  // The plain model counts as a format.
  const uint64_t total = 1 + options.formats.size();
  std::string document;
  options.progress = [&](const CompareProgress& now) {
    watch.show(static_cast<uint64_t>(now.share * static_cast<double>(total)), total);
  };
  options.measure.scoring.cancelled = [&] { return watch.stopped(); };
  watch.run(progress, [&] {
    document = comparison_json(nfloat::compare_formats(path, ids, options));
    watch.count(total, total);
  });
  return text(document);
}
// The document: one HTML page.
Ref comparison_page(Args& args) {
  const std::string document = args.text();
  return text(unlocked([&] { return nfloat::comparison_page(document); }));
}

}  // namespace

std::vector<PyMethodDef> compare_methods() {
  return {method<python::compare_formats>("compare_formats"),
          method<python::comparison_page>("comparison_page")};
}

}  // namespace nfloat::python
