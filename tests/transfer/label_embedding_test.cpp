// SPDX-License-Identifier: Apache-2.0
/// @file label_embedding_test.cpp
/// @brief LabelEmbedding, Temperature and the names of policies: formulas, means over noise, extremes, gradients, state, sentences.
#include <htl/transfer/label_embedding.hpp>
#include <htl/transfer/transfer_policy.hpp>

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/serialize.h>
#include <support/gradcheck.hpp>
#include <support/seeded.hpp>

#include <cmath>
#include <sstream>

namespace htl {
namespace {

using test::close;
using test::close_to_reference;
using test::same_bits;
using test::sentence_of;

at::Tensor column(const std::vector<double>& values) { return at::tensor(values, at::kDouble).unsqueeze(1); }

LabelEmbedding unit_of(const LabelEmbeddingOptions& options, bool training, at::ScalarType type = at::kDouble) {
  LabelEmbedding unit(options);
  unit->to(type);
  unit->train(training);
  return unit;
}

/// E[σ((z + l)/τ)] over logistic noise l as it is written: the trapezoidal rule in long double, with 4 nodes in a length of min(1, τ). The integrand's poles
/// are at distance ≥ π min(1, τ), so its error is below e^(−8π²) = 1e-34, and rounding decides. (In quantiles of l the integrand has ends u^(1/τ), where no
/// rule with equal steps is better than 1e-6.)
double mean_over_noise(double z, double tau) {
  const long double step = 0.25L * std::min(1.0L, static_cast<long double>(tau));
  long double sum = 0;
  for (auto i = static_cast<int64_t>(-60 / step); static_cast<long double>(i) * step <= 60; ++i) {
    const long double l = static_cast<long double>(i) * step, e = std::exp(-std::abs(l));
    sum += e / ((1 + e) * (1 + e)) / (1 + std::exp(-(z + l) / tau));
  }
  return static_cast<double>(sum * step);
}

/// The same at τ = ½ in closed form: ∫ c²u²/(c²u² + (1 − u)²) du over u in (0, 1), c = e^z.
double mean_at_one_half(double z) {
  const double c = std::exp(z), d = c * c + 1;
  return c * c / d * (1 + 2 * z / d + (1 - c * c) / d * std::acos(-1.0) / (2 * c));
}

TEST(LabelEmbedding, HasTheGoldenWeightsOfATemperedProbability) {
  const at::Tensor z = column({std::log(4.0)});  // p = .8
  for (const auto& [tau, positive] : std::vector<std::pair<double, double>>{{10.0, .534602}, {1.0, .8}, {.5, .941176}}) {
    const auto options = LabelEmbeddingOptions().evaluation(LabelEvaluation::tempered).temperature(Temperature::constant(tau));
    LabelEmbedding unit = unit_of(options, false);
    EXPECT_TRUE(close(unit->weights(z), at::tensor({positive, 1 - positive}, at::kDouble).unsqueeze(0), 0, 1e-6)) << tau;
    EXPECT_TRUE(close(unit->forward(z), positive * unit->weight[0].unsqueeze(0) + (1 - positive) * unit->weight[1].unsqueeze(0), 0, 1e-5))
        << "row 0 is positive";
  }
}

TEST(LabelEmbedding, MixesItsRowsByItsWeightsInEveryMode) {
  test::Random random(1);
  const at::Tensor z = random.normal({40, 1}, 3.0), many = random.normal({40, 5}, 3.0);
  for (const auto evaluation : {LabelEvaluation::expected_soft, LabelEvaluation::plain, LabelEvaluation::tempered, LabelEvaluation::argmax})
    for (const double tau : {.3, 1.0, 4.0})
      for (const int64_t classes : {2, 5}) {
        LabelEmbedding unit = unit_of(LabelEmbeddingOptions(classes, 7).evaluation(evaluation).temperature(Temperature::constant(tau)), false);
        const at::Tensor& logits = classes == 2 ? z : many;
        const at::Tensor weights = unit->weights(logits);
        EXPECT_TRUE(close(unit->forward(logits), weights.mm(unit->weight), 1e-11, 1e-11)) << to_string(evaluation) << " " << tau << " " << classes;
        EXPECT_TRUE(close(weights.sum(1), at::ones({40}, at::kDouble)));
        EXPECT_TRUE((weights >= 0).all().item<bool>());
      }
  LabelEmbedding plain = unit_of(LabelEmbeddingOptions(5).evaluation(LabelEvaluation::plain).temperature(Temperature::constant(4)), false);
  EXPECT_TRUE(close(plain->weights(many), many.softmax(1)));
  LabelEmbedding hard = unit_of(LabelEmbeddingOptions(5).evaluation(LabelEvaluation::argmax), false);
  EXPECT_TRUE(at::equal(hard->weights(many).argmax(1), many.argmax(1)));
}

TEST(LabelEmbedding, ExpectedSoftIsTheMeanOverTheNoiseAtAnyTemperature) {
  const std::vector<double> logits{-30.0, -6.0, -2.0, -1.0001, -.9999, -1e-6, 0.0, .3, 2.0, 9.0, 40.0};
  for (const double tau : {.05, .3, .5, .999, 1.0, 1.001, 2.0, 10.0, 100.0}) {
    LabelEmbedding unit = unit_of(LabelEmbeddingOptions().temperature(Temperature::constant(tau)), false);
    const at::Tensor weights = unit->weights(column(logits)), embedding = unit->forward(column(logits)), table = unit->weight.detach();
    unit->to(at::kFloat);
    const at::Tensor in_float = unit->weights(column(logits).to(at::kFloat));
    for (size_t i = 0; i < logits.size(); ++i) {
      const auto row = static_cast<int64_t>(i);
      const double mean = mean_over_noise(logits[i], tau);
      EXPECT_NEAR(weights[row][0].item<double>(), mean, 1e-15) << "tau " << tau << ", z " << logits[i];
      EXPECT_NEAR(weights[row][1].item<double>(), 1 - mean, 1e-15) << "tau " << tau << ", z " << logits[i];
      EXPECT_TRUE(close(embedding[row], mean * table[0] + (1 - mean) * table[1], 0, 1e-14)) << "tau " << tau << ", z " << logits[i];
      EXPECT_NEAR(in_float[row][0].item<double>(), mean, 1e-6) << "tau " << tau << ", z " << logits[i];
      if (tau == .5) {
        EXPECT_NEAR(mean, mean_at_one_half(logits[i]), 1e-15) << "the reference itself, z " << logits[i];
      }
    }
  }
  EXPECT_EQ(detail::mean_weight(0.0).weight, 0.5);
}

TEST(LabelEmbedding, ClosedFormSeriesAndQuadratureAgreeToRounding) {
  const at::Tensor z = at::linspace(-45, 45, 4001, at::kDouble).unsqueeze(1).requires_grad_();
  const at::Tensor by_rule = detail::mean_weight(z, at::ones({}, at::kDouble));
  const at::Tensor slopes = torch::autograd::grad({by_rule}, {z}, {at::ones_like(by_rule)})[0];
  for (int64_t i = 0; i < z.size(0); ++i) {
    const auto [weight, slope] = detail::mean_weight(z[i].item<double>());
    ASSERT_NEAR(weight, by_rule[i].item<double>(), 1e-15) << z[i].item<double>();
    ASSERT_NEAR(slope, slopes[i].item<double>(), 1e-13) << z[i].item<double>();
  }
  EXPECT_NEAR(detail::mean_weight(1.0 - 1e-12).weight, detail::mean_weight(1.0 + 1e-12).weight, 2e-12);
  EXPECT_NEAR(detail::mean_weight(-50.0).weight / (49 * std::exp(-50.0)), 1.0, 1e-12) << "the small tail keeps its digits";
}

TEST(LabelEmbedding, SamplesHaveTheirMeans) {
  at::Generator generator = at::detail::createCPUGenerator(5);
  const int64_t rows = 400000;
  for (const double z : {-1.5, 0.0, 2.0}) {
    const at::Tensor logits = at::full({rows, 1}, z, at::kDouble);
    for (const double tau : {.5, 1.0, 3.0}) {
      const auto options = LabelEmbeddingOptions(2, 1).temperature(Temperature::constant(tau)).generator(generator);
      LabelEmbedding soft = unit_of(options, true);
      {
        const at::NoGradGuard no_grad;
        soft->weight.copy_(column({1.0, 0.0}));  // so that the result is the weight of row 0
      }
      const double mean = soft->forward(logits).mean().item<double>(), by_weights = soft->weights(logits).select(1, 0).mean().item<double>();
      soft->eval();
      const double expected = soft->forward(logits.slice(0, 0, 1)).item<double>();
      EXPECT_NEAR(mean, expected, 2.5e-3) << z << " " << tau;
      EXPECT_NEAR(by_weights, expected, 2.5e-3) << z << " " << tau;
      LabelEmbedding hard = unit_of(LabelEmbeddingOptions(options).hardness(LabelHardness::straight_through), true);
      const at::Tensor drawn = hard->weights(logits);
      EXPECT_TRUE(close(drawn.max(), at::ones({}, at::kDouble)) && close(drawn.min(), at::zeros({}, at::kDouble)));
      EXPECT_NEAR(drawn.select(1, 0).mean().item<double>(), 1 / (1 + std::exp(-z)), 2.5e-3) << "the mean of hard samples is p";
    }
  }
  const at::Tensor logits = at::tensor({1.0, 0.0, -1.0, .5}, at::kDouble).expand({rows, 4});
  for (const auto hardness : {LabelHardness::soft, LabelHardness::straight_through}) {
    LabelEmbedding unit = unit_of(LabelEmbeddingOptions(4).hardness(hardness).generator(generator), true);
    const at::Tensor mean = unit->weights(logits).mean(0);
    unit->eval();
    EXPECT_TRUE(close(mean, unit->weights(logits.slice(0, 0, 1))[0], 0, 3e-3));
    if (hardness == LabelHardness::straight_through) {
      EXPECT_TRUE(close(mean, logits[0].softmax(0), 0, 3e-3));
    }
  }
}

TEST(LabelEmbedding, MeanOfManyClassesIsTheMeanOverTheNoise) {
  test::Random random(2);
  // three classes: an integral over the differences of the noise, whose density is 2abc with (a, b, c) = softmax(−d1, −d2, 0), exact to rounding
  for (const double tau : {.5, .9, 1.0, 1.3, 5.0})
    for (int trial = 0; trial < 4; ++trial) {
      const at::Tensor z = random.normal({1, 3}, 2.0), d = at::arange(-42.0, 42.0, .4 * std::min(1.0, tau), at::kDouble);
      const double step = d[1].item<double>() - d[0].item<double>();
      const at::Tensor first = d.unsqueeze(1).expand({-1, d.numel()}).flatten(), second = d.repeat({d.numel()}), none = at::zeros_like(first);
      const at::Tensor density = at::stack({-first, -second, none}, 1).softmax(1).prod(1) * (2 * step * step);
      const at::Tensor mean = density.unsqueeze(0).mm(((z + at::stack({first, second, none}, 1)) / tau).softmax(1));
      EXPECT_NEAR(mean.sum().item<double>(), 1.0, 1e-13);
      LabelEmbedding unit = unit_of(LabelEmbeddingOptions(3).temperature(Temperature::constant(tau)), false);
      EXPECT_TRUE(close(unit->weights(z), mean, 0, 3e-8)) << "tau " << tau;  // 9e-9 is the largest seen
    }
  const int64_t draws = 300000;
  for (const int64_t classes : {4, 6})
    for (const double tau : {.5, 1.0, 5.0}) {
      const at::Tensor z = random.normal({1, classes}, 2.0), noise = -(-random.uniform({draws, classes}).clamp_min(1e-300).log()).log();
      const at::Tensor mean = ((z + noise) / tau).softmax(1).mean(0, true);
      LabelEmbedding unit = unit_of(LabelEmbeddingOptions(classes).temperature(Temperature::constant(tau)), false);
      EXPECT_TRUE(close(unit->weights(z), mean, 0, 3e-3)) << classes << " classes, tau " << tau;
    }
}

TEST(LabelEmbedding, MeanOfManyClassesAgreesWithTheBinaryOneAndItsLimits) {
  const at::Tensor z = at::linspace(-12, 12, 97, at::kDouble).unsqueeze(1), two = at::cat({z, at::zeros_like(z)}, 1);
  for (const double tau : {.01, .3, .9, 1.0, 1.1, 3.0, 10.0, 100.0}) {
    const at::Tensor temperature = at::full({}, tau, at::kDouble), mean = detail::mean_weight(z, temperature);
    EXPECT_TRUE(close(detail::mean_weights_of_classes(two, temperature), at::cat({mean, 1 - mean}, 1), 0, 3e-8)) << tau;
    // a third class that never wins changes nothing
    const at::Tensor three = detail::mean_weights_of_classes(at::cat({two, two.amin(1, true) - 200 * std::max(1.0, tau)}, 1), temperature);
    EXPECT_TRUE(close(three.slice(1, 0, 2), at::cat({mean, 1 - mean}, 1), 0, 3e-8)) << tau;
  }
  test::Random random(9);
  const at::Tensor many = random.normal({20, 7}, 2.0);
  EXPECT_TRUE(close(detail::mean_weights_of_classes(many, at::full({}, 1e-4, at::kDouble)), many.softmax(1), 0, 1e-6)) << "cold: the probability of winning";
  EXPECT_TRUE(close(detail::mean_weights_of_classes(many, at::full({}, 1e6, at::kDouble)), at::full({20, 7}, 1.0 / 7, at::kDouble), 0, 1e-4)) << "hot: equal";
  EXPECT_TRUE(
      close(detail::mean_weights_of_classes(many + 1e3, at::ones({}, at::kDouble)), detail::mean_weights_of_classes(many, at::ones({}, at::kDouble)), 0, 1e-9));
  const at::Tensor tall = random.normal({20000, 7}), all = detail::mean_weights_of_classes(tall, at::ones({}, at::kDouble));  // blocks of rows
  for (const int64_t row : {0, 9361, 9362, 19999})
    EXPECT_TRUE(close(all[row].unsqueeze(0), detail::mean_weights_of_classes(tall.narrow(0, row, 1), at::ones({}, at::kDouble)))) << row;
}

TEST(LabelEmbedding, EvaluatesAsItTrainsUnlessTold) {
  const auto of = [](LabelNoise noise, LabelHardness hardness) {
    return LabelEmbedding(LabelEmbeddingOptions().noise(noise).hardness(hardness))->evaluation();
  };
  EXPECT_EQ(of(LabelNoise::gumbel, LabelHardness::soft), LabelEvaluation::expected_soft);
  EXPECT_EQ(of(LabelNoise::gumbel, LabelHardness::straight_through), LabelEvaluation::plain);
  EXPECT_EQ(of(LabelNoise::none, LabelHardness::soft), LabelEvaluation::tempered);
  EXPECT_EQ(of(LabelNoise::none, LabelHardness::straight_through), LabelEvaluation::argmax);
  EXPECT_EQ(LabelEmbedding(LabelEmbeddingOptions().evaluation(LabelEvaluation::plain))->evaluation(), LabelEvaluation::plain);
  test::Random random(3);
  const at::Tensor z = random.normal({9, 1});
  LabelEmbedding unit = unit_of(LabelEmbeddingOptions().noise(LabelNoise::none).temperature(Temperature::constant(2)), true);
  const at::Tensor in_training = unit->forward(z);
  unit->eval();
  EXPECT_TRUE(same_bits(in_training, unit->forward(z)));
}

TEST(LabelEmbedding, StaysFiniteAtTheEndsInEveryType) {
  for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16})
    for (const int64_t classes : {2, 3})
      for (const bool training : {true, false})
        for (const auto hardness : {LabelHardness::soft, LabelHardness::straight_through})
          for (const double tau : {.01, 1.0, 10.0}) {
            LabelEmbedding unit = unit_of(LabelEmbeddingOptions(classes).hardness(hardness).temperature(Temperature::constant(tau)), training, type);
            unit->options.evaluation(LabelEvaluation::expected_soft);
            at::Tensor z = column({-3e38, -1e30, -700, -80, -1e-30, 0, 1e-30, 80, 700, 1e30, 3e38});
            if (classes == 3) z = at::cat({z, -z, at::zeros_like(z)}, 1);
            const at::Tensor logits = z.to(type).requires_grad_();
            const at::Tensor result = unit->forward(logits);
            EXPECT_EQ(result.scalar_type(), type);
            EXPECT_TRUE(result.isfinite().all().item<bool>()) << type << " " << classes << " " << training << " " << tau;
            result.sum().backward();
            EXPECT_TRUE(logits.grad().isfinite().all().item<bool>()) << type << " " << classes << " " << training << " " << tau;
            EXPECT_TRUE(unit->weight.grad().isfinite().all().item<bool>());
          }
  LabelEmbedding unit = unit_of(LabelEmbeddingOptions(), false, at::kFloat);
  EXPECT_TRUE(unit->forward(at::full({1, 1}, std::nanf(""))).isnan().all().item<bool>()) << "a lost model must not look healthy";
}

