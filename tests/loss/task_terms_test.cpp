// SPDX-License-Identifier: Apache-2.0
// Losses that read other tasks, and the one that reads pairs of rows.
#include <support/loss_battery.hpp>
#include <support/loss_fits.hpp>
#include <support/loss_references.hpp>

#include <torch/torch.h>

namespace {

using namespace htl::test;
using htl::AnyLoss;
using htl::LossInput;
using htl::Named;
using htl::TaskOutputs;

at::Tensor doubles(const std::vector<double>& values) { return torch::tensor(values, at::kDouble); }
at::Tensor column(const std::vector<double>& values) { return doubles(values).unsqueeze(1); }
at::Tensor logits(const std::vector<double>& p) { return at::logit(doubles(p)).unsqueeze(1); }
const Named<at::Tensor> no_context;

std::vector<LossCase> cases(Random& random, int64_t rows, at::ScalarType type, double scale = 2.0) {
  const auto output = [&](int64_t width) { return random.normal({rows, width}, scale, type); };
  const at::Tensor event = random.events({rows}, .4, type), click = random.events({rows}, .6);
  const auto two = [&] { return TaskOutputs({{"click", output(1)}, {"pay", output(2)}}); };
  const auto teacher = [&](int64_t width) { return TaskOutputs({{"click", output(width)}}); };
  htl::Labels labels;
  labels.set("click", {click, random.mask({rows}, .8)});
  const Named<at::Tensor> chance(std::vector<std::pair<std::string, at::Tensor>>{{"p", random.uniform({rows})}});
  const Named<at::Tensor> users(std::vector<std::pair<std::string, at::Tensor>>{{"user", random.ids({rows}, 1 + rows / 4)}});
  const auto distil = [&](htl::DistillationForm form, double heat, bool detach = false) {
    return htl::Distillation({.teacher = "click", .form = form, .classes = 4, .temperature = heat, .detach = detach});
  };
  using Form = htl::DistillationForm;
  std::vector<LossCase> all;
  all.push_back({.loss = htl::EntireSpace({.given = {"click"}}), .output = output(1), .label = event, .others = teacher(1)});
  all.push_back({.loss = htl::EntireSpace({.given = {"click", "pay"}, .width = 2}),
                 .output = output(2),
                 .label = random.uniform({rows}, 0, 1, type),
                 .others = two(),
                 .note = "of two"});
  all.push_back({.loss = htl::EntireSpace({.given = {"pay"}, .predicts = htl::EntireSpacePredict::conditional}),
                 .output = output(1),
                 .label = event,
                 .others = two(),
                 .note = "conditional"});
  all.push_back({.loss = htl::OrderCalibration({.after = {"click", "pay"}, .width = 2}), .output = output(2), .label = event, .others = two()});
  all.push_back({.loss = htl::InversePropensity({.propensity = {.given = "click"}, .width = 2}),
                 .output = output(2),
                 .label = event,
                 .others = teacher(1),
                 .labels = labels,
                 .exact = false});
  all.push_back({.loss = htl::InversePropensity({.propensity = {.given = "click", .column = "p"}}),
                 .output = output(1),
                 .label = event,
                 .context = chance,
                 .labels = labels,
                 .note = "of a column"});
  all.push_back({.loss = htl::InversePropensity({.propensity = {.column = "p"}}), .output = output(1), .label = event, .context = chance, .note = "of all"});
  all.push_back({.loss = htl::InversePropensity({.propensity = {.given = "click", .column = "p"}, .batch_normalised = true}),
                 .output = output(1),
                 .label = event,
                 .context = chance,
                 .labels = labels,
                 .note = "normalised"});
  all.push_back(
      {.loss = htl::DoublyRobust({.propensity = {.given = "click", .column = "p"}}), .output = output(2), .label = event, .context = chance, .labels = labels});
  all.push_back({.loss = htl::DoublyRobust({.propensity = {.given = "click"}, .imputed = htl::ImputedError::sigmoid, .imputation_weight = .3}),
                 .output = output(2),
                 .label = event,
                 .others = teacher(1),
                 .labels = labels,
                 .exact = false,
                 .note = "by sigmoid"});
  all.push_back({.loss = htl::DoublyRobust({.propensity = {.given = "click", .column = "p"}, .joint = false}),
                 .output = output(2),
                 .label = event,
                 .context = chance,
                 .labels = labels,
                 .exact = false,
                 .note = "apart"});
  all.push_back({.loss = distil(Form::binary, 1.5), .output = output(1), .label = event, .others = teacher(1), .stiff = true});
  all.push_back({.loss = distil(Form::multiclass, .7), .output = output(4), .label = event, .others = teacher(4), .stiff = true, .note = "of classes"});
  all.push_back({.loss = distil(Form::squared, 1), .output = output(1), .label = event, .others = teacher(1), .note = "of numbers"});
  all.push_back(
      {.loss = distil(Form::binary, 2, true), .output = output(1), .label = event, .others = teacher(1), .exact = false, .stiff = true, .note = "cut off"});
  all.push_back(
      {.loss = htl::PairwiseRanking({.group = "user", .margin = .1}), .output = output(1), .label = random.uniform({rows}, 0, 1, type), .context = users});
  return all;
}

TEST(TaskTerms, match_golden_numbers_of_the_literature) {
  // pCTR .2 and .8, pCVR .5 and .3, clicks and conversions 1 and 0
  const at::Tensor z = logits({.5, .3}), y = doubles({1, 0});
  const TaskOutputs others({{"click", logits({.2, .8})}});
  htl::Labels labels;
  labels.set("click", {y});
  const LossInput input{z, y, y, {}, no_context, &others, &labels};
  const at::Tensor click = htl::BinaryCrossEntropy{}(others["click"], y);
  // the catalogue's second number is the sum of the mean of the click's loss and that of the product
  const at::Tensor product = htl::EntireSpace({.given = {"click"}}).per_row(input);
  EXPECT_TRUE(close(product, doubles({-std::log(.1), -std::log(1 - .24)})));
  EXPECT_NEAR(click.mean().item<double>(), 1.609438, 1e-6);
  EXPECT_NEAR(product.mean().item<double>(), 1.288511, 1e-6);
  EXPECT_NEAR(htl::InversePropensity({.propensity = {.given = "click"}}).per_row(input).mean().item<double>(), 1.732868, 1e-6);
  EXPECT_NEAR(htl::InversePropensity({.propensity = {.given = "click"}, .batch_normalised = true}).per_row(input).mean().item<double>(), 3.465736, 1e-6);
  const auto robust = [&](double weight) {
    const htl::DoublyRobust loss({.propensity = {.given = "click"}, .imputed = htl::ImputedError::sigmoid, .imputation_weight = weight});
    return loss.per_row({torch::cat({z, logits({.6, .4})}, 1), y, y, {}, no_context, &others, &labels}).mean().item<double>();
  };
  EXPECT_NEAR(robust(0), .732868, 1e-6);
  EXPECT_NEAR(robust(1) - robust(0), .021691, 1e-6);
  EXPECT_NEAR(htl::OrderCalibration({.after = {"click"}})(torch::cat({logits({.5, .2}), logits({.3, .6})}, 1)).mean().item<double>(), .1, 1e-12);
}

TEST(TaskTerms, have_one_arithmetic_per_row_and_in_one_pass) { htl::test::expect_one_arithmetic(cases, 2, {1e-3, 1, 5}, 2e-5); }

TEST(TaskTerms, pass_nan_outputs_on_where_rows_count_and_nowhere_else) {
  Random random(5);
  for (LossCase one : cases(random, 4, at::kDouble)) {
    if (one.loss.name() == "pairwise_ranking") {  // its NaN reaches the pairs' other rows, too
      one.context.set("user", torch::zeros({4}, at::kLong));
      one.label = doubles({1, 2, 0, 5});
      one.output[1].fill_(std::numeric_limits<double>::quiet_NaN());
      EXPECT_TRUE(std::isnan(one.reduced(doubles({.5, .25, .25, 0})).item<double>()));
      EXPECT_FALSE(std::isnan(one.reduced(doubles({.5, 0, .25, 0})).item<double>()));
      EXPECT_FALSE(htl::weighted_sum(one.rows(doubles({.5, 0, .25, 0})), doubles({.5, 0, .25, 0})).isnan().item<bool>());
    } else {
      htl::test::expect_nan_only_where_it_counts(one);
    }
  }
}

TEST(TaskTerms, stay_finite_far_out_in_both_types_and_forms) {
  Random random(6);
  for (int round = 0; round < 25; ++round)
    for (const LossCase& one : cases(random, 3, at::kDouble)) htl::test::expect_finite_far_out(one, random, {80, -80, 0, 1e-30, 1, -3, 20}, 1e-9);
  for (int round = 0; round < 10; ++round)  // where σ itself is 0 or 1 in every type
    for (const LossCase& one : cases(random, 3, at::kDouble))
      if (one.loss.name() != "distillation") htl::test::expect_finite_far_out(one, random, {1e4, -1e4, 800, -800, 2}, 1e-9);
}

TEST(TaskTerms, are_means_over_the_rows_that_count) { expect_means_over_rows_that_count(cases, 15); }

TEST(TaskTerms, match_long_doubles_at_extreme_outputs) {
  Random random(16);
  using Row = const std::vector<Dual>&;
  const std::vector<double> far{-80, -3, -1e-30, 0, 1e-30, .7, 5, 80}, events{0, 1, .25};
  const at::Tensor whole = torch::ones({1}, at::kDouble), blank = column({0}), zero = doubles({0});
  const TaskOutputs click({{"click", blank}}), both({{"click", blank}, {"pay", blank}});
  const auto seen = [](double happened) { return htl::Labels().set("click", {doubles({happened})}); };
  const auto chance = [](double p) { return Named<at::Tensor>({{"p", doubles({p})}}); };

  const auto inverse = [](Dual logit, Long happened) { return detached(happened * std::min<Long>(1 / std::max<Long>(sigmoid(logit).value, 1e-6L), 15)); };
  for (const double happened : {0., 1.})
    expect_long_doubles(
        {{.loss = htl::InversePropensity({.propensity = {.given = "click"}}), .output = blank, .label = zero, .others = click, .labels = seen(happened)},
         events,
         [=](Row x, Long y) { return inverse(x[1], happened) * log_loss(x[0], y); }},
        random, far, 60);
  // two rows of shares 1/4 and 3/4: weights 1/p, or the clip's 15 times the batch
  expect_long_doubles({{.loss = htl::InversePropensity({.propensity = {.given = "click", .column = "p"}, .batch_normalised = true}),
                        .output = torch::zeros({2, 1}, at::kDouble),
                        .label = doubles({0, 1}),
                        .context = Named<at::Tensor>({{"p", doubles({.25, .01})}}),
                        .labels = htl::Labels().set("click", {doubles({1, 1})})},
                       {},
                       [](Row x, Long) { return log_loss(x[0], 0) + 15 * log_loss(x[1], 1); },
                       doubles({.25, .75})},
                      random, far, 60);
  for (const auto& [weight, happened] : {std::pair{4.L, 1.}, {0.L, 0.}})
    for (const bool joint : {true, false})
      for (const auto imputed : {htl::ImputedError::softplus, htl::ImputedError::sigmoid}) {
        const auto guess = [=](Dual r) { return imputed == htl::ImputedError::sigmoid ? sigmoid(r) : softplus(r); };
        expect_long_doubles(
            {{.loss = htl::DoublyRobust({.propensity = {.given = "click", .column = "p"}, .imputed = imputed, .imputation_weight = .25, .joint = joint}),
              .output = torch::zeros({1, 2}, at::kDouble),
              .label = zero,
              .context = chance(.25),
              .labels = seen(happened)},
             events,
             [=, w = weight](Row x, Long y) {
               const Dual e = log_loss(x[0], y), r = guess(x[1]), held = joint ? r : detached(r), target = joint ? e : detached(e);
               return held + w * (e - held) + .25L * w * square(target - r);
             },
             whole,
             [=, w = weight](Row x, Long y) { return w * square(1 + log_loss(x[0], y) + guess(x[1])).value; }},
            random, far, 30);
      }
  expect_long_doubles({{.loss = htl::OrderCalibration({.after = {"click", "pay"}}), .output = blank, .label = zero, .others = both},
                       {},
                       [](Row x, Long) {
                         Dual sum = 0;
                         for (size_t k = 1; k < 3; ++k)
                           if (x[0].value > x[k].value)
                             sum = sum + (x[0].value > 0 && x[k].value > 0 ? sigmoid(-x[k]) - sigmoid(-x[0]) : sigmoid(x[0]) - sigmoid(x[k]));
                         return sum;
                       }},
                      random, far, 200);
  for (const double heat : {1., 2., .5})
    for (const bool detach : {true, false}) {
      const auto known = [=](Dual u) { return detach ? detached(u) : u; };
      const auto to = [&](htl::DistillationForm form) {
        return AnyLoss(htl::Distillation({.teacher = "click", .form = form, .classes = 3, .temperature = heat, .detach = detach}));
      };
      const auto terms = [=](Row x, Long) {
        Long sum = 0;
        for (const Dual& number : x) sum += heat * std::abs(number.value);
        return 1 + sum;
      };
      expect_long_doubles({{.loss = to(htl::DistillationForm::binary), .output = blank, .label = zero, .others = click, .stiff = true},
                           {},
                           [=](Row x, Long) {
                             const Dual z = x[0] / heat, u = known(x[1]) / heat;
                             const Dual yes = sigmoid(u) * (softplus(-z) - softplus(-u)), no = sigmoid(-u) * (softplus(z) - softplus(u));
                             return heat * heat * (yes + no);
                           },
                           whole,
                           terms},
                          random, far, 60);
      const at::Tensor three = torch::zeros({1, 3}, at::kDouble);
      expect_long_doubles(
          {{.loss = to(htl::DistillationForm::multiclass), .output = three, .label = zero, .others = TaskOutputs({{"click", three}}), .stiff = true},
           {},
           [=](Row x, Long) {
             std::vector<Dual> z, u;
             for (size_t k = 0; k < 3; ++k) {
               z.push_back(x[k] / heat);
               u.push_back(known(x[3 + k]) / heat);
             }
             const Dual all = log_sum_exp(z), of_teacher = log_sum_exp(u);
             Dual sum = 0;
             for (size_t k = 0; k < 3; ++k) sum = sum + exp(u[k] - of_teacher) * ((u[k] - of_teacher) - (z[k] - all));
             return heat * heat * sum;
           },
           whole,
           terms},
          random, far, 60);
      expect_long_doubles({{.loss = to(htl::DistillationForm::squared), .output = blank, .label = zero, .others = click},
                           {},
                           [=](Row x, Long) { return square(x[0] - known(x[1])); }},
                          random, far, 30);
    }
  const std::vector<Long> rated{1, 0, .5, 2, 0}, share{.25, .125, .25, .125, .25}, group{0, 0, 0, 1, 1};
  expect_long_doubles({{.loss = htl::PairwiseRanking({.group = "user"}),
                        .output = torch::zeros({5, 1}, at::kDouble),
                        .label = doubles({1, 0, .5, 2, 0}),
                        .context = Named<at::Tensor>({{"user", torch::tensor({0, 0, 0, 1, 1}, at::kLong)}})},
                       {},
                       [=](Row x, Long) {
                         Dual sum = 0;
                         Long mass = 0;
                         for (size_t i = 0; i < 5; ++i)
                           for (size_t j = 0; j < 5; ++j)
                             if (group[i] == group[j] && rated[i] > rated[j]) {
                               sum = sum + share[i] * share[j] * softplus(x[j] - x[i]);
                               mass += share[i] * share[j];
                             }
                         return sum / mass;
                       },
                       doubles({.25, .125, .25, .125, .25}),
                       [](Row, Long) { return 1; }},
                      random, far, 100);
}

TEST(TaskTerms, have_the_signs_of_curvature_of_their_formulas) {
  Random random(17);
  const at::Tensor blank = torch::zeros({50, 1}, at::kDouble), soft = random.uniform({50}), yes = torch::ones({50}, at::kDouble);
  const TaskOutputs click({{"click", blank}});
  const auto with = [&](const AnyLoss& loss, const at::Tensor& label, const TaskOutputs& others, double p = .25) {
    return LossCase{.loss = loss,
                    .output = torch::zeros({50, loss.output_width()}, at::kDouble),
                    .label = label,
                    .context = Named<at::Tensor>({{"p", torch::full({50}, p, at::kDouble)}, {"user", random.ids({50}, 5)}}),
                    .others = others};
  };
  const htl::EntireSpace product({.given = {"click"}});
  expect_convex(with(product, yes, click), random, {}, true);
  expect_not_convex(with(product, yes - 1, click), random);  // −log(1 − σ(a)σ(b)) bends down where a is above half of log(1 + e^b)
  expect_convex(with(htl::InversePropensity({.propensity = {.column = "p"}}), soft, {}), random);
  expect_convex(with(htl::PairwiseRanking({.group = "user"}), soft, {}), random);
  const at::Tensor first = doubles({1, 0}), second = doubles({0, 1});
  for (const double p : {.25, 1.}) {
    const auto robust = [&](double squares) { return with(htl::DoublyRobust({.propensity = {.column = "p"}, .imputation_weight = squares}), soft, {}, p); };
    expect_convex(robust(0), random, first);
    const auto [least, largest] = second_differences(robust(0), random, second);  // of (1 − w)·softplus(r): w = 4 and 1
    EXPECT_LE(largest, 1e-14);
    EXPECT_TRUE(p == 1 ? least > -1e-14 : least < -1e-3) << least;
    expect_not_convex(robust(1), random, first);  // an error below what is imputed falls, squared
  }
  for (const auto form : {htl::DistillationForm::binary, htl::DistillationForm::multiclass, htl::DistillationForm::squared}) {
    const htl::Distillation loss({.teacher = "click", .form = form, .classes = 3, .detach = false});
    const LossCase one = with(loss, soft, TaskOutputs({{"click", torch::zeros({50, loss.output_width()}, at::kDouble)}}));
    expect_convex(one, random);
    if (form == htl::DistillationForm::squared) {
      expect_convex(one, random, {}, true);
    } else {
      expect_not_convex(one, random, {}, true);  // in the teacher's logits
    }
  }
  expect_not_convex(with(htl::OrderCalibration({.after = {"click"}}), soft, click), random);
}

TEST(EntireSpace, matches_long_doubles_in_both_tails) {
  const auto log_sigma = [](long double z) { return z < 0 ? z - std::log1p(std::exp(z)) : -std::log1p(std::exp(-z)); };
  const htl::EntireSpace loss({.given = {"click"}});
  const std::vector<double> grid = {-80, -30, -1, 0, 1e-30, 1, 30, 40, 80};
  for (const double a : grid)
    for (const double b : grid)
      for (const double y : {0., 1., .25}) {
        // 1 − σ(a)σ(b) = σ(−a) + σ(a)σ(−b): two positive terms
        const long double za = static_cast<float>(a), zb = static_cast<float>(b), log_p = log_sigma(za) + log_sigma(zb);
        const long double rest = std::exp(log_sigma(-za)) + std::exp(log_sigma(za) + log_sigma(-zb));
        const long double log_rest = log_p < -.5L ? std::log1p(-std::exp(log_p)) : std::log(rest);
        const long double expected = -y * log_p - (1 - y) * log_rest;
        const long double slope_a = std::exp(log_sigma(-za)) * (std::exp(log_p) * (1 - y) / rest - y);
        const long double slope_b = std::exp(log_sigma(-zb)) * (std::exp(log_p) * (1 - y) / rest - y);
        for (const bool pass : {true, false}) {
          const at::Tensor own = torch::full({1, 1}, a, at::kFloat).requires_grad_(), click = torch::full({1, 1}, b, at::kFloat).requires_grad_();
          const TaskOutputs others({{"click", click}});
          const at::Tensor label = torch::full({1}, y, at::kFloat);
          const LossInput input{own, label, label, {}, no_context, &others};
          const at::Tensor value = pass ? loss.reduced(input, torch::ones({1})) : loss.per_row(input).sum();
          value.backward();
          EXPECT_TRUE(close(value, torch::tensor(static_cast<double>(expected), at::kDouble), 2e-6, 1e-43)) << a << " " << b << " " << y << " " << pass;
          const double relative = pass ? 1e-6 : 1e-5, least = y == .25 ? 1e-8 : pass ? 1e-43 : 1e-37;  // soft labels have slopes that cancel
          EXPECT_TRUE(close(own.grad().sum(), torch::tensor(static_cast<double>(slope_a), at::kDouble), relative, least)) << a << " " << b << " " << y;
          EXPECT_TRUE(close(click.grad().sum(), torch::tensor(static_cast<double>(slope_b), at::kDouble), relative, least)) << a << " " << b << " " << y;
        }
      }
}

TEST(EntireSpace, recovers_the_conditional_probability_from_all_rows) {
  // 1000 rows, 300 clicks, 60 of them bought: the product .06 and the conditional .2
  const at::Tensor click = torch::arange(1000).lt(300).to(at::kDouble), buy = torch::arange(1000).lt(60).to(at::kDouble);
  const htl::TaskSet tasks = {htl::binary("click"), htl::binary("buy").after("click").loss(htl::EntireSpace({.given = {"click"}}))};
  const htl::HybridLoss loss(tasks);
  htl::Labels labels;
  labels.set("click", {click}).set("buy", {buy});
  const at::Tensor z = torch::zeros({2}, at::kDouble).requires_grad_();
  torch::optim::LBFGS solver({z}, torch::optim::LBFGSOptions(1).max_iter(100).tolerance_grad(1e-12).tolerance_change(1e-15));
  const auto outputs = [&] { return TaskOutputs({{"click", z[0].expand({1000, 1})}, {"buy", z[1].expand({1000, 1})}}); };
  solver.step([&] {
    solver.zero_grad();
    const at::Tensor total = loss(outputs(), labels).sum();
    total.backward();
    return total;
  });
  const at::Tensor p = z.sigmoid();
  EXPECT_NEAR(p[0].item<double>(), .3, 1e-6);
  EXPECT_NEAR(p[1].item<double>(), .2, 1e-6);
  EXPECT_NEAR(tasks.predict(outputs())["buy"][0].item<double>(), .06, 1e-6);
}

TEST(InversePropensity, and_DoublyRobust_have_the_mean_over_all_rows_as_expectation) {
  Random random(7);
  const at::Tensor z = random.normal({20, 2}), y = random.events({20}), p = random.uniform({20}, .1, .9);
  const Named<at::Tensor> context(std::vector<std::pair<std::string, at::Tensor>>{{"p", p}});
  const at::Tensor error = htl::BinaryCrossEntropy{}(z.select(1, 0), y);
  const auto expectation = [&](const AnyLoss& loss, const at::Tensor& outputs, const at::Tensor& truth) {
    at::Tensor sum = torch::zeros({20}, at::kDouble);
    for (const double o : {0., 1.}) {
      htl::Labels labels;
      labels.set("click", {torch::full({20}, o, at::kDouble)});
      const at::Tensor rows = loss.per_row({outputs, y, y, {}, context, nullptr, &labels});
      sum = sum + rows * (o > 0 ? truth : 1 - truth);
    }
    return sum;
  };
  const htl::Propensity exact{.given = "click", .column = "p"};
  EXPECT_TRUE(close(expectation(htl::InversePropensity({.propensity = exact}), z.narrow(1, 0, 1), p), error));
  const htl::DoublyRobust robust({.propensity = exact, .imputation_weight = 0});
  EXPECT_TRUE(close(expectation(robust, z, p), error));                             // right propensities, any imputation
  const at::Tensor right = torch::stack({z.select(1, 0), error.expm1().log()}, 1);  // softplus(r) = e
  EXPECT_TRUE(close(expectation(robust, right, p.square()), error));                // right imputation, wrong propensities
  EXPECT_FALSE(close(expectation(robust, z, p.square()), error, .01, .01));
  // floor and clip
  const Named<at::Tensor> rare(std::vector<std::pair<std::string, at::Tensor>>{{"p", doubles({0, 1e-9, .05, .5})}});
  const at::Tensor four = column({0, 0, 0, 0}), one = torch::ones({4}, at::kDouble);
  const auto weights = [&](double floor, double clip) {
    return htl::InversePropensity({.propensity = {.column = "p", .floor = floor, .clip = clip}}).weights({four, one, one, {}, rare});
  };
  EXPECT_TRUE(close(weights(1e-6, 15), doubles({15, 15, 15, 2})));
  EXPECT_TRUE(close(weights(.1, 1e9), doubles({10, 10, 10, 2})));
}

TEST(DoublyRobust, apart_moves_each_output_by_its_own_term) {
  Random random(8);
  for (int round = 0; round < 20; ++round) {
    const at::Tensor output = random.normal({1, 2}, 2), y = random.events({1}), w = random.uniform({1}, 0, 5);
    const htl::DoublyRobust apart({.propensity = {.column = "p"}, .imputation_weight = .4, .joint = false});
    const at::Tensor error = htl::BinaryCrossEntropy{}(output.select(1, 0), y), imputed = at::softplus(output.select(1, 1), 1, 100);
    const at::Tensor leaf = output.clone().requires_grad_();
    const at::Tensor value = apart(leaf, y, w);
    value.sum().backward();
    EXPECT_TRUE(close(value, imputed + w * (error - imputed) + .4 * w * (error - imputed).square(), 1e-10));
    EXPECT_TRUE(close(leaf.grad()[0][0], (w * (output.select(1, 0).sigmoid() - y))[0]));
    EXPECT_TRUE(close(leaf.grad()[0][1], (-.8 * w * (error - imputed) * output.select(1, 1).sigmoid())[0], 1e-10));
    double slope[2];
    const double columns[2] = {y.item<double>(), w.item<double>()};
    EXPECT_NEAR(apart.row(output.data_ptr<double>(), columns, slope), value.item<double>(), 1e-12);
    EXPECT_TRUE(close(doubles({slope[0], slope[1]}), leaf.grad()[0]));
  }
}

TEST(InversePropensity, and_DoublyRobust_never_read_the_propensity_of_a_row_that_was_not_seen) {
  const double nan = std::nan(""), infinity = std::numeric_limits<double>::infinity();
  const Named<at::Tensor> context(std::vector<std::pair<std::string, at::Tensor>>{{"p", doubles({nan, .5, infinity, .25})}});
  htl::Labels labels;
  labels.set("click", {doubles({0, 1, 0, 1})});
  const at::Tensor z = column({.3, -1, 2, .5}), y = doubles({0, 1, 0, 0});
  const htl::Propensity seen{.given = "click", .column = "p"};
  for (const bool normalised : {false, true}) {
    const htl::InversePropensity loss({.propensity = seen, .batch_normalised = normalised});
    EXPECT_TRUE(close(loss.weights({z, y, y, {}, context, nullptr, &labels}), normalised ? doubles({0, 4, 0, 8}) : doubles({0, 2, 0, 4}), 1e-12));
  }
  const at::Tensor two = torch::cat({z, z}, 1);
  EXPECT_TRUE(htl::DoublyRobust({.propensity = seen}).per_row({two, y, y, {}, context, nullptr, &labels}).isfinite().all().item<bool>());
}

/// An event that another task reads happened where its label was observed: mask, observed_when and weight.
TEST(InversePropensity, and_DoublyRobust_see_an_event_only_where_its_task_has_a_label) {
  Random random(14);
  for (int round = 0; round < 20; ++round) {
    const int64_t rows = 40;
    const at::Tensor view = random.events({rows}, .7), seen = random.mask({rows}, .8), click = random.events({rows}, .6), known = random.mask({rows}, .8);
    const at::Tensor weight = random.uniform({rows}, .5, 2) * random.mask({rows}, .7), p = random.uniform({rows}, .1, .9), y = random.events({rows});
    const at::Tensor happened = view.eq(1).logical_and(seen).logical_and(click.eq(1)).logical_and(known).logical_and(weight.gt(0)).to(at::kDouble);
    const htl::Propensity chance{.given = "click", .column = "p"};
    htl::Labels labels;
    labels.set("view", {view, seen}).set("click", {click.masked_fill(known.logical_not(), std::nan("")), known, weight}).set("buy", {y});
    labels.context.set("p", p);
    const at::Tensor z = random.normal({rows, 2}), error = htl::BinaryCrossEntropy{}(z.select(1, 0), y), w = happened / p;
    const TaskOutputs outputs({{"view", random.normal({rows, 1})}, {"click", random.normal({rows, 1})}, {"buy", z}});
    const auto loss = [&](const htl::TaskSpec& buy) {
      return htl::HybridLoss(htl::TaskSet{htl::binary("view"), htl::binary("click").observed_when("view"), buy})(outputs, labels)["buy"].item<double>();
    };
    EXPECT_NEAR(loss(htl::binary("buy").loss(htl::InversePropensity({.propensity = chance, .width = 2}))), (w * error).mean().item<double>(), 1e-10);
    const at::Tensor imputed = at::softplus(z.select(1, 1)), robust = imputed + w * (error - imputed);
    EXPECT_NEAR(loss(htl::binary("buy").loss(htl::DoublyRobust({.propensity = chance, .imputation_weight = 0}))), robust.mean().item<double>(), 1e-10);
  }
}

/// Labels are seen more where they are more often 1: among those seen their mean is .54, of all it is .35.
TEST(InversePropensity, and_DoublyRobust_fitted_alone_recover_the_mean_of_all_rows_from_those_that_were_seen) {
  Random random(18);
  const int64_t rows = 40000;
  const at::Tensor kind = random.events({rows}), p = .1 + .7 * kind, likely = .1 + .5 * kind;
  const at::Tensor seen = random.uniform({rows}).lt(p).to(at::kDouble), y = random.uniform({rows}).lt(likely).to(at::kDouble) * seen;
  const htl::Labels labels = htl::Labels().set("click", {seen});
  const double truth = std::log(.35 / .65);
  const auto one = [&](const AnyLoss& loss, const at::Tensor& propensity) {
    return LossCase{.loss = loss, .output = {}, .label = y, .context = Named<at::Tensor>({{"p", propensity}}), .labels = labels};
  };
  const htl::Propensity given{.given = "click", .column = "p"};
  const AnyLoss inverse = htl::InversePropensity({.propensity = given}), robust = htl::DoublyRobust({.propensity = given, .imputation_weight = 0});
  const auto constant = [&](const at::Tensor& z) { return std::vector{z.expand({rows, 1})}; };
  const auto beside = [&](const at::Tensor& r) {
    return [=](const at::Tensor& z) { return std::vector{torch::stack({z.expand({rows}), r.expand({rows})}, 1)}; };
  };
  const auto right = [&](const at::Tensor& z) {  // the mean log loss of each kind of rows, as it depends on z
    const at::Tensor imputed = likely * at::softplus(-z) + (1 - likely) * at::softplus(z);
    return std::vector{torch::stack({z.expand({rows}), imputed.expm1().log()}, 1)};
  };
  const at::Tensor start = torch::zeros({1}, at::kDouble), wrong = torch::full({rows}, .5, at::kDouble), any = doubles({.3});
  const auto expect_biased = [&](const LossFit& found, const std::string& what) {
    EXPECT_GT(found.value.item<double>() - truth, 20 * found.error.item<double>()) << what;
    EXPECT_NEAR(found.value.item<double>(), std::log(.49 / .41), 4 * found.error.item<double>()) << what;
  };
  const at::Tensor there = seen.nonzero().squeeze(1);
  const LossCase naive{.loss = htl::BinaryCrossEntropy{}, .output = {}, .label = y.index_select(0, there)};
  expect_biased(fit(
                    naive,
                    [&](const at::Tensor& z) {
                      return std::vector{z.expand({there.size(0), 1})};
                    },
                    start),
                "seen rows alone");
  expect_biased(fit(one(inverse, wrong), constant, start), "wrong propensities");
  expect_biased(fit(one(robust, wrong), beside(any), start), "wrong propensities and imputation");
  const LossFit weighted = fit(one(inverse, p), constant, start);
  expect_recovers(weighted, {truth}, .05, "inverse_propensity");
  LossCase by_task = one(htl::InversePropensity({.propensity = {.given = "click"}}), p);
  by_task.others = TaskOutputs({{"click", torch::logit(p).unsqueeze(1)}});
  const auto with_click = [&](const at::Tensor& z) { return std::vector{z.expand({rows, 1}), by_task.others["click"]}; };
  EXPECT_TRUE(close(fit(by_task, with_click, start).value, weighted.value, 0, 1e-7));
  expect_recovers(fit(one(robust, p), beside(any), start), {truth}, .05, "doubly_robust, any imputation");
  expect_recovers(fit(one(robust, wrong), right, start), {truth}, .05, "doubly_robust, wrong propensities");
  // apart, the logit is that of inverse propensities, and the imputation the weighted mean error
  const at::Tensor w = seen / p, error = htl::BinaryCrossEntropy{}(weighted.value.expand({rows}), y), mean = (w * error).sum() / w.sum();
  const LossCase apart =
      one(htl::DoublyRobust({.propensity = given, .joint = false}), p).with(beside(mean.expm1().log().unsqueeze(0))(weighted.value)).leaves();
  apart.reduced(torch::full({rows}, 1. / rows, at::kDouble)).backward();
  EXPECT_LT(apart.output.grad().sum(0).abs().max().item<double>(), 1e-8);
}

/// Three clicks of ten, and where it is known five buys of ten: apart these are the frequencies, in order both .4, the best that are equal.
TEST(OrderCalibration, fitted_beside_log_losses_keeps_the_order_and_else_moves_nothing) {
  const at::Tensor click = torch::arange(10).lt(3).to(at::kDouble), buy = torch::arange(10).lt(5).to(at::kDouble);
  for (const double weight : {0., .6})
    for (const bool broken : {true, false}) {
      const htl::HybridLoss loss(
          htl::TaskSet{htl::binary("click"), htl::binary("buy").loss(htl::BinaryCrossEntropy{}).loss(htl::OrderCalibration({.after = {"click"}}), weight)});
      const htl::Labels labels = htl::Labels().set("click", {broken ? click : buy}).set("buy", {broken ? buy : click});
      at::Tensor z = torch::zeros({2}, at::kDouble);
      for (int step = 0; step < 1200; ++step) {  // a slope that jumps: ever shorter steps
        const at::Tensor leaf = z.clone().requires_grad_();
        loss(TaskOutputs({{"click", leaf[0].expand({10, 1})}, {"buy", leaf[1].expand({10, 1})}}), labels).sum().backward();
        z = z - leaf.grad() * (4. / (1 + step / 10.));
      }
      const at::Tensor p = z.sigmoid();
      EXPECT_TRUE(close(p, !broken ? doubles({.5, .3}) : weight > 0 ? doubles({.4, .4}) : doubles({.3, .5}), 0, 2e-3)) << p;
    }
}

TEST(Distillation, fitted_alone_makes_the_student_the_teacher) {
  Random random(19);
  const at::Tensor features = torch::cat({random.normal({300, 3}), torch::ones({300, 1}, at::kDouble)}, 1);
  for (const auto& [form, width, heat] : {std::tuple{htl::DistillationForm::binary, int64_t{1}, 2.},
                                          {htl::DistillationForm::multiclass, int64_t{3}, .7},
                                          {htl::DistillationForm::squared, int64_t{1}, 1.}}) {
    const int64_t free = width == 3 ? 2 : 1;  // the first class has the logit 0
    const auto linear = [&, w = width](const at::Tensor& x) {
      const at::Tensor z = features.mm(x.view({4, free}));
      return w == 3 ? torch::cat({torch::zeros({300, 1}, at::kDouble), z}, 1) : z;
    };
    const at::Tensor truth = random.normal({4 * free}), taught = linear(truth);
    const LossCase one{.loss = htl::Distillation({.teacher = "t", .form = form, .classes = 3, .temperature = heat}),
                       .output = {},
                       .label = torch::zeros({300}, at::kDouble),
                       .others = TaskOutputs({{"t", taught}})};
    const LossFit found = fit(
        one,
        [&](const at::Tensor& x) {
          return std::vector{linear(x), taught};
        },
        torch::zeros({4 * free}, at::kDouble));
    EXPECT_TRUE(close(found.value, truth, 0, 1e-6)) << one.text();
  }
}

TEST(PairwiseRanking, fitted_alone_recovers_scores_and_their_order_from_who_won) {
  Random random(20);
  const int64_t pairs = 1000;
  const at::Tensor scores = doubles({0, 1.2, -.8, .6, -1.5});
  const at::Tensor left = random.ids({pairs}, 5), right = (left + 1 + random.ids({pairs}, 4)).remainder(5);
  const at::Tensor won = random.uniform({pairs}).lt((scores.index_select(0, left) - scores.index_select(0, right)).sigmoid()).to(at::kDouble);
  const at::Tensor item = torch::cat({left, right}), pair = torch::arange(pairs).repeat({2});
  const LossCase one{
      .loss = htl::PairwiseRanking({.group = "pair"}), .output = {}, .label = torch::cat({won, 1 - won}), .context = Named<at::Tensor>({{"pair", pair}})};
  const auto all = [](const at::Tensor& x) { return torch::cat({torch::zeros({1}, at::kDouble), x}); };
  LossFit found = fit(
      one, [&](const at::Tensor& x) { return std::vector{all(x).index_select(0, item).unsqueeze(1)}; }, torch::zeros({4}, at::kDouble));
  found.error = found.error * std::sqrt(2.);  // a pair's two rows are one draw
  expect_recovers(found, {1.2, -.8, .6, -1.5}, .25, "pairwise_ranking");
  EXPECT_TRUE(at::equal(all(found.value).argsort(), scores.argsort()));
}

TEST(ESCM2, stands_together_on_one_task_of_a_hybrid_loss) {
  Random random(9);
  const int64_t rows = 50;
  const htl::Propensity clicked{.given = "click"};
  const htl::TaskSet tasks = {htl::binary("click"), htl::binary("buy")
                                                        .after("click")
                                                        .loss(htl::EntireSpace({.given = {"click"}, .width = 2}))
                                                        .loss(htl::DoublyRobust({.propensity = clicked}), .01)
                                                        .loss(htl::InversePropensity({.propensity = clicked, .width = 2}), .1)
                                                        .loss(htl::OrderCalibration({.after = {"click"}, .width = 2}), .6)};
  htl::Labels labels;
  const at::Tensor click = random.events({rows}), mask = random.mask({rows}, .8), weight = random.uniform({rows});
  labels.set("click", {click}).set("buy", {click * random.events({rows}), mask, weight});
  labels.tasks.find("buy")->value.masked_fill_(mask.logical_not(), std::numeric_limits<double>::quiet_NaN());
  const at::Tensor a = random.normal({rows, 1}).requires_grad_(), b = random.normal({rows, 2}).requires_grad_();
  const TaskOutputs outputs({{"click", a}, {"buy", b}});
  const at::Tensor value = htl::HybridLoss(tasks)(outputs, labels)["buy"];
  value.backward();
  const at::Tensor got = a.grad().clone(), own = b.grad().clone();
  a.mutable_grad().reset();
  b.mutable_grad().reset();

  const at::Tensor y = labels["buy"].value.nan_to_num(), p = a.squeeze(1).sigmoid(), q = b.select(1, 0).sigmoid(), w = weight * mask;
  const at::Tensor error = -(y * q.log() + (1 - y) * (1 - q).log()), inverse = click * (1 / p.detach()).clamp_max(15), imputed = at::softplus(b.select(1, 1));
  const at::Tensor each = -(y * (p * q).log() + (1 - y) * (1 - p * q).log()) +
                          .01 * (imputed + inverse * (error - imputed) + inverse * (error - imputed).square()) + .1 * inverse * error + .6 * (q - p).relu();
  const at::Tensor expected = (each * w).sum() / w.sum();
  expected.backward();
  EXPECT_TRUE(close(value, expected, 1e-10));
  EXPECT_TRUE(close(got, a.grad(), 1e-9));
  EXPECT_TRUE(close(own, b.grad(), 1e-9));
  EXPECT_EQ(got.masked_select(mask.logical_not().unsqueeze(1)).abs().sum().item<double>(), 0.0);
  EXPECT_TRUE(close(tasks.predict(outputs)["buy"], (p * q)));
}

TEST(PairwiseRanking, is_the_mean_over_pairs_by_brute_force) {
  Random random(10);
  for (int round = 0; round < 40; ++round) {
    const int64_t rows = random.integer(1, 40);
    const bool whole = random.chance(.5);
    const double margin = random.pick<double>({0, .2});
    const at::Tensor x = random.normal({rows, 1}, 2), y = at::round(random.uniform({rows}) * 10) / 10, w = random.uniform({rows}) * random.mask({rows}, .8);
    const at::Tensor user = random.ids({rows}, 5) + (whole ? int64_t{1} << 60 : 0), group = whole ? user : user.to(at::kFloat) / 3;
    const Named<at::Tensor> context(std::vector<std::pair<std::string, at::Tensor>>{{"user", group}});
    double sum = 0, mass = 0;
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < rows; ++j)
        if (user[i].item<int64_t>() == user[j].item<int64_t>() && y[i].item<double>() - y[j].item<double>() > margin) {
          const double both = w[i].item<double>() * w[j].item<double>();
          sum += both * std::log1p(std::exp(x[j].item<double>() - x[i].item<double>()));
          mass += both;
        }
    const at::Tensor share = w / w.sum().clamp_min(1e-30);
    const htl::PairwiseRanking loss({.group = "user", .margin = margin});
    const double expected = mass > 0 ? sum / mass : 0;
    EXPECT_NEAR(loss.reduced({x, y, y, w, context}, share).item<double>(), expected, 1e-12);
    EXPECT_NEAR((loss.per_row({x, y, y, w, context}) * share).sum().item<double>(), expected, 1e-12);
    const at::Tensor order = random.permutation(rows);
    EXPECT_NEAR(loss(x.index_select(0, order), y.index_select(0, order), group.index_select(0, order), w.index_select(0, order))
                    .dot(share.index_select(0, order))
                    .item<double>(),
                expected, 1e-12);
  }
}

