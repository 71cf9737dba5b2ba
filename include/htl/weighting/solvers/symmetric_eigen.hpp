// SPDX-License-Identifier: Apache-2.0
/// @file symmetric_eigen.hpp
/// @brief SymmetricEigen: eigenvalues and eigenvectors of a small symmetric matrix, by Householder reflections and implicit QL.
#pragma once

#include <htl/weighting/active_gramian.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief K = Σ_k values[k] · vector(k) vector(k)ᵀ of a symmetric matrix of up to some 64 rows, in float64 on the CPU.
///
/// Householder reflections make it tridiagonal, implicit QL with Wilkinson's shift makes that diagonal (Golub and Van Loan, Matrix Computations, section 8.3).
/// Eigenvalues are exact to some ε of the largest one. Rows and columns are sorted by their diagonal first, with which small eigenvalues of task gradients of
/// very different norms come out much better than that. Scaled by a power of two, so no scale overflows or vanishes. Zeros, clusters and indefinite matrices
/// are fine. Reads the lower triangle. Cost some 9 n³ operations: below 1 µs for n = 3, some 60 µs for n = 32.
struct SymmetricEigen {
  int64_t n;                    ///< rows and columns
  std::vector<double> values;   ///< [n], ascending
  std::vector<double> vectors;  ///< [n, n] row by row: row k is the unit eigenvector of values[k]; its sign is free

  /// @brief Decomposes the matrix.
  explicit SymmetricEigen(SquareMatrix matrix);
  /// @brief The n numbers of the eigenvector of values[k].
  const double* vector(int64_t k) const { return vectors.data() + k * n; }

 private:
  static constexpr int64_t lanes = 4;  // rows are filled up to blocks of a constant size, which become vector instructions without -O3
  static double reflect(double* a, double* w, int64_t stride, int64_t i);
  static void accumulate(const double* a, double* q, int64_t n, int64_t stride);
  static void rotate(double* __restrict x, double* __restrict y, int64_t stride, double cosine, double sine);
  static bool splits(const double* d, const double* e, int64_t i, int step);
  static void diagonalize(double* d, double* e, double* q, int64_t n, int64_t stride);
};

/// Makes the first i − 1 numbers of row i zero by a reflection I − v vᵀ of the leading i rows and columns. v, of square 2 or 0, stays in the row's first i
/// numbers; the result is the number beside the diagonal. Only the lower triangle is kept up.
inline double SymmetricEigen::reflect(double* a, double* w, int64_t stride, int64_t i) {
  double* const v = a + i * stride;
  double largest = 0.0;
  for (int64_t k = 0; k + 1 < i; ++k) largest = std::max(largest, std::abs(v[k]));
  const double beside = v[i - 1];
  if (largest == 0.0) {
    std::fill(v, v + i, 0.0);
    return beside;
  }
  largest = std::max(largest, std::abs(beside));
  double square = 0.0;
  for (int64_t k = 0; k < i; ++k) {
    v[k] /= largest;
    square += v[k] * v[k];
  }
  const double norm = std::copysign(std::sqrt(square), v[i - 1]);
  v[i - 1] += norm;
  const double length = std::sqrt(std::abs(norm * v[i - 1]));  // vᵀv / 2 = norm · v[i − 1]
  for (int64_t k = 0; k < i; ++k) v[k] /= length;
  std::fill(w, w + i, 0.0);  // w = A v − (vᵀAv / 2) v, so that (I − vvᵀ) A (I − vvᵀ) = A − v wᵀ − w vᵀ
  for (int64_t j = 0; j < i; ++j) {
    const double* const row = a + j * stride;
    const double vj = v[j];
    double sum = row[j] * vj;
    for (int64_t k = 0; k < j; ++k) {
      sum += row[k] * v[k];
      w[k] += row[k] * vj;
    }
    w[j] += sum;
  }
  const double half = 0.5 * std::inner_product(v, v + i, w, 0.0);
  for (int64_t k = 0; k < i; ++k) w[k] -= half * v[k];
  for (int64_t j = 0; j < i; ++j) {
    double* const row = a + j * stride;
    const double vj = v[j], wj = w[j];
    for (int64_t k = 0; k <= j; ++k) row[k] -= vj * w[k] + wj * v[k];
  }
  return -norm * largest;
}

/// q = (P_{n-1} … P_2)ᵀ of the reflections P_i that `reflect` left in the rows of a.
inline void SymmetricEigen::accumulate(const double* a, double* q, int64_t n, int64_t stride) {
  for (int64_t i = 0; i < n; ++i) {
    const double* const v = a + i * stride;
    q[i * stride + i] = 1.0;
    for (int64_t k = 0; i >= 2 && k < i; ++k) {
      double* const row = q + k * stride;
      const double part = std::inner_product(v, v + i, row, 0.0);
      for (int64_t j = 0; j < i; ++j) row[j] -= part * v[j];
    }
  }
}

