// SPDX-License-Identifier: Apache-2.0
// Compares the #include lines of the tree with one table: who may know whom (docs/architecture.md).
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <vector>
#include "support/paths.h"

namespace {

namespace fs = std::filesystem;

struct Room {
  int rank;
  std::set<std::string> public_headers;  // the headers of include/nfloat that declare what this room does
};

// A room includes only rooms of a lower rank.
const std::map<std::string, Room> kRooms = {
    {"base", {0, {"api.h", "error.h", "files.h", "interrupt.h", "text.h", "threads.h", "version.h"}}},
    {"machine", {1, {"machine.h"}}},
    {"ranks", {1, {"ranks.h"}}},
    {"codebook", {1, {"codebook.h", "codebook_errors.h"}}},
    {"tensor", {1, {"tensor.h"}}},
    {"kernels", {2, {"targets.h"}}},
    {"architecture", {2, {"model_config.h", "model_size.h", "tensor_role.h"}}},
    {"gguf", {2, {"gguf.h"}}},
    {"cuda", {2, {}}},
    {"quantize", {3, {"quantize.h"}}},
    {"grammar", {3, {"grammar.h"}}},
    {"linear", {4, {"linear.h"}}},
    {"llama_cpp", {3, {"imatrix.h"}}},
    {"checkpoint", {4, {"checkpoint.h"}}},
    {"tokenizer", {4, {"tokenizer.h"}}},
    {"chat", {4, {"chat.h"}}},
    {"engine", {5, {"device_bench.h"}}},
    {"convert", {6, {"convert.h", "memory_plan.h"}}},
    {"formats", {4, {"formats.h"}}},
    {"analyze", {4, {"analyze.h"}}},
    {"model", {6, {"lead.h", "model.h", "sampler.h", "synthetic.h"}}},
    {"generate", {7, {"conversation.h", "engine.h", "generate.h"}}},
    {"evaluate", {7, {"compare.h", "evaluate.h", "tasks.h"}}},
    {"bridge", {7, {"adapter_gguf.h", "bridge.h"}}},
    {"tune", {7, {"adapter.h", "train.h", "train_data.h"}}},
    {"calibrate", {8, {"budget.h", "calibrate.h"}}},
    {"server", {8, {"serve.h"}}},
    {"report", {9, {"comparison.h", "plot.h", "report.h", "results.h", "train_report.h"}}},
    {"c_api", {10, {"nfloat.h"}}},
};

// What files compiled with instruction-set flags may include besides our own plain headers: nothing that
// instantiates a template which the portable files share, or the linker may keep the copy that an older
// machine cannot run.
const std::set<std::string> kKernelHeaders = {
    "bit",         "cfloat",      "climits",    "cmath",      "cstddef",     "cstdint",  "cstring", "limits",
    "type_traits", "immintrin.h", "arm_neon.h", "arm_bf16.h", "x86intrin.h", "stddef.h", "stdint.h"};

const std::set<std::string> kSystemHeaderPrefixes = {"immintrin", "x86intrin", "arm_",         "fmt/",
                                                     "nlohmann/", "CLI/",      "boost/",       "omp",
                                                     "pcre2",     "utf8proc",  "sentencepiece"};

struct Include {
  std::string file;  // the one that includes, relative to the repository
  int line;
  std::string target;
  bool quoted;
};

const fs::path kRoot = nfloat::testing::source_path("");

bool is_source(const fs::path& path) {
  static const std::set<std::string> kExtensions = {".h", ".cpp", ".cu", ".cuh", ".c"};
  return kExtensions.count(path.extension().string()) != 0;
}

std::vector<Include> includes_of(const fs::path& path) {
  std::vector<Include> found;
  std::ifstream in(path);
  std::string text;
  for (int line = 1; std::getline(in, text); ++line) {
    const size_t hash = text.find_first_not_of(" \t");
    if (hash == std::string::npos || text[hash] != '#') continue;
    const size_t word = text.find_first_not_of(" \t", hash + 1);
    if (word == std::string::npos || text.compare(word, 7, "include") != 0) continue;
    const size_t open = text.find_first_of("<\"", word);
    if (open == std::string::npos) continue;
    const bool quoted = text[open] == '"';
    const size_t close = text.find(quoted ? '"' : '>', open + 1);
    found.push_back(
        {fs::relative(path, kRoot).generic_string(), line, text.substr(open + 1, close - open - 1), quoted});
  }
  return found;
}

std::vector<Include> includes_under(const std::string& folder) {
  std::vector<Include> all;
  if (!fs::exists(kRoot / folder)) return all;
  for (const auto& entry : fs::recursive_directory_iterator(kRoot / folder)) {
    if (!entry.is_regular_file() || !is_source(entry.path())) continue;
    for (Include& include : includes_of(entry.path())) all.push_back(std::move(include));
  }
  return all;
}

std::string where(const Include& include) {
  return include.file + ":" + std::to_string(include.line) + ": includes " + include.target;
}

std::optional<std::string> room_of_public_header(const std::string& header) {
  for (const auto& [name, room] : kRooms) {
    if (room.public_headers.count(header) != 0) return name;
  }
  return std::nullopt;
}

// The room that an include line reaches into, if any: "kernels/dispatch.h", "nfloat/tensor.h".
std::optional<std::string> room_reached(const Include& include) {
  const size_t slash = include.target.find('/');
  if (slash == std::string::npos) return std::nullopt;
  const std::string first = include.target.substr(0, slash);
  if (first == "nfloat") return room_of_public_header(include.target.substr(slash + 1));
  return kRooms.count(first) != 0 ? std::optional(first) : std::nullopt;
}

TEST(Layering, EveryFolderOfSrcAndEveryPublicHeaderIsInTheTable) {
  for (const auto& entry : fs::directory_iterator(kRoot / "src")) {
    if (!entry.is_directory()) continue;
    EXPECT_EQ(kRooms.count(entry.path().filename().string()), 1u)
        << "src/" << entry.path().filename().string() << " has no rank: add it to kRooms";
  }
  for (const auto& entry : fs::directory_iterator(kRoot / "include/nfloat")) {
    const std::string header = entry.path().filename().string();
    if (header == "nfloat.hpp") continue;
    EXPECT_TRUE(room_of_public_header(header).has_value())
        << "include/nfloat/" << header << " belongs to no room: add it to kRooms";
  }
}

TEST(Layering, RoomsIncludeOnlyLowerRooms) {
  const std::vector<Include> all = includes_under("src");
  ASSERT_FALSE(all.empty());
  for (const Include& include : all) {
    const std::string from = include.file.substr(4, include.file.find('/', 4) - 4);
    if (include.quoted) {
      EXPECT_EQ(include.target.find(".."), std::string::npos) << where(include) << ": name it from src/";
    }
    const std::optional<std::string> to = room_reached(include);
    if (!to || *to == from || kRooms.count(from) == 0) continue;
    EXPECT_LT(kRooms.at(*to).rank, kRooms.at(from).rank)
        << where(include) << ": " << from << " (" << kRooms.at(from).rank << ") must not know " << *to << " ("
        << kRooms.at(*to).rank << ")";
  }
}

TEST(Layering, PublicHeadersAreSelfContainedAndPlain) {
  for (const Include& include : includes_under("include/nfloat")) {
    if (include.quoted) {
      EXPECT_TRUE(include.target.starts_with("nfloat/")) << where(include);
      EXPECT_TRUE(fs::exists(kRoot / "include" / include.target))
          << where(include) << ", which does not exist";
      continue;
    }
    EXPECT_EQ(include.target.find('/'), std::string::npos) << where(include) << ": not a standard header";
    for (const std::string& prefix : kSystemHeaderPrefixes) {
      EXPECT_FALSE(include.target.starts_with(prefix)) << where(include) << ": not a standard header";
    }
    const bool c_header = include.target.ends_with(".h");
    EXPECT_EQ(c_header, include.file == "include/nfloat/nfloat.h")
        << where(include) << ": C headers in nfloat.h, C++ headers elsewhere";
  }
}

TEST(Layering, ToolsAndExamplesUsePublicHeadersOnly) {
  for (const char* folder : {"cli", "examples", "python"}) {
    for (const Include& include : includes_under(folder)) {
      const size_t slash = include.target.find('/');
      if (slash == std::string::npos) continue;
      const std::string first = include.target.substr(0, slash);
      // The one exception: the command line writes its JSON with the library's own class.
      if (std::string_view(folder) == "cli" && include.target == "base/json.h") continue;
      // Python's core is a border as src/c_api is: it holds the library and hands out what that keeps inside.
      if (include.file.starts_with("python/core/")) continue;
      EXPECT_EQ(kRooms.count(first), 0u) << where(include) << ", which is private to the library";
      EXPECT_NE(first, "src") << where(include);
      if (first == "nfloat") {
        EXPECT_TRUE(fs::exists(kRoot / "include" / include.target))
            << where(include) << ", which does not exist";
      }
    }
  }
}

// The umbrella includes every public C++ header, once.
TEST(Layering, TheUmbrellaCoversEveryPublicHeader) {
  std::map<std::string, int> included;
  for (const Include& include : includes_of(kRoot / "include/nfloat/nfloat.hpp")) ++included[include.target];
  for (const auto& entry : fs::directory_iterator(kRoot / "include/nfloat")) {
    const std::string header = entry.path().filename().string();
    if (header == "nfloat.hpp" || header == "nfloat.h") continue;
    EXPECT_EQ(included["nfloat/" + header], 1)
        << "include/nfloat/nfloat.hpp: add #include \"nfloat/" << header << "\" where one should read it";
  }
}

// Their templates take seconds in every file that includes them.
TEST(Layering, SlowHeadersStayBehindTheirWrappers) {
  const std::map<std::string, std::set<std::string>> wrappers = {
      {"nlohmann/", {"src/base/json.cpp", "src/checkpoint/safetensors_header.cpp"}},
      {"boost/asio", {"src/server/http.cpp", "src/server/wire_stream.h"}},
      {"boost/beast", {"src/server/http.cpp", "src/server/wire_stream.h"}},
      {"mpi.h", {"src/ranks/open_mpi.cpp"}},
      {"CLI/", {"cli/command_line.cpp"}}};
  std::set<std::string> seen;
  for (const char* folder : {"src", "cli", "include/nfloat", "examples"})
    for (const Include& include : includes_under(folder))
      for (const auto& [prefix, files] : wrappers) {
        if (!include.target.starts_with(prefix)) continue;
        EXPECT_EQ(files.count(include.file), 1u) << where(include);
        seen.insert(include.file);
      }
  EXPECT_EQ(seen.size(), 6u) << "a wrapper moved; this test looks at nothing";
}

// One folder knows Vulkan; the rest of the engine knows how to open its devices.
TEST(Layering, VulkanStaysInItsFolder) {
  const std::string folder = "src/engine/vulkan/";
  bool seen = false;
  for (const char* tree : {"src", "cli", "include/nfloat", "examples", "python"})
    for (const Include& include : includes_under(tree)) {
      if (include.target.starts_with("vulkan/")) {
        EXPECT_EQ(include.file, folder + "api.h") << where(include);
        seen = true;
      }
      if (include.target.starts_with("engine/vulkan/") && !include.file.starts_with(folder)) {
        EXPECT_TRUE(include.target == "engine/vulkan/open.h" && include.file == "src/engine/devices.cpp")
            << where(include);
      }
    }
  EXPECT_TRUE(seen);
}

// NAMES of the line `set(LIST NAMES)` of a CMake file; `opening` is "set(LIST ".
std::set<std::string> names_after(const fs::path& file, const std::string& opening) {
  std::ifstream in(file);
  std::string text;
  while (std::getline(in, text)) {
    if (!text.starts_with(opening)) continue;
    std::istringstream words(text.substr(opening.size(), text.find(')') - opening.size()));
    return {std::istream_iterator<std::string>(words), {}};
  }
  return {};
}

// tests/cross links a part of the library: neither that part nor its tests may reach beyond it.
TEST(Layering, RoomsForOtherProcessorsAreWhole) {
  const fs::path list = kRoot / "tests/cross/CMakeLists.txt";
  const std::set<std::string> rooms = names_after(list, "set(rooms "),
                              tests = names_after(list, "set(tested_rooms ");
  ASSERT_TRUE(rooms.count("linear") == 1 && tests.count("linear") == 1)
      << "the lists of " << list << " moved";
  std::vector<std::string> folders;
  for (const std::string& room : rooms) folders.push_back("src/" + room);
  for (const std::string& room : tests) folders.push_back("tests/unit/" + room);
  for (const std::string& folder : folders)
    for (const Include& include : includes_under(folder)) {
      const std::optional<std::string> to = room_reached(include);
      EXPECT_TRUE(!to || rooms.count(*to) == 1) << where(include) << ", which tests/cross does not link";
    }
}

// Follows the includes of every target_*.cpp.
TEST(Layering, KernelTargetsIncludeNoStandardContainers) {
  std::vector<fs::path> open;
  for (const auto& entry : fs::directory_iterator(kRoot / "src/kernels")) {
    if (entry.path().filename().string().starts_with("target_")) open.push_back(entry.path());
  }
  ASSERT_GE(open.size(), 5u) << "the target files moved; this test looks at nothing";
  std::set<fs::path> seen;
  while (!open.empty()) {
    const fs::path path = open.back();
    open.pop_back();
    if (!seen.insert(path).second) continue;
    for (const Include& include : includes_of(path)) {
      if (!include.quoted) {
        EXPECT_EQ(kKernelHeaders.count(include.target), 1u)
            << where(include) << ", reached from a file with instruction-set flags";
        continue;
      }
      EXPECT_TRUE(include.target.starts_with("kernels/") || include.target.starts_with("base/"))
          << where(include) << ": target files see nothing but src/kernels and src/base";
      const fs::path target = kRoot / "src" / include.target;
      EXPECT_TRUE(fs::exists(target)) << where(include) << ", which does not exist";
      open.push_back(target);
    }
  }
}

}  // namespace
