// SPDX-License-Identifier: Apache-2.0
// Each built-in loss alone: golden numbers, derivatives, extremes, and its one-pass form against its operator form.
#include <support/loss_battery.hpp>
#include <support/loss_fits.hpp>
#include <support/loss_references.hpp>

#include <torch/torch.h>

namespace {

using namespace htl::test;
using htl::AnyLoss;
using htl::LossInput;
using htl::Named;

const Named<at::Tensor> no_context;

at::Tensor doubles(const std::vector<double>& values) { return torch::tensor(values, at::kDouble); }

LossInput input_of(const at::Tensor& output, const at::Tensor& target) { return {output, target, target, {}, no_context}; }

std::vector<LossCase> cases(Random& random, int64_t rows, at::ScalarType type, double scale) {
  return {{htl::BinaryCrossEntropy{}, random.normal({rows, 1}, scale, type), random.events({rows}, 0.3, type)},
          {htl::BinaryCrossEntropy{}, random.normal({rows, 1}, scale, type), random.uniform({rows}, 0.0, 1.0, type)},
          {htl::SoftmaxCrossEntropy(2), random.normal({rows, 2}, scale, type), random.ids({rows}, 2)},
          {htl::SoftmaxCrossEntropy(5), random.normal({rows, 5}, scale, type), random.ids({rows}, 5)},
          {htl::SquaredError{}, random.normal({rows, 1}, scale, type), random.normal({rows}, scale, type)},
          {htl::Huber{}, random.normal({rows, 1}, scale, type), random.normal({rows}, scale, type)},
          {htl::Huber(0.3), random.normal({rows, 1}, scale, type), random.normal({rows}, scale, type)}};
}

TEST(Losses, hold_what_every_loss_must_hold) { loss_battery(cases, 2, {1e-3, 1, 30}); }

TEST(Losses, match_golden_numbers_of_the_literature) {
  const at::Tensor y = doubles({1, 1.2, 0, 2}), x = doubles({.6, .7, .3, .8});
  EXPECT_NEAR(htl::SquaredError{}(x, y).mean().item<double>(), .485, 1e-12);
  EXPECT_NEAR(htl::Huber(1)(x, y).mean().item<double>(), .2375, 1e-12);
  EXPECT_NEAR(htl::Huber(.2)(x, y).mean().item<double>() / .2, .5, 1e-12);  // smooth L1 with β = .2
  // log(1 + e^−2), log(1 + e^2), log 2 (twice, for a soft label at z = 0)
  EXPECT_TRUE(close(htl::BinaryCrossEntropy{}(doubles({2, 2, 0, 0}), doubles({1, 0, 1, .25})),
                    doubles({.12692801104297252, 2.1269280110429727, .6931471805599453, .6931471805599453})));
  // logits 1, 2, 3: log(e + e² + e³) = 3.4076059644443806
  EXPECT_TRUE(close(htl::SoftmaxCrossEntropy(3)(doubles({1, 2, 3, 1, 2, 3}).view({2, 3}), torch::tensor({2, 0}, at::kLong)),
                    doubles({.4076059644443806, 2.4076059644443806})));
}

TEST(Losses, of_two_classes_are_the_binary_loss_of_the_logit_difference) {
  Random random(1);
  const at::Tensor z = random.normal({50, 2}, 5), y = random.ids({50}, 2);
  EXPECT_TRUE(close(htl::SoftmaxCrossEntropy(2)(z, y), htl::BinaryCrossEntropy{}(z.select(1, 1) - z.select(1, 0), y.to(at::kDouble))));
}

TEST(Losses, in_one_pass_equal_the_weighted_sum_of_their_rows) {
  Random random(3);
  for (int round = 0; round < 60; ++round) {
    const at::ScalarType type = random.chance(.5) ? at::kDouble : at::kFloat;
    const int64_t rows = random.pick<int64_t>({0, 1, 2, 7, 100, 2048, 2049, 5000});
    for (const LossCase& one : cases(random, rows, type, random.pick<double>({1e-3, 1, 30}))) {
      const at::Tensor share =
          random.uniform({rows}, 0, 1, type) * random.mask({rows}, random.real()).to(type) / std::max<double>(1, static_cast<double>(rows));
      const at::Tensor a = one.output.clone().requires_grad_(), b = one.output.to(at::kDouble).requires_grad_();
      const at::Tensor target = one.label.is_floating_point() ? one.label.to(at::kDouble) : one.label;
      const at::Tensor value = one.loss.reduced(input_of(a, one.label), share);
      const at::Tensor expected = one.loss.per_row(input_of(b, target)).mul(share.to(at::kDouble)).sum();
      (3 * value).backward();
      (3 * expected).backward();
      const double tolerance = type == at::kDouble ? 1e-12 : 1e-6;
      EXPECT_TRUE(close(value, expected, tolerance)) << one.loss.name() << " of " << rows << " rows";
      EXPECT_TRUE(close(a.grad(), b.grad(), tolerance)) << one.loss.name() << " of " << rows << " rows";
      EXPECT_EQ(value.scalar_type(), type);
    }
  }
}

/// The value and the gradient in the leaf from which an output is made.
std::pair<at::Tensor, at::Tensor> passed(const LossCase& one, const at::Tensor& leaf, const at::Tensor& output, const at::Tensor& label,
                                         const at::Tensor& share) {
  leaf.mutable_grad().reset();
  const at::Tensor value = one.loss.reduced(input_of(output, label), share);
  value.backward();
  return {value.detach(), leaf.grad()};
}

TEST(Losses, in_one_pass_give_the_same_bits_for_any_strides_and_for_none) {
  Random random(7);
  const int64_t rows = 2100;  // more than a chunk
  for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
    for (const LossCase& one : cases(random, rows, type, 2.0)) {
      const at::Tensor share = random_share(random, rows, .8, type), leaf = one.output.clone().requires_grad_(), few = leaf.narrow(0, 0, 1);
      const at::Tensor every = at::full({1}, 1.0 / static_cast<double>(rows), type).expand({rows}), same = one.label.narrow(0, 3, 1).expand({rows});
      const auto spread = [](const at::Tensor& column) { return at::stack({column + 1, column, column - 1}, 1).select(1, 1); };
      const at::Tensor wide = at::cat({leaf, leaf, leaf}, 1).narrow(1, one.output.size(1), one.output.size(1));
      ASSERT_EQ(same.stride(0), 0);
      ASSERT_EQ(spread(one.label).stride(0), 3);
      const auto agree = [&](const at::Tensor& output, const at::Tensor& label, const at::Tensor& of, const std::string& what) {
        const auto [value, gradient] = passed(one, leaf, output, label, of);
        const auto [expected, slopes] = passed(one, leaf, output.contiguous(), label.contiguous(), of.contiguous());
        EXPECT_TRUE(same_bits(value, expected)) << one.text() << ", " << what;
        EXPECT_TRUE(same_bits(gradient, slopes)) << one.text() << ", " << what;
        EXPECT_GT(slopes.abs().max().item<double>(), 0.0) << one.text() << ", " << what;
      };
      agree(leaf * 1, same, share, "one label for all rows");
      agree(leaf * 1, spread(one.label), share, "labels three apart");
      agree(few.expand({rows, -1}), one.label, share, "one output for all rows");
      agree(few.expand({rows, -1}), same, every, "one output, label and share for all rows");
      agree(wide, spread(one.label), spread(share), "outputs, labels and shares apart");
      agree(leaf.t().contiguous().t(), same, spread(share), "outputs column by column");
    }
  }
  // several columns: of one row for all, column by column, row by row
  const htl::WeightedLogistic loss({.form = htl::WeightedLogisticForm::odds, .event = "click"});
  const at::Tensor x = random.normal({rows, 1}), share = random_share(random, rows, .8, at::kDouble), pair = random.uniform({rows, 2});
  for (const at::Tensor& columns : {pair.narrow(0, 0, 1).expand({rows, 2}), pair.t().contiguous().t(), pair.select(1, 0).unsqueeze(1).expand({rows, 2})}) {
    const at::Tensor a = x.clone().requires_grad_(), b = x.clone().requires_grad_();
    const at::Tensor value = htl::one_pass(loss, input_of(a, share), columns, share),
                     expected = htl::one_pass(loss, input_of(b, share), columns.contiguous(), share);
    value.backward();
    expected.backward();
    EXPECT_TRUE(same_bits(value, expected)) << columns.strides();
    EXPECT_TRUE(same_bits(a.grad(), b.grad())) << columns.strides();
  }
}

