// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_SERVER_API_ERROR_H_
#define NFLOAT_SERVER_API_ERROR_H_

#include <fmt/format.h>

#include <string>
#include <utility>

#include "server/http.h"

namespace nfloat {

// What a client is told instead of an answer, in OpenAI's shape.
struct ApiError {
  int status = 400;
  std::string message;
  std::string param = {};  // the field at fault; empty: null
  std::string code = {};   // empty: null
  int retry_after = 0;     // seconds, with 429 and 503

  std::string body() const;
  HttpHeaders headers() const;
};

// Throws a 400 about a field.
template <typename... Args>
[[noreturn]] void bad_field(const std::string& param, fmt::format_string<Args...> format, Args&&... args) {
  throw ApiError{400, fmt::format(format, std::forward<Args>(args)...), param};
}

}  // namespace nfloat

#endif  // NFLOAT_SERVER_API_ERROR_H_
