// SPDX-License-Identifier: Apache-2.0
// Losses of numbers, events and ordered classes that are no likelihoods with parameters: golden numbers, extremes, minimisers, and what every loss must hold.
#include <support/loss_battery.hpp>
#include <support/loss_references.hpp>

#include <htl/io/json.hpp>
#include <htl/task/built_in_calibrators.hpp>
#include <htl/task/built_in_transforms.hpp>
#include <htl/task/spec_text.hpp>

#include <torch/torch.h>

#include <filesystem>
#include <set>

namespace {

using namespace htl::test;
using htl::AnyLoss;
using htl::LossInput;
using htl::Named;
using htl::TaskKind;

const Named<at::Tensor> no_context;

at::Tensor doubles(const std::vector<double>& values) { return torch::tensor(values, at::kDouble); }

LossInput input_of(const at::Tensor& output, const at::Tensor& label) { return {output, label, label, {}, no_context}; }

std::vector<LossCase> cases(Random& random, int64_t rows, at::ScalarType type, double scale) {
  const auto one = [&] { return random.normal({rows, 1}, scale, type); };
  const auto target = [&] { return random.normal({rows}, scale, type); };
  const auto event = [&] { return random.events({rows}, 0.3, type); };
  return {{htl::AbsoluteError{}, one(), target()},
          {htl::LogCosh{}, one(), target()},
          {htl::LogCosh(0.3), one(), target()},
          {htl::SquaredLogError{}, one(), target().abs()},
          {htl::Quantile(0.9), one(), target()},
          {htl::Quantiles({0.5}), one(), target()},
          {htl::Quantiles({0.1, 0.5, 0.7, 0.95}), random.normal({rows, 4}, scale, type), target()},
          {htl::Quantiles({0.1, 0.5, 0.95}, htl::QuantilesPredict::mean), random.normal({rows, 3}, scale, type), target()},
          {htl::BinaryCrossEntropy{.smoothing = 0.1}, one(), event()},
          {htl::BinaryCrossEntropy{.smoothing = 0.1}, one(), random.uniform({rows}, 0, 1, type)},
          {htl::SoftmaxCrossEntropy(4, 0.2), random.normal({rows, 4}, scale, type), random.ids({rows}, 4)},
          {htl::Focal{}, one(), event()},
          {htl::Focal(0.7, 0.25), one(), random.uniform({rows}, 0, 1, type)},
          {htl::Focal(0.0), one(), event()},
          {htl::Focal(1.0, 0.6), one(), event()},
          {htl::Coral(2), one(), random.ids({rows}, 2)},
          {htl::Coral(5), random.normal({rows, 4}, scale, type), random.ids({rows}, 5)},
          {htl::Coral(4, true), random.normal({rows, 3}, scale, type), random.ids({rows}, 4)},
          {htl::Coral(5, true, htl::CoralPredict::rank), random.normal({rows, 4}, scale, type), random.ids({rows}, 5).to(type)},
          {htl::Coral(3, false, htl::CoralPredict::rank), random.normal({rows, 2}, scale, type), random.ids({rows}, 3).to(type)}};
}

TEST(NumberLosses, hold_what_every_loss_must_hold) { loss_battery(cases, 101, {1e-3, 1, 30}); }

TEST(NumberLosses, say_which_tasks_can_have_them_and_in_which_unit) {
  const auto kinds = [](const AnyLoss& loss) {
    std::string text;
    for (const TaskKind kind : {TaskKind::binary, TaskKind::multiclass, TaskKind::regression}) text += loss.fits(kind) ? to_string(kind) + " " : "";
    return text + (loss.in_label_unit() ? "own unit" : "target");
  };
  for (const AnyLoss& loss : {AnyLoss(htl::AbsoluteError{}), AnyLoss(htl::LogCosh{}), AnyLoss(htl::Quantile{}), AnyLoss(htl::Quantiles({.5}))})
    EXPECT_EQ(kinds(loss), "regression target") << loss.name();
  EXPECT_EQ(kinds(htl::SquaredLogError{}), "regression own unit");
  EXPECT_EQ(kinds(htl::Focal{}), "binary regression target");
  EXPECT_EQ(kinds(htl::BinaryCrossEntropy{.smoothing = .1}), "binary regression target");
  EXPECT_EQ(kinds(htl::SoftmaxCrossEntropy(3, .1)), "multiclass target");
  EXPECT_EQ(kinds(htl::Coral(3)), "multiclass own unit");
  EXPECT_EQ(kinds(htl::Coral(3, false, htl::CoralPredict::rank)), "regression own unit");
}

TEST(NumberLosses, give_rows_in_the_type_of_their_outputs_whatever_that_of_the_labels) {
  Random random(112);
  std::vector<LossCase> all = cases(random, 5, at::kFloat, 1);
  all.push_back({htl::SquaredError{}, random.normal({5, 1}, 1, at::kFloat), random.normal({5}, 1, at::kFloat)});
  all.push_back({htl::Huber{}, random.normal({5, 1}, 1, at::kFloat), random.normal({5}, 1, at::kFloat)});
  for (const LossCase& one : all) {
    if (!one.label.is_floating_point()) continue;
    EXPECT_TRUE(same_bits(one.loss.per_row(input_of(one.output, one.label.to(at::kDouble))), one.rows())) << one.text();
    EXPECT_EQ(one.rows().scalar_type(), at::kFloat) << one.text();
  }
}

TEST(NumberLosses, match_golden_numbers_of_the_literature) {
  const at::Tensor y = doubles({1, 1.2, 0, 2}), x = doubles({.6, .7, .3, .8});
  EXPECT_NEAR(htl::AbsoluteError{}(x, y).mean().item<double>(), .6, 1e-12);
  EXPECT_NEAR(htl::SquaredLogError{}(x, y).mean().item<double>(), .111512, 5e-7);
  for (const auto& [q, mean] : {std::pair{.25, .1875}, {.5, .3}, {.75, .4125}}) {
    EXPECT_NEAR(htl::Quantile(q)(x, y).mean().item<double>(), mean, 1e-12);
    EXPECT_NEAR(htl::Quantiles({q})(x.unsqueeze(1), y).mean().item<double>(), mean, 1e-12);
  }
  EXPECT_NEAR(htl::Quantiles({.25, .5, .75})(x.unsqueeze(1).expand({4, 3}), y).mean().item<double>(), .3, 1e-12);
  const at::Tensor z = (.4 + doubles({1, 0, -1})).view({1, 3});
  EXPECT_TRUE(close(z.sigmoid(), doubles({.802184, .598688, .354344}).view({1, 3}), 0, 5e-7));
  EXPECT_NEAR(htl::Coral(4)(z, torch::tensor({2}, at::kLong)).item<double>(), 1.170921, 5e-7);
  EXPECT_NEAR(htl::Coral(4).rank(z).item<double>(), .802184 + .598688 + .354344, 2e-6);
}

/// What scripts/golden_losses.py wrote.
nlohmann::json golden_numbers(const char* part) {
  return htl::read_json(std::filesystem::path(__FILE__).parent_path().parent_path() / "golden" / "losses" / "losses.json").at(part);
}

at::Tensor numbers_of(const nlohmann::json& list) { return doubles(list.get<std::vector<double>>()); }

/// [B, W]
at::Tensor rows_of(const nlohmann::json& list) {
  std::vector<at::Tensor> rows;
  for (const nlohmann::json& row : list) rows.push_back(numbers_of(row));
  return at::stack(rows);
}

/// Calls with the names and values of an object, if it is there.
template <class Call>
void of_each(const nlohmann::json& golden, const char* key, const Call& call) {
  if (!golden.contains(key)) return;
  for (const auto& [name, value] : golden.at(key).items()) call(name, value);
}

/// All losses, by their names in the registry.
TEST(Losses, equal_numbers_that_scipy_gives_for_their_definitions) {
  std::set<std::string> seen;
  for (const nlohmann::json& golden : golden_numbers("cases")) {
    const htl::Spec spec = htl::parse_spec(golden.at("loss").get<std::string>());
    LossCase one{.loss = htl::built_in_losses().make(spec),
                 .output = rows_of(golden.at("outputs")),
                 .label = numbers_of(golden.at("labels")),
                 .note = golden.at("loss")};
    if (!one.loss.fits(TaskKind::regression) && one.loss.fits(TaskKind::multiclass)) one.label = one.label.to(at::kLong);
    of_each(golden, "others", [&](const std::string& name, const nlohmann::json& output) { one.others.set(name, rows_of(output)); });
    of_each(golden, "events", [&](const std::string& name, const nlohmann::json& event) { one.labels.set(name, {numbers_of(event)}); });
    of_each(golden, "context", [&](const std::string& name, const nlohmann::json& values) { one.context.set(name, numbers_of(values)); });
    const double tolerance = golden.at("tolerance").get<double>();
    const at::Tensor rows = numbers_of(golden.at("rows")), share = at::full({rows.size(0)}, 1.0 / static_cast<double>(rows.size(0)), at::kDouble);
    EXPECT_TRUE(close(one.rows(), rows, tolerance, tolerance)) << one.text();
    EXPECT_TRUE(close(one.reduced(share), rows.mean(), tolerance, tolerance)) << one.text();
    if (golden.contains("predictions")) {
      EXPECT_TRUE(close(one.predict().flatten(), numbers_of(golden.at("predictions")), tolerance, tolerance)) << one.text();
    }
    seen.insert(spec.name);
  }
  for (const std::string& name : htl::built_in_losses().names()) EXPECT_TRUE(seen.contains(name)) << name;
}

TEST(LabelTransforms, equal_numbers_that_scipy_gives_for_their_definitions) {
  int64_t fitted = 0, given = 0;
  for (const nlohmann::json& golden : golden_numbers("transforms")) {
    const at::Tensor labels = numbers_of(golden.at("labels"));
    const htl::AnyLabelTransform transform = htl::built_in_transforms().make(htl::parse_spec(golden.at("transform").get<std::string>())).fitted({labels});
    const double tolerance = golden.at("tolerance").get<double>();
    if (golden.contains("lambda")) {
      ++fitted;
      EXPECT_NEAR(transform.statistics()["lambda"].number(), golden.at("lambda").get<double>(), tolerance) << golden.at("transform");
    } else {
      ++given;
      EXPECT_TRUE(close(transform.apply(labels), numbers_of(golden.at("targets")), tolerance, tolerance)) << golden.at("transform");
      EXPECT_TRUE(close(transform.inverse(numbers_of(golden.at("given"))), numbers_of(golden.at("back")), tolerance, tolerance)) << golden.at("transform");
    }
  }
  EXPECT_TRUE(fitted >= 3 && given >= 4) << fitted << " " << given;
}

TEST(Calibrators, equal_numbers_that_scipy_gives_for_their_definitions) {
  std::set<std::string> seen;
  for (const nlohmann::json& golden : golden_numbers("calibrators")) {
    const htl::Spec spec = htl::parse_spec(golden.at("calibrator").get<std::string>());
    const htl::AnyCalibrator calibrator = htl::built_in_calibrators().make(spec).fitted(
        numbers_of(golden.at("predictions")), {numbers_of(golden.at("labels")), {}, numbers_of(golden.at("weights"))});
    const double tolerance = golden.at("tolerance").get<double>();
    of_each(golden, "statistics", [&](const std::string& name, const nlohmann::json& number) {
      EXPECT_NEAR(calibrator.statistics()[name].number(), number.get<double>(), tolerance) << golden.at("calibrator") << " " << name;
    });
    EXPECT_TRUE(close(calibrator.apply(numbers_of(golden.at("given"))), numbers_of(golden.at("calibrated")), tolerance, tolerance)) << golden.at("calibrator");
    seen.insert(spec.name);
  }
  EXPECT_EQ(seen, (std::set<std::string>{"platt", "isotonic"}));
}

TEST(NumberLosses, stay_exact_at_extreme_outputs_and_labels) {
  struct Extreme {
    AnyLoss loss;
    std::vector<double> outputs, labels;
    std::function<Long(Long, Long)> value, slope;
  };
  const auto up = [](Long z) { return 1 / (1 + std::exp(-z)); };
  const auto over = [](Long z) { return std::max<Long>(z, 0) + std::log1p(std::exp(-std::abs(z))); };
  const auto log_cosh = [](Long e) {
    return std::abs(e) < 1e-4L ? e * e / 2 - e * e * e * e / 12 : std::abs(e) + std::log1p(std::exp(-2 * std::abs(e))) - std::log(2.0L);
  };
  const auto f = [](Long x) { return x < 0 ? x : std::log1p(x); };
  const std::vector<double> numbers{-1e12, -80, -1, -1e-12, 0, 1e-12, .01, .12, .13, 1, 80, 1e12}, positive{0, 1e-15, 1e-6, .3, 1, 80, 1e12};
  const std::vector<double> logits{-1e4, -80, -3, 0, 1e-10, 3, 80, 1e4};
  const std::vector<Extreme> all = {
      {htl::AbsoluteError{},
       numbers,
       {0, 1e-12, 1, 1e12},
       [](Long x, Long y) { return std::abs(x - y); },
       [](Long x, Long y) { return Long((x > y) - (x < y)); }},
      {htl::LogCosh{}, numbers, {0, 1e-12, 1, 1e12}, [&](Long x, Long y) { return log_cosh(x - y); }, [](Long x, Long y) { return std::tanh(x - y); }},
      {htl::Quantile(.75),
       numbers,
       {0, 1e-12, 1, 1e12},
       [](Long x, Long y) { return std::max(.75L * (y - x), .25L * (x - y)); },
       [](Long x, Long y) { return y > x   ? -.75L
                                   : y < x ? .25L
                                           : 0.0L; }},
      {htl::SquaredLogError{}, numbers, positive, [&](Long x, Long y) { return std::pow(f(x) - std::log1p(y), 2); },
       [&](Long x, Long y) { return 2 * (f(x) - std::log1p(y)) / (1 + std::max<Long>(x, 0)); }},
      {htl::BinaryCrossEntropy{.smoothing = .5},
       logits,
       {0, 1},
       [&](Long z, Long y) { return (.25L + .5L * y) * over(-z) + (.75L - .5L * y) * over(z); },
       [&](Long z, Long y) { return (.75L - .5L * y) * up(z) - (.25L + .5L * y) * up(-z); }},
      {htl::Focal(2, .25),
       logits,
       {0, 1},
       [&](Long z, Long y) { return y == 1 ? .25L * up(-z) * up(-z) * over(-z) : .75L * up(z) * up(z) * over(z); },
       [&](Long z, Long y) {
         return y == 1 ? -.25L * up(-z) * up(-z) * (2 * up(z) * over(-z) + up(-z)) : .75L * up(z) * up(z) * (2 * up(-z) * over(z) + up(z));
       }},
      {htl::Focal(1.5),
       logits,
       {0, 1},
       [&](Long z, Long y) { return y == 1 ? std::pow(up(-z), 1.5L) * over(-z) : std::pow(up(z), 1.5L) * over(z); },
       [&](Long z, Long y) {
         return y == 1 ? -std::pow(up(-z), 1.5L) * (1.5L * up(z) * over(-z) + up(-z)) : std::pow(up(z), 1.5L) * (1.5L * up(-z) * over(z) + up(z));
       }},
  };
  for (const Extreme& one : all) {
    for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
      for (const double raw_x : one.outputs) {
        for (const double raw_y : one.labels) {
          const at::Tensor output = at::full({1, 1}, raw_x, type), label = at::full({1}, raw_y, type);
          const Long x = output.item<double>(), y = label.item<double>(), value = one.value(x, y), slope = one.slope(x, y);
          if (std::abs(value) > 1e38L) continue;  // beyond a float
          for (const bool reduced : {true, false}) {
            const at::Tensor leaf = output.clone().requires_grad_();
            const at::Tensor result = reduced ? one.loss.reduced(input_of(leaf, label), at::ones({1}, type)) : one.loss.per_row(input_of(leaf, label)).sum();
            result.backward();
            // a float's difference of nearly equal logarithms has their rounding
            const bool logs = one.loss.name() == "squared_log" && !reduced;
            const double unit = type == at::kFloat ? 1e-6 : 1e-12, floor = type == at::kFloat ? 1e-37 : 1e-300;
            const double moved = logs ? unit * 60 : 0.0;
            const std::string where = one.loss.name() + (reduced ? " reduced at " : " per row at ") + std::to_string(raw_x) + ", " + std::to_string(raw_y);
            EXPECT_NEAR(result.item<double>(), static_cast<double>(value), 8 * unit * static_cast<double>(std::abs(value)) + moved + floor) << where;
            EXPECT_NEAR(leaf.grad().item<double>(), static_cast<double>(slope), 8 * unit * static_cast<double>(std::abs(slope)) + moved + floor) << where;
          }
        }
      }
    }
  }
}

