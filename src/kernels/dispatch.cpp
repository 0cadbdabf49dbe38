// SPDX-License-Identifier: Apache-2.0
#include "kernels/dispatch.h"

#include <cstdlib>
#include <cstring>

#include "base/cpu_features.h"
#include "kernels/targets.h"
#include "nfloat/targets.h"

namespace nfloat::kernels {
namespace {

struct Choice {
  const KernelTable* runnable[8];
  size_t count = 0;
  const KernelTable* chosen = nullptr;
  const char* error = nullptr;

  Choice() noexcept {
    const auto add = [this](bool can_run, const KernelTable& entry) {
      if (can_run) runnable[count++] = &entry;
    };
    const char* wanted = std::getenv("NFLOAT_TARGET");
    add(true, kScalarTable);
#if defined(NFLOAT_PLAIN_KERNELS)
#elif defined(__x86_64__)
    const CpuFeatures& cpu = cpu_features();
    add(cpu.avx2, kAvx2Table);
    add(cpu.avx_vnni, kAvxVnniTable);
    add(cpu.avx512, kAvx512Table);
    const bool bf16 = cpu.avx512_vnni && cpu.avx512_bf16 && cpu.avx512_vbmi;
    add(bf16, kAvx512Bf16Table);
    // The kernel must be asked before the first tile instruction: not by a run that will not use them.
    const bool other = wanted != nullptr && *wanted != '\0' && std::strcmp(wanted, kAmxTable.name) != 0;
    add(bf16 && cpu.amx_bf16 && cpu.amx_int8 && !other && request_tiles(), kAmxTable);
#elif defined(__aarch64__)
    const CpuFeatures& cpu = cpu_features();
    add(cpu.neon, kNeonTable);
    add(cpu.neon_dotprod, kNeonDotTable);
    add(cpu.neon_dotprod && cpu.neon_bf16 && cpu.neon_i8mm, kNeonI8mmTable);
#endif
    chosen = runnable[count - 1];
    if (wanted == nullptr || *wanted == '\0') return;
    for (size_t i = 0; i < count; ++i) {
      if (std::strcmp(wanted, runnable[i]->name) == 0) {
        chosen = runnable[i];
        return;
      }
    }
    error = "NFLOAT_TARGET names a target that is unknown or that this machine cannot run";
  }
};

const Choice& choice() noexcept {
  static const Choice instance;
  return instance;
}

}  // namespace

const KernelTable& table() noexcept {
  return *choice().chosen;
}
std::span<const KernelTable* const> runnable_tables() noexcept {
  return {choice().runnable, choice().count};
}
const char* forced_target_error() noexcept {
  return choice().error;
}

}  // namespace nfloat::kernels

namespace nfloat {

std::string active_target() {
  return kernels::table().name;
}

std::vector<std::string> runnable_targets() {
  std::vector<std::string> names;
  for (const kernels::KernelTable* table : kernels::runnable_tables()) names.emplace_back(table->name);
  return names;
}

std::string forced_target_error() {
  const char* error = kernels::forced_target_error();
  if (error == nullptr) return "";
  std::string text = std::string(error) + "; it runs";
  for (const std::string& name : runnable_targets()) text += " " + name;
  return text;
}

}  // namespace nfloat