inline void SymmetricEigen::rotate(double* __restrict x, double* __restrict y, int64_t stride, double cosine, double sine) {
  for (int64_t k = 0; k < stride; k += lanes) {
    double xs[lanes], ys[lanes];
    for (int64_t l = 0; l < lanes; ++l) {
      xs[l] = cosine * x[k + l] - sine * y[k + l];
      ys[l] = sine * x[k + l] + cosine * y[k + l];
    }
    for (int64_t l = 0; l < lanes; ++l) x[k + l] = xs[l];
    for (int64_t l = 0; l < lanes; ++l) y[k + l] = ys[l];
  }
}

/// Whether e[i] is negligible beside its neighbours on the diagonal: relative to both of them, or where rounding forbids that, to the larger one.
inline bool SymmetricEigen::splits(const double* d, const double* e, int64_t i, int step) {
  const double above = std::abs(d[i]), below = std::abs(d[i + 1]), beside = std::abs(e[i]);
  return beside < 1e-290 || beside <= 0x1p-53 * (step < 10 ? std::sqrt(above) * std::sqrt(below) : step < 30 ? above + below : 1.0);
}

/// d = diagonal and e[i] beside d[i] and d[i + 1]: makes e zero by rotations, which also turn the rows of q.
inline void SymmetricEigen::diagonalize(double* d, double* e, double* q, int64_t n, int64_t stride) {
  constexpr int most_steps = 60;  // 2 are usual; the bound is for numbers that are not finite
  for (int64_t first = 0; first < n; ++first) {
    for (int step = 0; step < most_steps; ++step) {
      int64_t last = first;  // the block from first to last is not split yet
      while (last + 1 < n && !splits(d, e, last, step)) ++last;
      if (last == first) break;
      const double half = 0.5 * (d[first + 1] - d[first]) / e[first];
      double g = d[last] - d[first] + e[first] / (half + std::copysign(std::hypot(half, 1.0), half));
      double sine = 1.0, cosine = 1.0, shift = 0.0;
      int64_t i = last - 1;
      for (; i >= first; --i) {
        const double f = sine * e[i], b = cosine * e[i], square = f * f + g * g;
        const double r = square > 1e-280 ? std::sqrt(square) : std::hypot(f, g);  // near underflow the sum has few digits, and the rotation would be none
        e[i + 1] = r;
        if (r == 0.0) {  // underflow: the block splits here
          d[i + 1] -= shift;
          e[last] = 0.0;
          break;
        }
        sine = f / r;
        cosine = g / r;
        const double diagonal = d[i + 1] - shift;
        const double t = (d[i] - diagonal) * sine + 2.0 * cosine * b;
        shift = sine * t;
        d[i + 1] = diagonal + shift;
        g = cosine * t - b;
        rotate(q + i * stride, q + (i + 1) * stride, stride, cosine, sine);
      }
      if (i >= first) continue;
      d[first] -= shift;
      e[first] = g;
      e[last] = 0.0;
    }
  }
}

inline SymmetricEigen::SymmetricEigen(SquareMatrix matrix) : n(matrix.n), values(static_cast<size_t>(n)), vectors(static_cast<size_t>(n * n)) {
  double largest = 0.0;
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j <= i; ++j) largest = std::max(largest, std::abs(matrix(i, j)));
  const int exponent = largest > 0.0 ? std::max(std::ilogb(largest), -1022) : 0;
  const double scale = std::ldexp(1.0, -exponent);
  std::vector<int64_t> order(static_cast<size_t>(n));
  const auto sort = [&](const auto& key) {
    std::iota(order.begin(), order.end(), int64_t{0});
    std::sort(order.begin(), order.end(), [&](int64_t x, int64_t y) { return std::pair(key(x), x) < std::pair(key(y), y); });
  };
  sort([&](int64_t i) { return std::abs(matrix(i, i)); });
  const int64_t stride = (n + lanes - 1) / lanes * lanes;
  std::vector<double> work(static_cast<size_t>(2 * n * stride + 3 * n), 0.0);
  double* const a = work.data();
  double* const q = a + n * stride;
  double* const d = q + n * stride;
  double* const e = d + n;
  double* const w = e + n;
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j <= i; ++j) {
      const int64_t x = order[static_cast<size_t>(i)], y = order[static_cast<size_t>(j)];
      a[i * stride + j] = scale * matrix(std::max(x, y), std::min(x, y));
    }
  for (int64_t i = n - 1; i > 0; --i) {
    d[i] = a[i * stride + i];
    e[i - 1] = reflect(a, w, stride, i);
  }
  if (n > 0) d[0] = a[0];
  accumulate(a, q, n, stride);
  diagonalize(d, e, q, n, stride);

  std::vector<int64_t> columns = order;
  sort([&](int64_t k) { return d[k]; });
  for (int64_t k = 0; k < n; ++k) {
    const int64_t from = order[static_cast<size_t>(k)];
    values[static_cast<size_t>(k)] = std::ldexp(d[from], exponent);
    for (int64_t i = 0; i < n; ++i) vectors[static_cast<size_t>(k * n + columns[static_cast<size_t>(i)])] = q[from * stride + i];
  }
}

}  // namespace htl