TEST(NumberLosses, of_several_outputs_match_long_doubles_over_the_grid_of_extremes) {
  Random random(113);
  using Row = const std::vector<Dual>&;
  const std::vector<double> far{-80, -3, -1e-30, 0, 1e-30, .7, 20, 80};
  for (const bool ordered : {false, true})
    for (const int64_t classes : {2, 5})
      expect_long_doubles({{htl::Coral(classes, ordered), at::zeros({1, classes - 1}, at::kDouble), at::zeros({1}, at::kLong)},
                           classes == 2 ? std::vector<double>{0, 1} : std::vector<double>{0, 2, 4},
                           [=](Row x, Long y) {
                             Dual sum = 0, z = 0;
                             for (size_t k = 0; k < x.size(); ++k) {
                               z = ordered && k > 0 ? z - softplus(x[k]) : x[k];
                               sum = sum + log_loss(z, y > static_cast<Long>(k) ? 1 : 0);
                             }
                             return sum;
                           },
                           at::ones({1}, at::kDouble),
                           [=](Row, Long) { return ordered ? 1.0L : 0.0L; }},
                          random, far, 100);
  const std::vector<double> levels{.1, .5, .75};
  expect_long_doubles({{htl::Quantiles(levels), at::zeros({1, 3}, at::kDouble), doubles({0})},
                       {-80, 0, 1e-30, 1, 80, 1e12},
                       [=](Row x, Long y) {
                         Dual sum = 0;
                         for (size_t i = 0; i < 3; ++i) sum = sum + (levels[i] * relu(y - x[i]) + (1 - levels[i]) * relu(x[i] - y)) / 3;
                         return sum;
                       }},
                      random, far, 60);
}

