// SPDX-License-Identifier: Apache-2.0
/// @file compare_program.hpp
/// @brief CompareProgram: a test that runs the program compare.
#pragma once

#include <htl/io/json.hpp>

#include <support/program.hpp>

#include <sys/file.h>

#include <set>

namespace htl::test {

#ifdef COMPARE_PROGRAM
inline constexpr const char* compare_program = COMPARE_PROGRAM;
#else
inline constexpr const char* compare_program = "";
#endif

/// The program compare, in a folder of its own.
class CompareProgram : public ProgramTest {
 protected:
  CompareProgram() : ProgramTest(compare_program, "compare") {}
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
  /// Waits until no process has a folder of cells: those that were begun end on their own.
  void wait_for(const std::string& output) const {
    const int file = ::open(folder.path(output).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    ASSERT_GE(file, 0);
    ASSERT_EQ(::flock(file, LOCK_EX), 0);
    ::close(file);
  }

  static constexpr const char* small =
      "--dataset synthetic --rows 1500 --epochs 2 --batch-size 256 --tower 8 --trunk 8 --tower-above-trunk 8 --threads 1 --bootstrap 50 ";
};

}  // namespace htl::test
