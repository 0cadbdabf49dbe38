// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TESTS_SUPPORT_JSON_FILE_H_
#define NFLOAT_TESTS_SUPPORT_JSON_FILE_H_

#include <fstream>
#include <iterator>
#include <string>

#include "base/json.h"

namespace nfloat {

// The JSON in a file; throws JsonError where there is none.
inline Json json_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return Json::parse(std::string(std::istreambuf_iterator<char>(in), {}));
}

}  // namespace nfloat

#endif  // NFLOAT_TESTS_SUPPORT_JSON_FILE_H_
