// SPDX-License-Identifier: Apache-2.0
// Losses that are likelihoods: golden numbers, densities that integrate to 1, means and quantiles by quadrature, fits of sampled labels, extremes.
#include <support/loss_battery.hpp>

#include <torch/torch.h>

namespace {

using namespace htl::test;
using htl::AnyLoss;
using htl::DistributionPredict;
using htl::LossInput;
using htl::Named;
using htl::TaskKind;
using htl::TweedieForm;
using Long = long double;

const Named<at::Tensor> no_context;

at::Tensor doubles(const std::vector<double>& values) { return torch::tensor(values, at::kDouble); }

LossInput input_of(const at::Tensor& output, const at::Tensor& label, const at::Tensor& weight = {}) { return {output, label, label, weight, no_context}; }

std::vector<LossCase> cases(Random& random, int64_t rows, at::ScalarType type, double scale) {
  const auto output = [&](int64_t width) { return random.normal({rows, width}, scale, type); };
  const auto positive = [&] { return (random.normal({rows}, 2).exp() + 1e-3).to(type); };
  const auto inflated = [&] { return positive() * random.events({rows}, .6, type); };
  const auto count = [&] { return (random.uniform({rows}) * random.uniform({rows}) * 40).floor().to(type); };
  return {{htl::Poisson{}, output(1), count()},
          {htl::Poisson{}, output(1), inflated()},
          {htl::Poisson{.full = false}, output(1), count()},
          {htl::Tweedie{}, output(1), inflated()},
          {htl::Tweedie({.power = 1.2, .form = TweedieForm::deviance}), output(1), inflated()},
          {htl::Tweedie({.power = 1.9, .form = TweedieForm::likelihood, .dispersion = .7}), output(1), inflated()},
          {htl::Tweedie({.power = 1.4, .form = TweedieForm::likelihood, .dispersion_floor = .05}), output(2), inflated()},
          {htl::Gamma{}, output(2), positive()},
          {htl::Gamma({.shape = 2.5}), output(1), positive()},
          {htl::ZeroInflatedGamma{}, output(3), inflated()},
          {htl::ZeroInflatedGamma({.shape = .4}), output(2), inflated()},
          {htl::LogNormal{}, output(2), positive()},
          {htl::LogNormal({.sigma_floor = .1, .max_sigma = 2, .predicts = DistributionPredict::median}), output(2), positive()},
          {htl::ZILN{}, output(3), inflated()},
          {htl::ZILN({.max_sigma = 3, .predicts = DistributionPredict::median}), output(3), inflated()},
          {htl::ZILN({.event_weight = .5, .value_weight = 2, .predicts = DistributionPredict::median}), output(3), inflated()},
          {htl::ZILN(htl::ZILNOptions::easy_rec()), output(3), inflated()}};
}

TEST(Likelihoods, hold_what_every_loss_must_hold) { loss_battery(cases, 201, {1e-3, 1, 12}); }

TEST(Likelihoods, are_for_regressions_in_the_labels_own_unit) {
  Random random(208);
  for (const LossCase& one : cases(random, 1, at::kDouble, 1)) {
    EXPECT_TRUE(one.loss.fits(TaskKind::regression)) << one.text();
    EXPECT_FALSE(one.loss.fits(TaskKind::binary) || one.loss.fits(TaskKind::multiclass)) << one.text();
    EXPECT_TRUE(one.loss.in_label_unit()) << one.text();
  }
}

TEST(ZILN, matches_golden_numbers_of_its_public_implementations) {
  const at::Tensor z = doubles({.1, .2, .3, .4, .5, .6}).view({2, 3}), y = doubles({0, 1.5});
  const htl::ZILN loss;
  EXPECT_TRUE(close(loss(z, y), doubles({.744397, 1.878373}), 0, 6e-7));
  EXPECT_TRUE(close(loss.sigma(z), doubles({.854355, 1.037488}), 0, 6e-7));
  EXPECT_TRUE(close(loss.mean(z), doubles({.923638, 1.690755}), 0, 6e-7));
  EXPECT_TRUE(close(loss.probability(z), z.select(1, 0).sigmoid()));
  const at::Tensor leaf = z.clone().requires_grad_(), half = doubles({.5, .5});
  const at::Tensor mean = loss.reduced(input_of(leaf, y), half);
  mean.backward();
  EXPECT_NEAR(mean.item<double>(), 1.311385, 6e-7);
  EXPECT_TRUE(close(leaf.grad(), doubles({.26249, 0, 0, -.200656, .043913, .30858}).view({2, 3}), 0, 6e-7));
  const htl::ZILN easy_rec(htl::ZILNOptions::easy_rec());
  EXPECT_NEAR(easy_rec.reduced(input_of(z, y), half).item<double>(), 1.997763, 6e-7);
  EXPECT_NEAR(easy_rec(z, y).mean().item<double>(), 1.997763, 6e-7);
}

TEST(ZILN, averages_the_value_part_over_the_weight_of_positive_rows) {
  Random random(202);
  const at::Tensor z = random.normal({9, 3}), y = doubles({0, 1, 0, 2, .5, 0, 0, 9, 1}), w = doubles({1, 2, 0, 3, 0, .5, 1, 1, 4});
  const htl::ZILN plain, over({.mean_over_positives = true}), events({.value_weight = 0});
  const at::Tensor share = w / w.sum(), values = plain(z, y) - events(z, y), positive = y.gt(0).to(at::kDouble);
  const at::Tensor expected = (share * events(z, y)).sum() + (w * values).sum() / (w * positive).sum();
  EXPECT_TRUE(close(over.reduced(input_of(z, y, w), share), expected));
  EXPECT_TRUE(close((over(z, y, w) * share).sum(), expected));
  EXPECT_TRUE(close(over(z, at::zeros_like(y)), plain(z, at::zeros_like(y))));  // no positive row
}

TEST(Tweedie, matches_golden_numbers_and_its_identities) {
  const at::Tensor y = doubles({1, 1.2, 0, 2}), eta = doubles({.6, .7, .3, .8}).log().requires_grad_();
  const at::Tensor mean = htl::Tweedie{}(eta, y).mean();
  EXPECT_NEAR(mean.item<double>(), 4.007372, 6e-7);
  EXPECT_TRUE(close(torch::autograd::grad({mean}, {eta})[0], doubles({-.129099, -.149404, .136931, -.33541}), 0, 6e-7));
  const at::Tensor grid = doubles({1e-30, 1e-3, 1, 40, 1e12});
  EXPECT_TRUE(close(htl::Tweedie({.form = TweedieForm::deviance})(grid.log(), grid), at::zeros({5}, at::kDouble), 0, 1e-12));
  Random random(203);
  const at::Tensor x = random.normal({50}), labels = random.normal({50}).exp();
  const auto gamma = htl::Gamma({.shape = 1})(x.unsqueeze(1), labels) - htl::Gamma({.shape = 1})(labels.log().unsqueeze(1), labels);
  EXPECT_TRUE(close(htl::Tweedie({.power = 1.9999999, .form = TweedieForm::deviance})(x, labels) / 2, gamma, 1e-5, 1e-6));
  const auto poisson = htl::Poisson{}(x, labels) - htl::Poisson{}(labels.log(), labels);
  EXPECT_TRUE(close(htl::Tweedie({.power = 1.0000001, .form = TweedieForm::deviance})(x, labels) / 2, poisson, 1e-5, 1e-6));
}

Long log_gamma(Long x) { return std::lgamma(x); }

/// log Σ e^{E(j)} of the Tweedie series by its terms, each j from 12 widths below the largest to as far above.
Long tweedie_series(Long power, Long lambda) {
  const Long alpha = (2 - power) / (power - 1), width = std::sqrt(lambda * (power - 1));
  const Long low = std::max<Long>(1, std::floor(lambda - 12 * width - 5)), high = lambda + 12 * width + 40;
  const Long log_z = std::log(lambda) + alpha * std::log(alpha * lambda);
  std::vector<Long> terms;
  Long top = -std::numeric_limits<Long>::infinity(), sum = 0;
  for (Long j = low; j <= high; j += 1) {
    terms.push_back(j * log_z - log_gamma(1 + j) - log_gamma(alpha * j) - (1 + alpha) * lambda);
    top = std::max(top, terms.back());
  }
  for (const Long term : terms) sum += std::exp(term - top);
  return top + std::log(sum);
}

TEST(TweedieSeries, equals_the_sum_of_all_its_terms) {
  for (const double power : {1.01, 1.1, 1.3, 1.5, 1.8, 1.95, 1.999}) {
    const htl::detail::TweedieSeries series(power);
    std::vector<double> lambdas;
    for (double lambda = 1e-9; lambda < 2e5; lambda *= 1.9) lambdas.push_back(lambda);
    const at::Tensor at_all = doubles(lambdas).log().requires_grad_(), sums = series.log_sum(at_all);
    const at::Tensor singles = series.log_sum(at_all.detach().to(at::kFloat)), slopes = torch::autograd::grad({sums.sum()}, {at_all})[0];
    for (size_t i = 0; i < lambdas.size(); ++i) {
      const int64_t at_i = static_cast<int64_t>(i);
      const Long lambda = std::exp(static_cast<Long>(at_all[at_i].item<double>())), exact = tweedie_series(power, lambda), size = 1 + std::abs(exact);
      const double by_terms = static_cast<double>(exact);
      double slope = 0.0;
      const std::string where = std::to_string(power) + ", " + std::to_string(lambdas[i]);
      EXPECT_NEAR(series.log_sum(std::log(lambdas[i]), slope), by_terms, 2e-7 * static_cast<double>(size)) << where;
      EXPECT_NEAR(sums[at_i].item<double>(), by_terms, 2e-7 * static_cast<double>(size)) << where;
      EXPECT_NEAR(singles[at_i].item<double>(), by_terms, 1e-4 + 4e-6 * static_cast<double>(size)) << where;
      const Long h = 1e-6L, exact_slope = (tweedie_series(power, lambda * std::exp(h)) - tweedie_series(power, lambda * std::exp(-h))) / (2 * h);
      const double allowed = 1e-5 * (1 + static_cast<double>(std::abs(exact_slope)));
      EXPECT_NEAR(slope, static_cast<double>(exact_slope), allowed) << where;
      EXPECT_NEAR(slopes[at_i].item<double>(), static_cast<double>(exact_slope), allowed) << where;
    }
  }
}

TEST(LogGammaRest, is_the_gamma_functions_logarithm_without_its_large_terms) {
  for (const Long x : {1e-6L, .3L, 1.0L, 2.5L, 15.9L, 16.0L, 100.0L, 1e6L}) {
    const Long exact = log_gamma(x + 1) - x * std::log(x) + x, h = 1e-4L * x;
    const auto rest = [](Long u) { return log_gamma(u + 1) - u * std::log(u) + u; };
    const double number = static_cast<double>(x), log_x = std::log(number);
    EXPECT_NEAR(htl::detail::log_gamma_rest(number, log_x), static_cast<double>(exact), 2e-12);
    EXPECT_NEAR(htl::detail::log_gamma_rest(at::scalar_tensor(number, at::kDouble)).item<double>(), static_cast<double>(exact), 2e-12);
    const double slope = static_cast<double>((rest(x + h) - rest(x - h)) / (2 * h));
    EXPECT_NEAR(htl::detail::digamma_rest(number, log_x), slope, 1e-7 * (1 + std::abs(slope))) << number;
  }
  EXPECT_EQ(htl::detail::log_gamma_rest(at::zeros({1})).item<float>(), 0.0f);
}

/// ∫ y^k f(y) dy over (0, to] by the trapezoid rule in log y.
double integral(const AnyLoss& loss, const at::Tensor& output, double to = std::exp(40.0), int power = 0) {
  const int64_t n = to < std::exp(40.0) ? 24001 : 5001;  // an end inside the density costs the rule its precision
  const double low = -70, high = std::log(to), step = (high - low) / static_cast<double>(n - 1);
  const at::Tensor u = at::linspace(low, high, n, at::kDouble), density = loss.per_row(input_of(output.expand({n, output.size(1)}), u.exp())).neg();
  at::Tensor values = (density + u * (1.0 + power)).exp();
  return step * (values.sum() - .5 * values[0] - .5 * values[n - 1]).item<double>();
}

double of_zero(const AnyLoss& loss, const at::Tensor& output) { return std::exp(-loss.per_row(input_of(output, at::zeros({1}, at::kDouble))).item<double>()); }

TEST(Likelihoods, integrate_to_one_and_have_the_predicted_mean) {
  Random random(204);
  for (int round = 0; round < 3; ++round) {
    for (const AnyLoss& loss :
         {AnyLoss(htl::Gamma{}), AnyLoss(htl::Gamma({.shape = 3})), AnyLoss(htl::LogNormal{}), AnyLoss(htl::ZILN{}), AnyLoss(htl::ZeroInflatedGamma{}),
          AnyLoss(htl::ZeroInflatedGamma({.shape = .5})), AnyLoss(htl::Tweedie({.power = 1.15, .form = TweedieForm::likelihood})),
          AnyLoss(htl::Tweedie({.power = 1.5, .form = TweedieForm::likelihood})),
          AnyLoss(htl::Tweedie({.power = 1.5, .form = TweedieForm::likelihood, .dispersion = 5})),
          AnyLoss(htl::Tweedie({.power = 1.9, .form = TweedieForm::likelihood}))}) {
      const at::Tensor output = random.normal({1, loss.output_width()});
      const bool zeros = loss.label_range().first == 0.0;
      const double mass = (zeros ? of_zero(loss, output) : 0.0) + integral(loss, output);
      EXPECT_NEAR(mass, 1.0, 2e-6) << loss.name() << " " << output;
      const double mean = loss.predict(output, no_context).item<double>();
      EXPECT_NEAR(integral(loss, output, std::exp(40.0), 1), mean, 1e-5 * mean) << loss.name() << " " << output;
    }
  }
  const at::Tensor counts = at::arange(300, at::kDouble);
  for (const double eta : {-2.0, 1.0, 4.0}) {
    const at::Tensor p = htl::Poisson{}(at::full({300}, eta, at::kDouble), counts).neg().exp();
    EXPECT_NEAR(p.sum().item<double>(), 1.0, 1e-12);
    EXPECT_NEAR((p * counts).sum().item<double>(), std::exp(eta), 1e-9);
  }
}

TEST(Likelihoods, have_the_quantiles_that_they_name) {
  Random random(205);
  for (int round = 0; round < 4; ++round) {
    const at::Tensor pair = random.normal({1, 2}), triple = random.normal({1, 3});
    const htl::LogNormal log_normal;
    const htl::ZILN ziln;
    for (const double q : {.05, .5, .9, .999}) {
      EXPECT_NEAR(integral(log_normal, pair, log_normal.quantile(pair, q).item<double>()), q, 5e-6);
      const double at_q = ziln.quantile(triple, q).item<double>(), zero = 1 - ziln.probability(triple).item<double>();
      if (at_q == 0.0) {
        EXPECT_GE(zero, q);
      } else {
        EXPECT_NEAR(zero + integral(ziln, triple, at_q), q, 5e-6);
      }
    }
    EXPECT_TRUE(close(ziln.median(triple), ziln.quantile(triple, .5)));
    EXPECT_TRUE(close(log_normal.median(pair), log_normal.quantile(pair, .5)));
  }
  const htl::ZILN capped({.max_sigma = 2, .max_log_mean = 3});
  EXPECT_NEAR(capped.mean(doubles({9, 9, 50}).view({1, 3})).item<double>(), std::exp(3.0), 1e-9);
  EXPECT_NEAR(capped.sigma(doubles({9, 9, 50}).view({1, 3})).item<double>(), 2, 0);
}

/// The constant output of least mean loss: Newton's steps, damped until they go down.
at::Tensor fitted(const AnyLoss& loss, const at::Tensor& labels, at::Tensor at_x) {
  const auto value = [&](const at::Tensor& x) { return loss.per_row(input_of(x.unsqueeze(0).expand({labels.size(0), x.size(0)}), labels)).mean(); };
  double damping = 1.0;
  for (int step = 0; step < 100; ++step) {
    const at::Tensor x = at_x.detach().requires_grad_(), now = value(x);
    const at::Tensor gradient = torch::autograd::grad({now}, {x}, {}, true, true)[0];
    if (gradient.abs().max().item<double>() < 1e-10) break;
    std::vector<at::Tensor> rows;
    for (int64_t i = 0; i < x.size(0); ++i) rows.push_back(torch::autograd::grad({gradient[i]}, {x}, {}, true)[0]);
    const at::Tensor hessian = at::stack(rows) + damping * at::eye(x.size(0), at::kDouble);
    const at::Tensor moved = (x - at::linalg_solve(hessian, gradient.detach())).detach();
    const bool better = value(moved).item<double>() <= now.item<double>();
    damping = better ? damping * .1 : damping * 10;
    if (better) at_x = moved;
  }
  return at_x;
}

TEST(Likelihoods, fitted_alone_recover_what_generated_the_labels) {
  Random random(206);
  const int64_t n = 20000, few = 3000;
  const at::Tensor event = random.events({n}, .3), normal = random.normal({n});
  const double p = event.mean().item<double>();
  const auto gamma = [&](double shape, double mean) { return at::_standard_gamma(at::full({n}, shape, at::kDouble), random.generator()) * (mean / shape); };

  const at::Tensor spends = (1.5 + .8 * normal).exp();
  const at::Tensor log_normal = fitted(htl::LogNormal{}, spends, doubles({0, 0}));
  EXPECT_NEAR(log_normal[0].item<double>(), spends.log().mean().item<double>(), 1e-8);
  EXPECT_NEAR(htl::LogNormal{}.sigma(log_normal.unsqueeze(0)).item<double>(), spends.log().std(false).item<double>(), 1e-8);
  EXPECT_NEAR(htl::LogNormal{}.mean(log_normal.unsqueeze(0)).item<double>(), std::exp(1.5 + .32), .1);

  const at::Tensor ziln = fitted(htl::ZILN{}, spends * event, doubles({0, 0, 0})).unsqueeze(0);
  EXPECT_NEAR(htl::ZILN{}.probability(ziln).item<double>(), p, 1e-8);
  EXPECT_NEAR(htl::ZILN{}.sigma(ziln).item<double>(), .8, .03);
  EXPECT_NEAR(htl::ZILN{}.mean(ziln).item<double>(), .3 * std::exp(1.5 + .32), .12);
  EXPECT_NEAR(htl::ZILN{}.quantile(ziln, .9).item<double>(), (spends * event).quantile(.9).item<double>(), .15);

  const at::Tensor times = gamma(2.5, 7);
  const at::Tensor shaped = fitted(htl::Gamma{}, times, doubles({0, 0})).unsqueeze(0);
  EXPECT_NEAR(shaped[0][0].item<double>(), std::log(times.mean().item<double>()), 1e-8);
  EXPECT_NEAR(htl::Gamma{}.shape(shaped).item<double>(), 2.5, .1);
  EXPECT_NEAR(fitted(htl::Gamma({.shape = 9}), times, doubles({0})).item<double>(), std::log(times.mean().item<double>()), 1e-8);
  const at::Tensor zero_inflated = fitted(htl::ZeroInflatedGamma{}, times * event, doubles({0, 1, 0})).unsqueeze(0);
  EXPECT_NEAR(htl::ZeroInflatedGamma{}.probability(zero_inflated).item<double>(), p, 1e-8);
  EXPECT_NEAR(htl::ZeroInflatedGamma{}.shape(zero_inflated).item<double>(), 2.5, .15);
  EXPECT_NEAR(htl::ZeroInflatedGamma{}.predict(zero_inflated, no_context).item<double>(), (times * event).mean().item<double>(), 1e-7);

  const at::Tensor counts = at::poisson(at::full({n}, 3.7, at::kDouble), random.generator());
  EXPECT_NEAR(fitted(htl::Poisson{}, counts, doubles({0})).item<double>(), std::log(counts.mean().item<double>()), 1e-8);

  // a Poisson number of gamma amounts, its sum in one draw
  const double power = 1.6, mean = 2.0, phi = 1.3, rate = std::pow(mean, 2 - power) / (phi * (2 - power)), shape = (2 - power) / (power - 1);
  const at::Tensor number = at::poisson(at::full({few}, rate, at::kDouble), random.generator());
  const at::Tensor sums =
      at::_standard_gamma((number * shape).clamp_min(1e-3), random.generator()) * (phi * (power - 1) * std::pow(mean, power - 1)) * number.gt(0);
  const htl::Tweedie likelihood({.power = power, .form = TweedieForm::likelihood});
  const at::Tensor dispersed = fitted(likelihood, sums, doubles({0, 0})).unsqueeze(0);
  EXPECT_NEAR(dispersed[0][0].item<double>(), std::log(sums.mean().item<double>()), 1e-7);
  EXPECT_NEAR(likelihood.dispersion(dispersed).item<double>(), phi, .1);
  for (const TweedieForm form : {TweedieForm::quasi, TweedieForm::deviance})
    EXPECT_NEAR(fitted(htl::Tweedie({.power = power, .form = form}), sums, doubles({0})).item<double>(), std::log(sums.mean().item<double>()), 1e-8);
}

TEST(Likelihoods, curve_upwards_in_the_logarithm_of_their_mean) {
  Random random(207);
  const at::Tensor y = random.normal({300}, 2).exp();
  for (const auto& [loss, column] : {std::pair<AnyLoss, int64_t>{htl::Poisson{}, 0},
                                     {htl::Tweedie{}, 0},
                                     {htl::Tweedie({.form = TweedieForm::deviance}), 0},
                                     {htl::Tweedie({.power = 1.2, .form = TweedieForm::likelihood}), 0},
                                     {htl::Gamma{}, 0},
                                     {htl::LogNormal{}, 0},
                                     {htl::ZILN{}, 0},
                                     {htl::ZILN{}, 1},
                                     {htl::ZeroInflatedGamma{}, 1}}) {
    const at::Tensor x = random.normal({300, loss.output_width()}, 3).requires_grad_();
    const at::Tensor g = torch::autograd::grad({loss.per_row(input_of(x, y)).sum()}, {x}, {}, true, true)[0];
    const at::Tensor h = torch::autograd::grad({g.select(1, column).sum()}, {x})[0].select(1, column);
    EXPECT_GE(h.min().item<double>(), 0.0) << loss.name();
    EXPECT_GT(h.max().item<double>(), 0.0) << loss.name();
  }
}

/// −log likelihoods as their textbooks write them, in long double.
struct Reference {
  AnyLoss loss;
  std::vector<double> labels;
  std::function<Long(const std::vector<Long>& output, Long y)> value;
  /// The largest exponent on the way; above 80 it is continued by the tangent.
  std::function<Long(const std::vector<Long>& output, Long y)> exponent = [](const std::vector<Long>&, Long) { return 0.0L; };
};

std::vector<Reference> references() {
  const auto softplus = [](Long x) { return std::max<Long>(x, 0) + std::log1p(std::exp(-std::abs(x))); };
  const auto positive = [=](Long x, Long low, Long high) { return std::clamp(softplus(x), low, high); };
  const auto log_normal = [=](Long mu, Long s, Long low, Long y) {
    const Long sigma = positive(s, low, 1e6L), z = (std::log(y) - mu) / sigma;
    return z * z / 2 + std::log(sigma) + std::log(2 * std::acos(-1.0L)) / 2 + std::log(y);
  };
  const auto gamma = [](Long eta, Long k, Long y) {  // the deviance's part without its cancellation
    const Long d = std::log(y) - eta, rest = std::abs(d) < 1e-3L ? d * d / 2 + d * d * d / 6 + d * d * d * d / 24 : std::expm1(d) - d;
    return k * rest + k - k * std::log(k) + log_gamma(k) + std::log(y);
  };
  const auto tweedie = [](Long eta, Long p, Long y) {
    const auto power = [&](Long exponent) { return std::exp(exponent); };
    return (y > 0 ? power(std::log(y) + (1 - p) * eta) / (p - 1) : 0.0L) + power((2 - p) * eta) / (2 - p);
  };
  const std::vector<double> zeros{0, 1e-30, 1e-6, 1, 7.3, 1e12}, above{1e-30, 1e-6, 1, 7.3, 1e12}, counts{0, 1, 2, 15, 16, 1000};
  using Row = const std::vector<Long>&;
  return {
      {htl::Poisson{}, counts, [](Row o, Long y) { return std::exp(o[0]) - y * o[0] + log_gamma(y + 1); }},
      {htl::Tweedie{}, zeros, [=](Row o, Long y) { return tweedie(o[0], 1.5L, y); }},
      {htl::Tweedie({.power = 1.25, .form = TweedieForm::deviance}), zeros,
       [=](Row o, Long y) { return 2 * (tweedie(o[0], 1.25L, y) - (y > 0 ? std::pow(y, .75L) / (.25L * .75L) : 0.0L)); }},
      {htl::Tweedie({.power = 1.5, .form = TweedieForm::likelihood, .dispersion = .8}),
       {0, 1e-30, 1e-6, 1, 7.3, 1e6},
       [=](Row o, Long y) {
         if (y == 0) return tweedie(o[0], 1.5L, y) / .8L;
         const Long lambda = std::sqrt(y) / (.8L * .5L);
         return tweedie(o[0], 1.5L, y) / .8L + std::log(y) - 2 * lambda - tweedie_series(1.5L, lambda);
       }},
      {htl::Gamma{}, above, [=](Row o, Long y) { return gamma(o[0], positive(o[1], 1e-3L, 1e6L), y); }, [](Row o, Long y) { return std::log(y) - o[0]; }},
      {htl::ZeroInflatedGamma{}, zeros, [=](Row o, Long y) { return y > 0 ? softplus(-o[0]) + gamma(o[1], positive(o[2], 1e-3L, 1e6L), y) : softplus(o[0]); },
       [](Row o, Long y) { return y > 0 ? std::log(y) - o[1] : 0.0L; }},
      {htl::LogNormal{}, above, [=](Row o, Long y) { return log_normal(o[0], o[1], 1e-3L, y); }},
      {htl::ZILN{}, zeros, [=](Row o, Long y) { return y > 0 ? softplus(-o[0]) + log_normal(o[1], o[2], 3.1622776601683794e-4L, y) : softplus(o[0]); }}};
}

TEST(Likelihoods, stay_exact_at_extreme_outputs_and_labels_and_finite_beyond) {
  const std::vector<double> grid{-80, -5, 1e-30, .7, 20, 80};
  for (const Reference& one : references()) {
    const int64_t width = one.loss.output_width();
    int64_t points = 1;
    for (int64_t i = 0; i < width; ++i) points *= static_cast<int64_t>(grid.size());
    for (const double label : one.labels) {
      for (int64_t point = 0; point < points; ++point) {
        std::vector<double> at_point;
        for (int64_t i = 0, rest = point; i < width; ++i, rest /= static_cast<int64_t>(grid.size()))
          at_point.push_back(grid[static_cast<size_t>(rest) % grid.size()]);
        for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
          const at::Tensor output = doubles(at_point).to(type).view({1, width}), y = at::full({1}, label, type), one_row = at::ones({1}, type);
          std::vector<Long> x;
          for (int64_t i = 0; i < width; ++i) x.push_back(output[0][i].item<double>());
          const Long truth = y.item<double>(), value = one.value(x, truth);
          // what one rounding of an input, or of the label's logarithm, moves the value by
          const Long unit = type == at::kFloat ? 1.2e-7L : 2.3e-16L;
          Long moved = 0;
          for (size_t i = 0; i < x.size(); ++i) {
            std::vector<Long> up = x, down = x;
            const Long step = 2 * unit * std::max<Long>({1e-3L, std::abs(x[i]), truth > 0 ? std::abs(std::log(truth)) : 0.0L});
            up[i] += step;
            down[i] -= step;
            moved += std::max(std::abs(one.value(up, truth) - value), std::abs(one.value(down, truth) - value));
          }
          const bool inside = std::abs(value) < 5e34L && one.exponent(x, truth) <= 80;
          for (const bool reduced : {true, false}) {
            const at::Tensor leaf = output.clone().requires_grad_();
            const at::Tensor result = reduced ? one.loss.reduced(input_of(leaf, y), one_row) : one.loss.per_row(input_of(leaf, y)).sum();
            result.backward();
            std::ostringstream where;
            where << one.loss.name() << (reduced ? " reduced" : " per row") << " in " << type << " at " << at_point << ", label " << label;
            EXPECT_TRUE(leaf.grad().isfinite().all().item<bool>()) << where.str();
            if (!inside) continue;
            const double exact = static_cast<double>(value), relative = type == at::kFloat ? 2e-6 : 1e-9;
            EXPECT_NEAR(result.item<double>(), exact, relative * (1 + std::abs(exact)) + (reduced ? 0.1 : 1.0) * static_cast<double>(moved)) << where.str();
            if (!reduced || type != at::kDouble) continue;
            for (size_t i = 0; i < x.size(); ++i) {
              std::vector<Long> up = x, down = x;
              const Long h = 1e-5L;
              up[i] += h;
              down[i] -= h;
              const double slope = static_cast<double>((one.value(up, truth) - one.value(down, truth)) / (2 * h));
              EXPECT_NEAR(leaf.grad()[0][static_cast<int64_t>(i)].item<double>(), slope, 1e-5 * std::abs(slope) + 1e-8 + 1e-12 * std::abs(exact))
                  << where.str();
            }
          }
        }
      }
    }
  }
}