TEST(Losses, on_logits_stay_exact_far_out) {
  for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
    const at::Tensor z = doubles({80, 80, -80, -80, 1e4, 1e4, -1e4, -1e4}).to(type), y = doubles({1, 0, 1, 0, 1, 0, 1, 0}).to(type);
    const double tail = std::exp(-80.0);
    const at::Tensor expected = doubles({tail, 80, 80, tail, 0, 1e4, 1e4, 0}), slopes = doubles({-tail, 1, -1, tail, 0, 1, -1, 0});
    EXPECT_TRUE(close(htl::BinaryCrossEntropy{}(z, y), expected, 1e-6, 1e-30));
    const at::Tensor classes = 1 - y.to(at::kLong);  // two logits (z, 0): class 0 is the event
    const at::Tensor pair = torch::stack({z, torch::zeros_like(z)}, 1);
    EXPECT_TRUE(close(htl::SoftmaxCrossEntropy(2)(pair, classes), expected, 1e-6, 1e-30));
    for (int64_t row = 0; row < z.size(0); ++row) {  // row by row, so that small terms are seen
      const at::Tensor a = z.narrow(0, row, 1).view({1, 1}).clone().requires_grad_(), b = pair.narrow(0, row, 1).clone().requires_grad_();
      const at::Tensor one = torch::ones({1}, type);
      const at::Tensor binary = AnyLoss(htl::BinaryCrossEntropy{}).reduced(input_of(a, y.narrow(0, row, 1)), one);
      const at::Tensor softmax = AnyLoss(htl::SoftmaxCrossEntropy(2)).reduced(input_of(b, classes.narrow(0, row, 1)), one);
      (binary + softmax).backward();
      EXPECT_TRUE(close(binary, expected[row], 1e-6, 1e-40)) << row;
      EXPECT_TRUE(close(softmax, expected[row], 1e-6, 1e-40)) << row;
      EXPECT_TRUE(close(a.grad()[0][0], slopes[row], 1e-6, 1e-40)) << row;
      EXPECT_TRUE(close(b.grad()[0][0], slopes[row], 1e-6, 1e-40)) << row;
      EXPECT_TRUE(close(b.grad()[0][1], -slopes[row], 1e-6, 1e-40)) << row;
    }
  }
}

