// SPDX-License-Identifier: Apache-2.0
// Label transforms with statistics: each against a naive reference, its inverse, its form in files, and what it refuses.
#include <htl/loss/hybrid_loss.hpp>
#include <htl/loss/quantiles.hpp>
#include <htl/task/built_in_transforms.hpp>
#include <htl/task/scale_calibration.hpp>
#include <htl/task/task_set.hpp>

#include <torch/torch.h>

#include "support/gradcheck.hpp"
#include "support/seeded.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace {

using htl::AnyLabelTransform;
using htl::Named;
using htl::test::close;
using htl::test::gradcheck;
using htl::test::Random;
using htl::test::same_bits;
using htl::test::sentence_of;

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

at::Tensor doubles(const std::vector<double>& values) { return torch::tensor(values, at::kDouble); }

Named<at::Tensor> durations(const at::Tensor& column) { return Named<at::Tensor>().set("duration", column); }

/// The p-quantile of sorted values, by linear interpolation between order statistics.
double quantile(std::vector<double> sorted, double p) {
  std::sort(sorted.begin(), sorted.end());
  const double at = p * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<size_t>(at);
  return below + 1 < sorted.size() ? sorted[below] + (at - std::floor(at)) * (sorted[below + 1] - sorted[below]) : sorted[below];
}

std::vector<double> numbers(const at::Tensor& values) {
  const at::Tensor plain = values.to(at::kDouble).contiguous();
  return {plain.const_data_ptr<double>(), plain.const_data_ptr<double>() + plain.numel()};
}

const std::vector<std::string> kSpecs = {"none",
                                         "z_score",
                                         "log1p",
                                         "min_max",
                                         "box_cox",
                                         "box_cox:shift=0.5,lambda=0",
                                         "box_cox:lambda=-0.5",
                                         "quantile",
                                         "quantile:points=11,normal=true",
                                         "chained:first=log1p,second=z_score",
                                         "clipped:inner=z_score,upper=1",
                                         "grouped:inner=z_score,column=duration,buckets=4",
                                         "grouped:inner=chained,inner.first=log1p,inner.second=min_max,column=duration,edges=20;40",
                                         "smeared:inner=log1p"};

TEST(LabelTransforms, invert_themselves_over_random_labels_and_come_back_from_their_options_and_statistics) {
  Random random(1);
  for (int round = 0; round < 60; ++round) {
    const int64_t rows = random.integer(30, 300);
    const at::Tensor labels = (random.normal({rows}, 1.5).exp() * random.events({rows}, .8)).mul(random.pick<double>({.1, 1, 30}));
    const Named<at::Tensor> context = durations(random.uniform({rows}, 5, 60));
    for (const std::string& text : kSpecs) {
      const AnyLabelTransform plain = htl::built_in_transforms().make(htl::parse_spec(text)), fitted = plain.fitted({labels}, context);
      ASSERT_TRUE(fitted.is_fitted()) << text;
      const at::Tensor z = fitted.apply(labels, context), back = fitted.inverse(z, context);
      const double scale = labels.max().item<double>();
      if (text == "quantile" || text.starts_with("quantile:points")) {  // few points: exact between the labels of the table only
        const at::Tensor inside = fitted.inverse(fitted.apply(back, context), context);
        EXPECT_TRUE(close(inside, back, 1e-6, 1e-6 * scale)) << text;
      } else {
        EXPECT_TRUE(close(back, labels, 1e-9, 1e-9 * scale)) << text;
      }
      const AnyLabelTransform again = htl::label_transform(fitted.name(), fitted.parameters()).with_statistics(fitted.statistics());
      EXPECT_TRUE(same_bits(again.apply(labels, context), z)) << text;
      EXPECT_TRUE(same_bits(again.inverse(z, context), back)) << text;
      EXPECT_EQ(again.context(), plain.context()) << text;
    }
  }
}

