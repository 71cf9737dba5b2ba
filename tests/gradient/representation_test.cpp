// SPDX-License-Identifier: Apache-2.0
// Forks of representations over a shared trunk: several in one call, how often the trunk is walked, scales; finite differences of both forms.
#include <htl/gradient/backward.hpp>
#include <htl/weighting/any_weighting.hpp>
#include <htl/weighting/core_task.hpp>
#include <htl/weighting/db_mtl.hpp>
#include <htl/weighting/excess_mtl.hpp>
#include <htl/weighting/moco.hpp>

#include <support/dense_rows.hpp>
#include <support/given.hpp>
#include <support/gradcheck.hpp>
#include <support/seeded.hpp>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace {

using namespace htl;
using namespace htl::test;
using at::Tensor;

/// The identity; counts how often its backward runs.
struct Counted : torch::autograd::Function<Counted> {
  static Tensor forward(torch::autograd::AutogradContext* context, const Tensor& x, int64_t count) {
    context->saved_data["count"] = count;
    return x.clone();
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context, const torch::autograd::variable_list& gradients) {
    ++*reinterpret_cast<int64_t*>(context->saved_data["count"].toInt());  // NOLINT(performance-no-int-to-ptr)
    return {gradients[0], Tensor()};
  }
  static Tensor of(const Tensor& x, int64_t& count) { return apply(x, reinterpret_cast<int64_t>(&count)); }
};

TaskSet three_tasks() { return TaskSet{regression("t0"), regression("t1"), regression("t2").core()}; }

/// Two representations over one trunk over one table, and three tasks that read both.
struct TwoOverOneTrunk {
  static constexpr int64_t rows = 7;
  bool stacked = false;  // the second comes from the first
  int64_t overlap = 0;   // how many tasks read another's view of the second too
  RowTable table;
  FieldBatch batch;
  Tensor trunk, first, second;
  std::vector<Tensor> heads;

  explicit TwoOverOneTrunk(Random& random)
      : table(random.normal({9, 3}).requires_grad_()),
        batch(FieldBatch::of(random.ids({rows, 2}, 9))),
        trunk(random.normal({6, 5}, 0.5).requires_grad_()),
        first(random.normal({5, 4}, 0.5).requires_grad_()),
        second(random.normal({4, 4}, 0.5).requires_grad_()) {
    for (int t = 0; t < 3; ++t) heads.push_back(random.normal({4}).requires_grad_());
  }
  std::pair<Tensor, Tensor> representations(const Tensor& values, int64_t& walks) const {
    const Tensor z = Counted::of(values.mm(trunk).tanh(), walks), h1 = z.mm(first).sin();
    return {h1, stacked ? h1.mm(second).tanh() : z.slice(1, 0, 4).mm(second).tanh()};
  }
  Tensor loss(const std::vector<Tensor>& a, const std::vector<Tensor>& b, size_t t) const {
    const Tensor read = t > 0 && static_cast<int64_t>(t) <= overlap ? b[t] * b[t - 1] : b[t];
    return ((a[t] + 0.5 * read).sin().mv(heads[t]) - static_cast<double>(t)).square().mean();
  }
  std::vector<Tensor> parameters() const { return {trunk, first, second}; }
};

class Representation : public Seeded {
  Threads one_{1};
};

