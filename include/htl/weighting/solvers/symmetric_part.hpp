// SPDX-License-Identifier: Apache-2.0
/// @file symmetric_part.hpp
/// @brief positive_symmetric_part: the positive semi-definite matrix nearest to a square one.
#pragma once

#include <htl/weighting/solvers/small_matrix.hpp>

#include <vector>

namespace htl::inline v0_1_0 {

/// @brief [n, n], row by row: the symmetric positive semi-definite S with the smallest ‖A − S‖_F: (A + Aᵀ)/2 without its negative eigenvalues.
///
/// By cyclic Jacobi rotations, at most 30 sweeps of about 2 n³ multiplications, usually 5 to 8. Host memory only. Source: Higham 1988, theorem 2.1.
inline std::vector<double> positive_symmetric_part(SquareMatrix a) {
  const int64_t n = a.n;
  const auto size = static_cast<size_t>(n * n);
  double largest = 0.0;
  for (size_t i = 0; i < size; ++i) largest = std::max(largest, std::abs(a.data[i]));
  const double scale = detail::unit_scale(largest);
  std::vector<double> s(size), vectors(size, 0.0), result(size, 0.0);  // row k of `vectors` is the k-th eigenvector
  for (int64_t i = 0; i < n; ++i) {
    vectors[static_cast<size_t>(i * n + i)] = 1.0;
    for (int64_t j = 0; j < n; ++j) s[static_cast<size_t>(i * n + j)] = 0.5 * (a(i, j) * scale + a(j, i) * scale);
  }
  const auto rotate = [n](double* x, double* y, int64_t stride, double cosine, double sine) {
    for (int64_t i = 0; i < n; ++i) {
      const double u = x[i * stride], v = y[i * stride];
      x[i * stride] = cosine * u - sine * v;
      y[i * stride] = sine * u + cosine * v;
    }
  };
  for (int64_t sweep = 0, rotations = 1; sweep < 30 && rotations > 0; ++sweep) {
    rotations = 0;
    for (int64_t p = 0; p < n; ++p)
      for (int64_t q = p + 1; q < n; ++q) {
        double *const rows = s.data(), off = rows[p * n + q];
        if (std::abs(off) <= 1e-17) continue;  // beside a largest entry of 1
        ++rotations;
        const double half = (rows[q * n + q] - rows[p * n + p]) / (2.0 * off);
        const double tangent = (half < 0.0 ? -1.0 : 1.0) / (std::abs(half) + std::hypot(1.0, half));
        const double cosine = 1.0 / std::hypot(1.0, tangent), sine = tangent * cosine;
        rotate(rows + p * n, rows + q * n, 1, cosine, sine);
        rotate(rows + p, rows + q, n, cosine, sine);
        rotate(vectors.data() + p * n, vectors.data() + q * n, 1, cosine, sine);
        rows[p * n + q] = rows[q * n + p] = 0.0;
      }
  }
  for (int64_t k = 0; k < n; ++k) {
    const double eigenvalue = s[static_cast<size_t>(k * n + k)] / scale;
    if (!(eigenvalue > 0.0)) continue;
    const double* const vector = vectors.data() + k * n;
    for (int64_t i = 0; i < n; ++i) detail::add_scaled(result.data() + i * n, eigenvalue * vector[i], vector, n);
  }
  return result;
}

}  // namespace htl