TEST(Losses, match_long_doubles_over_the_grid_of_extremes) {
  Random random(9);
  using Row = const std::vector<Dual>&;
  const at::Tensor one = doubles({0}).unsqueeze(1), label = doubles({0});
  const std::vector<double> far{-80, -3, -1e-30, 0, 1e-30, .7, 20, 80}, labels{-80, 0, 1e-30, 1, 80, 1e12};
  expect_long_doubles({{htl::SquaredError{}, one, label}, labels, [](Row x, Long y) { return square(x[0] - y); }}, random, far, 40);
  for (const double delta : {.5, 100.})
    expect_long_doubles({{htl::Huber(delta), one, label}, labels, [=](Row x, Long y) { return huber(x[0] - y, delta); }}, random, far, 40);
  const auto softmax = [](Long smoothing) {
    return [=](Row x, Long y) {
      Dual sum = (1 - smoothing) * cross_entropy(x, static_cast<size_t>(y));
      for (size_t k = 0; smoothing > 0 && k < x.size(); ++k) sum = sum + smoothing / static_cast<Long>(x.size()) * cross_entropy(x, k);
      return sum;
    };
  };
  for (const int64_t classes : {3, 5})
    for (const double smoothing : {0., .25})
      expect_long_doubles(
          {{htl::SoftmaxCrossEntropy(classes, smoothing), at::zeros({1, classes}, at::kDouble), at::zeros({1}, at::kLong)}, {0, 1, 2}, softmax(smoothing)},
          random, far, 150);
}

TEST(Losses, curve_upwards_for_they_are_convex) {
  Random random(10);
  for (const LossCase& one : cases(random, 50, at::kDouble, 3)) expect_convex(one, random);
}