TEST(PairwiseRanking, makes_no_pair_of_rows_whose_group_is_nan) {
  Random random(13);
  const htl::PairwiseRanking loss({.group = "user"});
  for (int round = 0; round < 40; ++round) {
    const int64_t rows = random.integer(2, 60);
    const at::Tensor nowhere = random.mask({rows}, .4), group = random.ids({rows}, 4).to(at::kDouble).masked_fill(nowhere, std::nan(""));
    const at::Tensor x = random.normal({rows, 1}), y = random.uniform({rows}), w = random.uniform({rows}) * random.mask({rows}, .8);
    const Named<at::Tensor> context(std::vector<std::pair<std::string, at::Tensor>>{{"user", group}}),
        known(std::vector<std::pair<std::string, at::Tensor>>{{"user", group.nan_to_num()}});
    const at::Tensor here = w.masked_fill(nowhere, 0), share = w / w.sum().clamp_min(1e-30), share_here = here / here.sum().clamp_min(1e-30);
    const at::Tensor a = x.clone().requires_grad_(), b = x.clone().requires_grad_();
    const at::Tensor value = loss.reduced({a, y, y, w, context}, share), expected = loss.reduced({b, y, y, here, known}, share_here);
    value.backward();
    expected.backward();
    EXPECT_TRUE(close(value, expected, 1e-10));
    EXPECT_TRUE(close(a.grad(), b.grad(), 1e-10));
    const at::Tensor each = loss.per_row({x, y, y, w, context});
    EXPECT_NEAR((each * share).sum().item<double>(), expected.item<double>(), 1e-12);
    EXPECT_EQ(each.masked_select(nowhere).abs().sum().item<double>(), 0.0);
  }
}

