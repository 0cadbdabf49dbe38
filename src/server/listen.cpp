// SPDX-License-Identifier: Apache-2.0
#include "server/listen.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <memory>
#include <string_view>
#include <utility>

#include "base/fail.h"

namespace nfloat {
namespace {

constexpr mode_t kOwnerOnly = 0600;

std::string reason() {
  return std::strerror(errno);
}

sockaddr_un unix_address(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.size() >= sizeof address.sun_path || path.find('\0') != std::string::npos)
    fail(ErrorCode::kInvalidArgument, "'{}' is no path of a socket: it has {} bytes, expected 1 to {}", path,
         path.size(), sizeof address.sun_path - 1);
  path.copy(address.sun_path, path.size());
  return address;
}

struct FreeAddress {
  void operator()(addrinfo* info) const noexcept { ::freeaddrinfo(info); }
};

// Of an IP address or "localhost". Throws kInvalidArgument.
std::unique_ptr<addrinfo, FreeAddress> address_of(const std::string& host, uint16_t port) {
  addrinfo wanted{}, *found = nullptr;
  wanted.ai_flags = AI_NUMERICHOST | AI_PASSIVE;
  wanted.ai_socktype = SOCK_STREAM;
  const std::string number = host == "localhost" ? "127.0.0.1" : host;
  if (number.empty() || ::getaddrinfo(number.c_str(), std::to_string(port).c_str(), &wanted, &found) != 0)
    fail(ErrorCode::kInvalidArgument, "{} is not an IP address to listen on", host);
  return std::unique_ptr<addrinfo, FreeAddress>(found);
}

bool is_loopback(const sockaddr& address) noexcept {
  return address.sa_family == AF_INET
             ? ntohl(reinterpret_cast<const sockaddr_in&>(address).sin_addr.s_addr) >> 24 == IN_LOOPBACKNET
             : IN6_IS_ADDR_LOOPBACK(&reinterpret_cast<const sockaddr_in6&>(address).sin6_addr) != 0;
}

// Held while a path is looked at and taken: of two servers that start at once one finds the other's socket,
// which does not listen yet, dead.
class FolderLock {
 public:
  explicit FolderLock(const std::string& path) {
    const size_t slash = path.rfind('/');
    const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
    file_ = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    for (int i = 0; file_ >= 0 && i < kTries && ::flock(file_, LOCK_EX | LOCK_NB) != 0; ++i) ::usleep(kPause);
  }
  ~FolderLock() {
    if (file_ >= 0) ::close(file_);
  }
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  // A second in all: somebody else's lock on the folder is no reason to wait for ever.
  static constexpr int kTries = 50, kPause = 20000;
  int file_;
};

// Removes a socket that nobody listens at; whatever else is there stays.
void make_way(const std::string& path, const sockaddr_un& address) {
  struct stat found {};
  if (::lstat(path.c_str(), &found) != 0) {
    if (errno == ENOENT) return;
    fail(ErrorCode::kIo, "{}: {}", path, reason());
  }
  if (!S_ISSOCK(found.st_mode)) fail(ErrorCode::kAlreadyExists, "{} is there already and no socket", path);
  const int probe = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (probe < 0) fail(ErrorCode::kIo, "{}: {}", path, reason());
  const bool answered = ::connect(probe, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  const int error = errno;
  ::close(probe);
  if (answered || error == EAGAIN) fail(ErrorCode::kAlreadyExists, "somebody listens at {} already", path);
  if (error != ECONNREFUSED)
    fail(ErrorCode::kAlreadyExists, "{} is a socket that may be in use: {}", path, std::strerror(error));
  if (::unlink(path.c_str()) != 0) fail(ErrorCode::kIo, "{}: {}", path, reason());
}

}  // namespace

bool is_unix(const std::string& host) noexcept {
  return host.starts_with(kUnixPrefix);
}

bool is_local(const std::string& host) {
  return is_unix(host) || is_loopback(*address_of(host, 0)->ai_addr);
}

Listener Listener::open_unix(const std::string& path) {
  const sockaddr_un address = unix_address(path);
  Listener result(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (result.file_ < 0) fail(ErrorCode::kIo, "{}: {}", path, reason());
  const FolderLock lock(path);
  make_way(path, address);
  // Before it has a name, and again where the system takes no mode from the socket.
  ::fchmod(result.file_, kOwnerOnly);
  struct stat made {};
  if (::bind(result.file_, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::lstat(path.c_str(), &made) != 0)
    fail(ErrorCode::kIo, "{}: {}", path, reason());
  result.path_ = path;
  result.device_ = made.st_dev;
  result.node_ = made.st_ino;
  if (::chmod(path.c_str(), kOwnerOnly) != 0 || ::listen(result.file_, SOMAXCONN) != 0)
    fail(ErrorCode::kIo, "{}: {}", path, reason());
  result.read_address();
  return result;
}

Listener Listener::open(const std::string& host, uint16_t port) {
  if (is_unix(host)) return open_unix(host.substr(std::string_view(kUnixPrefix).size()));
  const auto found = address_of(host, port);
  Listener result(::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int yes = 1;
  const bool listens =
      result.file_ >= 0 && ::setsockopt(result.file_, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) == 0 &&
      ::bind(result.file_, found->ai_addr, found->ai_addrlen) == 0 && ::listen(result.file_, SOMAXCONN) == 0;
  const std::string why = reason();
  if (!listens) fail(ErrorCode::kIo, "{} port {}: {}", host, port, why);
  result.read_address();
  return result;
}

Listener Listener::adopt(int file) {
  int listens = 0, type = 0;
  socklen_t length = sizeof listens, type_length = sizeof type;
  if (::getsockopt(file, SOL_SOCKET, SO_ACCEPTCONN, &listens, &length) != 0 ||
      ::getsockopt(file, SOL_SOCKET, SO_TYPE, &type, &type_length) != 0)
    fail(ErrorCode::kInvalidArgument, "the file {} that was handed over is no socket: {}", file, reason());
  if (listens == 0 || type != SOCK_STREAM)
    fail(ErrorCode::kInvalidArgument, "the socket {} that was handed over does not listen for streams", file);
  ::fcntl(file, F_SETFD, FD_CLOEXEC);
  Listener result(file);
  try {
    result.read_address();
  } catch (...) {
    result.release();
    throw;
  }
  return result;
}

Listener::Listener(Listener&& other) noexcept
    : file_(std::exchange(other.file_, -1)),
      local_(other.local_),
      address_(std::move(other.address_)),
      path_(std::exchange(other.path_, std::string())),
      device_(other.device_),
      node_(other.node_) {}

Listener::~Listener() {
  if (file_ >= 0) ::close(file_);
  struct stat now {};
  if (!path_.empty() && ::lstat(path_.c_str(), &now) == 0 && now.st_dev == device_ && now.st_ino == node_)
    ::unlink(path_.c_str());
}

int Listener::release() noexcept {
  return std::exchange(file_, -1);
}

void Listener::read_address() {
  sockaddr_storage own{};
  socklen_t length = sizeof own;
  if (::getsockname(file_, reinterpret_cast<sockaddr*>(&own), &length) != 0)
    fail(ErrorCode::kIo, "a socket without an address: {}", reason());
  if (own.ss_family == AF_UNIX) {
    const auto& address = reinterpret_cast<const sockaddr_un&>(own);
    std::string name(address.sun_path, length - offsetof(sockaddr_un, sun_path));
    if (!name.empty() && name[0] == '\0') name[0] = '@';  // of no file
    address_ = kUnixPrefix + name.substr(0, name.find('\0'));
    local_ = true;
    return;
  }
  char host[NI_MAXHOST], port[NI_MAXSERV];
  if ((own.ss_family != AF_INET && own.ss_family != AF_INET6) ||
      ::getnameinfo(reinterpret_cast<const sockaddr*>(&own), length, host, sizeof host, port, sizeof port,
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
    fail(ErrorCode::kInvalidArgument, "the socket {} is neither TCP's nor a Unix socket", file_);
  local_ = is_loopback(reinterpret_cast<const sockaddr&>(own));
  address_ = own.ss_family == AF_INET ? fmt::format("{}:{}", host, port) : fmt::format("[{}]:{}", host, port);
}

}  // namespace nfloat