TEST(LabelEmbedding, AgreesWithFiniteDifferences) {
  test::Random random(4);
  for (const int64_t classes : {2, 4})
    for (const bool training : {true, false})
      for (const auto evaluation : {LabelEvaluation::expected_soft, LabelEvaluation::plain, LabelEvaluation::tempered})
        for (const double tau : {.7, 1.0, 2.0}) {
          LabelEmbedding unit = unit_of(LabelEmbeddingOptions(classes, 3).evaluation(evaluation).temperature(Temperature::constant(tau)), training);
          const auto run = [&](const std::vector<at::Tensor>& x) {
            at::manual_seed(6);
            unit->weight = x[1];  // so that the table's gradient arrives there
            return unit->forward(x[0]);
          };
          EXPECT_TRUE(test::gradcheck(run, {random.normal({4, classes == 2 ? 1 : classes}, 2.0), random.normal({classes, 3})}))
              << classes << " " << training << " " << to_string(evaluation) << " " << tau;
        }
}

TEST(LabelEmbedding, WeightsOfEverySampleSumToOne) {
  test::Random random(12);
  for (const int64_t classes : {2, 5})
    for (const auto hardness : {LabelHardness::soft, LabelHardness::straight_through})
      for (const auto noise : {LabelNoise::gumbel, LabelNoise::none})
        for (const double tau : {.1, 1.0, 7.0}) {
          const auto options = LabelEmbeddingOptions(classes, 1).hardness(hardness).noise(noise).temperature(Temperature::constant(tau));
          LabelEmbedding unit = unit_of(options, true);
          const at::Tensor z = random.normal({300, classes == 2 ? 1 : classes}, 3.0), weights = unit->weights(z);
          EXPECT_TRUE(close(weights.sum(1), at::ones({300}, at::kDouble)));
          EXPECT_TRUE((weights >= 0).all().item<bool>());
          const at::NoGradGuard no_grad;
          unit->weight.fill_(1.0);  // so that the result is the sum of the weights
          EXPECT_TRUE(close(unit->forward(z), at::ones({300, 1}, at::kDouble)));
        }
}