TEST(Losses, fitted_alone_recover_what_generated_the_labels) {
  Random random(11);
  const int64_t rows = 8000;
  const at::Tensor features = torch::cat({torch::ones({rows, 1}, at::kDouble), random.normal({rows, 2})}, 1);
  const auto linear = [&](const at::Tensor& x) { return std::vector{features.mm(x.view({3, -1}))}; };
  const std::vector<double> truth{.5, -1.2, .8};
  const at::Tensor mean = linear(doubles(truth))[0].squeeze(1), noise = random.normal({rows}), start = torch::zeros({3}, at::kDouble);
  const auto on = [](const AnyLoss& loss, const at::Tensor& label) { return LossCase{.loss = loss, .output = {}, .label = label}; };
  expect_recovers(fit(on(htl::SquaredError{}, mean + noise), linear, start), truth, .013, "squared");
  expect_recovers(fit(on(htl::BinaryCrossEntropy{}, random.uniform({rows}).lt(mean.sigmoid()).to(at::kDouble)), linear, start), truth, .04, "binary");
  // one row in ten is thirty times as noisy: what squares lose by it, Huber's loss does not
  const at::Tensor dirty = mean + noise * (1 + 29 * random.events({rows}, .1));
  const LossFit squared = fit(on(htl::SquaredError{}, dirty), linear, start), robust = fit(on(htl::Huber{}, dirty), linear, start);
  expect_recovers(squared, truth, .15, "squared of dirty labels");
  expect_recovers(robust, truth, .016, "huber");
  EXPECT_TRUE((robust.error * 6).lt(squared.error).all().item<bool>());

  const std::vector<double> scores{.3, -.5, 1, .4, -.7, .9};  // of the second and third class beside the first, whose logit is 0
  const auto three = [&](const at::Tensor& x) { return std::vector{torch::cat({torch::zeros({rows, 1}, at::kDouble), linear(x)[0]}, 1)}; };
  const at::Tensor drawn = (random.uniform({rows, 1}) > three(doubles(scores))[0].softmax(1).cumsum(1)).sum(1);
  expect_recovers(fit(on(htl::SoftmaxCrossEntropy(3), drawn), three, torch::zeros({6}, at::kDouble)), scores, .05, "softmax_cross_entropy");
}

TEST(Losses, of_numbers_scale_over_forty_decades) {
  for (const double scale : {1e-20, 1e20}) {
    const at::Tensor x = (doubles({1, 2, -3}) * scale).view({3, 1}), y = doubles({0, 2, 1}) * scale, share = doubles({.5, .25, .25});
    for (const auto& [loss, value, slopes] : {std::tuple{AnyLoss(htl::SquaredError{}), .5 + 4.0, doubles({1, 0, -2})},
                                              std::tuple{AnyLoss(htl::Huber(10 * scale)), (.5 + 4.0) / 2, doubles({.5, 0, -1})}}) {
      const at::Tensor leaf = x.clone().requires_grad_();
      const at::Tensor reduced = loss.reduced(input_of(leaf, y), share);
      reduced.backward();
      EXPECT_TRUE(close(reduced / (scale * scale), torch::tensor(value, at::kDouble))) << loss.name();
      EXPECT_TRUE(close(leaf.grad().squeeze(1) / scale, slopes)) << loss.name();
    }
  }
  // a float gradient stays right where the value itself is beyond the type, and infinite
  const at::Tensor leaf = torch::full({1, 1}, 1e20f).requires_grad_();
  const at::Tensor value = AnyLoss(htl::SquaredError{}).reduced(input_of(leaf, torch::zeros({1})), torch::ones({1}));
  value.backward();
  EXPECT_TRUE(std::isinf(value.item<float>()));
  EXPECT_FLOAT_EQ(leaf.grad().item<float>(), 2e20f);
}

TEST(Losses, in_one_pass_pass_nan_outputs_on_where_rows_count_and_nowhere_else) {
  Random random(5);
  for (LossCase one : cases(random, 4, at::kDouble, 2.0)) {
    one.output[1].fill_(std::numeric_limits<double>::quiet_NaN());
    for (const bool counts : {true, false}) {
      const at::Tensor leaf = one.output.clone().requires_grad_();
      const at::Tensor value = one.loss.reduced(input_of(leaf, one.label), doubles({.5, counts ? .25 : 0, .25, 0}));
      value.backward();
      EXPECT_EQ(std::isnan(value.item<double>()), counts) << one.loss.name();
      EXPECT_EQ(leaf.grad()[1].isnan().any().item<bool>(), counts) << one.loss.name();
      EXPECT_FALSE(leaf.grad()[0].isnan().any().item<bool>()) << one.loss.name();
      EXPECT_EQ(leaf.grad()[3].abs().max().item<double>(), 0.0) << one.loss.name();
    }
  }
}