/// The output at which the slope of a loss that is convex in one output changes its sign, by halving.
double minimiser(const AnyLoss& loss, const at::Tensor& labels, double low, double high) {
  const at::Tensor share = at::full({labels.size(0)}, 1.0 / static_cast<double>(labels.size(0)), at::kDouble);
  for (int i = 0; i < 60; ++i) {
    const double middle = .5 * (low + high);
    const at::Tensor x = at::full({labels.size(0), 1}, middle, at::kDouble).requires_grad_();
    loss.reduced(input_of(x, labels), share).backward();
    (x.grad().sum().item<double>() > 0 ? high : low) = middle;
  }
  return .5 * (low + high);
}

TEST(NumberLosses, have_the_minimisers_that_they_promise) {
  Random random(107);
  const at::Tensor y = random.normal({4001}).exp();  // skewed, so that mean, median and geometric mean differ
  const auto quantile = [&](double q) { return y.quantile(q).item<double>(); };
  EXPECT_NEAR(minimiser(htl::AbsoluteError{}, y, 0, 50), quantile(.5), 1e-9);
  for (const double q : {.1, .5, .9}) EXPECT_NEAR(minimiser(htl::Quantile(q), y, 0, 50), quantile(q), .02 * quantile(q));
  EXPECT_NEAR(minimiser(htl::LogCosh(100), y, 0, 50), y.mean().item<double>(), 1e-2);
  EXPECT_NEAR(minimiser(htl::LogCosh(1e-3), y, 0, 50), quantile(.5), 1e-2);
  EXPECT_NEAR(minimiser(htl::SquaredLogError{}, y, 0, 3), std::expm1(y.log1p().mean().item<double>()), 1e-9);
  const at::Tensor event = random.events({4001}, .2);
  const double p = event.mean().item<double>();
  EXPECT_NEAR(minimiser(htl::BinaryCrossEntropy{.smoothing = .1}, event, -9, 9), std::log((.9 * p + .05) / (.95 - .9 * p)), 1e-9);
  EXPECT_NEAR(minimiser(htl::Focal(0, .5), event, -9, 9), std::log(p / (1 - p)), 1e-9);
  EXPECT_NEAR(minimiser(htl::Focal(0, .7), event, -9, 9), std::log(.7 * p / (.3 * (1 - p))), 1e-9);
  EXPECT_GT(minimiser(htl::Focal(2), event, -9, 9), std::log(p / (1 - p)) + .1);  // drawn towards ½
}

