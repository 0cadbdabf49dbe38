// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_BASE_CPU_FEATURES_H_
#define NFLOAT_BASE_CPU_FEATURES_H_

#include <string>

namespace nfloat {

// What this processor and operating system let a program use (register state enabled included).
struct CpuFeatures {
  bool amd = false;       // the maker, where what is fast differs
  bool avx2 = false;      // AVX2, FMA, F16C
  bool avx_vnni = false;  // VNNI on 256-bit registers without AVX-512
  bool avx512 = false;    // F, BW, DQ, VL, CD
  bool avx512_vbmi = false;
  bool avx512_vnni = false;
  bool avx512_bf16 = false;
  bool amx_int8 = false;  // only said, the permission to use the tiles is asked for elsewhere
  bool amx_bf16 = false;
  bool neon = false;
  bool neon_dotprod = false;
  bool neon_bf16 = false;
  bool neon_i8mm = false;
};

// Read once.
const CpuFeatures& cpu_features() noexcept;

// Asks the system, once, to let this process use AMX tiles. False where it refuses or there are none.
bool request_tiles() noexcept;

// "Intel(R) Xeon(R) ...", or the architecture's name where the processor does not say.
std::string cpu_name();

}  // namespace nfloat

#endif  // NFLOAT_BASE_CPU_FEATURES_H_
