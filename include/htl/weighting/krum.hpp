// SPDX-License-Identifier: Apache-2.0
/// @file krum.hpp
/// @brief Krum: the gradients that lie nearest to the others.
#pragma once

#include <htl/task/check.hpp>
#include <htl/weighting/active_gramian.hpp>

#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief Multi-Krum (Blanchard et al., "Machine Learning with Adversaries", NeurIPS 2017): robust to gradients that are plainly wrong.
///
/// The score of task i is the sum of its T − f − 2 smallest squared distances ‖g_i − g_j‖² = K_ii + K_jj − 2 K_ij to the other tasks; the `selected` tasks with
/// the lowest scores get weight 1 / selected, the others 0. Of equal scores the earlier task wins. Distances below 1e-14 of K_ii + K_jj, what rounding leaves
/// of equal gradients, are 0.
///
/// **Inactive tasks** are left out of T. Where fewer than f + 3 tasks are active, the one nearest distance is the score, and a task alone is selected.
/// **Device**: on CUDA it waits for the Gramian; a CUDA graph can't capture it. **Cost** O(T² log T).
/// TorchJD sums the distances, not their squares, and so may select others.
struct Krum {
  int64_t byzantine = 0;  ///< f ≥ 0: how many gradients may be wrong
  int64_t selected = 1;   ///< how many are averaged, at least 1 and at most T

  /// @brief [T] float64 weights.
  /// @throws c10::ValueError unless T ≥ byzantine + 3, byzantine ≥ 0 and selected is in 1 … T
  at::Tensor weights(const TaskGramian& gramian) const {
    HTL_CHECK(byzantine >= 0, "htl::Krum: expected byzantine ≥ 0, got ", byzantine);
    HTL_CHECK(gramian.tasks() >= byzantine + 3, "htl::Krum: expected at least byzantine + 3 = ", byzantine + 3, " tasks, got ", gramian.tasks(),
              "; lower byzantine, or use another method");
    HTL_CHECK(selected >= 1 && selected <= gramian.tasks(), "htl::Krum: expected selected in 1 … ", gramian.tasks(), ", got ", selected);
    return detail::weights_of_active(gramian, [&](SquareMatrix k, std::span<double> w) {
      const int64_t n = k.n, near = std::min(std::max<int64_t>(n - byzantine - 2, 1), n - 1), chosen = std::min(selected, n);
      std::vector<std::pair<double, int64_t>> scores;
      std::vector<double> distances;
      for (int64_t i = 0; i < n; ++i) {
        distances.clear();
        for (int64_t j = 0; j < n; ++j)
          if (j != i) distances.push_back(distance(k(i, i), k(j, j), k(i, j)));
        std::sort(distances.begin(), distances.end());
        scores.emplace_back(std::accumulate(distances.begin(), distances.begin() + near, 0.0), i);
      }
      std::sort(scores.begin(), scores.end());
      for (int64_t i = 0; i < chosen; ++i) w[static_cast<size_t>(scores[static_cast<size_t>(i)].second)] = 1.0 / static_cast<double>(chosen);
    });
  }

 private:
  /// Symmetric in i and j to the last bit; the differences of nearly equal numbers are exact.
  static double distance(double ii, double jj, double ij) {
    const double square = (ii - ij) + (jj - ij);
    return square > 1e-14 * (ii + jj) ? square : 0.0;
  }
};

}  // namespace htl
