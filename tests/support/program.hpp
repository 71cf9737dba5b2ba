// SPDX-License-Identifier: Apache-2.0
/// @file program.hpp
/// @brief Programs in child processes, for tests of what a user sees.
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
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace htl::test {

/// @brief What a child process came to.
struct Ended {
  int status = 0;    ///< exit status, or 128 + signal
  std::string text;  ///< stdout and stderr
};

/// @brief The words of a command line without quotes.
inline std::vector<std::string> words(const std::string& text) {
  std::istringstream stream(text);
  std::vector<std::string> result;
  for (std::string word; stream >> word;) result.push_back(word);
  return result;
}

/// @brief Starts a program in a folder; what it prints goes into a file there.
/// @param program its path
/// @param arguments without the program's name
/// @param folder its working directory
/// @param in_child called in the child before the program begins: limits
inline pid_t start_program(const std::string& program, std::vector<std::string> arguments, const TemporaryFolder& folder,
                           const std::function<void()>& in_child = {}) {
  const std::string printed = folder.path(".printed").string();
  arguments.insert(arguments.begin(), program);
  std::vector<char*> pointers;
  for (std::string& argument : arguments) pointers.push_back(argument.data());
  pointers.push_back(nullptr);
  const pid_t child = ::fork();
  if (child != 0) return child;
  const int file = ::open(printed.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666);
  if (file < 0 || ::dup2(file, STDOUT_FILENO) < 0 || ::dup2(file, STDERR_FILENO) < 0 || ::chdir(folder.path().c_str()) != 0) ::_exit(126);
  if (in_child) in_child();
  ::execv(program.c_str(), pointers.data());
  ::_exit(127);
}
/// @brief Waits for a program that start_program() started in that folder.
inline Ended end_program(pid_t child, const TemporaryFolder& folder) {
  int status = 0;
  ::waitpid(child, &status, 0);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), read_file(folder.path(".printed"))};
}

#ifdef HTLNET_PROGRAM
inline constexpr const char* htlnet_program = HTLNET_PROGRAM;
#else
inline constexpr const char* htlnet_program = "";
#endif

/// @brief A test that runs a program, htlnet unless another is named, in a folder of its own that is the child's working directory.
class ProgramTest : public testing::Test {
 protected:
  explicit ProgramTest(std::string path = htlnet_program, std::string name = "htlnet") : program(std::move(path)), name_(std::move(name)) {}
  void SetUp() override {
    if (program.empty()) GTEST_SKIP() << "the program " << name_ << " is not built: set HTL_BUILD_EXAMPLES=ON";
  }
  /// Starts the program.
  /// @param in_child called in the child before the program begins: limits
  pid_t start(std::vector<std::string> arguments, const std::function<void()>& in_child = {}) const {
    return start_program(program, std::move(arguments), folder, in_child);
  }
  /// Waits for it.
  Ended end(pid_t child) const { return end_program(child, folder); }
  /// Runs the program.
  /// @param signal sent after a time; 0 = none
  Ended run(std::vector<std::string> arguments, const std::function<void()>& in_child = {}, int signal = 0, std::chrono::microseconds after = {}) const {
    const pid_t child = start(std::move(arguments), in_child);
    if (signal != 0) {
      std::this_thread::sleep_for(after);
      ::kill(child, signal);
    }
    return end(child);
  }
  Ended run(const std::string& text, const std::function<void()>& in_child = {}) const { return run(words(text), in_child); }
  /// Runs the program and sends it a signal as soon as `when` holds; where it ends before that, none.
  Ended run_until(const std::function<bool()>& when, int signal, std::vector<std::string> arguments) const {
    const pid_t child = start(std::move(arguments));
    const auto ended = [&] {
      siginfo_t info{};
      return ::waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid != 0;
    };
    while (!when() && !ended()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    ::kill(child, signal);
    return end(child);
  }
  /// Makes a file in the folder.
  void write(const std::string& name, const std::string& text) const {
    std::filesystem::create_directories(folder.path(name).parent_path());
    std::ofstream(folder.path(name), std::ios::binary) << text;
  }

  const std::string program;
  TemporaryFolder folder;

 private:
  std::string name_;
};

}  // namespace htl::test
