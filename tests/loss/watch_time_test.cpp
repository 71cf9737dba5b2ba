// SPDX-License-Identifier: Apache-2.0
// Losses of watch time: golden numbers, derivatives, extremes, densities, and that each recovers what made the labels.
#include <support/loss_battery.hpp>
#include <support/loss_fits.hpp>
#include <support/loss_references.hpp>

#include <torch/torch.h>

namespace {

using namespace htl::test;
using htl::AnyLoss;
using htl::Named;

at::Tensor doubles(const std::vector<double>& values) { return torch::tensor(values, at::kDouble); }
at::Tensor row_of(const std::vector<double>& values) { return doubles(values).unsqueeze(0); }
double logit(double p) { return std::log(p) - std::log1p(-p); }
double inverse_softplus(double x) { return std::log(std::expm1(x)); }
const Named<at::Tensor> no_context;

htl::TPM small_tree() { return htl::TPM({.depth = 2, .value = 0, .deviation = 0, .edges = {2, 5, 10}, .mids = {1, 3.5, 7.5, 20}}); }
htl::CREAD small_splits(double restoration, double ordinal) {
  return htl::CREAD({.splits = 4, .restoration = restoration, .ordinal = ordinal, .points = {2, 5, 10, 30}});
}

/// Watch times of two kinds of videos, with many zeros.
struct Watches {
  at::Tensor seconds, duration;
  Watches(Random& random, int64_t rows) {
    duration = random.uniform({rows}, 5, 300);
    seconds = duration * random.uniform({rows}) * random.events({rows}, .8);
  }
  Named<at::Tensor> context() const { return Named<at::Tensor>(std::vector<std::pair<std::string, at::Tensor>>{{"duration", duration}}); }
};

std::vector<LossCase> cases(Random& random, int64_t rows, at::ScalarType type, double scale = 2.0) {
  const Watches train(random, 600), batch(random, rows);
  const at::Tensor label = batch.seconds.to(at::kFloat).to(type), events = random.events({rows}, .4);
  const htl::Label known{train.seconds};
  const auto output = [&](int64_t width) { return random.normal({rows, width}, scale, type); };
  const Named<at::Tensor> with_event(std::vector<std::pair<std::string, at::Tensor>>{{"click", events}});
  using Weighted = htl::WeightedLogistic;
  std::vector<LossCase> all;
  all.push_back({.loss = Weighted({.form = htl::WeightedLogisticForm::odds}), .output = output(1), .label = label, .note = "odds"});
  all.push_back({.loss = Weighted({.form = htl::WeightedLogisticForm::odds, .event = "click"}),
                 .output = output(1),
                 .label = label,
                 .context = with_event,
                 .note = "event"});
  all.push_back({.loss = Weighted{}, .output = output(1), .label = label, .note = "every row"});
  all.push_back({.loss = htl::D2Q({.duration = "duration", .buckets = 5, .points = 20}).fitted(known, train.context()),
                 .output = random.uniform({rows, 1}, .01, .99, type),
                 .label = label,
                 .context = batch.context()});
  all.push_back({.loss = htl::BucketSoftmax({.buckets = 6}).fitted(known, no_context), .output = output(6), .label = label});
  all.push_back({.loss = htl::CREAD({.splits = 9, .alpha = .7, .delta = 30, .ordinal = .3}).fitted(known, no_context), .output = output(9), .label = label});
  all.push_back({.loss = htl::CREAD({.splits = 1}).fitted(known, no_context), .output = output(1), .label = label, .note = "of one split"});
  all.push_back({.loss = htl::TPM({.depth = 3, .value = .01, .deviation = .2}).fitted(known, no_context), .output = output(7), .label = label, .stiff = true});
  all.push_back({.loss = htl::TPM({.depth = 1}).fitted(known, no_context), .output = output(1), .label = label, .stiff = true, .note = "of one node"});
  all.push_back({.loss = htl::GaussianMixture{}, .output = output(9), .label = label / 30, .stiff = true});
  all.push_back(
      {.loss = htl::ExponentialGaussianMixture({.components = 3, .entropy = .2, .regression = .7}), .output = output(11), .label = label / 30, .stiff = true});
  all.push_back({.loss = htl::ExponentialGaussianMixture({.components = 2, .truncated_mean = false}),
                 .output = output(8),
                 .label = label / 30,
                 .stiff = true,
                 .note = "as published"});
  return all;
}

TEST(WatchTimeLosses, match_golden_numbers_of_the_literature) {
  const at::Tensor o = doubles({.5, -1, 0}), seconds = doubles({30, 5, 0});
  const htl::WeightedLogistic every, odds({.form = htl::WeightedLogisticForm::odds});
  EXPECT_TRUE(close(odds(o, seconds), doubles({14.22231, 6.566308, .693147}), 0, 1e-5));
  EXPECT_TRUE(close(every(o, seconds), doubles({15.196387, 6.87957, .693147}), 0, 1e-6));
  EXPECT_TRUE(close(odds.predict(o.unsqueeze(1), no_context), doubles({1.648721, .367879, 1}), 0, 1e-6));

  const htl::D2Q d2q({.duration = "duration", .points = 5, .edges = {50}, .tables = {0, 2, 5, 9, 10, 0, 10, 20, 40, 60}});
  EXPECT_TRUE(close(d2q.levels(doubles({7, 7}), doubles({10, 90})), doubles({.625, .175})));
  EXPECT_TRUE(close(d2q.predict(doubles({.6, .6}).unsqueeze(1), Named<at::Tensor>({{"duration", doubles({10, 90})}})), doubles({6.6, 28})));

  const at::Tensor z = row_of({logit(.9), logit(.6), logit(.4), logit(.1)});
  EXPECT_NEAR(small_splits(0, 0)(z, doubles({7})).item<double>(), .308093, 1e-6);
  EXPECT_NEAR(small_splits(1, 0)(z, doubles({7})).item<double>(), .308093 + .18, 1e-6);
  EXPECT_NEAR(small_splits(0, 0).predict(z, no_context).item<double>(), 7.6, 1e-12);
  const at::Tensor crooked = row_of({logit(.9), logit(.4), logit(.6), logit(.1)});
  EXPECT_NEAR((small_splits(0, 1)(crooked, doubles({7})) - small_splits(0, 0)(crooked, doubles({7}))).item<double>(), .2, 1e-12);
  for (const auto& [alpha, levels] : {std::pair{.5, doubles({.298633, .562177, .794752, 1})}, std::pair{2., doubles({.455054, .731059, .898464, 1})}})
    for (int64_t m = 1; m <= 4; ++m) EXPECT_NEAR(htl::CREAD({.splits = 4, .alpha = alpha}).level(m), levels[m - 1].item<double>(), 1e-6);

  const at::Tensor nodes = row_of({logit(.6), logit(.7), logit(.2)});
  EXPECT_TRUE(close(small_tree().leaves(nodes), row_of({.42, .18, .08, .32})));
  EXPECT_NEAR(small_tree().predict(nodes, no_context).item<double>(), 8.05, 1e-12);
  EXPECT_NEAR(small_tree().variance(nodes).item<double>(), 70.3225, 1e-10);
  EXPECT_NEAR(small_tree()(nodes, doubles({7})).item<double>(), (.916291 + 1.609438) / 3, 1e-6);
  const htl::TPM whole({.depth = 2, .edges = {2, 5, 10}, .mids = {1, 3.5, 7.5, 20}});
  EXPECT_NEAR(whole(nodes, doubles({7})).item<double>(), (.916291 + 1.609438) / 3 + 1.05 * 1.05 + 1e-4 * 8.385851, 1e-6);

  const htl::BucketSoftmax buckets({.buckets = 4, .edges = {2, 5, 10}, .mids = {1, 3.5, 7.5, 20}});
  EXPECT_NEAR(buckets.predict(row_of({.1, .5, -.2, 0}), no_context).item<double>(), 7.220402, 1e-6);
  EXPECT_TRUE(at::equal(buckets.buckets(doubles({0, 2, 2.1, 10, 11})), torch::tensor({0, 0, 1, 2, 3}, at::kLong)));

  const at::Tensor normals = row_of({.5, -.5, 2, 6, inverse_softplus(1), inverse_softplus(2)});
  EXPECT_NEAR(htl::GaussianMixture({.components = 2})(normals, doubles({2})).item<double>(), 1.207611, 1e-6);
  const at::Tensor mixture =
      row_of({0, .5, -.5, inverse_softplus(.8 - 1e-6), inverse_softplus(.75), inverse_softplus(4.75), inverse_softplus(1), inverse_softplus(2)});
  const auto egmn = [&](double entropy, double regression) {
    return htl::ExponentialGaussianMixture({.components = 2, .entropy = entropy, .regression = regression, .truncated_mean = false});
  };
  EXPECT_NEAR(egmn(0, 0)(mixture, doubles({2})).item<double>(), 1.341649, 1e-6);
  EXPECT_NEAR(egmn(.1, 1)(mixture, doubles({2})).item<double>(), 1.341649 - .1020188 + .514898, 2e-6);
  EXPECT_NEAR(egmn(0, 0).predict(mixture, no_context).item<double>(), 2.514898, 1e-6);
}

TEST(WatchTimeLosses, have_one_arithmetic_per_row_and_in_one_pass) { htl::test::expect_one_arithmetic(cases, 2, {1e-3, 1, 5}, 2e-5); }

TEST(WatchTimeLosses, pass_nan_outputs_on_where_rows_count_and_nowhere_else) {
  Random random(5);
  for (const LossCase& one : cases(random, 4, at::kDouble)) htl::test::expect_nan_only_where_it_counts(one);
}

TEST(WatchTimeLosses, refuse_rows_that_do_not_fit_and_know_no_label_that_is_nan) {
  Random random(9);
  for (const LossCase& one : cases(random, 6, at::kDouble)) {
    htl::test::expect_refuses_what_does_not_fit(one);
    htl::test::expect_nan_label_stays_nan(one);
  }
}

TEST(D2Q, trains_in_the_bucket_that_it_predicts_from_where_durations_need_float64) {
  const at::Tensor duration = torch::tensor({16777216.0, 16777217.0, 16777216.0, 16777217.0}, at::kDouble), seconds = doubles({1, 100, 3, 300});
  const Named<at::Tensor> context(std::vector<std::pair<std::string, at::Tensor>>{{"duration", duration}});
  const AnyLoss loss = htl::D2Q({.duration = "duration", .buckets = 2, .points = 3}).fitted({seconds}, context);
  const at::Tensor label = seconds.to(at::kFloat), share = torch::full({4}, .25f), output = torch::full({4, 1}, .3f);
  EXPECT_TRUE(htl::test::close(loss.reduced({output, label, label, {}, context}, share), loss.per_row({output, label, label, {}, context}).mean(), 1e-6));
}

TEST(WatchTimeLosses, stay_finite_far_out_in_both_types_and_forms) {
  Random random(6);
  for (int round = 0; round < 20; ++round)
    for (const LossCase& one : cases(random, 3, at::kDouble)) htl::test::expect_finite_far_out(one, random, {80, -80, 0, 1e-30, 1, -3, 20}, 1e-9);
}

TEST(WatchTimeLosses, are_means_over_the_rows_that_count) { expect_means_over_rows_that_count(cases, 19); }

TEST(WatchTimeLosses, curve_upwards_where_they_are_convex) {
  Random random(20);
  const at::Tensor label = random.uniform({50}, 0, 30), duration = random.uniform({50}, 0, 100);
  const auto one = [&](const AnyLoss& loss) {
    return LossCase{
        .loss = loss, .output = torch::zeros({50, loss.output_width()}, at::kDouble), .label = label, .context = Named<at::Tensor>({{"duration", duration}})};
  };
  for (const AnyLoss& loss :
       {AnyLoss(htl::WeightedLogistic{}), AnyLoss(htl::WeightedLogistic({.form = htl::WeightedLogisticForm::odds})),
        AnyLoss(htl::D2Q({.duration = "duration", .points = 5, .edges = {50}, .tables = {0, 2, 5, 9, 10, 0, 10, 20, 40, 60}})), AnyLoss(small_splits(0, 0)),
        AnyLoss(small_tree()), AnyLoss(htl::BucketSoftmax({.buckets = 3, .edges = {2, 9}, .mids = {1, 5, 20}}))})
    expect_convex(one(loss), random);
  const htl::TPM valued({.depth = 2, .value = .1, .edges = {2, 5, 10}, .mids = {1, 3.5, 7.5, 20}});
  for (const AnyLoss& loss : {AnyLoss(small_splits(1, 0)), AnyLoss(small_splits(0, 1)), AnyLoss(valued), AnyLoss(htl::GaussianMixture{}),
                              AnyLoss(htl::ExponentialGaussianMixture({.components = 2}))})
    expect_not_convex(one(loss), random);
}

TEST(WatchTimeLosses, match_long_doubles_at_extreme_outputs_and_labels) {
  Random random(21);
  using Row = const std::vector<Dual>&;
  const std::vector<double> far{-80, -3, -1e-30, 0, 1e-30, .7, 5, 80}, times{0, 1e-30, 1, 7.5, 80, 1e12};
  const at::Tensor whole = torch::ones({1}, at::kDouble);
  const auto one = [&](const AnyLoss& loss, bool stiff = false) {
    return LossCase{.loss = loss, .output = torch::zeros({1, loss.output_width()}, at::kDouble), .label = doubles({0}), .stiff = stiff};
  };
  for (const auto& [restoration, delta, ordinal] : {std::tuple{0., 1., 0.}, {.5, 3., .25}, {1., 1e4, 0.}}) {
    const std::vector<double> points{2, 5, 10, 30};
    const htl::CREAD loss({.splits = 4, .restoration = restoration, .delta = delta, .ordinal = ordinal, .points = points});
    expect_long_doubles({one(loss), times,
                         [=, r = restoration, d = delta, o = ordinal](Row x, Long t) {
                           Dual sum = 0, restored = 0, growth = 0;
                           for (size_t m = 0; m < 4; ++m) {
                             sum = sum + log_loss(x[m], t > points[m] ? 1 : 0) / 4;
                             restored = restored + sigmoid(x[m]) * (points[m] - (m > 0 ? points[m - 1] : 0));
                             if (m > 0) growth = growth + relu(sigmoid(x[m]) - sigmoid(x[m - 1]));
                           }
                           return sum + r * huber(restored - t, d) + o * growth;
                         },
                         whole, [](Row, Long) { return 2; }},
                        random, far, 60);
  }
  const std::vector<double> edges{2, 5, 10}, mids{1, 3.5, 7.5, 20};
  const auto bucket = [=](Long t) { return static_cast<size_t>(std::count_if(edges.begin(), edges.end(), [=](double edge) { return t > edge; })); };
  for (const auto& [value, deviation] : {std::pair{0., 0.}, {.3, 0.}, {.3, .2}}) {
    const htl::TPM loss({.depth = 2, .value = value, .deviation = deviation, .edges = edges, .mids = mids});
    expect_long_doubles({one(loss, true), times,
                         [=, v = value, d = deviation](Row x, Long t) {
                           const size_t leaf = bucket(t);
                           const Dual chance[4] = {sigmoid(x[0]) * sigmoid(x[1]), sigmoid(x[0]) * sigmoid(-x[1]), sigmoid(-x[0]) * sigmoid(x[2]),
                                                   sigmoid(-x[0]) * sigmoid(-x[2])};
                           Dual mean = 0, square_sum = 0;
                           for (size_t k = 0; k < 4; ++k) mean = mean + chance[k] * mids[k];
                           for (size_t k = 0; k < 4; ++k) square_sum = square_sum + chance[k] * square(mids[k] - mean);
                           const Dual way = log_loss(x[0], leaf < 2 ? 1 : 0) + log_loss(x[leaf < 2 ? 1 : 2], leaf % 2 == 0 ? 1 : 0);
                           return way / 3 + v * square(mean - t) + d * (square_sum.value < 1e-30L ? Dual(1e-15L) : sqrt(square_sum));
                         },
                         whole, [](Row, Long) { return 30; }},
                        random, far, 60);
  }
  expect_long_doubles(
      {one(htl::BucketSoftmax({.buckets = 4, .edges = edges, .mids = mids})), times, [=](Row x, Long t) { return cross_entropy(x, bucket(t)); }}, random, far,
      100);
  for (const double duration : {10., 90.}) {
    const std::vector<Long> table = duration < 50 ? std::vector<Long>{0, 0, 0, 9, 10} : std::vector<Long>{1, 10, 20, 40, 1e6};
    LossCase ranks = one(htl::D2Q({.duration = "duration", .points = 5, .edges = {50}, .tables = {0, 0, 0, 9, 10, 1, 10, 20, 40, 1e6}}));
    ranks.context = Named<at::Tensor>({{"duration", doubles({duration})}});
    expect_long_doubles({ranks, times,
                         [=](Row x, Long t) {
                           Long below = 0, equal = 0, part = 0;  // how many quantiles are below, how many are t, and how far t is in its interval
                           for (size_t i = 0; i < 5; ++i) {
                             below += table[i] < t;
                             equal += table[i] == t;
                             if (i > 0 && table[i - 1] < t && t < table[i]) part = (t - table[i - 1]) / (table[i] - table[i - 1]);
                           }
                           const Long level = equal > 0 ? below + (equal - 1) / 2 : std::max<Long>(below - 1, 0) + part;
                           return square(x[0] - level / 4);
                         },
                         whole, [](Row, Long) { return 1; }},
                        random, far, 30);
  }
}

TEST(Mixtures, match_long_doubles_at_extreme_outputs_and_labels) {
  Random random(22);
  using Row = const std::vector<Dual>&;
  const std::vector<double> far{-80, -3, -1e-30, 0, 1e-30, .7, 5, 80}, times{0, 1e-30, 1, 7.5, 80, 1e12};
  const Long half_log_two_pi = std::log(2 * std::acos(-1.0L)) / 2;
  const auto sigma = [](Dual s) { return clamp(softplus(s), 1e-3, 1e6); };
  const auto size = [](Row x, Dual value) {
    Long sum = std::abs(value.value);
    for (const Dual& number : x) sum += std::abs(number.value);
    return sum;
  };
  const auto one = [&](const AnyLoss& loss) {
    return LossCase{.loss = loss, .output = torch::zeros({1, loss.output_width()}, at::kDouble), .label = doubles({0}), .stiff = true};
  };
  const at::Tensor whole = torch::ones({1}, at::kDouble);
  const auto normals = [=](Row x, Long y) {
    std::vector<Dual> joint;
    for (size_t k = 0; k < 2; ++k) joint.push_back(x[k] - square((y - x[2 + k]) / sigma(x[4 + k])) / 2 - log(sigma(x[4 + k])) - half_log_two_pi);
    return log_sum_exp({x[0], x[1]}) - log_sum_exp(joint);
  };
  expect_long_doubles({one(htl::GaussianMixture({.components = 2})), times, normals, whole, [=](Row x, Long y) { return size(x, normals(x, y)); }}, random, far,
                      60);
  for (const bool exact_mean : {true, false})
    for (const auto& [entropy, regression] : {std::pair{0., 0.}, {.1, 1.}}) {
      const htl::ExponentialGaussianMixture loss({.components = 2, .entropy = entropy, .regression = regression, .truncated_mean = exact_mean});
      const auto mixture = [=, h = entropy, r = regression](Row x, Long y) {
        const Dual all = log_sum_exp({x[0], x[1], x[2]}), rate = softplus(x[3]) + 1e-6;
        std::vector<Dual> joint{x[0] + log(rate) - rate * y};
        Dual mean = exp(x[0] - all) / rate, entropies = exp(x[0] - all) * (x[0] - all);
        for (size_t k = 0; k < 2; ++k) {
          const Dual mu = softplus(x[4 + k]) + 1 / rate, width = sigma(x[6 + k]), ratio = mu / width, prior = exp(x[1 + k] - all);
          const Long density = std::exp(-ratio.value * ratio.value / 2 - half_log_two_pi), below = 1 - std::erfc(ratio.value / std::sqrt(2.0L)) / 2;
          const Dual mass(below, density * ratio.slope), bump(density, -ratio.value * density * ratio.slope);
          joint.push_back(x[1 + k] - square((y - mu) / width) / 2 - log(width) - half_log_two_pi - log(mass));
          mean = mean + prior * (exact_mean ? mu + width * bump / mass : mu);
          entropies = entropies + prior * (x[1 + k] - all);
        }
        return all - log_sum_exp(joint) + h * entropies + r * abs(mean - y);
      };
      expect_long_doubles({one(loss), times, mixture, whole, [=](Row x, Long y) { return size(x, mixture(x, y)); }}, random, far, 40);
    }
}

TEST(WatchTimeLosses, of_logits_match_long_doubles_over_the_grid_of_extremes) {
  const auto up = [](long double z) { return z > 0 ? z + std::log1p(std::exp(-z)) : std::log1p(std::exp(z)); };
  for (const double o : {-80., -30., -1e-30, 0., 1e-30, 1., 30., 80.})
    for (const double seconds : {0., 1e-30, 1., 80., 1e12}) {
      const at::Tensor x = torch::full({1, 1}, o, at::kFloat), label = torch::full({1}, seconds, at::kFloat), one = torch::ones({1});
      const long double z = x.item<float>(), t = label.item<float>(), sigma = 1 / (1 + std::exp(-z)), rest = 1 / (1 + std::exp(z));
      for (const bool every : {false, true}) {
        const htl::WeightedLogistic loss({.form = every ? htl::WeightedLogisticForm::every_row : htl::WeightedLogisticForm::odds});
        const long double expected = every ? t * up(-z) + up(z) : t > 0 ? t * up(-z) : up(z);
        const long double slope = every ? sigma - t * rest : t > 0 ? -t * rest : sigma;
        const at::Tensor leaf = x.clone().requires_grad_();
        const at::Tensor value = loss.reduced({leaf, label, label, {}, no_context}, one);
        value.backward();
        EXPECT_TRUE(close(value, torch::tensor(static_cast<double>(expected), at::kDouble), 1e-6, 1e-44)) << o << " " << seconds;
        EXPECT_TRUE(close(loss(x, label), doubles({static_cast<double>(expected)}), 1e-6, 1e-44)) << o << " " << seconds;
        EXPECT_TRUE(close(leaf.grad(), row_of({static_cast<double>(slope)}), 1e-6, 1e-44)) << o << " " << seconds;
      }
      const double predicted = o <= 80 ? std::exp(static_cast<double>(x.item<float>())) : 0;
      EXPECT_TRUE(close(htl::WeightedLogistic{}.predict(x, no_context), doubles({predicted}), 2e-5)) << o;
    }
  // beyond 80: the tangent
  const at::Tensor far = doubles({100, 80}).unsqueeze(1).requires_grad_();
  const at::Tensor tangent = htl::WeightedLogistic{}.predict(far, no_context);
  tangent.sum().backward();
  EXPECT_TRUE(close(tangent, std::exp(80.0) * doubles({21, 1})));
  EXPECT_TRUE(close(far.grad(), std::exp(80.0) * torch::ones({2, 1}, at::kDouble)));
}

TEST(WeightedLogistic, finds_the_mean_in_one_form_and_the_odds_in_the_other) {
  for (const auto& [given, meant] : {std::pair{"weighted_logistic", "weighted_logistic:form=every_row"},
                                     std::pair{"weighted_logistic:event=click", "weighted_logistic:form=odds,event=click"}}) {
    const htl::AnyLoss loss = htl::built_in_losses().make(htl::parse_spec(given));
    EXPECT_EQ(htl::spec_text({loss.name(), loss.parameters()}), meant);
  }
  Random random(7);
  const at::Tensor seconds = random.uniform({500}, 0, 40) * random.events({500}, .2), share = torch::full({500}, 1.0 / 500, at::kDouble);
  const double events = seconds.gt(0).sum().item<double>(), sum = seconds.sum().item<double>();
  for (const auto& [loss, expected] :
       {std::pair{htl::WeightedLogistic({.form = htl::WeightedLogisticForm::odds}), sum / (500 - events)}, std::pair{htl::WeightedLogistic{}, sum / 500}}) {
    at::Tensor output = torch::zeros({1, 1}, at::kDouble);
    for (int step = 0; step < 30; ++step) {  // Newton
      const at::Tensor leaf = output.clone().requires_grad_();
      const auto first = torch::autograd::grad({loss(leaf.expand({500, 1}), seconds).sum()}, {leaf}, {}, true, true)[0];
      const auto second = torch::autograd::grad({first}, {leaf})[0];
      EXPECT_GT(second.item<double>(), 0);  // convex
      output = output - first.detach() / second;
    }
    EXPECT_NEAR(loss.predict(output, no_context).item<double>(), expected, 1e-9 * expected);
  }
}

TEST(D2Q, has_uniform_levels_in_each_bucket_and_its_prediction_is_their_inverse) {
  Random random(8);
  const Watches train(random, 4000);
  const htl::D2Q loss = htl::D2Q({.duration = "duration", .buckets = 4, .points = 101}).fitted({train.seconds}, train.context());
  ASSERT_EQ(loss.options.edges.size(), 3);
  const at::Tensor bucket = at::bucketize(train.duration, doubles(loss.options.edges)), level = loss.levels(train.seconds, train.duration);
  for (int64_t b = 0; b < 4; ++b) {
    const at::Tensor own = level.masked_select(bucket.eq(b));
    EXPECT_NEAR(static_cast<double>(own.size(0)), 1000, 1);
    EXPECT_NEAR(own.mean().item<double>(), .5, .01);  // ties stand in the middle of their levels
  }
  EXPECT_TRUE(close(loss.predict(level.unsqueeze(1), train.context()), train.seconds, 1e-5, 1e-5));
  // a brute-force empirical distribution, without ties
  const at::Tensor positive = train.seconds.gt(0), some = positive.nonzero().squeeze(1).narrow(0, 0, 200);
  for (int64_t k = 0; k < 200; ++k) {
    const int64_t i = some[k].item<int64_t>();
    const at::Tensor own = train.seconds.masked_select(bucket.eq(bucket[i]));
    EXPECT_NEAR(level[i].item<double>(), own.lt(train.seconds[i]).to(at::kDouble).mean().item<double>(), .011);
  }
}

TEST(D2Q, takes_the_nearest_bucket_and_level_for_what_lies_outside) {
  const htl::D2Q loss({.duration = "duration", .points = 5, .edges = {50}, .tables = {0, 0, 0, 9, 10, 5, 10, 20, 40, 60}});
  const at::Tensor durations = doubles({-1e30, 1e30, 50, 50.1, 0}), labels = doubles({0, 7, 1e12, -5, 11});
  const at::Tensor expected = doubles({.25, .1, 1, 0, 1});
  EXPECT_TRUE(close(loss.levels(labels, durations), expected));
  const Named<at::Tensor> context({{"duration", durations}});
  const at::Tensor x = doubles({-3, 7, .5, 1, 0}).unsqueeze(1).requires_grad_();
  const at::Tensor predicted = loss.predict(x, context);
  EXPECT_TRUE(close(predicted, doubles({0, 60, 0, 60, 0})));
  predicted.sum().backward();
  EXPECT_EQ(x.grad()[0].item<double>(), 0.0);
  const at::Tensor share = torch::eye(5, at::kDouble);
  for (int64_t row = 0; row < 5; ++row)
    EXPECT_NEAR(loss.reduced({torch::zeros({5, 1}, at::kDouble), labels, labels, {}, context}, share[row]).item<double>(),
                std::pow(expected[row].item<double>(), 2), 1e-12);
  const htl::D2Q single = htl::D2Q({.duration = "duration", .points = 3}).fitted({doubles({4, 1, 2})}, Named<at::Tensor>({{"duration", doubles({9, 9, 9})}}));
  EXPECT_TRUE(single.options.edges.empty());
  EXPECT_EQ(single.options.tables, (std::vector<double>{1, 2, 4}));
  EXPECT_TRUE(close(single.levels(doubles({2}), doubles({1})), doubles({.5})));
}

TEST(BucketsOfEqualCounts, keep_ties_together_and_are_as_many_as_asked) {
  Random random(9);
  for (int round = 0; round < 200; ++round) {
    const int64_t rows = random.integer(1, 60), kinds = random.integer(1, 30), buckets = random.integer(1, 12);
    const at::Tensor values = std::get<0>(random.ids({rows}, kinds).to(at::kDouble).sort());
    const std::vector<double> sorted(values.data_ptr<double>(), values.data_ptr<double>() + rows);
    const auto edges = htl::detail::equal_count_edges(sorted, buckets);
    const int64_t distinct = std::get<0>(at::_unique(values)).size(0);
    ASSERT_EQ(static_cast<int64_t>(edges.size()) + 1, std::min(buckets, distinct));
    std::vector<int64_t> counts(edges.size() + 1, 0);
    for (const double value : sorted) ++counts[htl::detail::bucket_of(edges, value)];
    for (const int64_t count : counts) ASSERT_GT(count, 0);
    for (const double edge : edges) ASSERT_EQ(std::count(sorted.begin(), sorted.end(), edge), 0);
  }
}

TEST(BucketSoftmaxAndTPM, of_the_training_frequencies_predict_the_exact_mean_with_gradient_zero) {
  Random random(10);
  const Watches train(random, 1000);
  const htl::Label known{train.seconds};
  const htl::BucketSoftmax buckets = htl::BucketSoftmax({.buckets = 8}).fitted(known, no_context);
  const htl::TPM tree = htl::TPM({.depth = 3, .value = 0, .deviation = 0}).fitted(known, no_context);
  ASSERT_EQ(buckets.options.edges, tree.options.edges);
  const at::Tensor counts = at::bincount(buckets.buckets(train.seconds), {}, 8).to(at::kDouble), mean = train.seconds.mean().unsqueeze(0);
  EXPECT_NEAR(counts[0].item<double>(), train.seconds.eq(0).sum().item<double>(), 1);  // the zeros are a bucket, the others share the rest
  EXPECT_LE((counts.narrow(0, 1, 7).max() - counts.narrow(0, 1, 7).min()).item<double>(), 2);

  const at::Tensor logits = counts.log().unsqueeze(0).requires_grad_();
  EXPECT_TRUE(close(buckets.predict(logits, no_context), mean, 1e-10));
  buckets(logits.expand({1000, 8}), train.seconds).mean().backward();
  EXPECT_LT(logits.grad().abs().max().item<double>(), 1e-12);

  const std::vector<double> frequencies(counts.data_ptr<double>(), counts.data_ptr<double>() + 8);
  std::vector<double> nodes(7), sums(15);
  for (size_t k = 15; k-- > 0;) sums[k] = k >= 7 ? frequencies[k - 7] : sums[2 * k + 1] + sums[2 * k + 2];
  for (size_t k = 0; k < 7; ++k) nodes[k] = std::log(sums[2 * k + 1] / sums[2 * k + 2]);
  const at::Tensor ways = row_of(nodes).requires_grad_();
  EXPECT_TRUE(close(tree.predict(ways, no_context), mean, 1e-10));
  EXPECT_TRUE(close(tree.leaves(ways)[0], counts / 1000, 1e-10));
  tree(ways.expand({1000, 7}), train.seconds).mean().backward();
  EXPECT_LT(ways.grad().abs().max().item<double>(), 1e-12);
}

TEST(CREAD, of_the_training_frequencies_restores_nearly_the_mean_with_gradient_zero) {
  Random random(11);
  Watches train(random, 2000);
  train.seconds = train.seconds.to(at::kFloat).to(at::kDouble);
  const htl::CREAD loss = htl::CREAD({.splits = 100, .restoration = 0, .ordinal = 0}).fitted({train.seconds}, no_context);
  EXPECT_EQ(loss.options.points.back(), train.seconds.max().item<double>());
  const at::Tensor points = doubles(loss.options.points), beyond = train.seconds.unsqueeze(1).gt(points).to(at::kDouble).mean(0);
  const at::Tensor logits = at::logit(beyond.clamp(1e-12, 1 - 1e-12)).unsqueeze(0).requires_grad_();
  loss(logits.expand({2000, 100}), train.seconds).mean().backward();
  EXPECT_LT(logits.grad().abs().max().item<double>(), 1e-10);
  const double mean = train.seconds.mean().item<double>(), restored = loss.predict(logits, no_context).item<double>();
  EXPECT_LT(restored, mean);  // a lower sum
  EXPECT_NEAR(restored, mean, .03 * mean);
}

TEST(CREAD, finds_the_same_ties_in_every_type) {
  // .1 in float32 is above .1 in float64, .7 below
  const at::Tensor train = doubles({.1, .1, .1, .1, .7, .7, .7, .7, .7});
  const htl::CREAD loss = htl::CREAD({.splits = 4, .restoration = 0, .ordinal = 0}).fitted({train}, no_context);
  const htl::CREAD given({.splits = 2, .restoration = 0, .ordinal = 0, .points = {.1, .7}});
  for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
    for (const auto& [label, beyond] : {std::pair{.1, doubles({0, 0})}, {.7, doubles({1, 0})}, {.05, doubles({0, 0})}, {.8, doubles({1, 1})}}) {
      const at::Tensor z = row_of({.5, -2}).to(type), y = torch::full({1}, label, type),
                       expected = at::binary_cross_entropy_with_logits(z, beyond.to(type).unsqueeze(0));
      EXPECT_TRUE(close(given(z, y).sum(), expected, 1e-6)) << label << type;
      EXPECT_TRUE(close(given.reduced({z, y, y, {}, no_context}, torch::ones({1}, type)), expected, 1e-6)) << label << type;
    }
    const at::Tensor z = torch::zeros({9, 4}, type), labels = train.to(type), leaf = z.clone().requires_grad_();
    loss.reduced({leaf, labels, labels, {}, no_context}, torch::full({9}, 1. / 9, type)).backward();
    const at::Tensor counts = (.5 - leaf.grad().to(at::kDouble).sum(0) * 4) * 9;  // of labels beyond each split
    for (int64_t m = 0; m < 4; ++m) {
      const double point = loss.options.points[static_cast<size_t>(m)];
      EXPECT_NEAR(counts[m].item<double>(), point < .2 ? 5 : 0, 1e-4) << m << type;
      EXPECT_TRUE(point == static_cast<double>(.1f) || point == static_cast<double>(.7f)) << point;
    }
  }
}

