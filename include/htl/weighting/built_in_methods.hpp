// SPDX-License-Identifier: Apache-2.0
/// @file built_in_methods.hpp
/// @brief built_in_methods: the registry of the library's own gradient methods.
///
/// Not in the umbrella: it makes every method of the library, which costs a translation unit some seconds. One that chooses methods by name includes it.
#pragma once

#include <htl/weighting/aligned_mtl.hpp>
#include <htl/weighting/cagrad.hpp>
#include <htl/weighting/config.hpp>
#include <htl/weighting/constant.hpp>
#include <htl/weighting/core_task.hpp>
#include <htl/weighting/cr_mogm.hpp>
#include <htl/weighting/db_mtl.hpp>
#include <htl/weighting/dual_proj.hpp>
#include <htl/weighting/excess_mtl.hpp>
#include <htl/weighting/fair_grad.hpp>
#include <htl/weighting/famo.hpp>
#include <htl/weighting/grad_drop.hpp>
#include <htl/weighting/gradnorm.hpp>
#include <htl/weighting/gradvac.hpp>
#include <htl/weighting/imtlg.hpp>
#include <htl/weighting/krum.hpp>
#include <htl/weighting/mean.hpp>
#include <htl/weighting/metabalance.hpp>
#include <htl/weighting/method_registry.hpp>
#include <htl/weighting/mgda.hpp>
#include <htl/weighting/moco.hpp>
#include <htl/weighting/modo.hpp>
#include <htl/weighting/nash_mtl.hpp>
#include <htl/weighting/pcgrad.hpp>
#include <htl/weighting/pe_ltr.hpp>
#include <htl/weighting/random_weighting.hpp>
#include <htl/weighting/sdmgrad.hpp>
#include <htl/weighting/sum.hpp>
#include <htl/weighting/trimmed_mean.hpp>
#include <htl/weighting/upgrad.hpp>