TEST(Likelihoods, keep_their_precision_where_large_terms_cancel) {
  for (const float label : {1e3f, 1e6f}) {
    for (const double away : {0.0, 1e-3, .1, -.5}) {
      const at::Tensor y = at::full({1}, label), eta = at::full({1, 1}, std::log(label) + static_cast<float>(away));
      const Long x = eta.item<double>(), truth = label, d = x - std::log(truth), least = log_gamma(truth + 1) - truth * std::log(truth) + truth;
      const Long rest = std::abs(d) < 1e-4L ? d * d / 2 + d * d * d / 6 : std::expm1(d) - d,
                 moved = truth * (std::abs(d) + 4e-6L) * 4e-6L;  // by a rounding of η
      const Long poisson = truth * rest + least, deviance = 2 * std::sqrt(truth) * 2 * (std::expm1(d / 2) + std::expm1(-d / 2));
      EXPECT_NEAR(htl::Poisson{}(eta, y).item<double>(), static_cast<double>(poisson), static_cast<double>(1e-6L * poisson + moved)) << label << " " << away;
      EXPECT_NEAR(htl::Poisson{}.reduced(input_of(eta, y), at::ones({1})).item<double>(), static_cast<double>(poisson), static_cast<double>(2e-7L * poisson));
      EXPECT_NEAR(htl::Tweedie({.form = TweedieForm::deviance})(eta, y).item<double>(), static_cast<double>(deviance),
                  static_cast<double>(2e-6L * deviance + moved / std::sqrt(truth)))
          << label << " " << away;
    }
  }
}

