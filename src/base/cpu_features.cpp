// SPDX-License-Identifier: Apache-2.0
#include "base/cpu_features.h"

#include <cstdint>
#include <fstream>

#if defined(__x86_64__) || defined(__i386__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace nfloat {
namespace {

#if defined(__x86_64__) || defined(__i386__)
uint64_t enabled_register_state() noexcept {
  uint32_t low = 0, high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t{high} << 32) | low;
}

CpuFeatures detect() noexcept {
  CpuFeatures features;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(0, &a, &b, &c, &d)) return features;
  features.amd = b == signature_AMD_ebx && c == signature_AMD_ecx && d == signature_AMD_edx;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return features;
  const auto bit = [](unsigned word, int index) { return (word >> index & 1u) != 0; };
  const bool os_saves_registers = bit(c, 27);
  const bool fma = bit(c, 12), f16c = bit(c, 29), avx = bit(c, 28);
  if (!os_saves_registers || !avx) return features;
  const uint64_t state = enabled_register_state();
  const bool ymm = (state & 0x6) == 0x6;
  const bool zmm = (state & 0xe6) == 0xe6;
  const bool tiles = (state & 0x60000) == 0x60000;
  unsigned b7 = 0, c7 = 0, d7 = 0;
  if (!ymm || !__get_cpuid_count(7, 0, &a, &b7, &c7, &d7)) return features;
  unsigned a71 = 0;
  __get_cpuid_count(7, 1, &a71, &b, &c, &d);
  features.avx2 = bit(b7, 5) && fma && f16c;
  features.avx_vnni = features.avx2 && bit(a71, 4);
  features.avx512 =
      features.avx2 && zmm && bit(b7, 16) && bit(b7, 17) && bit(b7, 28) && bit(b7, 30) && bit(b7, 31);
  features.avx512_vbmi = features.avx512 && bit(c7, 1);
  features.avx512_vnni = features.avx512 && bit(c7, 11);
  features.avx512_bf16 = features.avx512 && bit(a71, 5);
  features.amx_int8 = features.avx512 && tiles && bit(d7, 24) && bit(d7, 25);
  features.amx_bf16 = features.avx512 && tiles && bit(d7, 24) && bit(d7, 22);
  return features;
}
#elif defined(__aarch64__) && defined(__linux__)
CpuFeatures detect() noexcept {
  CpuFeatures features;
  const unsigned long hwcap = getauxval(AT_HWCAP);
  const unsigned long hwcap2 = getauxval(AT_HWCAP2);
  features.neon = (hwcap & HWCAP_ASIMD) != 0;
  features.neon_dotprod = (hwcap & HWCAP_ASIMDDP) != 0;
  features.neon_bf16 = (hwcap2 & HWCAP2_BF16) != 0;
  features.neon_i8mm = (hwcap2 & HWCAP2_I8MM) != 0;
  return features;
}
#elif defined(__aarch64__) && defined(__APPLE__)
bool has(const char* name) noexcept {
  int value = 0;
  size_t size = sizeof value;
  return sysctlbyname(name, &value, &size, nullptr, 0) == 0 && value != 0;
}
CpuFeatures detect() noexcept {
  CpuFeatures features;
  features.neon = true;
  features.neon_dotprod = has("hw.optional.arm.FEAT_DotProd");
  features.neon_bf16 = has("hw.optional.arm.FEAT_BF16");
  features.neon_i8mm = has("hw.optional.arm.FEAT_I8MM");
  return features;
}
#else
CpuFeatures detect() noexcept {
  return {};
}
#endif

}  // namespace

const CpuFeatures& cpu_features() noexcept {
  static const CpuFeatures features = detect();
  return features;
}

bool request_tiles() noexcept {
#if defined(__x86_64__) && defined(__linux__)
  static const bool granted = [] {
    constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    const CpuFeatures& cpu = cpu_features();
    return (cpu.amx_int8 || cpu.amx_bf16) && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return granted;
#else
  return false;
#endif
}

std::string cpu_name() {
  std::ifstream info("/proc/cpuinfo");
  std::string implementer, part;  // what Arm processors have instead of a name
  for (std::string line; std::getline(info, line);) {
    const size_t colon = line.find(':');
    if (colon == std::string::npos || colon + 2 > line.size()) continue;
    std::string value = line.substr(colon + 2);
    if (line.rfind("model name", 0) == 0) return value;
    if (line.rfind("CPU implementer", 0) == 0) implementer = value;
    if (line.rfind("CPU part", 0) == 0) part = value;
  }
#if defined(__aarch64__) && defined(__APPLE__)
  char brand[128] = {};
  size_t size = sizeof brand - 1;
  if (sysctlbyname("machdep.cpu.brand_string", brand, &size, nullptr, 0) == 0 && brand[0] != '\0')
    return brand;
#endif
  if (!part.empty()) return "aarch64, implementer " + implementer + ", part " + part;
#if defined(__x86_64__)
  return "x86-64";
#elif defined(__aarch64__)
  return "aarch64";
#else
  return "unknown processor";
#endif
}

}  // namespace nfloat
