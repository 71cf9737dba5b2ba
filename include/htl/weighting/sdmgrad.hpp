// SPDX-License-Identifier: Apache-2.0
/// @file sdmgrad.hpp
/// @brief SDMGrad: the shortest combination of the task gradients, drawn to their mean.
#pragma once

#include <htl/task/check.hpp>
#include <htl/weighting/solvers/simplex_qp.hpp>
#include <htl/weighting/solvers/symmetric_part.hpp>

namespace htl::inline v0_1_0 {

/// @brief Stochastic direction-oriented multi-objective descent: w* = argmin over the simplex of ½ ‖Σ w_t G_t + λ g_0‖², g_0 = Σ G_t / T, and the weights
/// (w* + λ/T) / (1 + λ), which add up to 1.
///
/// λ = 0 is MGDA, λ → ∞ the mean. It is PE-LTR with the bounds λ / (T (1 + λ)).
///
/// **Batches**: the gradient of that objective is K (w + λ w̃). On one batch its noise is correlated, so the paper multiplies the gradients of two batches and
/// applies the weights to a third: batches() is 3, and A = `gramian.cross` stands for K. A is neither symmetric nor positive; what is solved is min ½ wᵀSw + λ
/// w̃ᵀAᵀw with the positive semi-definite matrix S nearest to (A + Aᵀ)/2, the same problem where A is a Gramian. Without `cross` it is the problem on the one
/// Gramian there is.
///
/// **Inactive tasks** leave the problem, also its mean. **Device**: on the CPU exactly, as fast as MGDA, with `cross` 5 µs at T = 3; on CUDA it waits for
/// the Gramian, a CUDA graph can't capture it.
///
/// Source: Xiao, Ban & Ji, NeurIPS 2023, Algorithm 1. The paper and its code (also TorchJD, LibMTL) take 20 projected SGD steps from the last w with
/// learning rate 5 or 10 and A divided by its mean diagonal; such steps may oscillate between the corners. Here it is solved, and so needs no memory.
struct SDMGrad {
  double lambda = 0.3;  ///< λ ≥ 0, the pull to the mean

  /// @brief Two batches for the weights, one for the step.
  int64_t batches() const { return 3; }

  /// @brief [T] float64 weights.
  /// @throws c10::ValueError with a λ outside its range
  at::Tensor weights(const TaskGramian& gramian) const;
};

inline at::Tensor SDMGrad::weights(const TaskGramian& gramian) const {
  HTL_CHECK(lambda >= 0.0 && std::isfinite(lambda), "htl::SDMGrad: expected a finite lambda ≥ 0, got ", lambda);
  const detail::ActiveGramian active(gramian);
  const size_t n = active.tasks.size();
  std::vector<double> w(n), vector(n);
  if (n == 0) return active.scattered(w, gramian.matrix);
  const double mean = 1.0 / static_cast<double>(n);
  if (!gramian.cross.defined()) {
    std::fill(vector.begin(), vector.end(), lambda * mean / (1.0 + lambda));  // lower bounds
    simplex_qp(active.matrix(), {}, vector, w);
    return active.scattered(w, gramian.matrix);
  }
  const SquareMatrix a = active.cross();
  for (size_t i = 0; i < n; ++i) {
    double sum = 0.0;
    for (size_t j = 0; j < n; ++j) sum += mean * a(static_cast<int64_t>(i), static_cast<int64_t>(j));
    vector[i] = lambda * sum;
  }
  const std::vector<double> convex = positive_symmetric_part(a);
  simplex_qp({convex.data(), a.n}, vector, {}, w);
  for (double& weight : w) weight = (weight + lambda * mean) / (1.0 + lambda);
  return active.scattered(w, gramian.matrix);
}

}  // namespace htl