TEST(Likelihoods, go_on_as_tangents_where_exponentials_end) {
  const double end = std::exp(80.0), beyond = 11 * end;  // 80 + 10
  for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
    const auto column = [&](const std::vector<double>& numbers) { return doubles(numbers).to(type).view({1, -1}); };
    const at::Tensor one = at::ones({1}, type), zero = at::zeros({1}, type);
    for (const auto& [loss, output, label, value, slope] : {std::tuple{AnyLoss(htl::Poisson{}), column({90}), zero, beyond, end},
                                                            {AnyLoss(htl::Tweedie{}), column({180}), zero, 2 * beyond, end},
                                                            {AnyLoss(htl::Gamma({.shape = 1})), column({-90}), one, beyond, -end},
                                                            {AnyLoss(htl::Tweedie{}), column({-180}), one, 2 * beyond, -end}}) {
      for (const bool reduced : {true, false}) {
        const at::Tensor leaf = output.clone().requires_grad_();
        const at::Tensor result = reduced ? loss.reduced(input_of(leaf, label), one) : loss.per_row(input_of(leaf, label)).sum();
        result.backward();
        EXPECT_NEAR(result.item<double>() / value, 1, 1e-5) << loss.name() << reduced;
        EXPECT_NEAR(leaf.grad()[0][0].item<double>() / slope, 1, 1e-5) << loss.name() << reduced;
      }
    }
    for (const auto& [loss, output] : {std::pair{AnyLoss(htl::Poisson{}), column({90})},
                                       {AnyLoss(htl::Tweedie{}), column({90})},
                                       {AnyLoss(htl::Gamma{}), column({90, 0})},
                                       {AnyLoss(htl::ZeroInflatedGamma{}), column({99, 90, 0})},
                                       {AnyLoss(htl::LogNormal({.predicts = DistributionPredict::median})), column({90, 0})}})
      EXPECT_NEAR(loss.predict(output, no_context).item<double>() / beyond, 1, 1e-5) << loss.name();
  }
}

