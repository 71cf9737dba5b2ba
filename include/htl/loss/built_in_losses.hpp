// SPDX-License-Identifier: Apache-2.0
/// @file built_in_losses.hpp
/// @brief built_in_losses: the registry of the library's own losses; loss_by_name: one of them.
///
/// Not in the umbrella: it makes every loss of the library, which costs a translation unit some seconds. One that chooses losses by name includes it.
#pragma once

#include <htl/loss/absolute_error.hpp>
#include <htl/loss/binary_cross_entropy.hpp>
#include <htl/loss/bucket_softmax.hpp>
#include <htl/loss/coral.hpp>
#include <htl/loss/cread.hpp>
#include <htl/loss/d2q.hpp>
#include <htl/loss/distillation.hpp>
#include <htl/loss/doubly_robust.hpp>
#include <htl/loss/entire_space.hpp>
#include <htl/loss/exponential_gaussian_mixture.hpp>
#include <htl/loss/focal.hpp>
#include <htl/loss/gamma.hpp>
#include <htl/loss/gaussian_mixture.hpp>
#include <htl/loss/huber.hpp>
#include <htl/loss/inverse_propensity.hpp>
#include <htl/loss/log_cosh.hpp>
#include <htl/loss/log_normal.hpp>
#include <htl/loss/order_calibration.hpp>
#include <htl/loss/pairwise_ranking.hpp>
#include <htl/loss/poisson.hpp>
#include <htl/loss/quantile.hpp>
#include <htl/loss/quantiles.hpp>
#include <htl/loss/softmax_cross_entropy.hpp>
#include <htl/loss/squared_error.hpp>
#include <htl/loss/squared_log_error.hpp>
#include <htl/loss/tpm.hpp>
#include <htl/loss/tweedie.hpp>
#include <htl/loss/weighted_logistic.hpp>
#include <htl/loss/zero_inflated_gamma.hpp>
#include <htl/loss/ziln.hpp>
#include <htl/task/registry.hpp>

