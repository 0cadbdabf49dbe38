// SPDX-License-Identifier: Apache-2.0
#include "plan_device.h"

#include <fmt/format.h>

#include "base/json.h"
#include "convert_options.h"
#include "model_options.h"
#include "nfloat/error.h"
#include "nfloat/results.h"
#include "nfloat/text.h"
#include "notes.h"
#include "table.h"

namespace nfloat::cli {

void plan_on_device(const std::string& device, const ModelSize& model, int64_t context, bool json) {
  const DeviceInfo info = device_info(chosen_device(device));
  if (!info.free_bytes)
    throw UsageError(
        fmt::format("plan: --device {} is {}, which takes this machine's memory: --memory says how much of "
                    "it may be used",
                    device, info.name));
  const std::vector<MemoryPlanRow> rows = plan_device_memory(model, *info.free_bytes, context);
  const uint64_t all = info.total_bytes.value_or(*info.free_bytes);
  if (json) {
    Json document = Json::parse(memory_plan_json(model, rows, *info.free_bytes, context));
    document["device"] = {{"name", info.name},
                          {"model", info.model},
                          {"accelerator", info.accelerator},
                          {"memory_bytes", all},
                          {"free_bytes", *info.free_bytes}};
    fmt::print("{}\n", document.dump(2));
    return;
  }
  fmt::print("{} ({}): {} of memory, {} of it free{}\n\n", info.name, info.model, format_bytes(all),
             format_bytes(*info.free_bytes),
             info.accelerator ? "" : "; it is a processor, and the memory is this machine's own");
  Table table({{"format", Table::Align::kLeft},
               {"bits/weight"},
               {"weights"},
               {fmt::format("KV cache ({})", count_of(context, "token"))},
               {"workspace"},
               {"on the device"},
               {"fits"},
               {"largest context"}});
  for (const MemoryPlanRow& row : rows)
    table.add({row.format, fmt::format("{:.3f}", row.bits_per_weight), format_bytes(row.weight_bytes),
               format_bytes(row.kv_cache_bytes), format_bytes(row.working_bytes),
               format_bytes(row.peak_bytes()), row.peak_bytes() <= *info.free_bytes ? "yes" : "no",
               row.largest_context > 0 ? fmt::format("{}", row.largest_context) : "-"});
  fmt::print(
      "{}\nEmbeddings stay in the file; the output head counts at 16 bits beside 4-bit weights, norms in "
      "float32, keys and values in f16 in pages of all layers.\n",
      table.to_string());
}

}  // namespace nfloat::cli