TEST(Likelihoods, keep_gradients_finite_where_a_shape_or_dispersion_multiplies_exponentials) {
  using Options = htl::TweedieOptions;
  const auto likelihood = [](double power) { return htl::Tweedie(Options{.power = power, .form = TweedieForm::likelihood}); };
  const std::vector<AnyLoss> losses = {
      htl::Gamma{}, htl::Gamma({.shape = 1e4}), htl::Gamma({.shape = 1e-9}), htl::ZeroInflatedGamma{}, likelihood(1.05), likelihood(1.5), likelihood(1.9)};
  for (const AnyLoss& loss : losses)
    for (const double label : {1e-30, 1.0, 1e12})
      for (const double first : {-80.0, 0.0, 80.0})
        for (const double second : {-80.0, 0.0, 80.0, 1e4})
          for (const bool reduced : {true, false}) {
            if (!reduced && loss.name() == "tweedie") continue;  // said there
            at::Tensor output = at::full({1, loss.output_width()}, second);
            output.select(1, loss.name() == "zero_inflated_gamma" ? 1 : 0).fill_(first);
            output.requires_grad_();
            const at::Tensor y = torch::full({1}, label, at::kFloat);
            const at::Tensor value = reduced ? loss.reduced(input_of(output, y), at::ones({1})) : loss.per_row(input_of(output, y)).sum();
            value.backward();
            EXPECT_TRUE(std::isfinite(value.item<float>()) || (loss.name() == "tweedie" && value.item<float>() > 0.f))
                << loss.name() << output << label << reduced;
            EXPECT_TRUE(output.grad().isfinite().all().item<bool>()) << loss.name() << output << label << reduced;
          }
  for (const AnyLoss& loss : {AnyLoss(htl::Gamma{}), AnyLoss(htl::Gamma({.shape = 1e4}))})  // beyond the bound, which moves with the shape
    for (const double eta : {-72.0, -75.0, -79.0}) {
      const at::Tensor output = doubles({eta, 1e4}).narrow(0, 0, loss.output_width()).unsqueeze(0), y = doubles({1.5});
      EXPECT_TRUE(gradcheck([&](const auto& x) { return loss.per_row(input_of(x[0], y)).div(1e34); }, {output})) << loss.output_width() << eta;
      EXPECT_TRUE(gradcheck([&](const auto& x) { return loss.reduced(input_of(x[0], y), doubles({1})).div(1e34); }, {output})) << loss.output_width() << eta;
    }
}