namespace htl::inline v0_1_0 {

/// @brief Losses by name; see Registry.
class LossRegistry : public Registry<AnyLoss> {
 public:
  /// @brief An empty one; built_in_losses() has the library's own.
  LossRegistry() : Registry("htl::LossRegistry", "loss", "a loss") {}
};

namespace detail {

inline constexpr OptionRange kInside{.low = 0.0, .high = 1.0, .open_low = true, .open_high = true};  // (0, 1)

inline void add_losses_of_classes(LossRegistry& registry) {
  registry.add("binary_cross_entropy", [](OptionReader& options) { return BinaryCrossEntropy{.smoothing = options.number("smoothing", 0.0, kDecay)}; });
  registry.add("softmax_cross_entropy", [](OptionReader& options) {
    const int64_t classes = options.integer("classes", {.low = 2.0});
    return SoftmaxCrossEntropy(classes, options.number("smoothing", 0.0, kDecay));
  });
  registry.add("focal", [](OptionReader& options) {
    const double gamma = options.number("gamma", Focal{}.gamma, kNotNegative);
    return options.has("alpha") ? Focal(gamma, options.number("alpha", kInside)) : Focal(gamma);
  });
  registry.add("coral", [](OptionReader& options) {
    const int64_t classes = options.integer("classes", {.low = 2.0});
    const bool ordered = options.flag("ordered", false);
    return Coral(classes, ordered,
                 options.choice("predicts", {{"probabilities", CoralPredict::probabilities}, {"rank", CoralPredict::rank}}, CoralPredict::probabilities));
  });
}

inline void add_losses_of_numbers(LossRegistry& registry) {
  registry.add("squared", [](OptionReader&) { return SquaredError{}; });
  registry.add("huber", [](OptionReader& options) { return Huber(options.number("delta", Huber{}.delta, kPositive)); });
  registry.add("absolute", [](OptionReader&) { return AbsoluteError{}; });
  registry.add("log_cosh", [](OptionReader& options) { return LogCosh(options.number("scale", LogCosh{}.scale, kPositive)); });
  registry.add("squared_log", [](OptionReader&) { return SquaredLogError{}; });
  registry.add("quantile", [](OptionReader& options) { return Quantile(options.number("q", Quantile{}.q, kInside)); });
  registry.add("quantiles", [](OptionReader& options) {
    std::vector<double> levels = options.numbers("levels", kInside);
    return Quantiles(std::move(levels),
                     options.choice("predicts", {{"middle", QuantilesPredict::middle}, {"mean", QuantilesPredict::mean}}, QuantilesPredict::middle));
  });
}

/// Of the kinds that `predicts` names.
inline DistributionPredict distribution_predict(OptionReader& options) {
  return options.choice("predicts", {{"mean", DistributionPredict::mean}, {"median", DistributionPredict::median}}, DistributionPredict::mean);
}

inline GammaOptions gamma_options(OptionReader& options) {
  GammaOptions result;
  if (options.has("shape")) result.shape = options.number("shape", kPositive);
  result.shape_floor = options.number("shape_floor", result.shape_floor, kPositive);
  result.max_shape = options.number("max_shape", result.max_shape, kPositive);
  return result;
}

inline void add_losses_of_likelihoods(LossRegistry& registry) {
  registry.add("poisson", [](OptionReader& options) { return Poisson{.full = options.flag("full", Poisson{}.full)}; });
  registry.add("tweedie", [](OptionReader& options) {
    TweedieOptions chosen;
    chosen.power = options.number("power", chosen.power, {.low = 1.0, .high = 2.0, .open_low = true, .open_high = true});
    chosen.form =
        options.choice("form", {{"quasi", TweedieForm::quasi}, {"deviance", TweedieForm::deviance}, {"likelihood", TweedieForm::likelihood}}, chosen.form);
    if (options.has("dispersion")) chosen.dispersion = options.number("dispersion", kPositive);
    chosen.dispersion_floor = options.number("dispersion_floor", chosen.dispersion_floor, kPositive);
    chosen.max_dispersion = options.number("max_dispersion", chosen.max_dispersion, kPositive);
    return Tweedie(chosen);
  });
  registry.add("gamma", [](OptionReader& options) { return Gamma(gamma_options(options)); });
  registry.add("zero_inflated_gamma", [](OptionReader& options) { return ZeroInflatedGamma(gamma_options(options)); });
  registry.add("log_normal", [](OptionReader& options) {
    LogNormalOptions chosen;
    chosen.sigma_floor = options.number("sigma_floor", chosen.sigma_floor, kPositive);
    chosen.max_sigma = options.number("max_sigma", chosen.max_sigma, kPositive);
    chosen.predicts = distribution_predict(options);
    return LogNormal(chosen);
  });
  registry.add("ziln", [](OptionReader& options) {
    ZILNOptions chosen = options.choice("like", {{"lifetime_value", ZILNOptions{}}, {"easy_rec", ZILNOptions::easy_rec()}}, ZILNOptions{});
    chosen.sigma_floor = options.number("sigma_floor", chosen.sigma_floor, kPositive);
    chosen.max_sigma = options.number("max_sigma", chosen.max_sigma, kPositive);
    chosen.max_log_mean = options.number("max_log_mean", chosen.max_log_mean, {.high = kExpBound});
    chosen.mu_penalty = options.number("mu_penalty", chosen.mu_penalty, kNotNegative);
    chosen.sigma_penalty = options.number("sigma_penalty", chosen.sigma_penalty, kNotNegative);
    chosen.event_weight = options.number("event_weight", chosen.event_weight, kNotNegative);
    chosen.value_weight = options.number("value_weight", chosen.value_weight, kNotNegative);
    chosen.mean_over_positives = options.flag("mean_over_positives", chosen.mean_over_positives);
    chosen.predicts = distribution_predict(options);
    return ZILN(chosen);
  });
}

inline void add_losses_of_watch_time(LossRegistry& registry) {
  registry.add("weighted_logistic", [](OptionReader& options) {
    using Form = WeightedLogisticForm;
    const Form form = options.choice("form", {{"odds", Form::odds}, {"every_row", Form::every_row}}, options.has("event") ? Form::odds : Form::every_row);
    return WeightedLogistic({.form = form, .event = options.word_or("event", "", "a context column")});
  });
  registry.add("d2q", [](OptionReader& options) {
    D2QOptions result;
    result.buckets = options.integer("buckets", result.buckets, {.low = 1.0});
    result.points = options.integer("points", result.points, {.low = 2.0});
    result.edges = options.numbers("edges", {}, {});
    result.tables = options.numbers("tables", {}, {});
    result.duration = options.word("duration", "a context column");
    return D2Q(std::move(result));
  });
  registry.add("cread", [](OptionReader& options) {
    CREADOptions result;
    result.splits = options.integer("splits", result.splits, {.low = 1.0});
    result.alpha = options.number("alpha", result.alpha, kNotNegative);
    result.restoration = options.number("restoration", result.restoration, kNotNegative);
    result.delta = options.number("delta", result.delta, kPositive);
    result.ordinal = options.number("ordinal", result.ordinal, kNotNegative);
    result.points = options.numbers("points", {}, kNotNegative);
    result.fitted_points = options.flag("fitted_points", false);
    return CREAD(std::move(result));
  });
  registry.add("tpm", [](OptionReader& options) {
    TPMOptions result;
    result.depth = options.integer("depth", result.depth, {.low = 1.0, .high = 10.0});
    result.value = options.number("value", result.value, kNotNegative);
    result.deviation = options.number("deviation", result.deviation, kNotNegative);
    result.edges = options.numbers("edges", {}, {});
    result.mids = options.numbers("mids", {}, {});
    result.fitted_edges = options.flag("fitted_edges", false);
    result.fitted_mids = options.flag("fitted_mids", false);
    return TPM(std::move(result));
  });
  registry.add("bucket_softmax", [](OptionReader& options) {
    BucketSoftmaxOptions result;
    result.buckets = options.integer("buckets", result.buckets, {.low = 2.0});
    result.edges = options.numbers("edges", {}, {});
    result.mids = options.numbers("mids", {}, {});
    result.fitted_edges = options.flag("fitted_edges", false);
    result.fitted_mids = options.flag("fitted_mids", false);
    return BucketSoftmax(std::move(result));
  });
}

inline void add_losses_of_mixtures(LossRegistry& registry) {
  registry.add("gaussian_mixture", [](OptionReader& options) {
    GaussianMixtureOptions result;
    result.components = options.integer("components", result.components, {.low = 1.0});
    result.sigma_floor = options.number("sigma_floor", result.sigma_floor, kPositive);
    result.max_sigma = options.number("max_sigma", result.max_sigma, kPositive);
    return GaussianMixture(result);
  });
  registry.add("exponential_gaussian_mixture", [](OptionReader& options) {
    ExponentialGaussianMixtureOptions result;
    result.components = options.integer("components", result.components, {.low = 1.0});
    result.entropy = options.number("entropy", result.entropy, kNotNegative);
    result.regression = options.number("regression", result.regression, kNotNegative);
    result.sigma_floor = options.number("sigma_floor", result.sigma_floor, kPositive);
    result.max_sigma = options.number("max_sigma", result.max_sigma, kPositive);
    result.truncated_mean = options.flag("truncated_mean", result.truncated_mean);
    return ExponentialGaussianMixture(result);
  });
}

/// "click/pay" as names.
inline std::vector<std::string> names_of(OptionReader& options, std::string_view option) {
  const std::string text = options.word(option, "tasks, with \"/\" between them,");
  const std::vector<std::string_view> pieces = split_text(text, '/');
  return {pieces.begin(), pieces.end()};
}

inline Propensity propensity_of(OptionReader& options) {
  Propensity result;
  result.given = options.word_or("given", "", "a task");
  result.column = options.word_or("propensity", "", "a context column");
  result.floor = options.number("floor", result.floor, kRate);
  result.clip = options.number("clip", result.clip, {.low = 1.0});
  return result;
}

inline void add_terms_between_tasks(LossRegistry& registry) {
  registry.add("entire_space", [](OptionReader& options) {
    using Predict = EntireSpacePredict;
    EntireSpaceOptions result;
    result.predicts = options.choice("predicts", {{"product", Predict::product}, {"conditional", Predict::conditional}}, result.predicts);
    result.width = options.integer("width", result.width, {.low = 1.0});
    result.given = names_of(options, "given");
    return EntireSpace(std::move(result));
  });
  registry.add("inverse_propensity", [](OptionReader& options) {
    InversePropensityOptions result{.propensity = propensity_of(options)};
    result.batch_normalised = options.flag("batch_normalised", result.batch_normalised);
    result.width = options.integer("width", result.width, {.low = 1.0});
    return InversePropensity(std::move(result));
  });
  registry.add("doubly_robust", [](OptionReader& options) {
    DoublyRobustOptions result{.propensity = propensity_of(options)};
    result.imputed = options.choice("imputed", {{"softplus", ImputedError::softplus}, {"sigmoid", ImputedError::sigmoid}}, result.imputed);
    result.imputation_weight = options.number("imputation_weight", result.imputation_weight, kNotNegative);
    result.joint = options.flag("joint", result.joint);
    return DoublyRobust(std::move(result));
  });
  registry.add("order_calibration", [](OptionReader& options) {
    OrderCalibrationOptions result;
    result.width = options.integer("width", result.width, {.low = 1.0});
    result.after = names_of(options, "after");
    return OrderCalibration(std::move(result));
  });
  registry.add("distillation", [](OptionReader& options) {
    using Form = DistillationForm;
    DistillationOptions result;
    result.form = options.choice("form", {{"binary", Form::binary}, {"multiclass", Form::multiclass}, {"squared", Form::squared}}, result.form);
    result.classes = options.integer("classes", result.classes, {.low = 2.0});
    result.temperature = options.number("temperature", result.temperature, kPositive);
    result.detach = options.flag("detach", result.detach);
    result.teacher = options.word("teacher", "a task");
    return Distillation(std::move(result));
  });
  registry.add("pairwise_ranking", [](OptionReader& options) {
    PairwiseRankingOptions result;
    result.margin = options.number("margin", result.margin, kNotNegative);
    result.group = options.word("group", "a context column");
    return PairwiseRanking(std::move(result));
  });
}

}  // namespace detail

/// @brief All losses of the library by name, with the options that files and command lines give them. A new registry: add your own to it.
///
///     htl::AnyLoss loss = htl::built_in_losses().make(htl::parse_spec("huber:delta=0.5"));
///
/// Options and their defaults are the losses' own.
///
/// | name | loss | options |
/// |---|---|---|
/// | `binary_cross_entropy` | BinaryCrossEntropy | `smoothing` |
/// | `softmax_cross_entropy` | SoftmaxCrossEntropy | `classes` `smoothing` |
/// | `focal` | Focal | `gamma` `alpha` |
/// | `coral` | Coral | `classes` `ordered` `predicts` (probabilities, rank) |
/// | `squared` | SquaredError | |
/// | `huber` | Huber | `delta` |
/// | `absolute` | AbsoluteError | |
/// | `log_cosh` | LogCosh | `scale` |
/// | `squared_log` | SquaredLogError | |
/// | `quantile` | Quantile | `q` |
/// | `quantiles` | Quantiles | `levels` `predicts` (middle, mean) |
/// | `poisson` | Poisson | `full` |
/// | `tweedie` | Tweedie | `power` `form` (quasi, deviance, likelihood) `dispersion` `dispersion_floor` `max_dispersion` |
/// | `gamma` | Gamma | `shape` `shape_floor` `max_shape` |
/// | `zero_inflated_gamma` | ZeroInflatedGamma | `shape` `shape_floor` `max_shape` |
/// | `log_normal` | LogNormal | `sigma_floor` `max_sigma` `predicts` (mean, median) |
/// | `ziln` | ZILN | `like` (lifetime_value, easy_rec: the defaults of the others), those of ZILNOptions |
/// | `weighted_logistic` | WeightedLogistic | `form` = `odds`, `every_row`; `event` |
/// | `d2q` | D2Q | `duration`, `buckets`, `points`, `edges`, `tables` |
/// | `cread` | CREAD | `splits`, `alpha`, `restoration`, `delta`, `ordinal`, `points`, `fitted_points` |
/// | `tpm` | TPM | `depth`, `value`, `deviation`, `edges`, `mids`, `fitted_edges`, `fitted_mids` |
/// | `bucket_softmax` | BucketSoftmax | `buckets`, `edges`, `mids`, `fitted_edges`, `fitted_mids` |
/// | `gaussian_mixture` | GaussianMixture | `components`, `sigma_floor`, `max_sigma` |
/// | `exponential_gaussian_mixture` | ExponentialGaussianMixture | `components`, `entropy`, `regression`, `sigma_floor`, `max_sigma`, `truncated_mean` |
/// | `entire_space` | EntireSpace | `given`, `predicts` = `product`, `conditional`; `width` |
/// | `inverse_propensity` | InversePropensity | `given`, `propensity`, `floor`, `clip`, `batch_normalised`, `width` |
/// | `doubly_robust` | DoublyRobust | `given`, `propensity`, `floor`, `clip`, `imputed` = `softplus`, `sigmoid`; `imputation_weight`, `joint` |
/// | `order_calibration` | OrderCalibration | `after`, `width` |
/// | `distillation` | Distillation | `teacher`, `form` = `binary`, `multiclass`, `squared`; `classes`, `temperature`, `detach` |
/// | `pairwise_ranking` | PairwiseRanking | `group`, `margin` |
///
/// Several tasks' names stand with "/" between them: `given=click/pay`.
inline LossRegistry built_in_losses() {
  LossRegistry registry;
  detail::add_losses_of_classes(registry);
  detail::add_losses_of_numbers(registry);
  detail::add_losses_of_likelihoods(registry);
  detail::add_losses_of_watch_time(registry);
  detail::add_losses_of_mixtures(registry);
  detail::add_terms_between_tasks(registry);
  return registry;
}

/// @brief One of the library's losses by its name and options.
///
///     tasks = {htl::regression("watch_time").loss(htl::loss_by_name("huber", {{"delta", 0.5}}))};
///
/// @throws c10::ValueError for an unknown loss or option, naming the nearest, and for a missing or wrong option
inline AnyLoss loss_by_name(std::string_view name, const Options& options = {}) { return built_in_losses().make(name, options); }

}  // namespace htl
