// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CLI_SERVICE_MANAGER_H_
#define NFLOAT_CLI_SERVICE_MANAGER_H_

#include <chrono>
#include <string_view>
#include <vector>

namespace nfloat::cli {

// Tells the service manager that started this process how it is ("READY=1"), by the protocol of sd_notify(3):
// a datagram to the socket that NOTIFY_SOCKET names. Nothing happens where there is none.
void tell_service_manager(std::string_view state) noexcept;
// How long it goes without "WATCHDOG=1" before it takes this process for dead, by the protocol of
// sd_watchdog_enabled(3); 0: it does not watch.
std::chrono::microseconds service_manager_patience() noexcept;

// The sockets that the service manager listens at for this process, by the protocol of sd_listen_fds(3); none
// where it has none. Throws a usage error for variables that make no sense.
std::vector<int> sockets_of_service_manager();

}  // namespace nfloat::cli

#endif  // NFLOAT_CLI_SERVICE_MANAGER_H_