TEST(LabelEmbedding, LoopsEqualTheTensorFormInValueAndGradient) {
  test::Random random(7);
  for (int trial = 0; trial < 120; ++trial) {
    const at::ScalarType type = trial % 2 == 0 ? at::kDouble : at::kFloat;
    const int64_t rows = random.pick<int64_t>({0, 1, 5, 700, 3000}), dim = random.integer(1, 17);
    detail::LabelRule rule;
    rule.form =
        random.pick<detail::LabelForm>({detail::LabelForm::soft, detail::LabelForm::straight_through, detail::LabelForm::argmax, detail::LabelForm::mean});
    rule.temperature = rule.form == detail::LabelForm::mean ? 1.0 : random.real(.2, 4);
    const at::Tensor z = random.normal({rows, 1}, 4.0, type).requires_grad_(), table = random.normal({2, dim}, 1.0, type).requires_grad_(),
                     cotangent = random.normal({rows, dim}, 1.0, type);
    const at::Tensor loops = detail::BinaryLabelFunction::apply(z, table, rule, detail::RandomStream{});
    const at::Tensor tensors = detail::label_weights(z.to(at::kDouble), rule, {}).mm(table.to(at::kDouble));
    EXPECT_TRUE(close_to_reference(loops, tensors)) << trial << " " << type;
    const auto ours = torch::autograd::grad({loops}, {z, table}, {cotangent});
    const auto theirs = torch::autograd::grad({tensors}, {z, table}, {cotangent.to(at::kDouble)}, {}, false, /*allow_unused=*/true);
    EXPECT_TRUE(close_to_reference(ours[0], theirs[0].defined() ? theirs[0] : at::zeros_like(z))) << trial << " " << type;
    EXPECT_TRUE(close_to_reference(ours[1], theirs[1])) << trial << " " << type;
  }
}