TEST(PairwiseRanking, of_a_batch_without_pairs_is_zero_with_a_graph) {
  const at::Tensor x = column({1, 2, 3}).requires_grad_(), y = doubles({1, 1, 2}), share = doubles({.5, .5, 0});
  const Named<at::Tensor> context(std::vector<std::pair<std::string, at::Tensor>>{{"user", torch::zeros({3}, at::kLong)}});
  const at::Tensor value = htl::PairwiseRanking({.group = "user"}).reduced({x, y, y, share, context}, share);
  value.backward();
  EXPECT_EQ(value.item<double>(), 0.0);
  EXPECT_EQ(x.grad().abs().max().item<double>(), 0.0);
  EXPECT_TRUE(close(htl::PairwiseRanking({.group = "user"}).per_row({x, y, y, share, context}), torch::zeros({3}, at::kDouble)));
}

TEST(Distillation, is_a_divergence_that_is_zero_at_the_teacher_and_leaves_it_alone) {
  Random random(11);
  for (const auto& [form, width] : {std::pair{htl::DistillationForm::binary, 1}, {htl::DistillationForm::multiclass, 3}, {htl::DistillationForm::squared, 1}}) {
    const at::Tensor student = random.normal({8, width}).requires_grad_(), teacher = random.normal({8, width}).requires_grad_();
    const htl::Distillation loss({.teacher = "t", .form = form, .classes = 3, .temperature = 2});
    EXPECT_GT(loss(student, teacher).min().item<double>(), 0);
    EXPECT_TRUE(close(loss(teacher, teacher), torch::zeros({8}, at::kDouble)));
    const TaskOutputs others({{"t", teacher}});
    const at::Tensor any = torch::zeros({8}, at::kDouble), share = torch::full({8}, .125, at::kDouble);
    loss.reduced({student, any, any, {}, no_context, &others}, share).backward();
    EXPECT_FALSE(teacher.grad().defined());
    EXPECT_GT(student.grad().abs().min().item<double>(), 0);
  }
  // against the definition: τ² Σ q log(q/p)
  const at::Tensor a = random.normal({5, 3}), b = random.normal({5, 3}), p = (a / 2).softmax(1), q = (b / 2).softmax(1);
  const htl::Distillation loss({.teacher = "t", .form = htl::DistillationForm::multiclass, .classes = 3, .temperature = 2});
  EXPECT_TRUE(close(loss(a, b), 4 * (q * (q / p).log()).sum(1), 1e-10));
}

