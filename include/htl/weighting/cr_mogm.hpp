// SPDX-License-Identifier: Apache-2.0
/// @file cr_mogm.hpp
/// @brief CRMOGM: a moving average over steps of any method's weights.
#pragma once

#include <htl/weighting/apply.hpp>
#include <htl/weighting/memory.hpp>

#include <ATen/ops/where.h>

#include <cmath>
#include <string>
#include <utility>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief CR-MOGM (Zhou et al., "On the Convergence of Stochastic Multi-Objective Gradient Manipulation and Beyond", NeurIPS 2022, Algorithm 1).
///
/// λ ← a λ + (1 − a) ŵ with ŵ the weights of the inner method; λ begins as `initial`, or as ŵ of a task's first call. T = 1 gives the inner method's weight
/// where that doesn't change.
///
/// **Inactive tasks**: λ_t stands still, and the weight is 0. **Device**, synchronisation and cost: the inner method's and a few operators on [T]; no wait of
/// its own, and a CUDA graph can capture it after the first call where it can capture the inner method. Batches, losses after the step and random numbers go to
/// the inner method. **Elsewhere**: TorchJD is the same; the paper lets a rise from 0 to 1 as the learning rate falls: set `decay` between steps.
/// @tparam W any GramianWeighting, AnyWeighting as well
template <GramianWeighting W>
struct CRMOGM {
  W inner;                           ///< the method whose weights are averaged
  double decay = 0.9;                ///< a in [0, 1]: the part of the old weights; 0 = the inner method itself
  std::vector<double> initial = {};  ///< the weights [T] before the first call; empty = those of the first call

  /// @brief What a run remembers.
  struct State {
    at::Tensor weights;     ///< [T] float64: λ
    at::Tensor known;       ///< [T] bool: the task has been active
    MethodMemory<W> inner;  ///< what the inner method remembers
    /// @brief How often the inner method took its fallback; undefined where it counts none.
    at::Tensor fallbacks() const { return detail::fallbacks_of(inner); }
    /// @brief Names the tensors for saving, loading, resetting and moving; the inner method's as "inner/…".
    template <class Visit>
    void fields(Visit&& visit) {
      visit("weights", weights);
      visit("known", known);
      if constexpr (requires { inner.fields([](const char*, at::Tensor&) {}); })
        inner.fields([&](const char* name, at::Tensor& field) { visit((std::string("inner/") + name).c_str(), field); });
    }
  };

  /// @brief The memory before the first call.
  State initial_state() const { return {{}, {}, detail::initial_state(inner)}; }

  /// @brief [T] float64: λ.
  /// @throws c10::ValueError with decay outside [0, 1], or initial weights that are not finite or for another number of tasks, or where the inner
  ///   method's weights are not finite (CPU); what the inner method throws
  at::Tensor weights(const TaskGramian& gramian, State& state) const {
    HTL_CHECK(decay >= 0.0 && decay <= 1.0, "htl::CRMOGM: expected decay in [0, 1], got ", decay);
    const int64_t tasks = gramian.tasks();
    HTL_CHECK(initial.empty() || static_cast<int64_t>(initial.size()) == tasks, "htl::CRMOGM: expected initial weights for ", tasks, " tasks, got ",
              initial.size());
    for (const double weight : initial) HTL_CHECK(std::isfinite(weight), "htl::CRMOGM: expected finite initial weights, got ", weight);
    detail::prepare_memory("htl::CRMOGM", state.weights, {tasks}, gramian.matrix.device());
    const at::Tensor given = htl::weights(inner, gramian, state.inner);
    if (given.is_cpu()) HTL_CHECK(given.isfinite().all().item<bool>(), "htl::CRMOGM: the inner method's weights are not finite, and would stay in the average");
    if (!state.known.defined()) {
      state.known = gramian.matrix.new_full({tasks}, !initial.empty(), at::kBool);
      if (!initial.empty())
        for (int64_t t = 0; t < tasks; ++t) state.weights.select(0, t).fill_(initial[static_cast<size_t>(t)]);
    }
    if (state.known.device() != gramian.matrix.device()) state.known = state.known.to(gramian.matrix.device());
    const at::Tensor next = at::where(state.known, decay * state.weights + (1.0 - decay) * given, given);
    const at::Tensor active = detail::active_tasks(gramian);
    state.weights.copy_(at::where(active, next, state.weights));  // in place, as a captured graph needs it
    state.known.logical_or_(active);
    return at::where(active, next, 0.0);
  }

  /// @brief The inner method's batches.
  int64_t batches() const {
    if constexpr (BatchesWeighting<W>) {
      return inner.batches();
    } else {
      return 1;
    }
  }
  /// @brief Whether the inner method hears losses.
  bool observes() const {
    if constexpr (requires { inner.observes(); }) {
      return inner.observes();
    } else {
      return LossObserver<W>;
    }
  }
  /// @brief Tells the losses after a step to the inner method, if it listens.
  void observe(const at::Tensor& losses, State& state) const {
    if constexpr (LossObserver<W>) inner.observe(losses, state.inner);
  }
};

}  // namespace htl
