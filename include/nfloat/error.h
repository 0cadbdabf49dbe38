// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_ERROR_H_
#define NFLOAT_ERROR_H_

#include <stdexcept>
#include <string>

#include "nfloat/api.h"

namespace nfloat {

enum class ErrorCode {
  kInvalidArgument,  // an option, shape or value that is not valid
  kNotFound,         // a file, tensor or name that does not exist
  kAlreadyExists,    // an output that would be overwritten
  kIo,               // the operating system refused: disk full, permission, read error
  kMalformedFile,    // a file that breaks its format's rules
  kUnsupported,      // a valid input that this version cannot handle; the message says what is missing
  kNotFinite,        // NaN or infinity where a finite number is needed
  kOutOfMemory,      // reported before the work begins, with the numbers
  kInterrupted,      // the caller cancelled the work
};

// Every failure that a caller can observe. what() is one sentence that names the file, the tensor, the place,
// what was found and what was expected.
class NFLOAT_API Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

}  // namespace nfloat

#endif  // NFLOAT_ERROR_H_
