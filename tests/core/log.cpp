// SPDX-License-Identifier: Apache-2.0
// Log: what goes to the console and to the file of each rank, with and without a terminal and colours.
#include "core/log.hpp"

#include "core/config_catalog.hpp"
#include "kernels/error.hpp"

#include <array>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <fmt/format.h>
#include <fstream>
#include <gtest/gtest.h>
#include <pty.h>
#include <sstream>
#include <sys/wait.h>
#include <unistd.h>

namespace tessera {
namespace {

namespace fs = std::filesystem;

class LogTest : public testing::Test {
protected:
    LogTest() : folder_(fs::temp_directory_path() / fmt::format("tessera-log-{}", getpid())) {
        fs::remove_all(folder_);
    }
    ~LogTest() override { fs::remove_all(folder_); }

    static Config config(const std::string& color) {
        return Config::parse("", "test.toml", {"metrics.color=" + color}, known_keys());
    }
    std::string file(const std::string& name) const {
        std::ostringstream text;
        text << std::ifstream(folder_ / "logs" / name).rdbuf();
        return text.str();
    }

    fs::path folder_;
};

void speak(Log& log) {
    log.info("first");
    log.progress("half way");
    log.warning("careful");
    log.error("broken");
}

// What `speak` writes to a stdout that is a terminal (with `environment` set), read from the terminal's other end.
std::string on_terminal(const fs::path& folder, const Config& config,
                        const std::vector<std::array<std::string, 2>>& environment) {
    int terminal = -1;
    const pid_t child = forkpty(&terminal, nullptr, nullptr, nullptr);
    if (child == 0) {
        unsetenv("NO_COLOR");
        for (const auto& [name, value] : environment)
            setenv(name.c_str(), value.c_str(), 1);
        {
            Log log(config, folder, 0);
            speak(log);
        }
        _exit(0);
    }
    std::string text;
    std::array<char, 4096> piece;
    for (ssize_t count; (count = read(terminal, piece.data(), piece.size())) > 0;)
        text.append(piece.data(), static_cast<std::size_t>(count));
    close(terminal);
    int status = -1;
    waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
    return text;
}

TEST_F(LogTest, WithoutATerminalThereAreNoCodes) {
    testing::internal::CaptureStdout();
    {
        Log log(config("auto"), folder_, 0);
        speak(log);
        EXPECT_FALSE(log.on_terminal());
        EXPECT_FALSE(log.in_color());
    }
    EXPECT_EQ(testing::internal::GetCapturedStdout(), "first\nwarning: careful\nerror: broken\n");
    const std::string lines = file("rank-0000.log");
    EXPECT_NE(lines.find("[info] first\n"), std::string::npos) << lines;
    EXPECT_NE(lines.find("[warning] careful\n"), std::string::npos) << lines;
    EXPECT_NE(lines.find("[error] broken\n"), std::string::npos) << lines;
    EXPECT_EQ(lines.find("half way"), std::string::npos) << lines;
    EXPECT_EQ(lines.find('\033'), std::string::npos) << lines;
}

TEST_F(LogTest, ATerminalGetsColoursAndARedrawnLine) {
    const std::string text = on_terminal(folder_, config("auto"), {{"TERM", "xterm"}});
    EXPECT_EQ(text,
              "first\r\n\r\033[Khalf way\r\033[K\033[33mwarning:\033[0m careful\r\n\033[31merror:\033[0m broken\r\n");
    EXPECT_EQ(file("rank-0000.log").find('\033'), std::string::npos);
}

TEST_F(LogTest, NoColorAndNeverAndDumbTerminalsAreHeeded) {
    EXPECT_EQ(on_terminal(folder_, config("auto"), {{"TERM", "xterm"}, {"NO_COLOR", "1"}}).find("\033[3"),
              std::string::npos);
    EXPECT_EQ(on_terminal(folder_, config("never"), {{"TERM", "xterm"}}).find("\033[3"), std::string::npos);
    EXPECT_EQ(on_terminal(folder_, config("auto"), {{"TERM", "dumb"}}),
              "first\r\nwarning: careful\r\nerror: broken\r\n");
}

TEST_F(LogTest, AlwaysMeansAlways) {
    testing::internal::CaptureStdout();
    Log(config("always"), folder_, 0).warning("careful");
    EXPECT_EQ(testing::internal::GetCapturedStdout(), "\033[33mwarning:\033[0m careful\n");
}

TEST_F(LogTest, OtherRanksSpeakInTheirFileOnly) {
    testing::internal::CaptureStdout();
    {
        Log log(config("always"), folder_, 3);
        speak(log);
    }
    EXPECT_EQ(testing::internal::GetCapturedStdout(), "");
    EXPECT_NE(file("rank-0003.log").find("[warning] careful\n"), std::string::npos);
}

TEST_F(LogTest, AFileIsAppendedTo) {
    testing::internal::CaptureStdout();
    Log(config("auto"), folder_, 0).info("one");
    Log(config("auto"), folder_, 0).info("two");
    testing::internal::GetCapturedStdout();
    EXPECT_LT(file("rank-0000.log").find("one"), file("rank-0000.log").find("two"));
}

TEST_F(LogTest, GatheredWarningsArePrintedOnceEach) {
    testing::internal::CaptureStdout();
    Log log(config("auto"), folder_, 0);
    Log other(config("auto"), folder_, 1);
    log.warning("mine");
    log.warning("ours");
    other.warning("ours");
    other.warning("theirs");
    other.warning("theirs");
    const std::vector<std::string> gathered{log.take_warnings(), other.take_warnings(), "ours\ntheirs\n", "last\n", ""};
    EXPECT_EQ(log.take_warnings(), "");
    testing::internal::GetCapturedStdout();
    testing::internal::CaptureStdout();
    log.print_gathered(gathered);
    EXPECT_EQ(testing::internal::GetCapturedStdout(), "warning: ours (rank 0 and 2 more ranks)\n"
                                                      "warning: theirs (rank 1 and 1 more rank)\n"
                                                      "warning: last (rank 3)\n");
}

TEST_F(LogTest, RefusesAnUnknownChoiceAndAFolderThatCannotBe) {
    try {
        Log(config("allways"), folder_, 0);
        FAIL() << "accepted";
    } catch (const ConfigError& error) {
        EXPECT_STREQ(error.what(), "command line: metrics.color = \"allways\": no choice named 'allways'; did you mean "
                                   "'always'?");
    }
    EXPECT_THROW(Log(config("auto"), "/proc/nowhere", 0), SystemError);
}

} // namespace
} // namespace tessera
