// SPDX-License-Identifier: Apache-2.0
// Runs CUDA kernels on a CPU, to test them where no GPU is: the threads of a block are fibers, warps and
// lanes go on in a random order between two barriers, shared memory is poisoned before every block, and what
// a GPU would leave undefined (lanes that part ways at an exchange, threads that miss a barrier, writes
// behind shared memory) is reported. Not modelled: memory ordering between blocks, and speed.
#ifndef NFLOAT_CUDA_EMULATE_H_
#define NFLOAT_CUDA_EMULATE_H_

#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#include <csetjmp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <random>
#include <string>
#include <vector>

// A switch by ucontext asks the system for the mask of signals; by jumps it costs a tenth. The address
// sanitizer follows only the former.
#if defined(__SANITIZE_ADDRESS__)
#define NFLOAT_JUMPS 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define NFLOAT_JUMPS 0
#endif
#endif
#if !defined(NFLOAT_JUMPS)
#define NFLOAT_JUMPS 1
#endif

struct uint2 {
  uint32_t x, y;
};
struct uint4 {
  uint32_t x, y, z, w;
};
struct float2 {
  float x, y;
};
struct float4 {
  float x, y, z, w;
};

namespace nfloat::gpu {
inline namespace NFLOAT_MACHINE {

enum class Wait : uint8_t { kNone, kBarrier, kShuffle, kMma, kMatrix, kWarp };

struct PendingCopy {
  void* to;
  const void* from;
  bool valid;
};

// The thread of one place in a block: made once, it runs the body of one block after the other.
struct Fiber {
  ucontext_t context;
  std::jmp_buf place;
  std::vector<char> stack;
  bool begun = false;
  bool done;
  Wait wait;
  uint32_t exchanges;
  std::vector<std::vector<PendingCopy>> groups;  // asynchronous copies, the last group still open
};

// One block at a time; `fault` says what went wrong first, empty if nothing did.
struct Machine {
  std::deque<Fiber> fibers;  // those of the largest block so far; they stay where they are
  ucontext_t scheduler;
  std::jmp_buf scheduler_place;
  std::function<void()> body;
  Fiber* own = nullptr;  // that runs
  int current = 0, threads = 0, block_x = 0, block_y = 0, blocks_x = 0, blocks_y = 0;
  // What lanes give each other, two places by turns: who is one exchange ahead writes the other one, and a
  // lane can be no further ahead.
  uint32_t slots[2][1024][8];
  std::vector<unsigned char> shared;
  std::mt19937 random{1};
  std::string fault;
};

inline Machine the_machine;
inline Machine& machine() {
  return the_machine;
}

// Memory of the card on 16 bytes. Behind it, within the 16, a page that can be neither read nor written ends
// the program; the address sanitizer sees as much by itself. Null: there is no more.
inline size_t whole_pages(size_t bytes) {
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  return (bytes + page - 1) / page * page;
}
inline void* allocate_exactly(size_t bytes) {
#if !NFLOAT_JUMPS
  return std::malloc(bytes);
#else
  const size_t used = (bytes + 15) / 16 * 16, pages = whole_pages(used), all = pages + whole_pages(1);
  void* const made = ::mmap(nullptr, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (made == MAP_FAILED) return nullptr;
  ::mprotect(static_cast<unsigned char*>(made) + pages, all - pages, PROT_NONE);
  return static_cast<unsigned char*>(made) + (pages - used);
#endif
}
inline void give_back(void* memory, size_t bytes) {
#if !NFLOAT_JUMPS
  static_cast<void>(bytes);
  std::free(memory);
#else
  if (memory == nullptr) return;
  const size_t used = (bytes + 15) / 16 * 16, pages = whole_pages(used);
  ::munmap(static_cast<unsigned char*>(memory) - (pages - used), pages + whole_pages(1));
#endif
}

inline constexpr size_t kSharedGuard = 256;
inline constexpr unsigned char kPoison = 0xff;  // NaN as float, bf16 and f16

// To the scheduler and back.
[[gnu::noinline]] inline void leave(Fiber& fiber) {
#if NFLOAT_JUMPS
  if (_setjmp(fiber.place) == 0) _longjmp(machine().scheduler_place, 1);
#else
  swapcontext(&fiber.context, &machine().scheduler);
#endif
}
// To a fiber, until it leaves.
[[gnu::noinline]] inline void enter(Fiber& fiber) {
#if NFLOAT_JUMPS
  if (_setjmp(machine().scheduler_place) != 0) return;
  if (fiber.begun) _longjmp(fiber.place, 1);
#endif
  fiber.begun = true;
  swapcontext(&machine().scheduler, &fiber.context);
}

inline void wait_for(Wait what) {
  Fiber& fiber = *machine().own;
  fiber.wait = what;
  leave(fiber);
}

inline void fiber_entry() {
  Machine& m = machine();
  for (;;) {
    Fiber& fiber = *m.own;
    m.body();
    fiber.done = true;
    leave(fiber);
  }
}

inline void start_fibers() {
  Machine& m = machine();
  while (m.fibers.size() < static_cast<size_t>(m.threads)) {
    Fiber& fiber = m.fibers.emplace_back();
    fiber.stack.resize(size_t{128} << 10);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, fiber_entry, 0);
  }
  for (int i = 0; i < m.threads; ++i) {
    Fiber& fiber = m.fibers[static_cast<size_t>(i)];
    fiber.done = false;
    fiber.wait = Wait::kNone;
    fiber.exchanges = 0;
    fiber.groups.resize(1);
    fiber.groups[0].clear();
  }
}

// Lets the lanes of a warp go on until all of them are done or at a barrier of the block. False: a fault.
inline bool run_warp(int warp) {
  Machine& m = machine();
  Fiber* lanes[32];
  for (int i = 0; i < 32; ++i) lanes[i] = &m.fibers[static_cast<size_t>(warp * 32 + i)];
  for (;;) {
    const auto order = static_cast<uint32_t>(m.random());
    bool moved = false;
    for (uint32_t i = 0; i < 32; ++i) {
      const uint32_t lane = (i * (order | 1) + (order >> 5)) % 32;
      Fiber& fiber = *lanes[lane];
      if (fiber.done || fiber.wait != Wait::kNone) continue;
      m.current = warp * 32 + static_cast<int>(lane);
      m.own = &fiber;
      enter(fiber);
      moved = true;
    }
    const Wait first = lanes[0]->done ? Wait::kNone : lanes[0]->wait;
    bool same = true, exchange = false;
    for (const Fiber* fiber : lanes) {
      const Wait own = fiber->done ? Wait::kNone : fiber->wait;
      same = same && own == first;
      exchange = exchange || (own != Wait::kNone && own != Wait::kBarrier);
    }
    if (exchange && !same) {
      m.fault = "lanes of warp " + std::to_string(warp) + " part ways at an exchange";
      return false;
    }
    if (exchange) {
      for (Fiber* fiber : lanes) fiber->wait = Wait::kNone;
    } else if (!moved) {
      return true;
    }
  }
}

inline bool run_block(size_t shared_bytes) {
  Machine& m = machine();
  m.shared.assign(shared_bytes + kSharedGuard, kPoison);
  start_fibers();
  std::vector<int> warps(static_cast<size_t>(m.threads) / 32);
  for (size_t i = 0; i < warps.size(); ++i) warps[i] = static_cast<int>(i);
  for (;;) {
    std::shuffle(warps.begin(), warps.end(), m.random);
    for (const int warp : warps)
      if (!run_warp(warp)) return false;
    int waiting = 0, done = 0;
    for (int i = 0; i < m.threads; ++i) {
      const Fiber& fiber = m.fibers[static_cast<size_t>(i)];
      done += fiber.done ? 1 : 0;
      waiting += !fiber.done && fiber.wait == Wait::kBarrier ? 1 : 0;
    }
    if (done == m.threads) break;
    if (waiting != m.threads) {
      m.fault =
          std::to_string(waiting) + " threads wait at a barrier that " + std::to_string(done) + " have left";
      return false;
    }
    for (Fiber& fiber : m.fibers) fiber.wait = Wait::kNone;
  }
  for (size_t i = 0; i < kSharedGuard; ++i) {
    if (m.shared[shared_bytes + i] == kPoison) continue;
    m.fault = "a write behind shared memory, byte " + std::to_string(shared_bytes + i);
    return false;
  }
  return true;
}

// What a launch may ask for: blocks, at most kMostBlocksY in the second direction, whole warps, shared memory
// as a block of compute capability 9.0 has it.
inline constexpr int kMostBlocksY = 65535, kMostThreads = 1024;
inline constexpr size_t kMostShared = size_t{227} << 10;

// Runs `body` in every thread of every block, blocks in a random order, until the first fault.
inline void run_grid(int blocks_x, int blocks_y, int threads, size_t shared_bytes,
                     std::function<void()> body) {
  Machine& m = machine();
  if (blocks_x < 1 || blocks_y < 1 || blocks_y > kMostBlocksY || threads < 32 || threads % 32 != 0 ||
      threads > kMostThreads || shared_bytes > kMostShared) {
    if (m.fault.empty())
      m.fault = "no launch: " + std::to_string(blocks_x) + " x " + std::to_string(blocks_y) + " blocks of " +
                std::to_string(threads) + " threads, " + std::to_string(shared_bytes) +
                " bytes of shared memory";
    return;
  }
  m.body = std::move(body);
  m.threads = threads;
  m.blocks_x = blocks_x;
  m.blocks_y = blocks_y;
  std::vector<int> order(static_cast<size_t>(blocks_x) * static_cast<size_t>(blocks_y));
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int>(i);
  std::shuffle(order.begin(), order.end(), m.random);
  for (const int block : order) {
    m.block_x = block % blocks_x;
    m.block_y = block / blocks_x;
    if (!m.fault.empty() || run_block(shared_bytes)) continue;
    m.fibers.clear();  // they stand in the middle of a kernel
    return;
  }
}

inline int thread() {
  return machine().current;
}
inline int threads() {
  return machine().threads;
}
inline int block_x() {
  return machine().block_x;
}
inline int block_y() {
  return machine().block_y;
}
inline int blocks_x() {
  return machine().blocks_x;
}
inline void barrier() {
  wait_for(Wait::kBarrier);
}
inline void warp_barrier() {
  wait_for(Wait::kWarp);
}

template <typename Shared>
Shared& shared() {
  return *reinterpret_cast<Shared*>(machine().shared.data());
}

// Words that this thread gives to the exchange that it takes part in next.
inline uint32_t (&exchange_slots())[1024][8] {
  Machine& m = machine();
  return m.slots[m.own->exchanges++ % 2];
}

template <typename T>
T shuffle(T value, int from_lane) {
  static_assert(sizeof(T) == 4);
  const int own = machine().current;
  auto& slot = exchange_slots();
  std::memcpy(&slot[own][0], &value, 4);
  wait_for(Wait::kShuffle);
  std::memcpy(&value, &slot[own / 32 * 32 + from_lane % 32][0], 4);
  return value;
}
template <typename T>
T shuffle_xor(T value, int mask) {
  return shuffle(value, (machine().current ^ mask) % 32);
}

inline float bits_to_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
inline uint32_t float_to_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
inline float multiply_rounded(float a, float b) {
  return a * b;
}
inline float add_rounded(float a, float b) {
  return a + b;
}
inline float divide_rounded(float a, float b) {
  return a / b;
}
inline float fused(float a, float b, float c) {
  return std::fma(a, b, c);
}
inline float exponential(float x) {
  return std::exp(x);
}
inline float hyperbolic_tangent(float x) {
  return std::tanh(x);
}
inline float complementary_error(float x) {
  return std::erfc(x);
}
inline float round_to_integer(float x) {
  return std::nearbyint(x);
}
inline float f16_value(uint32_t low_half) {
  const uint32_t sign = (low_half & 0x8000u) << 16, magnitude = low_half & 0x7fffu;
  if (magnitude < 0x400u)
    return bits_to_float(sign | float_to_bits(static_cast<float>(magnitude) * 0x1p-24f));
  return bits_to_float(sign | ((magnitude << 13) + (magnitude >= 0x7c00u ? 0x70000000u : 0x38000000u)));
}
inline float square_root(float x) {
  return std::sqrt(x);
}
inline uint16_t round_bf16(float value) {
  const uint32_t bits = float_to_bits(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
inline uint32_t pack_bf16(float low, float high) {
  return round_bf16(low) | static_cast<uint32_t>(round_bf16(high)) << 16;
}
inline void atomic_min(unsigned long long* to, unsigned long long value) {
  *to = std::min(*to, value);
}

// A card stops where a processor reads and writes across.
inline void expect_aligned(const void* at, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(at) % bytes != 0 && machine().fault.empty())
    machine().fault = std::to_string(bytes) + " bytes that do not begin at a multiple of them";
}
template <typename T>
T load_stream(const T* from) {
  expect_aligned(from, sizeof(T));
  return *from;
}
template <typename T>
T load_cached(const T* from) {
  expect_aligned(from, sizeof(T));
  return *from;
}
template <typename T>
void store_stream(T* to, T value) {
  expect_aligned(to, sizeof(T));
  *to = value;
}

// A copy happens as late as a GPU may make it: when it is waited for.
inline void copy_async16(void* to, const void* from, bool valid) {
  Machine& m = machine();
  expect_aligned(to, 16);
  expect_aligned(from, 16);
  m.own->groups.back().push_back({to, from, valid});
}
inline void copy_commit() {
  Machine& m = machine();
  m.own->groups.emplace_back();
}
template <int kLeft>
void copy_wait() {
  Machine& m = machine();
  auto& groups = m.own->groups;
  while (groups.size() > size_t{kLeft} + 1) {
    for (const PendingCopy& copy : groups.front()) {
      if (copy.valid) {
        std::memcpy(copy.to, copy.from, 16);
      } else {
        std::memset(copy.to, 0, 16);
      }
    }
    groups.erase(groups.begin());
  }
}

inline float half_of(uint32_t word, int high) {
  return bits_to_float((high != 0 ? word >> 16 : word & 0xffffu) << 16);
}

inline void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const int own = machine().current, lane = own % 32, base = own - lane;
  auto& slot = exchange_slots();
  std::memcpy(&slot[own][0], a, 16);
  std::memcpy(&slot[own][4], b, 8);
  wait_for(Wait::kMma);
  for (int e = 0; e < 4; ++e) {
    const int row = lane / 4 + e / 2 * 8, column = lane % 4 * 2 + e % 2;
    float sum = d[e];
    for (int k = 0; k < 16; ++k) {
      const uint32_t wa = slot[base + row % 8 * 4 + k % 8 / 2][row / 8 + 2 * (k / 8)];
      const uint32_t wb = slot[base + column * 4 + k % 8 / 2][4 + k / 8];
      sum += half_of(wa, k % 2) * half_of(wb, k % 2);
    }
    d[e] = sum;
  }
}

template <bool kTransposed>
void load_matrices(uint32_t (&to)[4], const void* row) {
  const int own = machine().current, lane = own % 32, base = own - lane;
  auto& slot = exchange_slots();
  expect_aligned(row, 16);
  std::memcpy(&slot[own][0], row, 16);
  wait_for(Wait::kMatrix);
  const auto element = [&](int matrix, int r, int c) {
    const uint32_t word = slot[base + matrix * 8 + r][c / 2];
    return c % 2 != 0 ? word >> 16 : word & 0xffffu;
  };
  for (int i = 0; i < 4; ++i) {
    const int r = lane / 4, c = lane % 4 * 2;
    to[i] = kTransposed ? element(i, c, r) | element(i, c + 1, r) << 16
                        : element(i, r, c) | element(i, r, c + 1) << 16;
  }
}

// kernel<<<(blocks_x, blocks_y), threads, shared_bytes>>>(arguments...); threads divisible by 32.
template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), int blocks_x, int blocks_y, int threads, size_t shared_bytes,
            Arguments... arguments) {
  run_grid(blocks_x, blocks_y, threads, shared_bytes, [=] { kernel(arguments...); });
}

}  // namespace NFLOAT_MACHINE
}  // namespace nfloat::gpu

#endif  // NFLOAT_CUDA_EMULATE_H_