TEST(TaskTerms, come_by_name_with_their_parameters) {
  Random random(12);
  for (const LossCase& one : cases(random, 6, at::kDouble)) {
    LossCase again = one;
    for (const bool text : {false, true}) {
      again.loss = text ? htl::built_in_losses().make(htl::parse_spec(htl::spec_text({one.loss.name(), one.loss.parameters()})))
                        : htl::loss_by_name(one.loss.name(), one.loss.parameters());
      EXPECT_TRUE(htl::test::same_bits(again.rows(), one.rows())) << one.text();
      EXPECT_TRUE(htl::test::same_bits(again.predict(), one.predict())) << one.text();
      EXPECT_EQ(again.loss.reads(), one.loss.reads());
      EXPECT_EQ(again.loss.context(), one.loss.context());
      EXPECT_EQ(again.loss.parameters().names(), one.loss.parameters().names());
    }
  }
}

TEST(TaskTerms, of_all_rows_refuse_tasks_that_are_observed_only_where_an_event_happened) {
  const auto says = [](const AnyLoss& loss) {
    return sentence_of([&] { htl::TaskSet{htl::binary("click"), htl::binary("buy").after("click").observed_when("click").loss(loss)}; });
  };
  const htl::Propensity propensity{.given = "click"};
  for (const AnyLoss& loss : {AnyLoss(htl::EntireSpace({.given = {"click"}})), AnyLoss(htl::InversePropensity({.propensity = propensity})),
                              AnyLoss(htl::DoublyRobust({.propensity = propensity}))})
    EXPECT_TRUE(contains(says(loss), "is of all rows, whether \"click\" happened or not, and the task is observed only when it did; remove observed_when()"))
        << loss.name();
  EXPECT_EQ(says(htl::InversePropensity({.propensity = {.column = "p"}})), "no error") << "every row that counts was seen";
  EXPECT_EQ(says(htl::OrderCalibration({.after = {"click"}})), "no error");
  EXPECT_EQ(sentence_of([] {
              htl::TaskSet{htl::binary("seen"), htl::binary("click"), htl::binary("buy").observed_when("seen").loss(htl::EntireSpace({.given = {"click"}}))};
            }),
            "no error")
      << "another event";
}

