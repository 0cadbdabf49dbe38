// SPDX-License-Identifier: Apache-2.0
// Who may ask: the Host header and the API keys.
#include <algorithm>

#include "base/ascii.h"
#include "server/server_state.h"

namespace nfloat {
namespace {

std::string without_port(std::string_view host) {
  const size_t bracket = host.rfind(']');
  const size_t colon = host.rfind(':');
  if (colon == std::string_view::npos || (bracket != std::string_view::npos && colon < bracket))
    return std::string(host);
  return std::string(host.substr(0, colon));
}

bool is_number_address(std::string_view host) noexcept {
  return (host.starts_with('[') && host.find_first_not_of("0123456789abcdef:.", 1) == host.size() - 1 &&
          host.ends_with(']')) ||
         host.find_first_not_of("0123456789.") == std::string_view::npos;
}

}  // namespace

void Server::State::check_host(const HttpRequest& request) const {
  const std::string host = in_lower_case(without_port(request.header("host")));
  if (host.empty()) throw ApiError{400, "the request has no Host header"};
  if (is_loopback(host) || host == options.host || "[" + options.host + "]" == host) return;
  if (std::find(options.allowed_hosts.begin(), options.allowed_hosts.end(), host) !=
      options.allowed_hosts.end())
    return;
  if (!loopback && is_number_address(host)) return;
  throw ApiError{403, fmt::format("{} is not a name of this server", host), "", "host_not_allowed"};
}

void Server::State::check_key(const HttpRequest& request) const {
  if (options.api_keys.empty()) return;
  std::string_view given = request.header("authorization");
  static constexpr std::string_view kBearer = "bearer ";
  if (in_lower_case(given.substr(0, kBearer.size())) == kBearer)
    given.remove_prefix(std::min(given.find_first_not_of(' ', kBearer.size()), given.size()));
  else
    given = request.header("x-api-key");
  bool known = false;
  for (const std::string& key : options.api_keys) known = equal_secrets(given, key) || known;
  if (!known) throw ApiError{401, "the API key is missing or not known", "", "invalid_api_key"};
}

}  // namespace nfloat