TEST(WatchTimeLosses, are_fitted_anew_to_other_labels_and_keep_what_was_given) {
  Random random(17);
  const Watches first(random, 500), second(random, 700);
  const auto fit = [](const AnyLoss& loss, const Watches& to) { return loss.fitted({to.seconds * (to.seconds.size(0) == 700 ? 3 : 1)}, to.context()); };
  const auto file = [](const AnyLoss& loss) { return htl::loss_by_name(loss.name(), loss.parameters()); };
  const auto numbers = [](const AnyLoss& loss) { return htl::spec_text({loss.name(), loss.parameters()}); };
  for (const char* spec : {"d2q:duration=duration,buckets=3,points=5", "bucket_softmax:buckets=4", "bucket_softmax:buckets=3,edges=20;50",
                           "bucket_softmax:buckets=3,mids=1;2;3", "cread:splits=5", "tpm:depth=2", "tpm:depth=1,edges=20", "tpm:depth=1,mids=3;9"}) {
    const AnyLoss plain = htl::built_in_losses().make(htl::parse_spec(spec)), once = fit(plain, first), there = fit(plain, second);
    EXPECT_TRUE(once.is_fitted()) << spec;
    EXPECT_NE(numbers(once), numbers(there)) << spec;
    EXPECT_EQ(numbers(fit(once, second)), numbers(there)) << spec;
    EXPECT_EQ(numbers(file(once)), numbers(once)) << spec;
    EXPECT_EQ(numbers(fit(file(once), second)), numbers(there)) << spec << " out of a file";
    EXPECT_EQ(numbers(fit(once, first)), numbers(once)) << spec;
  }
  for (const char* spec : {"bucket_softmax:buckets=3,edges=20;50,mids=1;2;3", "cread:splits=2,points=4;9", "tpm:depth=1,edges=20,mids=3;9"}) {
    const AnyLoss given = htl::built_in_losses().make(htl::parse_spec(spec));
    EXPECT_EQ(numbers(fit(given, first)), numbers(given)) << spec;
  }
  const htl::BucketSoftmax edges = htl::BucketSoftmax({.buckets = 3, .edges = {20, 50}}).fitted({first.seconds}, no_context);
  EXPECT_EQ(edges.options.edges, (std::vector<double>{20, 50}));
  EXPECT_EQ(htl::TPM({.depth = 1, .mids = {3, 9}}).fitted({first.seconds}, no_context).options.mids, (std::vector<double>{3, 9}));
}