TEST(LabelTransforms, keep_shape_and_type_and_pass_gradients) {
  Random random(2);
  const at::Tensor training = random.uniform({200}, 0, 50);
  const Named<at::Tensor> context = durations(random.uniform({200}, 5, 60));
  const Named<at::Tensor> few = durations(doubles({7, 30, 59, 22}));
  for (const std::string& text : kSpecs) {
    const AnyLabelTransform fitted = htl::built_in_transforms().make(htl::parse_spec(text)).fitted({training}, context);
    for (const at::ScalarType type : {at::kFloat, at::kDouble, at::kBFloat16}) {
      const at::Tensor z = torch::rand({4}, type);
      EXPECT_EQ(fitted.inverse(z, few).scalar_type(), type) << text;
      EXPECT_EQ(fitted.apply(z, few).scalar_type(), type) << text;
      EXPECT_EQ(fitted.inverse(z, few).sizes(), z.sizes()) << text;
    }
    EXPECT_TRUE(gradcheck([&](const auto& x) { return fitted.inverse(x[0], few); }, {doubles({.21037, .43049, .67013, .83071})})) << text;
    if (text.starts_with("quantile")) continue;  // of the label itself: a step function's derivative between its points
    EXPECT_TRUE(gradcheck([&](const auto& x) { return fitted.apply(x[0], few); }, {doubles({3.1, 7.7, 12.3, 40.9})})) << text;
  }
}

TEST(MinMax, maps_the_training_range_onto_the_unit_interval) {
  const AnyLabelTransform fitted = htl::min_max().fitted({doubles({3, 7, 11})});
  EXPECT_TRUE(close(fitted.apply(doubles({3, 11, 5, 13})), doubles({0, 1, .25, 1.25})));
  EXPECT_TRUE(same_bits(htl::min_max().fitted({doubles({4, 4})}).apply(doubles({4, 5})), doubles({0, 1})));
  EXPECT_EQ(sentence_of([] {
              htl::min_max().with_statistics({{"low", 1}, {"range", 0}});
            }),
            "htl::min_max: expected a finite low and a finite range > 0, got low 1, range 0");
  EXPECT_NE(sentence_of([] { htl::min_max().fitted({doubles({-1.7e308, 1.7e308})}); }).find("beyond what a double holds"), std::string::npos);
}

TEST(BoxCox, finds_the_power_of_the_greatest_likelihood) {
  Random random(3);
  for (const double truth : {-.5, 0.0, .3, 1.0, 2.0}) {
    // labels whose power is normal: z ~ N(6, 0.3²), y = (λz + 1)^{1/λ} − 1
    at::Tensor z = random.normal({20000}, truth < 0 ? .03 : 1).add(truth < 0 ? 1.0 : 6.0);
    const at::Tensor y = truth == 0.0 ? z.exp() - 1 : (truth * z + 1).log().div(truth).exp() - 1;
    const AnyLabelTransform fitted = htl::box_cox().fitted({y});
    EXPECT_NEAR(fitted.statistics()["lambda"].number(), truth, truth < 0 ? .35 : .12);
    // no other power is likelier: −n/2 log var(z) + (λ − 1) Σ log(y + 1), by its definition
    const auto likelihood = [&](double lambda) {
      const at::Tensor power = lambda == 0.0 ? (y + 1).log() : ((y + 1).pow(lambda) - 1) / lambda;
      return -.5 * std::log(power.var(false).item<double>()) + (lambda - 1) * (y + 1).log().mean().item<double>();
    };
    const double found = fitted.statistics()["lambda"].number();
    for (const double step : {-.5, -.01, -1e-4, 1e-4, .01, .5}) EXPECT_GE(likelihood(found) + 1e-9, likelihood(found + step)) << truth << " " << step;
  }
}