TEST(Coral, fitted_alone_recovers_the_classes_frequencies) {
  Random random(108);
  const at::Tensor y = (random.uniform({3000}) * random.uniform({3000}) * 4).floor().to(at::kLong);
  const at::Tensor share = at::full({3000}, 1.0 / 3000, at::kDouble);
  for (const bool ordered : {false, true}) {
    const htl::Coral loss(4, ordered);
    at::Tensor x = at::zeros({1, 3}, at::kDouble).requires_grad_();
    for (int step = 0; step < 800; ++step) {
      const at::Tensor g = torch::autograd::grad({loss.reduced(input_of(x.expand({3000, 3}), y), share)}, {x})[0];
      x = (x - 4 * g).detach().requires_grad_();
    }
    const at::Tensor frequencies = at::bincount(y, {}, 4).to(at::kDouble) / 3000;
    EXPECT_TRUE(close(loss.probabilities(x).squeeze(0), frequencies, 0, 1e-5)) << ordered;
    EXPECT_NEAR(loss.rank(x).item<double>(), y.to(at::kDouble).mean().item<double>(), 1e-5);
  }
}

TEST(Coral, makes_decreasing_logits_and_probabilities_that_sum_to_one) {
  Random random(109);
  const at::Tensor output = random.normal({200, 4}, 3);
  const at::Tensor z = htl::Coral(5, true).logits(output);
  EXPECT_TRUE((z.narrow(1, 1, 3) < z.narrow(1, 0, 3)).all().item<bool>());
  for (int64_t k = 1; k < 4; ++k) EXPECT_TRUE(close(z.select(1, k - 1) - z.select(1, k), output.select(1, k).exp().log1p()));
  for (const bool ordered : {false, true}) {
    const at::Tensor p = htl::Coral(5, ordered).probabilities(output);
    EXPECT_TRUE(close(p.sum(1), at::ones({200}, at::kDouble)));
    EXPECT_GE(p.min().item<double>(), 0.0);
  }
  EXPECT_TRUE(std::isnan(htl::Coral(3)(output.narrow(1, 0, 2), at::full({200}, 3, at::kLong))[0].item<double>()));
}