TEST(Losses, say_what_their_output_means) {
  const at::Tensor z = doubles({0, 2, -2}).view({3, 1});
  EXPECT_TRUE(close(htl::BinaryCrossEntropy{}.predict(z, no_context), doubles({.5, .8807970779778823, .11920292202211755})));
  EXPECT_TRUE(close(htl::SquaredError{}.predict(z, no_context), z.squeeze(1)));
  EXPECT_TRUE(close(htl::Huber{}.predict(z, no_context), z.squeeze(1)));
  const at::Tensor p = htl::SoftmaxCrossEntropy(3).predict(doubles({1, 2, 3}).view({1, 3}), no_context);
  EXPECT_TRUE(close(p, doubles({.09003057317038046, .24472847105479767, .6652409557748219}).view({1, 3})));
  EXPECT_EQ(AnyLoss(htl::SoftmaxCrossEntropy(7)).output_width(), 7);
  EXPECT_EQ(AnyLoss(htl::Huber{}).output_width(), 1);
}

TEST(Losses, give_second_derivatives_per_row_and_refuse_them_in_one_pass) {
  const at::Tensor x = doubles({.3, -2}).requires_grad_(), y = doubles({1, 0});
  const auto first = torch::autograd::grad({htl::BinaryCrossEntropy{}(x, y).sum()}, {x}, {}, true, true);
  const auto second = torch::autograd::grad({first[0].sum()}, {x});
  EXPECT_TRUE(close(second[0], x.sigmoid() * (1 - x.sigmoid())));
  const at::Tensor value = htl::BinaryCrossEntropy{}.reduced(input_of(x.unsqueeze(1), y), doubles({.5, .5}));
  EXPECT_EQ(sentence_of([&] { torch::autograd::grad({value}, {x}, {}, true, true); }),
            "htl: a loss that HybridLoss reduced in one pass has no second derivative; for create_graph, differentiate the loss's per_row() instead");
}

TEST(Losses, refuse_wrong_shapes_with_a_sentence) {
  const at::Tensor x = torch::zeros({3, 2}), y = torch::zeros({3});
  EXPECT_EQ(sentence_of([&] { htl::BinaryCrossEntropy{}(x, y); }), "htl::BinaryCrossEntropy: expected an output of shape [B] or [B, 1], got [3, 2]");
  EXPECT_EQ(sentence_of([&] {
              htl::SquaredError{}(torch::zeros({3, 1}), torch::zeros({3, 1}));
            }),
            "htl::SquaredError: expected a target of shape [3], got [3, 1]");
  EXPECT_EQ(sentence_of([&] { htl::Huber{}(torch::zeros({4}), y); }), "htl::Huber: expected a target of shape [4], got [3]");
  EXPECT_EQ(sentence_of([&] { htl::Huber{}({}, y); }), "htl::Huber: expected an output of shape [B] or [B, 1], got undefined");
  EXPECT_EQ(sentence_of([&] { htl::Huber(0); }), "htl::Huber: expected a finite delta > 0, got 0");
  EXPECT_EQ(sentence_of([&] { htl::SoftmaxCrossEntropy(1); }), "htl::SoftmaxCrossEntropy: expected at least 2 classes, got 1");
  EXPECT_EQ(sentence_of([&] { htl::SoftmaxCrossEntropy(3)(x, y.to(at::kLong)); }), "htl::SoftmaxCrossEntropy: expected logits of shape [any, 3], got [3, 2]");
  EXPECT_EQ(sentence_of([&] { htl::SoftmaxCrossEntropy(2)(x, y); }), "htl::SoftmaxCrossEntropy: expected int64 classes, got Float");
  EXPECT_EQ(sentence_of([&] {
              htl::SoftmaxCrossEntropy(2)(x, torch::tensor({0, 1, -3}, at::kLong));
            }),
            "htl::SoftmaxCrossEntropy: expected classes in [0, 2), got -3");
}

