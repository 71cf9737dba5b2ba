// SPDX-License-Identifier: Apache-2.0
// Losses that read other tasks, and the one that reads pairs of rows.
#include <htl/loss/built_in_losses.hpp>
#include <htl/loss/hybrid_loss.hpp>

#include <torch/torch.h>

#include "support/loss_cases.hpp"

namespace {

using htl::AnyLoss;
using htl::LossInput;
using htl::Named;
using htl::TaskOutputs;
using htl::test::close;
using htl::test::contains;
using htl::test::LossCase;
using htl::test::Random;
using htl::test::sentence_of;

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
