// SPDX-License-Identifier: Apache-2.0
/// @file scheduled_balance.hpp
/// @brief ScheduledBalance: weights that go from one number to another as training goes on.
/// Not in the umbrella: include it where it is used.
#pragma once

#include <htl/balance/per_task.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <vector>

namespace htl::inline v0_1_0 {

/// @brief The way from one weight to another.
enum class WeightCurve {
  linear,  ///< a straight line
  cosine   ///< half a cosine: slow at both ends
};

/// @brief One task's weight as a pure function of time: `from` up to the time `start`, `to` from `start + length` on, and a curve between.
struct WeightSchedule {
  double from = 1.0;                        ///< finite
  double to = 1.0;                          ///< finite
  int64_t start = 0;                        ///< ≥ 0: the last time at `from`
  int64_t length = 1;                       ///< ≥ 1: how long the way takes
  WeightCurve curve = WeightCurve::linear;  ///< its form

  /// @brief The weight at a time ≥ 0.
  /// @throws c10::ValueError with numbers outside their ranges
  double operator()(int64_t time) const {
    HTL_CHECK(std::isfinite(from) && std::isfinite(to), "htl::WeightSchedule: expected finite weights, got ", from, " and ", to);
    HTL_CHECK(start >= 0 && length >= 1, "htl::WeightSchedule: expected start ≥ 0 and length ≥ 1, got ", start, " and ", length);
    const int64_t gone = std::clamp<int64_t>(time - start, 0, length);
    if (gone == length) return to;
    const double part = static_cast<double>(gone) / static_cast<double>(length);
    return from + (to - from) * (curve == WeightCurve::linear ? part : (1.0 - std::cos(std::numbers::pi * part)) / 2.0);
  }
};

/// @brief What a schedule counts.
enum class ScheduleTime {
  step,  ///< the balancer's calls in training
  epoch  ///< Balancer::end_epoch()
};

/// @brief w_t by a schedule of its own: `ScheduledBalance{.schedules = {{}, {.from = 0.0, .length = 1000}}}` lets the second task in over 1000 steps.
///
/// A pure function of step or epoch, which the balancer saves. **Device**: written by kernels from numbers of the host; a captured CUDA graph would keep those
/// of its capture.
struct ScheduledBalance {
  std::vector<WeightSchedule> schedules = {};  ///< one for each task, in the order of the TaskSet, or one for all; empty = weights of 1
  ScheduleTime time = ScheduleTime::step;      ///< what they count

  /// @brief The weights [T].
  /// @throws c10::ValueError with another number of schedules, or with numbers outside their ranges
  BalanceTerms weights(const BalanceInput& input) const {
    std::vector<double> values;
    for (const WeightSchedule& schedule : schedules) values.push_back(schedule(time == ScheduleTime::step ? input.step : input.epoch));
    return detail::per_task("htl::ScheduledBalance", "schedules", values, input.tasks(), input.losses.options(), 1.0);
  }
};

}  // namespace htl
