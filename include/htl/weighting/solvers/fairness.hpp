// SPDX-License-Identifier: Apache-2.0
/// @file fairness.hpp
/// @brief fairness: the positive weights with K w = w^(−1/α); Nash-MTL's bargaining and FairGrad's α-fairness.
#pragma once

#include <htl/weighting/solvers/small_matrix.hpp>

#include <limits>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

namespace detail {

/// min ½ pᵀCp − Σ β_i² φ(p_i / β_i) with φ'(u) = u^(−1/α), by Newton steps; C has a unit diagonal.
class FairnessNewton {
 public:
  FairnessNewton(SquareMatrix k, double alpha);
  /// Whether a minimum exists, as far as float64 can tell.
  bool solve();
  /// w = p / √K_ii; false where a float64 can't hold one.
  bool weights(std::span<double> w) const;

 private:
  double power(double u) const { return exponent_ == -1.0 ? 1.0 / u : std::pow(u, exponent_); }
  double alone(double rest) const;
  void substitute(double* v) const;
  bool step();
  double line_search(double slope) const;

  int64_t n_;
  double exponent_;       // −1/α
  double largest_ = 0.0;  // of the gradients' norms
  double change_ = std::numeric_limits<double>::infinity(), error_ = change_;
  bool possible_ = true;
  int64_t lost_ = 0;
  std::vector<double> storage_;
  double *c_, *factor_, *root_, *beta_, *p_, *cp_, *terms_, *target_, *d_, *cd_, *z_;
};

inline FairnessNewton::FairnessNewton(SquareMatrix k, double alpha) : n_(k.n), exponent_(-1.0 / alpha), storage_(static_cast<size_t>(2 * k.n * k.n + 9 * k.n)) {
  double* next = storage_.data();
  for (double** matrix : {&c_, &factor_}) *matrix = std::exchange(next, next + n_ * n_);
  for (double** vector : {&root_, &beta_, &p_, &cp_, &terms_, &target_, &d_, &cd_, &z_}) *vector = std::exchange(next, next + n_);
  for (int64_t i = 0; i < n_; ++i) {
    root_[i] = std::sqrt(std::max(k(i, i), 0.0));
    possible_ = possible_ && root_[i] > 0.0 && std::isfinite(root_[i]);
    largest_ = std::max(largest_, root_[i]);
  }
  if (!possible_) return;
  for (int64_t i = 0; i < n_; ++i) {
    for (int64_t j = 0; j < n_; ++j) c_[i * n_ + j] = i == j ? 1.0 : k(i, j) / root_[i] / root_[j];
    beta_[i] = std::pow(root_[i] / largest_, (1.0 - alpha) / (1.0 + alpha));  // alone, task i has p = β
  }
  std::copy_n(beta_, n_, p_);
  for (int64_t sweep = 0; sweep < 3; ++sweep)  // each task's best weight given the others': orders of magnitude, which Newton steps find slowly
    for (int64_t i = 0; i < n_; ++i) p_[i] = beta_[i] * alone((dot(c_ + i * n_, p_, n_) - p_[i]) / beta_[i]);
}

/// The u > 0 with u + rest = u^(−1/α), nearly.
inline double FairnessNewton::alone(double rest) const {
  if (exponent_ == -1.0) {
    const double root = std::hypot(rest, 2.0);
    return rest > 0.0 ? 2.0 / (rest + root) : 0.5 * (root - rest);
  }
  if (rest > 0.0) {  // in x = log u, where huge α make u tiny
    double x = std::log1p(rest) / exponent_;
    for (int64_t round = 0; round < 3; ++round) {
      const double u = std::exp(x), sum = u + rest;
      x -= (exponent_ * x - std::log(sum)) / (exponent_ - u / sum);
    }
    return std::max(std::exp(x), 1e-280);
  }
  double u = std::max(1.0, -rest);  // the function is concave: from here on the iterates only rise
  for (int64_t round = 0; round < 4; ++round) {
    const double right = power(u);
    u -= (u + rest - right) / (1.0 - exponent_ * right / u);
  }
  return u;
}

/// How far to go along d: near the minimum of the convex objective there.
inline double FairnessNewton::line_search(double slope) const {
  double border = std::numeric_limits<double>::infinity(), along = 0.0, curvature = 0.0;
  for (int64_t i = 0; i < n_; ++i) {
    if (d_[i] < 0.0) border = std::min(border, p_[i] / -d_[i]);
    along += d_[i] * cp_[i];
    curvature += d_[i] * cd_[i];
  }
  const auto derivative = [&](double t) {
    double sum = along + t * curvature;
    for (int64_t i = 0; i < n_; ++i) sum -= d_[i] * beta_[i] * power((p_[i] + t * d_[i]) / beta_[i]);
    return sum;
  };
  double low = 0.0, high = border, t = std::min(1.0, 0.95 * border);
  for (int64_t round = 0; round < 40; ++round) {
    const double here = derivative(t);
    if (std::abs(here) <= 0.1 * std::abs(slope)) return t;
    (here < 0.0 ? low : high) = t;
    t = !std::isfinite(high) ? 8.0 * t : here < 0.0 && high == border ? 0.5 * (low + high) : low > 0.0 ? std::sqrt(low * high) : 0.25 * high;
    if (high <= low * (1.0 + 1e-9)) break;
  }
  return std::min(1.0, 0.5 * border);  // the slope is rounding of its largest terms
}

/// v ← (C + diag h)⁻¹ v by the last step's factor.
inline void FairnessNewton::substitute(double* v) const {
  for (int64_t i = 0; i < n_; ++i) v[i] = (v[i] - dot(factor_ + i * n_, v, i)) * z_[i];
  for (int64_t i = n_ - 1; i >= 0; --i) {
    v[i] *= z_[i];
    add_scaled(v, -v[i], factor_ + i * n_, i);
  }
}

/// A Newton step; false where none helps any more.
inline bool FairnessNewton::step() {
  constexpr double epsilon = std::numeric_limits<double>::epsilon();
  double error = 0.0;
  bool lost = false;  // whether a target has sunk below the rounding of the sum that should meet it
  for (int64_t i = 0; i < n_; ++i) {
    terms_[i] = 0.0;
    for (int64_t j = 0; j < n_; ++j) terms_[i] += std::abs(c_[i * n_ + j]) * p_[j];
    cp_[i] = dot(c_ + i * n_, p_, n_);
    target_[i] = beta_[i] * power(p_[i] / beta_[i]);
    error = std::max(error, std::abs(cp_[i] - target_[i]) / (terms_[i] + target_[i]));
    lost = lost || target_[i] < 4.0 * epsilon * terms_[i];
  }
  for (int64_t i = 0; i < n_; ++i) {  // (C + diag h) d = target − Cp
    double* const row = factor_ + i * n_;
    for (int64_t j = 0; j < i; ++j) row[j] = (c_[i * n_ + j] - dot(row, factor_ + j * n_, j)) * z_[j];
    const double own = 1.0 - exponent_ * target_[i] / p_[i], pivot = own - dot(row, row, i);
    row[i] = std::sqrt(std::max(pivot, epsilon * own));
    z_[i] = 1.0 / row[i];
  }
  for (int64_t i = 0; i < n_; ++i) d_[i] = target_[i] - cp_[i];
  substitute(d_);
  double change = 0.0, slope = 0.0;
  for (int64_t i = 0; i < n_; ++i) {
    change = std::max(change, std::abs(d_[i]) / p_[i]);
    slope += d_[i] * (cp_[i] - target_[i]);
  }
  const bool better = change < 0.5 * change_ || error < 0.5 * error_ || !(change < 1e-6);
  error_ = error;
  change_ = change;
  lost_ = lost && change > 1e-2 ? lost_ + 1 : 0;
  if (lost_ == 16) return false;
  if (!better || !std::isfinite(change) || change <= epsilon) return false;
  double t = 1.0;
  if (change > 0.25 / (1.0 - exponent_)) {  // farther than Newton's own convergence reaches
    for (int64_t i = 0; i < n_; ++i) cd_[i] = dot(c_ + i * n_, d_, n_);
    t = line_search(slope);
  }
  for (int64_t i = 0; i < n_; ++i) p_[i] += t * d_[i];
  return true;
}

inline bool FairnessNewton::solve() {
  if (!possible_) return false;
  for (int64_t round = 0; round < 100 && step(); ++round) continue;
  if (!(change_ <= 1e-6 && error_ <= 1e-12 - 8.0 * std::numeric_limits<double>::epsilon() * exponent_)) return false;
  substitute(terms_);  // how far one rounding in each entry of K moves p
  for (int64_t i = 0; i < n_; ++i)
    if (!(std::abs(terms_[i]) * std::numeric_limits<double>::epsilon() <= 1e-6 * p_[i])) return false;
  return true;
}

inline bool FairnessNewton::weights(std::span<double> w) const {
  const double common = std::pow(largest_, 2.0 / (exponent_ - 1.0));
  for (int64_t i = 0; i < n_; ++i) d_[i] = common * (p_[i] / (root_[i] / largest_));
  if (!std::all_of(d_, d_ + n_, [](double weight) { return weight > 0.0 && std::isfinite(weight); })) return false;
  std::copy_n(d_, n_, w.begin());
  return true;
}

}  // namespace detail

