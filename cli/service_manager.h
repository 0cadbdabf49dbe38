// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_CLI_SERVICE_MANAGER_H_
#define NFLOAT_CLI_SERVICE_MANAGER_H_

#include <string_view>

namespace nfloat::cli {

// Tells the service manager that started this process how it is ("READY=1"), by the protocol of sd_notify(3):
// a datagram to the socket that NOTIFY_SOCKET names. Nothing happens where there is none.
void tell_service_manager(std::string_view state) noexcept;

}  // namespace nfloat::cli

#endif  // NFLOAT_CLI_SERVICE_MANAGER_H_
