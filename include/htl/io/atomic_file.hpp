// SPDX-License-Identifier: Apache-2.0
/// @file atomic_file.hpp
/// @brief AtomicFile: a file that is whole or absent under its name, whenever the process or the machine stops. POSIX.
#pragma once

#include <htl/task/check.hpp>

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

namespace htl::inline v0_1_0 {

/// @brief Writes beside the name, then takes the name: temporary file → fsync → rename → fsync of the directory. Until commit() the old file stays.
///
/// Without commit() the temporary file (NAME.PROCESS.NUMBER.tmp) is removed; one that a killed process leaves behind harms nobody. A symbolic link is followed.
class AtomicFile {
 public:
  /// @brief Opens the temporary file.
  /// @throws c10::ValueError if the directory is missing or can't be written
  explicit AtomicFile(const std::filesystem::path& path) : path_(path) {
    std::error_code ignored;
    if (std::filesystem::is_symlink(path_, ignored)) path_ = std::filesystem::weakly_canonical(path_, ignored);
    for (int attempt = 0; descriptor_ < 0 && attempt < 1000; ++attempt) {
      temporary_ = path_.string() + "." + std::to_string(::getpid()) + "." + std::to_string(attempt) + ".tmp";
      descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
      if (descriptor_ < 0 && errno != EEXIST) break;
    }
    if (descriptor_ < 0) fail("create", temporary_);
  }
  /// @brief Removes the temporary file unless it was committed.
  ~AtomicFile() {
    if (descriptor_ >= 0) ::close(descriptor_);
    if (!committed_) ::unlink(temporary_.c_str());
  }
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  /// @brief Appends bytes.
  /// @throws c10::ValueError naming the reason, a full disk for one
  void write(const void* bytes, size_t count) {
    HTL_CHECK_STATE(descriptor_ >= 0, "htl::AtomicFile: \"", path_.string(), "\" is committed already; nothing can be added");
    const char* at = static_cast<const char*>(bytes);
    while (count > 0) {
      const ssize_t written = ::write(descriptor_, at, std::min(count, size_t{1} << 30));
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) fail("write", temporary_);
      at += written;
      count -= static_cast<size_t>(written);
    }
  }
  /// @brief Replaces bytes that were written before: a checksum that is known last.
  /// @throws c10::ValueError naming the reason
  void overwrite(uint64_t position, const void* bytes, size_t count) {
    HTL_CHECK_STATE(descriptor_ >= 0, "htl::AtomicFile: \"", path_.string(), "\" is committed already; nothing can be changed");
    if (::pwrite(descriptor_, bytes, count, static_cast<off_t>(position)) != static_cast<ssize_t>(count)) fail("write", temporary_);
  }
  /// @brief Makes the bytes durable and takes the name.
  /// @throws c10::ValueError naming the reason; the old file is then untouched
  void commit() {
    HTL_CHECK_STATE(descriptor_ >= 0, "htl::AtomicFile: \"", path_.string(), "\" is committed already");
    if (::fsync(descriptor_) != 0) fail("write", temporary_);
    if (::close(std::exchange(descriptor_, -1)) != 0) fail("write", temporary_);
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail("write", path_.string());
    committed_ = true;
    const std::string directory = path_.has_parent_path() ? path_.parent_path().string() : ".";
    const int opened = ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (opened < 0) return;  // a directory that may be written but not read: the rename is done, only its durability is the file system's
    ::fsync(opened);
    ::close(opened);
  }

 private:
  [[noreturn]] static void fail(const char* action, const std::string& path) {
    const std::string reason = std::strerror(errno);
    HTL_CHECK(false, "htl::AtomicFile: can't ", action, " \"", path, "\": ", reason);
  }
  std::filesystem::path path_;
  std::string temporary_;
  int descriptor_ = -1;
  bool committed_ = false;
};

/// @brief Removes the temporary files that killed processes of this machine left behind in a directory; those of living ones stay.
/// @returns how many were removed
inline int64_t remove_stale_temporaries(const std::filesystem::path& directory) {
  int64_t removed = 0;
  std::error_code ignored;
  for (const auto& entry : std::filesystem::directory_iterator(directory, ignored)) {  // NAME.PROCESS.NUMBER.tmp
    const std::string name = entry.path().filename().string();
    if (!name.ends_with(".tmp")) continue;
    const size_t number = name.rfind('.', name.size() - 5), process = number == std::string::npos || number == 0 ? number : name.rfind('.', number - 1);
    if (process == std::string::npos || process == 0) continue;
    const std::string digits = name.substr(process + 1, number - process - 1);
    if (digits.empty() || digits.size() > 9 || digits.find_first_not_of("0123456789") != std::string::npos) continue;
    if (::kill(static_cast<pid_t>(std::stol(digits)), 0) == 0 || errno != ESRCH) continue;
    removed += std::filesystem::remove(entry.path(), ignored) ? 1 : 0;
  }
  return removed;
}

/// @brief Writes a whole file through an AtomicFile.
/// @throws c10::ValueError naming the reason
inline void write_atomically(const std::filesystem::path& path, std::string_view bytes) {
  AtomicFile file(path);
  file.write(bytes.data(), bytes.size());
  file.commit();
}

/// @brief The bytes of a whole regular file.
/// @throws c10::ValueError if there is none or it can't be read
inline std::string read_file(const std::filesystem::path& path) {
  std::error_code error;
  HTL_CHECK(std::filesystem::is_regular_file(path, error), "htl::read_file: expected a file \"", path.string(), "\", found ",
            std::filesystem::exists(path, error) ? "something else" : "nothing");
  std::ifstream file(path, std::ios::binary);
  HTL_CHECK(file.is_open(), "htl::read_file: can't open \"", path.string(), "\": ", std::strerror(errno));
  std::string bytes(static_cast<size_t>(std::filesystem::file_size(path)), '\0');
  file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  HTL_CHECK(file.gcount() == static_cast<std::streamsize>(bytes.size()), "htl::read_file: \"", path.string(), "\" became shorter while it was read");
  return bytes;
}

}  // namespace htl
