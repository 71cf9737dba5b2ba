// SPDX-License-Identifier: Apache-2.0
/// @file program.hpp
/// @brief The program htlnet in a child process, for tests of what a user sees.
#pragma once

#include <htl/io/atomic_file.hpp>

#include <support/seeded.hpp>
#include <support/temporary_folder.hpp>

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <functional>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace htl::test {

/// @brief What a child process came to.
struct Ended {
  int status = 0;    ///< exit status, or 128 + signal
  std::string text;  ///< stdout and stderr
};

/// @brief A test that runs htlnet, in a folder of its own that is the child's working directory.
class ProgramTest : public testing::Test {
 protected:
#ifdef HTLNET_PROGRAM
  static constexpr const char* program = HTLNET_PROGRAM;
#else
  static constexpr const char* program = "";
#endif
  void SetUp() override {
    if (std::string(program).empty()) GTEST_SKIP() << "the program htlnet is not built: set HTL_BUILD_EXAMPLES=ON";
  }
  static std::vector<std::string> words(const std::string& text) {
    std::istringstream stream(text);
    std::vector<std::string> result;
    for (std::string word; stream >> word;) result.push_back(word);
    return result;
  }
  /// Runs the program.
  /// @param in_child called in the child before the program begins: limits
  /// @param signal sent after a time; 0 = none
  Ended run(std::vector<std::string> arguments, const std::function<void()>& in_child = {}, int signal = 0, std::chrono::microseconds after = {}) const {
    const std::filesystem::path printed = folder.path(".printed");
    arguments.insert(arguments.begin(), program);
    std::vector<char*> pointers;
    for (std::string& argument : arguments) pointers.push_back(argument.data());
    pointers.push_back(nullptr);
    const pid_t child = ::fork();
    if (child == 0) {
      const int file = ::open(printed.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
      if (file < 0 || ::dup2(file, STDOUT_FILENO) < 0 || ::dup2(file, STDERR_FILENO) < 0 || ::chdir(folder.path().c_str()) != 0) ::_exit(126);
      if (in_child) in_child();
      ::execv(program, pointers.data());
      ::_exit(127);
    }
    if (signal != 0) {
      std::this_thread::sleep_for(after);
      ::kill(child, signal);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), read_file(printed)};
  }
  Ended run(const std::string& text, const std::function<void()>& in_child = {}) const { return run(words(text), in_child); }

  TemporaryFolder folder;
};

}  // namespace htl::test
