// SPDX-License-Identifier: Apache-2.0
/// @file mapped_safetensors.hpp
/// @brief map_safetensors: the tensors of a file without reading it into memory, for tables larger than that. POSIX.
#pragma once

#include <htl/io/safetensors.hpp>

#include <ATen/ops/from_blob.h>

#include <sys/mman.h>
#include <sys/stat.h>

#include <memory>

namespace htl::inline v0_1_0 {

namespace detail {

/// A file's bytes in this process's address space, until the last tensor over them goes.
class Mapping {
 public:
  explicit Mapping(const std::filesystem::path& path) {
    const std::string source = quoted({path.string()});
    const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    HTL_CHECK(descriptor >= 0, "htl::map_safetensors: can't open ", source, ": ", std::strerror(errno));
    struct stat status {};
    const bool is_file = ::fstat(descriptor, &status) == 0 && S_ISREG(status.st_mode);
    size_ = is_file ? static_cast<size_t>(status.st_size) : 0;
    // private: what a user writes into a tensor stays in his process
    if (size_ > 0) bytes_ = ::mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, descriptor, 0);
    const std::string reason = std::strerror(errno);
    ::close(descriptor);
    HTL_CHECK(is_file, "htl::map_safetensors: expected a file ", source, ", found something else");
    HTL_CHECK(bytes_ != MAP_FAILED, "htl::map_safetensors: can't map ", source, ": ", reason);
  }
  ~Mapping() {
    if (bytes_) ::munmap(bytes_, size_);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  char* bytes() const { return static_cast<char*>(bytes_); }
  size_t size() const { return size_; }

 private:
  void* bytes_ = nullptr;
  size_t size_ = 0;
};

}  // namespace detail

/// @brief Named tensors that lie in a safetensors file: memory is taken page by page as they are read, and shared by all processes that map the file.
///
/// Everything is checked as load_safetensors() does. The checksum needs one pass over all data, after which the pages may leave memory again; without
/// `verifies` opening takes microseconds, whatever the size. Writing into a tensor changes this process's copy, never the file. The mapping goes with its last
/// tensor. **A file that is changed in place or cut short while it is mapped changes or kills its readers**: replace files as save_safetensors() does, under
/// the old name, and mappings keep the old bytes. A tensor that is not aligned for its type (other writers) is copied to memory.
/// @param path a regular file
/// @param verifies whether the data are compared with the checksum of save_safetensors(), and bools checked
/// @throws c10::ValueError as load_safetensors(), or if the file can't be mapped
inline TensorFile map_safetensors(const std::filesystem::path& path, bool verifies = true) {
  const auto mapping = std::make_shared<detail::Mapping>(path);
  size_t position = 0;
  const auto read = [&](void* destination, uint64_t count) {
    std::memcpy(destination, mapping->bytes() + position, count);
    position += count;
  };
  const auto in_memory = detail::into_memory(read);
  const auto take = [&](const detail::TensorEntry& entry) {
    char* const place = mapping->bytes() + position;
    if (entry.begin == entry.end || reinterpret_cast<uintptr_t>(place) % c10::elementSize(entry.type) != 0) return in_memory(entry);
    position += entry.end - entry.begin;
    return at::from_blob(
        place, entry.shape, [mapping](void*) {}, entry.type);
  };
  return detail::read_safetensors(mapping->size(), quoted({path.string()}), read, take, verifies);
}

}  // namespace htl
