// SPDX-License-Identifier: Apache-2.0
#include "service_manager.h"

#include <fmt/format.h>

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <system_error>

#include "command_line.h"

namespace nfloat::cli {

void tell_service_manager(std::string_view state) noexcept {
  const char* const name = std::getenv("NOTIFY_SOCKET");
  if (name == nullptr) return;
  const std::string_view path = name;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  // A path, or with '@' for a zero byte a name without one.
  if (path.size() < 2 || path.size() >= sizeof address.sun_path || (path[0] != '/' && path[0] != '@')) return;
  path.copy(address.sun_path, path.size());
  if (path[0] == '@') address.sun_path[0] = '\0';
  const int file = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (file < 0) return;
  const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size());
  // Who does not listen misses it: serving does not depend on that, nor waits for it.
  [[maybe_unused]] const ssize_t sent =
      ::sendto(file, state.data(), state.size(), MSG_NOSIGNAL | MSG_DONTWAIT,
               reinterpret_cast<const sockaddr*>(&address), length);
  ::close(file);
}

std::chrono::microseconds service_manager_patience() noexcept {
  const char* const time = std::getenv("WATCHDOG_USEC");
  const char* const process = std::getenv("WATCHDOG_PID");
  if (time == nullptr || (process != nullptr && process != std::to_string(::getpid()))) return {};
  const std::string_view text = time;
  int64_t microseconds = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), microseconds);
  if (error != std::errc() || end != text.data() + text.size() || microseconds < 0) return {};
  return std::chrono::microseconds(microseconds);
}

std::vector<int> sockets_of_service_manager() {
  static constexpr int kFirst = 3, kMost = 64;
  const char* const process = std::getenv("LISTEN_PID");
  const char* const count = std::getenv("LISTEN_FDS");
  if (process == nullptr || count == nullptr || process != std::to_string(::getpid())) return {};
  const std::string_view text = count;
  int number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || number < 0 || number > kMost)
    throw UsageError(fmt::format("LISTEN_FDS is '{}', expected 0 to {}", text, kMost));
  std::vector<int> sockets;
  for (int i = 0; i < number; ++i) sockets.push_back(kFirst + i);
  return sockets;
}

}  // namespace nfloat::cli
