// SPDX-License-Identifier: Apache-2.0
/// @file built_in_methods.hpp
/// @brief built_in_methods: the registry of the library's own gradient methods.
#pragma once

#include <htl/weighting/core_task.hpp>
#include <htl/weighting/cr_mogm.hpp>
#include <htl/weighting/db_mtl.hpp>
#include <htl/weighting/excess_mtl.hpp>
#include <htl/weighting/grad_drop.hpp>
#include <htl/weighting/method_registry.hpp>
#include <htl/weighting/moco.hpp>
#include <htl/weighting/sum.hpp>
#include <htl/weighting/trimmed_mean.hpp>

namespace htl::inline v0_1_0 {

namespace detail {

inline void add_plain_methods(MethodRegistry& registry) {
  registry.add("sum", [](OptionReader&) { return Sum{}; });
  registry.add("core_task", [](OptionReader& options) {
    return CoreTask{.alpha = options.number("alpha", CoreTask{}.alpha, {.low = 0.0}),
                    .gamma = options.number("gamma", CoreTask{}.gamma, {.low = 0.0, .high = 1.0}),
                    .clip_ratio = options.number("clip_ratio", CoreTask{}.clip_ratio, {.low = 1.0, .infinite = true}),
                    .norm = options.choice<NormReference>("norm",
                                                          {{"before", NormReference::before_projection},
                                                           {"after", NormReference::after_projection},
                                                           {"moving_average", NormReference::moving_average}},
                                                          CoreTask{}.norm),
                    .several_cores = options.choice<SeveralCores>("several_cores", {{"combined", SeveralCores::combined}, {"own", SeveralCores::own}},
                                                                  CoreTask{}.several_cores),
                    .average_decay = options.number("average_decay", CoreTask{}.average_decay, {.low = 0.0, .high = 1.0, .open_high = true}),
                    .core_task = options.integer("core", CoreTask{}.core_task, {.low = 0.0})};
  });
}

inline void add_methods_that_see_gradients(MethodRegistry& registry) {
  registry.add("graddrop", [](OptionReader& options) { return GradDrop{.leak = options.number("leak", GradDrop{}.leak, {.low = 0.0, .high = 1.0})}; });
  registry.add("trimmed_mean", [](OptionReader& options) { return TrimmedMean{.trim = options.integer("trim", TrimmedMean{}.trim, {.low = 0.0})}; });
  registry.add("excess_mtl", [](OptionReader& options) {
    using Scale = ExcessMTL::Scale;
    return ExcessMTL{.eta = options.number("eta", ExcessMTL{}.eta, {.low = 0.0, .open_low = true}),
                     .warmup = options.integer("warmup", ExcessMTL{}.warmup, {.low = 0.0}),
                     .scale = options.choice<Scale>("scale", {{"one", Scale::one}, {"tasks", Scale::tasks}}, ExcessMTL{}.scale)};
  });
  registry.add("moco", [](OptionReader& options) {
    return MoCo{.beta = options.number("beta", MoCo{}.beta, {.low = 0.0, .high = 1.0, .open_low = true}),
                .sigma = options.number("sigma", MoCo{}.sigma, {.low = 0.0}),
                .gamma = options.number("gamma", MoCo{}.gamma, {.low = 0.0}),
                .sigma_gamma = options.number("sigma_gamma", MoCo{}.sigma_gamma, {.low = 0.0}),
                .rho = options.number("rho", MoCo{}.rho, {.low = 0.0})};
  });
  registry.add("db_mtl", [](OptionReader& options) {
    return DBMTL{.beta = options.number("beta", DBMTL{}.beta, {.low = 0.0, .high = 1.0, .open_high = true}),
                 .sigma = options.number("sigma", DBMTL{}.sigma, {.low = 0.0})};
  });
  registry.add("cr_mogm", [](OptionReader& options) {
    CRMOGM<AnyWeighting> method{.inner = options.method("inner")};
    method.decay = options.number("decay", method.decay, {.low = 0.0, .high = 1.0});
    method.initial = options.numbers("initial", {}, {});
    options.check(!method.inner.sees_gradients(), "averages weights, and \"" + method.inner.name() + "\" has none, since it sees the gradients themselves");
    return method;
  });
}

}  // namespace detail

/// @brief All methods of the library by name, with the options that files and command lines give them. A new registry: add your own to it.
///
///     htl::AnyWeighting method = htl::built_in_methods().make(htl::parse_method("cr_mogm:inner=core_task,inner.alpha=0.5,decay=0.9"));
///
/// | name | method | options |
/// |---|---|---|
/// | `sum` | Sum | |
/// | `core_task` | CoreTask | `alpha`, `gamma`, `clip_ratio`, `norm`: before, after, moving_average; `several_cores`: combined, own; `average_decay`, `core` |
/// | `graddrop` | GradDrop | `leak` |
/// | `trimmed_mean` | TrimmedMean | `trim` |
/// | `excess_mtl` | ExcessMTL | `eta`, `warmup`, `scale`: one, tasks |
/// | `moco` | MoCo | `beta`, `sigma`, `gamma`, `sigma_gamma`, `rho` |
/// | `db_mtl` | DBMTL | `beta`, `sigma` |
/// | `cr_mogm` | CRMOGM<AnyWeighting> | `inner`: a method; `decay`, `initial`: a number for each task |
inline MethodRegistry built_in_methods() {
  MethodRegistry registry;
  detail::add_plain_methods(registry);
  detail::add_methods_that_see_gradients(registry);
  return registry;
}

}  // namespace htl
