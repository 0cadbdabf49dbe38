// SPDX-License-Identifier: Apache-2.0
#ifndef NFLOAT_TESTS_SUPPORT_FILES_H_
#define NFLOAT_TESTS_SUPPORT_FILES_H_

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "nfloat/error.h"

namespace nfloat::testing {

namespace fs = std::filesystem;

// A folder, empty at first, that goes away with its object.
class OwnFolder {
 public:
  OwnFolder() {
    std::string name = (fs::temp_directory_path() / "nfloat-XXXXXX").string();
    const char* made = ::mkdtemp(name.data());
    if (made == nullptr)
      throw std::runtime_error("no folder can be made in " + fs::temp_directory_path().string());
    path_ = made;
  }
  OwnFolder(const OwnFolder&) = delete;
  OwnFolder& operator=(const OwnFolder&) = delete;
  ~OwnFolder() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// A test with a folder of its own.
class TemporaryFolder : public ::testing::Test {
 protected:
  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  const OwnFolder own_;
  const fs::path folder_ = own_.path();
};

inline std::string read_file(const fs::path& path) {
  std::ostringstream bytes;
  bytes << std::ifstream(path, std::ios::binary).rdbuf();
  return std::move(bytes).str();
}

inline void write_file(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

// A safetensors file from a header's text, whatever it says, and data bytes.
inline std::string safetensors_bytes(const std::string& header, const std::string& data) {
  std::string bytes(8, '\0');
  for (size_t i = 0; i < 8; ++i) bytes[i] = static_cast<char>(header.size() >> (8 * i) & 0xff);
  return bytes + header + data;
}

// One tensor for write_safetensors: dtype as the format names it, dimensions, raw bytes.
struct RawTensor {
  std::string name, dtype;
  std::vector<int64_t> shape;
  std::string bytes;
};

template <typename T>
std::string raw_bytes(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

// Independent of the library's writer.
inline void write_safetensors(const fs::path& path, const std::vector<RawTensor>& tensors) {
  std::string header = "{", data;
  for (const RawTensor& tensor : tensors) {
    if (header.size() > 1) header += ",";
    std::string dims;
    for (int64_t dim : tensor.shape) {
      if (!dims.empty()) dims += ',';
      dims += std::to_string(dim);
    }
    header += "\"" + tensor.name + "\":{\"dtype\":\"" + tensor.dtype + "\",\"shape\":[" + dims +
              "],\"data_offsets\":[" + std::to_string(data.size()) + "," +
              std::to_string(data.size() + tensor.bytes.size()) + "]}";
    data += tensor.bytes;
  }
  write_file(path, safetensors_bytes(header + "}", data));
}

// The error that `action` throws: its code and sentence. Fails the test when it throws none.
template <typename Action>
std::pair<ErrorCode, std::string> error_of(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    return {error.code(), error.what()};
  }
  ADD_FAILURE() << "no error was thrown";
  return {ErrorCode::kInvalidArgument, ""};
}

#define EXPECT_NFLOAT_ERROR(action, expected_code, expected_text)                         \
  do {                                                                                    \
    const auto [nfloat_code, nfloat_text] = ::nfloat::testing::error_of([&] { action; }); \
    EXPECT_EQ(nfloat_code, expected_code) << nfloat_text;                                 \
    EXPECT_NE(nfloat_text.find(expected_text), std::string::npos) << nfloat_text;         \
  } while (false)

}  // namespace nfloat::testing

#endif  // NFLOAT_TESTS_SUPPORT_FILES_H_
