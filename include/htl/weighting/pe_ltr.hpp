// SPDX-License-Identifier: Apache-2.0
/// @file pe_ltr.hpp
/// @brief PELTR: the shortest combination of the task gradients in which every task keeps a share.
#pragma once

#include <htl/task/check.hpp>
#include <htl/weighting/solvers/simplex_qp.hpp>

#include <numeric>

namespace htl::inline v0_1_0 {

/// @brief Pareto-efficient learning to rank: w = argmin ‖Σ w_t G_t‖² over Σw = 1, w_t ≥ c_t.
///
/// MGDA with a lower bound c_t for each task. With bounds that add up to 1 the weights are the bounds.
///
/// **Inactive tasks** leave the problem with their bounds. **Device**: on the CPU by simplex_qp(), as fast as MGDA; on CUDA it waits for the Gramian, a CUDA
/// graph can't capture it.
///
/// Source: Lin et al., RecSys 2019, Algorithm 2. The paper (and TorchEasyRec) solves without the inequalities and then projects by non-negative least
/// squares, which is not the minimum when a bound holds; this is.
struct PELTR {
  std::vector<double> bounds = {};  ///< c_t ≥ 0 of each task, Σ ≤ 1; empty = `bound` for all
  double bound = 0.0;               ///< c_t of all tasks, in [0, 1/T]; 0 = MGDA

  /// @brief [T] float64 weights.
  /// @throws c10::ValueError with bounds outside their ranges, or not one for each task
  at::Tensor weights(const TaskGramian& gramian) const;
};

inline at::Tensor PELTR::weights(const TaskGramian& gramian) const {
  const int64_t tasks = gramian.tasks();
  HTL_CHECK(bounds.empty() || static_cast<int64_t>(bounds.size()) == tasks, "htl::PELTR: expected one bound for each of ", tasks, " tasks, got ",
            bounds.size());
  HTL_CHECK(bounds.empty() || bound == 0.0, "htl::PELTR: expected bounds or bound, got both");
  double sum = 0.0;
  for (int64_t t = 0; t < tasks; ++t) {
    const double c = bounds.empty() ? bound : bounds[static_cast<size_t>(t)];
    HTL_CHECK(c >= 0.0, "htl::PELTR: expected bounds ≥ 0, got ", c, " for task ", t);
    sum += c;
  }
  HTL_CHECK(sum <= 1.0 + 1e-12, "htl::PELTR: expected bounds that add up to at most 1, the sum of the weights; got ", sum, " over ", tasks, " tasks");
  const detail::ActiveGramian active(gramian);
  std::vector<double> lower, w(active.tasks.size());
  for (const int64_t t : active.tasks) lower.push_back(bounds.empty() ? bound : bounds[static_cast<size_t>(t)]);
  simplex_qp(active.matrix(), {}, lower, w);
  return active.scattered(w, gramian.matrix);
}

}  // namespace htl
