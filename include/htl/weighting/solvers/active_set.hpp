// SPDX-License-Identifier: Apache-2.0
/// @file active_set.hpp
/// @brief ActiveSet: small convex quadratic programs over w ≥ 0 or over the simplex, exact at the end; what the solvers of weightings share.
#pragma once

#include <htl/weighting/solvers/face.hpp>

namespace htl::inline v0_1_0 {
namespace detail {

/// min ½ xᵀKx + cᵀx over the cone x ≥ 0 or the simplex.
///
/// First block principal pivoting (Júdice & Pires 1994; Kim & Park 2011): the minimum on the face, then all coordinates with a wrong sign change sides at once;
/// usually done after 2 to 5 rounds. Where that stops making progress, a primal active-set method from a feasible point, one coordinate at a time: each round
/// lowers the objective, so no face comes twice; the rounds are bounded all the same.
///
/// **Singular K**: a coordinate whose pivot is rounding stays out of a face. Where c lies in K's range, as in every weighting here, no descent needs such a
/// coordinate, except by rounding: then (nearly opposed rows, whose difference K no longer holds) and for other c all is done again with
/// K + 16 (n + 8) · 2.2e-16 diag(K), which is as near to the exact K as the given one may be.
class ActiveSet {
 public:
  /// Copies K · scale, `scale` being a power of two.
  ActiveSet(SquareMatrix k, double scale, Domain domain);
  /// Finds x. `linear` [n] is c · scale; `terms` [n] bounds the sums of absolute terms behind each of its numbers: their rounding is no reason to pivot.
  /// `warm`: begin with the last solution's face. Returns whether the optimality conditions hold up to rounding; x is feasible anyhow.
  bool solve(const double* linear, const double* terms, bool warm = false);

  Face& face() { return face_; }          ///< of the last solution, complete
  const double* x() const { return x_; }  ///< [n] the solution

 private:
  double level() const { return simplex_ ? y_[face_.base()] : 0.0; }
  double tolerance(int64_t j) const;
  void update_gradient();
  void face_minimum();
  bool refine();
  bool block_pivoting();
  bool primal();
  bool walk();
  int64_t entering() const;