/// @brief The w > 0 with K w = w^(−1/α), element by element, or nothing where there is none.
///
/// It is the minimum of the convex ½ wᵀKw − Σ φ(w_t), φ'(w) = w^(−1/α): Newton steps with a line search on the Gramian of cosines, 5 to 15 of about n³/6
/// multiplications, at most 100. There is a solution exactly if no combination Σ a_t G_t with a ≥ 0, a ≠ 0 is zero; a zero row, a pair of opposed rows and
/// every Pareto-stationary point have none. Float64 tells the two apart by what its rounding does: solved means that |K w − w^(−1/α)| is below 1e-12 of its
/// terms, and that neither the last Newton step nor one rounding in K's entries changes a weight by more than 1e-6 of itself. So gradients of which a convex
/// combination is shorter than about 1e-5 of them may count as unsolvable: their K no longer holds six digits of the answer. So may gradients whose sizes span
/// twenty orders of magnitude where α ≠ 1, which makes weights span more: 0.1 % of such random ones at α = 0.5 and 2, 7 % at α = 5. Accuracy: rounding, where K
/// is well conditioned 1e-14. Host memory only.
/// @param k [n, n]
/// @param alpha α > 0; 1 = proportional fairness, Nash's bargaining: K w = 1 / w
/// @param w [n] the result; untouched where there is none
/// @return whether there is one
/// Source: Navon et al., ICML 2022, section 3 (α = 1); Ban & Ji, ICML 2024, Algorithm 1 (any α).
inline bool fairness(SquareMatrix k, double alpha, std::span<double> w) {
  detail::FairnessNewton newton(k, alpha);
  return newton.solve() && newton.weights(w);
}

}  // namespace htl