TEST(Exponentials, of_many_numbers_at_once_are_exact_to_a_few_roundings) {
  Random random(16);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (int round = 0; round < 300; ++round) {
    const int64_t count = random.integer(1, 40);
    const double scale = random.pick<double>({1e-30, 1e-3, 1, 30, 300});
    const at::Tensor z = random.normal({count}, scale).clamp(-700, 700);
    const double* const from = z.data_ptr<double>();
    std::vector<double> e(from, from + count), up(e.size()), down(e.size()), log_whole(e.size());
    const std::vector<double> numbers = e;
    htl::detail::exp_all(e.data(), e.size());
    htl::detail::logistic_all(numbers.data(), e.size(), up.data(), down.data(), log_whole.data());
    std::vector<double> plain[3] = {e, e, e};
    htl::detail::logistic_all_plain(numbers.data(), e.size(), plain[0].data(), plain[1].data(), plain[2].data());
    for (size_t i = 0; i < e.size(); ++i) {
      const long double x = numbers[i], sigma = 1 / (1 + std::exp(-x)), rest = 1 / (1 + std::exp(x)), whole = std::log1p(std::exp(-std::abs(x)));
      const auto near = [](double a, long double b) { return std::abs(a / static_cast<double>(b) - 1) < 2e-15; };
      ASSERT_TRUE(near(e[i], std::exp(x))) << numbers[i];
      ASSERT_TRUE(near(up[i], sigma) && near(plain[0][i], sigma)) << numbers[i];
      ASSERT_TRUE(near(down[i], rest) && near(plain[1][i], rest)) << numbers[i];
      ASSERT_TRUE(near(log_whole[i], whole) && near(plain[2][i], whole)) << numbers[i];
    }
    std::vector<double> logs = e;
    for (double& x : logs) x = std::exp(std::min(random.real(-700, 700), 1.0 / random.real(0, 1) - 1));
    const std::vector<double> positive = logs;
    htl::detail::log_all(logs.data(), logs.size());
    for (size_t i = 0; i < logs.size(); ++i) {
      const long double x = std::log(static_cast<long double>(positive[i]));
      ASSERT_NEAR(logs[i], static_cast<double>(x), 4e-16 * std::max(1.0, std::abs(static_cast<double>(x)))) << positive[i];
      if (std::abs(positive[i] - 1) < .3 && x != 0) {
        ASSERT_NEAR(logs[i] / static_cast<double>(x), 1.0, 2e-15) << positive[i];
      }
    }
    const double top = z.max().item<double>();
    EXPECT_EQ(htl::detail::top_of_all(from, e.size()), top);
    EXPECT_NEAR(htl::detail::sum_all(from, e.size()), z.sum().item<double>(), 1e-12 * scale * static_cast<double>(count));
  }
  std::vector<double> far = {nan, -1e9, 1e9, 0, -std::numeric_limits<double>::infinity()};
  htl::detail::exp_all(far.data(), far.size());
  EXPECT_TRUE(std::isnan(far[0]));
  EXPECT_LT(far[1], 1e-300);
  EXPECT_GT(far[2], 1e300);
  EXPECT_EQ(far[3], 1.0);
  EXPECT_LT(far[4], 1e-300);
  std::vector<double> ends = {
      nan, 1, 2.2250738585072014e-308, 1.7976931348623157e308, .70710678118654746, .70710678118654757, 1.4142135623730949, 1.4142135623730951};
  const std::vector<double> before = ends;
  htl::detail::log_all(ends.data(), ends.size());
  EXPECT_TRUE(std::isnan(ends[0]));
  EXPECT_EQ(ends[1], 0.0);
  for (size_t i = 2; i < ends.size(); ++i) EXPECT_NEAR(ends[i], std::log(before[i]), 2e-16 * std::max(1.0, std::abs(ends[i]))) << before[i];
  EXPECT_EQ(htl::detail::kept(nan, false), 0.0);
  EXPECT_EQ(htl::detail::kept(-2.5, true), -2.5);
}