TEST_F(Representation, ForksOverOneTrunkAreEachExactAndWalkItOnce) {
  Random random(71);
  for (int repetition = 0; repetition < 10; ++repetition)
    for (const bool stacked : {false, true})
      for (const int64_t overlap : {0, 1, 2})
        for (const bool swapped : {false, true}) {
          SCOPED_TRACE(std::string(stacked ? "stacked" : "side by side") + ", overlap " + std::to_string(overlap));
          TwoOverOneTrunk m(random);
          m.stacked = stacked;
          m.overlap = overlap;
          GradientFork<Given> one(three_tasks(), {.values = {1.0, -2.0, 0.5}}), two(three_tasks(), {.values = {-0.5, 3.0, 1.5}});
          int64_t walks = 0, ignored = 0;
          TaskLosses losses;
          {
            Lookup look = lookup(m.table, m.batch);
            const auto [h1, h2] = m.representations(look.values(), walks);
            const auto a = one->split(h1), b = two->split(h2);
            for (size_t t = 0; t < 3; ++t) losses.values.set("t" + std::to_string(t), m.loss(a, b, t));
          }
          auto reports = swapped ? backward(losses, {two, one}) : backward(losses, {one, two});
          if (swapped) std::swap(reports[0], reports[1]);
          EXPECT_EQ(reports[0].passes, overlap > 0 ? 2 : 1);
          EXPECT_EQ(walks, 1);

          const Tensor weight = m.table.weight().detach().clone().requires_grad_();
          const auto [h1, h2] = m.representations(at::embedding(weight, m.batch.ids).view({m.rows, 6}), ignored);
          const Tensor x = h1.detach().requires_grad_(), y = h2.detach().requires_grad_();
          std::vector<Tensor> dx, dy;
          Tensor total = at::zeros({}, at::kDouble);
          for (size_t t = 0; t < 3; ++t) {
            const Tensor value = m.loss(std::vector<Tensor>(3, x), std::vector<Tensor>(3, y), t);
            const auto both = torch::autograd::grad({value}, {x, y}, {}, /*retain_graph=*/true);
            dx.push_back(both[0].flatten());
            dy.push_back(both[1].flatten());
            total = total + value;
          }
          const Tensor gx = at::stack(dx), gy = at::stack(dy);
          EXPECT_TRUE(close(reports[0].gramian, gx.mm(gx.t())));
          EXPECT_TRUE(close(reports[1].gramian, gy.mm(gy.t())));
          const Tensor pulled_x = at::tensor({1.0, -2.0, 0.5}, at::kDouble).matmul(gx).view_as(x),
                       pulled_y = at::tensor({-0.5, 3.0, 1.5}, at::kDouble).matmul(gy).view_as(y);
          std::vector<Tensor> leaves = m.parameters();
          leaves.push_back(weight);
          const auto expected = torch::autograd::grad({h1, h2}, leaves, {pulled_x, pulled_y}), heads = torch::autograd::grad({total}, m.heads);
          for (size_t i = 0; i < 3; ++i) {
            EXPECT_TRUE(close(m.parameters()[i].grad(), expected[i])) << i;
            EXPECT_TRUE(close(m.heads[i].grad(), heads[i])) << i;
          }
          EXPECT_TRUE(close(dense_gradient(m.table), expected[3]));
        }
}

TEST_F(Representation, ForkBesideARowForkWorksInOneCall) {
  Random random(72);
  for (const int64_t overlap : {0, 2}) {
    TwoOverOneTrunk m(random);
    const RowTable other(random.normal({9, 2}).requires_grad_(), "other");
    GradientFork<Given> rows(three_tasks(), {.values = {1.0, -2.0, 0.5}}), top(three_tasks(), {.values = {-0.5, 3.0, 1.5}});
    int64_t walks = 0;
    Lookup look = lookup(m.table, m.batch), direct = lookup(other, m.batch);
    const auto a = rows->split(direct), b = top->split(m.representations(look.values(), walks).second);
    m.overlap = overlap;
    TaskLosses losses;
    for (size_t t = 0; t < 3; ++t) losses.values.set("t" + std::to_string(t), m.loss(a, b, t));
    backward(losses, {rows, top});
    EXPECT_EQ(walks, 1);
    const Tensor w = m.table.weight().detach().clone().requires_grad_(), v = other.weight().detach().clone().requires_grad_();
    const Tensor x = at::embedding(v, m.batch.ids).view({m.rows, 4}), h = m.representations(at::embedding(w, m.batch.ids).view({m.rows, 6}), walks).second;
    Tensor of_rows = at::zeros({}, at::kDouble), of_top = of_rows;
    for (size_t t = 0; t < 3; ++t) {
      const Tensor value = m.loss(std::vector<Tensor>(3, x), std::vector<Tensor>(3, h), t);
      of_rows = of_rows + value * std::vector<double>{1.0, -2.0, 0.5}[t];
      of_top = of_top + value * std::vector<double>{-0.5, 3.0, 1.5}[t];
    }
    EXPECT_TRUE(close(dense_gradient(other), torch::autograd::grad({of_rows}, {v}, {}, true)[0]));
    EXPECT_TRUE(close(dense_gradient(m.table), torch::autograd::grad({of_top}, {w})[0]));
  }
}

TEST_F(Representation, ScalesDoNotMatter) {
  Random random(73);
  const Tensor x = random.normal({64, 8}, 1.0, at::kFloat), start = random.normal({8, 10}, 0.5, at::kFloat);
  std::vector<Tensor> heads;
  for (int t = 0; t < 3; ++t) heads.push_back(random.normal({10}, 1.0, at::kFloat));
  for (const bool overlap : {false, true})
    for (const NormReference norm : {NormReference::before_projection, NormReference::after_projection, NormReference::moving_average}) {
      const auto step = [&](double factor) {
        GradientFork<CoreTask> fork(three_tasks(), {.norm = norm});
        const Tensor trunk = start.clone().requires_grad_();
        const auto views = fork->split(x.mm(trunk).tanh());
        TaskLosses losses;
        for (size_t t = 0; t < 3; ++t)
          losses.values.set("t" + std::to_string(t), ((overlap && t > 0 ? views[t] * views[t - 1] : views[t]).mv(heads[t]) * factor).mean());
        const GradientReport report = backward(losses, fork);
        return std::pair(report.weights, trunk.grad().to(at::kDouble) / factor);
      };
      const auto plain = step(1.0);
      for (const double factor : {1e20, 1e-20, 1e10, 1e-10}) {
        const auto scaled = step(factor);
        EXPECT_TRUE(close(scaled.first, plain.first, 1e-6, 0.0)) << factor;
        EXPECT_TRUE(close(scaled.second, plain.second, 0.0, 2e-6 * plain.second.abs().max().item<double>())) << factor;
      }
    }
}

