// SPDX-License-Identifier: Apache-2.0
// wire NAME NAME MICROSECONDS MEGABITS: two TUN devices, and a wire between them. A packet takes the time
// that its bits take at this rate, behind those before it in its direction, and arrives so much later, or
// when the device takes it; one that it refuses is lost. Says "ready" when both devices are there; ends with
// the process that began it, or with a device. Linux, root.
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <ratio>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;
using Microseconds = std::chrono::duration<double, std::micro>;
using Time = std::chrono::time_point<Clock, Microseconds>;

constexpr size_t kEthernet = 38;  // bytes of a frame around its packet, gap and preamble included

struct Packet {
  Time due;
  std::vector<char> bytes;
};

struct Direction {
  int from, to;
  Time idle{};        // when its last bit has been sent
  bool full = false;  // `to` takes nothing just now
  std::deque<Packet> packets{};
};

int open_device(const char* name) {
  const int device = ::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  ifreq request{};
  request.ifr_flags = IFF_TUN | IFF_NO_PI;
  std::strncpy(request.ifr_name, name, IFNAMSIZ - 1);
  if (device < 0 || ::ioctl(device, TUNSETIFF, &request) != 0) {
    std::perror(name);
    std::exit(77);
  }
  return device;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 5) {
    std::fprintf(stderr, "usage: wire NAME NAME MICROSECONDS MEGABITS\n");
    return 2;
  }
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::prctl(PR_SET_TIMERSLACK, 1UL);
  const int devices[] = {open_device(arguments[1]), open_device(arguments[2])};
  const Microseconds delay(std::atof(arguments[3]));
  const double bits_per_microsecond = std::atof(arguments[4]);
  std::puts("ready");
  std::fflush(stdout);
  Direction directions[] = {{devices[0], devices[1]}, {devices[1], devices[0]}};
  std::vector<char> buffer(1 << 16);
  for (;;) {
    Time next = Clock::now() + Microseconds(1e6);
    for (const Direction& direction : directions)
      if (!direction.packets.empty() && !direction.full) next = std::min(next, direction.packets.front().due);
    const double left = std::max(0.0, Microseconds(next - Clock::now()).count());
    const timespec wait{static_cast<time_t>(left / 1e6), static_cast<long>(left * 1e3) % 1000000000};
    const auto expected = [](bool full) { return static_cast<short>(full ? POLLIN | POLLOUT : POLLIN); };
    pollfd ready[] = {{devices[0], expected(directions[1].full), 0},
                      {devices[1], expected(directions[0].full), 0}};
    ::ppoll(ready, 2, &wait, nullptr);
    if (((ready[0].revents | ready[1].revents) & (POLLERR | POLLHUP | POLLNVAL)) != 0) {
      std::fprintf(stderr, "wire: a device is gone\n");
      return 1;
    }
    for (Direction& direction : directions) {
      ssize_t size = 0;
      while ((size = ::read(direction.from, buffer.data(), buffer.size())) > 0) {
        const double bits = 8 * static_cast<double>(static_cast<size_t>(size) + kEthernet);
        direction.idle =
            std::max<Time>(Clock::now(), direction.idle) + Microseconds(bits / bits_per_microsecond);
        direction.packets.push_back({direction.idle + delay, {buffer.data(), buffer.data() + size}});
      }
      while (!direction.packets.empty() && direction.packets.front().due <= Clock::now()) {
        const std::vector<char>& bytes = direction.packets.front().bytes;
        direction.full =
            ::write(direction.to, bytes.data(), bytes.size()) < 0 && (errno == EAGAIN || errno == EINTR);
        if (direction.full) break;
        direction.packets.pop_front();
      }
    }
  }
}