TEST(Exponentials, of_the_normal_distribution_of_many_numbers_are_exact_to_a_few_roundings) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  std::vector<double> x = {nan, 1e9, std::numeric_limits<double>::infinity()};
  for (double at = 0; at < 26; at += .0037) x.push_back(at);
  std::vector<double> mass(x.size()), ratio(x.size()), plain_mass(x.size()), plain_ratio(x.size());
  htl::detail::normal_all(x.data(), x.size(), mass.data(), ratio.data());
  htl::detail::normal_all_plain(x.data(), x.size(), plain_mass.data(), plain_ratio.data());
  for (const size_t i : {0U, 1U, 2U}) {
    EXPECT_EQ(std::isnan(mass[i]) && std::isnan(ratio[i]), i == 0);
    if (i == 0) continue;
    EXPECT_EQ(mass[i], 1.0);
    EXPECT_LT(ratio[i], 1e-140);
  }
  for (size_t i = 3; i < x.size(); ++i) {
    const long double at = x[i], below = 1 - std::erfc(at / std::sqrt(2.0L)) / 2, density = std::exp(-at * at / 2) / std::sqrt(2 * std::acos(-1.0L));
    const auto near = [](double a, long double b, double tolerance) { return std::abs(a / static_cast<double>(b) - 1) < tolerance; };
    ASSERT_TRUE(near(mass[i], below, 1e-15) && near(plain_mass[i], below, 1e-15)) << x[i];
    ASSERT_TRUE(near(ratio[i], density / below, 1e-13) && near(plain_ratio[i], density / below, 1e-13)) << x[i];
  }
}

