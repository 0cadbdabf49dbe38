// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_BASE_STATE_OF_H_
#define NFLOAT_BASE_STATE_OF_H_

namespace nfloat {

// A friend of the public classes that keep what they are in a State the library's rooms share.
struct StateAccess {
  template <typename T>
  static auto& of(const T& object) noexcept {
    return *object.state_;
  }
};

// The state of a Model, a Session, a packed matrix and so on; not of one that was moved from. Changeable as
// the pointer that the class holds says, whether or not the object is const.
template <typename T>
auto& state_of(const T& object) noexcept {
  return StateAccess::of(object);
}

}  // namespace nfloat

#endif  // NFLOAT_BASE_STATE_OF_H_
