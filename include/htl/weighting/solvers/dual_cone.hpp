// SPDX-License-Identifier: Apache-2.0
/// @file dual_cone.hpp
/// @brief DualCone: the nearest gradient that no task opposes, as weights; UPGrad and DualProj are made of it.
#pragma once

#include <htl/weighting/solvers/active_set.hpp>

namespace htl::inline v0_1_0 {

/// @brief min vᵀKv over v ≥ u, for one K and any number of u: Gᵀv is the projection of Gᵀu onto the cone {d : G_t · d ≥ 0 for all t}.
///
/// With z = v − u it is min ½ zᵀKz + (Ku)ᵀz over z ≥ 0: block principal pivoting from the tasks that Gᵀu opposes, and behind it a primal active-set method,
/// exact at the end. K is any finite symmetric positive semi-definite matrix. Where several v are minimal, one of them; Gᵀv is the same for all.
/// Nothing is regularised, with one exception: nearly opposed rows, whose difference K no longer holds (cosine below −1 + 1e-14), may leave no minimum at
/// all; then K + 16 (n + 8) · 2.2e-16 diag(K) is solved, rounding of K's own size.
/// Accuracy: Kv ≥ 0 and (v − u)ᵀKv = 0 up to rounding, below 1e-10 of the trace times the largest weight. Cost: about |F|³/6 + n|F| multiplications for each
/// of 1 to 4 rounds, F being the tasks whose weight rises; the rounds are bounded. Host memory only.
/// Source: Quinton & Rey 2024, proposition 1 (the dual of the projection); Júdice & Pires 1994 (block pivoting); Lawson & Hanson 1974 (active sets).
class DualCone {
 public:
  /// @brief Copies K [n, n].
  explicit DualCone(SquareMatrix k)
      : problem_(k, detail::unit_scale(detail::largest_diagonal(k)), detail::Domain::cone),
        linear_(static_cast<size_t>(k.n)),
        terms_(static_cast<size_t>(k.n)) {}

  /// @brief Finds v.
  /// @param u [n] the weights to stay above
  /// @param v [n] the result; v ≥ u exactly
  /// @return whether the optimality conditions hold up to rounding; the v with which the bounded rounds ended is usable anyhow
  bool project(std::span<const double> u, std::span<double> v) {
    const int64_t n = problem_.face().n();
    std::fill(linear_.begin(), linear_.end(), 0.0);
    double size = 0.0;
    for (int64_t i = 0; i < n; ++i) {
      const double share = u[static_cast<size_t>(i)];
      if (share == 0.0) continue;
      detail::add_scaled(linear_.data(), share, problem_.face().row(i), n);
      size += problem_.face().roots()[i] * std::abs(share);
    }
    for (int64_t i = 0; i < n; ++i) terms_[static_cast<size_t>(i)] = problem_.face().roots()[i] * size;
    const bool done = problem_.solve(linear_.data(), terms_.data());
    for (int64_t i = 0; i < n; ++i) v[static_cast<size_t>(i)] = u[static_cast<size_t>(i)] + problem_.x()[i];
    return done;
  }

 private:
  detail::ActiveSet problem_;
  std::vector<double> linear_, terms_;
};

}  // namespace htl
