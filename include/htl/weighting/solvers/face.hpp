// SPDX-License-Identifier: Apache-2.0
/// @file face.hpp
/// @brief Face: the coordinates of a small quadratic program that are not held at 0, with the Cholesky factor of its matrix there.
#pragma once

#include <htl/weighting/solvers/small_matrix.hpp>

#include <limits>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {
namespace detail {

/// Where the weights of a quadratic program live.
enum class Domain {
  cone,    ///< x ≥ 0
  simplex  ///< x ≥ 0, Σx = 1
};

/// A face of the cone or of the simplex, in the order in which coordinates came.
///
/// Row by row: a new coordinate adds a row to the factor, one that leaves costs only the rows behind it. On the simplex the first coordinate r is eliminated,
/// and the matrix is K_ij − K_ir − K_jr + K_rr; with the smallest gradient as r it loses no digits of rows that are much smaller than others.
class Face {
 public:
  /// Copies K · scale, `scale` being a power of two.
  Face(SquareMatrix k, double scale, Domain domain);

  int64_t n() const { return n_; }
  const double* row(int64_t i) const { return k_ + i * n_; }  ///< of the scaled K
  const double* roots() const { return roots_; }              ///< [n] square roots of the scaled diagonal
  bool finite() const { return finite_; }                     ///< whether K was
  double rounding() const { return rounding_; }               ///< (n + 8) · 2.2e-16: what counts as rounding in a sum of n products

  const std::vector<int64_t>& members() const { return members_; }
  int64_t base() const { return members_.front(); }  ///< the eliminated coordinate; on the simplex only
  bool has(int64_t j) const { return inside_[static_cast<size_t>(j)] != 0; }
  bool empty() const { return members_.empty(); }
  /// A coordinate comes in, without its row.
  void add(int64_t j) {
    members_.push_back(j);
    inside_[static_cast<size_t>(j)] = 1;
  }
  /// Empty again.
  void clear() {
    members_.clear();
    std::fill(inside_.begin(), inside_.end(), 0);
    rows_ = 0;
  }
  /// The coordinates of which `stays(j)`; the first one where none does, on the simplex.
  template <class Stays>
  void keep(Stays&& stays);
  /// Makes the missing rows. Where a pivot is rounding: false, or with `skip` that coordinate leaves; with a ridge the pivot becomes the rounding bound.
  bool complete(bool skip = false);
  /// On the simplex makes the coordinate with the smallest gradient the eliminated one, where another is far from it.
  void rebase();
  /// A share of its own added to K's diagonal, so that no face is singular; 0 takes it away again.
  void set_ridge(double share);
  /// step[members]: what brings the gradient `residual` [n] to 0 on a complete face, on the simplex to one level.
  void newton(const double* residual, double* step);

 private:
  static constexpr double tiny = 1e-60;  // beside a largest diagonal entry of 1
  double entry(int64_t i, int64_t j) const {
    if (first_ == 0) return k_[i * n_ + j];
    const int64_t r = members_[0];
    return (k_[i * n_ + j] - k_[i * n_ + r]) - (k_[j * n_ + r] - k_[r * n_ + r]);
  }
  bool extend();

