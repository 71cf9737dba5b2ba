// SPDX-License-Identifier: Apache-2.0
/// @file db_mtl.hpp
/// @brief DBMTL: gradients of the losses' logarithms, averaged over steps and made as large as the largest of them.
#pragma once

#include <htl/task/state_owner.hpp>
#include <htl/weighting/task_buffers.hpp>

#include <ATen/ops/where.h>

#include <cmath>

namespace htl::inline v0_1_0 {

/// @brief Dual-balancing (Lin et al., "Dual-Balancing for Multi-Task Learning", 2023, Algorithm 1).
///
/// In call k = 1, 2, …: ĝ_t = g_t / (L_t + 1e-8), the gradient of log L_t; b_t ← ĝ_t + β k^{−σ} (b_t − ĝ_t) from b_t = 0; the gradient is Σ_t α_t b_t with
/// α_t = max_s ‖b_s‖ / ‖b_t‖ (1 where b_t = 0). T = 1 gives b_1, (1 − β) ĝ_1 in the first call.
///
/// **Shapes**: any parts but split representations, whose samples are others in each batch. Averages fade everywhere, so the gradient also has every row of a
/// table that was touched in any call before. **Inactive tasks**: b_t stands still and is left out, of the maximum as well. **Losses** are needed in
/// gramian.losses and must be ≥ 0. **Memory**: T numbers in the parts' type for each shared number (of tables on the CPU only for the pages that were touched);
/// during a call three times as much again for the rows that were ever touched. **Cost**: each call goes about six times through the averages of all rows that
/// were ever touched: detail::TaskBuffers. **Device**: ATen; on CUDA it waits for the device in each call, and no CUDA graph can capture it. It reports α.
/// **Elsewhere**: LibMTL is the same with the same defaults; there each task's own parameters get the gradient of log L_t too: give the losses' logarithms to
/// the tasks' towers if you want that.
struct DBMTL {
  double beta = 0.9;   ///< the part β of the old average in the first call, in [0, 1); 0 = no average
  double sigma = 0.0;  ///< σ ≥ 0: how fast that part falls

  /// @brief What a run remembers.
  struct State {
    detail::TaskBuffers averages;  ///< b_t
    int64_t calls = 0;             ///< k
    /// @brief Names the tensors for saving, loading, resetting and moving.
    template <class Visit>
    void fields(Visit&& visit) {
      averages.fields(visit);
      detail::visit_number(visit, "calls", calls);
    }
  };

  /// @brief The shared gradient.
  /// @throws c10::ValueError without losses, with a negative one, options outside their ranges, parts of a wrong shape, or the state of others
  SharedGradient aggregate(const TaskGradients& gradients, State& state) const;
};

inline SharedGradient DBMTL::aggregate(const TaskGradients& gradients, State& state) const {
  const char* const who = "htl::DBMTL";
  HTL_CHECK(beta >= 0.0 && beta < 1.0, "htl::DBMTL: expected beta in [0, 1), got ", beta);
  HTL_CHECK(sigma >= 0.0 && std::isfinite(sigma), "htl::DBMTL: expected a finite sigma ≥ 0, got ", sigma);
  detail::check_parts(who, gradients);
  const TaskGramian& gramian = gradients.gramian;
  const at::Tensor active = detail::active_tasks(gramian), losses = detail::losses_of_active(who, gramian, active);
  HTL_CHECK((losses >= 0.0).all().item<bool>(), "htl::DBMTL: expected losses ≥ 0, whose logarithms it takes, got ", losses.min().item<double>());

  const auto k = static_cast<double>(state.calls + 1);
  const at::Tensor rate = (1.0 - beta * std::pow(k, -sigma)) * active.to(at::kDouble);
  const std::vector<detail::TaskBuffers::Part> averages = state.averages.update(who, gradients, rate, 1.0 / (losses + 1e-8));
  ++state.calls;
  const at::Tensor norms = at::where(active, detail::gramian_of(averages, gramian).diagonal().clamp_min(0.0).sqrt(), 0.0);
  const at::Tensor weights = at::where(norms > 0.0, norms.max() / norms, active.to(at::kDouble));
  return {detail::weighted_buffers(averages, gradients, weights), weights};
}

}  // namespace htl