TEST(Quantiles, are_sorted_and_predict_the_middle_or_the_mean) {
  const at::Tensor x = doubles({3, 1, 2, 9, 5, 7}).view({2, 3});
  const htl::Quantiles middle({.1, .5, .9}), mean({.1, .5, .9}, htl::QuantilesPredict::mean), even({.2, .4, .6});
  EXPECT_TRUE(close(middle.quantiles(x), doubles({1, 2, 3, 5, 7, 9}).view({2, 3})));
  EXPECT_TRUE(close(middle.predict(x, no_context), doubles({2, 7})));
  EXPECT_TRUE(close(mean.predict(x, no_context), doubles({.3 * 1 + .4 * 2 + .3 * 3, .3 * 5 + .4 * 7 + .3 * 9})));
  EXPECT_TRUE(close(htl::Quantiles({.4, .6}).predict(x.narrow(1, 0, 2), no_context), doubles({2, 7})));
  const at::Tensor y = doubles({1.5, 6});
  EXPECT_LE(middle(middle.quantiles(x), y).sum().item<double>(), middle(x, y).sum().item<double>());
}

TEST(Focal, without_focus_is_the_log_loss_and_turns_easy_rows_down) {
  Random random(110);
  const at::Tensor z = random.normal({50}, 3), y = random.uniform({50});
  EXPECT_TRUE(close(htl::Focal(0)(z, y), htl::BinaryCrossEntropy{}(z, y)));
  const at::Tensor one = at::ones({2}, at::kDouble), easy_hard = doubles({4, -4});
  const at::Tensor ratio = htl::Focal(2)(easy_hard, one) / htl::BinaryCrossEntropy{}(easy_hard, one);
  EXPECT_TRUE(close(ratio, (-easy_hard).sigmoid().square()));
}