TEST(LabelEmbedding, NoiseEntersTheLoopsAsALogisticVariable) {
  const detail::RandomStream stream{42};
  const at::Tensor z = at::linspace(-2, 2, 9, at::kDouble).unsqueeze(1), table = column({1.0, 0.0});
  detail::LabelRule rule{.form = detail::LabelForm::soft, .is_noisy = true, .temperature = 1.7};
  const at::Tensor weights = detail::BinaryLabelFunction::apply(z, table, rule, stream);
  for (int64_t row = 0; row < 9; ++row) {
    const double u = stream.uniform(static_cast<uint64_t>(row));
    EXPECT_NEAR(weights[row].item<double>(), 1 / (1 + std::exp(-(z[row].item<double>() + std::log(u / (1 - u))) / 1.7)), 1e-14);
  }
}

TEST(LabelEmbedding, StraightThroughShowsOneRowAndTeachesSoftly) {
  at::Generator generator = at::detail::createCPUGenerator(8);
  for (const int64_t classes : {2, 3}) {
    const auto options = LabelEmbeddingOptions(classes, 4).hardness(LabelHardness::straight_through).generator(generator);
    LabelEmbedding unit = unit_of(options, true);
    const at::Tensor logits = at::randn({50, classes == 2 ? 1 : classes}, at::kDouble).requires_grad_();
    const at::Tensor result = unit->forward(logits);
    for (int64_t row = 0; row < 50; ++row) {
      const at::Tensor distance = (unit->weight - result[row]).abs().amax(1);
      EXPECT_LT(distance.min().item<double>(), 1e-12) << "each result is a row of the table";
    }
    EXPECT_GT(torch::autograd::grad({result.sum()}, {logits})[0].abs().min().item<double>(), 0.0);
  }
}

