// SPDX-License-Identifier: Apache-2.0
// `nfloat chat` through a pipe, and in a terminal with keys typed.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <regex>

#include "base/json.h"
#include "cli/process.h"
#include "cli/terminal.h"

namespace nfloat::cli_test {
namespace {

namespace fs = std::filesystem;
class Chat : public Cli {
 protected:
  // The embedded model with a chat template.
  std::string talker() {
    const std::string folder = path("talker");
    if (fs::exists(folder)) return folder;
    fs::create_directories(folder);
    for (const auto& entry : fs::directory_iterator(model()))
      if (entry.path().filename() != "stories.txt")
        fs::create_symlink(fs::canonical(entry.path()), folder + "/" + entry.path().filename().string());
    write_file(folder + "/chat_template.jinja",
               "{% for m in messages %}{{ m.role }}: {{ m.content }}<|end_of_text|>{% endfor %}"
               "{% if add_generation_prompt %}assistant: {% endif %}");
    return folder;
  }
  std::vector<std::string> command(const std::string& folder, const std::string& tokens = "12") const {
    return {"chat", folder, "--temperature", "0", "-n", tokens, "--precision", "f32"};
  }
  Result talk(const std::string& folder, const std::string& lines, std::vector<std::string> more = {}) {
    write_file(path("lines"), lines);
    Limits limits;
    limits.standard_input = path("lines");
    std::vector<std::string> all = command(folder);
    all.insert(all.end(), more.begin(), more.end());
    return nfloat(all, limits);
  }
  // Numbers of the notes "[R new tokens read in ... U reused; G tokens".
  struct Note {
    int read, reused, generated;
  };
  static std::vector<Note> notes(const std::string& text) {
    const std::regex pattern(R"(\[(\d+) new tokens? read in [\d.]+ s, (\d+) reused; (\d+) tokens?)");
    std::vector<Note> result;
    for (std::sregex_iterator i(text.begin(), text.end(), pattern), end; i != end; ++i)
      result.push_back({std::stoi((*i)[1]), std::stoi((*i)[2]), std::stoi((*i)[3])});
    return result;
  }
  std::map<std::string, std::string> home() const { return {{"XDG_STATE_HOME", path("state")}}; }
};

TEST_F(Chat, OnlyNewTokensOfAConversationAreRead) {
  const Result result = talk(talker(), "Who lives in the lighthouse?\nAnd why?\n");
  ASSERT_TRUE(result.ok()) << result;
  const std::vector<Note> read = notes(result.err);
  ASSERT_EQ(read.size(), 2u) << result;
  EXPECT_EQ(read[0].reused, 0);
  // The first turn and its answer are in the cache, token for token.
  EXPECT_EQ(read[1].reused, read[0].read + read[0].generated);
  EXPECT_LT(read[1].read, read[0].read);
  EXPECT_EQ(result.out.find('\x1b'), std::string::npos);
  EXPECT_EQ(result.err.find('\x1b'), std::string::npos);
}

TEST_F(Chat, SavesAndGoesOnWhereItWas) {
  const std::string file = path("talk.json");
  const Result first = talk(talker(), "/system Be brief.\nWho lives here?\n/save " + file + "\nAnd why?\n");
  ASSERT_TRUE(first.ok()) << first;
  const Json saved = Json::parse(read_file(file));
  ASSERT_EQ(saved["messages"].size(), 3u);
  EXPECT_EQ(saved["messages"][0]["role"], "system");
  EXPECT_EQ(saved["messages"][0]["content"], "Be brief.");
  EXPECT_EQ(saved["messages"][1]["content"], "Who lives here?");
  // From the file the next turn has the same answer.
  const Result second = talk(talker(), "/load " + file + "\nAnd why?\n", {"--quiet"});
  ASSERT_TRUE(second.ok()) << second;
  EXPECT_EQ(second.err, "");
  ASSERT_GT(second.out.size(), 1u);
  EXPECT_TRUE(first.out.ends_with(second.out)) << first << second;
}

TEST_F(Chat, UndoForgetsAndAgainRepeats) {
  const std::string file = path("talk.json");
  const Result result =
      talk(talker(), "One.\nTwo.\n/undo\n/again\n/save " + file + "\n/undo\n/undo\n/reset\n/stats\n");
  ASSERT_TRUE(result.ok()) << result;
  const Json saved = Json::parse(read_file(file));
  ASSERT_EQ(saved["messages"].size(), 2u);
  EXPECT_EQ(saved["messages"][0]["content"], "One.");
  EXPECT_NE(result.err.find("no turn to forget"), std::string::npos) << result;
  EXPECT_NE(result.err.find("turns      3\n"), std::string::npos) << result;
}

TEST_F(Chat, WithoutATemplateTheTextIsContinuedAndThatIsSaid) {
  const std::string file = path("talk.json");
  const Result result = talk(model(), "On the farthest end of\n/save " + file + "\n");
  ASSERT_TRUE(result.ok()) << result;
  EXPECT_NE(result.err.find("plain completion"), std::string::npos) << result;
  const std::string text = Json::parse(read_file(file))["text"].text();
  EXPECT_TRUE(text.starts_with("On the farthest end of ")) << text;
  EXPECT_EQ(text.substr(22) + "\n", result.out);
}

TEST_F(Chat, SeveralLinesCanBeOneTurn) {
  const std::string file = path("talk.json");
  const Result result =
      talk(talker(), "one\\\ntwo\n\"\"\"\nthree\nfour\n\"\"\"\n\"\"\"five\"\"\"\n/save " + file + "\n");
  ASSERT_TRUE(result.ok()) << result;
  const Json saved = Json::parse(read_file(file));
  ASSERT_EQ(saved["messages"].size(), 6u);
  EXPECT_EQ(saved["messages"][0]["content"], "one\ntwo");
  EXPECT_EQ(saved["messages"][2]["content"], "three\nfour");
  EXPECT_EQ(saved["messages"][4]["content"], "five");
}

TEST_F(Chat, SetGivesTheTemplateValues) {
  const std::string folder = talker();
  write_file(folder + "/chat_template.jinja",
             "{{ mode }}{% if not thinking %}!{% endif %}{{ n + 1 }}{% for m in messages %}{{ m.content }}{% "
             "endfor %}");
  write_file(path("talk.json"), R"({"messages": [{"role": "user", "content": "Hi"}], "mode": "file"})");
  const auto render = [&](std::vector<std::string> more) {
    std::vector<std::string> all{"chat", folder, "--render", path("talk.json")};
    all.insert(all.end(), more.begin(), more.end());
    return nfloat(all);
  };
  const Result set = render({"--set", "thinking=false", "--set", "n=41", "--set", "mode=no json"});
  ASSERT_TRUE(set.ok()) << set;
  EXPECT_EQ(set.out, "no json!42Hi");
  EXPECT_EQ(render({"--set", "thinking=true", "--set", "n=1"}).out, "file2Hi");
  EXPECT_EQ(render({"--set", "alone"}).exit_code, 2);
  // Turns get them too; of a model without channels all is shown either way.
  const std::vector<std::string> values{"--set", "n=1", "--set", "mode=a", "--quiet", "--no-history"};
  std::vector<std::string> channels = values;
  channels.emplace_back("--all-channels");
  const Result plain = talk(folder, "Who lives here?\n", values),
               all = talk(folder, "Who lives here?\n", channels);
  ASSERT_TRUE(plain.ok() && all.ok()) << all;
  EXPECT_EQ(all.out, plain.out);
  EXPECT_EQ(talk(folder, "Who?\n", {"--quiet", "--no-history"}).exit_code, 1) << "n is undefined";
}

TEST_F(Chat, WhatIsWrongIsSaidAndTheConversationGoesOn) {
  write_file(path("not.json"), "[1, 2");
  write_file(path("roles.json"), R"({"messages": [{"role": "user", "content": "a"}, {"role": 7}]})");
  write_file(path("text.json"), R"({"text": "a"})");
  std::string far;
  for (int i = 0; i < 600; ++i) far += "word ";
  const Result result =
      talk(talker(), "/nothing\n/load " + path("absent.json") + "\n/load " + path("not.json") + "\n/load " +
                         path("roles.json") + "\n/load " + path("text.json") + "\n/save\n/save " +
                         path("absent/x.json") + "\n" + far + "\nStill here?\n");
  EXPECT_EQ(result.exit_code, 1) << "lines that were not answered are not success" << result;
  for (const char* word :
       {"no command /nothing", "absent.json", "not.json: not valid JSON", "roles.json: messages[1]",
        "text.json: no list of \"messages\"", "/save FILE", "absent/x.json", "the context has 512"})
    EXPECT_NE(result.err.find(word), std::string::npos) << word << result;
  ASSERT_EQ(notes(result.err).size(), 1u) << result;
  EXPECT_LT(notes(result.err)[0].read, 40) << "the turn that did not fit must be forgotten" << result;
}

TEST_F(Chat, InATerminalLinesAreEditedAndRemembered) {
  std::string line = "Who livez";
  {
    Terminal terminal(command(talker()), home());
    terminal.wait_for("/help");
    terminal.wait_for_prompt();
    terminal.type(line + "\x7fs here?\r");  // Backspace
    terminal.wait_for("new tokens read");
    terminal.wait_for_prompt();
    terminal.type("/save " + path("one.json") + "\r");
    terminal.wait_for("Saved");
    terminal.wait_for_prompt();
    terminal.type("\x04");
    EXPECT_EQ(terminal.exit_status(), 0);
  }
  EXPECT_EQ(Json::parse(read_file(path("one.json")))["messages"][0]["content"], "Who lives here?");
  const std::string file = path("state/nfloat/chat_history");
  struct stat status {};
  ASSERT_EQ(::stat(file.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
  Terminal terminal(command(talker()), home());
  terminal.wait_for_prompt();
  terminal.type("\x1b[A\x1b[A\r");  // up, up: the line of the session before
  terminal.wait_for("new tokens read");
  terminal.wait_for_prompt();
  terminal.type("/save " + path("two.json") + "\r");
  terminal.wait_for("Saved");
  EXPECT_EQ(Json::parse(read_file(path("two.json")))["messages"][0]["content"], "Who lives here?");
}

TEST_F(Chat, CtrlCStopsTheAnswerAndNotTheProgram) {
  // Room for an answer that lasts until it is stopped.
  const std::string folder = talker(), config = folder + "/config.json";
  Json json = Json::parse(read_file(config));
  json["max_position_embeddings"] = 200000;
  fs::remove(config);
  write_file(config, json.dump());
  std::vector<std::string> arguments = command(folder, "100000");
  arguments.insert(arguments.end(), {"--context", "100000"});
  Terminal terminal(arguments, home());
  terminal.wait_for_prompt();
  for (int i = 0; i < 2; ++i) {  // more than once
    terminal.type("Tell a long story.\r");
    terminal.wait_for("story.\r\n");
    terminal.wait_for(" ");  // of the answer
    terminal.type("\x03");
    terminal.wait_for("stopped");
    terminal.wait_for_prompt();
    terminal.type("/reset\r");
    terminal.wait_for("new conversation");
    terminal.wait_for_prompt();
  }
  terminal.type("half a line\x03");
  terminal.wait_for("^C");
  terminal.wait_for_prompt();
  terminal.type("/exit\r");
  EXPECT_EQ(terminal.exit_status(), 0);
}

TEST_F(Chat, NoColourNoHistoryWhereNotWanted) {
  std::map<std::string, std::string> environment = home();
  environment["NO_COLOR"] = "1";
  std::vector<std::string> arguments = command(talker());
  arguments.push_back("--no-history");
  Terminal terminal(arguments, environment);
  const std::string begin = terminal.wait_for_prompt();
  EXPECT_EQ(begin.find("\x1b[2m"), std::string::npos) << begin;
  EXPECT_EQ(begin.find("\x1b[1;32m"), std::string::npos) << begin;
  terminal.type("/exit\r");
  EXPECT_EQ(terminal.exit_status(), 0);
  EXPECT_FALSE(fs::exists(path("state")));
}

}  // namespace
}  // namespace nfloat::cli_test
