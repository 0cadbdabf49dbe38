// SPDX-License-Identifier: Apache-2.0
#include "bench_device.h"

#include <fmt/format.h>

#include "base/json.h"
#include "command_line.h"
#include "model_options.h"
#include "nfloat/device_bench.h"
#include "nfloat/error.h"
#include "progress.h"
#include "signals.h"
#include "table.h"

namespace nfloat::cli {
namespace {

std::string bench_json(const DeviceBench& found) {
  Json json{{"device", {{"name", found.device}, {"model", found.model}, {"accelerator", found.accelerator}}},
            {"limits", {{"copy_gb_s", found.copy}, {"read_gb_s", found.read}}},
            {"memory_bytes", found.memory},
            {"results", Json::array()}};
  if (!found.matrix_units.empty()) json["device"]["matrix_units"] = found.matrix_units;
  if (!found.graphs.empty()) json["device"]["graphs"] = found.graphs;
  for (const DeviceBenchRow& row : found.rows)
    json["results"].push_back({{"name", row.name},
                               {"seconds", row.seconds},
                               {"spread", row.spread},
                               {"gb_s", row.gigabytes / row.seconds},
                               {"gop_s", row.operations / row.seconds},
                               {"share_of_read", row.share}});
  return json.dump(2);
}

}  // namespace

void bench_on_device(const DeviceBenchArguments& arguments) {
  catch_interrupts();
  ProgressBar bar("bench kernels", "rows");
  DeviceBenchOptions options;
  options.device = chosen_device(arguments.device);
  options.memory = static_cast<uint64_t>(arguments.memory_mib) << 20;
  options.seconds = arguments.seconds;
  options.only = arguments.only;
  options.progress = [&bar](size_t done, size_t count, const std::string& name) {
    if (interrupted()) throw Error(ErrorCode::kInterrupted, "interrupted while measuring");
    bar.update(done, count, name);
  };
  const DeviceBench found = bench_device(options);
  bar.finish();
  if (arguments.json) {
    fmt::print("{}\n", bench_json(found));
    return;
  }
  fmt::print("{}{}\ncopy {:.4g} GB/s (bytes read and written), read {:.4g} GB/s, {} MiB passed over\n\n",
             device_text(found.device),
             found.accelerator ? "" : ": a processor, which says nothing of a graphics card", found.copy,
             found.read, found.memory >> 20);
  Table table({{"NF4, block 64", Table::Align::kLeft},
               {"microseconds"},
               {"spread"},
               {"weights GB/s"},
               {"of read"},
               {"GOP/s"}});
  for (const DeviceBenchRow& row : found.rows)
    table.add({row.name, fmt::format("{:.1f}", row.seconds * 1e6), fmt::format("{:.0f} %", 100 * row.spread),
               fmt::format("{:.4g}", row.gigabytes / row.seconds), fmt::format("{:.1f} %", 100 * row.share),
               fmt::format("{:.4g}", row.operations / row.seconds)});
  fmt::print("{}", table.to_string());
}

}  // namespace nfloat::cli
