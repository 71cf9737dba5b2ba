// SPDX-License-Identifier: Apache-2.0
// Calibrators: each against its definition, as a part of the tasks, and what it refuses.
#include <htl/metrics/calibration.hpp>
#include <htl/task/built_in_calibrators.hpp>
#include <htl/task/task_set.hpp>

#include <torch/torch.h>

#include "support/seeded.hpp"

#include <cmath>

namespace {

using htl::AnyCalibrator;
using htl::test::close;
using htl::test::Random;
using htl::test::same_bits;
using htl::test::sentence_of;

at::Tensor doubles(const std::vector<double>& values) { return torch::tensor(values, at::kDouble); }

TEST(PriorCorrection, gives_the_probability_among_all_rows_from_a_model_of_some_of_the_non_events) {
  // among 1000 rows 50 events; every tenth non-event kept: the model sees 50 of 145
  EXPECT_TRUE(close(htl::PriorCorrection(.1).apply(doubles({50.0 / 145, 0, 1, .5})), doubles({.05, 0, 1, 1.0 / 11})));
  EXPECT_TRUE(close(htl::PriorCorrection(1).apply(doubles({.3})), doubles({.3})));
  const at::Tensor tiny = torch::tensor({1e-30f, 1.f});
  EXPECT_TRUE(close(htl::PriorCorrection(.01).apply(tiny), torch::tensor({1e-32f, 1.f}), 1e-6, 0));
  EXPECT_EQ(sentence_of([] { htl::PriorCorrection(0); }), "htl::PriorCorrection: expected the share of non-events that was kept, in (0, 1], got 0");
}

TEST(ScaleCalibration, makes_the_totals_equal_by_weights) {
  Random random(1);
  for (int round = 0; round < 50; ++round) {
    const int64_t rows = random.integer(1, 200);
    const at::Tensor prediction = random.uniform({rows}, .1, 9), label = random.uniform({rows}, 0, 5), weight = random.uniform({rows}, .1, 2);
    const htl::ScaleCalibration fitted = htl::ScaleCalibration{}.fitted(prediction, label, weight);
    EXPECT_NEAR(fitted.apply(prediction).mul(weight).sum().item<double>(), label.mul(weight).sum().item<double>(), 1e-9);
  }
  EXPECT_EQ(sentence_of([] { htl::ScaleCalibration{}.fitted(doubles({1}), doubles({0}), doubles({1})); }),
            "htl::ScaleCalibration: expected sums of predictions and labels > 0, got 1 and 0; use IsotonicCalibration");
}

TEST(PlattScaling, undoes_a_known_distortion_and_has_no_slope_left) {
  Random random(2);
  const at::Tensor z = random.normal({200000}, 1.5), truth = z.sigmoid(), label = random.uniform({200000}).lt(truth).to(at::kDouble);
  const at::Tensor distorted = (1.7 * z - .6).sigmoid(), ones = torch::ones({200000}, at::kDouble);
  const htl::PlattScaling fitted = htl::PlattScaling{}.fitted(distorted, label, ones);
  EXPECT_NEAR(fitted.a, 1 / 1.7, .02);
  EXPECT_NEAR(fitted.b, .6 / 1.7, .03);
  // stationary in both: Σ (p − t) = 0 and Σ (p − t) z = 0 for the smoothed labels t
  const double events = label.sum().item<double>(), others = 200000 - events;
  const at::Tensor t = label * ((events + 1) / (events + 2) - 1 / (others + 2)) + 1 / (others + 2), error = fitted.apply(distorted) - t;
  EXPECT_NEAR(error.sum().item<double>(), 0, 1e-4);
  EXPECT_NEAR((error * torch::logit(distorted)).sum().item<double>(), 0, 1e-4);
  const htl::PlattScaling level = htl::PlattScaling{.slope = false}.fitted(distorted, label, ones);
  EXPECT_EQ(level.a, 1.0);
  EXPECT_NEAR((level.apply(distorted) - t).sum().item<double>(), 0, 1e-4);
}

/// The conditions of the maximum for a ≥ 0, over models that are good, useless, inverted, far out or equal everywhere.
TEST(PlattScaling, is_the_maximum_of_likelihood_for_models_of_every_kind) {
  Random random(6);
  int inverted = 0;
  for (int round = 0; round < 400; ++round) {
    const int64_t rows = random.integer(2, 300);
    const double turn = random.pick<double>({1, 1, 0, -1, -3, 12}), shift = random.pick<double>({0, 0, -5, 20, -30}),
                 spread = random.pick<double>({0, .1, 2, 15});
    const at::Tensor truth = random.normal({rows}, random.pick<double>({0, 1, 5})), label = random.uniform({rows}).lt(truth.sigmoid()).to(at::kDouble);
    const at::Tensor p = (turn * truth + shift + random.normal({rows}, spread)).sigmoid(), w = random.uniform({rows}, .1, 3);
    const double events = (label * w).sum().item<double>(), others = w.sum().item<double>() - events;
    const at::Tensor t = label * ((events + 1) / (events + 2) - 1 / (others + 2)) + 1 / (others + 2), z = torch::logit(p, 1e-15);
    for (const bool slope : {true, false}) {
      const htl::PlattScaling fitted = htl::PlattScaling{.slope = slope}.fitted(p, label, w);
      const at::Tensor error = (fitted.apply(p) - t) * w;
      const std::string where = c10::str(round, ": turn ", turn, ", shift ", shift, ", spread ", spread, ", a ", fitted.a, ", b ", fitted.b);
      EXPECT_NEAR(error.sum().item<double>(), 0.0, 1e-7 * w.sum().item<double>()) << where;
      if (!slope) {
        EXPECT_EQ(fitted.a, 1.0);
        continue;
      }
      const at::Tensor centred = z - (z * w).sum() / w.sum();
      const double pull = (error * centred).sum().item<double>(), size = (w * centred.abs()).sum().item<double>() + 1e-9;
      EXPECT_GE(fitted.a, 0.0) << where;
      if (fitted.a > 0.0) {
        EXPECT_NEAR(pull, 0.0, 1e-6 * size) << where;
      } else {
        EXPECT_GE(pull, -1e-9 * size) << where;
        EXPECT_TRUE(close(fitted.apply(p), ((t * w).sum() / w.sum()).expand({rows}), 1e-12)) << where << ": everybody gets the mean";
        ++inverted;
      }
    }
  }
  EXPECT_GT(inverted, 50);
  const at::Tensor same = torch::full({4}, 1e-13, at::kDouble), label = doubles({0, 1, 1, 1}), ones = torch::ones({4}, at::kDouble);
  const htl::PlattScaling level = htl::PlattScaling{}.fitted(same, label, ones);
  EXPECT_EQ(level.a, 0.0);
  EXPECT_TRUE(close(level.apply(same), torch::full({4}, (3 * .8 + 1. / 3) / 4, at::kDouble)));
}

TEST(PlattScaling, stays_finite_where_the_classes_can_be_told_apart_and_never_turns_round) {
  const at::Tensor p = doubles({0, 1e-30, .2, .8, 1, 1}), label = doubles({0, 0, 0, 1, 1, 1}), ones = torch::ones({6}, at::kDouble);
  const htl::PlattScaling apart = htl::PlattScaling{}.fitted(p, label, ones);
  EXPECT_TRUE(std::isfinite(apart.a) && apart.a > 0 && std::isfinite(apart.b));
  EXPECT_TRUE(apart.apply(p).isfinite().all().item<bool>());
  EXPECT_EQ(htl::PlattScaling{}.fitted(p, 1 - label, ones).a, 0.0);
  for (const at::Tensor& one_class : {torch::zeros({6}, at::kDouble), torch::ones({6}, at::kDouble)})
    EXPECT_TRUE(htl::PlattScaling{}.fitted(p, one_class, ones).apply(p).isfinite().all().item<bool>());
  // a weight of 2 is the row twice
  const at::Tensor x = doubles({.1, .3, .6, .7}), y = doubles({0, 1, 0, 1});
  const htl::PlattScaling weighted = htl::PlattScaling{}.fitted(x, y, doubles({1, 2, 1, 3}));
  const htl::PlattScaling repeated =
      htl::PlattScaling{}.fitted(doubles({.1, .3, .3, .6, .7, .7, .7}), doubles({0, 1, 1, 0, 1, 1, 1}), torch::ones({7}, at::kDouble));
  EXPECT_NEAR(weighted.a, repeated.a, 1e-6);
  EXPECT_NEAR(weighted.b, repeated.b, 1e-6);
  EXPECT_EQ(sentence_of([&] { htl::PlattScaling{}.fitted(doubles({1.5}), doubles({1}), doubles({1})); }),
            "htl::PlattScaling: expected probabilities in [0, 1]");
}

TEST(IsotonicCalibration, is_the_max_of_the_mins_of_means) {
  Random random(3);
  for (int round = 0; round < 200; ++round) {
    const int64_t rows = random.integer(1, 30);
    const at::Tensor x = random.ids({rows}, random.integer(1, 20)).to(at::kDouble) / 10, y = random.normal({rows}), w = random.uniform({rows}, .1, 3);
    const at::Tensor fitted = htl::IsotonicCalibration{}.fitted(x, y, w).apply(x);
    // over the distinct values: f(v) = max_{a ≤ v} min_{b ≥ v} of the mean label in [a, b]
    for (int64_t row = 0; row < rows; ++row) {
      double best = -1e300;
      for (int64_t i = 0; i < rows; ++i) {
        const double a = x[i].item<double>();
        if (a > x[row].item<double>()) continue;
        double least = 1e300;
        for (int64_t j = 0; j < rows; ++j) {
          const double b = x[j].item<double>();
          if (b < x[row].item<double>()) continue;
          const at::Tensor inside = x.ge(a).logical_and(x.le(b)).to(at::kDouble) * w;
          least = std::min(least, (inside * y).sum().div(inside.sum()).item<double>());
        }
        best = std::max(best, least);
      }
      ASSERT_NEAR(fitted[row].item<double>(), best, 1e-9) << round;
    }
  }
}

TEST(IsotonicCalibration, is_linear_between_its_pools_and_constant_beyond) {
  const htl::IsotonicCalibration fitted = htl::IsotonicCalibration{}.fitted(doubles({1, 2, 3, 4}), doubles({0, 2, 1, 5}), torch::ones({4}, at::kDouble));
  EXPECT_TRUE(close(fitted.apply(doubles({-7, 1, 1.5, 2, 2.5, 3, 3.5, 4, 99})), doubles({0, 0, .75, 1.5, 1.5, 1.5, 3.25, 5, 5})));
  EXPECT_EQ(fitted.apply(torch::tensor({2.f})).scalar_type(), at::kFloat);
  EXPECT_TRUE(fitted.apply(doubles({std::nan("")})).isnan().item<bool>()) << "a broken prediction is not hidden";
  const htl::IsotonicCalibration single = htl::IsotonicCalibration{}.fitted(doubles({2, 2}), doubles({1, 3}), torch::ones({2}, at::kDouble));
  EXPECT_TRUE(close(single.apply(doubles({0, 2, 5})), doubles({2, 2, 2})));
  EXPECT_NE(sentence_of([] { htl::IsotonicCalibration{}.with_statistics({{"from", {2.0, 1.0}}, {"to", {0.0, 1.0}}}); }).find("ascending"), std::string::npos);
}

TEST(Calibrators, are_part_of_the_tasks_and_are_fitted_to_the_rows_that_carry_the_label) {
  Random random(4);
  const int64_t rows = 4000;
  const at::Tensor logit = random.normal({rows}), click = random.uniform({rows}).lt((logit - 1).sigmoid()).to(at::kDouble);
  const at::Tensor buy = click * random.uniform({rows}).lt((.5 * logit).sigmoid()).to(at::kDouble), spend = random.uniform({rows}, 0, 10);
  const htl::TaskSet plain{htl::binary("click").calibration(htl::PlattScaling{}),
                           htl::binary("buy").observed_when("click").calibration(htl::IsotonicCalibration{}),
                           htl::regression("spend").transform(htl::z_score()).calibration(htl::ScaleCalibration{}), htl::binary("like")};
  const htl::Labels labels = htl::Labels().set("click", {click}).set("buy", {buy}).set("spend", {spend, random.mask({rows})}).set("like", {click});
  const htl::TaskSet tasks = plain.fitted(labels);
  const at::Tensor column = logit.unsqueeze(1);
  const htl::TaskOutputs outputs = htl::TaskOutputs().set("click", column).set("buy", column).set("spend", column).set("like", column);
  const htl::Predictions before = tasks.predict(outputs);
  EXPECT_TRUE(close(before["click"], logit.sigmoid())) << "until it is fitted, nothing changes";
  const htl::TaskSet calibrated = tasks.calibrated(outputs, labels);
  const htl::Predictions after = calibrated.predict(outputs);
  EXPECT_NEAR(after["click"].mean().item<double>(), click.mean().item<double>(), 1e-3);
  const at::Tensor clicked = click.eq(1);
  EXPECT_NEAR(after["buy"].masked_select(clicked).mean().item<double>(), buy.masked_select(clicked).mean().item<double>(), 1e-9) << "where the label exists";
  EXPECT_NEAR(after["spend"].masked_select(labels["spend"].mask).sum().item<double>(), spend.masked_select(labels["spend"].mask).sum().item<double>(), 1e-6);
  EXPECT_TRUE(same_bits(after["like"], before["like"]));
  const htl::TaskSet twice = calibrated.calibrated(outputs, labels);
  EXPECT_TRUE(close(twice.predict(outputs)["click"], after["click"], 1e-9)) << "fitting anew starts from the model, not from the calibrated predictions";
  htl::Calibration of_clicks;
  of_clicks.add(after["click"], {click});
  EXPECT_LT(of_clicks.expected_calibration_error(), .03);
  EXPECT_EQ(sentence_of([] { htl::regression("a").calibration(htl::PlattScaling{}); }),
            "htl::TaskSpec: the calibrator \"platt\" is not for a regression task as \"a\" is");
  htl::Labels none = labels;
  none.set("click", {click, torch::zeros({rows}, at::kBool)});
  EXPECT_EQ(sentence_of([&] { tasks.calibrated(outputs, none); }),
            "htl::TaskSet: can't calibrate task \"click\": htl::platt: expected at least one observed label to fit to, got none");
}

TEST(Calibrators, come_by_name_and_from_their_statistics) {
  Random random(5);
  const at::Tensor p = random.uniform({500}), y = random.events({500}, .4);
  for (const std::string text : {"prior:kept=0.2", "scale", "platt", "platt:slope=false", "isotonic"}) {
    const AnyCalibrator plain = htl::built_in_calibrators().make(htl::parse_spec(text));
    EXPECT_TRUE(text.starts_with(plain.name()));
    const AnyCalibrator fitted = plain.fitted(p, {y});
    const AnyCalibrator again = htl::built_in_calibrators().make(plain.name(), fitted.parameters()).with_statistics(fitted.statistics());
    EXPECT_TRUE(same_bits(again.apply(p), fitted.apply(p))) << text;
    const at::Tensor sorted = fitted.apply(std::get<0>(p.sort()));
    EXPECT_TRUE((sorted.slice(0, 1) - sorted.slice(0, 0, -1)).ge(0).all().item<bool>()) << text << " is monotone";
  }
  EXPECT_FALSE(AnyCalibrator());
  EXPECT_TRUE(same_bits(AnyCalibrator().apply(p), p));
  EXPECT_EQ(sentence_of([] { htl::built_in_calibrators().make("plat"); }),
            "htl::CalibratorRegistry: unknown calibrator \"plat\"; did you mean \"platt\"? Known: \"prior\", \"scale\", \"platt\", \"isotonic\"");
  EXPECT_EQ(sentence_of([] {
              AnyCalibrator(htl::PlattScaling{}).fitted(doubles({.5, std::nan("")}), {doubles({1, 0})});
            }),
            "htl::platt: expected finite predictions, labels and weights, got NaN or infinity; mask those rows");
}

}  // namespace
