// SPDX-License-Identifier: Apache-2.0
// Gradients of dense shared layers against T whole backwards through dense tables: trunks, experts, levels, skips, no split at all, micro-batches, scopes.
#include <htl/gradient/backward.hpp>
#include <htl/weighting/any_weighting.hpp>
#include <htl/weighting/cagrad.hpp>
#include <htl/weighting/config.hpp>
#include <htl/weighting/core_task.hpp>
#include <htl/weighting/cr_mogm.hpp>
#include <htl/weighting/fair_grad.hpp>
#include <htl/weighting/grad_drop.hpp>
#include <htl/weighting/imtlg.hpp>
#include <htl/weighting/modo.hpp>
#include <htl/weighting/nash_mtl.hpp>
#include <htl/weighting/pcgrad.hpp>
#include <htl/weighting/sum.hpp>

#include <support/given.hpp>
#include <support/shared_models.hpp>

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/nn/modules/activation.h>
#include <torch/nn/modules/container/sequential.h>
#include <torch/nn/modules/linear.h>

#include <functional>
#include <utility>

namespace {

using namespace htl;
using namespace htl::test;
using at::Tensor;

::testing::AssertionResult is_gramian(const Tensor& actual, const Tensor& g) {
  const Tensor norm = g.norm(2, 1), unit = norm.where(norm > 0.0, 1.0), size = unit.unsqueeze(1) * unit.unsqueeze(0);
  return close(actual / size, g.mm(g.t()) / size, 0.0, 1e-12);
}
::testing::AssertionResult is_combination(const Tensor& actual, const Tensor& w, const Tensor& g) {
  return close(actual, w.matmul(g), 0.0, 1e-12 * (w.unsqueeze(1) * g).abs().max().item<double>());
}

Given random_weights(Random& random, int64_t tasks) {
  Given method;
  for (int64_t t = 0; t < tasks; ++t) method.values.push_back(random.real(-2.0, 2.0));
  return method;
}

class SharedLayers : public Seeded {
  Threads one_{1};
};

TEST_F(SharedLayers, EqualSeparateBackwardsThroughDenseTables) {
  Random random(91);
  int64_t inactive = 0;
  for (const Kind kind : kinds)
    for (int repetition = 0; repetition < 25; ++repetition) {
      SCOPED_TRACE(std::to_string(static_cast<int>(kind)) + ", " + std::to_string(repetition));
      const Model m(random, kind, random.integer(1, 5));
      const Given method = random_weights(random, m.tasks);
      GradientFork<Given> fork(task_set(m.tasks), method);
      const TaskLosses losses = m.through(fork);
      inactive += losses.active.logical_not().any().item<bool>();
      const GradientReport report = backward(losses, fork, m.shared_set());
      const auto [jacobian, plain, values] = m.brute();
      const bool all_overlap = kind == Kind::unsplit || kind == Kind::shared_gate || kind == Kind::layers_unsplit;
      const int64_t passes = all_overlap                                       ? m.tasks
                             : kind == Kind::skip || kind == Kind::layers_skip ? (m.tasks + 1) / 2
                             : kind == Kind::product                           ? std::min<int64_t>(m.tasks, 2)
                                                                               : 1;
      EXPECT_EQ(report.passes, passes);
      ASSERT_TRUE(is_gramian(report.gramian, jacobian));
      ASSERT_TRUE(is_combination(m.shared_gradient(), at::tensor(method.values, at::kDouble), jacobian));
      const auto own = m.plain_gradients();
      for (size_t i = 0; i < own.size(); ++i) ASSERT_TRUE(close(own[i], plain[i])) << "parameter " << i << " that is not shared";
      for (const RowTable& table : m.tables) EXPECT_FALSE(table.weight().grad().defined());
    }
  EXPECT_GT(inactive, 30);
}

TEST_F(SharedLayers, AddToGradientsThatAreThereAndCanBeDifferentiatedAgain) {
  Random random(92);
  for (const Kind kind : kinds) {
    SCOPED_TRACE(static_cast<int>(kind));
    const Model m(random, kind, 3);
    GradientFork<Given> fork(task_set(3), {.values = {1.0, -0.5, 2.0}});
    backward(m.through(fork), fork, m.shared_set());
    const Tensor once = m.shared_gradient();
    const auto own = m.plain_gradients();
    backward(m.through(fork), fork, m.shared_set());
    EXPECT_TRUE(close(m.shared_gradient(), 2.0 * once));
    const auto twice = m.plain_gradients();
    for (size_t i = 0; i < own.size(); ++i) EXPECT_TRUE(close(twice[i], 2.0 * own[i]));
  }
}

TEST_F(SharedLayers, AccumulateMicroBatchesToTheStepOfTheirSum) {
  Random random(93);
  for (const Kind kind : kinds) {
    SCOPED_TRACE(static_cast<int>(kind));
    Model m(random, kind, 3);
    GradientFork<CoreTask> fork(task_set(3));
    Tensor jacobian;
    GradientReport report;
    for (int part = 0; part < 3; ++part) {
      for (size_t i = 0; i < m.tables.size(); ++i) m.batches[i] = FieldBatch::of(random.ids({m.rows, 2}, m.tables[i].rows()));
      m.masks = {at::ones({m.rows}, at::kDouble), part == 1 ? at::zeros({m.rows}, at::kDouble) : at::ones({m.rows}, at::kDouble),
                 at::ones({m.rows}, at::kDouble)};
      const Tensor own = m.brute().jacobian;
      jacobian = part == 0 ? own : jacobian + own;
      report = backward(m.through(fork), fork, m.shared_set(), {.accumulate = part < 2});
      EXPECT_EQ(report.gramian.defined(), part == 2);
    }
    EXPECT_TRUE(report.active.all().item<bool>());
    EXPECT_TRUE(is_gramian(report.gramian, jacobian));
    EXPECT_TRUE(is_combination(m.shared_gradient(), report.weights, jacobian));
    EXPECT_EQ(fork->step(), 1);
  }
}

TEST_F(SharedLayers, AreOneVectorOrSeveralByScope) {
  Random random(94);
  for (const GradientScope scope : {GradientScope::whole, GradientScope::module, GradientScope::tensor}) {
    const Model m(random, Kind::rows_and_bottom, 3);
    GradientFork<CoreTask> fork(task_set(3), {.norm = NormReference::moving_average}, scope);
    const Shared set = shared(std::vector<Tensor>(m.named.begin(), m.named.begin() + 2), m.named[2], m.tables, m.named[3]);
    const auto rest = [&] { return shared(set.parameters()[0].value); };
    EXPECT_EQ(rest().things(), 1U);
    const GradientReport report = backward(m.through(fork), fork, set);
    const Tensor jacobian = m.brute().jacobian;
    EXPECT_TRUE(is_gramian(report.gramian, jacobian));
    // named: [6, 5], [5, 4], [5], [4, 4], then what is not reached, then the tables
    const std::vector<int64_t> widths = {30, 20, 5, 16, 24, 24, 8, 21, 10};
    std::vector<int64_t> groups = {0, 1, 2, 3, -1, -1, -1, 4, 5};
    if (scope == GradientScope::whole) groups = {0, 0, 0, 0, -1, -1, -1, 0, 0};
    if (scope == GradientScope::module) groups = {0, 0, 1, 2, -1, -1, -1, 3, 4};  // a vector of parameters is one thing, as a module is
    EXPECT_EQ(report.groups.size(), scope == GradientScope::whole ? 1U : scope == GradientScope::module ? 5U : 6U);
    EXPECT_EQ(report.weights.defined(), scope == GradientScope::whole);
    Tensor expected = at::zeros({jacobian.size(1)}, at::kDouble);
    for (int64_t g = 0; g < 6; ++g) {
      std::vector<Tensor> columns;
      int64_t first = 0;
      Tensor mask = at::zeros({jacobian.size(1)}, at::kDouble);
      for (size_t i = 0; i < widths.size(); first += widths[i++])
        if (groups[i] == g) mask.narrow(0, first, widths[i]).fill_(1.0);
      if (mask.sum().item<double>() == 0.0) continue;
      const Tensor part = jacobian * mask;
      CoreTask::State fresh;
      expected =
          expected +
          CoreTask{.norm = NormReference::moving_average}.weights({.matrix = part.mm(part.t()), .active = report.active, .cores = {2}}, fresh).matmul(part);
    }
    EXPECT_TRUE(close(m.shared_gradient(), expected));
    EXPECT_NEAR(report.combined_norm().item<double>(), expected.norm().item<double>(), 1e-12);
    // the memory of each group is saved and loaded
    GradientFork<CoreTask> loaded(task_set(3), {.norm = NormReference::moving_average}, scope);
    std::vector<std::pair<std::string, Tensor>> saved;
    fork->visit_state([&](const std::string& name, Tensor& field) { saved.emplace_back(name, field.defined() ? field.clone() : field); });
    EXPECT_EQ(saved.size(), scope == GradientScope::whole ? 3U : 5U);
    size_t next = 0;
    loaded->visit_state([&](const std::string& name, Tensor& field) {
      ASSERT_LT(next, saved.size());
      EXPECT_EQ(name, saved[next].first);
      field = saved[next++].second;
    });
    m.clear();
    backward(m.through(fork), fork, set);
    const Tensor again = m.shared_gradient();
    m.clear();
    backward(m.through(loaded), loaded, set);
    EXPECT_TRUE(same_bits(m.shared_gradient(), again));
  }
}

TEST_F(SharedLayers, OfModulesGroupByModule) {
  torch::nn::Sequential bottom(torch::nn::Linear(3, 4), torch::nn::Tanh()), middle(torch::nn::Linear(4, 4));
  Mlp top(MlpOptions(4, {5, 4}));
  for (torch::nn::Module* module : std::vector<torch::nn::Module*>{bottom.get(), middle.get(), top.get()}) module->to(at::kDouble);
  middle[0]->as<torch::nn::Linear>()->bias.set_requires_grad(false);
  const Shared set = shared(bottom, middle, *top);
  EXPECT_EQ(set.things(), 3U);
  ASSERT_EQ(set.parameters().size(), 2U + 1U + 4U);  // without the frozen one
  EXPECT_EQ(set.parameters()[2].name, "1.0.weight");
  GradientFork<CoreTask> fork(task_set(3), {}, GradientScope::module);
  const Tensor x = at::randn({7, 3}, at::kDouble);
  const auto views = fork->split(top->forward(middle->forward(bottom->forward(x))));
  TaskLosses losses;
  const Tensor h = top->forward(middle->forward(bottom->forward(x)));
  std::vector<Tensor> leaves;
  for (const auto& parameter : set.parameters()) leaves.push_back(parameter.value);
  std::vector<std::vector<Tensor>> rows(3);  // of each module's Jacobian
  for (size_t t = 0; t < 3; ++t) {
    const Tensor factor = at::randn({7, 4}, at::kDouble);
    losses.values.set("t" + std::to_string(t), (views[t].sin() * factor).sum());
    const auto gradients = torch::autograd::grad({(h.sin() * factor).sum()}, leaves, {}, /*retain_graph=*/true);
    std::vector<std::vector<Tensor>> of_module(3);
    for (size_t p = 0; p < leaves.size(); ++p) of_module[set.parameters()[p].thing].push_back(gradients[p].flatten());
    for (size_t g = 0; g < 3; ++g) rows[g].push_back(at::cat(of_module[g]));
  }
  const GradientReport report = backward(losses, fork, set);
  ASSERT_EQ(report.groups.size(), 3U);
  EXPECT_EQ(report.groups[1].name, "1");
  for (size_t g = 0; g < 3; ++g) {
    const Tensor jacobian = at::stack(rows[g]), k = jacobian.mm(jacobian.t());
    EXPECT_TRUE(is_gramian(report.groups[g].gramian, jacobian));
    std::vector<Tensor> written;
    for (const auto& parameter : set.parameters())
      if (parameter.thing == g) written.push_back(parameter.value.grad().flatten());
    EXPECT_TRUE(is_combination(at::cat(written), weights(CoreTask{}, {.matrix = k, .cores = {2}}), jacobian));
  }
  EXPECT_FALSE(middle[0]->as<torch::nn::Linear>()->bias.grad().defined());
}

TEST_F(SharedLayers, OfSmallBatchesInFloatKeepWhatCancels) {
  // rows that are nearly one, and cotangents that cancel over them: products of gradients are 1e-6 of the terms that they are sums of
  Mlp bottom(MlpOptions(256, {256}));
  const Tensor x = at::ones({16, 256}) + 1e-3 * at::randn({16, 256});
  GradientFork<Given> fork(task_set(4), {.values = {1.0, -0.5, 2.0, 0.25}});
  std::vector<Tensor> cotangents;
  for (size_t t = 0; t < 4; ++t) {
    const Tensor drawn = at::randn({16, 256});
    cotangents.push_back(drawn - drawn.mean(0, true));
  }
  {
    const c10::InferenceMode guard;
    bottom->parameters()[1].fill_(100.0);  // no rectifier cuts anything off
  }
  const auto views = fork->split(bottom->forward(x));
  TaskLosses losses;
  std::vector<Tensor> rows;
  for (size_t t = 0; t < 4; ++t) {
    losses.values.set("t" + std::to_string(t), (views[t] * cotangents[t]).sum());
    rows.push_back(cotangents[t].to(at::kDouble).t().mm(x.to(at::kDouble)).flatten());
  }
  const GradientReport report = backward(losses, fork, shared(bottom->parameters()[0]).others_summed());
  const Tensor jacobian = at::stack(rows), k = jacobian.mm(jacobian.t()), size = k.diagonal().sqrt();
  EXPECT_TRUE(close(report.gramian / size / size.unsqueeze(1), k / size / size.unsqueeze(1), 0.0, 1e-5));
}

TEST_F(SharedLayers, WithHooksSeeEveryTasksGradient) {
  Mlp bottom(MlpOptions(5, {6}));
  bottom->to(at::kDouble);
  const Tensor x = at::randn({3, 5}, at::kDouble).abs(), weight = bottom->parameters()[0];
  {
    const c10::InferenceMode guard;
    bottom->parameters()[1].fill_(100.0);  // no rectifier cuts anything off
  }
  const auto hook = weight.register_hook([](const Tensor& gradient) { return 2.0 * gradient; });
  for (const bool hooked : {true, false}) {
    GradientFork<Given> fork(task_set(4), {.values = {1.0, -0.5, 2.0, 0.25}});
    const auto views = fork->split(bottom->forward(x));
    TaskLosses losses;
    std::vector<Tensor> rows;
    for (size_t t = 0; t < 4; ++t) {
      const Tensor cotangent = at::randn({3, 6}, at::kDouble);
      losses.values.set("t" + std::to_string(t), (views[t] * cotangent).sum());
      rows.push_back((hooked ? 2.0 : 1.0) * cotangent.t().mm(x).flatten());
    }
    weight.mutable_grad() = Tensor();
    const GradientReport report = backward(losses, fork, shared(weight).others_summed());
    const Tensor jacobian = at::stack(rows);
    EXPECT_TRUE(is_gramian(report.gramian, jacobian)) << hooked;
    EXPECT_TRUE(is_combination(weight.grad().flatten(), at::tensor({1.0, -0.5, 2.0, 0.25}, at::kDouble), jacobian)) << hooked;
    if (hooked) weight.remove_hook(hook);
  }
}

TEST_F(SharedLayers, OfAnyNumberOfNumbersInAnyTypeAreTheirProductsAndSums) {
  for (const int64_t size : {1, 511, 512, 513, 8191, 8193, 100'000})
    for (const int64_t tasks : {1, 3, 4, 7}) {
      const Tensor left = at::randn({tasks, size}, at::kDouble), right = at::randn({tasks, size}, at::kDouble), w = at::randn({tasks}, at::kDouble);
      for (const at::ScalarType type : {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16}) {
        SCOPED_TRACE(std::to_string(size) + " numbers of " + std::to_string(tasks) + " tasks, " + toString(type));
        std::vector<Tensor> a, b;
        for (int64_t t = 0; t < tasks; ++t) {
          a.push_back(left[t].to(type));
          b.push_back(right[t].to(type));
        }
        if (tasks == 3) a[1] = Tensor();  // a task that did not arrive
        const auto matrix = [&](const std::vector<Tensor>& list) {
          std::vector<Tensor> rows;
          for (const Tensor& row : list) rows.push_back(row.defined() ? row.to(at::kDouble) : at::zeros({size}, at::kDouble));
          return at::stack(rows);
        };
        const Tensor of_a = matrix(a), of_b = matrix(b), like = b.front();
        const double bound = 1e-13 * static_cast<double>(size);
        EXPECT_TRUE(close(htl::detail::dense_products(a, b, like), of_a.mm(of_b.t()), 1e-12, bound));
        const Tensor own = htl::detail::dense_products(a, a, like), sum = htl::detail::combine_dense(a, w, like);
        EXPECT_TRUE(close(own, of_a.mm(of_a.t()), 1e-12, bound));
        EXPECT_TRUE(same_bits(own, own.t()));
        ASSERT_EQ(sum.scalar_type(), type);
        EXPECT_TRUE(close(sum.to(at::kDouble), w.matmul(of_a),
                          type == at::kBFloat16 ? 1e-2
                          : type == at::kHalf   ? 2e-3
                                                : 0.0,
                          type == at::kDouble  ? 1e-13
                          : type == at::kFloat ? 1e-5
                                               : 1e-4));
        const Threads two(2);
        EXPECT_TRUE(same_bits(own, htl::detail::dense_products(a, a, like)));
        EXPECT_TRUE(same_bits(sum, htl::detail::combine_dense(a, w, like)));
      }
    }
  // a weight beyond the range of a half type, of gradients that it brings back into it
  const Tensor small = at::full({4}, 6e-5, at::kHalf), sum = htl::detail::combine_dense({small}, at::tensor({1e6}, at::kDouble), small);
  EXPECT_TRUE(close(sum.to(at::kDouble), at::full({4}, 60.0, at::kDouble), 1e-2, 0.0));
}

TEST_F(SharedLayers, OfEveryProcessorHaveTheSameBits) {
  const auto compare = [](auto number) {
    using Scalar = decltype(number);
    const auto plain = htl::detail::plain_product_kernels<Scalar>(), fast = htl::detail::product_kernels<Scalar>();
    for (int64_t count = 0; count < 70; ++count) {
      const Tensor rows = at::randn({8, count}, at::CppTypeToScalarType<Scalar>::value);
      std::vector<const Scalar*> starts;
      for (int64_t r = 0; r < 8; ++r) starts.push_back(rows.const_data_ptr<Scalar>() + r * count);
      std::vector<double> expected(16, 1.0), got = expected;
      plain.own(starts.data(), nullptr, count, expected.data());
      fast.own(starts.data(), nullptr, count, got.data());
      EXPECT_EQ(expected, got) << count;
      plain.others(starts.data(), starts.data() + 4, count, expected.data());
      fast.others(starts.data(), starts.data() + 4, count, got.data());
      EXPECT_EQ(expected, got) << count;
    }
  };
  compare(1.0F);
  compare(1.0);
}

TEST_F(SharedLayers, InFloatAndUnderAutocastAreTheDoubleResultUpToRounding) {
  Random random(95);
  for (const bool autocast : {false, true}) {
    torch::nn::Sequential bottom(torch::nn::Linear(6, 16), torch::nn::ReLU(), torch::nn::Linear(16, 8));
    std::vector<torch::nn::Linear> heads = {torch::nn::Linear(8, 1), torch::nn::Linear(8, 1), torch::nn::Linear(8, 1)};
    const Tensor x = random.normal({64, 6}, 1.0, at::kFloat);
    GradientFork<Given> fork(task_set(3), {.values = {1.0, -0.5, 2.0}});
    const auto loss = [&](const Tensor& view, size_t t) {
      return (heads[t]->forward(view).to(at::kFloat).squeeze(1) - x.select(1, static_cast<int64_t>(t))).square().mean();
    };
    TaskLosses losses;
    at::autocast::set_autocast_enabled(at::kCPU, autocast);
    const auto views = fork->split(bottom->forward(x));
    EXPECT_EQ(views[0].scalar_type(), autocast ? at::kBFloat16 : at::kFloat);
    for (size_t t = 0; t < 3; ++t) losses.values.set("t" + std::to_string(t), loss(views[t], t));
    at::autocast::set_autocast_enabled(at::kCPU, false);
    at::autocast::clear_cache();
    const GradientReport report = backward(losses, fork, shared(bottom));
    std::vector<Tensor> rows;
    for (size_t t = 0; t < 3; ++t) {
      std::vector<Tensor> flat;
      for (const Tensor& gradient : torch::autograd::grad({loss(bottom->forward(x), t)}, bottom->parameters())) flat.push_back(gradient.flatten());
      rows.push_back(at::cat(flat).to(at::kDouble));
    }
    const Tensor jacobian = at::stack(rows), k = jacobian.mm(jacobian.t()), size = k.diagonal().sqrt();
    const double tolerance = autocast ? 3e-2 : 2e-6;
    EXPECT_TRUE(close(report.gramian / (size.unsqueeze(0) * size.unsqueeze(1)), k / (size.unsqueeze(0) * size.unsqueeze(1)), 0.0, tolerance));
    std::vector<Tensor> got;
    for (const Tensor& parameter : bottom->parameters()) {
      EXPECT_EQ(parameter.grad().scalar_type(), at::kFloat);
      got.push_back(parameter.grad().flatten());
    }
    EXPECT_TRUE(close(at::cat(got), at::tensor({1.0, -0.5, 2.0}, at::kDouble).matmul(jacobian), 0.0, tolerance * jacobian.norm().item<double>()));
  }
}

TEST_F(SharedLayers, OfOursUnderAutocastAreThePlainBackwardUnderIt) {
  Random random(103);
  const RowTable items(random.normal({7, 3}, 1.0, at::kFloat).requires_grad_(), "items"),
      users(random.normal({5, 4}, 1.0, at::kFloat).requires_grad_(), "users");
  Mlp trunk(MlpOptions({6, 4}, {16, 8}));
  std::vector<torch::nn::Linear> heads = {torch::nn::Linear(12, 1), torch::nn::Linear(12, 1), torch::nn::Linear(12, 1)};
  const std::vector<double> given = {0.7, -1.3, 2.1};
  const auto ids = [&](const RowTable& table, int64_t fields) { return FieldBatch::of(random.ids({64, fields}, table.rows())); };
  const FieldBatch of_items = ids(items, 2), of_users = ids(users, 1);
  const Tensor x = random.normal({64, 4}, 1.0, at::kFloat);
  const auto copies = [](const Tensor& tensor) { return std::vector<Tensor>(3, tensor); };
  const auto losses_through = [&](const auto& split, const auto& split_rows) {
    at::autocast::set_autocast_enabled(at::kCPU, true);
    const auto views = split(trunk->forward({lookup(items, of_items).values(), x})), rows = split_rows(lookup(users, of_users));
    EXPECT_EQ(views[0].scalar_type(), at::kBFloat16);
    TaskLosses losses;
    for (size_t t = 0; t < 3; ++t) {
      const Tensor output = heads[t]->forward(at::cat({views[t].to(at::kFloat), rows[t]}, 1));
      losses.values.set("t" + std::to_string(t), (output.to(at::kFloat).squeeze(1) - x.select(1, static_cast<int64_t>(t))).square().mean());
    }
    at::autocast::set_autocast_enabled(at::kCPU, false);
    at::autocast::clear_cache();
    return losses;
  };
  const auto plain = [&] { return losses_through(copies, [&](Lookup look) { return copies(look.values()); }); };
  const auto take = [&] {  // what a backward left, tensor by tensor
    std::vector<Tensor> result = {dense_gradient(items).flatten(), dense_gradient(users).flatten()};
    for (const Tensor& parameter : trunk->parameters()) {
      EXPECT_EQ(parameter.grad().scalar_type(), at::kFloat);
      result.push_back(std::exchange(parameter.mutable_grad(), Tensor()).to(at::kDouble).flatten());
    }
    items.gradient().clear();
    users.gradient().clear();
    return result;
  };
  std::vector<std::vector<Tensor>> of_task;
  for (size_t t = 0; t < 3; ++t) {
    plain()["t" + std::to_string(t)].backward();
    of_task.push_back(take());
  }
  const TaskLosses whole = plain();
  (given[0] * whole["t0"] + given[1] * whole["t1"] + given[2] * whole["t2"]).backward();
  const std::vector<Tensor> of_sum = take();

  GradientFork<Given> fork(task_set(3), {.values = given});
  const TaskLosses losses = losses_through([&](const Tensor& tensor) { return fork->split(tensor); }, [&](const Lookup& look) { return fork->split(look); });
  const GradientReport report = backward(losses, fork, shared(trunk, items, users));
  const std::vector<Tensor> got = take();
  std::vector<Tensor> rows;
  for (const std::vector<Tensor>& gradients : of_task) rows.push_back(at::cat(gradients));
  const Tensor jacobian = at::stack(rows), k = jacobian.mm(jacobian.t()), size = k.diagonal().sqrt();
  // each task's gradient goes the way that it goes alone, so that only sums in float differ
  EXPECT_TRUE(close(report.gramian / (size.unsqueeze(0) * size.unsqueeze(1)), k / (size.unsqueeze(0) * size.unsqueeze(1)), 0.0, 1e-6));
  EXPECT_TRUE(close(at::cat(got), at::tensor(given, at::kDouble).matmul(jacobian), 0.0, 1e-6 * jacobian.abs().max().item<double>()));
  // between the loss and a weight a gradient is rounded to bfloat16 up to five times, by 2⁻⁸ of itself each: of the sum after it was weighted and added, of the
  // tasks before
  for (size_t i = 0; i < got.size(); ++i) {
    double sizes = 0.0;
    for (size_t t = 0; t < 3; ++t) sizes += std::abs(given[t]) * of_task[t][i].norm().item<double>();
    EXPECT_LE((got[i] - of_sum[i]).norm().item<double>(), 5.0 * 0x1p-8 * sizes) << "tensor " << i;
  }
}

TEST_F(SharedLayers, OfSixtyFourTasksAreExact) {
  Random random(96);
  const Model m(random, Kind::rows_and_bottom, 64);
  const Given method = random_weights(random, 64);
  GradientFork<Given> fork(task_set(64), method);
  const GradientReport report = backward(m.through(fork), fork, m.shared_set());
  const Tensor jacobian = m.brute().jacobian;
  EXPECT_TRUE(is_gramian(report.gramian, jacobian));
  EXPECT_TRUE(is_combination(m.shared_gradient(), at::tensor(method.values, at::kDouble), jacobian));
}

/// Keeps the largest of the tasks' numbers: no combination of task gradients.
struct Largest {
  SharedGradient aggregate(const TaskGradients& gradients) const {
    SharedGradient result;
    for (const TaskGradients::Part& part : gradients.parts) result.parts.push_back({std::get<0>(part.values.max(1)), part.rows, part.valid});
    return result;
  }
};

/// The gradient of its first batch's task 0 in every row that it ever saw: a memory as large as what is shared.
struct Remembering {
  struct State {
    std::vector<Tensor> sums;
    template <class Visit>
    void fields(Visit&& visit) {
      for (Tensor& sum : sums) visit("sum", sum);
    }
  };
  SharedGradient aggregate(const TaskGradients& gradients, State& state) const {
    SharedGradient result;
    for (size_t p = 0; p < gradients.parts.size(); ++p) {
      const TaskGradients::Part& part = gradients.parts[p];
      if (state.sums.size() <= p) state.sums.push_back(at::zeros({part.total_rows, part.values.size(2)}, part.values.options()));
      if (part.rows.defined()) {
        state.sums[p].index_add_(0, part.rows, part.values.select(1, 0));
      } else {
        state.sums[p] = state.sums[p] + part.values.select(1, 0);
      }
      result.parts.push_back({state.sums[p].clone(), part.rows.defined() ? at::arange(part.total_rows) : Tensor(), {}});
    }
    result.weights = at::zeros({gradients.gramian.tasks()}, at::kDouble);
    return result;
  }
};

TEST_F(SharedLayers, GiveMethodsThatSeeGradientsEveryNumberOnce) {
  Random random(98);
  for (const Kind kind : kinds)
    for (int repetition = 0; repetition < 5; ++repetition)
      for (const GradientScope scope : {GradientScope::whole, GradientScope::tensor}) {
        SCOPED_TRACE(static_cast<int>(kind));
        const Model m(random, kind, random.integer(1, 4));
        GradientFork<Largest> fork(task_set(m.tasks), {}, scope);
        const GradientReport report = backward(m.through(fork), fork, m.shared_set());
        const Tensor jacobian = m.brute().jacobian, expected = std::get<0>(jacobian.max(0));
        EXPECT_TRUE(is_gramian(report.gramian, jacobian));
        EXPECT_TRUE(close(m.shared_gradient(), expected));
        EXPECT_NEAR(report.combined_norm().item<double>(), expected.norm().item<double>(), 1e-12);
        EXPECT_FALSE(report.weights.defined());
      }
  const Model m(random, Kind::rows_and_bottom, 2);
  GradientFork<Remembering> fork(task_set(2));
  Tensor sum;
  for (int step = 0; step < 4; ++step) {
    Model next = m;
    for (size_t i = 0; i < m.tables.size(); ++i) next.batches[i] = FieldBatch::of(random.ids({m.rows, 2}, m.tables[i].rows()));
    const Tensor first = next.brute().jacobian[0];
    sum = sum.defined() ? sum + first : first;
    m.clear();
    const GradientReport report = backward(next.through(fork), fork, m.shared_set());
    EXPECT_TRUE(close(m.shared_gradient(), sum));
    EXPECT_TRUE(report.weights.defined());
  }
}

/// Asks for three batches; keeps what it is told.
struct ThreeBatches {
  std::shared_ptr<TaskGramian> told = std::make_shared<TaskGramian>();
  int64_t batches() const { return 3; }
  Tensor weights(const TaskGramian& gramian) const {
    *told = gramian;
    return at::arange(1, gramian.tasks() + 1, at::kDouble);
  }
};

TEST_F(SharedLayers, GiveMethodsOfSeveralBatchesTheirProducts) {
  Random random(99);
  for (const Kind kind : kinds)
    for (const size_t count : {size_t{2}, size_t{3}}) {
      SCOPED_TRACE(std::to_string(static_cast<int>(kind)) + " of " + std::to_string(count));
      const Model m(random, kind, 3);
      GradientFork<ThreeBatches> fork(task_set(3));
      std::vector<Model> batches(count, m);
      std::vector<TaskLosses> losses;
      std::vector<Tensor> jacobians, plain;
      Tensor active = at::ones({3}, at::kBool);
      for (Model& batch : batches) {
        for (size_t i = 0; i < m.tables.size(); ++i) batch.batches[i] = FieldBatch::of(random.ids({m.rows, 2}, m.tables[i].rows()));
        for (Tensor& mask : batch.masks) mask = random.mask({m.rows}, 0.8).to(at::kDouble);
        losses.push_back(batch.through(fork));
        active = active.logical_and(losses.back().active);
        auto brute = batch.brute();
        jacobians.push_back(brute.jacobian);
        for (size_t i = 0; i < brute.plain.size(); ++i) {
          if (plain.size() <= i) plain.push_back(at::zeros_like(brute.plain[i]));
          plain[i] = plain[i] + brute.plain[i] / static_cast<double>(count);
        }
      }
      const GradientReport report = backward(losses, fork, m.shared_set());
      const TaskGramian& told = *fork->method().told;
      EXPECT_TRUE(close(told.cross, jacobians[0].mm(jacobians[1].t()), 0.0, 1e-12 * jacobians[0].norm().item<double>() * jacobians[1].norm().item<double>()));
      EXPECT_TRUE(is_gramian(told.matrix, jacobians.back()));
      EXPECT_TRUE(same_bits(told.active, active));
      const Tensor weights = at::tensor({1.0, 2.0, 3.0}, at::kDouble).where(active, 0.0);  // what a task says in one of the batches alone does not count
      EXPECT_TRUE(is_combination(m.shared_gradient(), weights, jacobians.back()));
      const auto own = m.plain_gradients();
      for (size_t i = 0; i < own.size(); ++i) EXPECT_TRUE(close(own[i], plain[i]));
      EXPECT_TRUE(same_bits(report.gramian, told.matrix));
    }
  const Model m(random, Kind::bottom, 3);
  GradientFork<ThreeBatches> fork(task_set(3));
  GradientFork<Sum> one(task_set(3));
  const auto say = [&](size_t count, auto& by, const Shared& set) {
    std::vector<TaskLosses> losses;
    for (size_t b = 0; b < count; ++b) losses.push_back(m.through(by));
    return sentence_of([&] { backward(losses, by, set); });
  };
  EXPECT_TRUE(contains(say(1, fork, m.shared_set()), "losses of 2 to 3 batches, got 1"));
  EXPECT_TRUE(contains(say(4, fork, m.shared_set()), "got 4"));
  EXPECT_TRUE(contains(say(2, one, m.shared_set()), "asks for one batch a step, got the losses of 2"));
  EXPECT_TRUE(contains(say(2, fork, {}), "have no products", "htl::shared()"));
}

/// Hears the losses after each step.
struct Hearing {
  struct State {
    Tensor before, after;
    template <class Visit>
    void fields(Visit&& visit) {
      visit("before", before);
      visit("after", after);
    }
  };
  Tensor weights(const TaskGramian& gramian, State& state) const {
    state.before = gramian.losses.clone();
    return at::ones({gramian.tasks()}, at::kDouble);
  }
  void observe(const Tensor& losses, State& state) const { state.after = losses; }
};
static_assert(LossObserver<Hearing> && !LossObserver<CoreTask>);

TEST_F(SharedLayers, TellMethodsTheLossesAfterTheStep) {
  Random random(100);
  const Model m(random, Kind::bottom, 3);
  GradientFork<Hearing> fork(task_set(3));
  const TaskLosses losses = m.through(fork);
  backward(losses, fork, m.shared_set());
  TaskLosses after;
  for (int t = 0; t < 3; ++t) after.values.set("t" + std::to_string(t), at::tensor(t + 0.5, at::kFloat));
  fork->observe(after);
  fork->fields([&](const std::string& name, Tensor& field) {
    EXPECT_TRUE(close(
        field, name == "after" ? at::tensor({0.5, 1.5, 2.5}, at::kDouble) : at::stack({losses["t0"], losses["t1"], losses["t2"]}).detach().to(at::kDouble)));
  });
  TaskLosses others;
  others.values.set("x", at::ones({}));
  EXPECT_TRUE(contains(sentence_of([&] { fork->observe(others); }), "expected losses of the fork's tasks", "got \"x\""));
}

TEST_F(SharedLayers, ReportConflictsConditionAndMagnitudes) {
  Random random(101);
  int64_t conflicts = 0;
  for (int repetition = 0; repetition < 200; ++repetition) {
    const int64_t tasks = random.integer(1, 8);
    Tensor g = random.normal({tasks, 10}) * std::pow(10.0, random.real(-12.0, 12.0));
    if (random.chance(0.2)) g[0].zero_();
    GradientReport report;
    report.gramian = g.mm(g.t());
    const Tensor singular = at::linalg_svdvals(g), norms = g.norm(2, 1);
    const double condition = (singular.max() / singular.min()).item<double>(), got = report.condition_number().item<double>();
    if (norms.min().item<double>() == 0.0) {
      EXPECT_EQ(got, std::numeric_limits<double>::infinity());
    } else {
      EXPECT_NEAR(got / condition, 1.0, 1e-13 * condition * condition);
    }
    report.active = random.mask({tasks}, 0.7).to(at::kBool);
    report.active[tasks - 1] = true;
    const Tensor active = report.active.nonzero().squeeze(1), part = at::linalg_svdvals(g.index_select(0, active));
    const double of_active = (part.max() / part.min()).item<double>(), told = report.condition_number().item<double>();
    if (norms.index_select(0, active).min().item<double>() == 0.0) {
      EXPECT_EQ(told, std::numeric_limits<double>::infinity());
    } else {
      EXPECT_NEAR(told / of_active, 1.0, 1e-13 * of_active * of_active) << "tasks that are not active do not count";
    }
    report.active = Tensor();
    double pairs = 0.0, opposed = 0.0;
    for (int64_t s = 0; s < tasks; ++s)
      for (int64_t t = 0; t < tasks; ++t) {
        const double a = norms[s].item<double>(), b = norms[t].item<double>();
        EXPECT_NEAR(report.magnitude_similarity()[s][t].item<double>(), a * b > 0.0 ? 2.0 * a * b / (a * a + b * b) : 0.0, 1e-12);
        if (s < t && a * b > 0.0) {
          pairs += 1.0;
          opposed += g[s].dot(g[t]).item<double>() < 0.0;
        }
      }
    EXPECT_NEAR(report.conflict_rate().item<double>(), pairs > 0.0 ? opposed / pairs : 0.0, 1e-15);
    conflicts += opposed > 0.0;
  }
  EXPECT_GT(conflicts, 50);
  GradientReport golden;  // of the matrix [[1, 2, −1, 0], [−2, 1, .5, 1], [.5, −1, 3, −2]]
  const Tensor j3 = at::tensor({1., 2., -1., 0., -2., 1., .5, 1., .5, -1., 3., -2.}, at::kDouble).view({3, 4});
  golden.gramian = j3.mm(j3.t());
  EXPECT_NEAR(golden.condition_number().item<double>(), 2.272977, 1e-6);
  const Tensor similarity = golden.magnitude_similarity();
  EXPECT_TRUE(close(at::stack({similarity[0][1], similarity[0][2], similarity[1][2]}), at::tensor({.999792, .913247, .920712}, at::kDouble), 0.0, 1e-6));
  EXPECT_EQ(golden.conflict_rate().item<double>(), 1.0);
  golden.active = at::tensor({1, 0, 1}, at::kInt).to(at::kBool);
  EXPECT_EQ(golden.conflict_rate().item<double>(), 1.0);
  EXPECT_TRUE(contains(sentence_of([] { GradientReport().conflict_rate(); }), "there is no Gramian yet"));
}

TEST_F(SharedLayers, ReportEverythingAsNamedNumbers) {
  Random random(102);
  const Model m(random, Kind::rows_and_bottom, 3);
  const auto report_of = [&](const AnyWeighting& method, GradientScope scope) {
    GradientFork<AnyWeighting> fork(task_set(3), method, scope);
    return backward(m.through(fork), fork, m.shared_set());
  };
  const GradientReport report = report_of(CAGrad{.c = 0.4}, GradientScope::whole);
  const Named<double> scalars = report.scalars();
  EXPECT_EQ(quoted(scalars.names()),
            R"("losses/t0", "losses/t1", "losses/t2", "norms/t0", "norms/t1", "norms/t2", "weights/t0", "weights/t1", "weights/t2", "cosines/t0,t1", )"
            R"("cosines/t0,t2", "cosines/t1,t2", "magnitude_similarity/t0,t1", "magnitude_similarity/t0,t2", "magnitude_similarity/t1,t2", "combined_norm", )"
            R"("conflict_rate", "condition_number")");
  EXPECT_EQ(scalars["losses/t1"], report.losses[1].item<double>());
  EXPECT_EQ(scalars["norms/t2"], report.norms()[2].item<double>());
  EXPECT_EQ(scalars["weights/t0"], report.weights[0].item<double>());
  EXPECT_EQ(scalars["cosines/t0,t2"], report.cosines()[0][2].item<double>());
  EXPECT_EQ(scalars["cosines/t1,t2"], report.cosines()[1][2].item<double>());
  EXPECT_EQ(scalars["magnitude_similarity/t0,t1"], report.magnitude_similarity()[0][1].item<double>());
  EXPECT_EQ(scalars["combined_norm"], report.combined_norm().item<double>());
  EXPECT_EQ(scalars["conflict_rate"], report.conflict_rate().item<double>());
  EXPECT_EQ(scalars["condition_number"], report.condition_number().item<double>());
  const auto [names, values] = report.unread_scalars();
  EXPECT_EQ(names, scalars.names());
  EXPECT_EQ(values[9].item<double>(), scalars["cosines/t0,t1"]);
  const Named<double> by_tensor = report_of(CAGrad{}, GradientScope::tensor).scalars();
  EXPECT_TRUE(by_tensor.contains("weights/items/t1") && by_tensor.contains("weights/0.0/t2") && !by_tensor.contains("weights/t0")) << quoted(by_tensor.names());
  const Named<double> dropped = report_of(GradDrop{}, GradientScope::whole).scalars();
  EXPECT_FALSE(dropped.contains("weights/t0"));
  EXPECT_TRUE(dropped.contains("combined_norm"));
  GradientReport alone;
  alone.gramian = report.gramian;
  EXPECT_TRUE(contains(sentence_of([&] { alone.scalars(); }), "expected names of 3 tasks, got 0"));
}

TEST_F(SharedLayers, ReportHowOftenAMethodHadNoSolution) {
  const Tensor weight = at::ones({2}, at::kDouble).requires_grad_();
  const auto opposed = [&] {  // two tasks that pull the same way apart
    TaskLosses losses;
    losses.values.set("t0", weight.sum()).set("t1", -2.0 * weight.sum());
    return losses;
  };
  for (const AnyWeighting& method : {AnyWeighting(NashMTL{}), AnyWeighting(FairGrad{}), AnyWeighting(IMTLG{}), AnyWeighting(ConFIG{}),
                                     AnyWeighting(CRMOGM<AnyWeighting>{.inner = NashMTL{}}), AnyWeighting(CRMOGM<IMTLG>{})}) {
    SCOPED_TRACE(method.name());
    GradientFork<AnyWeighting> fork(task_set(2), method);
    const GradientReport first = backward(opposed(), fork, shared(weight));
    TaskLosses agree;
    agree.values.set("t0", weight.sum()).set("t1", weight.select(0, 0) * 3.0);
    const GradientReport second = backward(agree, fork, shared(weight)), third = backward(opposed(), fork, shared(weight));
    EXPECT_EQ(first.fallbacks.item<int64_t>(), 1);
    EXPECT_EQ(second.fallbacks.item<int64_t>(), 1);
    EXPECT_EQ(third.fallbacks.item<int64_t>(), 2);
    EXPECT_EQ(third.scalars()["fallbacks"], 2.0);
    fork->forget();
    EXPECT_EQ(backward(agree, fork, shared(weight)).fallbacks.item<int64_t>(), 0);
  }
  GradientFork<NashMTL> by_tensor(task_set(2), {}, GradientScope::tensor);
  const Tensor other = at::ones({2}, at::kDouble).requires_grad_();
  TaskLosses losses;
  losses.values.set("t0", weight.sum() + other.sum()).set("t1", -weight.sum() - other.sum());
  EXPECT_EQ(backward(losses, by_tensor, shared(weight, other)).fallbacks.item<int64_t>(), 2) << "over all groups";
  GradientFork<PCGrad> without(task_set(2));
  EXPECT_FALSE(backward(opposed(), without, shared(weight)).fallbacks.defined());
}

TEST_F(SharedLayers, RefuseWhatTheMethodWouldNotSee) {
  Random random(97);
  const Model m(random, Kind::bottom, 3);
  GradientFork<Sum> fork(task_set(3));
  const auto say = [&](const Shared& set) { return sentence_of([&] { backward(m.through(fork), fork, set); }); };
  EXPECT_TRUE(contains(say(shared(m.named[0], m.named[1], m.tables)), "a parameter of shape [5] lies below a split tensor", "others_summed()"));
  EXPECT_TRUE(contains(say(shared(m.named)), "table \"items\" lies below a split tensor"));
  EXPECT_EQ(say(shared(m.named, m.tables[0])), "no error");
  m.clear();
  EXPECT_EQ(say(shared(m.named[0]).others_summed()), "no error");
  const Tensor jacobian = m.brute().jacobian;
  EXPECT_TRUE(close(m.shared_gradient(), jacobian.sum(0))) << "the plain sum everywhere";
  EXPECT_TRUE(contains(say(shared(m.tables[1]).others_summed()), "no error"));  // a split tensor is reached, though nothing that was named
  EXPECT_TRUE(contains(sentence_of([&] { shared(m.named[0] * 2.0); }), "result of an operation"));
  EXPECT_TRUE(contains(sentence_of([&] { shared(Tensor()); }), "undefined tensor"));
  EXPECT_TRUE(contains(sentence_of([&] { shared(Mlp(nullptr)); }), "empty holder"));
  EXPECT_TRUE(contains(sentence_of([&] { shared(std::shared_ptr<torch::nn::LinearImpl>()); }), "null pointer"));
  EXPECT_TRUE(contains(sentence_of([&] { shared(m.tables[0], RowTable(m.tables[0].weight(), "other")); }), "two tables over one weight"));
  EXPECT_EQ(shared(m.tables[0].weight(), m.tables[0]).parameters().size() + shared(m.tables[0], m.tables[0].weight()).parameters().size(), 0U);
  EXPECT_TRUE(contains(say(shared(m.named, m.tables[0].weight())), "the weight of table \"items\" as a parameter, but it is looked up by rows"));
  EXPECT_TRUE(contains(say(shared(m.named, m.tables, at::ones({2}, at::TensorOptions(at::kMeta)).requires_grad_())),
                       "expected what the tasks share on one device, got \"representation\" on cpu and \"2\" on meta; move one of them"));
  const torch::nn::Linear frozen(2, 2);
  for (Tensor& parameter : frozen->parameters()) parameter.requires_grad_(false);
  EXPECT_TRUE(contains(say(shared(frozen).others_summed()), "nothing that htl::shared() names requires a gradient"));
  EXPECT_EQ(shared(frozen.ptr(), torch::nn::Linear(2, 3).ptr()).parameters().size(), 2U) << "a module by pointer";
  {  // micro-batches name the same
    GradientFork<Sum> accumulating(task_set(3));
    backward(m.through(accumulating), accumulating, m.shared_set(), {.accumulate = true});
    EXPECT_TRUE(contains(sentence_of([&] { backward(m.through(accumulating), accumulating, shared(m.named[0], m.tables).others_summed()); }),
                         "keeps gradients of earlier micro-batches for the shared parameter", "of shape [", "which this call does not name"));
  }
  {  // nor does a step of several batches take micro-batches in
    GradientFork<MoDo> accumulating(task_set(3));
    backward(m.through(accumulating), accumulating, m.shared_set(), {.accumulate = true});
    const std::vector<TaskLosses> three = {m.through(accumulating), m.through(accumulating), m.through(accumulating)};
    EXPECT_TRUE(contains(sentence_of([&] { backward(three, accumulating, m.shared_set()); }), "keeps gradients of earlier micro-batches", "forget()"));
    accumulating->forget();
    EXPECT_EQ(sentence_of([&] { backward(three, accumulating, m.shared_set()); }), "no error");
  }
  {  // without a split every task is a pass of its own; the last one frees the graph
    m.clear();
    const Tensor h = at::ones({1, m.named[0].size(0)}, at::kDouble).mm(m.named[0]);
    TaskLosses direct;
    for (size_t t = 0; t < 3; ++t) direct.values.set("t" + std::to_string(t), (h * static_cast<double>(t + 1)).sin().sum());
    backward(direct, fork, shared(m.named[0]));
    const Tensor once = m.named[0].grad().clone();
    EXPECT_TRUE(contains(sentence_of([&] { backward(direct, fork, shared(m.named[0])); }), "second time"));
    EXPECT_TRUE(same_bits(m.named[0].grad(), once));
  }
  m.clear();
  const Tensor read = at::embedding(m.tables[0].weight(), m.batches[0].ids).view({m.rows, 6}).mm(m.named[0]);
  TaskLosses losses;
  const auto views = fork->split(read);
  for (size_t t = 0; t < 3; ++t) losses.values.set("t" + std::to_string(t), views[t].sum());
  EXPECT_TRUE(contains(sentence_of([&] { backward(losses, fork, shared(m.named, m.tables)); }), "reads the weight of table \"items\" directly"));
  const Tensor sparse = at::embedding(m.named[0], m.batches[1].ids, -1, false, /*sparse=*/true).sum(1);
  TaskLosses of_sparse;
  for (size_t t = 0; t < 3; ++t) of_sparse.values.set("t" + std::to_string(t), sparse.sum());
  EXPECT_TRUE(contains(sentence_of([&] { backward(of_sparse, fork, shared(m.named[0])); }), "got a sparse gradient", "htl::lookup"));
  m.clear();
  m.named[0].mutable_grad() = at::ones_like(m.named[0]);  // what was there before a refusal stays
  TaskLosses bad = m.through(fork);
  bad.values.set("t1", bad["t1"] * std::numeric_limits<double>::quiet_NaN());
  EXPECT_TRUE(contains(sentence_of([&] { backward(bad, fork, m.shared_set()); }), "task \"t1\" is nan"));
  EXPECT_TRUE(same_bits(m.named[0].grad(), at::ones_like(m.named[0])));
  EXPECT_FALSE(m.named[1].grad().defined() || m.tables[0].gradient().defined());
}

}  // namespace