/// ∫ f by the trapezoid rule.
template <class F>
double integral(const F& f, double low, double high, int64_t steps) {
  const at::Tensor x = torch::linspace(low, high, steps + 1, at::kDouble);
  return at::trapezoid(f(x), x).template item<double>();
}

TEST(Mixtures, of_one_row_and_of_many_at_once_are_the_same) {
  static_assert(htl::BlockRowLoss<htl::ExponentialGaussianMixture>);
  Random random(18);
  const htl::ExponentialGaussianMixture loss({.components = 2});
  for (const int64_t count : {1, 5, 64}) {
    const at::Tensor outputs = random.normal({8, 64}, 3), labels = random.uniform({count}, 0, 9), slopes = torch::zeros({8, 64}, at::kDouble);
    const at::Tensor values = torch::zeros({count}, at::kDouble), by_hand = outputs.t().contiguous(), slope = torch::zeros({8}, at::kDouble);
    loss.rows(outputs.data_ptr<double>(), labels.data_ptr<double>(), static_cast<size_t>(count), values.data_ptr<double>(), slopes.data_ptr<double>());
    for (int64_t row = 0; row < count; ++row) {
      EXPECT_EQ(loss.row(by_hand.data_ptr<double>() + 8 * row, labels.data_ptr<double>() + row, slope.data_ptr<double>()), values[row].item<double>());
      EXPECT_TRUE(htl::test::same_bits(slope, slopes.select(1, row).contiguous()));
    }
    EXPECT_EQ(slopes.narrow(1, count, 64 - count).abs().sum().item<double>(), 0.0) << "nothing is written beyond";
  }
}

