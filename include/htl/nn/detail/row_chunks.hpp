// SPDX-License-Identifier: Apache-2.0
/// @file row_chunks.hpp
/// @brief Parallel loops over rows in chunks that depend on the problem's size alone, so that sums do not depend on the thread count.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include <algorithm>
#include <cstdint>

namespace htl::inline v0_1_0::detail {

/// @brief Rows in chunks of about 16,384 elements, between 16 and 4,096 rows.
struct RowChunks {
  int64_t rows;   ///< rows in all
  int64_t size;   ///< rows in a chunk (the last may have fewer)
  int64_t count;  ///< chunks; 0 without rows

  /// @brief Chunks for `rows` rows of `width` elements.
  RowChunks(int64_t row_count, int64_t width)
      : rows(row_count), size(std::clamp<int64_t>(16384 / std::max<int64_t>(width, 1), 16, 4096)), count((row_count + size - 1) / size) {}

  /// @brief Calls `body(chunk, first_row, end_row)` for every chunk, on any thread.
  template <class Body>
  void for_each(const Body& body) const {
    at::parallel_for(0, count, 1, [&](int64_t first, int64_t last) {
      for (int64_t chunk = first; chunk < last; ++chunk) body(chunk, chunk * size, std::min(rows, (chunk + 1) * size));
    });
  }
};

/// @brief Whether the plain CPU loops apply: fp32 or fp64 in host memory. Everything else takes the ATen way.
inline bool has_cpu_loops(const at::Tensor& tensor) {
  return tensor.device().is_cpu() && (tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kDouble);
}

}  // namespace htl::detail
