// SPDX-License-Identifier: Apache-2.0
// Who may ask: the Host header and the API keys.
#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>
#include <charconv>
#include <optional>

#include "base/ascii.h"
#include "base/fail.h"
#include "server/fields.h"
#include "server/server_state.h"

namespace nfloat {
namespace {

// RFC 3986, 3.2.2: what a name may be made of; %XX stands for a byte.
bool is_registered_name(std::string_view host) noexcept {
  constexpr std::string_view kHex = "0123456789abcdefABCDEF", kOthers = "-._~!$&'()*+,;=";
  for (size_t i = 0; i < host.size(); ++i) {
    const char c = lower(host[i]);
    if (host[i] == '%') {
      if (i + 2 >= host.size() || host.find_first_not_of(kHex, i + 1) < i + 3) return false;
    } else if (!(c >= 'a' && c <= 'z') && !(c >= '0' && c <= '9') && kOthers.find(c) == kOthers.npos) {
      return false;
    }
  }
  return !host.empty();
}

template <typename Address>
std::optional<Address> parse_address(int family, std::string_view host) noexcept {
  Address address{};
  if (::inet_pton(family, std::string(host).c_str(), &address) != 1) return std::nullopt;
  return address;
}

std::optional<in6_addr> bracketed(std::string_view host) noexcept {
  if (!host.starts_with('[') || !host.ends_with(']')) return std::nullopt;
  return parse_address<in6_addr>(AF_INET6, host.substr(1, host.size() - 2));
}

bool is_number_address(std::string_view host) noexcept {
  return bracketed(host) || parse_address<in_addr>(AF_INET, host);
}

// Only this machine, in any spelling of its addresses.
bool is_loopback_name(std::string_view host) noexcept {
  if (const auto address = bracketed(host)) return IN6_IS_ADDR_LOOPBACK(&*address) != 0;
  const auto address = parse_address<in_addr>(AF_INET, host);
  return host == "localhost" || (address && ntohl(address->s_addr) >> 24 == IN_LOOPBACKNET);
}

bool is_port(std::string_view digits) noexcept {
  uint16_t port = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
  return digits.empty() || (error == std::errc() && end == digits.data() + digits.size());
}

// The host of a Host header (RFC 9110, 7.2: a host, then perhaps a colon and the digits of a port, which may
// be none), in lower case. Nothing: the header is not one.
std::optional<std::string> host_of(std::string_view header) {
  const size_t end = header.starts_with('[') ? std::min(header.find(']'), header.size() - 1) + 1
                                             : std::min(header.find(':'), header.size());
  const std::string_view host = header.substr(0, end), rest = header.substr(end);
  if (!(bracketed(host) || is_registered_name(host)) ||
      !(rest.empty() || (rest[0] == ':' && is_port(rest.substr(1)))))
    return std::nullopt;
  return in_lower_case(host);
}

// Of a key in an Authorization header nothing else arrives as it was sent.
bool is_visible(char c) noexcept {
  return c > ' ' && c <= '~';
}

}  // namespace

std::string fault_of_key(std::string_view key) {
  const auto hidden = std::find_if_not(key.begin(), key.end(), is_visible);
  if (key.empty()) return "is empty";
  if (hidden == key.end()) return {};
  return fmt::format("has {} at its byte {}, expected visible ASCII characters alone",
                     *hidden == ' ' ? "a space" : fmt::format("{:#04x}", static_cast<unsigned char>(*hidden)),
                     hidden - key.begin() + 1);
}

std::vector<std::string> read_api_keys(std::string_view text, const std::string& source) {
  constexpr std::string_view kSpace = " \t\r";
  std::vector<std::string> keys;
  size_t number = 1;
  for (size_t at = 0; at < text.size(); ++number) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string_view line = text.substr(at, end - at);
    at = end + 1;
    line = line.substr(0, line.find_last_not_of(kSpace) + 1);
    line.remove_prefix(std::min(line.find_first_not_of(kSpace), line.size()));
    if (line.empty() || line[0] == '#') continue;
    if (const std::string fault = fault_of_key(line); !fault.empty())
      fail(ErrorCode::kInvalidArgument, "{}: the key in line {} {}", source, number, fault);
    if (std::find(keys.begin(), keys.end(), line) == keys.end()) keys.emplace_back(line);
  }
  if (keys.empty()) fail(ErrorCode::kInvalidArgument, "{}: no API key in it", source);
  return keys;
}

void check_access(const ServeOptions& options) {
  for (size_t i = 0; i < options.api_keys.size(); ++i)
    if (const std::string fault = fault_of_key(options.api_keys[i]); !fault.empty())
      fail(ErrorCode::kInvalidArgument, "API key {} {}", i + 1, fault);
  for (const std::string& host : options.allowed_hosts)
    if (host.find_last_of(":]") != std::string::npos ? !bracketed(host) : !is_registered_name(host))
      fail(ErrorCode::kInvalidArgument,
           "'{}' is no host as Host headers name it: expected a name or an address without port, IPv6 in []",
           host);
}

bool equal_secrets(std::string_view a, std::string_view b) noexcept {
  size_t difference = a.size() ^ b.size();
  for (size_t i = 0; i < b.size(); ++i)
    difference |= static_cast<size_t>(static_cast<unsigned char>(a.empty() ? 0 : a[i % a.size()]) ^
                                      static_cast<unsigned char>(b[i]));
  return difference == 0;
}

void Server::State::check_host(const HttpRequest& request) const {
  const std::string_view header = request.header("host");
  if (header.empty()) throw ApiError{400, "the request has no Host header"};
  const std::optional<std::string> host = host_of(header);
  if (!host)
    throw ApiError{400, fmt::format("the Host header is {}, expected a host and perhaps a port",
                                    Fields::shown(Json(std::string(header))))};
  if (is_loopback_name(*host) || *host == options.host || "[" + options.host + "]" == *host) return;
  if (std::find(options.allowed_hosts.begin(), options.allowed_hosts.end(), *host) !=
      options.allowed_hosts.end())
    return;
  if (!loopback && is_number_address(*host)) return;
  throw ApiError{403, fmt::format("{} is not a name of this server", *host), "", "host_not_allowed"};
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
