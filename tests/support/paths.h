// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TESTS_SUPPORT_PATHS_H_
#define NFLOAT_TESTS_SUPPORT_PATHS_H_

#include <string>
#include <string_view>

namespace nfloat::testing {

// Where tests find their data. Only paths.cpp is compiled with the folder of this checkout, so that a
// compiler cache serves every other file of the tests in every checkout.

// `inside` (such as "/models/nfloat-tiny") in this repository.
std::string source_path(std::string_view inside);

// `inside` in the folder of shared data beside this repository, which may be absent: skip then.
std::string shared_path(std::string_view inside);

}  // namespace nfloat::testing

#endif  // NFLOAT_TESTS_SUPPORT_PATHS_H_
