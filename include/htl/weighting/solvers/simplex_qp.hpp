// SPDX-License-Identifier: Apache-2.0
/// @file simplex_qp.hpp
/// @brief simplex_qp: a convex quadratic over weights that add up to 1, with lower bounds; MGDA, PE-LTR and SDMGrad are this problem.
#pragma once

#include <htl/weighting/solvers/active_set.hpp>

namespace htl::inline v0_1_0 {

/// @brief min ½ wᵀKw + bᵀw over Σw = 1, w ≥ lower: block principal pivoting, and behind it a primal active-set method, exact at the end.
///
/// K is any finite symmetric positive semi-definite matrix: singular, with zero rows, equal or opposed rows, of any size. Nothing is regularised. Where
/// several w are minimal, one of them; Gᵀw is the same for all. The result is feasible, w ≥ lower exactly, Σw up to rounding.
/// Accuracy: the duality gap wᵀ(Kw + b) − min over the feasible set is rounding, below 1e-10 of the trace (and of |b|). Cost: about n³/6 multiplications for
/// each of 1 to 4 rounds; the rounds are bounded. Host memory only.
/// @param k [n, n]
/// @param linear b [n]; empty = 0
/// @param lower [n] with Σ ≤ 1; empty = 0
/// @param w [n] the result
/// @return whether the optimality conditions hold up to rounding; the feasible w with which the bounded rounds ended is usable anyhow
/// Source: Júdice & Pires 1994 (block pivoting); Wolfe 1976 and Nocedal & Wright, ch. 16 (active sets).
inline bool simplex_qp(SquareMatrix k, std::span<const double> linear, std::span<const double> lower, std::span<double> w) {
  const int64_t n = k.n;
  if (n == 0) return true;
  double free = 1.0;  // what the bounds leave: w = lower + free · x with x in the simplex
  for (const double bound : lower) free -= bound;
  if (n == 1 || !(free > 0.0)) {
    for (int64_t i = 0; i < n; ++i) w[static_cast<size_t>(i)] = n == 1 ? 1.0 : lower[static_cast<size_t>(i)];
    return true;
  }
  double largest = detail::largest_diagonal(k);
  for (const double b : linear) largest = std::max(largest, std::abs(b));
  const double scale = detail::unit_scale(largest);
  detail::ActiveSet problem(k, scale, detail::Domain::simplex);
  std::vector<double> c(static_cast<size_t>(2 * n), 0.0);
  double* const terms = c.data() + n;
  double size = 0.0;
  for (int64_t i = 0; i < static_cast<int64_t>(lower.size()); ++i) {
    const double share = lower[static_cast<size_t>(i)] / free;
    if (share == 0.0) continue;
    detail::add_scaled(c.data(), share, problem.face().row(i), n);
    size += problem.face().roots()[i] * std::abs(share);
  }
  for (int64_t i = 0; i < n; ++i) {
    const double b = linear.empty() ? 0.0 : linear[static_cast<size_t>(i)] * scale / free;
    c[static_cast<size_t>(i)] += b;
    terms[i] = problem.face().roots()[i] * size + std::abs(b);
  }
  const bool done = problem.solve(c.data(), terms);
  for (int64_t i = 0; i < n; ++i) w[static_cast<size_t>(i)] = (lower.empty() ? 0.0 : lower[static_cast<size_t>(i)]) + free * problem.x()[i];
  return done;
}

/// @brief min ½ wᵀKw over the simplex: the weights of the shortest convex combination of gradients.
inline bool simplex_qp(SquareMatrix k, std::span<double> w) { return simplex_qp(k, {}, {}, w); }

}  // namespace htl
