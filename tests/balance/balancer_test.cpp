// SPDX-License-Identifier: Apache-2.0
// The balancer between loss and gradient method: graphs, composition, what it learns and remembers, inactive tasks, checkpoints, refusals.
#include <htl/balance/balancer.hpp>
#include <htl/balance/built_in_balancers.hpp>
#include <htl/gradient/backward.hpp>
#include <htl/io/training_state.hpp>
#include <htl/weighting/cagrad.hpp>
#include <htl/weighting/pcgrad.hpp>
#include <htl/weighting/sum.hpp>

#include <support/meta_operators.hpp>
#include <support/seeded.hpp>

#include <torch/nn/modules/linear.h>
#include <torch/optim/sgd.h>

#include <cmath>
#include <limits>

namespace {

using namespace htl;
using namespace htl::test;
using at::Tensor;

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

Tensor row(std::initializer_list<double> values) { return at::tensor(std::vector<double>(values), at::kDouble); }
Tensor mask(std::initializer_list<int> values) { return at::tensor(std::vector<int>(values), at::kInt).to(at::kBool); }
Tensor stacked(const TaskLosses& losses) {
  std::vector<Tensor> all;
  for (const auto& [name, loss] : losses.values) all.push_back(loss.detach().reshape({}).to(at::kDouble));
  return at::stack(all);
}
TaskSet three_tasks() { return {binary("click"), regression("watch_time"), regression("revenue").core()}; }
/// Losses of the three tasks as leaves.
TaskLosses leaves(std::initializer_list<double> values, at::ScalarType type = at::kDouble) {
  TaskLosses losses;
  int64_t t = 0;
  for (const double value : values) losses.set(three_tasks()[t++].name(), at::scalar_tensor(value, type).requires_grad_());
  return losses;
}
Tensor gradients(const TaskLosses& losses) {
  std::vector<Tensor> all;
  for (const auto& [name, loss] : losses.values) all.push_back(loss.grad().defined() ? loss.grad().to(at::kDouble) : row({0.})[0]);
  return at::stack(all);
}

/// A user's method, with memory, ears, and something to learn: w = heard · e^p.
struct Own {
  struct State {
    Tensor heard;
    template <class Visit>
    void fields(Visit&& visit) {
      visit("heard", heard);
    }
  };
  double returned = 1.0;
  std::string parameter_name() const { return "gain"; }
  Tensor initial_parameter(int64_t tasks) const { return at::zeros({tasks}, at::kDouble); }
  Tensor weights(const BalanceInput& input, const Tensor& gain, State& state) const {
    if (!state.heard.defined()) state.heard = at::ones_like(input.losses);
    return state.heard * gain.exp() * returned;
  }
  void observe(const Tensor& losses, State& state) const { state.heard = state.heard + losses; }
};
static_assert(LearnedBalance<Own> && BalanceObserver<Own> && !EpochBalance<Own>);

template <class B>
concept Hears = requires(Balancer<B> balancer, const TaskLosses& losses) {
  balancer->observe(losses);
};
static_assert(Hears<FAMOBalance> && Hears<AnyBalance> && Hears<Own> && !Hears<DWABalance> && !Hears<UncertaintyBalance>);

class Balancing : public Seeded {
 protected:
  const TaskSet tasks = three_tasks();
};

// --------------------------------------------------------------------------------------------------------------------------------- a step

TEST_F(Balancing, WeighsEachLossAndLeavesTheReportedOnesAlone) {
  for (const std::string& name : built_in_balancers().names()) {
    SCOPED_TRACE(name);
    Balancer<AnyBalance> balancer(tasks, built_in_balancers().make(name));
    TaskLosses losses = leaves({2., .5, 1.});
    losses.active = mask({1, 1, 1});
    const TaskLosses balanced = balancer(losses);
    EXPECT_EQ(balanced.values.names(), tasks.names());
    EXPECT_TRUE(balanced.active.is_same(losses.active));
    EXPECT_TRUE(same_bits(stacked(losses), row({2., .5, 1.}))) << "what is reported";
    balanced.sum().backward();
    EXPECT_TRUE(close(gradients(losses), balancer->weights())) << "the gradient of the method's total";
    EXPECT_FALSE(balancer->weights().requires_grad() || balancer->total().requires_grad());
    EXPECT_EQ(balancer->weights().scalar_type(), at::kDouble);
    const bool is_sum =
        !balance(balancer->method(), {.losses = row({2., .5, 1.}), .kinds = {TaskKind::binary, TaskKind::binary, TaskKind::binary}}).total.defined();
    EXPECT_TRUE(!is_sum || close(balancer->total(), balanced.sum()));
    EXPECT_EQ(balancer->parameters().size(), balancer->parameter().defined() ? 1U : 0U);
  }
}

TEST_F(Balancing, KeepsTheLossesType) {
  Balancer<UncertaintyBalance> balancer(tasks, {.initial = {.3}});
  EXPECT_EQ(balancer->parameter().scalar_type(), at::kFloat);
  EXPECT_EQ(balancer->named_parameters()["log_variance"].sizes(), at::IntArrayRef({3}));
  for (const at::ScalarType type : {at::kFloat, at::kDouble, at::kBFloat16}) {
    TaskLosses losses = leaves({2., .5, 1.}, type);
    losses.set("watch_time", at::full({1}, .5, at::kDouble).requires_grad_());
    const TaskLosses balanced = balancer(losses);
    EXPECT_EQ(balanced["click"].scalar_type(), type == at::kDouble ? at::kDouble : at::kFloat);
    EXPECT_EQ(balanced["watch_time"].scalar_type(), at::kDouble);
    EXPECT_EQ(balanced["watch_time"].sizes(), at::IntArrayRef({1}));
    EXPECT_TRUE(close(stacked(balanced), row({2., .5, 1.}) * .5 * std::exp(-.3) + .15, 0.0, 1e-6));
    balanced["click"].backward();
    EXPECT_EQ(losses["click"].grad().scalar_type(), type);
  }
}

TEST_F(Balancing, ComposesWithGradientMethodsAsByHand) {
  Random random(21);
  const auto expect = [&](const auto& method, const AnyBalance& balance_method, const char* name) {
    SCOPED_TRACE(name);
    const Tensor x = random.normal({12, 4}), labels = random.normal({3, 12});
    torch::nn::Linear bottom(4, 5), heads(5, 3);
    bottom->to(at::kDouble);
    heads->to(at::kDouble);
    const auto losses_of = [&](const std::vector<Tensor>& views) {
      TaskLosses losses;
      for (int64_t t = 0; t < 3; ++t) {
        const Tensor output = views[static_cast<size_t>(t)].relu().mv(heads->weight[t]) + heads->bias[t];
        losses.set(tasks[t].name(), (output - labels[t]).square().mean() * std::pow(10.0, static_cast<double>(t)));
      }
      losses.active = mask({1, 1, 1});
      return losses;
    };
    Balancer<AnyBalance> balancer(tasks, balance_method), twin(tasks, balance_method);
    GradientFork<std::decay_t<decltype(method)>> fork(tasks, method);
    const GradientReport report = backward(balancer(losses_of(fork->split(bottom->forward(x)))), fork, shared(*bottom));
    EXPECT_EQ(report.passes, 1) << "the tasks' graphs stay apart";
    const TaskLosses plain = losses_of(std::vector<Tensor>(3, bottom->forward(x)));
    const std::vector<Tensor> parameters = bottom->parameters();
    std::vector<Tensor> rows;
    for (int64_t t = 0; t < 3; ++t) {
      std::vector<Tensor> parts;
      for (const Tensor& part : torch::autograd::grad({plain[tasks[t].name()]}, parameters, {}, true)) parts.push_back(part.flatten());
      rows.push_back(at::cat(parts) * balancer->weights()[t]);
    }
    const Tensor combined = aggregate(method, at::stack(rows));
    EXPECT_TRUE(close(at::cat({bottom->weight.grad().flatten(), bottom->bias.grad()}), combined, 1e-10, 1e-10));
    const std::vector<Tensor> own = torch::autograd::grad({twin(plain).sum()}, {heads->weight, heads->bias}, {}, true);
    EXPECT_TRUE(close(heads->weight.grad(), own[0], 1e-12, 1e-12));
    EXPECT_TRUE(close(heads->bias.grad(), own[1], 1e-12, 1e-12));
    if (!balancer->parameter().defined()) return;
    twin(plain).sum().backward();
    EXPECT_TRUE(close(balancer->parameter().grad(), twin->parameter().grad(), 1e-6, 1e-6));
    EXPECT_GT(balancer->parameter().grad().abs().min().item<double>(), 0.0);
  };
  for (const char* const name : {"uncertainty:form=kendall,initial=0.4", "imtl_l:initial=0.2", "geometric_mean", "famo", "stch:mu=3"}) {
    const AnyBalance method = built_in_balancers().make(parse_spec(name));
    expect(PCGrad{.order = Order::ascending}, method, name);
    expect(CAGrad{.c = .4}, method, name);
    expect(Sum{}, method, name);
  }
}

TEST_F(Balancing, IsUsableInsideAModelAndByOverlappingGraphs) {
  Balancer<UncertaintyBalance> balancer(tasks);
  GradientFork<Sum> fork(tasks);
  const Tensor trunk = row({1., 2.}).requires_grad_();
  const std::vector<Tensor> views = fork->split(trunk * 2.0);
  TaskLosses losses;  // two tasks come back through one view: two passes over what the balancer's parameter is part of
  losses.set("click", views[0].sum()).set("watch_time", (views[0] * views[1]).sum()).set("revenue", views[2].square().sum());
  const GradientReport report = backward(balancer(losses), fork);
  EXPECT_EQ(report.passes, 2);
  EXPECT_TRUE(close(balancer->parameter().grad(), .5 - .5 * stacked(losses), 1e-6, 1e-6));
}

TEST_F(Balancing, NeverWaitsForADevice) {  // tensors of the meta device have no numbers: whoever asked for one would throw
  for (const char* const name : {"constant:weights=1;2;3", "random:scale=tasks", "uncertainty:form=kendall,low=-2,high=2", "uncertainty:form=liebel", "imtl_l",
                                 "dwa", "dwa:window=2", "famo:min_losses=0;0.1;0", "geometric_mean", "scale_invariant", "stch", "stch:nadir=1;2;3,scale=tasks",
                                 "stch:warmup_epochs=1", "cosmos:preferences=1;2;1", "pbi:ideal=0.1", "schedule:from=0,length=5"})
    for (const bool some_inactive : {false, true}) {
      SCOPED_TRACE(name);
      const AnyBalance method = built_in_balancers().make(parse_spec(name));
      AnyBalance::State state = method.initial_state();
      Tensor parameter = method.initial_parameter(3);
      if (parameter.defined()) parameter = parameter.to(at::kMeta).requires_grad_();
      const std::vector<std::string> names = tasks.names();
      for (int64_t step = 0; step < 4; ++step) {
        TaskLosses losses;
        for (const std::string& task : names) losses.set(task, at::empty({}, at::TensorOptions().device(at::kMeta)).requires_grad_());
        if (some_inactive) losses.active = at::empty({3}, at::TensorOptions().dtype(at::kBool).device(at::kMeta));
        EXPECT_EQ(sentence_of([&] {  // a balancer's call; a module's parameter can't be moved to this device
                    const BalanceInput input{.losses = htl::detail::read_losses(losses, names, ""),
                                             .active = losses.active,
                                             .kinds = std::vector<TaskKind>(3, TaskKind::regression),
                                             .step = step,
                                             .epoch = step / 2};
                    BalanceTerms terms = balance(method, input, parameter, state);
                    htl::detail::check_terms(terms, input, losses, names);
                    htl::detail::balanced_losses(losses, terms).sum().backward();
                    method.observe(input.losses, state);
                    if (step % 2 == 1) method.end_epoch(state);
                  }),
                  "no error");
        EXPECT_TRUE(losses["click"].grad().is_meta());
      }
      EXPECT_TRUE(!parameter.defined() || parameter.grad().is_meta());
      if (!parameter.defined()) {
        Balancer<AnyBalance> balancer(tasks, method);
        TaskLosses losses;
        for (const std::string& task : names) losses.set(task, at::empty({}, at::TensorOptions().device(at::kMeta)));
        EXPECT_TRUE(balancer(losses)["click"].is_meta() && balancer->total().is_meta());
      }
    }
}

// ------------------------------------------------------------------------------------------------------------------------- inactive tasks

TEST_F(Balancing, InactiveTasksAreNotHeard) {
  for (const std::string& name : built_in_balancers().names()) {
    SCOPED_TRACE(name);
    Balancer<AnyBalance> balancer(tasks, built_in_balancers().make(name));
    for (const double unlabelled : {0., 7., nan}) {
      TaskLosses losses = leaves({2., unlabelled, 1.});
      losses.active = mask({1, 0, 1});
      const TaskLosses balanced = balancer(losses);
      EXPECT_EQ(balancer->weights()[1].item<double>(), 0.0);
      EXPECT_EQ(balanced["watch_time"].item<double>(), 0.0);
      EXPECT_TRUE(std::isfinite(balancer->total().item<double>()));
      balanced.sum().backward();
      EXPECT_TRUE(close(gradients(losses), balancer->weights()));
      if (balancer->parameter().defined()) {
        EXPECT_EQ(balancer->parameter().grad()[1].item<double>(), 0.0) << "nothing pushes what it learns";
        EXPECT_NE(balancer->parameter().grad()[0].item<double>(), 0.0);
        balancer->zero_grad();
      }
    }
    TaskLosses none = leaves({nan, nan, nan});
    none.active = mask({0, 0, 0});
    EXPECT_TRUE(same_bits(stacked(balancer(none)), row({0., 0., 0.})));
    EXPECT_TRUE(same_bits(balancer->weights(), row({0., 0., 0.})));
  }
}

TEST_F(Balancing, MemoryOfAnInactiveTaskStandsStill) {
  Balancer<FAMOBalance> famo(tasks);
  TaskLosses losses = leaves({2., nan, 1.});
  losses.active = mask({1, 0, 1});
  for (int step = 0; step < 3; ++step) {
    famo(losses);
    TaskLosses after = leaves({1.5, nan, 1.2});
    after.active = losses.active;
    famo->observe(after);
  }
  Tensor logits;
  famo->fields([&](const std::string& name, Tensor& field) {
    if (name == "logits") logits = field;
  });
  EXPECT_EQ(logits[1].item<double>(), 0.0);
  EXPECT_LT(logits[0].item<double>(), 0.0) << "it fell";
  EXPECT_GT(logits[2].item<double>(), 0.0) << "it rose";
}

// ------------------------------------------------------------------------------------------------------------------- learning, remembering

TEST_F(Balancing, LearnedNumbersReachTheOptimumOfTheirFormula) {
  const Tensor levels = row({2., .5, 30.});
  const auto learnt = [&](const auto& method) {
    Balancer<std::decay_t<decltype(method)>> balancer(tasks, method);
    torch::optim::SGD optimizer(balancer->parameters(), torch::optim::SGDOptions(.5));
    for (int step = 0; step < 400; ++step) {
      optimizer.zero_grad();
      balancer(leaves({2., .5, 30.}, at::kFloat)).sum().backward();
      optimizer.step();
    }
    return balancer->parameter();
  };
  EXPECT_TRUE(close(learnt(UncertaintyBalance{.initial = {2.}}), levels.log(), 0.0, 1e-4));
  EXPECT_TRUE(close(learnt(UncertaintyBalance{.form = UncertaintyForm::classification, .initial = {2.}}), (2. * levels).log(), 0.0, 1e-4));
  EXPECT_TRUE(close(learnt(UncertaintyBalance{.form = UncertaintyForm::kendall, .initial = {2.}}), row({4., .5, 30.}).log(), 0.0, 1e-4));
  EXPECT_TRUE(close(learnt(IMTLLBalance{.initial = {-4.}}), -levels.log(), 0.0, 1e-4));
  const Tensor u = learnt(UncertaintyBalance{.form = UncertaintyForm::liebel, .initial = {2.}}).to(at::kDouble).exp();  // ½ L / u = u / (1 + u)
  EXPECT_TRUE(close(.5 * levels * (1. + u), u.square(), 1e-3, 1e-3));
}

TEST_F(Balancing, CountsStepsAndEpochsInTrainingOnly) {
  Balancer<DWABalance> balancer(tasks);
  for (const double factor : {1., .5}) {
    for (int batch = 0; batch < 2; ++batch) EXPECT_TRUE(close(stacked(balancer(leaves({2. * factor, 2., 2.}))), row({2. * factor, 2., 2.})));
    balancer->eval();
    for (int batch = 0; batch < 3; ++batch) balancer(leaves({99., 1., 5.}));
    balancer->train();
    balancer->end_epoch();
  }
  EXPECT_EQ(balancer->step(), 4);
  EXPECT_EQ(balancer->epoch(), 2);
  balancer(leaves({1., 1., 1.}));
  EXPECT_TRUE(close(balancer->weights(), 3. * (row({.5, 1., 1.}) / 2.).softmax(0)));
  balancer->to(at::kHalf);
  balancer->fields([](const std::string&, Tensor& field) { EXPECT_TRUE(!field.defined() || field.scalar_type() == at::kDouble); });
  const auto copy = std::dynamic_pointer_cast<BalancerImpl<DWABalance>>(balancer->clone());
  balancer->forget();
  EXPECT_EQ(balancer->step() + balancer->epoch(), 0);
  balancer(leaves({1., 1., 1.}));
  EXPECT_TRUE(same_bits(balancer->weights(), row({1., 1., 1.})));
  copy->forward(leaves({1., 1., 1.}));
  EXPECT_TRUE(close(copy->weights(), 3. * (row({.5, 1., 1.}) / 2.).softmax(0))) << "a clone has a memory of its own";
}

TEST_F(Balancing, ClonesHaveParametersOfTheirOwn) {
  Balancer<UncertaintyBalance> balancer(tasks, {.initial = {.5}});
  const auto copy = std::dynamic_pointer_cast<BalancerImpl<UncertaintyBalance>>(balancer->clone());
  {
    const c10::NoGradGuard no_grad;
    balancer->parameter().add_(1.0);
  }
  EXPECT_TRUE(close(copy->parameter(), row({.5, .5, .5})));
  EXPECT_TRUE(copy->parameters().front().is_same(copy->parameter()));
  EXPECT_TRUE(close(stacked(TaskLosses{copy->forward(leaves({1., 1., 1.}))}), row({1., 1., 1.}) * (.5 * std::exp(-.5) + .25), 1e-6, 0.0));
  balancer->forget();
  EXPECT_TRUE(close(balancer->parameter(), row({.5, .5, .5})));
  std::ostringstream text;
  text << *balancer;
  EXPECT_EQ(text.str(), "htl::Balancer(tasks=3)");
}

TEST_F(Balancing, GoesOnBitByBitFromACheckpoint) {
  for (const char* const name : {"constant", "random", "uncertainty", "imtl_l:low=-2", "dwa", "dwa:window=2", "famo", "geometric_mean", "scale_invariant",
                                 "stch:warmup_epochs=2", "cosmos", "pbi", "schedule:from=0,length=9", "schedule:to=0,length=3,time=epoch"}) {
    SCOPED_TRACE(name);
    struct Run {
      Balancer<AnyBalance> balancer;
      torch::optim::SGD optimizer;
      TrainingState state;
      Run(const TaskSet& all, const char* spec)
          : balancer(all, built_in_balancers().make(parse_spec(spec))), optimizer(balancer->parameters(), torch::optim::SGDOptions(.1).momentum(.9)) {
        balancer->generator() = at::detail::createCPUGenerator(17);
        state.add("balancer", balancer);
        if (!balancer->parameters().empty()) state.add("optimizer", optimizer);
      }
      Tensor step(int64_t number) {
        Random random(static_cast<uint64_t>(number));
        TaskLosses losses, after;
        for (const std::string& task : three_tasks().names()) {
          losses.set(task, random.uniform({}, .1, 3.).requires_grad_());
          after.set(task, random.uniform({}, .1, 3.));
        }
        losses.active = random.mask({3}, .7);
        optimizer.zero_grad();
        balancer(losses).sum().backward();
        optimizer.step();
        balancer->observe(after);
        if (number % 3 == 2) balancer->end_epoch();
        return balancer->weights();
      }
    };
    for (const int64_t stop : {0, 1, 5, 8}) {
      Run first(tasks, name), second(tasks, name);
      for (int64_t number = 0; number < stop; ++number) first.step(number);
      Named<Tensor> saved;
      for (const auto& [field, tensor] : first.state.tensors()) saved.set(field, tensor.clone());
      second.state.load(saved);
      for (int64_t number = stop; number < stop + 8; ++number) ASSERT_TRUE(same_bits(first.step(number), second.step(number))) << stop << " " << number;
      EXPECT_EQ(second.balancer->step(), stop + 8);
    }
  }
}

TEST_F(Balancing, OfAnyMethodIsTheBalancerOfTheMethod) {
  Balancer<UncertaintyBalance> typed(tasks, {.form = UncertaintyForm::liebel, .initial = {.1, .2, .3}});
  Balancer<AnyBalance> any(tasks, typed->method());
  EXPECT_EQ(any->named_parameters().keys(), std::vector<std::string>{"log_variance"});
  EXPECT_TRUE(same_bits(stacked(typed(leaves({2., .5, 1.}))), stacked(any(leaves({2., .5, 1.})))));
  EXPECT_TRUE(same_bits(typed->total(), any->total()));
  EXPECT_TRUE(Balancer<AnyBalance>(tasks, RandomBalance{})->parameters().empty());
  Balancer<UncertaintyBalance> later{nullptr};
  EXPECT_TRUE(later.is_empty());
}

TEST_F(Balancing, TakesAUsersMethod) {
  Balancer<Own> balancer(tasks);
  TaskLosses losses = leaves({2., .5, 1.});
  balancer(losses).sum().backward();
  EXPECT_TRUE(close(balancer->named_parameters()["gain"].grad(), row({2., .5, 1.}), 1e-6, 1e-6));
  balancer->observe(losses);
  balancer(losses);
  EXPECT_TRUE(close(balancer->weights(), row({3., 1.5, 2.})));
  EXPECT_TRUE(close(balancer->total(), row({8.75})[0]));
  balancer->end_epoch();
  EXPECT_EQ(balancer->epoch(), 1) << "counted for whoever asks";
}

// ------------------------------------------------------------------------------------------------------------------------------- refusals

TEST_F(Balancing, RefusesWhatItCanNotBalance) {
  Balancer<FAMOBalance> balancer(tasks);
  const auto sentence = [&](const TaskLosses& losses) { return sentence_of([&] { balancer(losses); }); };
  EXPECT_TRUE(contains(sentence_of([&] { balancer->weights(); }), "htl::Balancer: there are no weights before it is called"));
  EXPECT_TRUE(contains(sentence_of([&] { balancer->total(); }), "htl::Balancer: there are no weights before it is called"));
  balancer(leaves({2., .5, 1.}));
  balancer->observe(leaves({1., .5, 1.}));
  balancer(leaves({2., .5, 1.}));
  std::vector<Tensor> before, after;
  balancer->fields([&](const char*, Tensor& field) { before.push_back(field.clone()); });

  TaskLosses wrong = leaves({2., .5, nan});
  EXPECT_TRUE(
      contains(sentence(wrong), "htl::Balancer: the loss of task \"revenue\" is nan; where a batch has no label of a task, say so by TaskLosses::active"));
  EXPECT_TRUE(contains(sentence_of([&] { balancer->observe(wrong); }), "the loss of task \"revenue\" after the step is nan"));
  wrong.active = mask({1, 1});
  EXPECT_TRUE(contains(sentence(wrong), "expected losses.active as one bool for each of 3 tasks on cpu, got Bool of shape [2] on cpu"));
  wrong.active = row({1., 1., 0.});
  EXPECT_TRUE(contains(sentence(wrong), "got Double of shape [3]"));
  EXPECT_TRUE(contains(sentence(TaskLosses{}.set("click", row({1.}))),
                       "expected losses of the balancer's tasks \"click\", \"watch_time\", \"revenue\", got \"click\""));
  EXPECT_TRUE(contains(sentence_of([&] { balancer->observe(TaskLosses{}); }), "expected losses of the balancer's tasks", "got none"));
  wrong = leaves({2., .5, 1.});
  wrong.set("click", row({1., 2.}));
  EXPECT_TRUE(contains(sentence(wrong), "expected the loss of task \"click\" to be one number, got shape [2]"));

  balancer->fields([&](const char*, Tensor& field) { after.push_back(field); });
  for (size_t f = 0; f < before.size(); ++f) EXPECT_TRUE(same_bits(before[f], after[f])) << "FAMO stands still";
  EXPECT_EQ(balancer->step(), 2);
  EXPECT_TRUE(contains(sentence_of([&] { Balancer<FAMOBalance>(tasks)->observe(leaves({1., 1., 1.})); }), "htl::FAMO: expected weights() before observe()"));
}

TEST_F(Balancing, RefusesLossesBelowZeroWhereLogarithmsAreTaken) {
  const TaskLosses likelihood = leaves({2., -.1, 1.});  // 1e8 would be its weight, or nearly
  const auto says = [&](AnyBalance method, const TaskLosses& losses) {
    Balancer<AnyBalance> balancer(tasks, std::move(method));
    return sentence_of([&] { balancer(losses); });
  };
  for (const AnyBalance& method : {AnyBalance(GeometricMeanBalance{}), AnyBalance(ScaleInvariantBalance{}), AnyBalance(FAMOBalance{}),
                                   AnyBalance(STCHBalance{.nadir = {1.}}), AnyBalance(STCHBalance{.warmup_epochs = 1})}) {
    EXPECT_TRUE(contains(says(method, likelihood), "htl::Balancer: the method takes logarithms and expects losses ≥ 0, got -0.1 of task \"" + tasks[1].name()))
        << method.name();
    EXPECT_EQ(says(method, leaves({2., 0., 1.})), "no error") << method.name();
  }
  TaskLosses inactive = likelihood;
  inactive.active = torch::tensor({1, 0, 1}).to(torch::kBool);
  EXPECT_EQ(says(GeometricMeanBalance{}, inactive), "no error");
  EXPECT_EQ(says(ScaleInvariantBalance{.offset = 1.}, likelihood), "no error");
  EXPECT_EQ(says(FAMOBalance{.min_losses = {-1., -1., -1.}}, likelihood), "no error");
  EXPECT_EQ(says(STCHBalance{}, likelihood), "no error");
  EXPECT_EQ(says(UncertaintyBalance{}, likelihood), "no error");
}

TEST_F(Balancing, RefusesWhatAMethodMustNotReturn) {
  Balancer<Own> balancer(tasks, {.returned = nan});
  EXPECT_TRUE(contains(sentence_of([&] { balancer(leaves({2., .5, 1.})); }), "what the method returned for task \"click\" is nan (its loss is 2)"));
  struct Short {
    Tensor weights(const BalanceInput&) const { return row({1.}); }
  };
  EXPECT_TRUE(contains(sentence_of([&] {
                         Balancer<Short>{tasks}(leaves({2., .5, 1.}));
                       }),
                       "expected the method to return one number for each of 3 tasks, got shape [1]"));
  EXPECT_TRUE(contains(sentence_of([&] { Balancer<UncertaintyBalance>(tasks, {.initial = {1., 2.}}); }), "expected initial as one number"));
}

}  // namespace
