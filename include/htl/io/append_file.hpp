// SPDX-License-Identifier: Apache-2.0
/// @file append_file.hpp
/// @brief AppendFile: a log that grows by whole records, and can be cut back to where a checkpoint was. POSIX.
#pragma once

#include <htl/task/check.hpp>

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>

namespace htl::inline v0_1_0 {

/// @brief Appends records to a file, unbuffered: what append() has returned from is in the file, even if the process is killed a moment later.
///
/// A record that can't be written whole (a full disk) is taken back before the exception. size() goes into a checkpoint; keep(size) of the run that goes on
/// from it takes away what came after. sync() makes it durable against a stop of the machine.
class AppendFile {
 public:
  /// @brief Opens a file, or makes it; nothing is cut off.
  /// @throws c10::ValueError naming the reason
  explicit AppendFile(std::filesystem::path path) : path_(std::move(path)), descriptor_(::open(path_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0666)) {
    if (descriptor_ < 0) fail("open");
    size_ = ::lseek(descriptor_, 0, SEEK_END);
    if (size_ < 0) {
      ::close(descriptor_);
      fail("measure");
    }
  }
  ~AppendFile() { ::close(descriptor_); }
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;

  /// @brief Adds a record at the end.
  /// @throws c10::ValueError naming the reason; the file is then as it was before
  void append(std::string_view record) {
    size_t done = 0;
    while (done < record.size()) {
      const ssize_t written = ::pwrite(descriptor_, record.data() + done, record.size() - done, static_cast<off_t>(size_) + static_cast<off_t>(done));
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) {
        const int reason = errno;
        [[maybe_unused]] const int cut = ::ftruncate(descriptor_, static_cast<off_t>(size_));
        errno = reason;
        fail("write");
      }
      done += static_cast<size_t>(written);
    }
    size_ += static_cast<int64_t>(record.size());
  }
  /// @brief Cuts off everything behind the first `size` bytes.
  /// @throws c10::ValueError if the file is shorter than that: a part of it was lost
  void keep(int64_t size) {
    HTL_CHECK(size >= 0 && size <= size_, "htl::AppendFile: expected at least ", size, " bytes in \"", path_.string(), "\", found ", size_,
              "; a part of the file was lost");
    if (::ftruncate(descriptor_, static_cast<off_t>(size)) != 0) fail("write");
    size_ = size;
  }
  /// @brief Makes all of it durable.
  /// @throws c10::ValueError naming the reason
  void sync() const {
    if (::fdatasync(descriptor_) != 0) fail("write");
  }
  /// @brief Bytes.
  int64_t size() const { return size_; }

 private:
  [[noreturn]] void fail(const char* action) const {
    const std::string reason = std::strerror(errno);
    HTL_CHECK(false, "htl::AppendFile: can't ", action, " \"", path_.string(), "\": ", reason);
  }
  std::filesystem::path path_;
  int descriptor_;
  int64_t size_ = 0;
};

}  // namespace htl
