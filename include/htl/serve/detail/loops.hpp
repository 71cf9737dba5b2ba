// SPDX-License-Identifier: Apache-2.0
/// @file loops.hpp
/// @brief The loops over rows that serving adds to those of the layers.
#pragma once

#include <htl/nn/detail/row_loops.hpp>

#include <ATen/core/Tensor.h>

#include <type_traits>

namespace htl::inline v0_1_0::detail {

/// @brief Rows of a matrix in memory, which may lie apart.
template <class Scalar>
struct RowsOf {
  Scalar* data;    ///< the first row
  int64_t stride;  ///< elements from row to row
  int64_t width;   ///< elements in a row

  /// @brief The rows of a tensor [n, D] whose columns lie side by side.
  explicit RowsOf(const at::Tensor& matrix) : data(matrix.data_ptr<Scalar>()), stride(matrix.stride(0)), width(matrix.size(1)) {}
  /// @brief One row.
  Scalar* operator[](int64_t row) const { return data + row * stride; }
};

/// @brief y = a u + b v.
template <class Scalar>
inline void set_sum(Scalar* __restrict__ y, Scalar a, const Scalar* __restrict__ u, Scalar b, const Scalar* __restrict__ v, int64_t count) {
  for (int64_t j = 0; j < count; ++j) y[j] = a * u[j] + b * v[j];
}

/// @brief Σ (u_j − v_j)(a_j + b_j), in 16 interleaved sums.
template <class Scalar>
inline Scalar dot_of_difference(const Scalar* __restrict__ u, const Scalar* __restrict__ v, const Scalar* __restrict__ a, const Scalar* __restrict__ b,
                                int64_t count) {
  constexpr int64_t lanes = 16;
  Scalar sums[lanes] = {}, total = 0;
  int64_t j = 0;
  for (; j + lanes <= count; j += lanes)
    for (int64_t lane = 0; lane < lanes; ++lane) sums[lane] += (u[j + lane] - v[j + lane]) * (a[j + lane] + b[j + lane]);
  for (; j < count; ++j) total += (u[j] - v[j]) * (a[j] + b[j]);
  for (const Scalar sum : sums) total += sum;
  return total;
}

/// @brief y += a + b.
template <class Scalar>
inline void add_two_rows(Scalar* __restrict__ y, const Scalar* __restrict__ a, const Scalar* __restrict__ b, int64_t count) {
  for (int64_t j = 0; j < count; ++j) y[j] += a[j] + b[j];
}

/// @brief y = max(y + b + Σ_k c_k M_k, 0) for few rows M_k, in one pass; NaN stays NaN.
template <class Scalar>
inline void add_rows_relu(Scalar* __restrict__ y, const Scalar* __restrict__ b, const Scalar* __restrict__ coefficients, const Scalar* __restrict__ matrix,
                          int64_t terms, int64_t count) {
  constexpr int64_t lanes = 32;
  const auto part = [&](int64_t first, auto width) {
    Scalar sums[lanes];
    for (int64_t lane = 0; lane < width; ++lane) sums[lane] = y[first + lane] + b[first + lane];
    for (int64_t k = 0; k < terms; ++k)
      for (int64_t lane = 0; lane < width; ++lane) sums[lane] += coefficients[k] * matrix[k * count + first + lane];
    for (int64_t lane = 0; lane < width; ++lane) y[first + lane] = sums[lane] < Scalar(0) ? Scalar(0) : sums[lane];
  };
  int64_t j = 0;
  for (; j + lanes <= count; j += lanes) part(j, std::integral_constant<int64_t, lanes>());
  if (j < count) part(j, count - j);
}

}  // namespace htl::detail