TEST(Losses, come_by_name_with_their_parameters) {
  for (const std::string name : {"binary_cross_entropy", "squared", "huber"}) EXPECT_EQ(htl::loss_by_name(name).name(), name);
  const AnyLoss huber = htl::loss_by_name("huber", {{"delta", 0.5}});
  EXPECT_NEAR(huber.per_row(input_of(doubles({2}).view({1, 1}), doubles({0}))).item<double>(), .5 * (2 - .25), 1e-12);
  EXPECT_NEAR(htl::loss_by_name("huber").per_row(input_of(doubles({2}).view({1, 1}), doubles({0}))).item<double>(), 1.5, 1e-12);
  EXPECT_EQ(htl::loss_by_name("softmax_cross_entropy", {{"classes", 4}}).output_width(), 4);
}

TEST(Losses, by_a_wrong_name_get_the_nearest_right_one) {
  const std::string unknown = sentence_of([] { htl::loss_by_name("sqared"); });
  EXPECT_EQ(unknown.find("htl::LossRegistry: unknown loss \"sqared\"; did you mean \"squared\"? Known: \"binary_cross_entropy\", "), 0U) << unknown;
  for (const std::string& known : htl::built_in_losses().names()) EXPECT_NE(unknown.find("\"" + known + "\""), std::string::npos) << known;
  EXPECT_EQ(sentence_of([] {
              htl::loss_by_name("huber", {{"dleta", 1}});
            }),
            "htl::LossRegistry: loss \"huber\" has no option \"dleta\"; did you mean \"delta\"? Options: \"delta\"");
  EXPECT_EQ(sentence_of([] { htl::loss_by_name("squared", {{"delta", 1}}); }), "htl::LossRegistry: loss \"squared\" takes no options, got \"delta\"");
  EXPECT_EQ(sentence_of([] { htl::loss_by_name("softmax_cross_entropy"); }),
            "htl::LossRegistry: loss \"softmax_cross_entropy\" expects a whole number as the option \"classes\", got none");
  EXPECT_EQ(sentence_of([] {
              htl::loss_by_name("softmax_cross_entropy", {{"smoothing", .1}});
            }),
            "htl::LossRegistry: loss \"softmax_cross_entropy\" expects a whole number as the option \"classes\", got none (given: \"smoothing\")");
  EXPECT_EQ(sentence_of([] {
              htl::loss_by_name("softmax_cross_entropy", {{"smoothing", .1}, {"clases", 3}});
            }),
            "htl::LossRegistry: loss \"softmax_cross_entropy\" has no option \"clases\"; did you mean \"classes\"?");
  EXPECT_EQ(sentence_of([] {
              htl::loss_by_name("softmax_cross_entropy", {{"classes", 2.5}});
            }),
            "htl::LossRegistry: loss \"softmax_cross_entropy\", option \"classes\": expected a whole number ≥ 2, got 2.5");
  EXPECT_EQ(sentence_of([] {
              htl::loss_by_name("huber", {{"delta", -1}});
            }),
            "htl::LossRegistry: loss \"huber\", option \"delta\": expected a number > 0, got -1");
}

TEST(Gradcheck, sees_a_wrong_derivative_a_forgotten_one_and_noise) {
  Random random(6);
  const at::Tensor x = random.normal({2, 3});
  EXPECT_FALSE(gradcheck([](const auto& in) { return in[0].detach() * in[0]; }, {x}));
  EXPECT_FALSE(gradcheck([](const auto& in) { return in[0] + in[1].detach(); }, {x, x}));
  EXPECT_FALSE(gradcheck([](const auto& in) { return in[0] * torch::rand({3}); }, {x}));
  EXPECT_FALSE(gradcheck([](const auto& in) { return in[0].detach(); }, {x}));
  EXPECT_FALSE(gradcheck([](const auto& in) { return in[0].detach() * in[0]; }, {x}, {.cotangents = 2}));
  EXPECT_TRUE(gradcheck([](const auto& in) { return in[0].square() + in[1]; }, {x, x}, {.cotangents = 2}));
}

}  // namespace