TEST(NumberLosses, curve_upwards_where_they_are_convex) {
  Random random(111);
  const at::Tensor y = random.uniform({200}), classes = random.ids({200}, 5), blank = at::zeros({200, 1}, at::kDouble), four = at::zeros({200, 4}, at::kDouble);
  for (const AnyLoss& loss : {AnyLoss(htl::AbsoluteError{}), AnyLoss(htl::LogCosh(.4)), AnyLoss(htl::Quantile(.8)),
                              AnyLoss(htl::BinaryCrossEntropy{.smoothing = .2}), AnyLoss(htl::Focal(0, .3))})
    expect_convex({loss, blank, y}, random);
  expect_convex({htl::Coral(2, false, htl::CoralPredict::rank), blank, classes.clamp_max(1)}, random);
  expect_convex({htl::Coral(5), four, classes}, random);
  expect_convex({htl::Coral(5, true), four, at::full_like(classes, 4)}, random);  // the highest class: softplus of sums of softplus
  expect_convex({htl::Quantiles({.1, .3, .5, .9}), four, y}, random);
  expect_convex({htl::SoftmaxCrossEntropy(4, .2), four, classes.clamp_max(3)}, random);
  expect_not_convex({htl::Coral(5, true), four, classes}, random);
  expect_not_convex({htl::Focal{}, blank, random.events({200})}, random);
  expect_not_convex({htl::Focal(.7, .25), blank, random.events({200})}, random);
  expect_not_convex({htl::SquaredLogError{}, blank, y}, random);
  // upwards up to e(1 + y) − 1, downwards above
  const at::Tensor end = std::exp(1.) * (1 + y) - 1, h = at::full({200}, 1e-3, at::kDouble);
  for (const double side : {-1., 1.}) {
    const at::Tensor x = end * (1 + side * .01);
    const auto at_x = [&](const at::Tensor& moved) { return htl::SquaredLogError{}(moved, y); };
    EXPECT_LT(((at_x(x + h) - 2 * at_x(x) + at_x(x - h)) * side).max().item<double>(), -1e-10) << side;
  }
}

