// SPDX-License-Identifier: Apache-2.0
#include "server/api_error.h"

#include "base/json.h"

namespace nfloat {
namespace {

constexpr size_t kMostMessage = 400;  // bytes: what a request says is quoted in it

const char* type_of(int status) noexcept {
  switch (status) {
    case 403:
      return "permission_error";
    case 408:
      return "timeout_error";
    case 429:
      return "rate_limit_error";
    case 503:
      return "service_unavailable";
    default:
      return status >= 500 ? "server_error" : "invalid_request_error";
  }
}

}  // namespace

std::string ApiError::body() const {
  const auto or_null = [](const std::string& text) { return text.empty() ? Json() : Json(text); };
  const std::string shown =
      message.size() <= kMostMessage ? message : message.substr(0, kMostMessage) + " ...";
  return Json{
      {"error",
       {{"message", shown}, {"type", type_of(status)}, {"param", or_null(param)}, {"code", or_null(code)}}}}
      .dump(-1, Json::Invalid::kReplace);
}

HttpHeaders ApiError::headers() const {
  HttpHeaders result{{"Content-Type", "application/json"}};
  if (status == 401) result.emplace_back("WWW-Authenticate", "Bearer");
  if (retry_after > 0) result.emplace_back("Retry-After", std::to_string(retry_after));
  // The official clients try 408, 409, 429 and 5xx again, and nothing else when told not to.
  if (status < 500 && status != 408 && status != 429) result.emplace_back("x-should-retry", "false");
  return result;
}

}  // namespace nfloat