TEST(BoxCox, has_its_special_cases_and_ends) {
  const auto box_cox = [](const htl::Options& options) { return htl::label_transform("box_cox", options); };
  const at::Tensor y = doubles({0, .5, 3, 40});
  EXPECT_TRUE(close(box_cox({{"lambda", 0}}).fitted({y}).apply(y), y.log1p()));
  EXPECT_TRUE(close(box_cox({{"lambda", 1}}).fitted({y}).apply(y), y));
  EXPECT_TRUE(close(box_cox({{"lambda", 2}}).fitted({y}).apply(y), ((y + 1).square() - 1) / 2));
  EXPECT_TRUE(close(box_cox({{"lambda", 1e-10}}).fitted({y}).apply(y), y.log1p(), 1e-9)) << "no digits are lost near 0";
  const AnyLabelTransform root = box_cox({{"lambda", .5}}).fitted({y}), falling = box_cox({{"lambda", -.5}}).fitted({y});
  EXPECT_TRUE(close(root.inverse(doubles({-2, -9})), doubles({-1, -1}))) << "the least label that there is";
  EXPECT_TRUE(close(falling.inverse(doubles({2, 1e9})), doubles({40, 40}))) << "kept at the largest training label";
  at::Tensor far = doubles({-9}).requires_grad_();
  root.inverse(far).sum().backward();
  EXPECT_EQ(far.grad().item<double>(), 0.0);
  for (const at::ScalarType type : {at::kFloat, at::kDouble}) {  // at the ends themselves
    for (const double lambda : {.5, 2.0, 5.0, -.5, -2.0, -5.0}) {
      const AnyLabelTransform fitted = box_cox({{"lambda", lambda}}).fitted({y});
      const at::Tensor z = (lambda > 0 ? torch::full({1}, -1 / lambda, at::kDouble) : fitted.apply(doubles({40}))).to(type).requires_grad_();
      const at::Tensor label = fitted.inverse(z);
      label.sum().backward();
      EXPECT_TRUE(std::isfinite(z.grad().item<double>())) << lambda << type;
      if (type == at::kDouble) {
        EXPECT_NEAR(label.item<double>(), lambda > 0 ? -1 : 40, 1e-9) << lambda;
      }
      EXPECT_GE(label.item<double>(), lambda > 0 ? -1 : 0) << lambda << type;
      EXPECT_LE(label.item<double>(), 40 + 1e-4) << lambda << type;
    }
  }
  const at::Tensor million = doubles({0, 1e6});  // whose z is −1/λ but for less than a rounding
  EXPECT_TRUE(close(box_cox({{"lambda", -5}}).fitted({million}).inverse(doubles({.2})), doubles({1e6})));
  EXPECT_TRUE(root.inverse(doubles({kNaN})).isnan().item<bool>());
  EXPECT_EQ(box_cox({}).fitted({doubles({5, 5})}).statistics()["lambda"].number(), 1.0) << "of a constant label";
  EXPECT_EQ(sentence_of([&] {
              htl::box_cox().fitted({doubles({1, -2})});
            }),
            "htl::box_cox: expected labels > -1, got -2; raise the shift, or use z_score() for a label of any sign");
}

TEST(QuantileRanks, are_the_ranks_among_the_training_labels) {
  // the table of D2Q's example: quantiles 0, 2, 5, 9, 10
  const AnyLabelTransform small = htl::quantile_ranks(5).fitted({doubles({10, 0, 5, 2, 9})});
  EXPECT_TRUE(close(small.apply(doubles({7, 0, 10, -3, 30, 5})), doubles({.625, 0, 1, 0, 1, .5})));
  EXPECT_TRUE(close(small.inverse(doubles({.6, 0, 1, -1, 2})), doubles({6.6, 0, 10, 0, 10})));
  Random random(4);
  for (int round = 0; round < 40; ++round) {
    const int64_t rows = random.integer(2, 400), points = random.integer(2, 40);
    const at::Tensor labels = random.normal({rows}, 3);
    const AnyLabelTransform fitted = htl::quantile_ranks(points).fitted({labels});
    const std::vector<double> table = fitted.statistics()["table"].numbers();
    for (int64_t p = 0; p < points; ++p)
      ASSERT_NEAR(table[static_cast<size_t>(p)], quantile(numbers(labels), static_cast<double>(p) / static_cast<double>(points - 1)), 1e-12);
    const at::Tensor ranks = fitted.apply(std::get<0>(labels.sort()));
    EXPECT_TRUE((ranks.slice(0, 1) - ranks.slice(0, 0, -1)).ge(0).all().item<bool>()) << "monotone";
  }
}

TEST(QuantileRanks, of_equal_labels_are_the_middle_of_their_ranks_and_come_back) {
  const AnyLabelTransform fitted = htl::quantile_ranks(11).fitted({doubles({0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4})});
  EXPECT_TRUE(close(fitted.apply(doubles({0})), doubles({.3})));
  EXPECT_TRUE(close(fitted.inverse(doubles({0, .3, .6, .65})), doubles({0, 0, 0, .5})));
  const AnyLabelTransform normal = htl::label_transform("quantile", {{"normal", true}}).fitted({torch::randn({100000}, at::kDouble).exp()});
  const at::Tensor z = normal.apply(torch::randn({100000}, at::kDouble).exp());
  EXPECT_NEAR(z.mean().item<double>(), 0, .02);
  EXPECT_NEAR(z.std().item<double>(), 1, .02);
  EXPECT_LT(z.abs().max().item<double>(), 5.3);
  EXPECT_EQ(sentence_of([] {
              htl::quantile_ranks().with_statistics({{"table", {2.0, 1.0}}});
            }),
            "htl::quantile: expected a table of at least 2 finite numbers in ascending order, got 2 numbers");
}

