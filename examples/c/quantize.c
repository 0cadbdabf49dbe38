// SPDX-License-Identifier: Apache-2.0
// Quantizes 4096 made-up weights to NF4 into memory of its own, turns them back, and prints how far they
// moved.
#include <math.h>
#include <nfloat/nfloat.h>
#include <stdio.h>

enum { kRows = 16, kCols = 256, kWeights = kRows * kCols, kBlock = 64, kBlocks = kWeights / kBlock };

static int failed(const char* what, nfloat_error* error) {
  fprintf(stderr, "%s: %s\n", what, nfloat_error_message(error));
  nfloat_error_free(error);
  return 1;
}

int main(void) {
  static float weights[kWeights], restored[kWeights], scales[kBlocks];
  static uint8_t codes[kWeights / 2];
  for (int i = 0; i < kWeights; ++i) weights[i] = (float)sin(0.37 * i) * (float)cos(0.011 * i);
  const nfloat_tensor tensor = {weights, NFLOAT_F32, 2, {kRows, kCols}};

  nfloat_error* error = NULL;
  nfloat_codebook* nf4 = NULL;
  if (nfloat_make_codebook("nf4", kBlock, &nf4, &error)) return failed("nf4", error);
  if (nfloat_quantize_blockwise_into(&tensor, nf4, NULL, codes, sizeof codes, scales, kBlocks, NULL, 0, NULL,
                                     0, NULL, &error))
    return failed("quantize", error);

  nfloat_quantized_view view = {.struct_size = sizeof view};
  view.dtype = NFLOAT_F32;
  view.rank = 2;
  view.shape[0] = kRows;
  view.shape[1] = kCols;
  view.block_size = kBlock;
  view.codes = codes;
  view.levels = nfloat_codebook_levels(nf4);
  view.level_count = (int32_t)nfloat_codebook_size(nf4);
  view.scales = scales;
  if (nfloat_dequantize_blockwise(&view, NFLOAT_F32, restored, sizeof restored, 0, &error))
    return failed("dequantize", error);
  nfloat_codebook_free(nf4);

  double squared = 0, all = 0;
  for (int i = 0; i < kWeights; ++i) {
    squared += pow(weights[i] - restored[i], 2);
    all += pow(weights[i], 2);
  }
  printf("nfloat %s: %d weights, signal to noise %.1f dB\n", nfloat_version(), kWeights,
         10 * log10(all / squared));
  return squared > 0 && squared < 0.02 * all ? 0 : 1;
}
