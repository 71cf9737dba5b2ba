// SPDX-License-Identifier: Apache-2.0
/// @file row_loops.hpp
/// @brief Loops over one row, written so that a compiler vectorises them: no aliasing, several sums at a time.
#pragma once

#include <cstdint>

namespace htl::inline v0_1_0::detail {

/// @brief Σ a_j b_j, in 16 interleaved sums (a fixed order, whatever the machine).
template <class Scalar>
inline Scalar dot(const Scalar* __restrict__ a, const Scalar* __restrict__ b, int64_t count) {
  constexpr int64_t lanes = 16;
  Scalar sums[lanes] = {};
  int64_t j = 0;
  for (; j + lanes <= count; j += lanes)
    for (int64_t lane = 0; lane < lanes; ++lane) sums[lane] += a[j + lane] * b[j + lane];
  for (int64_t lane = 0; j < count; ++j, ++lane) sums[lane] += a[j] * b[j];
  for (int64_t half = lanes / 2; half > 0; half /= 2)
    for (int64_t lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  return sums[0];
}

/// @brief y += a x.
template <class Scalar>
inline void add_scaled(Scalar* __restrict__ y, Scalar a, const Scalar* __restrict__ x, int64_t count) {
  for (int64_t j = 0; j < count; ++j) y[j] += a * x[j];
}

/// @brief y = a x.
template <class Scalar>
inline void set_scaled(Scalar* __restrict__ y, Scalar a, const Scalar* __restrict__ x, int64_t count) {
  for (int64_t j = 0; j < count; ++j) y[j] = a * x[j];
}

/// @brief y += b.
template <class Scalar>
inline void add_row(Scalar* __restrict__ y, const Scalar* __restrict__ b, int64_t count) {
  for (int64_t j = 0; j < count; ++j) y[j] += b[j];
}

/// @brief y = max(y + b, 0); NaN stays NaN.
template <class Scalar>
inline void add_row_relu(Scalar* __restrict__ y, const Scalar* __restrict__ b, int64_t count) {
  for (int64_t j = 0; j < count; ++j) {
    const Scalar sum = y[j] + b[j];
    y[j] = sum < Scalar(0) ? Scalar(0) : sum;
  }
}

/// @brief d = a g where y > 0 or NaN, else 0; sum += d.
template <class Scalar>
inline void relu_backward_row(Scalar* __restrict__ d, Scalar* __restrict__ sum, const Scalar* __restrict__ g, const Scalar* __restrict__ y, Scalar a,
                              int64_t count) {
  for (int64_t j = 0; j < count; ++j) {
    const Scalar arrived = g[j], value = (y[j] <= Scalar(0) ? Scalar(0) : arrived) * a;
    d[j] = value;
    sum[j] += value;
  }
}

}  // namespace htl::detail