TEST(Mixtures, integrate_to_one_and_predict_the_mean_of_their_density) {
  Random random(12);
  for (int round = 0; round < 4; ++round) {
    const at::Tensor output = random.normal({1, 11}, 1.5), normals = random.normal({1, 9}, 1.5);
    const htl::ExponentialGaussianMixture egmn({.components = 3, .entropy = 0, .regression = 0});
    const htl::GaussianMixture plain({.sigma_floor = .05});
    const auto density = [&](const at::Tensor& y) { return egmn(output.expand({y.size(0), 11}), y).neg().exp(); };
    const auto normal = [&](const at::Tensor& y) { return plain(normals.expand({y.size(0), 9}), y).neg().exp(); };
    EXPECT_NEAR(integral(density, 0, 800, 160000), 1, 2e-4);
    EXPECT_NEAR(integral([&](const at::Tensor& y) { return y * density(y); }, 0, 800, 160000), egmn.predict(output, no_context).item<double>(), 2e-3);
    EXPECT_NEAR(integral(normal, -60, 60, 24000), 1, 1e-9);
    EXPECT_NEAR(integral([&](const at::Tensor& y) { return y * normal(y); }, -60, 60, 24000), plain.predict(normals, no_context).item<double>(), 1e-8);
  }
}

/// Constant outputs after steps of Adam on a loss.
at::Tensor fitted(const AnyLoss& loss, const at::Tensor& labels, at::Tensor start, int steps) {
  start = start.detach().clone().requires_grad_();
  torch::optim::Adam adam({start}, torch::optim::AdamOptions(.05));
  const at::Tensor share = torch::full({labels.size(0)}, 1.0 / static_cast<double>(labels.size(0)), at::kDouble);
  for (int step = 0; step < steps; ++step) {
    adam.zero_grad();
    loss.reduced({start.expand({labels.size(0), start.size(1)}), labels, labels, {}, no_context}, share).backward();
    adam.step();
  }
  return start.detach();
}

