// SPDX-License-Identifier: Apache-2.0
/// @file stch_balance.hpp
/// @brief STCHBalance: a smooth maximum of the losses.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/balance/per_task.hpp>
#include <htl/weighting/memory.hpp>
#include <htl/weighting/scale.hpp>

#include <ATen/ops/where.h>

#include <cmath>
#include <limits>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief Smooth Tchebycheff scalarisation (Lin et al., "Smooth Tchebycheff Scalarization for Multi-Objective Optimization", ICML 2024):
/// f = μ log Σ exp(λ_t (ℓ_t − z_t) / μ), so that w_t = softmax(λ (ℓ − z) / μ)_t λ_t ∂ℓ_t/∂L_t.
///
/// *Plain form*: ℓ_t = L_t. As μ → 0, f is the largest λ_t (L_t − z_t). *Relative form*, with `nadir` or `warmup_epochs`: ℓ_t = log(L_t / nadir_t). The nadir
/// is given, or learnt: in the first `warmup_epochs` epochs f is Σ log L_t, and each task's nadir is its mean loss in the last of them in which it had labels
/// (1 without one). LibMTL's STCH is `{.warmup_epochs = 5, .scale = WeightScale::tasks}`; TorchJD has the plain form, with λ given.
///
/// Where a logarithm is taken, losses (relative: L_t / nadir_t) below `floor` count as that, in f and in w. **Inactive tasks**: weight 0, not in f; λ_t of the
/// others stays as it is. **Device**: ATen without branches or synchronisation.
struct STCHBalance {
  double mu = 1.0;                       ///< μ > 0: how smooth
  std::vector<double> preferences = {};  ///< λ > 0, one number or one for each task; empty = 1/T in the plain form, 1 in the relative form
  std::vector<double> ideal = {};        ///< z, in the unit of ℓ; empty = 0
  std::vector<double> nadir = {};        ///< > 0: takes the relative form
  int64_t warmup_epochs = 0;             ///< > 0: takes the relative form with a nadir that is learnt, ended by Balancer::end_epoch()
  WeightScale scale = WeightScale::one;  ///< f as above, or times the number of active tasks (not in the warm-up)
  double floor = 1e-8;                   ///< > 0

  /// @brief What a run remembers.
  struct State {
    at::Tensor nadir;   ///< [T] float64: learnt so far
    at::Tensor sums;    ///< [T] float64: of this epoch's losses, in the warm-up
    at::Tensor counts;  ///< [T] float64: how many they are
    /// @brief Names the tensors for saving, loading, resetting and moving.
    template <class Visit>
    void fields(Visit&& visit) {
      visit("nadir", nadir);
      visit("sums", sums);
      visit("counts", counts);
    }
  };

  /// @brief 0 in the relative form, whose losses' logarithms it takes
  double least_loss() const { return warmup_epochs > 0 || !nadir.empty() ? 0.0 : -std::numeric_limits<double>::infinity(); }
  /// @brief w [T] and f.
  /// @throws c10::ValueError with options outside their ranges, or where the state was made for other tasks
  BalanceTerms weights(const BalanceInput& input, State& state) const {
    check(input.tasks());
    const bool relative = warmup_epochs > 0 || !nadir.empty();
    const at::Tensor inactive = input.active.defined() ? input.active.logical_not() : at::Tensor();
    if (warmup_epochs > 0) remember(input, state);
    if (input.epoch < warmup_epochs) {
      const at::Tensor values = input.losses.clamp_min(floor), logs = values.log();
      return {values.reciprocal(), {}, (inactive.defined() ? logs.masked_fill(inactive, 0.0) : logs).sum()};
    }
    const auto option = [&](const char* what, const std::vector<double>& values, double standard) {
      return detail::per_task("htl::STCHBalance", what, values, input.tasks(), input.losses.options(), standard);
    };
    at::Tensor slope = option("preferences", preferences, relative ? 1.0 : 1.0 / static_cast<double>(input.tasks())), level = input.losses;
    at::Tensor exponents = slope;
    if (relative) {
      const at::Tensor worst = warmup_epochs > 0 ? state.nadir : option("nadir", nadir, 1.0), least = worst * floor;
      level = input.losses.maximum(least);
      slope = slope / level;
      level = (level / worst).log();
    }
    if (!ideal.empty()) level = level - option("ideal", ideal, 0.0);
    exponents = exponents * level / mu;
    const detail::ActiveShares active = detail::shares_of_active(input, exponents);
    at::Tensor weights = active.shares * slope, total = active.log_sum * mu;
    if (scale == WeightScale::tasks) {
      const at::Tensor count = input.mask().sum();
      weights = weights * count;
      total = total * count;
    }
    return {weights, {}, total};
  }
  /// @brief Closes an epoch of the warm-up: its means are the nadir of the tasks that had labels.
  void end_epoch(State& state) const {
    if (!state.sums.defined()) return;
    state.nadir = at::where(state.counts > 0.0, (state.sums / state.counts).clamp_min(floor), state.nadir);
    state.sums.zero_();
    state.counts.zero_();
  }

 private:
  void check(int64_t tasks) const {
    HTL_CHECK(mu > 0.0 && std::isfinite(mu), "htl::STCHBalance: expected a finite mu > 0, got ", mu);
    HTL_CHECK(floor > 0.0 && std::isfinite(floor), "htl::STCHBalance: expected a finite floor > 0, got ", floor);
    HTL_CHECK(warmup_epochs >= 0, "htl::STCHBalance: expected warmup_epochs ≥ 0, got ", warmup_epochs);
    HTL_CHECK(warmup_epochs == 0 || nadir.empty(),
              "htl::STCHBalance: expected nadir or warmup_epochs, got both; without warm-up the nadir that is given holds");
    detail::check_per_task("htl::STCHBalance", "preferences", preferences, tasks);
    for (const double value : preferences) HTL_CHECK(value > 0.0, "htl::STCHBalance: expected preferences > 0, got ", value);
    for (const double value : nadir) HTL_CHECK(value > 0.0, "htl::STCHBalance: expected nadir > 0, got ", value);
  }
  void remember(const BalanceInput& input, State& state) const {
    detail::prepare_memory("htl::STCHBalance", state.nadir, {input.tasks()}, input.losses.device(), 1.0);
    detail::prepare_memory("htl::STCHBalance", state.sums, {input.tasks()}, input.losses.device());
    detail::prepare_memory("htl::STCHBalance", state.counts, {input.tasks()}, input.losses.device());
    if (input.epoch >= warmup_epochs) return;
    const at::Tensor counts = detail::taking_part(input);
    state.sums.add_(at::where(counts, input.losses, 0.0));
    state.counts.add_(counts.to(state.counts.options()));
  }
};

}  // namespace htl
