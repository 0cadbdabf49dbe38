// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_SERVER_LISTEN_H_
#define NFLOAT_SERVER_LISTEN_H_

#include <sys/types.h>

#include <cstdint>
#include <string>

namespace nfloat {

// What stands before the path of a Unix socket in place of an address.
inline constexpr const char* kUnixPrefix = "unix:";

bool is_unix(const std::string& host) noexcept;
// Only this machine reaches what listens at `host`. Throws kInvalidArgument where it is no address.
bool is_local(const std::string& host);

// A socket that listens, over TCP or in the file system.
class Listener {
 public:
  // `host`: an IP address, "localhost", or "unix:PATH". Port 0: a free one. A Unix socket is its owner's
  // alone (mode 0600), replaces one at this path that nobody listens at any more, and goes with this object.
  // Throws kInvalidArgument (no address; a path that is too long), kAlreadyExists (the path is something
  // else, or somebody listens there), kIo.
  static Listener open(const std::string& host, uint16_t port);
  // Takes over one that listens already, as service managers hand it over. Throws kInvalidArgument.
  static Listener adopt(int file);

  Listener(Listener&& other) noexcept;
  Listener& operator=(Listener&&) = delete;
  ~Listener();

  // The socket, which is the caller's from now on.
  int release() noexcept;
  // Only this machine reaches it.
  bool local() const noexcept { return local_; }
  // "127.0.0.1:8080", "[::1]:8080", "unix:/run/nfloat.sock".
  const std::string& address() const noexcept { return address_; }
  bool unix_socket() const noexcept { return is_unix(address_); }

 private:
  explicit Listener(int file) noexcept : file_(file) {}
  static Listener open_unix(const std::string& path);
  void read_address();

  int file_;
  bool local_ = false;
  std::string address_;
  // Of a file that goes with the socket; empty: none does.
  std::string path_;
  dev_t device_ = 0;
  ino_t node_ = 0;
};

}  // namespace nfloat

#endif  // NFLOAT_SERVER_LISTEN_H_