TEST(LabelEmbedding, DrawsOnlyInTrainingAndFromItsGenerator) {
  const at::Tensor z = at::randn({300, 1});
  const auto options = LabelEmbeddingOptions();
  LabelEmbedding unit = unit_of(options, true, at::kFloat);
  unit->options.generator(at::detail::createCPUGenerator(3));
  const at::Tensor first = unit->forward(z), second = unit->forward(z);
  EXPECT_FALSE(at::equal(first, second));
  unit->options.generator(at::detail::createCPUGenerator(3));
  EXPECT_TRUE(same_bits(first, unit->forward(z)));
  unit->eval();
  at::Tensor before = at::detail::getDefaultCPUGenerator().get_state();
  EXPECT_TRUE(same_bits(unit->forward(z), unit->forward(z)));
  EXPECT_TRUE(at::equal(before, at::detail::getDefaultCPUGenerator().get_state()));
}

TEST(LabelEmbedding, CountsTrainingStepsAndFollowsItsSchedule) {
  LabelEmbedding unit(LabelEmbeddingOptions().noise(LabelNoise::none).temperature(Temperature::exponential(10, .5, 2, 2)));
  const at::Tensor z = at::full({1, 1}, 3.0);
  std::vector<double> seen;
  for (int i = 0; i < 8; ++i) {
    seen.push_back(unit->temperature());
    const double expected = 1 / (1 + std::exp(-3.0 / unit->temperature()));
    const double q = ((unit->forward(z) - unit->weight[1]) / (unit->weight[0] - unit->weight[1])).mean().item<double>();
    EXPECT_NEAR(q, expected, 1e-5);
  }
  EXPECT_EQ(seen, (std::vector<double>{10, 10, 5, 5, 2.5, 2.5, 2, 2}));
  EXPECT_EQ(unit->step.item<int64_t>(), 8);
  unit->eval();
  unit->forward(z);
  EXPECT_EQ(unit->step.item<int64_t>(), 8);
}