TEST(Mixtures, recover_what_made_the_labels) {
  Random random(13);
  const int64_t rows = 4000;
  const at::Tensor skip = random.events({rows}, .4), late = random.events({rows}, .5);
  const at::Tensor exponential = -random.uniform({rows}).clamp_min(1e-12).log() * 2, normal = random.normal({rows}) * (1 + late) + 10 + 20 * late;
  const at::Tensor watch = at::where(skip.gt(0), exponential, normal.abs());
  const htl::ExponentialGaussianMixture egmn({.components = 2, .entropy = 0, .regression = 0});
  const at::Tensor fit = fitted(egmn, watch, row_of({0, 0, 0, 0, 6, 25, 1, 1}), 500)[0], prior = fit.narrow(0, 0, 3).softmax(0);
  const auto positive = [&](int64_t k) { return std::log1p(std::exp(fit[k].item<double>())); };
  EXPECT_TRUE(close(prior, doubles({.4, .3, .3}), 0, .03));
  EXPECT_NEAR(1 / positive(3), 2, .15);
  EXPECT_NEAR(positive(4) + 1 / positive(3), 10, .15);
  EXPECT_NEAR(positive(5) + 1 / positive(3), 30, .3);
  EXPECT_NEAR(positive(6), 1, .1);
  EXPECT_NEAR(positive(7), 2, .2);
  EXPECT_NEAR(egmn.predict(fit.unsqueeze(0), no_context).item<double>(), watch.mean().item<double>(), .1);

  const htl::GaussianMixture plain({.components = 2});
  const at::Tensor two = fitted(plain, normal, row_of({0, 0, 5, 25, 1, 1}), 500)[0];
  EXPECT_TRUE(close(two.narrow(0, 2, 2), doubles({10, 30}), 0, .2));
  EXPECT_NEAR(plain.predict(two.unsqueeze(0), no_context).item<double>(), normal.mean().item<double>(), .05);
}

/// Watch times that are exponential, by a feature with the mean 10 or 25; and the chance to watch on after some time.
struct Exponentials {
  at::Tensor late, seconds;
  Exponentials(Random& random, int64_t rows) : late(random.events({rows})), seconds(-random.uniform({rows}).clamp_min(1e-12).log() * (10 + 15 * late)) {}
  static double beyond(double time, bool late) { return std::exp(-time / (late ? 25 : 10)); }
};

/// Numbers for rows without the feature, and what it adds.
std::vector<double> by_feature(const std::function<std::vector<double>(bool late)>& numbers) {
  std::vector<double> all = numbers(false);
  const std::vector<double> with = numbers(true);
  const size_t count = all.size();
  for (size_t k = 0; k < count; ++k) all.push_back(with[k] - all[k]);
  return all;
}

TEST(CREADAndTPMAndBucketSoftmax, fitted_alone_recover_the_distribution_of_a_feature) {
  Random random(23);
  const Exponentials data(random, 8000);
  const auto linear = [&](int64_t width) {
    return [=](const at::Tensor& x) { return std::vector{x.narrow(0, 0, width) + data.late.unsqueeze(1) * x.narrow(0, width, width)}; };
  };
  const std::vector<double> points{2, 5, 10, 20, 40};
  const htl::CREAD splits({.splits = 5, .restoration = 0, .ordinal = 0, .points = points});
  const auto chances = by_feature([&](bool late) {
    std::vector<double> all;
    for (const double point : points) all.push_back(logit(Exponentials::beyond(point, late)));
    return all;
  });
  const LossCase of_splits{.loss = splits, .output = {}, .label = data.seconds};
  expect_recovers(fit(of_splits, linear(5), torch::zeros({10}, at::kDouble)), chances, .15, "cread");

  const htl::TPM tree({.depth = 2, .value = 0, .deviation = 0, .edges = {4, 12, 25}, .mids = {1, 8, 18, 40}});
  const auto ways = by_feature([](bool late) {
    const double a = Exponentials::beyond(4, late), b = Exponentials::beyond(12, late), c = Exponentials::beyond(25, late);
    return std::vector{logit(1 - b), std::log((1 - a) / (a - b)), std::log((b - c) / c)};
  });
  const LossCase of_tree{.loss = tree, .output = {}, .label = data.seconds};
  expect_recovers(fit(of_tree, linear(3), torch::zeros({6}, at::kDouble)), ways, .15, "tpm");

  const htl::BucketSoftmax buckets({.buckets = 4, .edges = {4, 12, 25}, .mids = {1, 8, 18, 40}});
  const auto odds = by_feature([](bool late) {
    const double a = Exponentials::beyond(4, late), b = Exponentials::beyond(12, late), c = Exponentials::beyond(25, late);
    return std::vector{std::log((a - b) / (1 - a)), std::log((b - c) / (1 - a)), std::log(c / (1 - a))};
  });
  const LossCase of_buckets{.loss = buckets, .output = {}, .label = data.seconds};
  const auto without_first = [&](const at::Tensor& x) {
    const at::Tensor z = linear(3)(x)[0];
    return std::vector{torch::cat({torch::zeros_like(z.narrow(1, 0, 1)), z}, 1)};
  };
  expect_recovers(fit(of_buckets, without_first, torch::zeros({6}, at::kDouble)), odds, .15, "bucket_softmax");

  // mids of the labels themselves: the restored mean is theirs, also where the tree's loss is told to hit it
  for (const double value : {0., .01}) {
    const AnyLoss fitted_tree = AnyLoss(htl::TPM({.depth = 3, .value = value, .deviation = 0})).fitted({data.seconds}, no_context);
    const LossCase of_mean{.loss = fitted_tree, .output = {}, .label = data.seconds};
    const at::Tensor ways_of_all = fit(
                                       of_mean,
                                       [](const at::Tensor& x) {
                                         return std::vector{x.expand({8000, 7})};
                                       },
                                       torch::zeros({7}, at::kDouble))
                                       .value;
    const double predicted = fitted_tree.predict({ways_of_all.unsqueeze(0), no_context}).item<double>();
    EXPECT_NEAR(predicted, data.seconds.mean().item<double>(), 1e-5);
    EXPECT_NEAR(predicted, 17.5, 4 * data.seconds.std().item<double>() / std::sqrt(8000.));
  }
}

TEST(D2Q, fitted_alone_recovers_the_mean_level_of_a_feature_and_predicts_its_watch_time) {
  // the part watched is uniform, or with the feature the root of that: F(v) = (v + v²)/2 in each bucket of duration, whose means are 5/12 and 7/12
  Random random(24);
  const int64_t rows = 20000;
  const at::Tensor late = random.events({rows}), duration = 10 + 50 * random.events({rows}), part = random.uniform({rows}).pow(1 / (1 + late));
  const Named<at::Tensor> context({{"duration", duration}});
  const AnyLoss loss = AnyLoss(htl::D2Q({.duration = "duration", .buckets = 2, .points = 201})).fitted({part * duration}, context);
  const LossCase one{.loss = loss, .output = {}, .label = part * duration, .context = context};
  const LossFit found = fit(
      one, [&](const at::Tensor& x) { return std::vector{(x[0] + late * x[1]).unsqueeze(1)}; }, torch::zeros({2}, at::kDouble));
  expect_recovers(found, {5. / 12, 2. / 12}, .005, "d2q");
  const at::Tensor levels = torch::stack({found.value[0], found.value.sum()}).unsqueeze(1);
  for (const double length : {10., 60.}) {
    const at::Tensor predicted = loss.predict({levels, Named<at::Tensor>({{"duration", doubles({length, length})}})}) / length;
    EXPECT_TRUE(close(predicted, doubles({(std::sqrt(1 + 8 * 5. / 12) - 1) / 2, (std::sqrt(1 + 8 * 7. / 12) - 1) / 2}), 0, .015)) << length;
  }
}

TEST(WatchTimeLosses, come_by_name_with_their_parameters_and_statistics) {
  Random random(14);
  for (const LossCase& one : cases(random, 6, at::kDouble)) {
    LossCase again = one;
    again.loss = htl::loss_by_name(one.loss.name(), one.loss.parameters());
    EXPECT_TRUE(htl::test::same_bits(again.rows(), one.rows())) << one.text();
    again.loss = htl::built_in_losses().make(htl::parse_spec(htl::spec_text({one.loss.name(), one.loss.parameters()})));
    EXPECT_TRUE(htl::test::same_bits(again.rows(), one.rows())) << one.text();
    EXPECT_TRUE(htl::test::same_bits(again.predict(), one.predict())) << one.text();
    EXPECT_EQ(again.loss.in_label_unit(), one.loss.name() != "gaussian_mixture");
    EXPECT_FALSE(one.loss.fits(htl::TaskKind::multiclass));
  }
}

