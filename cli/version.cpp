// SPDX-License-Identifier: Apache-2.0
#include <fmt/format.h>

#include <memory>

#include "base/json.h"
#include "commands.h"
#include "nfloat/model.h"
#include "nfloat/ranks.h"
#include "nfloat/results.h"
#include "nfloat/targets.h"
#include "nfloat_commit.h"

namespace nfloat::cli {
namespace {

#if defined(__x86_64__)
constexpr const char* kProcessor = "x86-64";
#elif defined(__aarch64__)
constexpr const char* kProcessor = "aarch64";
#else
constexpr const char* kProcessor = "other";
#endif

void run(bool as_json) {
  if (as_json) {
    Json json = {{"version", NFLOAT_VERSION_STRING}, {"commit", NFLOAT_COMMIT},
                 {"compiler", __VERSION__},          {"processor", kProcessor},
                 {"target", active_target()},        {"targets", runnable_targets()},
                 {"vega", NFLOAT_WITH_VEGA != 0},    {"open_mpi", knows_open_mpi()}};
    json["devices"] = Json::array();
    for (const DeviceInfo& device : available_devices()) {
      Json own = {{"name", device.name}, {"model", device.model}};
      if (!device.matrix_units.empty()) own["matrix_units"] = device.matrix_units;
      if (!device.graphs.empty()) own["graphs"] = device.graphs;
      json["devices"].push_back(std::move(own));
    }
    json["missing_devices"] = Json::object();
    for (const MissingDevices& missing : missing_devices())
      json["missing_devices"][missing.kind] = missing.reason;
    fmt::print("{}\n", json.dump(2));
    return;
  }
  std::vector<std::string> devices;
  for (const DeviceInfo& device : available_devices()) devices.push_back(device_summary(device));
  std::string none;
  for (const MissingDevices& missing : missing_devices())
    none += fmt::format("no {:<8}{}\n", missing.kind, missing.reason);
  fmt::print(
      "nfloat {}\n"
      "commit     {}\n"
      "compiler   {}\n"
      "processor  {}\n"
      "target     {} (this processor runs {}; NFLOAT_TARGET chooses)\n"
      "devices    {} (--device or NFLOAT_DEVICE chooses)\n"
      "{}"
      "features   Vega figures in reports: {}, ranks over Open MPI: {}\n",
      NFLOAT_VERSION_STRING, NFLOAT_COMMIT, __VERSION__, kProcessor, active_target(),
      fmt::join(runnable_targets(), ", "), fmt::join(devices, ", "), none,
      NFLOAT_WITH_VEGA != 0 ? "yes" : "no", knows_open_mpi() ? "yes" : "no");
}

}  // namespace

const char* built_commit() noexcept {
  return NFLOAT_COMMIT;
}

void add_version_command(const Command& app) {
  auto json = std::make_shared<bool>(false);
  const Command command =
      app.add_subcommand("version", "Print version, commit, instruction sets and features of this build");
  command.add_flag("--json", *json, "Print JSON");
  command.footer("Example:\n  nfloat version\nAdd this to every report of a fault.");
  command.callback_of_ranks([json] { run(*json); });
}

}  // namespace nfloat::cli
