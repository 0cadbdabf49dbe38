// SPDX-License-Identifier: Apache-2.0
#include "nfloat/machine.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <vector>

#include "base/cpu_features.h"
#include "base/fail.h"
#include "base/huge_pages.h"
#include "base/parallel.h"
#include "base/stopwatch.h"
#include "machine/probes.h"

namespace nfloat {
namespace {

using machine::ComputeProbe;

constexpr size_t kPage = 4096;
constexpr size_t kCachedBytes = size_t{512} << 10;
constexpr uint64_t kLeastMemory = uint64_t{16} << 20;
constexpr int kPasses = 5;

// Anonymous memory that may lie on huge pages: TLB misses are no property of the memory.
class Pages {
 public:
  explicit Pages(size_t bytes) : bytes_(bytes + kHugePageBytes) {
    data_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data_ == MAP_FAILED) fail(ErrorCode::kOutOfMemory, "cannot map {} bytes to measure memory", bytes_);
    advise_huge_pages(data_, bytes_);
    const uintptr_t address = reinterpret_cast<uintptr_t>(data_);
    begin_ = static_cast<char*>(data_) + (kHugePageBytes - address % kHugePageBytes) % kHugePageBytes;
  }
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;
  ~Pages() { munmap(data_, bytes_); }
  char* begin() const noexcept { return begin_; }

 private:
  size_t bytes_;
  void* data_;
  char* begin_;
};

// Median of `work` over the seconds that body() takes, after one pass that does not count.
template <typename Body>
double median_rate(double work, Body body) {
  body();
  std::vector<double> rates;
  for (int i = 0; i < kPasses; ++i) {
    const Stopwatch watch;
    body();
    rates.push_back(work / watch.seconds());
  }
  std::sort(rates.begin(), rates.end());
  return rates[kPasses / 2];
}

void measure_memory(const machine::MemoryProbes& probes, MachineLimits* limits) {
  const Pages pages(limits->memory);
  char* const memory = pages.begin();
  const int64_t all = static_cast<int64_t>(limits->memory);
  const int64_t half = all / 2;
  const auto gigabytes = [](int64_t bytes) { return static_cast<double>(bytes) / 1e9; };
  // Shares are whole pages, the same in every pass: each thread finds the pages that it touched first.
  const auto over = [&](int64_t bytes, auto body) {
    parallel_for(bytes, kPage, limits->threads,
                 [&](int64_t begin, int64_t end) { body(begin, static_cast<size_t>(end - begin)); });
  };
  std::atomic<uint64_t> seen{0};
  limits->write = median_rate(gigabytes(all), [&] {
    over(all, [&](int64_t begin, size_t bytes) { probes.write(memory + begin, bytes); });
  });
  limits->read = median_rate(gigabytes(all), [&] {
    over(all, [&](int64_t begin, size_t bytes) { seen ^= probes.read(memory + begin, bytes); });
  });
  limits->copy = median_rate(gigabytes(half), [&] {
    over(half,
         [&](int64_t begin, size_t bytes) { probes.copy(memory + half + begin, memory + begin, bytes); });
  });
  constexpr int kTimes = 400;
  const int64_t cached = static_cast<int64_t>(kCachedBytes) * limits->threads;
  limits->cached_read = median_rate(gigabytes(cached) * kTimes, [&] {
    parallel_for(limits->threads, 1, limits->threads, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin * kTimes; i < end * kTimes; ++i)
        seen ^= probes.read(memory + begin * static_cast<int64_t>(kCachedBytes), kCachedBytes);
    });
  });
}

// Billions of operations a second of all threads; 0 for a null probe.
double measure_compute(ComputeProbe probe, int threads) {
  if (probe == nullptr) return 0;
  int64_t rounds = 1 << 12;
  double operations = 0;
  const auto once = [&] {
    const Stopwatch watch;
    operations = probe(rounds);
    return watch.seconds();
  };
  constexpr double kEnough = 0.02;
  while (once() < kEnough) rounds *= 2;
  return median_rate(operations * threads / 1e9,
                     [&] { parallel_for(threads, 1, threads, [&](int64_t, int64_t) { probe(rounds); }); });
}

// The loops of the library itself: each begins when the one before has ended.
double region_seconds(int threads) {
  constexpr int kRegions = 2000;
  return 1.0 / median_rate(kRegions, [&] {
           for (int i = 0; i < kRegions; ++i)
             parallel_for(threads, 1, threads, [](int64_t, int64_t) { __asm__ volatile("" ::: "memory"); });
         });
}

machine::Probes choose_probes() {
  machine::Probes probes = machine::kPortableProbes;
  const CpuFeatures& cpu = cpu_features();
#if defined(__x86_64__)
  if (cpu.avx2) probes = machine::kAvx2Probes;
  if (cpu.avx_vnni) probes.dot_int8 = machine::avx_vnni_int8;
  if (cpu.avx512) {
    probes.memory = machine::kAvx512Probes.memory;
    probes.fma_f32 = machine::kAvx512Probes.fma_f32;
  }
  if (cpu.avx512_vnni) probes.dot_int8 = machine::kAvx512Probes.dot_int8;
  if (cpu.avx512_bf16) probes.dot_bf16 = machine::kAvx512Probes.dot_bf16;
#elif defined(__aarch64__)
  if (cpu.neon_dotprod) probes.dot_int8 = machine::neon_int8;
  if (cpu.neon_bf16) probes.dot_bf16 = machine::neon_bf16;
#else
  static_cast<void>(cpu);
#endif
  return probes;
}

void measure_tiles(MachineLimits* limits) {
#if defined(__x86_64__)
  const CpuFeatures& cpu = cpu_features();
  if (!request_tiles()) return;
  if (cpu.amx_int8) limits->tile_int8 = measure_compute(machine::amx_int8, limits->threads);
  if (cpu.amx_bf16) limits->tile_bf16 = measure_compute(machine::amx_bf16, limits->threads);
#else
  static_cast<void>(limits);
#endif
}

}  // namespace

MachineLimits measure_machine(const MachineOptions& options) {
  if (options.memory < kLeastMemory)
    fail(ErrorCode::kInvalidArgument, "{} bytes to measure memory with: at least {}", options.memory,
         kLeastMemory);
  MachineLimits limits;
  limits.threads = thread_count(options.threads);
  limits.memory = std::max(options.memory, kCachedBytes * static_cast<uint64_t>(limits.threads)) /
                  kHugePageBytes * kHugePageBytes;
  const machine::Probes probes = choose_probes();
  measure_memory(probes.memory, &limits);
  limits.fma_f32 = measure_compute(probes.fma_f32, limits.threads);
  limits.dot_bf16 = measure_compute(probes.dot_bf16, limits.threads);
  limits.dot_int8 = measure_compute(probes.dot_int8, limits.threads);
  measure_tiles(&limits);
  limits.region_seconds = region_seconds(limits.threads);
  return limits;
}

std::string machine_processor() {
  return cpu_name();
}

}  // namespace nfloat
