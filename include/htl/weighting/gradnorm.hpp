// SPDX-License-Identifier: Apache-2.0
/// @file gradnorm.hpp
/// @brief GradNorm: weights learn to give every task a gradient norm that fits its pace of training.
#pragma once

#include <htl/task/tensor_operators.hpp>
#include <htl/weighting/memory.hpp>
#include <htl/weighting/weighting.hpp>

#include <ATen/ops/ones_like.h>
#include <ATen/ops/where.h>

#include <cmath>

namespace htl::inline v0_1_0 {

/// @brief GradNorm (Chen et al., "GradNorm: Gradient Normalization for Adaptive Loss Balancing in Deep Multitask Networks", ICML 2018, Algorithm 1).
///
/// Weights start at 1. With norms G_t = w_t ‖g_t‖, their mean Ḡ, the losses relative to the first ones L̃_t = L_t / L_t(0) and r_t = L̃_t / mean L̃, each step
/// returns w, and then w_t ← w_t − η sign(G_t − Ḡ r_tᵅ) ‖g_t‖: a step of gradient descent on Σ |G_t − Ḡ r_tᵅ| with the target held constant. Weights are kept
/// at 1e-3 or above and made to add up to T.
///
/// Losses should be positive: an L̃_t that is not counts as 0, and where all are 0, r = 1. A first loss of exactly 0 is taken anew.
/// **Inactive tasks**: weight 0; their weight and first loss stand still, means and sums are over the active ones. One task: weight 1.
/// The step η ‖g_t‖ grows with the gradients, as published: choose the learning rate for their size.
/// **Device**: ATen without branches or synchronisation; a CUDA graph can capture it after a first step, which makes the memory. **Cost** some 30 small
/// operators. LibMTL learns T softmax(θ) and takes the first epoch's mean losses; lucidrains' has the opposite sign of α; torch-rechub's ignores r_t.
struct GradNorm {
  double alpha = 1.5;            ///< ≥ 0: how much larger the gradient of a task that lags is to be; 0 = equal norms
  double learning_rate = 0.025;  ///< η ≥ 0

  /// @brief What a run remembers.
  struct State {
    at::Tensor weights;         ///< [T] float64: w
    at::Tensor initial_losses;  ///< [T] float64: L_t(0); 0 before the task's first active step
    /// @brief Names the tensors for saving, loading, resetting and moving.
    template <class Visit>
    void fields(Visit&& visit) {
      visit("weights", weights);
      visit("initial_losses", initial_losses);
    }
  };

  /// @brief [T] float64 weights.
  /// @throws c10::ValueError without losses, with options outside their ranges, or where the state was made for other tasks
  at::Tensor weights(const TaskGramian& gramian, State& state) const;
};

inline at::Tensor GradNorm::weights(const TaskGramian& gramian, State& state) const {
  HTL_CHECK(alpha >= 0.0 && std::isfinite(alpha), "htl::GradNorm: expected a finite alpha ≥ 0, got ", alpha);
  HTL_CHECK(learning_rate >= 0.0 && std::isfinite(learning_rate), "htl::GradNorm: expected a finite learning_rate ≥ 0, got ", learning_rate);
  const int64_t tasks = gramian.tasks();
  HTL_CHECK(gramian.losses.defined(), "htl::GradNorm: expected the tasks' losses in TaskGramian::losses, got none; htl::backward gives them");
  check_shape("htl::GradNorm", "the losses", gramian.losses, {tasks});
  const at::Tensor& k = gramian.matrix;
  detail::prepare_memory("htl::GradNorm", state.weights, {tasks}, k.device(), 1.0);
  detail::prepare_memory("htl::GradNorm", state.initial_losses, {tasks}, k.device());
  const at::Tensor losses = gramian.losses.to(k.options());
  const at::Tensor active = gramian.active.defined() ? gramian.active.to(k.options()) : at::ones_like(losses);
  const at::Tensor taking_part = active > 0.0, count = active.sum().clamp_min(1.0);
  state.initial_losses.copy_(at::where(taking_part.logical_and(state.initial_losses == 0.0), losses, state.initial_losses));
  at::Tensor result = state.weights * active;

  const at::Tensor started = state.initial_losses != 0.0;
  const at::Tensor relative = (losses / at::where(started, state.initial_losses, at::ones_like(losses))).clamp_min(0.0) * active;
  const at::Tensor mean = relative.sum() / count;
  const at::Tensor pace = at::where(mean > 0.0, relative / at::where(mean > 0.0, mean, at::ones_like(mean)), at::ones_like(losses)).pow(alpha);
  const at::Tensor norms = k.diagonal().clamp_min(0.0).sqrt() * active, weighted = result * norms;
  const at::Tensor slope = (weighted - weighted.sum() / count * pace).sign() * norms;
  at::Tensor next = (state.weights - learning_rate * slope).clamp_min(1e-3);
  next = next * (result.sum() / (next * active).sum().clamp_min(1e-3));  // what the active ones add up to stays, and so does T
  state.weights.copy_(at::where(taking_part, next, state.weights));
  return result;
}

}  // namespace htl
