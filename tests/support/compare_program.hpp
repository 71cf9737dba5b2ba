// SPDX-License-Identifier: Apache-2.0
/// @file compare_program.hpp
/// @brief CompareProgram: a test that runs the program compare.
#pragma once

#include <htl/io/json.hpp>

#include <support/program.hpp>

#include <sys/file.h>

#include <fstream>
#include <set>

namespace htl::test {

/// The program compare, in a folder of its own.
class CompareProgram : public testing::Test {
 protected:
#ifdef COMPARE_PROGRAM
  static constexpr const char* program = COMPARE_PROGRAM;
#else
  static constexpr const char* program = "";
#endif
  void SetUp() override {
    if (std::string(program).empty()) GTEST_SKIP() << "the program compare is not built: set HTL_BUILD_EXAMPLES=ON";
  }
  pid_t start(const std::string& text, const std::function<void()>& in_child = {}) const { return start_program(program, words(text), folder, in_child); }
  Ended end(pid_t child) const { return end_program(child, folder); }
  Ended run(const std::string& text, const std::function<void()>& in_child = {}) const { return end(start(text, in_child)); }
  std::set<std::string> finished(const std::string& output) const {
    std::set<std::string> names;
    std::error_code none_yet;
    for (const auto& entry : std::filesystem::directory_iterator(folder.path(output) / "cells", none_yet))
      if (std::filesystem::exists(entry.path() / "cell.json")) names.insert(entry.path().filename().string());
    return names;
  }
  std::string predictions(const std::string& output, const std::string& cell) const {
    return read_file(folder.path(output) / "cells" / cell / "predictions.safetensors");
  }
  void write(const std::string& name, const std::string& text) const {
    std::filesystem::create_directories(folder.path(name).parent_path());
    std::ofstream(folder.path(name), std::ios::binary) << text;
  }
  /// Waits until no process has a folder of cells: those that were begun end on their own.
  void wait_for(const std::string& output) const {
    const int file = ::open(folder.path(output).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ASSERT_GE(file, 0);
    ASSERT_EQ(::flock(file, LOCK_EX), 0);
    ::close(file);
  }

  static constexpr const char* small =
      "--dataset synthetic --rows 1500 --epochs 2 --batch-size 256 --tower 8 --trunk 8 --tower-above-trunk 8 --experts 2 --threads 1 --bootstrap 50 ";
  TemporaryFolder folder;
};

}  // namespace htl::test