TEST(LabelEmbedding, KeepsItsStepThroughCastsClonesAndFiles) {
  LabelEmbedding unit(LabelEmbeddingOptions(3, 4)), other(LabelEmbeddingOptions(3, 4));
  unit->step.fill_(7583333);
  const at::Tensor table = unit->weight.detach().clone();
  const auto holds = [](const LabelEmbeddingImpl& module) {
    return module.step.scalar_type() == at::kLong && module.step.item<int64_t>() == 7583333 && module.named_buffers()["step"].item<int64_t>() == 7583333;
  };
  unit->to(at::kDouble);
  EXPECT_TRUE(holds(*unit));
  unit->to(at::kCPU, at::kFloat);
  EXPECT_TRUE(holds(*unit) && same_bits(unit->weight, table));
  const auto copy = std::dynamic_pointer_cast<LabelEmbeddingImpl>(unit->clone());
  EXPECT_TRUE(holds(*copy) && same_bits(copy->weight, table));
  std::stringstream stream;
  torch::save(unit, stream);
  torch::load(other, stream);
  EXPECT_TRUE(holds(*other) && same_bits(other->weight, table));
  struct Parent : torch::nn::Module {};
  Parent parent;
  parent.register_module("unit", unit.ptr());
  parent.to(at::kBFloat16);
  EXPECT_TRUE(holds(*unit)) << "through a parent's to() as well";
  EXPECT_EQ(unit->weight.scalar_type(), at::kBFloat16);
  unit->forward(at::zeros({2, 3}, at::kBFloat16));
  EXPECT_EQ(unit->named_buffers()["step"].item<int64_t>(), 7583334) << "the module counts in the buffer that is saved";
  copy->forward(at::zeros({2, 3}));
  EXPECT_EQ(unit->step.item<int64_t>(), 7583334) << "a clone counts for itself";
}

