// SPDX-License-Identifier: Apache-2.0
/// @file excess_mtl.hpp
/// @brief ExcessMTL: more weight for tasks that are far from their optimum, by squared gradients in an AdaGrad metric.
#pragma once

#include <htl/weighting/gradient_parts.hpp>
#include <htl/weighting/memory.hpp>
#include <htl/weighting/scale.hpp>

#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include <cmath>
#include <limits>

namespace htl::inline v0_1_0 {

/// @brief ExcessMTL (He et al., "Robust Multi-Task Learning with Excess Risks", ICML 2024).
///
/// S_t ← S_t + g_t² for each number; the excess risk of task t is e_t = Σ g_t² / √(S_t + 1e-7); its baseline b_t the mean of e_t over the first `warmup` calls,
/// which leave the weights alone; after them w_t ← w_t exp(η e_t / (b_t + 1e-7)), and the weights are divided by their sum. The gradient is s Σ_t w_t g_t
/// with s = T, so that it begins as the plain sum, or 1. T = 1 gives the identity.
///
/// **Shapes**: any parts but split representations; of tables the touched rows, and the others get 0 from the method too. **Inactive tasks** leave S_t, b_t and
/// w_t as they are, and the active tasks' weights sum to s (with s = the number of active tasks for T); the calls of the warm-up are those in which the task
/// was active. **Memory**: S_t, 8 · T bytes for each number of the shared tensors (of tables on the CPU only for the pages that were touched), in float64,
/// since squares of float32 overflow. **Device**: ATen without branches or synchronisation; a CUDA graph can capture it after the first call. **Cost**: about
/// ten passes over the task gradients. It reports its weights. The weights are kept as logarithms: nothing overflows. **Elsewhere**: LibMTL is warmup = 1, eta
/// = 0.01, scale tasks, without the 1e-7 beside b_t. The authors' code and TorchJD have warmup = 0: the first call's e_t is the baseline and moves the weights
/// undivided; eta = 1 and scale one in TorchJD. The paper's appendix warms up for three epochs.
struct ExcessMTL {
  double eta = 0.01;                       ///< the step η > 0 of the weights
  int64_t warmup = 1;                      ///< ≥ 0: how many calls make the baseline; 0 = the first call does, and moves the weights by its undivided e_t
  WeightScale scale = WeightScale::tasks;  ///< what the weights sum to

  /// @brief What a run remembers.
  struct State {
    at::Tensor squares;      ///< [numbers] float64: S_t of all parts, each [total_rows, T, C]
    at::Tensor baseline;     ///< [T] float64: Σ e_t over the warm-up
    at::Tensor calls;        ///< [T] float64: calls in which the task was active
    at::Tensor log_weights;  ///< [T] float64: log w_t, the largest one 0
    /// @brief Names the tensors for saving, loading, resetting and moving.
    template <class Visit>
    void fields(Visit&& visit) {
      visit("squares", squares);
      visit("baseline", baseline);
      visit("calls", calls);
      visit("log_weights", log_weights);
    }
  };

  /// @brief The shared gradient.
  /// @throws c10::ValueError with eta ≤ 0, warmup < 0, parts of a wrong shape, or the state of others
  SharedGradient aggregate(const TaskGradients& gradients, State& state) const;
};

inline SharedGradient ExcessMTL::aggregate(const TaskGradients& gradients, State& state) const {
  const char* const who = "htl::ExcessMTL";
  HTL_CHECK(eta > 0.0 && std::isfinite(eta), "htl::ExcessMTL: expected a finite eta > 0, got ", eta);
  HTL_CHECK(warmup >= 0, "htl::ExcessMTL: expected warmup ≥ 0, got ", warmup);
  detail::check_parts(who, gradients);
  const TaskGramian& gramian = gradients.gramian;
  for (at::Tensor* field : {&state.baseline, &state.calls, &state.log_weights}) detail::prepare_memory(who, *field, {gramian.tasks()}, gramian.matrix.device());
  const std::vector<at::Tensor> memory = detail::memory_of_parts(who, state.squares, gradients, at::kDouble);

  at::Tensor excess = at::zeros_like(state.baseline);
  for (size_t p = 0; p < memory.size(); ++p) {
    const TaskGradients::Part& part = gradients.parts[p];
    const at::Tensor squares = detail::active_values(part, gramian).to(at::kDouble).square();
    at::Tensor sums = memory[p];
    if (part.rows.defined()) {
      sums.index_add_(0, part.rows, squares);  // adds: an unused slot's zeros then change nothing of row 0
      sums = sums.index_select(0, part.rows);
    } else {
      sums.add_(squares);
    }
    excess.add_((squares / (sums + 1e-7).sqrt()).sum(at::IntArrayRef({0, 2})));
  }

  const at::Tensor active = detail::active_tasks(gramian), calls = state.calls + active;
  const auto baseline_calls = static_cast<double>(std::max<int64_t>(warmup, 1));
  const at::Tensor first = active.logical_and(calls <= baseline_calls), baseline = state.baseline + at::where(first, excess, 0.0);
  const at::Tensor ratio = excess / (baseline / baseline_calls + 1e-7);
  // without a warm-up the first call makes the baseline and moves the weights as well
  const at::Tensor step = warmup > 0 ? at::where(first, 0.0, ratio) : at::where(first, excess, ratio);
  const at::Tensor moved = state.log_weights + at::where(active, eta * step, 0.0);
  state.calls.copy_(calls);  // in place, as a captured graph needs it
  state.baseline.copy_(baseline);
  state.log_weights.copy_(moved - moved.max());

  SharedGradient result;
  const at::Tensor share = state.log_weights.masked_fill(active.logical_not(), -std::numeric_limits<double>::infinity()).softmax(0);
  result.weights = at::where(active, scale == WeightScale::tasks ? share * active.sum() : share, 0.0);
  for (const TaskGradients::Part& part : gradients.parts)
    result.parts.push_back({detail::weighted_sum(detail::active_values(part, gramian), result.weights), part.rows, part.valid});
  return result;
}

}  // namespace htl
