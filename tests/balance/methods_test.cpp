// SPDX-License-Identifier: Apache-2.0
// Every balancer's method by itself: golden numbers, gradients of the closed formulas by autograd, plain loops over many steps, inactive tasks, floors, names.
#include <htl/balance/built_in_balancers.hpp>

#include <support/gradcheck.hpp>
#include <support/seeded.hpp>

#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <numbers>

namespace {

using namespace htl;
using namespace htl::test;
using at::Tensor;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

static_assert(StatelessBalance<PBIBalance> && StatefulBalance<DWABalance> && LearnedBalance<UncertaintyBalance> && LearnedBalance<AnyBalance>);
static_assert(!BalanceMethod<int> && !BalanceMethod<RandomWeighting> && !std::convertible_to<RandomWeighting, AnyBalance> &&
              std::is_nothrow_move_constructible_v<AnyBalance>);
static_assert(BalanceObserver<FAMOBalance> && BalanceObserver<AnyBalance> && !BalanceObserver<DWABalance> && !BalanceObserver<RandomBalance>);
static_assert(EpochBalance<DWABalance> && EpochBalance<STCHBalance> && !EpochBalance<FAMOBalance>);

Tensor row(std::initializer_list<double> values) { return at::tensor(std::vector<double>(values), at::kDouble); }
Tensor mask(std::initializer_list<int> values) { return at::tensor(std::vector<int>(values), at::kInt).to(at::kBool); }
::testing::AssertionResult golden(const Tensor& result, std::initializer_list<double> values) { return close(result, row(values), 0.0, 1e-6); }
::testing::AssertionResult golden(const Tensor& result, double value) { return close(result, at::scalar_tensor(value, at::kDouble), 0.0, 1e-6); }
/// Σ w L + c, or the total that the method gives.
Tensor total_of(const BalanceTerms& terms, const Tensor& losses) {
  if (terms.total.defined()) return terms.total;
  return (terms.weights * losses).sum() + (terms.offsets.defined() ? terms.offsets.sum() : at::zeros({}, at::kDouble));
}
/// Random losses of T tasks, of which some may be inactive, whose losses are then NaN.
BalanceInput random_input(Random& random, int64_t tasks) {
  BalanceInput input{.losses = random.uniform({tasks}, 0.05, 3.0)};
  if (random.chance(0.6)) {
    input.active = random.mask({tasks}, 0.7);
    input.losses = input.losses.masked_fill(input.active.logical_not(), nan);
  }
  return input;
}
Tensor active_positions(const BalanceInput& input) { return input.active.defined() ? input.active.nonzero().squeeze(1) : at::arange(input.tasks(), at::kLong); }
std::vector<double> numbers(const Tensor& tensor) { return {tensor.const_data_ptr<double>(), tensor.const_data_ptr<double>() + tensor.numel()}; }

class BalanceMethods : public Seeded {
 protected:
  const Tensor losses = row({2., .5, 1.}), s = row({.2, -.1, 0.});
};

// ----------------------------------------------------------------------------------------------------------------------- golden numbers

TEST_F(BalanceMethods, OfLearnedNumbersGiveTheGoldenNumbers) {
  const BalanceInput input{.losses = losses, .kinds = {TaskKind::regression, TaskKind::binary, TaskKind::multiclass}};
  const auto total = [&](const auto& method) { return total_of(method.weights(input, s), losses); };
  EXPECT_TRUE(golden(total(UncertaintyBalance{}), 1.645023));
  EXPECT_TRUE(golden(UncertaintyBalance{}.weights(input, s).weights, {.409365, .552585, .5}));
  EXPECT_TRUE(golden(total(UncertaintyBalance{.form = UncertaintyForm::kendall}), 2.421316));
  EXPECT_TRUE(golden(total(UncertaintyBalance{.form = UncertaintyForm::liebel}), 3.730706));
  EXPECT_TRUE(golden(2.0 * total(UncertaintyBalance{.form = UncertaintyForm::classification, .bounds = {.low = 0.0}}), 6.474923)) << "torch-rechub's";
  EXPECT_TRUE(golden(total(IMTLLBalance{}), 3.795224));
  const Tensor learned = s.clone().requires_grad_();
  total_of(UncertaintyBalance{}.weights(input, learned), losses).backward();
  EXPECT_TRUE(golden(learned.grad(), {-.318731, .223707, 0.}));
  EXPECT_TRUE(golden(total_of(balance(UncertaintyBalance{}, {.losses = row({1., 2., 4.})}), row({1., 2., 4.})), 3.5)) << "TorchJD's test";
  EXPECT_TRUE(golden(total_of(balance(IMTLLBalance{}, {.losses = row({1., 2., 4.})}), row({1., 2., 4.})), 7.0)) << "TorchJD's test";
}

TEST_F(BalanceMethods, OfFormulasGiveTheGoldenNumbers) {
  const auto expect = [&](const AnyBalance& method, double total, std::initializer_list<double> weights) {
    const BalanceTerms terms = balance(method, {.losses = losses});
    EXPECT_TRUE(golden(terms.weights, weights)) << method.name();
    EXPECT_TRUE(golden(terms.total, total)) << method.name();
  };
  expect(GeometricMeanBalance{}, 1.0, {.166667, .666667, .333333});
  expect(STCHBalance{.mu = .5}, .982647, {.177183, .065182, .090969});
  expect(FAMOBalance{}, 0.0, {.142857, .571429, .285714});
  expect(ScaleInvariantBalance{}, 0.0, {.5, 2., 1.});
  expect(ScaleInvariantBalance{.offset = 1.0}, std::log(9.0), {1. / 3., 1. / 1.5, .5});
  EXPECT_TRUE(golden(balance(COSMOSBalance{}, {.losses = losses}).total, .28475));
  const BalanceTerms pbi = balance(PBIBalance{.theta = 5.0}, {.losses = losses});
  EXPECT_TRUE(golden(pbi.total, 7.421343));
  EXPECT_TRUE(golden(balance(PBIBalance{.theta = 0.0}, {.losses = losses}).total, 2.020726));
}

TEST_F(BalanceMethods, PBIDrivesNoLossUpByItsDefault) {
  Random random(13);
  for (int64_t tasks = 1; tasks <= 8; ++tasks)
    for (int i = 0; i < 40; ++i) {
      const BalanceInput input = random_input(random, tasks);
      const Tensor weights = PBIBalance{}.weights(input).weights;
      for (int64_t t = 0; t < tasks; ++t) EXPECT_TRUE((input.active.defined() && !input.active[t].item<bool>()) || weights[t].item<double>() > 0.0) << tasks;
    }
  EXPECT_LT(PBIBalance{.theta = 5.0}.weights({.losses = losses}).weights.min().item<double>(), 0.0);
}

TEST_F(BalanceMethods, OfTimeGiveTheGoldenNumbers) {
  const DWABalance dwa;
  DWABalance::State state;
  for (const Tensor& epoch : {row({1., 2., .5}), row({.9, 1., .6})}) {
    for (const double factor : {.5, 1.5}) EXPECT_TRUE(same_bits(dwa.weights({.losses = epoch * factor}, state).weights, row({1., 1., 1.})));
    dwa.end_epoch(state);
  }
  const BalanceTerms terms = dwa.weights({.losses = losses}, state);
  EXPECT_TRUE(golden(terms.weights, {1.006521, .824069, 1.16941}));
  EXPECT_TRUE(golden(total_of(terms, losses), 3.594486));

  const FAMOBalance famo{.weight_decay = 0.0};
  FAMOBalance::State its;
  famo.weights({.losses = losses}, its);
  famo.observe(row({1.8, .52, .7}), its);
  EXPECT_TRUE(golden(its.logits, {.025, .025, -.025}));
  const Tensor z = its.logits.softmax(0), parts = z / (losses + 1e-8);
  EXPECT_TRUE(golden(z, {.338842, .338842, .322316}));
  EXPECT_TRUE(close(famo.weights({.losses = losses}, its).weights, parts / parts.sum(), 1e-12, 0.0));
}

// ----------------------------------------------------------------------------------------------- weights are the gradients of the formulas

/// A formula of the active tasks' losses [n]; `of` takes those tasks' numbers of an option [T].
using Formula = std::function<Tensor(const Tensor& losses, const std::function<Tensor(const std::vector<double>&)>& of)>;

void expect_gradient(const std::string& name, const std::function<AnyBalance(const std::vector<double>& option, double number)>& make,
                     const std::function<Formula(const std::vector<double>& option, double number)>& formula) {
  SCOPED_TRACE(name);
  Random random(7);
  for (int repetition = 0; repetition < 200; ++repetition) {
    SCOPED_TRACE(repetition);
    const int64_t tasks = 1 + repetition % 8;
    const BalanceInput input = random_input(random, tasks);
    const std::vector<double> option = numbers(random.uniform({tasks}, 0.1, 2.0));
    const double number = random.real(0.2, 3.0);
    const Tensor positions = active_positions(input), active = input.losses.index_select(0, positions).requires_grad_();
    const BalanceTerms terms = balance(make(option, number), input);
    ASSERT_EQ(terms.weights.sizes(), input.losses.sizes());
    if (positions.numel() == 0) {
      ASSERT_EQ(total_of(terms, at::zeros({tasks}, at::kDouble)).isfinite().item<bool>(), true);
      continue;
    }
    const auto of = [&](const std::vector<double>& values) { return at::tensor(values, at::kDouble).index_select(0, positions); };
    const Tensor value = formula(option, number)(active, of);
    value.backward();
    const double scale = std::max(1.0, active.grad().abs().max().item<double>());
    ASSERT_TRUE(close(terms.weights.index_select(0, positions), active.grad(), 1e-11, 1e-11 * scale));
    ASSERT_TRUE(close(terms.total, value.detach(), 1e-11, 1e-11));
  }
}

TEST_F(BalanceMethods, OfFormulasHaveTheirGradientForOneToEightTasks) {
  using Numbers = std::vector<double>;
  expect_gradient(
      "geometric mean", [](const Numbers&, double) { return GeometricMeanBalance{}; },
      [](const Numbers&, double) { return [](const Tensor& l, const auto&) { return l.prod().pow(1.0 / static_cast<double>(l.numel())); }; });
  expect_gradient(
      "scale invariant", [](const Numbers&, double offset) { return ScaleInvariantBalance{.offset = offset}; },
      [](const Numbers&, double offset) { return [=](const Tensor& l, const auto&) { return (l + offset).log().sum(); }; });
  expect_gradient(
      "cosmos", [](const Numbers& r, double lambda) { return COSMOSBalance{.lambda = lambda, .preferences = r}; },
      [](const Numbers& r, double lambda) {
        return [=](const Tensor& l, const auto& of) { return (of(r) * l).sum() - lambda * (of(r) * l).sum() / of(r).norm() / l.norm(); };
      });
  const auto pbi = [](const Tensor& l, const Tensor& preference, const Tensor& ideal, double theta) {
    const Tensor unit = preference / preference.norm(), along = ((l - ideal) * unit).sum();
    return along + theta * ((l - ideal - along * unit).square().sum() + 1e-12).sqrt();
  };
  expect_gradient(
      "pbi", [](const Numbers& p, double theta) { return PBIBalance{.theta = theta, .preferences = p}; },
      [=](const Numbers& p, double theta) { return [=](const Tensor& l, const auto& of) { return pbi(l, of(p), at::zeros_like(l), theta); }; });
  expect_gradient(
      "pbi with an ideal", [](const Numbers& z, double theta) { return PBIBalance{.theta = theta, .ideal = z}; },
      [=](const Numbers& z, double theta) { return [=](const Tensor& l, const auto& of) { return pbi(l, at::ones_like(l), of(z), theta); }; });
}

TEST_F(BalanceMethods, OfSmoothMaximaHaveTheirGradientForOneToEightTasks) {
  using Numbers = std::vector<double>;
  expect_gradient(
      "stch", [](const Numbers& p, double mu) { return STCHBalance{.mu = mu, .preferences = p, .ideal = {.25}}; },
      [](const Numbers& p, double mu) { return [=](const Tensor& l, const auto& of) { return mu * (of(p) * (l - .25) / mu).exp().sum().log(); }; });
  expect_gradient(
      "stch with a nadir", [](const Numbers& n, double mu) { return STCHBalance{.mu = mu, .nadir = n, .scale = WeightScale::tasks}; },
      [](const Numbers& n, double mu) {
        return [=](const Tensor& l, const auto& of) { return static_cast<double>(l.numel()) * mu * ((l / of(n)).log() / mu).exp().sum().log(); };
      });
  expect_gradient(
      "famo", [](const Numbers&, double) { return FAMOBalance{}; },
      [](const Numbers&, double) {
        return [](const Tensor& l, const auto&) {
          const double z = 1.0 / static_cast<double>(l.numel());
          const Tensor distance = l + 1e-8, c = 1.0 / (z / distance.detach()).sum();
          return c * (z * distance.log()).sum();
        };
      });
}

TEST_F(BalanceMethods, OfLearnedNumbersHaveTheGradientsOfTheirFormulas) {
  Random random(8);
  for (int repetition = 0; repetition < 40; ++repetition) {
    SCOPED_TRACE(repetition);
    const int64_t tasks = 1 + repetition % 8;
    BalanceInput input{.losses = random.uniform({tasks}, 0.05, 3.0)};
    for (int64_t t = 0; t < tasks; ++t) input.kinds.push_back(random.pick<TaskKind>({TaskKind::regression, TaskKind::binary, TaskKind::multiclass}));
    std::vector<double> halves;
    for (const TaskKind kind : input.kinds) halves.push_back(kind == TaskKind::regression ? .5 : 1.);
    const Tensor l = input.losses, half = at::tensor(halves, at::kDouble), at_s = random.normal({tasks});
    const auto expect = [&](const AnyBalance& method, const std::function<Tensor(const Tensor&)>& formula) {
      AnyBalance::State state = method.initial_state();
      const Tensor own = at_s.clone().requires_grad_(), reference = at_s.clone().requires_grad_();
      const Tensor total = total_of(method.weights(input, own, state), l), value = formula(reference);
      total.backward();
      value.backward();
      EXPECT_TRUE(close(total, value, 1e-12, 1e-12));
      EXPECT_TRUE(close(own.grad(), reference.grad(), 1e-12, 1e-12));
    };
    expect(UncertaintyBalance{}, [&](const Tensor& x) { return (.5 * (-x).exp() * l + .5 * x).sum(); });
    expect(UncertaintyBalance{.form = UncertaintyForm::kendall}, [&](const Tensor& x) { return (half * (-x).exp() * l + .5 * x).sum(); });
    expect(UncertaintyBalance{.form = UncertaintyForm::classification}, [&](const Tensor& x) { return ((-x).exp() * l + .5 * x).sum(); });
    expect(UncertaintyBalance{.form = UncertaintyForm::liebel}, [&](const Tensor& x) { return (.5 / x.exp() * l + (1. + x.exp()).log()).sum(); });
    expect(IMTLLBalance{}, [&](const Tensor& x) { return (x.exp() * l - x).sum(); });
    const Tensor twice = 2.0 * total_of(UncertaintyBalance{}.weights(input, -at_s), l);
    EXPECT_TRUE(close(total_of(IMTLLBalance{}.weights(input, at_s), l), twice, 1e-12, 1e-12)) << "IMTL-L(s) = 2 UW(−s)";
    EXPECT_TRUE(gradcheck(
        [&](const auto& x) {
          return total_of(UncertaintyBalance{.form = UncertaintyForm::liebel, .bounds = {-9., 9.}}.weights(input, x[0]), l);
        },
        {at_s}));
  }
}

TEST_F(BalanceMethods, BoundsLetANumberComeBack) {
  const Tensor parameter = row({-2., -2., 3., 3., .5, -1.}).requires_grad_();
  const Tensor kept = htl::detail::bounded("a test", parameter, {-1., 1.});
  EXPECT_TRUE(same_bits(kept, row({-1., -1., 1., 1., .5, -1.})));
  (kept * row({2., -2., 2., -2., 2., 2.})).sum().backward();
  EXPECT_TRUE(same_bits(parameter.grad(), row({0., -2., 2., 0., 2., 0.}))) << "a step down the gradient leads further out, or back";
  Tensor learned = row({0.}).requires_grad_();  // the loss falls to 0 and stays there for long, and then there is one of 2
  const UncertaintyBalance method{.bounds = {-3., 3.}};
  for (int step = 0; step < 400; ++step) {
    const Tensor loss = row({step < 200 ? 0.0 : 2.0});
    total_of(method.weights({.losses = loss}, learned), loss).backward();
    const c10::NoGradGuard no_grad;
    learned.sub_(learned.grad() * .3);
    learned.mutable_grad().zero_();
    if (step == 199) {
      EXPECT_TRUE(close(learned, row({-3.}), 0.0, .2));
    }
  }
  EXPECT_TRUE(close(learned, row({std::log(2.)}), 0.0, 1e-6));
}

// ------------------------------------------------------------------------------------------------------------------- memory, by plain loops

TEST_F(BalanceMethods, DWAEqualsPlainLoopsOverEpochs) {
  Random random(9);
  for (int repetition = 0; repetition < 30; ++repetition) {
    SCOPED_TRACE(repetition);
    const int64_t tasks = 1 + repetition % 8;
    const DWABalance method{.temperature = random.real(.3, 4.)};
    DWABalance::State state;
    std::vector<std::vector<double>> means(static_cast<size_t>(tasks));
    for (int epoch = 0; epoch < 5; ++epoch) {
      std::vector<std::vector<double>> seen(static_cast<size_t>(tasks));
      for (int64_t step = random.integer(1, 4); step > 0; --step) {
        const BalanceInput input = random_input(random, tasks);
        std::vector<double> reference(static_cast<size_t>(tasks), 0.0);
        double sum = 0.0, count = 0.0;
        for (size_t t = 0; t < reference.size(); ++t) {
          if (input.active.defined() && !input.active[static_cast<int64_t>(t)].item<bool>()) continue;
          const auto& m = means[t];
          reference[t] = std::exp((m.size() < 2 ? 1.0 : m[m.size() - 1] / m[m.size() - 2]) / method.temperature);
          sum += reference[t];
          count += 1.0;
          seen[t].push_back(input.losses[static_cast<int64_t>(t)].item<double>());
        }
        const Tensor weights = method.weights(input, state).weights;
        ASSERT_TRUE(close(weights, at::tensor(reference, at::kDouble) * (count / std::max(sum, 1e-300)), 1e-12, 1e-12));
      }
      method.end_epoch(state);
      for (size_t t = 0; t < seen.size(); ++t)
        if (!seen[t].empty()) means[t].push_back(std::accumulate(seen[t].begin(), seen[t].end(), 0.0) / static_cast<double>(seen[t].size()));
    }
  }
}

TEST_F(BalanceMethods, DWAEqualsPlainLoopsOverAWindow) {
  Random random(10);
  for (const int64_t window : {1, 2, 5}) {
    const int64_t tasks = 4;
    const DWABalance method{.window = window};
    DWABalance::State state;
    std::vector<std::vector<double>> seen(static_cast<size_t>(tasks));
    for (int step = 0; step < 40; ++step) {
      const BalanceInput input = random_input(random, tasks);
      std::vector<double> reference(static_cast<size_t>(tasks), 0.0);
      double sum = 0.0, count = 0.0;
      for (size_t t = 0; t < seen.size(); ++t) {
        if (input.active.defined() && !input.active[static_cast<int64_t>(t)].item<bool>()) continue;
        auto& losses_of = seen[t];
        losses_of.push_back(input.losses[static_cast<int64_t>(t)].item<double>());
        double late = 0.0, early = 0.0;
        if (static_cast<int64_t>(losses_of.size()) >= 2 * window)
          for (int64_t i = 1; i <= window; ++i) {
            late += losses_of[losses_of.size() - static_cast<size_t>(i)];
            early += losses_of[losses_of.size() - static_cast<size_t>(window + i)];
          }
        reference[t] = std::exp((early > 0.0 ? late / early : 1.0) / 2.0);
        sum += reference[t];
        count += 1.0;
      }
      ASSERT_TRUE(close(method.weights(input, state).weights, at::tensor(reference, at::kDouble) * (count / std::max(sum, 1e-300)), 1e-12, 1e-12))
          << "window " << window << ", step " << step;
      if (step % 7 == 0) method.end_epoch(state);
    }
    EXPECT_TRUE(contains(sentence_of([&] {
                           DWABalance{.window = window + 1}.weights({.losses = row({1., 1., 1., 1.})}, state);
                         }),
                         "the memory of a window of", "forget it"));
  }
}

TEST_F(BalanceMethods, STCHLearnsItsNadirInTheWarmUp) {
  const STCHBalance method{.mu = .7, .warmup_epochs = 2, .scale = WeightScale::tasks};
  STCHBalance::State state;
  method.weights({.losses = row({9., 9., 9.}), .epoch = 0}, state);
  method.end_epoch(state);
  for (const Tensor& batch : {row({2., nan, 1.}), row({4., nan, 3.})}) {
    const BalanceTerms terms = method.weights({.losses = batch, .active = mask({1, 0, 1}), .epoch = 1}, state);
    EXPECT_TRUE(close(terms.weights.index_select(0, at::tensor({0, 2})), batch.index_select(0, at::tensor({0, 2})).reciprocal()));
    EXPECT_TRUE(close(terms.total, batch.log().nan_to_num().sum()));
  }
  method.end_epoch(state);
  EXPECT_TRUE(close(state.nadir, row({3., 9., 2.}))) << "the mean of the last epoch with labels";
  for (const int64_t epoch : {2, 7}) {
    const BalanceTerms learnt = method.weights({.losses = losses, .epoch = epoch}, state);
    const BalanceTerms given = balance(STCHBalance{.mu = .7, .nadir = {3., 9., 2.}, .scale = WeightScale::tasks}, {.losses = losses});
    EXPECT_TRUE(same_bits(learnt.weights, given.weights));
    EXPECT_TRUE(same_bits(learnt.total, given.total));
    method.end_epoch(state);
    EXPECT_TRUE(close(state.nadir, row({3., 9., 2.}))) << "and nothing after the warm-up";
  }
}

TEST_F(BalanceMethods, FAMOIsTheGradientMethodsRule) {
  Random random(11);
  const FAMOBalance method{.learning_rate = .1, .weight_decay = .01, .min_losses = {.01, 0., .02}};
  const FAMO same{.learning_rate = .1, .weight_decay = .01, .min_losses = {.01, 0., .02}};
  FAMOBalance::State mine, its;
  for (int step = 0; step < 20; ++step) {
    const BalanceInput input = random_input(random, 3);
    const Tensor after = random.uniform({3}, .05, 3.);
    EXPECT_TRUE(same_bits(method.weights(input, mine).weights,
                          same.weights({.matrix = at::zeros({3, 3}, at::kDouble), .active = input.active, .losses = input.losses}, its)));
    method.observe(after, mine);
    same.observe(after, its);
    EXPECT_TRUE(same_bits(mine.logits, its.logits));
  }
  const Tensor before = mine.logits.clone();
  const Tensor weights = method.weights({.losses = row({1., std::numeric_limits<double>::infinity(), nan})}, mine).weights;
  method.observe(row({.5, .5, .5}), mine);
  EXPECT_TRUE(same_bits(weights, row({1., 0., 0.})));
  EXPECT_TRUE(same_bits(mine.logits.slice(0, 1), before.slice(0, 1))) << "a loss that is not finite teaches nothing";
  EXPECT_FALSE(same_bits(mine.logits[0], before[0]));
}

TEST_F(BalanceMethods, RandomWeightsAreThoseOfTheGradientMethod) {
  const auto draw = [&](const BalanceInput& input, WeightScale scale) {
    at::manual_seed(3);
    return RandomBalance{.scale = scale}.weights(input).weights;
  };
  at::manual_seed(3);
  const Tensor reference = at::randn({3}, at::kDouble).softmax(0);
  EXPECT_TRUE(close(draw({.losses = losses}, WeightScale::one), reference));
  EXPECT_TRUE(close(draw({.losses = losses}, WeightScale::tasks), 3.0 * reference));
  EXPECT_TRUE(close(draw({.losses = losses, .active = mask({1, 0, 1})}, WeightScale::tasks).sum(), row({2.})[0]));
  BalanceInput input{.losses = losses, .generator = at::detail::createCPUGenerator(5)};
  const Tensor first = RandomBalance{}.weights(input).weights, second = RandomBalance{}.weights(input).weights;
  input.generator = at::detail::createCPUGenerator(5);
  EXPECT_TRUE(same_bits(RandomBalance{}.weights(input).weights, first));
  EXPECT_FALSE(close(second, first));
}

TEST_F(BalanceMethods, SchedulesGoFromOneWeightToAnother) {
  const WeightSchedule line{.from = 0., .to = 2., .start = 10, .length = 4}, wave{.from = 1., .to = 0., .length = 2, .curve = WeightCurve::cosine};
  const std::map<int64_t, double> by_line = {{0, 0.}, {10, 0.}, {11, .5}, {13, 1.5}, {14, 2.}, {900, 2.}}, by_wave = {{0, 1.}, {1, .5}, {2, 0.}, {3, 0.}};
  for (const auto& [time, weight] : by_line) EXPECT_DOUBLE_EQ(line(time), weight) << time;
  for (const auto& [time, weight] : by_wave) EXPECT_DOUBLE_EQ(wave(time), weight) << time;
  EXPECT_DOUBLE_EQ((WeightSchedule{.from = 0., .to = 1., .length = 4, .curve = WeightCurve::cosine})(1), (1. - std::cos(std::numbers::pi / 4.)) / 2.);
  const ScheduledBalance both{.schedules = {{}, line, wave}};
  EXPECT_TRUE(close(both.weights({.losses = losses, .step = 11, .epoch = 1}).weights, row({1., .5, 0.})));
  EXPECT_TRUE(close((ScheduledBalance{both.schedules, ScheduleTime::epoch}).weights({.losses = losses, .step = 11, .epoch = 1}).weights, row({1., 0., .5})));
  EXPECT_TRUE(same_bits(ScheduledBalance{}.weights({.losses = losses}).weights, row({1., 1., 1.})));
  EXPECT_TRUE(same_bits(ConstantBalance{{3., .5, -1.}}.weights({.losses = losses}).weights, row({3., .5, -1.})));
  EXPECT_TRUE(same_bits(ConstantBalance{{3.}}.weights({.losses = losses}).weights, row({3., 3., 3.})));
}

// --------------------------------------------------------------------------------------------------------------------------- at the edges

TEST_F(BalanceMethods, AreFiniteForLossesThatAreZeroNegativeTinyOrHuge) {
  const BalancerRegistry balancers = built_in_balancers();
  for (const std::string& name : balancers.names())
    for (const Tensor& hard : {row({0., 0., 0.}), row({-1., 0., 2.}), row({1e-300, 1e-30, 1.}), row({1e300, 1., 1e-300}), row({1e100, -1e100, 0.})})
      for (const Tensor& active : {Tensor(), mask({1, 0, 1}), mask({0, 0, 0})}) {
        SCOPED_TRACE(name);
        const AnyBalance method = balancers.make(name);
        AnyBalance::State state = method.initial_state();
        const BalanceInput input{.losses = hard, .active = active, .kinds = std::vector<TaskKind>(3, TaskKind::binary)};
        for (int64_t epoch = 0; epoch < 3; ++epoch) {
          const BalanceTerms terms = method.weights(input, method.initial_parameter(3), state);
          EXPECT_TRUE(terms.weights.isfinite().all().item<bool>()) << hard << terms.weights;
          const bool fits = hard.abs().max().item<double>() < 1e99 || !terms.total.defined();
          EXPECT_TRUE(!fits || total_of(terms, hard).isfinite().item<bool>()) << hard;
          method.observe(hard, state);
          method.end_epoch(state);
        }
      }
  EXPECT_TRUE(close(balance(GeometricMeanBalance{.floor = .5}, {.losses = row({-3., 2.})}).weights, row({1., .25}))) << "as at the floor";
  EXPECT_TRUE(close(balance(ScaleInvariantBalance{.floor = .5}, {.losses = row({-3., 2.})}).weights, row({2., .5})));
  EXPECT_TRUE(close(balance(STCHBalance{.nadir = {2.}, .floor = .5}, {.losses = row({-3., 1.})}).weights, row({.5, .5})));
}

TEST_F(BalanceMethods, OneTaskAloneKeepsItsLoss) {
  for (const char* const name : {"constant", "random", "dwa", "famo", "geometric_mean", "stch", "pbi", "schedule"})
    EXPECT_TRUE(close(balance(built_in_balancers().make(name), {.losses = row({.7})}).weights, row({1.}), 1e-7, 0.0)) << name;
}

TEST_F(BalanceMethods, RefuseWrongOptionsWithASentence) {
  const auto sentence = [&](const AnyBalance& method) { return sentence_of([&] { balance(method, {.losses = losses}); }); };
  EXPECT_TRUE(contains(sentence(ConstantBalance{{1., 2.}}), "htl::ConstantBalance: expected values as one number, or one for each of 3 tasks, got 2"));
  EXPECT_TRUE(contains(sentence(ConstantBalance{{nan}}), "expected values as finite numbers, got nan"));
  EXPECT_TRUE(contains(sentence(UncertaintyBalance{.initial = {1., 2.}}), "htl::UncertaintyBalance: expected initial"));
  EXPECT_TRUE(contains(sentence(UncertaintyBalance{.bounds = {1., -1.}}), "expected bounds with low ≤ high, got 1 and -1"));
  EXPECT_TRUE(contains(sentence(UncertaintyBalance{.form = UncertaintyForm::kendall}), "expects a kind for each of 3 tasks", "htl::Balancer gives them"));
  EXPECT_TRUE(contains(sentence(DWABalance{.temperature = 0.}), "htl::DWABalance: expected a finite temperature > 0, got 0"));
  EXPECT_TRUE(contains(sentence(DWABalance{.window = -1}), "expected window ≥ 0, got -1"));
  EXPECT_TRUE(contains(sentence(GeometricMeanBalance{.floor = 0.}), "htl::GeometricMeanBalance: expected a finite floor > 0"));
  EXPECT_TRUE(contains(sentence(ScaleInvariantBalance{.offset = -1.}), "htl::ScaleInvariantBalance: expected a finite offset ≥ 0, got -1"));
  EXPECT_TRUE(contains(sentence(STCHBalance{.mu = 0.}), "htl::STCHBalance: expected a finite mu > 0"));
  EXPECT_TRUE(contains(sentence(STCHBalance{.preferences = {1., 0., 1.}}), "expected preferences > 0, got 0"));
  EXPECT_TRUE(contains(sentence(STCHBalance{.nadir = {1.}, .warmup_epochs = 1}), "expected nadir or warmup_epochs, got both"));
  EXPECT_TRUE(contains(sentence(COSMOSBalance{.lambda = nan}), "htl::COSMOSBalance: expected a finite lambda, got nan"));
  EXPECT_TRUE(contains(sentence(PBIBalance{.theta = -1.}), "htl::PBIBalance: expected a finite theta ≥ 0, got -1"));
  EXPECT_TRUE(contains(sentence(PBIBalance{.preferences = {-1., 1., 1.}}), "expected preferences ≥ 0, got -1"));
  EXPECT_TRUE(contains(sentence(ScheduledBalance{.schedules = {{.length = 0}}}), "htl::WeightSchedule: expected start ≥ 0 and length ≥ 1, got 0 and 0"));
  EXPECT_TRUE(contains(sentence(FAMOBalance{.min_losses = {1.}}), "htl::FAMO: expected min_losses of 3 tasks or none, got 1"));
}

// --------------------------------------------------------------------------------------------------------------------------------- by name

TEST_F(BalanceMethods, ByNameAreTheSameWithTheirOptions) {
  const BalancerRegistry balancers = built_in_balancers();
  const auto expect = [&](const std::string& text, const AnyBalance& same) {
    SCOPED_TRACE(text);
    const AnyBalance method = balancers.make(parse_spec(text));
    EXPECT_EQ(method.name(), parse_spec(text).name);
    EXPECT_EQ(method.parameter_name(), same.parameter_name());
    EXPECT_EQ(method.observes(), same.observes());
    AnyBalance::State mine = method.initial_state(), its = same.initial_state();
    Random random(12);
    for (int64_t step = 0; step < 6; ++step) {
      BalanceInput input = random_input(random, 3);
      input.kinds = {TaskKind::regression, TaskKind::binary, TaskKind::regression};
      input.step = step;
      input.epoch = step / 2;
      input.generator = at::detail::createCPUGenerator(static_cast<uint64_t>(step));
      const BalanceTerms a = method.weights(input, method.initial_parameter(3), mine);
      input.generator = at::detail::createCPUGenerator(static_cast<uint64_t>(step));
      const BalanceTerms b = same.weights(input, same.initial_parameter(3), its);
      EXPECT_TRUE(same_bits(a.weights, b.weights) && same_bits(a.offsets, b.offsets) && same_bits(a.total, b.total));
      for (auto [any, state] : {std::pair(&method, &mine), std::pair(&same, &its)}) {
        any->observe(input.losses * .9, *state);
        if (step % 2 == 1) any->end_epoch(*state);
      }
    }
  };
  expect("constant:weights=1;0.5;2", ConstantBalance{{1., .5, 2.}});
  expect("random:scale=tasks", RandomBalance{WeightScale::tasks});
  expect("uncertainty:form=kendall,initial=-0.5", UncertaintyBalance{.form = UncertaintyForm::kendall, .initial = {-.5}});
  expect("uncertainty:form=liebel,low=-4,high=4,initial=0;1;-1",
         UncertaintyBalance{.form = UncertaintyForm::liebel, .initial = {0., 1., -1.}, .bounds = {-4., 4.}});
  expect("imtl_l:initial=0.3,low=-1", IMTLLBalance{.initial = {.3}, .bounds = {.low = -1.}});
  expect("dwa:temperature=1.5", DWABalance{.temperature = 1.5});
  expect("dwa:window=2", DWABalance{.window = 2});
  expect("famo:learning_rate=0.1,weight_decay=0,min_losses=0;0.01;0", FAMOBalance{.1, 0., {0., .01, 0.}});
  expect("geometric_mean:floor=0.1", GeometricMeanBalance{.1});
  expect("scale_invariant:offset=1", ScaleInvariantBalance{.offset = 1.});
  expect("stch:mu=0.3,warmup_epochs=1,scale=tasks,preferences=1;2;1",
         STCHBalance{.mu = .3, .preferences = {1., 2., 1.}, .warmup_epochs = 1, .scale = WeightScale::tasks});
  expect("stch:nadir=3,ideal=-1", STCHBalance{.ideal = {-1.}, .nadir = {3.}});
  expect("cosmos:lambda=0.2,preferences=1;0;2", COSMOSBalance{.lambda = .2, .preferences = {1., 0., 2.}});
  expect("pbi:theta=2,ideal=0.01", PBIBalance{.theta = 2., .ideal = {.01}});
  expect("schedule:from=0;1;0.5,length=4,curve=cosine,time=step",
         ScheduledBalance{{{0., 1., 0, 4, WeightCurve::cosine}, {1., 1., 0, 4, WeightCurve::cosine}, {.5, 1., 0, 4, WeightCurve::cosine}}});
  expect("schedule:to=0,start=1,length=2,time=epoch", ScheduledBalance{{{1., 0., 1, 2}}, ScheduleTime::epoch});
}

TEST_F(BalanceMethods, ByNameRefuseWhatTheyDoNotKnow) {
  BalancerRegistry balancers = built_in_balancers();
  const auto sentence = [&](const char* text) { return sentence_of([&] { balancers.make(parse_spec(text)); }); };
  EXPECT_TRUE(contains(sentence("uncertanty"), "htl::BalancerRegistry: unknown balancer \"uncertanty\"; did you mean \"uncertainty\"?"));
  EXPECT_TRUE(contains(sentence("dwa:temprature=2"), "balancer \"dwa\" has no option \"temprature\"; did you mean \"temperature\"?"));
  EXPECT_TRUE(contains(sentence("dwa:temperature=0"), "option \"temperature\": expected a number > 0, got 0"));
  EXPECT_TRUE(contains(sentence("uncertainty:form=kendal"), "did you mean \"kendall\"?"));
  EXPECT_TRUE(contains(sentence("uncertainty:low=1,high=0"), "expects low ≤ high"));
  EXPECT_TRUE(contains(sentence("stch:nadir=1,warmup_epochs=2"), "takes nadir or warmup_epochs, got both"));
  EXPECT_TRUE(contains(sentence("schedule:from=0;1,to=1;1;1"), "expects from, to, start and length as one number each"));
  balancers.add("inverse", [](OptionReader& options) { return ScaleInvariantBalance{.offset = options.number("offset", .1)}; });
  EXPECT_TRUE(close(balance(balancers.make("inverse"), {.losses = losses}).weights, (losses + .1).reciprocal()));
  AnyBalance copy = balancers.make("dwa"), original = copy;
  copy.get_if<DWABalance>()->temperature = 9.;
  EXPECT_EQ(original.get_if<DWABalance>()->temperature, 2.) << "a copy is deep";
  EXPECT_EQ(AnyBalance(DWABalance{}).name(), "htl::DWABalance");
  AnyBalance::State of_another = AnyBalance(STCHBalance{}).initial_state();
  EXPECT_TRUE(contains(sentence_of([&] { copy.weights({.losses = losses}, {}, of_another); }), "the memory of another method than \"dwa\"", "forget()"));
}

}  // namespace