TEST(Chained, fits_the_second_to_what_the_first_gives) {
  Random random(5);
  const at::Tensor labels = random.normal({500}, 2).exp();
  const at::Tensor z = htl::chained(htl::log1p(), htl::z_score()).fitted({labels}).apply(labels);
  const at::Tensor logs = labels.log1p();
  EXPECT_TRUE(close(z, (logs - logs.mean()) / logs.std(false), 1e-9));
}

TEST(Clipped, takes_far_labels_for_the_quantile_and_leaves_predictions_alone) {
  Random random(6);
  at::Tensor labels = random.uniform({1000});
  labels[3] = 1e6;
  labels[4] = -1e6;
  const AnyLabelTransform fitted = htl::label_transform("clipped", {{"inner", "min_max"}, {"upper", .95}, {"lower", .05}}).fitted({labels});
  const double low = quantile(numbers(labels), .05), high = quantile(numbers(labels), .95);
  EXPECT_NEAR(fitted.statistics()["low"].number(), low, 1e-12);
  EXPECT_NEAR(fitted.statistics()["high"].number(), high, 1e-12);
  EXPECT_TRUE(close(fitted.apply(doubles({1e6, -1e6, .5})), doubles({1, 0, (.5 - low) / (high - low)})));
  EXPECT_TRUE(close(fitted.inverse(doubles({2})), doubles({low + 2 * (high - low)})));
  EXPECT_NE(sentence_of([] {
              htl::label_transform("clipped", {{"inner", "z_score"}, {"upper", .2}, {"lower", .5}});
            }).find("expects lower < upper"),
            std::string::npos);
}

TEST(Grouped, has_a_transform_for_each_bucket_of_the_column) {
  Random random(7);
  const at::Tensor duration = random.uniform({2000}, 5, 60), labels = random.uniform({2000}) * duration;
  const Named<at::Tensor> context = durations(duration);
  const AnyLabelTransform fitted = htl::grouped(htl::z_score(), "duration", 4).fitted({labels}, context);
  const std::vector<double> edges = fitted.statistics()["edges"].numbers();
  ASSERT_EQ(edges.size(), 3U);
  for (size_t e = 0; e < 3; ++e) EXPECT_NEAR(edges[e], quantile(numbers(duration), .25 * static_cast<double>(e + 1)), 1e-12);
  const at::Tensor z = fitted.apply(labels, context);
  for (int64_t row = 0; row < 50; ++row) {
    const double by = duration[row].item<double>();
    const auto bucket = static_cast<size_t>(std::lower_bound(edges.begin(), edges.end(), by) - edges.begin());  // edge_{g−1} < column ≤ edge_g
    const at::Tensor here =
        labels.masked_select(duration.gt(bucket == 0 ? -1.0 : edges[bucket - 1]).logical_and(duration.le(bucket == 3 ? 1e9 : edges[bucket])));
    EXPECT_NEAR(z[row].item<double>(), (labels[row] - here.mean()).div(here.std(false)).item<double>(), 1e-9);
  }
  // a row on an edge belongs to the bucket below it
  const AnyLabelTransform two = htl::label_transform("grouped", {{"inner", "min_max"}, {"column", "duration"}, {"edges", {10.0, 20.0}}, {"min_rows", 1}})
                                    .fitted({doubles({0, 1, 0, 10, 0, 100})}, durations(doubles({9, 10, 11, 20, 21, 30})));
  EXPECT_TRUE(close(two.apply(doubles({1, 1, 1}), durations(doubles({10, 20, 30}))), doubles({1, .1, .01})));
  // a bucket with too few rows has the transform of all
  const AnyLabelTransform rare = htl::label_transform("grouped", {{"inner", "z_score"}, {"column", "duration"}, {"edges", {1000.0}}}).fitted({labels}, context);
  EXPECT_TRUE(close(rare.apply(doubles({10}), durations(doubles({2000}))), htl::z_score().fitted({labels}).apply(doubles({10})), 1e-9));
  // equal quantiles fall together
  const at::Tensor same = torch::full({2000}, 7.0, at::kDouble);
  EXPECT_TRUE(close(htl::grouped(htl::z_score(), "duration", 4).fitted({labels}, durations(same)).apply(labels, durations(same)),
                    htl::z_score().fitted({labels}).apply(labels), 1e-9));
  EXPECT_NE(sentence_of([&] { htl::grouped(htl::z_score(), "duration").fitted({labels}, {}); }).find("there is no \"duration\" here"), std::string::npos);
  at::Tensor broken = duration.clone();
  broken[0] = std::nan("");
  EXPECT_EQ(sentence_of([&] { htl::grouped(htl::z_score(), "duration").fitted({labels}, durations(broken)); }),
            "htl::grouped: expected a finite \"duration\" in every observed row, got NaN or infinity; mask those rows");
  at::Tensor observed = torch::ones({2000}, at::kBool);
  observed[0] = false;
  EXPECT_TRUE(htl::grouped(htl::z_score(), "duration").fitted({labels, observed}, durations(broken)).is_fitted());
}