TEST(Likelihoods, predict_finite_numbers_however_wide_they_think_they_are) {
  for (const double s : {20.0, 113.0, 116.0, 1e4, 1e7}) {
    for (const double mu : {-80.0, 0.0, 80.0}) {
      const at::Tensor pair = torch::tensor({mu, s}, at::kFloat).view({1, 2}).requires_grad_(), triple = torch::tensor({5.0, mu, s}, at::kFloat).view({1, 3});
      const htl::LogNormal log_normal;
      const at::Tensor mean = log_normal.mean(pair);
      mean.backward();
      EXPECT_TRUE(std::isfinite(mean.item<float>())) << mu << " " << s;
      EXPECT_TRUE(pair.grad().isfinite().all().item<bool>()) << mu << " " << s;
      for (const double q : {1e-9, .5, .9, 1 - 1e-9}) {
        EXPECT_TRUE(std::isfinite(log_normal.quantile(pair, q).item<float>())) << mu << " " << s << " " << q;
        EXPECT_TRUE(std::isfinite(htl::ZILN{}.quantile(triple, q).item<float>())) << mu << " " << s << " " << q;
      }
    }
  }
  const htl::LogNormal log_normal;
  EXPECT_GT(log_normal.mean(doubles({0, 100}).view({1, 2})).item<double>(), log_normal.mean(doubles({0, 50}).view({1, 2})).item<double>());
}

