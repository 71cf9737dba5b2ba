// SPDX-License-Identifier: Apache-2.0
/// @file moco.hpp
/// @brief MoCo: weights of least conflict, by gradients that are averaged over steps to take the batches' noise off.
#pragma once

#include <htl/task/state_owner.hpp>
#include <htl/weighting/active_gramian.hpp>
#include <htl/weighting/memory.hpp>
#include <htl/weighting/solvers/simplex_projection.hpp>
#include <htl/weighting/task_buffers.hpp>

#include <ATen/ops/where.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief How MoCo's weights come back to the simplex after a step.
enum class SimplexMap {
  softmax,    ///< softmax(λ), as LibMTL: never at a corner, and nearly equal while γ is small
  projection  ///< the nearest point of the simplex, as the paper
};

/// @brief MoCo (Fernando et al., "Mitigating Gradient Bias in Multi-objective Learning", ICLR 2023, Algorithm 1).
///
/// In call k = 1, 2, …: y_t ← y_t − β k^{−σ} (y_t − s_t g_t) from y_t = 0; λ ← Π(λ − γ k^{−σ'} (Y Yᵀ + ρ I) λ) from λ = 1/T; the gradient is Σ_t λ_t y_t.
/// T = 1 gives y_1. **As LibMTL, the default**: s_t = L_t / (‖g_t‖ + 1e-8), gradients of unit size times their losses, and Π the softmax. **As the paper**:
/// `{.normalize = false, .map = SimplexMap::projection}`, s_t = 1 and Π the projection onto the simplex; γ is then to be chosen for the gradients' size.
///
/// **Shapes**: any parts but split representations, whose samples are others in each batch. Averages fade everywhere, so the gradient also has every row of a
/// table that was touched in any call before. **Inactive tasks**: y_t and λ_t stand still and are left out; the active tasks' λ sum to 1. **Losses** ≥ 0 are
/// needed in gramian.losses to normalize (a negative one would turn its gradient round; on CUDA it is not looked for), ‖g_t‖² is the Gramian's diagonal.
/// **Memory**: T numbers in the parts' type for each shared number (of tables on the CPU only for the pages that were touched); during a call three times as
/// much again for the rows that were ever touched. **Cost**: each call goes about six times through the averages of all rows that were ever touched:
/// detail::TaskBuffers. **Device**: ATen; on CUDA it waits for the device in each call where there are tables, and for the projection. No CUDA graph can
/// capture it: its rates are the host's numbers. It reports λ.
struct MoCo {
  double beta = 0.5;                     ///< the rate β of the averages in the first call, in (0, 1]
  double sigma = 0.5;                    ///< σ ≥ 0: how fast it falls
  double gamma = 0.1;                    ///< the step γ ≥ 0 of the weights in the first call
  double sigma_gamma = 0.5;              ///< σ' ≥ 0: how fast it falls
  double rho = 0.0;                      ///< ρ ≥ 0: draws the weights together
  bool normalize = true;                 ///< whether gradients have unit size times their losses
  SimplexMap map = SimplexMap::softmax;  ///< Π

  /// @brief What a run remembers.
  struct State {
    detail::TaskBuffers averages;  ///< y_t
    at::Tensor weights;            ///< [T] float64: λ
    int64_t calls = 0;             ///< k
    /// @brief Names the tensors for saving, loading, resetting and moving.
    template <class Visit>
    void fields(Visit&& visit) {
      averages.fields(visit);
      visit("weights", weights);
      detail::visit_number(visit, "calls", calls);
    }
  };

  /// @brief The shared gradient.
  /// @throws c10::ValueError without losses or with a negative one (CPU) where it normalizes, with options outside their ranges, parts of a wrong shape, a
  /// split
  ///   representation, or the state of others
  SharedGradient aggregate(const TaskGradients& gradients, State& state) const;

 private:
  /// The active tasks' weights on their simplex, 0 for the others.
  static at::Tensor projected(const at::Tensor& moved, const TaskGramian& gramian);
};

inline at::Tensor MoCo::projected(const at::Tensor& moved, const TaskGramian& gramian) {
  const detail::ActiveGramian active(gramian);
  const at::Tensor host = moved.to(at::kCPU).contiguous();
  std::vector<double> weights;
  for (const int64_t t : active.tasks) weights.push_back(std::clamp(host.const_data_ptr<double>()[t], -1e300, 1e300));
  simplex_projection(weights);
  return active.scattered(weights, moved);
}

inline SharedGradient MoCo::aggregate(const TaskGradients& gradients, State& state) const {
  const char* const who = "htl::MoCo";
  HTL_CHECK(beta > 0.0 && beta <= 1.0, "htl::MoCo: expected beta in (0, 1], got ", beta);
  HTL_CHECK(gamma >= 0.0 && std::isfinite(gamma), "htl::MoCo: expected a finite gamma ≥ 0, got ", gamma);
  HTL_CHECK(sigma >= 0.0 && std::isfinite(sigma), "htl::MoCo: expected a finite sigma ≥ 0, got ", sigma);
  HTL_CHECK(sigma_gamma >= 0.0 && std::isfinite(sigma_gamma), "htl::MoCo: expected a finite sigma_gamma ≥ 0, got ", sigma_gamma);
  HTL_CHECK(rho >= 0.0 && std::isfinite(rho), "htl::MoCo: expected a finite rho ≥ 0, got ", rho);
  detail::check_parts(who, gradients);
  const TaskGramian& gramian = gradients.gramian;
  const at::Tensor active = detail::active_tasks(gramian);
  at::Tensor factor = active.to(at::kDouble);
  if (normalize) {
    const at::Tensor losses = detail::losses_of_active(who, gramian, active);
    if (losses.is_cpu()) HTL_CHECK((losses >= 0.0).all().item<bool>(), "htl::MoCo: expected losses ≥ 0, got ", losses.min().item<double>());
    factor = losses / (gramian.matrix.diagonal().clamp_min(0.0).sqrt() + 1e-8);
  }
  detail::prepare_memory(who, state.weights, {gramian.tasks()}, gramian.matrix.device(), 1.0 / static_cast<double>(gramian.tasks()));

  const auto k = static_cast<double>(state.calls + 1);
  const at::Tensor rate = beta * std::pow(k, -sigma) * active.to(at::kDouble);
  const std::vector<detail::TaskBuffers::Part> averages = state.averages.update(who, gradients, rate, factor);
  ++state.calls;

  const at::Tensor before = at::where(active, state.weights, 0.0), inner = detail::gramian_of(averages, gramian).mv(before) + rho * before;
  const at::Tensor moved = state.weights - gamma * std::pow(k, -sigma_gamma) * inner;
  const at::Tensor weights = map == SimplexMap::softmax
                                 ? at::where(active, moved.masked_fill(active.logical_not(), -std::numeric_limits<double>::infinity()).softmax(0), 0.0)
                                 : projected(moved, gramian);
  state.weights = at::where(active, weights, state.weights);
  return {detail::weighted_buffers(averages, gradients, weights), weights};
}

}  // namespace htl
