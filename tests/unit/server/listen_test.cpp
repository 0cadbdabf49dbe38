// SPDX-License-Identifier: Apache-2.0
// Unix sockets, and sockets that somebody else opened, with the system's own calls on the other side.
#include "server/listen.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <thread>

#include "nfloat/error.h"
#include "nfloat/serve.h"
#include "support/paths.h"

namespace nfloat {
namespace {

std::string fresh_path(const std::string& name) {
  // Short: a path of a socket has at most 107 bytes.
  const std::string path = "/tmp/nfloat_" + std::to_string(::getpid()) + "_" + name;
  std::filesystem::remove(path);
  return path;
}

sockaddr_un address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  return address;
}

// A GET over `file`, which is closed then.
std::string ask(int file, const std::string& path) {
  const std::string text = "GET " + path + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
  EXPECT_EQ(::send(file, text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
  std::string answer;
  char part[4096];
  for (ssize_t count = 0; (count = ::recv(file, part, sizeof part, 0)) > 0;)
    answer.append(part, static_cast<size_t>(count));
  ::close(file);
  return answer;
}

int connect_unix(const std::string& path) {
  const int file = ::socket(AF_UNIX, SOCK_STREAM, 0);
  const sockaddr_un address = address_of(path);
  if (::connect(file, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return file;
  ::close(file);
  return -1;
}

ErrorCode code_of(const std::string& host, std::string* message = nullptr) {
  try {
    const Listener listener = Listener::open(host, 0);
  } catch (const Error& error) {
    if (message != nullptr) *message = error.what();
    return error.code();
  }
  ADD_FAILURE() << host << " was taken";
  return ErrorCode::kInterrupted;
}

TEST(UnixSockets, ServeTheirOwnerAndGoWithTheServer) {
  const std::string path = fresh_path("serve");
  {
    Server server({.host = "unix:" + path});
    EXPECT_EQ(server.address(), "unix:" + path);
    struct stat found {};
    ASSERT_EQ(::lstat(path.c_str(), &found), 0);
    EXPECT_TRUE(S_ISSOCK(found.st_mode));
    EXPECT_EQ(found.st_mode & 07777, 0600u);
    std::thread thread([&] { server.run([] { return false; }); });
    const std::string answer = ask(connect_unix(path), "/health");
    EXPECT_NE(answer.find(" 503 "), std::string::npos) << answer;
    EXPECT_NE(answer.find("being loaded"), std::string::npos) << answer;
    std::string why;
    EXPECT_EQ(code_of("unix:" + path, &why), ErrorCode::kAlreadyExists);
    EXPECT_NE(why.find("somebody listens"), std::string::npos) << why;
    EXPECT_FALSE(ask(connect_unix(path), "/health").empty()) << "the one that was there goes on";
    server.stop();
    thread.join();
  }
  EXPECT_FALSE(std::filesystem::exists(path));
}

TEST(UnixSockets, ReplaceDeadSocketsAndNothingElse) {
  const std::string path = fresh_path("dead");
  const int dead = ::socket(AF_UNIX, SOCK_STREAM, 0);
  const sockaddr_un address = address_of(path);
  ASSERT_EQ(::bind(dead, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  ::close(dead);
  { const Listener listener = Listener::open("unix:" + path, 0); }
  EXPECT_FALSE(std::filesystem::exists(path));
  std::ofstream(path) << "precious";
  EXPECT_EQ(code_of("unix:" + path), ErrorCode::kAlreadyExists);
  EXPECT_EQ(std::filesystem::file_size(path), 8u);
  std::filesystem::remove(path);
  std::filesystem::create_symlink("/nowhere", path);
  EXPECT_EQ(code_of("unix:" + path), ErrorCode::kAlreadyExists);
  EXPECT_TRUE(std::filesystem::is_symlink(path));
  std::filesystem::remove(path);
  // A socket of datagrams is in somebody's use, whoever that is.
  const int other = ::socket(AF_UNIX, SOCK_DGRAM, 0);
  ASSERT_EQ(::bind(other, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(code_of("unix:" + path), ErrorCode::kAlreadyExists);
  EXPECT_TRUE(std::filesystem::exists(path));
  ::close(other);
  std::filesystem::remove(path);
}

TEST(UnixSockets, LeaveTheSocketOfWhoCameAfter) {
  const std::string path = fresh_path("after");
  auto first = std::make_unique<Listener>(Listener::open("unix:" + path, 0));
  std::filesystem::remove(path);
  const Listener second = Listener::open("unix:" + path, 0);
  first.reset();
  EXPECT_TRUE(std::filesystem::exists(path));
}

TEST(UnixSockets, HavePathsOfTheirLength) {
  const std::string longest = fresh_path(std::string(107, 'x')).substr(0, 107);
  { const Listener listener = Listener::open("unix:" + longest, 0); }
  EXPECT_EQ(code_of("unix:" + longest + "x"), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code_of("unix:"), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code_of("unix:/no/such/folder/socket"), ErrorCode::kIo);
  EXPECT_EQ(code_of("nowhere"), ErrorCode::kInvalidArgument);
  EXPECT_EQ(code_of(""), ErrorCode::kInvalidArgument);
}

int listening_at(in_addr_t host) {
  const int file = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(host);
  EXPECT_EQ(::bind(file, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(::listen(file, 4), 0);
  return file;
}

TEST(SocketActivation, ServesOverEverySocketThatWasHandedOver) {
  const std::string path = fresh_path("handed");
  const int local = ::socket(AF_UNIX, SOCK_STREAM, 0), inet = listening_at(INADDR_LOOPBACK);
  const sockaddr_un address = address_of(path);
  ASSERT_EQ(::bind(local, reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(local, 4), 0);
  sockaddr_in own{};
  socklen_t length = sizeof own;
  ASSERT_EQ(::getsockname(inet, reinterpret_cast<sockaddr*>(&own), &length), 0);
  // Connected before there is a server: the one that comes answers.
  const int early = connect_unix(path);
  {
    Server server({.host = "not looked at", .listening = {inet, local}});
    EXPECT_EQ(server.address(), "http://127.0.0.1:" + std::to_string(ntohs(own.sin_port)));
    std::thread thread([&] { server.run([] { return false; }); });
    EXPECT_NE(ask(early, "/health").find("being loaded"), std::string::npos);
    const int client = ::socket(AF_INET, SOCK_STREAM, 0);
    ASSERT_EQ(::connect(client, reinterpret_cast<const sockaddr*>(&own), sizeof own), 0);
    EXPECT_NE(ask(client, "/health").find("being loaded"), std::string::npos);
    server.stop();
    thread.join();
  }
  EXPECT_TRUE(std::filesystem::exists(path)) << "the socket belongs to who made it";
  std::filesystem::remove(path);
}

TEST(SocketActivation, RefusesWhatDoesNotListenAndWhatAllReachWithoutKeys) {
  const int idle = ::socket(AF_INET, SOCK_STREAM, 0);
  EXPECT_THROW(Server({.listening = {idle}}), Error);
  EXPECT_THROW(Server({.listening = {1 << 20}}), Error);
  const int all = listening_at(INADDR_ANY);
  EXPECT_THROW(Server({.listening = {all}}), Error);
  { const Server server({.listening = {listening_at(INADDR_ANY)}, .api_keys = {"secret"}}); }
  ::close(idle);
}

}  // namespace
}  // namespace nfloat
