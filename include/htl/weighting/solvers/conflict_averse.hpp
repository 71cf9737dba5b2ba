// SPDX-License-Identifier: Apache-2.0
/// @file conflict_averse.hpp
/// @brief conflict_averse: CAGrad's inner problem, a linear function plus a norm over the simplex.
#pragma once

#include <htl/weighting/solvers/active_set.hpp>

namespace htl::inline v0_1_0 {

/// @brief What conflict_averse() found beside w.
struct ConflictAverse {
  /// ρ / ‖g_w‖, the factor of w in CAGrad's weights 1/n + factor · w; 0 where c = 0, and where g_w vanishes.
  double factor = 0.0;
  /// Whether g_w (or g_0, which is one) is 0 up to rounding, so that the formula has no value.
  bool vanishes = false;
  /// Whether the search came to its end.
  bool converged = true;
};

/// @brief min over the simplex of g_w · g_0 + ρ ‖g_w‖ with g_w = Σ w_t G_t, g_0 = Σ G_t / n, ρ = c ‖g_0‖, from K alone: wᵀK1/n + ρ √(wᵀKw).
///
/// As ρ r = min over θ of (r²/θ + ρ²θ)/2, the minimum is that of ½ wᵀKw + θ wᵀK1/n for the θ with √(wᵀKw) = ρθ. On a face w is linear in θ and that
/// equation has a closed solution; ‖g_w(θ)‖/θ falls with θ, so a bracket holds the root. Each θ is one simplex_qp that begins with the last one's face;
/// usually 2 to 5. w is as exact as that solver's, the duality gap Σ w_t (Kv)_t − min_t (Kv)_t at v = 1/n + factor · w is rounding.
/// K is any finite symmetric positive semi-definite matrix. Host memory only.
/// @param k [n, n]
/// @param c ≥ 0
/// @param w [n] the result
/// Source: Liu et al., NeurIPS 2021, Algorithm 1.
inline ConflictAverse conflict_averse(SquareMatrix k, double c, std::span<double> w) {
  const int64_t n = k.n;
  const double share = 1.0 / static_cast<double>(n);
  std::fill(w.begin(), w.end(), share);
  detail::ActiveSet problem(k, detail::unit_scale(detail::largest_diagonal(k)), detail::Domain::simplex);
  const detail::Face &face = problem.face();
  std::vector<double> storage(static_cast<size_t>(4 * n), 0.0);
  double *const b = storage.data(), *const linear = b + n, *const terms = linear + n, *const move = terms + n;
  double mean_square = 0.0, size = 0.0, largest = 0.0, smallest = std::numeric_limits<double>::infinity();
  for (int64_t i = 0; i < n; ++i) {
    detail::add_scaled(b, share, face.row(i), n);
    size += share * face.roots()[i];
    largest = std::max(largest, face.roots()[i]);
    if (face.roots()[i] > 0.0) smallest = std::min(smallest, face.roots()[i]);
  }
  for (int64_t i = 0; i < n; ++i) mean_square += share * b[i];
  const double rho = c * std::sqrt(std::max(mean_square, 0.0));
  if (!(c > 0.0)) return {};
  if (!(mean_square > face.rounding() * size * size)) return {.factor = 0.0, .vanishes = true, .converged = true};

  double low = 0.0, high = largest / rho, theta = std::min(1.0 / c, high);
  ConflictAverse result{.factor = 0.0, .vanishes = false, .converged = false};
  for (int64_t round = 0; round < 100; ++round) {
    for (int64_t i = 0; i < n; ++i) {
      linear[i] = theta * b[i];
      terms[i] = theta * face.roots()[i] * size;
    }
    if (!problem.solve(linear, terms, round > 0)) break;
    double square = 0.0, extent = 0.0;
    for (const int64_t i : face.members()) {
      square += problem.x()[i] * detail::dot(face.row(i), problem.x(), n);
      extent += problem.x()[i] * face.roots()[i];
    }
    const double norm = std::sqrt(std::max(square, 0.0));
    extent = std::max(extent, smallest);  // where a zero gradient takes nearly all
    result.vanishes = !(square > face.rounding() * extent * extent);
    // what rounding leaves of the norm and of ρ decides only where the search stalls: the root may be an interval (c = 1)
    const double blur = round < 12 ? 1e-14 : 1e-14 + face.rounding() * (extent * extent / square + size * size / mean_square);
    result.converged = result.vanishes || std::abs(norm - rho * theta) <= blur * norm;
    if (result.converged) break;
    (norm > rho * theta ? low : high) = theta;
    problem.face().newton(b, move);  // dw/dθ on this face
    double fall = 0.0;               // ‖g_w‖² = constant + θ² · fall there
    for (const int64_t i : face.members()) fall -= b[i] * move[i];
    const double constant = square - theta * theta * fall;
    double next = constant > 0.0 && rho * rho > fall ? std::sqrt(constant / (rho * rho - fall)) : 0.0;
    if (!(next > low && next < high)) next = low > 0.0 ? std::sqrt(low * high) : 1e-3 * high;
    result.converged = std::abs(next - theta) <= 1e-15 * theta || high <= low * (1.0 + 1e-15);
    if (result.converged) break;
    theta = next;
  }
  std::copy_n(problem.x(), n, w.begin());
  if (!result.vanishes) result.factor = 1.0 / theta;  // = ρ / ‖g_w‖, with the digits of w's optimality
  return result;
}

}  // namespace htl