TEST(NumberLosses, refuse_wrong_options_labels_and_shapes_with_a_sentence) {
  const at::Tensor x = torch::zeros({3, 2}), y = torch::zeros({3});
  EXPECT_EQ(sentence_of([] { htl::LogCosh(0); }), "htl::LogCosh: expected a finite scale > 0, got 0");
  EXPECT_EQ(sentence_of([] { htl::Quantile(1); }), "htl::Quantile: expected q in (0, 1), got 1");
  EXPECT_EQ(sentence_of([] { htl::Quantiles({}); }), "htl::Quantiles: expected at least one level, got none");
  EXPECT_EQ(sentence_of([] { htl::Quantiles({.5, .2}); }), "htl::Quantiles: expected ascending levels, got 0.2 after 0.5");
  EXPECT_EQ(sentence_of([] { htl::Quantiles({.5, 1.2}); }), "htl::Quantiles: expected levels in (0, 1), got 1.2");
  EXPECT_EQ(sentence_of([] { htl::Focal(-1); }), "htl::Focal: expected a finite gamma ≥ 0, got -1");
  EXPECT_EQ(sentence_of([] { htl::Focal(2, 1.0); }), "htl::Focal: expected alpha in (0, 1), got 1");
  EXPECT_EQ(sentence_of([] { htl::Coral(1); }), "htl::Coral: expected at least 2 classes, got 1");
  EXPECT_EQ(sentence_of([] { htl::SoftmaxCrossEntropy(3, 1.0); }), "htl::SoftmaxCrossEntropy: expected a smoothing in [0, 1), got 1");
  EXPECT_EQ(sentence_of([&] { htl::BinaryCrossEntropy{.smoothing = -.1}(y, y); }), "htl::BinaryCrossEntropy: expected a smoothing in [0, 1), got -0.1");
  EXPECT_EQ(sentence_of([&] { htl::BinaryCrossEntropy{.smoothing = 1}.reduced(input_of(y.unsqueeze(1), y), y); }),
            "htl::BinaryCrossEntropy: expected a smoothing in [0, 1), got 1");
  EXPECT_EQ(sentence_of([&] { htl::Quantiles({.1, .5, .9})(x, y); }), "htl::Quantiles: expected outputs of shape [any, 3], got [3, 2]");
  EXPECT_EQ(sentence_of([&] { htl::Coral(4)(x, y); }), "htl::Coral: expected outputs of shape [any, 3], got [3, 2]");
  EXPECT_EQ(sentence_of([&] { htl::AbsoluteError{}(x, y); }), "htl::AbsoluteError: expected an output of shape [B] or [B, 1], got [3, 2]");
  EXPECT_TRUE(contains(htl::test::refusal_of(htl::SquaredLogError{}, -.5), "loss \"squared_log\" of task \"t\" expects labels in [0, inf], got -0.5 in row 0"));
  EXPECT_TRUE(contains(htl::test::refusal_of(htl::Focal{}, 1.5), "loss \"focal\" of task \"t\" expects labels in [0, 1], got 1.5 in row 0"));
  EXPECT_TRUE(contains(htl::test::refusal_of(htl::Coral(3, false, htl::CoralPredict::rank), 3),
                       "loss \"coral\" of task \"t\" expects labels in [0, 2], got 3 in row 0"));
  EXPECT_TRUE(
      contains(sentence_of([] { htl::TaskSet{htl::regression("t").loss(htl::SquaredLogError{}).transform(htl::log1p())}; }), "\"squared_log\" of task \"t\""));
  EXPECT_TRUE(contains(sentence_of([] { htl::binary("t").loss(htl::Quantile{}); }), "the loss \"quantile\" is not for a binary task"));
}

}  // namespace
