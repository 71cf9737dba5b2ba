// SPDX-License-Identifier: Apache-2.0
/// @file equal_angles.hpp
/// @brief The direction that has the same angle with every task gradient, by the pseudo-inverse of their cosines (IMTL-G, ConFIG).
#pragma once

#include <htl/weighting/solvers/symmetric_eigen.hpp>

#include <span>

namespace htl::inline v0_1_0 {
namespace detail {

/// y = C⁺ 1 of the cosines C_ij = K_ij / √(K_ii K_jj): Σ_i y_i g_i / ‖g_i‖ has, as nearly as possible, the same inner product with every unit gradient.
struct EqualAngles {
  std::vector<double> y;       ///< 0 where g_i = 0, or where only rounding is left
  std::vector<double> norms;   ///< ‖g_i‖, scaled by a power of two that all have in common, so that any scale is in range
  std::vector<double> cosine;  ///< C y: the inner products with the unit gradients; 1 where the gradients are independent
  double square = 0.0;         ///< yᵀ C y, the square of the direction's length; 0: there is no such direction

  /// Eigenvalues of C up to `cutoff` times the largest count as 0.
  EqualAngles(SquareMatrix k, double cutoff);
};

inline EqualAngles::EqualAngles(SquareMatrix k, double cutoff) : y(static_cast<size_t>(k.n), 0.0), norms(y), cosine(y) {
  const int64_t n = k.n;
  double largest = 0.0;
  for (int64_t i = 0; i < n; ++i) largest = std::max(largest, k(i, i));
  if (!(largest > 0.0)) return;
  const int exponent = std::ilogb(largest) / 2;
  std::vector<double> cosines(static_cast<size_t>(n * n), 0.0);
  for (int64_t i = 0; i < n; ++i) norms[static_cast<size_t>(i)] = std::sqrt(std::scalbn(std::max(k(i, i), 0.0), -2 * exponent));
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j <= i; ++j) {
      const double both = norms[static_cast<size_t>(i)] * norms[static_cast<size_t>(j)];
      if (both > 0.0) cosines[static_cast<size_t>(i * n + j)] = i == j ? 1.0 : std::clamp(std::scalbn(k(i, j), -2 * exponent) / both, -1.0, 1.0);
    }
  const SymmetricEigen eigen({cosines.data(), n});
  const double smallest = cutoff * eigen.values.back();
  double kept = 0.0;  // the square of what is left of 1
  for (int64_t m = n - 1; m >= 0 && eigen.values[static_cast<size_t>(m)] > smallest; --m) {
    const double* const vector = eigen.vector(m);
    double part = 0.0;
    for (int64_t i = 0; i < n; ++i) part += norms[static_cast<size_t>(i)] > 0.0 ? vector[i] : 0.0;
    kept += part * part;
    for (int64_t i = 0; i < n; ++i) cosine[static_cast<size_t>(i)] += part * vector[i];
    part /= eigen.values[static_cast<size_t>(m)];
    square += part * part * eigen.values[static_cast<size_t>(m)];
    for (int64_t i = 0; i < n; ++i) y[static_cast<size_t>(i)] += part * vector[i];
  }
  double top = 0.0;
  for (const double value : y) top = std::max(top, std::abs(value));
  const bool nothing = kept <= 1e-24 * static_cast<double>(n);  // gradients that cancel: what is left of 1 is rounding
  if (nothing) square = 0.0;
  for (int64_t i = 0; i < n; ++i) {
    double& value = y[static_cast<size_t>(i)];
    if (nothing || norms[static_cast<size_t>(i)] == 0.0 || std::abs(value) <= 1e-14 * static_cast<double>(n) * top) value = 0.0;
  }
}

}  // namespace detail
}  // namespace htl
