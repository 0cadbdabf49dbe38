// SPDX-License-Identifier: Apache-2.0
// `nfloat serve` from outside: how it starts and ends. What it answers: tests/unit/server.
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <filesystem>

#include "cli/process.h"

namespace nfloat::cli_test {
namespace {

using Serve = Cli;

TEST_F(Serve, SaysWhereItIsAndEndsWhenAskedTo) {
  Limits limits;
  limits.signal = SIGTERM;
  limits.once = [](const std::string& said) { return said.find("Ready: ") != std::string::npos; };
  std::filesystem::copy(model(), path("model"), std::filesystem::copy_options::recursive);
  write_file(path("model/generation_config.json"), R"({"penalty_alpha": 0.6, "top_k": 4})");
  const Result result = nfloat({"serve", path("model"), "--port", "0", "--streams", "2"}, limits);
  EXPECT_TRUE(result.ok()) << result;
  for (const char* words : {"Listening at http://127.0.0.1:", "Memory: weights",
                            "2 streams of up to 512 tokens", "Ready: API at http://127.0.0.1:",
                            "generation_config.json: penalty_alpha is not obeyed", "every answer was given"})
    EXPECT_NE(result.err.find(words), std::string::npos) << words << result;
  EXPECT_EQ(result.out, "");
}

TEST_F(Serve, TellsItsServiceManagerWhenItIsReadyAndWhenItEnds) {
  ServiceManager manager(path("notify"));
  const auto told = [&](Limits limits) {
    manager.forget();
    EXPECT_TRUE(nfloat({"serve", model(), "--port", "0", "--quiet"}, limits).ok());
    return manager.told();
  };
  const std::vector<std::string> two{"READY=1", "STOPPING=1"};
  Limits limits = manager.until_ready();
  EXPECT_EQ(told(limits), two);
  limits.environment["WATCHDOG_USEC"] = "1000000";
  Limits other = limits;
  other.environment["WATCHDOG_PID"] = "1";
  other.after = std::chrono::seconds(2);
  EXPECT_EQ(told(other), two) << "another process is watched";
  limits.once = [&](const std::string&) {
    const std::vector<std::string>& all = manager.told();
    return std::count(all.begin(), all.end(), "READY=1") > 0 &&
           std::count(all.begin(), all.end(), "WATCHDOG=1") > 1;
  };
  std::vector<std::string> watched = told(limits);
  EXPECT_GE(std::erase(watched, "WATCHDOG=1"), 2u);
  EXPECT_EQ(watched, two);
}

TEST_F(Serve, WhatCannotBeServedIsNamed) {
  expect_complaint(nfloat({"serve", path("absent"), "--quiet"}), {"absent"});
  expect_complaint(nfloat({"serve", model(), "--quiet", "--host", "0.0.0.0", "--port", "0"}),
                   {"0.0.0.0", "key"});
  expect_complaint(nfloat({"serve", model(), "--quiet", "--host", "nowhere", "--port", "0"}), {"nowhere"});
  write_file(path("keys"), "\n\n");
  expect_complaint(nfloat({"serve", model(), "--quiet", "--port", "0", "--api-key-file", path("keys")}),
                   {"keys", "no API key"});
  write_file(path("bad.jinja"), "{% if %}");
  expect_complaint(nfloat({"serve", model(), "--quiet", "--port", "0", "--chat-template", path("bad.jinja")}),
                   {"--chat-template"});
  EXPECT_EQ(nfloat({"serve", model(), "--port", "0", "--kv-memory", "much"}).exit_code, 2);
}

TEST_F(Serve, OptionsAreRefusedBeforeItListens) {
  write_file(path("bad.jinja"), "{% if %}");
  std::filesystem::create_directories(path("lora"));
  write_file(path("lora/adapter_config.json"), "{}");
  const auto refused = [&](const std::vector<std::string>& options, const std::vector<std::string>& words) {
    std::vector<std::string> all{"serve", model(), "--port", "0", "--model-name", "base"};
    all.insert(all.end(), options.begin(), options.end());
    const auto result = nfloat(all);
    EXPECT_NE(result.exit_code, 0);
    for (const std::string& word : words)
      EXPECT_NE(result.err.find(word), std::string::npos) << word << result;
    EXPECT_EQ(result.err.find("Listening"), std::string::npos) << result;
  };
  refused({"--device", "abacus"}, {"abacus"});
  refused({"--adapter", "poet=" + path("absent")}, {"poet", "absent"});
  refused({"--adapter", "poet"}, {"NAME=FOLDER"});
  refused({"--adapter", "base=" + path("lora")}, {"base", "several"});
  refused({"--adapter", "a=" + path("lora"), "--adapter", "a=" + path("lora")}, {"--adapter a", "several"});
  refused({"--draft", path("absent")}, {"absent"});
  refused({"--kv-memory", "1KB"}, {"context of 512 tokens", "the budget is 0 KiB"});
  refused({"--context", "513"}, {"513", "512"});
  refused({"--chat-template", path("bad.jinja")}, {"--chat-template"});
}

}  // namespace
}  // namespace nfloat::cli_test
