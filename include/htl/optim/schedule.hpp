// SPDX-License-Identifier: Apache-2.0
/// @file schedule.hpp
/// @brief Learning-rate schedules as values: pure functions of the step, applied by set_lr().
#pragma once

#include <htl/task/check.hpp>

#include <cmath>
#include <concepts>
#include <cstdint>
#include <functional>
#include <numbers>
#include <string_view>
#include <utility>

namespace htl::inline v0_1_0 {

/// @brief A learning rate for every step: `schedule(step) → rate`. Step 0 is the first update. A pure function, so nothing is to be saved but the step.
template <class S>
concept LearningRateSchedule = std::copy_constructible<S> && requires(const S& schedule, int64_t step) {
  { schedule(step) } -> std::convertible_to<double>;
};

/// @brief Any schedule, when its kind is known only at run time.
using AnySchedule = std::function<double(int64_t)>;

namespace detail {
inline void check_rate(std::string_view who, std::string_view what, double rate) {
  HTL_CHECK(std::isfinite(rate) && rate >= 0, who, ": expected ", what, " >= 0 and finite, got ", rate);
}
inline void check_step(std::string_view who, int64_t step) { HTL_CHECK(step >= 0, who, ": expected a step >= 0 (0 is the first update), got ", step); }
inline void check_length(std::string_view who, std::string_view what, int64_t steps) { HTL_CHECK(steps >= 1, who, ": expected ", what, " >= 1, got ", steps); }
}  // namespace detail

/// @brief The same rate at every step.
struct ConstantRate {
  /// The rate.
  double lr = 1e-3;
  /// @brief The rate at a step.
  double operator()(int64_t step) const {
    detail::check_step("htl::ConstantRate", step);
    detail::check_rate("htl::ConstantRate", "lr", lr);
    return lr;
  }
};

/// @brief `lr + (final_lr − lr)·s/steps`: `lr` at step 0, `final_lr` at step `steps` and from there on.
struct LinearDecay {
  /// The rate at step 0.
  double lr = 1e-3;
  /// The step at which the final rate is reached.
  int64_t steps = 1;
  /// The final rate.
  double final_lr = 0;
  /// @brief The rate at a step.
  double operator()(int64_t step) const {
    detail::check_step("htl::LinearDecay", step);
    detail::check_length("htl::LinearDecay", "steps", steps);
    detail::check_rate("htl::LinearDecay", "lr", lr);
    detail::check_rate("htl::LinearDecay", "final_lr", final_lr);
    return step >= steps ? final_lr : lr + (final_lr - lr) * (static_cast<double>(step) / static_cast<double>(steps));
  }
};

/// @brief `final_lr + (lr − final_lr)·(1 + cos(π s/steps))/2`: `lr` at step 0, `final_lr` at step `steps` and from there on.
/// Loshchilov and Hutter, SGDR (ICLR 2017), eq. 5, without restarts.
struct CosineDecay {
  /// The rate at step 0.
  double lr = 1e-3;
  /// The step at which the final rate is reached.
  int64_t steps = 1;
  /// The final rate.
  double final_lr = 0;
  /// @brief The rate at a step.
  double operator()(int64_t step) const {
    detail::check_step("htl::CosineDecay", step);
    detail::check_length("htl::CosineDecay", "steps", steps);
    detail::check_rate("htl::CosineDecay", "lr", lr);
    detail::check_rate("htl::CosineDecay", "final_lr", final_lr);
    if (step >= steps) return final_lr;
    return final_lr + (lr - final_lr) * (1 + std::cos(std::numbers::pi * static_cast<double>(step) / static_cast<double>(steps))) / 2;
  }
};

/// @brief `max(lr·factor^(s/steps), final_lr)`: falls by `factor` every `steps` steps, smoothly.
struct ExponentialDecay {
  /// The rate at step 0.
  double lr = 1e-3;
  /// The factor of `steps` steps, in (0, 1].
  double factor = 0.5;
  /// How many steps apply the factor once.
  int64_t steps = 1;
  /// The rate doesn't fall below this one.
  double final_lr = 0;
  /// @brief The rate at a step.
  double operator()(int64_t step) const {
    detail::check_step("htl::ExponentialDecay", step);
    detail::check_length("htl::ExponentialDecay", "steps", steps);
    detail::check_rate("htl::ExponentialDecay", "lr", lr);
    detail::check_rate("htl::ExponentialDecay", "final_lr", final_lr);
    HTL_CHECK(factor > 0 && factor <= 1, "htl::ExponentialDecay: expected factor in (0, 1], got ", factor);
    return std::fmax(lr * std::pow(factor, static_cast<double>(step) / static_cast<double>(steps)), final_lr);
  }
};

/// @brief `max(lr·factor^⌊s/steps⌋, final_lr)`: falls by `factor` at the steps `steps`, `2·steps`, ….
struct StepDecay {
  /// The rate at step 0.
  double lr = 1e-3;
  /// The factor, in (0, 1].
  double factor = 0.5;
  /// How many steps have the same rate.
  int64_t steps = 1;
  /// The rate doesn't fall below this one.
  double final_lr = 0;
  /// @brief The rate at a step.
  double operator()(int64_t step) const {
    detail::check_step("htl::StepDecay", step);
    detail::check_length("htl::StepDecay", "steps", steps);
    detail::check_rate("htl::StepDecay", "lr", lr);
    detail::check_rate("htl::StepDecay", "final_lr", final_lr);
    HTL_CHECK(factor > 0 && factor <= 1, "htl::StepDecay: expected factor in (0, 1], got ", factor);
    const int64_t decays = step / steps;
    return std::fmax(lr * std::pow(factor, static_cast<double>(decays)), final_lr);
  }
};

/// @brief `steps` updates of linear warm-up, then another schedule from its step 0: `then(0)·(s + 1)/(steps + 1)` for s < steps, `then(s − steps)` after.
///
/// So the first update has a rate above zero, every warm-up update is below the full rate, and step `steps` is the first with the full rate.
/// A run of N updates that shall end at a decay's final rate has a decay of N − 1 − steps steps.
template <LearningRateSchedule Then = ConstantRate>
struct WarmUp {
  /// How many updates are below the full rate; 0 = no warm-up.
  int64_t steps = 0;
  /// What comes after.
  Then then = {};
  /// @brief The rate at a step.
  double operator()(int64_t step) const {
    detail::check_step("htl::WarmUp", step);
    HTL_CHECK(steps >= 0, "htl::WarmUp: expected steps >= 0, got ", steps);
    if (step >= steps) return then(step - steps);
    return then(0) * (static_cast<double>(step + 1) / static_cast<double>(steps + 1));
  }
};
/// `WarmUp{100, CosineDecay{…}}` names no template argument.
template <class Then>
WarmUp(int64_t, Then) -> WarmUp<Then>;

/// @brief Sets the learning rate of an optimizer: one of ours, or all parameter groups of a `torch::optim::Optimizer`.
/// @param optimizer what has `set_lr(rate)`, or `param_groups()`
/// @param lr the rate, from a schedule: `htl::set_lr(dense, schedule(step))`
/// @throws c10::ValueError when the rate is negative or not finite
template <class Optimizer>
void set_lr(Optimizer& optimizer, double lr) {
  if constexpr (requires { optimizer.set_lr(lr); }) {
    optimizer.set_lr(lr);
  } else {
    detail::check_rate("htl::set_lr", "lr", lr);
    for (auto& group : optimizer.param_groups()) group.options().set_lr(lr);
  }
}

}  // namespace htl
