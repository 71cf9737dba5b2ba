// SPDX-License-Identifier: Apache-2.0
/// @file fuzz.hpp
/// @brief What every fuzz target needs: an input as a file, the difference between a sentence and a finding, and properties that must hold.
#pragma once

#include <support/temporary_folder.hpp>

#include <c10/util/Exception.h>
#include <c10/util/Logging.h>

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <string_view>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace htl::fuzz {

/// @brief The bytes of an input.
inline std::string_view text_of(const uint8_t* data, size_t size) { return {reinterpret_cast<const char*>(data), size}; }

/// @brief Stops the program where a property does not hold, so that the input is kept.
inline void require(bool holds, std::string_view property, std::string_view details = "") {
  if (holds) return;
  std::fprintf(stderr, "does not hold: %.*s %.*s\n", static_cast<int>(property.size()), property.data(), static_cast<int>(details.size()), details.data());
  std::abort();
}

/// @brief A file in memory under a path of its own; each write replaces what it holds.
class MemoryFile {
 public:
  MemoryFile() : descriptor_(::memfd_create("htl_fuzz", MFD_CLOEXEC)), path_("/proc/self/fd/" + std::to_string(descriptor_)) {
    require(descriptor_ >= 0, "a file in memory");
  }
  ~MemoryFile() { ::close(descriptor_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  const std::string& write(std::string_view bytes) const {
    require(::ftruncate(descriptor_, 0) == 0 && ::pwrite(descriptor_, bytes.data(), bytes.size(), 0) == static_cast<ssize_t>(bytes.size()),
            "a write to memory");
    return path_;
  }

 private:
  int descriptor_;
  std::string path_;
};

/// @brief A folder of this process, in memory where the machine has such a place; it goes at exit.
inline test::TemporaryFolder scratch_folder() {
  std::error_code ignored;
  return test::TemporaryFolder(std::filesystem::is_directory("/dev/shm", ignored) ? "/dev/shm" : std::filesystem::temp_directory_path());
}

/// @brief Runs a reader; its own sentences are what a bad input should give. Everything else that is thrown ends the program.
/// @return whether it read the input
template <class Read>
bool reads(Read&& read) {
  static const bool is_quick = [] {  // an error's backtrace takes longer than most inputs, and nobody reads it here
    c10::SetStackTraceFetcher([] { return std::string(); });
    return true;
  }();
  (void)is_quick;
  try {
    read();
    return true;
  } catch (const c10::Error& error) {
    const std::string text = error.what_without_backtrace();
    require(text.starts_with("htl"), "an error is a sentence of the library:", text);
    return false;
  }
}

}  // namespace htl::fuzz
