// SPDX-License-Identifier: Apache-2.0
/// @file pcgrad.hpp
/// @brief PCGrad: each task's gradient gives up what opposes another's.
#pragma once

#include <htl/weighting/order.hpp>

namespace htl::inline v0_1_0 {

/// @brief Projecting conflicting gradients (Yu et al., "Gradient Surgery for Multi-Task Learning", NeurIPS 2020, Algorithm 1).
///
/// For each task i: ĝ_i = g_i; for every other task j in the order: if ĝ_i · g_j < 0, ĝ_i ← ĝ_i − (ĝ_i · g_j / ‖g_j‖²) g_j, with g_j as it came. The shared
/// gradient is Σ_i ĝ_i. Exact in K: ĝ_i = Σ_k c_ik g_k, and ĝ_i · g_j = Σ_k c_ik K_kj. For two tasks the result opposes neither; for more it may, and depends
/// on the order.
///
/// **Inactive tasks** are not visited and have weight 0. A zero gradient neither changes nor is changed. One task: weight 1.
/// **Random numbers**: n² from gramian.generator where n > 2 tasks are active and the order is random. **Device**: on CUDA it waits for the Gramian; a
/// CUDA graph can't capture it. **Cost** O(T³) at most.
/// TorchJD and LibMTL sum as this does; the much used Pytorch-PCGrad takes the mean on shared parameters.
struct PCGrad {
  Order order = Order::random;           ///< in which order a task visits the others
  Reduction reduction = Reduction::sum;  ///< the sum of the ĝ_i, as published, or their mean over the active tasks
  std::vector<int64_t> given = {};       ///< a permutation of all tasks, for Order::given

  /// @brief [T] float64 weights.
  /// @throws c10::ValueError where `given` does not fit the order
  at::Tensor weights(const TaskGramian& gramian) const {
    detail::check_order("htl::PCGrad", order, given, gramian.tasks());
    const detail::ActiveGramian active(gramian);
    const SquareMatrix k = active.matrix();
    const int64_t n = k.n;
    const std::vector<int64_t> others = detail::visits(order, given, active.tasks, gramian.generator);
    std::vector<double> result(static_cast<size_t>(n), 0.0), products(static_cast<size_t>(n));
    for (int64_t i = 0; i < n; ++i) {
      double* const product = products.data();  // ĝ_i · g_j for all j
      for (int64_t j = 0; j < n; ++j) product[j] = k(i, j);
      result[static_cast<size_t>(i)] += 1.0;
      for (int64_t visit = 0; visit < n; ++visit) {
        const int64_t j = others[static_cast<size_t>(i * n + visit)];
        if (j == i || !(product[j] < 0.0) || !(k(j, j) > 0.0)) continue;
        const double part = product[j] / k(j, j);
        result[static_cast<size_t>(j)] -= part;
        for (int64_t m = 0; m < n; ++m) product[m] -= part * k(j, m);
      }
    }
    if (reduction == Reduction::mean)
      for (double& w : result) w /= static_cast<double>(n);
    return active.scattered(result, gramian.matrix);
  }
};

}  // namespace htl