  int64_t n_, first_, rows_ = 0;
  bool finite_, ridge_ = false;
  double rounding_;
  std::vector<double> storage_;
  std::vector<int64_t> members_;
  std::vector<char> inside_;
  double *k_, *factor_, *inverse_, *roots_, *diagonal_, *t_;
};

inline Face::Face(SquareMatrix k, double scale, Domain domain)
    : n_(k.n),
      first_(domain == Domain::simplex ? 1 : 0),
      rounding_(static_cast<double>(k.n + 8) * std::numeric_limits<double>::epsilon()),
      storage_(static_cast<size_t>(2 * k.n * k.n + 4 * k.n)) {
  double* next = storage_.data();
  for (double** matrix : {&k_, &factor_}) *matrix = std::exchange(next, next + n_ * n_);
  for (double** vector : {&inverse_, &roots_, &diagonal_, &t_}) *vector = std::exchange(next, next + n_);
  double zero = 0.0;
  for (int64_t i = 0; i < n_ * n_; ++i) {
    k_[i] = k.data[i] * scale;
    zero += k_[i] * 0.0;
  }
  finite_ = zero == 0.0;
  for (int64_t i = 0; i < n_; ++i) {
    diagonal_[i] = k_[i * n_ + i];
    roots_[i] = std::sqrt(std::max(diagonal_[i], 0.0));
  }
  members_.reserve(static_cast<size_t>(n_));
  inside_.assign(static_cast<size_t>(n_), 0);
}

inline bool Face::extend() {
  const int64_t q = rows_, j = members_[static_cast<size_t>(q + first_)];
  double* const row = factor_ + q * n_;
  for (int64_t p = 0; p < q; ++p) row[p] = (entry(j, members_[static_cast<size_t>(p + first_)]) - dot(row, factor_ + p * n_, p)) * inverse_[p];
  double pivot = entry(j, j) - dot(row, row, q), size = k_[j * n_ + j];
  if (first_ == 1) size += 2.0 * std::abs(k_[j * n_ + members_[0]]) + k_[members_[0] * n_ + members_[0]];
  if (!(pivot > rounding_ * size)) {
    if (!ridge_) return false;
    pivot = std::max(rounding_ * size, tiny);
  }
  row[q] = std::sqrt(pivot);
  inverse_[q] = 1.0 / row[q];
  ++rows_;
  return true;
}

inline bool Face::complete(bool skip) {
  while (rows_ + first_ < static_cast<int64_t>(members_.size())) {
    if (extend()) continue;
    if (!skip) return false;
    inside_[static_cast<size_t>(members_[static_cast<size_t>(rows_ + first_)])] = 0;
    members_.erase(members_.begin() + (rows_ + first_));
  }
  return true;
}

template <class Stays>
void Face::keep(Stays&& stays) {
  size_t kept = 0;
  for (size_t p = 0; p < members_.size(); ++p) {
    const int64_t j = members_[p];
    if (stays(j) || (first_ == 1 && kept == 0 && p + 1 == members_.size())) {
      members_[kept++] = j;
      continue;
    }
    inside_[static_cast<size_t>(j)] = 0;
    rows_ = first_ == 1 && p == 0 ? 0 : std::min(rows_, std::max<int64_t>(static_cast<int64_t>(kept) - first_, 0));
  }
  members_.resize(kept);
}

inline void Face::rebase() {
  if (first_ == 0 || members_.size() < 2) return;
  const auto smallest = std::min_element(members_.begin(), members_.end(), [&](int64_t i, int64_t j) { return roots_[i] < roots_[j]; });
  if (rows_ > 0 && roots_[*smallest] >= 0.5 * roots_[members_[0]]) return;
  std::iter_swap(members_.begin(), smallest);
  rows_ = 0;
}

inline void Face::set_ridge(double share) {
  rows_ = 0;
  if (!ridge_ && share == 0.0) return;
  ridge_ = share > 0.0;
  for (int64_t i = 0; i < n_; ++i) k_[i * n_ + i] = diagonal_[i] + (ridge_ ? share * diagonal_[i] + tiny : 0.0);
}

inline void Face::newton(const double* residual, double* step) {
  const double level = first_ == 1 ? residual[members_[0]] : 0.0;
  for (int64_t q = 0; q < rows_; ++q) t_[q] = (level - residual[members_[static_cast<size_t>(q + first_)]] - dot(factor_ + q * n_, t_, q)) * inverse_[q];
  for (int64_t q = rows_ - 1; q >= 0; --q) {
    t_[q] *= inverse_[q];
    add_scaled(t_, -t_[q], factor_ + q * n_, q);
  }
  double sum = 0.0;
  for (int64_t q = 0; q < rows_; ++q) sum += step[members_[static_cast<size_t>(q + first_)]] = t_[q];
  if (first_ == 1) step[members_[0]] = -sum;
}

}  // namespace detail
}  // namespace htl