TEST(TaskTerms, refuse_propensities_that_are_none) {
  const at::Tensor z = torch::zeros({3, 1}), y = torch::zeros({3}), percent = torch::tensor({.5f, 37.f, 1.f});
  const Named<at::Tensor> context(std::vector<std::pair<std::string, at::Tensor>>{{"p", percent}});
  const AnyLoss loss = htl::InversePropensity({.propensity = {.column = "p"}});
  EXPECT_TRUE(contains(sentence_of([&] {
                         loss.per_row({z, y, y, {}, context});
                       }),
                       "htl::InversePropensity: expected propensities up to 1 in the context column \"p\", got 37; a percentage is divided by 100"));
  EXPECT_EQ(sentence_of([&] { loss.per_row({z, y, y, torch::tensor({1.f, 0.f, 1.f}), context}); }), "no error") << "a row that does not count";
}

TEST(TaskTerms, refuse_what_is_no_good_with_a_sentence) {
  const at::Tensor z = torch::zeros({3, 1}), y = torch::zeros({3});
  const htl::EntireSpace product({.given = {"click"}});
  EXPECT_EQ(sentence_of([] { htl::EntireSpace({}); }), "htl::EntireSpace: expected the name of at least one task as given, got none");
  EXPECT_EQ(sentence_of([] { htl::EntireSpace({.given = {"a", ""}}); }), "htl::EntireSpace: expected names of tasks as given, got an empty one");
  EXPECT_EQ(sentence_of([] { htl::EntireSpace({.given = {"a"}, .width = 0}); }), "htl::EntireSpace: expected a width of at least 1, got 0");
  EXPECT_EQ(sentence_of([&] {
              product.per_row({z, y, y, {}, no_context});
            }),
            "htl::EntireSpace: reads the output of task \"click\", but got no outputs; use it through HybridLoss and TaskSet::predict(outputs)");
  const TaskOutputs others({{"pay", z}, {"click", torch::zeros({2, 1})}});
  EXPECT_TRUE(contains(sentence_of([&] { product.per_row({z, y, y, {}, no_context, &others}); }), "an output of shape [3, any] of task \"click\", got [2, 1]"));
  EXPECT_TRUE(contains(sentence_of([&] {
                         htl::EntireSpace({.given = {"x"}}).per_row({z, y, y, {}, no_context, &others});
                       }),
                       "there is no output of task \"x\"; the model gave \"pay\", \"click\""));
  EXPECT_TRUE(contains(sentence_of([] {
                         htl::TaskSet{htl::binary("buy").loss(htl::EntireSpace({.given = {"clik"}})), htl::binary("click")};
                       }),
                       "reads the task \"clik\", which is not there; did you mean \"click\"?"));
  const auto beside = [](const htl::TaskSpec& task) {
    return sentence_of([&] { htl::TaskSet{htl::binary("click"), htl::multiclass("kind", 3), htl::regression("time"), task}; });
  };
  EXPECT_EQ(beside(htl::binary("buy").loss(htl::EntireSpace({.given = {"click", "time"}}))),
            "htl::TaskSet: the loss \"entire_space\" of task \"buy\" reads the task \"time\", which is regression; expected a binary task");
  EXPECT_EQ(beside(htl::binary("buy").loss(htl::OrderCalibration({.after = {"kind"}}))),
            "htl::TaskSet: the loss \"order_calibration\" of task \"buy\" reads the task \"kind\", which is multiclass; expected a binary task");
  EXPECT_TRUE(contains(beside(htl::binary("buy").loss(htl::InversePropensity({.propensity = {.given = "time"}}))), "expected a binary task"));
  EXPECT_TRUE(contains(beside(htl::binary("buy").loss(htl::DoublyRobust({.propensity = {.given = "kind"}}))), "expected a binary task"));
  EXPECT_TRUE(contains(beside(htl::binary("buy").loss(htl::Distillation({.teacher = "kind"}))), "which is multiclass; expected a binary or regression task"));
  EXPECT_EQ(beside(htl::binary("buy").loss(htl::Distillation({.teacher = "click"}))), "no error");
  EXPECT_EQ(beside(htl::binary("buy").loss(htl::Distillation({.teacher = "buy"}))),
            "htl::TaskSet: the loss \"distillation\" of task \"buy\" reads its own task; name another one");
  EXPECT_EQ(sentence_of([] { htl::InversePropensity({}); }),
            "htl::InversePropensity: expected a task as given, or a context column of propensities, got neither");
  EXPECT_EQ(sentence_of([] { htl::DoublyRobust({.propensity = {.given = "a", .floor = 0}}); }),
            "htl::DoublyRobust: expected a floor of the propensity in (0, 1], got 0");
  EXPECT_EQ(sentence_of([] { htl::DoublyRobust({.propensity = {.given = "a", .clip = .5}}); }),
            "htl::DoublyRobust: expected a finite clip ≥ 1 of the inverse propensity, got 0.5");
  EXPECT_EQ(sentence_of([] { htl::InversePropensity({.propensity = {.given = "a", .clip = std::numeric_limits<double>::infinity()}}); }),
            "htl::InversePropensity: expected a finite clip ≥ 1 of the inverse propensity, got inf");
  EXPECT_TRUE(
      contains(sentence_of([] { htl::built_in_losses().make(htl::parse_spec("doubly_robust:given=a,clip=inf")); }), "expected a finite number, got inf"));
  EXPECT_EQ(sentence_of([] { htl::DoublyRobust({.propensity = {.given = "a"}, .imputation_weight = -1}); }),
            "htl::DoublyRobust: expected a finite imputation_weight ≥ 0, got -1");
  EXPECT_TRUE(contains(sentence_of([&] {
                         htl::InversePropensity({.propensity = {.given = "click"}}).per_row({z, y, y, {}, no_context, &others});
                       }),
                       "reads the label of task \"click\", but got no labels"));
  EXPECT_TRUE(contains(sentence_of([&] {
                         htl::InversePropensity({.propensity = {.column = "p"}}).per_row({z, y, y, {}, no_context});
                       }),
                       "there is no context column \"p\""));
  EXPECT_EQ(sentence_of([] { htl::OrderCalibration({}); }), "htl::OrderCalibration: expected the name of at least one task as after, got none");
  EXPECT_EQ(sentence_of([] { htl::Distillation({}); }), "htl::Distillation: expected the name of a task as teacher, got an empty one");
  EXPECT_TRUE(contains(sentence_of([] { htl::Distillation({.teacher = "a", .temperature = 0}); }), "a finite temperature > 0, got 0"));
  EXPECT_EQ(sentence_of([] { htl::PairwiseRanking({}); }), "htl::PairwiseRanking: expected the name of the group's context column, got an empty one");
  EXPECT_EQ(sentence_of([] { htl::PairwiseRanking({.group = "g", .margin = -1}); }), "htl::PairwiseRanking: expected a finite margin ≥ 0, got -1");
  EXPECT_TRUE(contains(sentence_of([] { htl::multiclass("k", 3).loss(htl::PairwiseRanking({.group = "g"})); }), "is not for a multiclass task"));
  EXPECT_TRUE(contains(sentence_of([] { htl::loss_by_name("order_calibration", {{"widht", 1}}); }), "has no option \"widht\"; did you mean \"width\"?"));
  EXPECT_TRUE(contains(sentence_of([] { htl::loss_by_name("entire_space", {{"width", 1}}); }), "as the option \"given\", got none (given: \"width\")"));
}

}  // namespace