  Face face_;
  int64_t n_;
  bool simplex_;
  double size_ = 0.0;  // Σ roots_i |x_i|
  std::vector<double> storage_;
  std::vector<char> change_, barred_;
  double *x_, *y_, *d_;
  const double *c_ = nullptr, *terms_ = nullptr;
};

inline ActiveSet::ActiveSet(SquareMatrix k, double scale, Domain domain)
    : face_(k, scale, domain),
      n_(k.n),
      simplex_(domain == Domain::simplex),
      storage_(static_cast<size_t>(3 * k.n)),
      change_(static_cast<size_t>(k.n)),
      barred_(static_cast<size_t>(k.n)),
      x_(storage_.data()),
      y_(x_ + n_),
      d_(y_ + n_) {}

inline void ActiveSet::update_gradient() {
  std::copy_n(c_, n_, y_);
  size_ = 0.0;
  for (const int64_t j : face_.members()) {
    add_scaled(y_, x_[j], face_.row(j), n_);
    size_ += face_.roots()[j] * std::abs(x_[j]);
  }
}

/// What rounding may do to y_j − level: |K_ji x_i| ≤ roots_j roots_i |x_i|.
inline double ActiveSet::tolerance(int64_t j) const {
  const auto terms = [&](int64_t i) { return face_.roots()[i] * size_ + terms_[i]; };
  return face_.rounding() * (simplex_ ? terms(j) + terms(face_.base()) : terms(j));
}

/// x and its gradient at the minimum on the face, which may have negative coordinates.
inline void ActiveSet::face_minimum() {
  std::fill_n(x_, n_, 0.0);
  if (simplex_) x_[face_.base()] = 1.0;
  std::copy_n(c_, n_, y_);
  if (simplex_) add_scaled(y_, 1.0, face_.row(face_.base()), n_);
  face_.newton(y_, d_);
  for (const int64_t j : face_.members()) x_[j] += d_[j];
  update_gradient();
}

/// Steps on the face against the rounding of the solution; false where it would leave x ≥ 0 by more than rounding.
inline bool ActiveSet::refine() {
  for (int64_t round = 0; round < 3; ++round) {
    bool exact = round > 0;  // one step always: the tolerance is only a bound
    for (const int64_t j : face_.members()) exact = exact && std::abs(y_[j] - level()) <= tolerance(j);
    if (exact) break;
    face_.newton(y_, d_);
    for (const int64_t j : face_.members())
      if (x_[j] + d_[j] < -1e-13 * (1.0 + std::abs(x_[j]))) return round > 0;
    for (const int64_t j : face_.members()) x_[j] = std::max(x_[j] + d_[j], 0.0);
    update_gradient();
  }
  return true;
}

inline bool ActiveSet::block_pivoting() {
  int64_t fewest = std::numeric_limits<int64_t>::max();
  for (int64_t round = 0, patience = 2; round < 30; ++round) {
    face_.rebase();
    face_.complete(true);
    face_minimum();
    int64_t wrong = 0;
    for (int64_t j = 0; j < n_; ++j) {
      const bool changes = face_.has(j) ? x_[j] < 0.0 : y_[j] < level() - tolerance(j);
      change_[static_cast<size_t>(j)] = static_cast<char>(changes);
      wrong += changes ? 1 : 0;
    }
    if (wrong == 0) return true;
    if (wrong < fewest) {
      fewest = wrong;
      patience = 2;
    } else if (patience-- == 0) {
      return false;
    }
    for (int64_t j = 0; j < n_; ++j)
      if (face_.has(j)) change_[static_cast<size_t>(j)] ^= 1;  // now: whether it is inside next
    face_.keep([&](int64_t j) { return change_[static_cast<size_t>(j)] != 0; });
    for (int64_t j = 0; j < n_; ++j)
      if (!face_.has(j) && change_[static_cast<size_t>(j)]) face_.add(j);
  }
  return false;
}

/// From a feasible x to the minimum on a face that holds it, leaving coordinates that reach 0 behind. False where the face is singular.
inline bool ActiveSet::walk() {
  for (int64_t round = 0; round < 2 * n_ + 8; ++round) {
    face_.rebase();
    if (!face_.complete()) return false;
    face_.newton(y_, d_);
    double length = 1.0;
    int64_t blocking = -1;
    for (const int64_t j : face_.members())
      if (d_[j] < 0.0 && x_[j] < -d_[j] * length) {
        length = x_[j] / -d_[j];
        blocking = j;
      }
    for (const int64_t j : face_.members()) x_[j] = std::max(x_[j] + length * d_[j], 0.0);
    if (blocking >= 0) {
      x_[blocking] = 0.0;
      face_.keep([&](int64_t j) { return x_[j] > 0.0 || d_[j] >= 0.0; });
    }
    update_gradient();
    if (blocking < 0) break;
  }
  return true;
}

/// The coordinate whose entering lowers the objective fastest, for the size of its gradient, so that large rows do not hide small ones; −1 at the minimum.
inline int64_t ActiveSet::entering() const {
  int64_t result = -1;
  double fastest = 0.0;
  for (int64_t j = 0; j < n_; ++j) {
    if (face_.has(j) || barred_[static_cast<size_t>(j)]) continue;
    const double excess = y_[j] - level() + tolerance(j);
    const double rate = excess / std::max(face_.roots()[j], 1e-150);
    if (rate < fastest) {
      fastest = rate;
      result = j;
    }
  }
  return result;
}

inline bool ActiveSet::primal() {
  for (bool feasible = false; !feasible;) {  // the minimum on a face where it is not negative
    face_.rebase();
    face_.complete(true);
    face_minimum();
    const size_t before = face_.members().size();
    face_.keep([&](int64_t j) { return x_[j] >= 0.0; });
    feasible = face_.members().size() == before;
  }
  std::fill(barred_.begin(), barred_.end(), 0);
  double lowest = std::numeric_limits<double>::infinity();
  int64_t last = -1;
  for (int64_t round = 0; round < 40 * n_ + 100; ++round) {
    refine();
    double value = 0.0, size = 0.0;
    for (const int64_t j : face_.members()) {
      value += 0.5 * x_[j] * (y_[j] + c_[j]);
      size += x_[j] * (face_.roots()[j] * size_ + terms_[j]);
    }
    if (value < lowest - std::numeric_limits<double>::epsilon() * size) {
      lowest = value;
      std::fill(barred_.begin(), barred_.end(), 0);
    } else if (last >= 0) {
      barred_[static_cast<size_t>(last)] = 1;  // it came in by rounding
    }
    last = entering();
    if (last < 0) return true;
    face_.add(last);
    x_[last] = 0.0;
    if (face_.complete()) {
      if (!walk()) return false;
    } else {  // depends on the others, so its gradient is at their level but for their rounding
      face_.keep([&](int64_t j) { return j != last; });
      if (y_[last] < level() - 64.0 * tolerance(last)) return false;
    }
  }
  return false;
}

inline bool ActiveSet::solve(const double* linear, const double* terms, bool warm) {
  c_ = linear;
  terms_ = terms;
  face_.set_ridge(0.0);
  if (!face_.finite()) {  // nothing to solve: a feasible point
    std::fill_n(x_, n_, simplex_ ? 1.0 / static_cast<double>(n_) : 0.0);
    return false;
  }
  if (!warm || (simplex_ && face_.empty())) {
    face_.clear();
    for (int64_t j = 0; j < n_; ++j)
      if (simplex_ || c_[j] < -face_.rounding() * terms_[j]) face_.add(j);
  }
  bool done = (block_pivoting() && refine()) || primal();
  if (!done) {
    face_.set_ridge(16.0 * face_.rounding());
    done = (block_pivoting() && refine()) || primal();
  }
  double sum = 0.0;
  for (const int64_t j : face_.members()) sum += x_[j] = std::max(x_[j], 0.0);
  if (simplex_)
    for (const int64_t j : face_.members()) x_[j] /= sum;
  return done;
}

}  // namespace detail
}  // namespace htl