TEST(LabelEmbedding, WorksUnderAutocastAndOnNoRow) {
  LabelEmbedding unit(LabelEmbeddingOptions(2, 6));
  unit->eval();
  const at::Tensor z = at::randn({5, 1});
  at::autocast::set_autocast_enabled(at::kCPU, true);
  const at::Tensor cast = unit->forward(z.to(at::kBFloat16));
  at::autocast::set_autocast_enabled(at::kCPU, false);
  at::autocast::clear_cache();
  EXPECT_TRUE(close(cast, unit->forward(z), .05, .05));
  for (const bool training : {true, false}) {
    unit->train(training);
    const at::Tensor none = unit->forward(at::zeros({0, 1}));
    EXPECT_EQ(none.sizes(), (std::vector<int64_t>{0, 6}));
    unit->zero_grad();
    none.sum().backward();
    EXPECT_EQ(unit->weight.grad().abs().sum().item<double>(), 0.0);
  }
}

TEST(LabelEmbedding, PrintsItselfAndSaysWhatIsWrong) {
  std::ostringstream text;
  text << *LabelEmbedding(LabelEmbeddingOptions(2, 10).temperature(Temperature::exponential(10, .9, 5000, .5)));
  EXPECT_EQ(text.str(),
            "htl::LabelEmbedding(classes=2, dim=10, noise=gumbel, hardness=soft, temperature=exponential:10,0.9,5000,0.5, evaluation=expected_soft)");
  EXPECT_EQ(sentence_of([] { LabelEmbedding(LabelEmbeddingOptions(1)); }), "htl::LabelEmbedding: expected at least 2 classes, got 1");
  EXPECT_EQ(sentence_of([] { LabelEmbedding(LabelEmbeddingOptions(2, 0)); }), "htl::LabelEmbedding: expected at least 1 dimension, got 0");
  LabelEmbedding unit;
  EXPECT_EQ(sentence_of([&] {
              unit->forward(at::zeros({3, 2}));
            }),
            "htl::LabelEmbedding: expected one logit a row for a binary task: logits of shape [any, 1], got [3, 2]");
  EXPECT_EQ(sentence_of([&] { unit->forward(at::zeros({3, 1}, at::kLong)); }), "htl::LabelEmbedding: expected floating-point logits, got Long");
  const at::Tensor z = at::zeros({3, 1}).requires_grad_();
  EXPECT_NE(sentence_of([&] { torch::autograd::grad({unit->forward(z).sum()}, {z}, {}, true, true); }).find("has no second derivative"), std::string::npos);
}

