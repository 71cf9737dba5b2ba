// SPDX-License-Identifier: Apache-2.0
/// @file large_memory.hpp
/// @brief Memory of large tables and of what is remembered beside them: huge pages, and zeros that cost nothing until they are touched.
#pragma once

#include <htl/task/check.hpp>

#include <ATen/ops/from_blob.h>
#include <ATen/ops/zeros.h>

#include <cstdlib>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace htl::inline v0_1_0::detail {

/// From this size on, rows in random order miss the processor's table of 4 KiB pages at almost every row.
inline constexpr size_t kHugeFrom = size_t{32} << 20;

/// @brief Asks Linux to back large memory with 2 MiB pages: reading rows in random order from 400 MB is then 2 to 3 times as fast.
///
/// A wish for these addresses only; elsewhere, for small memory, or where the system doesn't grant it, nothing happens. Call it before the first touch.
inline void ask_for_huge_pages(void* memory, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (bytes < kHugeFrom) return;
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE)), begin = (reinterpret_cast<uintptr_t>(memory) + page - 1) / page * page,
             end = (reinterpret_cast<uintptr_t>(memory) + bytes) / page * page;
  if (begin < end) (void)madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);  // NOLINT(performance-no-int-to-ptr): rounded to pages
#else
  (void)memory, (void)bytes;
#endif
}
/// @brief The same for a tensor that was just made by at::empty; nothing unless it is on the CPU.
inline void ask_for_huge_pages(const at::Tensor& fresh) {
  if (fresh.is_cpu()) ask_for_huge_pages(fresh.mutable_data_ptr(), fresh.nbytes());
}

/// @brief Zeros. On the CPU the pages come from the operating system when they are touched first, so that a table of any size costs nothing here.
inline at::Tensor zeros_on_touch(at::IntArrayRef sizes, at::ScalarType type, const at::Device& device) {
  const auto options = at::TensorOptions().dtype(type).device(device);
  const int64_t count = c10::multiply_integers(sizes);
  if (!device.is_cpu() || count == 0) return at::zeros(sizes, options);
  void* const memory = std::calloc(static_cast<size_t>(count), c10::elementSize(type));
  HTL_CHECK_STATE(memory != nullptr, "htl: no memory for numbers of shape ", sizes, " in ", type);
  ask_for_huge_pages(memory, static_cast<size_t>(count) * c10::elementSize(type));
  return at::from_blob(
      memory, sizes, [](void* pointer) { std::free(pointer); }, options);
}

}  // namespace htl::detail
