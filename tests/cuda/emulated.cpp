// SPDX-License-Identifier: Apache-2.0
// emulated [SEED]: every kernel in the emulation against double precision. Exit status 1 when a case fails.
// NFLOAT_PLANTED_IN=N: only the part with a planted fault, until it fails; to compile and run faster.
#include <cstdlib>

#define NFLOAT_PRODUCTS 1
#define NFLOAT_LAYERS 2
#define NFLOAT_ATTENTION 3
#if defined(NFLOAT_PLANTED_IN)
#define NFLOAT_TAKES(part) (NFLOAT_PLANTED_IN == part)
#else
#define NFLOAT_TAKES(part) 1
#endif

#include "conformance.h"
#if NFLOAT_TAKES(NFLOAT_PRODUCTS)
#include "conversions.h"
#include "products.h"
#endif
#if NFLOAT_TAKES(NFLOAT_LAYERS)
#include "layers.h"
#endif
#if NFLOAT_TAKES(NFLOAT_ATTENTION)
#include "attention.h"
#endif

int main(int argc, char** argv) {
  const unsigned seed = argc > 1 ? static_cast<unsigned>(std::atoi(argv[1])) : 7;
  conformance::Random random{std::mt19937(seed)};
  nfloat::gpu::machine().random.seed(seed);
  conformance::Report report;
#if defined(NFLOAT_PLANTED_IN)
  report.until_failure = true;
#endif
#if NFLOAT_TAKES(NFLOAT_PRODUCTS)
  conformance::check_conversions(false, random, report);
  conformance::check_products(false, random, report);
#endif
#if NFLOAT_TAKES(NFLOAT_LAYERS)
  conformance::check_layers(false, random, report);
#endif
#if NFLOAT_TAKES(NFLOAT_ATTENTION)
  conformance::check_attention(false, random, report);
#endif
  std::printf("%d passed, %d failed, seed %u\n", report.passed, report.failed, seed);
  return report.failed == 0 ? 0 : 1;
}