TEST(Temperature, FollowsItsFormulas) {
  const Temperature exponential = Temperature::exponential(10, .9, 5000, .5), linear = Temperature::linear(10, .5, 100);
  EXPECT_EQ(Temperature().at(123), 1.0);
  EXPECT_EQ(exponential.at(4999), 10.0);
  EXPECT_DOUBLE_EQ(exponential.at(5000), 9.0);
  EXPECT_DOUBLE_EQ(exponential.at(12000), 8.1);
  EXPECT_EQ(exponential.at(10000000), .5);
  EXPECT_EQ(linear.at(0), 10.0);
  EXPECT_DOUBLE_EQ(linear.at(50), 5.25);
  EXPECT_DOUBLE_EQ(linear.at(1000), .5);
  for (const Temperature& schedule : {exponential, linear, Temperature::constant(2)})
    for (const int64_t step : {0, 1, 50, 4999, 5000, 123456})
      EXPECT_NEAR(schedule.at(at::full({}, step, at::kLong)).item<double>(), schedule.at(step), 1e-5) << schedule.to_string() << " on a device";
  EXPECT_TRUE(Temperature::constant(3).is_constant() && !linear.is_constant());
}

TEST(Temperature, ReadsWhatItWritesAndSaysWhatIsWrong) {
  for (const std::string text : {"constant:0.1", "exponential:10,0.9,5000,0.5", "linear:10,0.5,50000"}) EXPECT_EQ(Temperature::parse(text).to_string(), text);
  EXPECT_EQ(Temperature::parse("2.5").to_string(), "constant:2.5");
  for (const std::string text :
       {"", "warm", "constant:", "constant:1,2", "linear:1,2", "linear:1,2,2.5", "exponential:10,0.9,0,0.5", "linear:1,2,3x", "linear:1,2,3,"})
    EXPECT_EQ(
        sentence_of([&] { Temperature::parse(text); }),
        "htl::Temperature: can't read \"" + text +
            "\"; write \"constant:VALUE\", \"exponential:START,FACTOR,EVERY,FLOOR\" or \"linear:START,END,STEPS\", for example \"exponential:10,0.9,5000,0.5\"");
  for (const std::string text :
       {"constant:0", "constant:-1", "constant:nan", "constant:inf", "exponential:1,0.9,5,2", "exponential:10,1.5,5,1", "linear:1,0,5"})
    EXPECT_EQ(sentence_of([&] { Temperature::parse(text); }).find("htl::Temperature: expected temperatures > 0"), 0u) << text;
}

TEST(TransferPolicy, ReadsNamesAndNamesTheNearest) {
  for (const std::string name : {"inputs", "label_output", "fusion_output", "none"}) EXPECT_EQ(to_string(stop_gradient(name)), name);
  for (const std::string name : {"both", "representation", "label", "none"}) EXPECT_EQ(to_string(transfer(name)), name);
  for (const std::string name : {"gumbel", "none"}) EXPECT_EQ(to_string(label_noise(name)), name);
  for (const std::string name : {"soft", "straight_through"}) EXPECT_EQ(to_string(label_hardness(name)), name);
  for (const std::string name : {"expected_soft", "plain", "tempered", "argmax"}) EXPECT_EQ(to_string(label_evaluation(name)), name);
  EXPECT_EQ(sentence_of([] { stop_gradient("label_ouput"); }),
            "htl::stop_gradient: unknown value \"label_ouput\"; did you mean \"label_output\"? "
            "Known: \"inputs\", \"label_output\", \"fusion_output\", \"none\"");
  EXPECT_EQ(sentence_of([] { transfer("labels"); }),
            "htl::transfer: unknown value \"labels\"; did you mean \"label\"? Known: \"both\", \"representation\", \"label\", \"none\"");
}

}  // namespace
}  // namespace htl
