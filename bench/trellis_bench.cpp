// SPDX-License-Identifier: Apache-2.0
// trellis_bench: how fast a trellis of 2^12 states could be multiplied with one row of activations, by one
// thread out of the nearest caches and with nothing else to do (no scales, no rotation): what a whole kernel
// could not exceed. Beside `nfloat bench kernels --only 'by 1 row'`. Needs AVX-512 with VNNI.
#include <cstdio>

#if defined(__AVX512VNNI__) && defined(__AVX512F__)
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <ctime>
#include <vector>

namespace {

constexpr int64_t kRows = 256, kLanes = 16, kGroups = 64;  // of a sequence; sequences side by side; of them
constexpr int64_t kCodesAWord = 8, kStates = 4096;
constexpr int kPasses = 2000;

enum class Value { kTable, kComputed };

double processor_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// The value of a state: out of a table, or the sum of the bytes of a linear congruence.
template <Value kind>
inline __m512 value_of(__m512i state, const float* table) {
  if constexpr (kind == Value::kTable) return _mm512_i32gather_ps(state, table, sizeof *table);
  const __m512i mixed =
      _mm512_add_epi32(_mm512_mullo_epi32(state, _mm512_set1_epi32(89226354)), _mm512_set1_epi32(64248484));
  return _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(_mm512_setzero_si512(), mixed, _mm512_set1_epi8(1)));
}

// sums [kRows][kLanes] += value * x of the lane; codes: [groups][kRows / 8][kLanes], 8 rows of a lane a word.
template <Value kind>
__attribute__((noinline)) void multiply(const uint32_t* codes, const float* x, const float* table,
                                        float* sums) {
  const __m512i code_mask = _mm512_set1_epi32(15), state_mask = _mm512_set1_epi32(kStates - 1);
  constexpr int kSideBySide = 2;  // groups, whose chains of states hide each other's latency
  for (int64_t group = 0; group < kGroups; group += kSideBySide) {
    __m512 inputs[kSideBySide];
    __m512i states[kSideBySide];
    for (int i = 0; i < kSideBySide; ++i) {
      inputs[i] = _mm512_loadu_ps(x + (group + i) * kLanes);
      states[i] = _mm512_setzero_si512();
    }
    const uint32_t* words = codes + group * kRows / kCodesAWord * kLanes;
    for (int64_t word = 0; word < kRows / kCodesAWord; ++word, words += kLanes) {
      __m512i packed[kSideBySide];
      for (int i = 0; i < kSideBySide; ++i)
        packed[i] = _mm512_loadu_si512(words + i * kRows / kCodesAWord * kLanes);
      for (int64_t code = 0; code < kCodesAWord; ++code) {
        float* to = sums + (word * kCodesAWord + code) * kLanes;
        __m512 sum = _mm512_loadu_ps(to);
        for (int i = 0; i < kSideBySide; ++i) {
          const __m512i own = _mm512_and_si512(packed[i], code_mask);
          packed[i] = _mm512_srli_epi32(packed[i], 4);
          states[i] = _mm512_and_si512(_mm512_or_si512(_mm512_slli_epi32(states[i], 4), own), state_mask);
          sum = _mm512_fmadd_ps(value_of<kind>(states[i], table), inputs[i], sum);
        }
        _mm512_storeu_ps(to, sum);
      }
    }
  }
}

template <Value kind>
void measure(const char* name) {
  std::vector<uint32_t> codes(static_cast<size_t>(kGroups * kRows / kCodesAWord * kLanes));
  uint32_t next = 1;
  for (uint32_t& word : codes) {
    next = next * 1664525 + 1013904223;
    word = next ^ (next >> 13);
  }
  std::vector<float> x(static_cast<size_t>(kGroups * kLanes), .5f), table(kStates);
  for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<float>(i % 251) - 125;
  std::vector<float> sums(static_cast<size_t>(kRows * kLanes));
  std::vector<double> rates;
  for (int run = 0; run < 5; ++run) {
    const double begin = processor_seconds();
    for (int pass = 0; pass < kPasses; ++pass)
      multiply<kind>(codes.data(), x.data(), table.data(), sums.data());
    rates.push_back(static_cast<double>(kPasses * kGroups * kRows * kLanes) / (processor_seconds() - begin));
  }
  std::nth_element(rates.begin(), rates.begin() + 2, rates.end());
  double all = 0;  // printed, so that the sums are needed
  for (const float sum : sums) all += static_cast<double>(sum);
  std::printf("trellis of 4096 states, one row, in cache, %-14s %5.1f Gw/s (sum %.3g)\n", name,
              rates[2] / 1e9, all);
}

}  // namespace

int main() {
  measure<Value::kTable>("from a table:");
  measure<Value::kComputed>("computed:");
  return 0;
}
#else
int main() {
  std::puts("trellis_bench: this build has no AVX-512 with VNNI");
  return 77;
}
#endif