TEST(Likelihoods, row_by_row_keep_rows_without_a_label_out_of_the_gradient_whatever_their_outputs) {
  Random random(209);
  for (int round = 0; round < 10; ++round) {
    for (LossCase one : cases(random, 6, at::kFloat, 1)) {
      for (int64_t row = 3; row < 6; ++row) {
        one.label[row] = 0;
        for (int64_t j = 0; j < one.output.size(1); ++j) one.output[row][j] = random.pick<double>({-7000, -6300, 3, 7000});
      }
      const LossCase now = one.leaves();
      const at::Tensor share = torch::tensor({.5f, .25f, .25f, 0.f, 0.f, 0.f}), value = htl::weighted_sum(now.rows(share), share);
      value.backward();
      EXPECT_TRUE(value.isfinite().item<bool>()) << one.text();
      EXPECT_TRUE(now.output.grad().isfinite().all().item<bool>()) << one.text();
      EXPECT_EQ(now.output.grad().narrow(0, 3, 3).abs().max().item<double>(), 0.0) << one.text();
    }
  }
  // a row without an amount counts, but not by η
  const at::Tensor far = torch::tensor({1.f, -7000.f, 2.f}).view({1, 3}).requires_grad_();
  htl::ZeroInflatedGamma{}(far, torch::zeros({1})).sum().backward();
  EXPECT_TRUE(close(far.grad(), torch::tensor({1.f, 0.f, 0.f}).view({1, 3}).mul(torch::sigmoid(torch::tensor(1.f))), 1e-6));
}