namespace htl::inline v0_1_0 {

namespace detail {

/// The options order and given, "given=2;0;1" alone being an order.
template <class M>
void read_order(OptionReader& options, M& method) {
  method.given = options.integers("given", {}, kNotNegative);
  method.order =
      options.choice<Order>("order", {{"ascending", Order::ascending}, {"descending", Order::descending}, {"random", Order::random}, {"given", Order::given}},
                            method.given.empty() ? method.order : Order::given);
}
inline Preference preference_option(OptionReader& options, Preference standard) {
  return options.choice<Preference>("preference", {{"mean", Preference::mean}, {"sum", Preference::sum}}, standard);
}
inline WeightScale scale_option(OptionReader& options, WeightScale standard) {
  return options.choice<WeightScale>("scale", {{"one", WeightScale::one}, {"tasks", WeightScale::tasks}}, standard);
}

inline void add_plain_methods(MethodRegistry& registry) {
  registry.add("sum", [](OptionReader&) { return Sum{}; });
  registry.add("mean", [](OptionReader&) { return Mean{}; });
  registry.add("constant", [](OptionReader& options) { return Constant{options.numbers("weights")}; });
  registry.add("random", [](OptionReader&) { return RandomWeighting{}; });
}

inline void add_methods_around_a_core(MethodRegistry& registry) {
  registry.add("core_task", [](OptionReader& options) {
    using enum NormReference;
    CoreTask method;
    method.alpha = options.number("alpha", method.alpha, kNotNegative);
    method.gamma = options.number("gamma", method.gamma, kPart);
    method.clip_ratio = options.number("clip_ratio", method.clip_ratio, {.low = 1.0, .infinite = true});
    method.norm =
        options.choice<NormReference>("norm", {{"before", before_projection}, {"after", after_projection}, {"moving_average", moving_average}}, method.norm);
    method.several_cores =
        options.choice<SeveralCores>("several_cores", {{"combined", SeveralCores::combined}, {"own", SeveralCores::own}}, method.several_cores);
    method.average_decay = options.number("average_decay", method.average_decay, kDecay);
    method.core = options.position("core");
    return method;
  });
  registry.add("metabalance", [](OptionReader& options) {
    MetaBalance method;
    method.core = options.position("core");
    method.relax = options.number("relax", method.relax, kPart);
    method.beta = options.number("beta", method.beta, kDecay);
    return method;
  });
}

inline void add_methods_of_angles(MethodRegistry& registry) {
  registry.add("pcgrad", [](OptionReader& options) {
    PCGrad method;
    read_order(options, method);
    method.reduction = options.choice<Reduction>("reduction", {{"sum", Reduction::sum}, {"mean", Reduction::mean}}, method.reduction);
    return method;
  });
  registry.add("gradvac", [](OptionReader& options) {
    GradVac method;
    method.beta = options.number("beta", method.beta, kPart);
    read_order(options, method);
    return method;
  });
  registry.add("imtl_g", [](OptionReader& options) { return IMTLG{.cutoff = options.number("cutoff", IMTLG{}.cutoff, kDecay)}; });
  registry.add("aligned_mtl", [](OptionReader& options) {
    AlignedMTL method;
    method.scale =
        options.choice<AlignedScale>("scale", {{"min", AlignedScale::min}, {"median", AlignedScale::median}, {"rmse", AlignedScale::rmse}}, method.scale);
    method.preference = preference_option(options, method.preference);
    method.cutoff = options.number("cutoff", method.cutoff, kDecay);
    return method;
  });
  registry.add("config", [](OptionReader& options) { return ConFIG{.cutoff = options.number("cutoff", ConFIG{}.cutoff, kDecay)}; });
  registry.add("krum", [](OptionReader& options) {
    return Krum{.byzantine = options.integer("byzantine", Krum{}.byzantine, kNotNegative),
                .selected = options.integer("selected", Krum{}.selected, {.low = 1.0})};
  });
}

inline void add_methods_of_shortest_gradients(MethodRegistry& registry) {
  registry.add("mgda", [](OptionReader& options) { return MGDA{.scale = scale_option(options, MGDA{}.scale)}; });
  registry.add("cagrad", [](OptionReader& options) {
    CAGrad method;
    method.c = options.number("c", method.c, kNotNegative);
    method.rescale = options.choice<int64_t>("rescale", {{"0", 0}, {"1", 1}, {"2", 2}}, method.rescale);
    method.scale = scale_option(options, method.scale);
    return method;
  });
  registry.add("pe_ltr", [](OptionReader& options) {
    PELTR method;
    method.bounds = options.numbers("bounds", method.bounds, kPart);
    method.bound = options.number("bound", method.bound, kPart);
    options.check(method.bounds.empty() || method.bound == 0.0, "takes bounds for each task or one bound for all, got both");
    return method;
  });
  registry.add("sdmgrad", [](OptionReader& options) { return SDMGrad{.lambda = options.number("lambda", SDMGrad{}.lambda, kNotNegative)}; });
  registry.add("modo", [](OptionReader& options) {
    MoDo method;
    method.gamma = options.number("gamma", method.gamma, kNotNegative);
    method.rho = options.number("rho", method.rho, kNotNegative);
    return method;
  });
}

inline void add_methods_without_conflict(MethodRegistry& registry) {
  registry.add("upgrad", [](OptionReader& options) { return UPGrad{.preference = preference_option(options, UPGrad{}.preference)}; });
  registry.add("dualproj", [](OptionReader& options) { return DualProj{.preference = preference_option(options, DualProj{}.preference)}; });
  registry.add("nash_mtl", [](OptionReader& options) {
    NashMTL method;
    method.max_norm = options.number("max_norm", method.max_norm, {.low = 0.0, .open_low = true, .infinite = true});
    method.update_every = options.integer("update_every", method.update_every, {.low = 1.0});
    return method;
  });
  registry.add("fairgrad", [](OptionReader& options) { return FairGrad{.alpha = options.number("alpha", FairGrad{}.alpha, kNotNegative)}; });
}

inline void add_methods_of_losses(MethodRegistry& registry) {
  registry.add("gradnorm", [](OptionReader& options) {
    GradNorm method;
    method.alpha = options.number("alpha", method.alpha, kNotNegative);
    method.learning_rate = options.number("learning_rate", method.learning_rate, kNotNegative);
    return method;
  });
  registry.add("famo", [](OptionReader& options) {
    FAMO method;
    method.learning_rate = options.number("learning_rate", method.learning_rate, kNotNegative);
    method.weight_decay = options.number("weight_decay", method.weight_decay, kNotNegative);
    method.max_norm = options.number("max_norm", method.max_norm, {.low = 0.0, .open_low = true, .infinite = true});
    method.min_losses = options.numbers("min_losses", method.min_losses);
    return method;
  });
}

inline void add_methods_that_see_gradients(MethodRegistry& registry) {
  registry.add("graddrop", [](OptionReader& options) { return GradDrop{.leak = options.number("leak", GradDrop{}.leak, kPart)}; });
  registry.add("trimmed_mean", [](OptionReader& options) { return TrimmedMean{.trim = options.integer("trim", TrimmedMean{}.trim, kNotNegative)}; });
  registry.add("excess_mtl", [](OptionReader& options) {
    ExcessMTL method;
    method.eta = options.number("eta", method.eta, kPositive);
    method.warmup = options.integer("warmup", method.warmup, kNotNegative);
    method.scale = scale_option(options, method.scale);
    return method;
  });
  registry.add("moco", [](OptionReader& options) {
    MoCo method;
    method.beta = options.number("beta", method.beta, kRate);
    method.sigma = options.number("sigma", method.sigma, kNotNegative);
    method.gamma = options.number("gamma", method.gamma, kNotNegative);
    method.sigma_gamma = options.number("sigma_gamma", method.sigma_gamma, kNotNegative);
    method.rho = options.number("rho", method.rho, kNotNegative);
    method.normalize = options.flag("normalize", method.normalize);
    method.map = options.choice<SimplexMap>("map", {{"softmax", SimplexMap::softmax}, {"projection", SimplexMap::projection}}, method.map);
    return method;
  });
  registry.add("db_mtl", [](OptionReader& options) {
    DBMTL method;
    method.beta = options.number("beta", method.beta, kDecay);
    method.sigma = options.number("sigma", method.sigma, kNotNegative);
    return method;
  });
}

inline void add_methods_around_others(MethodRegistry& registry) {
  registry.add("cr_mogm", [](SpecReader<AnyWeighting>& options) {
    const double decay = options.number("decay", CRMOGM<Sum>{}.decay, kPart);
    const std::vector<double> initial = options.numbers("initial", std::vector<double>{});
    CRMOGM<AnyWeighting> method{.inner = options.wrapped("inner"), .decay = decay, .initial = initial};
    options.check(!method.inner.sees_gradients(), "averages weights, and \"" + method.inner.name() + "\" has none, since it sees the gradients themselves");
    return method;
  });
}

}  // namespace detail

/// @brief All methods of the library by name, with the options that files and command lines give them. A new registry: add your own to it.
///
///     htl::AnyWeighting method = htl::built_in_methods().make(htl::parse_spec("cr_mogm:inner=pcgrad,inner.order=ascending,decay=0.9"));
///
/// Options and their defaults are the methods' own.
///
/// | name | method | options |
/// |---|---|---|
/// | `sum`, `mean`, `random` | Sum, Mean, RandomWeighting | |
/// | `constant` | Constant | `weights`: a number for each task |
/// | `core_task` | CoreTask | `core`, `alpha`, `gamma`, `clip_ratio`, `average_decay`, `norm`: before, after, moving_average; `several_cores`: combined, own |
/// | `metabalance` | MetaBalance | `core`: a task's position; `relax`, `beta` |
/// | `pcgrad` | PCGrad | `order`: ascending, descending, random, given; `given`: all tasks in an order, as 2;0;1; `reduction`: sum, mean |
/// | `gradvac` | GradVac | `beta`, `order`, `given` |
/// | `imtl_g`, `config` | IMTLG, ConFIG | `cutoff` |
/// | `aligned_mtl` | AlignedMTL | `scale`: min, median, rmse; `preference`: mean, sum; `cutoff` |
/// | `krum` | Krum | `byzantine`, `selected` |
/// | `mgda` | MGDA | `scale`: one, tasks |
/// | `cagrad` | CAGrad | `c`, `rescale`: 0, 1, 2; `scale` |
/// | `pe_ltr` | PELTR | `bounds`: a number for each task, or `bound` for all |
/// | `sdmgrad` | SDMGrad | `lambda` |
/// | `modo` | MoDo | `gamma`, `rho` |
/// | `upgrad`, `dualproj` | UPGrad, DualProj | `preference`: mean, sum |
/// | `nash_mtl` | NashMTL | `max_norm`, `update_every` |
/// | `fairgrad` | FairGrad | `alpha` |
/// | `gradnorm` | GradNorm | `alpha`, `learning_rate` |
/// | `famo` | FAMO | `learning_rate`, `weight_decay`, `max_norm`, `min_losses`: a number for each task |
/// | `graddrop` | GradDrop | `leak` |
/// | `trimmed_mean` | TrimmedMean | `trim` |
/// | `excess_mtl` | ExcessMTL | `eta`, `warmup`, `scale`: one, tasks |
/// | `moco` | MoCo | `beta`, `sigma`, `gamma`, `sigma_gamma`, `rho`, `normalize`: true, false; `map`: softmax, projection |
/// | `db_mtl` | DBMTL | `beta`, `sigma` |
/// | `cr_mogm` | CRMOGM<AnyWeighting> | `inner`: a method with a Gramian's weights; `decay`, `initial`: a number for each task |
inline MethodRegistry built_in_methods() {
  MethodRegistry registry;
  detail::add_plain_methods(registry);
  detail::add_methods_around_a_core(registry);
  detail::add_methods_of_angles(registry);
  detail::add_methods_of_shortest_gradients(registry);
  detail::add_methods_without_conflict(registry);
  detail::add_methods_of_losses(registry);
  detail::add_methods_that_see_gradients(registry);
  detail::add_methods_around_others(registry);
  return registry;
}

}  // namespace htl