TEST(WatchTimeLosses, are_fitted_on_observed_rows_and_checked_by_the_hybrid_loss) {
  Random random(15);
  const Watches train(random, 100);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  htl::Labels labels;
  labels.set("watch", {train.seconds.clone(), random.mask({100}, .9)});
  labels.tasks.find("watch")->value.masked_fill_(labels["watch"].mask.logical_not(), nan);
  labels.context.set("duration", train.duration.masked_fill(labels["watch"].mask.logical_not(), nan));
  for (const char* spec : {"d2q:duration=duration,buckets=3,points=5", "bucket_softmax:buckets=4", "cread:splits=5", "tpm:depth=2"}) {
    const AnyLoss loss = htl::built_in_losses().make(htl::parse_spec(spec));
    const htl::TaskSet tasks = {htl::regression("watch").loss(loss)};
    EXPECT_FALSE(loss.is_fitted());
    EXPECT_TRUE(contains(sentence_of([&] { htl::HybridLoss{tasks}; }), "is not fitted"));
    const htl::TaskSet known = tasks.fitted(labels);
    const at::Tensor output = random.normal({100, known[0].output_width()}).requires_grad_();
    const htl::TaskOutputs outputs({{"watch", output}});
    const at::Tensor value = htl::HybridLoss(known)(outputs, labels)["watch"];
    value.backward();
    EXPECT_TRUE(output.grad().isfinite().all().item<bool>());
    EXPECT_EQ(output.grad().masked_select(labels["watch"].mask.logical_not().unsqueeze(1)).abs().sum().item<double>(), 0.0);
    EXPECT_TRUE(known.predict(outputs, labels.context)["watch"].isfinite().all().item<bool>());
    EXPECT_TRUE(contains(sentence_of([&] { htl::TaskSet{htl::regression("watch").loss(loss).transform(htl::z_score())}; }), "works in the label's unit"));
  }
  labels.tasks.find("watch")->value.fill_(-1);
  for (const char* spec : {"weighted_logistic", "exponential_gaussian_mixture:components=1"}) {
    const htl::TaskSet tasks = {htl::regression("watch").loss(htl::built_in_losses().make(htl::parse_spec(spec)))};
    const htl::HybridLoss loss(tasks);
    const htl::TaskOutputs outputs({{"watch", torch::zeros({100, tasks[0].output_width()}, at::kDouble)}});
    EXPECT_TRUE(contains(sentence_of([&] { loss(outputs, labels); }), "expects labels in [0, inf], got -1"));
  }
}

TEST(WatchTimeLosses, refuse_what_is_no_good_with_a_sentence) {
  using htl::BucketSoftmax, htl::CREAD, htl::D2Q, htl::TPM;
  const htl::Label few{doubles({1, 1, 2})};
  EXPECT_EQ(sentence_of([] { htl::WeightedLogistic({.event = "click"}); }),
            "htl::WeightedLogistic: the form every_row reads no event, got the column \"click\"; leave it out, or take the form odds");
  EXPECT_EQ(sentence_of([] {
              htl::WeightedLogistic{}(torch::zeros({3, 2}), torch::zeros({3}));
            }),
            "htl::WeightedLogistic: expected an output of shape [B] or [B, 1], got [3, 2]");
  EXPECT_EQ(sentence_of([] { D2Q({.duration = ""}); }), "htl::D2Q: expected the name of the duration's context column, got an empty one");
  EXPECT_EQ(sentence_of([] { D2Q({.duration = "d", .buckets = 0}); }), "htl::D2Q: expected at least 1 bucket of duration, got 0");
  EXPECT_EQ(sentence_of([] { D2Q({.duration = "d", .points = 1}); }), "htl::D2Q: expected at least 2 points of each table, got 1");
  EXPECT_TRUE(contains(sentence_of([] { D2Q({.duration = "d", .points = 2, .edges = {1}, .tables = {1, 2, 3}}); }), "2 buckets, 4 numbers, got 3"));
  EXPECT_TRUE(contains(sentence_of([] { D2Q({.duration = "d", .points = 2, .tables = {2, 1}}); }), "expected finite ascending quantiles, got 1 after 2"));
  EXPECT_TRUE(contains(sentence_of([] { D2Q({.duration = "d"})(torch::zeros({1}), torch::zeros({1}), torch::zeros({1})); }), "call tasks.fitted"));
  EXPECT_TRUE(contains(sentence_of([&] { D2Q({.duration = "d"}).fitted(few, {}); }), "there is no context column \"d\"; present: none"));
  EXPECT_TRUE(contains(sentence_of([&] { D2Q({.duration = "d"}).fitted({doubles({})}, Named<at::Tensor>({{"d", doubles({})}})); }), "at least one watch time"));
  EXPECT_EQ(sentence_of([] { BucketSoftmax({.buckets = 1}); }), "htl::BucketSoftmax: expected at least 2 buckets, got 1");
  EXPECT_EQ(sentence_of([] { BucketSoftmax({.buckets = 3, .edges = {1}}); }), "htl::BucketSoftmax: expected 2 edges between 3 buckets, got 1");
  EXPECT_EQ(sentence_of([] { BucketSoftmax({.buckets = 2, .mids = {1}}); }), "htl::BucketSoftmax: expected 2 mids, got 1");
  EXPECT_TRUE(contains(sentence_of([&] { BucketSoftmax({.buckets = 3}).fitted(few, {}); }), "at least 3 distinct labels for as many buckets, got 2"));
  EXPECT_TRUE(contains(sentence_of([] { BucketSoftmax{}(torch::zeros({1, 20}), torch::zeros({1})); }), "its edges or mids are not there"));
  EXPECT_EQ(sentence_of([] { CREAD({.splits = 0}); }), "htl::CREAD: expected 1 to 1024 splits, got 0");
  EXPECT_EQ(sentence_of([] { CREAD({.alpha = -1}); }), "htl::CREAD: expected a finite alpha ≥ 0, got -1");
  EXPECT_EQ(sentence_of([] { CREAD({.delta = 0}); }), "htl::CREAD: expected a finite delta > 0, got 0");
  EXPECT_EQ(sentence_of([] { CREAD({.splits = 2, .points = {-1, 2}}); }), "htl::CREAD: expected points ≥ 0, got -1");
  EXPECT_TRUE(contains(sentence_of([] { CREAD({.splits = 2}).fitted({doubles({-1, 2})}, {}); }), "expected labels ≥ 0, got -1"));
  EXPECT_EQ(sentence_of([] { TPM({.depth = 11}); }), "htl::TPM: expected a depth of 1 to 10, got 11");
  EXPECT_EQ(sentence_of([] { TPM({.depth = 2, .edges = {1, 2}}); }), "htl::TPM: expected 3 edges between 4 leaves, got 2");
  EXPECT_TRUE(contains(sentence_of([&] { TPM({.depth = 2}).fitted(few, {}); }), "at least 4 distinct labels for as many leaves, got 2"));
  EXPECT_EQ(sentence_of([] { htl::GaussianMixture({.components = 0}); }), "htl::GaussianMixture: expected at least 1 component, got 0");
  EXPECT_TRUE(contains(sentence_of([] { htl::GaussianMixture({.sigma_floor = 2, .max_sigma = 1}); }), "0 < sigma_floor ≤ max_sigma < ∞, got 2 and 1"));
  EXPECT_TRUE(contains(sentence_of([] { htl::ExponentialGaussianMixture({.entropy = -1}); }), "expected a finite entropy ≥ 0, got -1"));
  EXPECT_TRUE(contains(sentence_of([] { htl::loss_by_name("d2q", {{"buckets", 3}}); }), "expects a context column as the option \"duration\", got none"));
}

}  // namespace