TEST(Likelihoods, refuse_wrong_options_labels_and_shapes_with_a_sentence) {
  EXPECT_EQ(sentence_of([] { htl::ZILN({.sigma_floor = 0}); }), "htl::ZILN: expected a finite sigma_floor > 0, got 0");
  EXPECT_EQ(sentence_of([] { htl::ZILN({.sigma_floor = 2, .max_sigma = 1}); }), "htl::ZILN: expected a finite max_sigma > sigma_floor = 2, got 1");
  EXPECT_EQ(sentence_of([] { htl::ZILN({.max_log_mean = 81}); }), "htl::ZILN: expected a max_log_mean ≤ 80, got 81");
  EXPECT_EQ(sentence_of([] { htl::ZILN({.sigma_penalty = -1}); }), "htl::ZILN: expected a finite sigma_penalty ≥ 0, got -1");
  EXPECT_EQ(sentence_of([] { htl::ZILN{}.quantile(torch::zeros({2, 3}), 1); }), "htl::ZILN: expected q in (0, 1), got 1");
  EXPECT_EQ(sentence_of([] { htl::ZILN{}(torch::zeros({2, 2}), torch::zeros({2})); }), "htl::ZILN: expected outputs of shape [any, 3], got [2, 2]");
  EXPECT_EQ(sentence_of([] { htl::LogNormal({.sigma_floor = -1}); }), "htl::LogNormal: expected a finite sigma_floor > 0, got -1");
  EXPECT_EQ(sentence_of([] { htl::LogNormal{}.quantile(torch::zeros({2, 2}), 0); }), "htl::LogNormal: expected q in (0, 1), got 0");
  EXPECT_EQ(sentence_of([] { htl::Gamma({.shape = 0}); }), "htl::Gamma: expected a finite shape > 0, got 0");
  EXPECT_EQ(sentence_of([] { htl::ZeroInflatedGamma({.max_shape = 0}); }), "htl::ZeroInflatedGamma: expected a finite max_shape > shape_floor = 0.001, got 0");
  EXPECT_EQ(sentence_of([] { htl::Gamma{}(torch::zeros({2, 1}), torch::zeros({2})); }), "htl::Gamma: expected outputs of shape [any, 2], got [2, 1]");
  EXPECT_EQ(sentence_of([] { htl::Tweedie({.power = 2}); }), "htl::Tweedie: expected a power in (1, 2), got 2; Poisson has power 1, Gamma 2");
  EXPECT_EQ(sentence_of([] { htl::Tweedie({.dispersion = 1}); }), "htl::Tweedie: only the form likelihood reads a dispersion; leave it out");
  EXPECT_EQ(sentence_of([] { htl::Tweedie({.form = TweedieForm::likelihood, .dispersion = 0}); }), "htl::Tweedie: expected a finite dispersion > 0, got 0");
  EXPECT_EQ(sentence_of([] { htl::Tweedie{}.dispersion(torch::zeros({2, 1})); }), "htl::Tweedie: the form \"quasi\" has no dispersion");
  for (const AnyLoss& loss : {AnyLoss(htl::ZILN{}), AnyLoss(htl::Poisson{}), AnyLoss(htl::Tweedie{}), AnyLoss(htl::ZeroInflatedGamma{})})
    EXPECT_TRUE(contains(htl::test::refusal_of(loss, -1), "loss \"" + loss.name() + "\" of task \"t\" expects labels in [0, inf], got -1 in row 0"));
  for (const AnyLoss& loss : {AnyLoss(htl::Gamma{}), AnyLoss(htl::LogNormal{})})
    EXPECT_TRUE(contains(htl::test::refusal_of(loss, 0), "loss \"" + loss.name() + "\" of task \"t\" expects labels in [1.17549e-38, inf], got 0 in row 0"));
  EXPECT_TRUE(contains(sentence_of([] { htl::TaskSet{htl::regression("t").loss(htl::ZILN{}).transform(htl::z_score())}; }), "\"ziln\" of task \"t\""));
  EXPECT_TRUE(contains(sentence_of([] { htl::binary("t").loss(htl::Poisson{}); }), "the loss \"poisson\" is not for a binary task"));
  EXPECT_TRUE(contains(sentence_of([] { htl::loss_by_name("tweedie", {{"power", 2}}); }), "option \"power\": expected a number in (1, 2), got 2"));
}

}  // namespace