TEST(Grouped, counts_edges_one_by_one_as_bucketize_does) {
  Random random(10);
  for (int round = 0; round < 50; ++round) {
    const at::Tensor edges = std::get<0>(random.ids({random.integer(0, 6)}, 5).to(at::kDouble).sort());
    at::Tensor values = random.ids({40}, 7).to(at::kDouble) - random.pick<double>({0, .5, 1});
    values[3] = kNaN;
    values[4] = std::numeric_limits<double>::infinity();
    EXPECT_TRUE(same_bits(htl::detail::count_below(numbers(edges), values), at::bucketize(values, edges)));
  }
}

TEST(Smeared, of_a_task_takes_the_rows_that_carry_its_label_and_their_columns) {
  Random random(11);
  const int64_t rows = 3000;
  const at::Tensor click = random.events({rows}, .6), seen = random.mask({rows}, .8), weight = random.uniform({rows}, .5, 2) * random.mask({rows}, .7);
  const at::Tensor duration = random.uniform({rows}, 5, 60), watch = random.uniform({rows}) * duration;
  const at::Tensor carried = click.eq(1).logical_and(seen).logical_and(weight.gt(0));
  htl::Labels labels = htl::Labels().set("click", {click}).set("watch", {at::where(carried, watch, kNaN), seen, weight});
  labels.context.set("duration", duration);
  const htl::TaskSet tasks = htl::TaskSet{htl::binary("click"), htl::regression("watch")
                                                                    .observed_when("click")
                                                                    .loss(htl::Quantiles({.25, .5, .75}))
                                                                    .transform(htl::grouped(htl::log1p(), "duration", 3))
                                                                    .calibration(htl::ScaleCalibration{2})}
                                 .fitted(labels);
  const at::Tensor output = random.normal({rows, 3}) + 2;
  const htl::TaskOutputs outputs = htl::TaskOutputs().set("click", output.narrow(1, 0, 1)).set("watch", output);
  const htl::TaskSet corrected = htl::smeared(tasks, "watch", outputs, labels);
  const at::Tensor here = carried.nonzero().squeeze(1), middle = std::get<0>(output.sort(1)).select(1, 1);
  const AnyLabelTransform expected =
      htl::smeared(tasks["watch"].transform(), middle.index_select(0, here), {watch.index_select(0, here)}, durations(duration.index_select(0, here)));
  EXPECT_EQ(corrected["watch"].transform().statistics()["residuals"].numbers(), expected.statistics()["residuals"].numbers());
  EXPECT_EQ(corrected["watch"].calibration().name(), "scale") << "which stays, fitted to other predictions";
  const at::Tensor plain = expected.inverse(middle, labels.context) * 2;
  EXPECT_TRUE(close(corrected.predict(outputs, labels.context)["watch"], plain));
  EXPECT_NE(sentence_of([&] { htl::smeared(tasks, "wach", outputs, labels); }).find("did you mean \"watch\"?"), std::string::npos);
  EXPECT_NE(sentence_of([&] { htl::smeared(tasks, "click", outputs, labels); }).find("only a regression's label can be transformed"), std::string::npos);
}

