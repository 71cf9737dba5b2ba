// SPDX-License-Identifier: Apache-2.0
/// @file temporary_folder.hpp
/// @brief TemporaryFolder: a fresh folder for files of a test.
#pragma once

#include <htl/task/check.hpp>

#include <cstdlib>
#include <filesystem>
#include <string>

namespace htl::test {

/// @brief A folder of its own that goes with the object.
class TemporaryFolder {
 public:
  explicit TemporaryFolder(const std::filesystem::path& parent = std::filesystem::temp_directory_path()) {
    std::string pattern = (parent / "htl-test-XXXXXX").string();
    HTL_CHECK(::mkdtemp(pattern.data()) != nullptr, "htl::test::TemporaryFolder: can't make \"", pattern, "\"");
    path_ = pattern;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  /// @brief Its path.
  const std::filesystem::path& path() const { return path_; }
  /// @brief A file's path in it.
  std::filesystem::path path(const std::string& name) const { return path_ / name; }

 private:
  std::filesystem::path path_;
};

}  // namespace htl::test
