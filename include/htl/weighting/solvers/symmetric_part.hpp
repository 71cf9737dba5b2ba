// SPDX-License-Identifier: Apache-2.0
/// @file symmetric_part.hpp
/// @brief positive_symmetric_part: the positive semi-definite matrix nearest to a square one.
#pragma once

#include <htl/weighting/solvers/small_matrix.hpp>
#include <htl/weighting/solvers/symmetric_eigen.hpp>

#include <vector>

namespace htl::inline v0_1_0 {

/// @brief [n, n], row by row: the symmetric positive semi-definite S with the smallest ‖A − S‖_F: (A + Aᵀ)/2 without its negative eigenvalues.
///
/// By SymmetricEigen, and n³ operations more. Host memory only. Source: Higham 1988, theorem 2.1.
inline std::vector<double> positive_symmetric_part(SquareMatrix a) {
  const int64_t n = a.n;
  std::vector<double> s(static_cast<size_t>(n * n)), result(s.size(), 0.0);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j) s[static_cast<size_t>(i * n + j)] = 0.5 * a(i, j) + 0.5 * a(j, i);
  const SymmetricEigen eigen({s.data(), n});
  for (int64_t k = n - 1; k >= 0 && eigen.values[static_cast<size_t>(k)] > 0.0; --k)
    for (int64_t i = 0; i < n; ++i) detail::add_scaled(result.data() + i * n, eigen.values[static_cast<size_t>(k)] * eigen.vector(k)[i], eigen.vector(k), n);
  return result;
}

}  // namespace htl
