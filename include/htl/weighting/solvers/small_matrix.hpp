// SPDX-License-Identifier: Apache-2.0
/// @file small_matrix.hpp
/// @brief Sums and scales of small arrays in host memory, for the solvers of weightings.
#pragma once

#include <htl/weighting/active_gramian.hpp>

#include <algorithm>
#include <cmath>

namespace htl::inline v0_1_0::detail {

/// Σ a_i b_i in four chains, so that an addition need not wait for the one before.
inline double dot(const double* a, const double* b, int64_t n) {
  double s0 = 0.0, s1 = 0.0, s2 = 0.0, s3 = 0.0;
  int64_t i = 0;
  for (; i + 4 <= n; i += 4) {
    s0 += a[i] * b[i];
    s1 += a[i + 1] * b[i + 1];
    s2 += a[i + 2] * b[i + 2];
    s3 += a[i + 3] * b[i + 3];
  }
  for (; i < n; ++i) s0 += a[i] * b[i];
  return (s0 + s1) + (s2 + s3);
}

/// to += factor · from.
inline void add_scaled(double* to, double factor, const double* from, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] += factor * from[i];
}

/// The power of two that brings `largest` into [1, 2); 1 for 0. Multiplying by it rounds nothing.
inline double unit_scale(double largest) { return largest > 0.0 ? std::ldexp(1.0, std::clamp(-std::ilogb(largest), -1022, 1023)) : 1.0; }

/// The largest number of the diagonal.
inline double largest_diagonal(SquareMatrix k) {
  double largest = 0.0;
  for (int64_t i = 0; i < k.n; ++i) largest = std::max(largest, k(i, i));
  return largest;
}

}  // namespace htl::inline v0_1_0::detail