TEST_F(Representation, AndRowsAgreeWithFiniteDifferencesOfTheWeightedLosses) {
  Random random(74);
  const std::vector<double> given = {1.5, -2.0, 0.5};
  for (int repetition = 0; repetition < 12; ++repetition)
    for (const bool representation : {false, true})
      for (const bool overlap : {false, true}) {
        SCOPED_TRACE(std::to_string(repetition) + (representation ? " representation" : " rows") + (overlap ? ", overlap" : ""));
        const std::vector<FieldRows> fields = {{0, 7, false, "a"}, {2, 4, false, "b"}};
        const FieldBatch batch = random_field_batch(random, 6, fields);
        const Pooling pooling = random.pick<Pooling>({Pooling::sum, Pooling::mean});
        const RowTable table(random.normal({7, 3}).requires_grad_());
        const Tensor trunk = random.normal({6, 6}, 0.5).requires_grad_();
        std::vector<Tensor> inputs = {table.weight(), trunk};
        for (int t = 0; t < 3; ++t) inputs.push_back(random.normal({6}).requires_grad_());
        const auto loss = [&](const std::vector<Tensor>& views, const std::vector<Tensor>& x, size_t t) {
          const Tensor read = overlap && t > 0 ? views[t] * views[t - 1] : views[t];
          return (read.sin().mv(x[2 + t]) - 0.3).square().mean();
        };
        const auto shared = [&](const Tensor& values, const std::vector<Tensor>& x) { return representation ? values.mm(x[1]).tanh() : values; };
        const auto weighted = [&](const std::vector<double>& weights) {
          return [&, weights](const std::vector<Tensor>& x) {
            const std::vector<Tensor> views(3, shared(lookup(RowTable(x[0].detach().clone()), batch, fields, pooling).raw(), x));
            Tensor sum = at::zeros({1}, at::kDouble);
            for (size_t t = 0; t < 3; ++t) sum = sum + weights[t] * loss(views, x, t);
            return sum;
          };
        };
        GradientFork<Given> fork(three_tasks(), {.values = given});
        Lookup look = lookup(table, batch, fields, pooling);
        const auto views = representation ? fork->split(shared(look.values(), inputs)) : fork->split(look);
        TaskLosses losses;
        for (size_t t = 0; t < 3; ++t) losses.values.set("t" + std::to_string(t), loss(views, inputs, t));
        EXPECT_EQ(backward(losses, fork).passes, overlap ? 2 : 1);
        EXPECT_TRUE(close(dense_gradient(table).view({1, -1}), numeric_jacobian(weighted(given), inputs, 0), 1e-7, 1e-8));
        if (representation) {
          EXPECT_TRUE(close(trunk.grad().view({1, -1}), numeric_jacobian(weighted(given), inputs, 1), 1e-7, 1e-8));
        }
        for (size_t t = 0; t < 3; ++t)  // above the fork: the plain sum
          EXPECT_TRUE(close(inputs[2 + t].grad().view({1, -1}), numeric_jacobian(weighted({1.0, 1.0, 1.0}), inputs, 2 + t), 1e-7, 1e-8));
      }
}

TEST_F(Representation, IsRefusedByMethodsThatRememberItsNumbers) {
  Random random(76);
  const Tensor bottom = random.normal({3, 4}).requires_grad_(), x = random.normal({5, 3});
  for (const AnyWeighting& method : {AnyWeighting(MoCo{}), AnyWeighting(DBMTL{}), AnyWeighting(ExcessMTL{})}) {
    GradientFork<AnyWeighting> fork(three_tasks(), method);
    const auto losses = [&] {
      const auto views = fork->split(x.mm(bottom).tanh());
      TaskLosses result;
      for (size_t t = 0; t < 3; ++t) result.values.set("t" + std::to_string(t), (views[t] - static_cast<double>(t)).square().mean());
      return result;
    };
    EXPECT_TRUE(contains(sentence_of([&] { backward(losses(), fork); }), method.name() + ": it remembers every shared number",
                         "those of the split representation belong to other samples", "htl::shared()"));
    EXPECT_FALSE(bottom.grad().defined());
    EXPECT_EQ(sentence_of([&] { backward(losses(), fork, shared(bottom)); }), "no error");
    fork->forget();
    bottom.mutable_grad() = Tensor();
  }
}

}  // namespace
