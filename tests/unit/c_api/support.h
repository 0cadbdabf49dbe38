// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TESTS_UNIT_C_API_SUPPORT_H_
#define NFLOAT_TESTS_UNIT_C_API_SUPPORT_H_

#include <memory>
#include <string>

#include "base/json.h"
#include "nfloat/nfloat.h"

namespace nfloat::testing {

// The message of a failure, which is freed.
inline std::string taken(nfloat_error* error) {
  std::string message = nfloat_error_message(error);
  nfloat_error_free(error);
  return message;
}

// The text of a buffer, which is freed.
inline std::string taken(nfloat_buffer* buffer) {
  std::string text(static_cast<const char*>(nfloat_buffer_data(buffer)), nfloat_buffer_bytes(buffer));
  nfloat_buffer_free(buffer);
  return text;
}

// An object of the C interface that is freed at the end of its scope.
template <typename T, void (*Free)(T*)>
class Owned {
 public:
  Owned() = default;
  explicit Owned(T* object) : object_(object) {}
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  ~Owned() { Free(object_); }
  operator T*() const { return object_; }
  T** place() { return &object_; }

 private:
  T* object_ = nullptr;
};
using Model = Owned<nfloat_model, nfloat_model_free>;
using Session = Owned<nfloat_session, nfloat_session_free>;
using TokenizerHandle = Owned<nfloat_tokenizer, nfloat_tokenizer_free>;
using Generator = Owned<nfloat_generator, nfloat_generator_free>;
using CheckpointHandle = Owned<nfloat_checkpoint, nfloat_checkpoint_free>;
using Control = Owned<nfloat_control, nfloat_control_free>;

// Options of which nothing is said.
template <typename Options>
Options defaults() {
  Options options = {};
  options.struct_size = sizeof options;
  return options;
}

}  // namespace nfloat::testing

#endif  // NFLOAT_TESTS_UNIT_C_API_SUPPORT_H_
