// SPDX-License-Identifier: Apache-2.0
/// @file metabalance.hpp
/// @brief MetaBalance: the other tasks' gradients take the usual size of the core task's.
#pragma once

#include <htl/task/tensor_operators.hpp>
#include <htl/weighting/memory.hpp>
#include <htl/weighting/weighting.hpp>

#include <ATen/ops/ones_like.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief MetaBalance (He et al., "MetaBalance: Improving Multi-Task Recommendations via Adapting Gradient Magnitudes of Auxiliary Tasks", WWW 2022, Algorithm
/// 1).
///
/// Moving averages m_t ← β m_t + (1 − β) ‖g_t‖, from 0; every task that is no core: w_t = r m_c / m_t + 1 − r; cores: 1. m_c is the average of the core's norm;
/// several cores count as one, whose gradient is their sum. As both averages start at 0, their ratio needs no correction.
///
/// Where m_c = 0 or m_t is 0 (below 1e-100 m_c) nothing is known of a size, and the ratio is 1. **Inactive tasks**: weight 0, their averages stand still; so
/// does m_c where no core is active. One task: weight 1. **Device**: loops on the CPU; on CUDA ATen without branches or synchronisation; a CUDA graph can
/// capture it after a first step, which makes the memory. **Cost** some 20 small operators. The authors' code does this for each parameter tensor by itself,
/// with task 0 as the core: give each group of parameters its own memory for that. CoreTask with α = 0, γ = relax, no clip and moving averages of decay beta
/// is the same with a memory of the core's norm for each task.
struct MetaBalance {
  std::optional<int64_t> core = {};  ///< the core's position; nothing = the cores of the TaskGramian
  double relax = 0.7;                ///< r in [0, 1]: 0 leaves gradients as they are, 1 gives them all the core's usual norm
  double beta = 0.9;                 ///< decay of the averages, in [0, 1)

  /// @brief What a run remembers.
  struct State {
    at::Tensor norms;  ///< [T] float64: averages of ‖g_t‖; at a core's position, of the norm of the cores' sum
    /// @brief Names the tensors for saving, loading, resetting and moving.
    template <class Visit>
    void fields(Visit&& visit) {
      visit("norms", norms);
    }
  };

  /// @brief [T] float64 weights.
  /// @throws c10::ValueError without a core, with options outside their ranges, or where the state was made for other tasks
  at::Tensor weights(const TaskGramian& gramian, State& state) const;

  /// @brief The same by plain loops: the CPU's way. `weights()` checks and prepares the state before.
  at::Tensor weights_by_loops(const TaskGramian& gramian, State& state) const;
  /// @brief The same by ATen without branches, on any device: CUDA's way. `weights()` checks and prepares the state before.
  at::Tensor weights_by_tensors(const TaskGramian& gramian, State& state) const;

 private:
  std::vector<int64_t> cores_of(const TaskGramian& gramian) const { return core ? std::vector<int64_t>{*core} : gramian.cores; }
};

inline at::Tensor MetaBalance::weights(const TaskGramian& gramian, State& state) const {
  const int64_t tasks = gramian.tasks();
  HTL_CHECK(!core || (*core >= 0 && *core < tasks), "htl::MetaBalance: expected core in 0 … ", tasks - 1, ", got ", core.value_or(0));
  HTL_CHECK(core || !gramian.cores.empty(), "htl::MetaBalance: expected a core task, got none; mark one with .core(), or set .core");
  HTL_CHECK(relax >= 0.0 && relax <= 1.0, "htl::MetaBalance: expected relax in [0, 1], got ", relax);
  HTL_CHECK(beta >= 0.0 && beta < 1.0, "htl::MetaBalance: expected beta in [0, 1), got ", beta);
  detail::prepare_memory("htl::MetaBalance", state.norms, {tasks}, gramian.matrix.device());
  return gramian.matrix.is_cpu() ? weights_by_loops(gramian, state) : weights_by_tensors(gramian, state);
}

inline at::Tensor MetaBalance::weights_by_loops(const TaskGramian& gramian, State& state) const {
  const int64_t tasks = gramian.tasks();
  const at::Tensor matrix = gramian.matrix.contiguous(), mask = gramian.active.defined() ? gramian.active.contiguous() : at::Tensor();
  const double* const k = matrix.const_data_ptr<double>();
  const bool* const active = mask.defined() ? mask.const_data_ptr<bool>() : nullptr;
  at::Tensor result = at::zeros({tasks}, matrix.options());
  auto* const w = result.mutable_data_ptr<double>();
  auto* const norms = state.norms.mutable_data_ptr<double>();
  const std::vector<int64_t> cores = cores_of(gramian);
  double square = 0.0;
  bool acting = false;
  for (const int64_t c : cores)
    for (const int64_t d : cores)
      if (!active || (active[c] && active[d])) {
        square += k[c * tasks + d];
        acting = true;
      }
  const double before = norms[cores.front()];
  const double usual = acting ? beta * before + (1.0 - beta) * std::sqrt(std::max(square, 0.0)) : before;
  for (int64_t t = 0; t < tasks; ++t) {
    const bool is_core = std::find(cores.begin(), cores.end(), t) != cores.end(), is_active = !active || active[t];
    if (is_core)
      norms[t] = usual;
    else if (is_active)
      norms[t] = beta * norms[t] + (1.0 - beta) * std::sqrt(std::max(k[t * tasks + t], 0.0));
    const double ratio = usual > 0.0 && norms[t] > 1e-100 * usual ? usual / norms[t] : 1.0;
    if (is_active) w[t] = is_core ? 1.0 : 1.0 + relax * (ratio - 1.0);
  }
  return result;
}

inline at::Tensor MetaBalance::weights_by_tensors(const TaskGramian& gramian, State& state) const {
  const at::Tensor& k = gramian.matrix;
  at::Tensor is_core = at::zeros({gramian.tasks()}, k.options());  // filled by kernels: a copy from the host would synchronise
  const std::vector<int64_t> cores = cores_of(gramian);
  for (const int64_t c : cores) is_core.select(0, c).fill_(1.0);
  const at::Tensor active = gramian.active.defined() ? gramian.active.to(k.options()) : at::ones_like(is_core);

  const at::Tensor acting = is_core * active;
  const at::Tensor core_norm = (acting.unsqueeze(1) * k * acting).sum().clamp_min(0.0).sqrt();
  const at::Tensor norms = at::where(is_core > 0.0, core_norm, k.diagonal().clamp_min(0.0).sqrt());
  const at::Tensor moving = at::where(is_core > 0.0, acting.amax(), active);
  state.norms.copy_(at::where(moving > 0.0, beta * state.norms + (1.0 - beta) * norms, state.norms));

  const at::Tensor usual = state.norms.select(0, cores.front());
  const at::Tensor known = (state.norms > 1e-100 * usual).logical_and(usual > 0.0);
  const at::Tensor ratio = at::where(known, usual / at::where(known, state.norms, at::ones_like(norms)), at::ones_like(norms));
  return active * (1.0 + (1.0 - is_core) * relax * (ratio - 1.0));
}

}  // namespace htl