TEST(Smeared, gives_the_mean_where_the_inverse_of_the_mean_is_too_low) {
  Random random(8);
  const at::Tensor truth = random.normal({50000}, .5).add(2), z = truth + random.normal({50000}, .8), labels = z.expm1().clamp_min(0);
  const AnyLabelTransform plain = htl::log1p(), mean = htl::smeared(plain, truth, {labels});
  EXPECT_LT(plain.inverse(truth).mean().item<double>(), .8 * labels.mean().item<double>()) << "the plain inverse is far too low";
  EXPECT_NEAR(mean.inverse(truth).mean().item<double>(), labels.mean().item<double>(), .02 * labels.mean().item<double>());
  EXPECT_TRUE(same_bits(mean.apply(labels), plain.apply(labels)));
  // one residual: an exact shift; without residuals the plain inverse
  EXPECT_TRUE(close(htl::SmearedTransform{plain, {.5}}.inverse(doubles({1}), {}), doubles({std::expm1(1.5)})));
  EXPECT_TRUE(close(htl::label_transform("smeared", {{"inner", "log1p"}}).inverse(doubles({1})), doubles({std::expm1(1.0)})));
  // an affine transform needs no correction when the residuals have mean 0
  const AnyLabelTransform affine = htl::z_score().fitted({labels});
  const at::Tensor residual = random.normal({50000});
  EXPECT_TRUE(close(htl::smeared(affine, affine.apply(labels) - residual, {labels}).inverse(doubles({.3})), affine.inverse(doubles({.3})), 2e-2));
  EXPECT_EQ(htl::smeared(mean, truth, {labels}).get_if<htl::SmearedTransform>()->inner.name(), "log1p") << "not one around the other";
  EXPECT_EQ(sentence_of([&] { htl::smeared(plain, truth.slice(0, 1), {labels}); }), "htl::smeared: expected outputs of shape [50000], got [49999]");
  EXPECT_EQ(sentence_of([&] {
              htl::smeared(plain, truth, {labels, torch::zeros({50000}, at::kBool)});
            }),
            "htl::smeared: expected at least one observed label, got none");
}

TEST(TaskSet, takes_transforms_that_read_a_column_through_fitting_loss_and_prediction) {
  Random random(9);
  const int64_t rows = 400;
  htl::Labels labels = htl::Labels().set("watch", {random.uniform({rows}, 0, 30), random.mask({rows}, .8)});
  labels.context.set("duration", random.uniform({rows}, 5, 60));
  const htl::TaskSet unfitted{htl::regression("watch").core().transform(htl::grouped(htl::z_score(), "duration", 3))};
  EXPECT_EQ(unfitted["watch"].context(), std::vector<std::string>{"duration"}) << "readers load the column";
  const htl::TaskSet tasks = unfitted.fitted(labels);
  const at::Tensor target = tasks["watch"].transform().apply(labels["watch"].value, labels.context);
  const htl::TaskOutputs outputs = htl::TaskOutputs().set("watch", target.unsqueeze(1));
  EXPECT_NEAR(htl::HybridLoss(tasks)(outputs, labels)["watch"].item<double>(), 0.0, 1e-20);
  EXPECT_TRUE(close(tasks.predict(outputs, labels.context)["watch"], labels["watch"].value, 1e-9, 1e-9));
  const htl::TaskSet corrected = tasks.with(tasks["watch"].transform(htl::smeared(tasks["watch"].transform(), target, labels["watch"], labels.context)));
  EXPECT_EQ(corrected["watch"].transform().name(), "smeared");
  EXPECT_TRUE(corrected["watch"].is_core());
  EXPECT_NE(sentence_of([&] { tasks.with(htl::regression("wach")); }).find("did you mean \"watch\"?"), std::string::npos);
}

TEST(Transforms, come_back_from_outputs_far_out_as_finite_numbers_with_finite_gradients) {
  const std::vector<AnyLabelTransform> all = {htl::log1p(), htl::label_transform("box_cox", {{"lambda", 0}}).fitted({doubles({1, 2, 9})}),
                                              htl::label_transform("box_cox", {{"lambda", .05}}).fitted({doubles({1, 2, 9})}),
                                              htl::label_transform("box_cox", {{"lambda", -1}}).fitted({doubles({1, 2, 9})}),
                                              htl::chained(htl::log1p(), htl::z_score()).fitted({doubles({0, 3, 1e12})})};
  for (const AnyLabelTransform& transform : all)
    for (const float z : {-1e30f, -89.f, -1.f, 0.f, 1e-30f, 79.f, 89.f, 1e4f, 1e30f}) {
      const at::Tensor leaf = torch::full({1}, z).requires_grad_(), label = transform.inverse(leaf);
      label.backward();
      EXPECT_TRUE(std::isfinite(label.item<float>())) << transform.name() << z;
      EXPECT_TRUE(std::isfinite(leaf.grad().item<float>())) << transform.name() << z;
    }
  EXPECT_FLOAT_EQ(htl::log1p().inverse(torch::full({1}, 30.f)).item<float>(), std::expm1(30.f));
  EXPECT_TRUE(sentence_of([] { htl::z_score().fitted({doubles({-1e200, 1e200})}); }).find("htl::z_score: the squares of labels from -1e+200 to 1e+200") == 0);
}

}  // namespace
