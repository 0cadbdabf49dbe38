// SPDX-License-Identifier: Apache-2.0
// exchange ADDRESS PORT SECONDS [SIZE...]: what two programs with one plain TCP connection take for what
// `nfloat bench ranks` measures: both send SIZE bytes and receive as many. The first one at a port listens
// and prints, a line for each size, bytes and the median of microseconds; the other one, with "join" before
// the address, connects. The time that any library could reach over that wire with this machine's load.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

[[noreturn]] void give_up(const char* what) {
  std::perror(what);
  std::exit(1);
}

int connection(bool join, const sockaddr_in& place) {
  const auto* const address = reinterpret_cast<const sockaddr*>(&place);
  const int yes = 1;
  for (int tries = 0;; ++tries) {
    const int own = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (own < 0) give_up("socket");
    ::setsockopt(own, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    int ready = -1;
    if (join) {
      if (::connect(own, address, sizeof place) == 0) ready = own;
    } else if (::bind(own, address, sizeof place) == 0 && ::listen(own, 1) == 0) {
      ready = ::accept4(own, nullptr, nullptr, SOCK_CLOEXEC);
    }
    if (ready >= 0) {
      ::setsockopt(ready, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
      ::fcntl(ready, F_SETFL, O_NONBLOCK);
      return ready;
    }
    if (!join || tries == 100) give_up(join ? "connect" : "listen");
    ::close(own);
    ::usleep(50000);
  }
}

void exchange(int connection, const char* out, char* in, size_t size) {
  for (size_t sent = 0, received = 0; sent < size || received < size; ::sched_yield()) {
    if (sent < size)
      if (const ssize_t part = ::send(connection, out + sent, size - sent, MSG_NOSIGNAL); part > 0)
        sent += static_cast<size_t>(part);
    if (received == size) continue;
    const ssize_t part = ::recv(connection, in + received, size - received, 0);
    if (part == 0) give_up("the other one has gone");
    if (part > 0) received += static_cast<size_t>(part);
  }
}

}  // namespace

int main(int count, char** arguments) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const bool join = count > 1 && std::strcmp(arguments[1], "join") == 0;
  if (join) {
    --count;
    ++arguments;
  }
  sockaddr_in place{};
  if (count < 4 || ::inet_pton(AF_INET, arguments[1], &place.sin_addr) != 1) {
    std::fprintf(stderr, "usage: exchange [join] ADDRESS PORT SECONDS [SIZE...]\n");
    return 2;
  }
  place.sin_family = AF_INET;
  place.sin_port = htons(static_cast<uint16_t>(std::atoi(arguments[2])));
  const double seconds = std::atof(arguments[3]);
  const int other = connection(join, place);
  for (int i = 4; i < count; ++i) {
    const auto size = static_cast<size_t>(std::atoll(arguments[i]));
    const std::vector<char> own(size);
    std::vector<char> in(size);
    std::vector<double> times;
    const Clock::time_point start = Clock::now();
    for (char more = 1, theirs = 0; more != 0;) {
      for (int round = 0; round < 20; ++round) {
        const Clock::time_point before = Clock::now();
        exchange(other, own.data(), in.data(), size);
        times.push_back(seconds_since(before));
      }
      more = seconds_since(start) < seconds;
      exchange(other, &more, &theirs, 1);
      if (join) more = theirs;
    }
    std::nth_element(times.begin(), times.begin() + static_cast<ptrdiff_t>(times.size() / 2), times.end());
    if (!join) std::printf("%zu %.1f\n", size, 1e6 * times[times.size() / 2]);
  }
}
