// SPDX-License-Identifier: Apache-2.0
/// @file built_in_balancers.hpp
/// @brief built_in_balancers: the registry of the library's own balancers.
///
/// Not in the umbrella: it makes every balancer of the library. A translation unit that chooses balancers by name includes it.
#pragma once

#include <htl/balance/balancer_registry.hpp>
#include <htl/balance/constant_balance.hpp>
#include <htl/balance/cosmos_balance.hpp>
#include <htl/balance/dwa_balance.hpp>
#include <htl/balance/famo_balance.hpp>
#include <htl/balance/geometric_mean_balance.hpp>
#include <htl/balance/imtl_l_balance.hpp>
#include <htl/balance/pbi_balance.hpp>
#include <htl/balance/random_balance.hpp>
#include <htl/balance/scale_invariant_balance.hpp>
#include <htl/balance/scheduled_balance.hpp>
#include <htl/balance/stch_balance.hpp>
#include <htl/balance/uncertainty_balance.hpp>

#include <algorithm>
#include <string>
#include <vector>

namespace htl::inline v0_1_0 {

namespace detail {

inline ParameterBounds parameter_bounds(OptionReader& options) {
  constexpr OptionRange any{.infinite = true};
  const ParameterBounds bounds{options.number("low", ParameterBounds{}.low, any), options.number("high", ParameterBounds{}.high, any)};
  options.check(bounds.low <= bounds.high, "expects low ≤ high");
  return bounds;
}
inline WeightScale balance_scale(OptionReader& options) {
  return options.choice<WeightScale>("scale", {{"one", WeightScale::one}, {"tasks", WeightScale::tasks}}, WeightScale::one);
}

inline void add_learned_balancers(BalancerRegistry& registry) {
  registry.add("uncertainty", [](OptionReader& options) {
    UncertaintyBalance method;
    method.form = options.choice<UncertaintyForm>("form",
                                                  {{"regression", UncertaintyForm::regression},
                                                   {"kendall", UncertaintyForm::kendall},
                                                   {"classification", UncertaintyForm::classification},
                                                   {"liebel", UncertaintyForm::liebel}},
                                                  method.form);
    method.initial = options.numbers("initial", method.initial);
    method.bounds = parameter_bounds(options);
    return method;
  });
  registry.add("imtl_l", [](OptionReader& options) {
    IMTLLBalance method;
    method.initial = options.numbers("initial", method.initial);
    method.bounds = parameter_bounds(options);
    return method;
  });
}

inline void add_balancers_of_formulas(BalancerRegistry& registry) {
  registry.add("geometric_mean",
               [](OptionReader& options) { return GeometricMeanBalance{.floor = options.number("floor", GeometricMeanBalance{}.floor, kPositive)}; });
  registry.add("scale_invariant", [](OptionReader& options) {
    ScaleInvariantBalance method;
    method.offset = options.number("offset", method.offset, kNotNegative);
    method.floor = options.number("floor", method.floor, kPositive);
    return method;
  });
  registry.add("stch", [](OptionReader& options) {
    STCHBalance method;
    method.mu = options.number("mu", method.mu, kPositive);
    method.preferences = options.numbers("preferences", method.preferences, kPositive);
    method.ideal = options.numbers("ideal", method.ideal);
    method.nadir = options.numbers("nadir", method.nadir, kPositive);
    method.warmup_epochs = options.integer("warmup_epochs", method.warmup_epochs, kNotNegative);
    method.scale = balance_scale(options);
    method.floor = options.number("floor", method.floor, kPositive);
    options.check(method.warmup_epochs == 0 || method.nadir.empty(), "takes nadir or warmup_epochs, got both");
    return method;
  });
  registry.add("cosmos", [](OptionReader& options) {
    COSMOSBalance method;
    method.lambda = options.number("lambda", method.lambda);
    method.preferences = options.numbers("preferences", method.preferences, kNotNegative);
    method.floor = options.number("floor", method.floor, kPositive);
    return method;
  });
  registry.add("pbi", [](OptionReader& options) {
    PBIBalance method;
    method.theta = options.number("theta", method.theta, kNotNegative);
    method.preferences = options.numbers("preferences", method.preferences, kNotNegative);
    method.ideal = options.numbers("ideal", method.ideal);
    return method;
  });
}

inline void add_balancers_over_time(BalancerRegistry& registry) {
  registry.add("dwa", [](OptionReader& options) {
    DWABalance method;
    method.temperature = options.number("temperature", method.temperature, kPositive);
    method.window = options.integer("window", method.window, kNotNegative);
    return method;
  });
  registry.add("famo", [](OptionReader& options) {
    FAMOBalance method;
    method.learning_rate = options.number("learning_rate", method.learning_rate, kNotNegative);
    method.weight_decay = options.number("weight_decay", method.weight_decay, kNotNegative);
    method.min_losses = options.numbers("min_losses", method.min_losses);
    return method;
  });
  registry.add("schedule", [](OptionReader& options) {
    const std::vector<double> from = options.numbers("from", std::vector{1.0}), to = options.numbers("to", std::vector{1.0});
    const std::vector<int64_t> start = options.integers("start", {0}, kNotNegative), length = options.integers("length", {1}, {.low = 1.0});
    const size_t count = std::max({from.size(), to.size(), start.size(), length.size()});
    const auto fits = [&](const auto& list) { return list.size() == 1 || list.size() == count; };
    options.check(fits(from) && fits(to) && fits(start) && fits(length),
                  "expects from, to, start and length as one number each, or as many as there are tasks");
    const auto curve = options.choice<WeightCurve>("curve", {{"linear", WeightCurve::linear}, {"cosine", WeightCurve::cosine}}, WeightCurve::linear);
    ScheduledBalance method;
    method.time = options.choice<ScheduleTime>("time", {{"step", ScheduleTime::step}, {"epoch", ScheduleTime::epoch}}, method.time);
    const auto of = [](const auto& list, size_t t) { return list[list.size() == 1 ? 0 : t]; };
    for (size_t t = 0; t < count; ++t) method.schedules.push_back({of(from, t), of(to, t), of(start, t), of(length, t), curve});
    return method;
  });
}

}  // namespace detail

/// @brief All balancers of the library by name, with the options that files and command lines give them. A new registry: add your own to it.
///
///     htl::AnyBalance method = htl::built_in_balancers().make(htl::parse_spec("uncertainty:form=kendall,initial=-0.5"));
///
/// Options and their defaults are the methods' own. "Numbers" are one for all tasks, or one for each, as 1;0.5;2.
///
/// | name | method | options |
/// |---|---|---|
/// | `constant` | ConstantBalance | `weights`: numbers |
/// | `schedule` | ScheduledBalance | `from`, `to`, `start`, `length`: numbers; `curve`: linear, cosine; `time`: step, epoch |
/// | `random` | RandomBalance | `scale`: one, tasks |
/// | `uncertainty` | UncertaintyBalance | `form`: regression, kendall, classification, liebel; `initial`: numbers; `low`, `high` |
/// | `imtl_l` | IMTLLBalance | `initial`: numbers; `low`, `high` |
/// | `dwa` | DWABalance | `temperature`; `window`: 0 = epochs |
/// | `famo` | FAMOBalance | `learning_rate`, `weight_decay`; `min_losses`: a number for each task |
/// | `geometric_mean` | GeometricMeanBalance | `floor` |
/// | `scale_invariant` | ScaleInvariantBalance | `offset`, `floor` |
/// | `stch` | STCHBalance | `mu`; `preferences`, `ideal`, `nadir`: numbers; `warmup_epochs`; `scale`: one, tasks; `floor` |
/// | `cosmos` | COSMOSBalance | `lambda`; `preferences`: numbers; `floor` |
/// | `pbi` | PBIBalance | `theta`; `preferences`, `ideal`: numbers |
inline BalancerRegistry built_in_balancers() {
  BalancerRegistry registry;
  registry.add("constant", [](OptionReader& options) { return ConstantBalance{.values = options.numbers("weights", std::vector<double>{})}; });
  registry.add("random", [](OptionReader& options) { return RandomBalance{.scale = detail::balance_scale(options)}; });
  detail::add_learned_balancers(registry);
  detail::add_balancers_of_formulas(registry);
  detail::add_balancers_over_time(registry);
  return registry;
}

}  // namespace htl
