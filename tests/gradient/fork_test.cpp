// SPDX-License-Identifier: Apache-2.0
// The fork against T separate backwards through dense tables: Gramian, combination, ways around, overlap, refusals.
#include <htl/embedding/field_embedding.hpp>
#include <htl/gradient/backward.hpp>
#include <htl/weighting/any_weighting.hpp>
#include <htl/weighting/core_task.hpp>
#include <htl/weighting/excess_mtl.hpp>
#include <htl/weighting/famo.hpp>
#include <htl/weighting/grad_drop.hpp>
#include <htl/weighting/gradnorm.hpp>
#include <htl/weighting/imtlg.hpp>
#include <htl/weighting/sum.hpp>

#include <support/dense_rows.hpp>
#include <support/given.hpp>
#include <support/seeded.hpp>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <array>
#include <functional>
#include <limits>
#include <map>
#include <numeric>
#include <set>

namespace {

using namespace htl;
using namespace htl::test;
using at::Tensor;

/// w_t = 1 and a count of calls in the memory.
struct Counting {
  struct State {
    Tensor calls;
    template <class Visit>
    void fields(Visit&& visit) {
      visit("calls", calls);
    }
  };
  Tensor weights(const TaskGramian& gramian, State& state) const {
    if (!state.calls.defined()) state.calls = at::zeros({}, at::kDouble);
    state.calls.add_(1.0);
    return at::ones({gramian.tasks()}, gramian.matrix.options());
  }
};

/// w_t = 1; keeps what it was told.
struct Listening {
  std::shared_ptr<TaskGramian> told = std::make_shared<TaskGramian>();
  Tensor weights(const TaskGramian& gramian) const {
    *told = gramian;
    return at::ones({gramian.tasks()}, gramian.matrix.options());
  }
};

TaskSet task_set(int64_t count, const std::vector<int64_t>& cores) {
  std::vector<TaskSpec> tasks;
  for (int64_t t = 0; t < count; ++t) tasks.push_back(regression("t" + std::to_string(t)).core(std::find(cores.begin(), cores.end(), t) != cores.end()));
  return TaskSet(tasks);
}

double scale_of(const Tensor& t) { return t.abs().max().item<double>(); }
/// Σ w_t G_t, relative to its largest term: where all gradients are 0 it is 0.
::testing::AssertionResult is_combination(const Tensor& actual, const Tensor& w, const Tensor& g) {
  return close(actual, w.matmul(g), 0.0, 1e-12 * scale_of(w.unsqueeze(1) * g));
}
/// G Gᵀ, each entry relative to ‖G_s‖ ‖G_t‖, from which it may cancel: where a gradient is 0 its entries are 0.
::testing::AssertionResult is_gramian(const Tensor& actual, const Tensor& g) {
  const Tensor norm = g.norm(2, 1), unit = norm.where(norm > 0.0, 1.0), size = unit.unsqueeze(1) * unit.unsqueeze(0);
  return close(actual / size, g.mm(g.t()) / size, 0.0, 1e-12);
}
Tensor zero_where_undefined(const Tensor& gradient, const Tensor& like) { return gradient.defined() ? gradient : at::zeros_like(like); }

/// A random model: tables, lookups of them, heads that read their own views, other tasks' views and lookups beside the fork.
struct Case {
  struct Look {
    size_t table;
    FieldBatch batch;
    std::vector<FieldRows> fields;
    Pooling pooling;
    DenseLookup dense;
  };
  int64_t tasks = 1, rows = 0;
  std::vector<RowTable> tables;
  std::vector<Look> looks, beside;                // through the fork, and not
  std::vector<std::vector<Tensor>> heads;         // per task: hidden layer over its own views, output
  std::vector<std::vector<int64_t>> other_views;  // per task: whose views it reads too
  std::vector<std::vector<size_t>> reads_beside;
  std::vector<Tensor> mask, target;
  Tensor active;

  Case(Random& random, int64_t task_count, bool ways_around) : tasks(task_count), rows(random.chance(0.1) ? random.integer(0, 1) : random.integer(2, 14)) {
    const int64_t table_count = random.integer(1, 3);
    for (int64_t i = 0; i < table_count; ++i) {
      const int64_t table_rows = random.integer(2, 12);
      tables.emplace_back(random.normal({table_rows, random.pick<int64_t>({1, 2, 3, 4, 8, 10})}).requires_grad_(), "table" + std::to_string(i),
                          RowTableOptions{.padding_row = random.chance(0.4) ? std::optional<int64_t>(random.integer(0, table_rows - 1)) : std::nullopt});
    }
    for (int64_t i = 0; i < table_count; ++i)
      for (int64_t n = random.integer(1, 2); n > 0; --n) looks.push_back(look(random, static_cast<size_t>(i)));
    if (ways_around)
      for (int64_t n = random.integer(1, 2); n > 0; --n) beside.push_back(look(random, static_cast<size_t>(random.integer(0, table_count - 1))));
    for (int64_t t = 0; t < tasks; ++t) {
      auto& layers = heads.emplace_back();
      for (const Look& l : looks) layers.push_back(random.normal({width(l), 3}, 0.7).requires_grad_());
      for (const Look& l : beside) layers.push_back(random.normal({width(l), 3}, 0.7).requires_grad_());
      layers.push_back(random.normal({3, 1}).requires_grad_());
      target.push_back(random.normal({rows, 1}));
      mask.push_back(random.mask({rows, 1}, random.pick<double>({0.0, 0.5, 1.0})).to(at::kDouble));
      other_views.emplace_back();
      reads_beside.emplace_back();
      if (!ways_around) continue;
      if (random.chance(0.3)) other_views.back().push_back(random.integer(0, tasks - 1));
      for (size_t b = 0; b < beside.size(); ++b)
        if (random.chance(0.6)) reads_beside.back().push_back(b);
    }
    std::vector<Tensor> labelled;
    for (const Tensor& m : mask) labelled.push_back(m.sum() > 0);
    active = at::stack(labelled);
  }

  int64_t width(const Look& l) const { return tables[l.table].dim() * static_cast<int64_t>(l.fields.size()); }

  Look look(Random& random, size_t table) const {
    const int64_t table_rows = tables[table].rows();
    std::vector<FieldRows> fields;
    for (int64_t f = random.integer(1, 3); f > 0; --f) {
      const int64_t first = random.chance(0.5) ? 0 : random.integer(0, table_rows - 1);
      fields.push_back({first, random.integer(1, table_rows - first), random.chance(0.3), "f" + std::to_string(f)});
    }
    const Pooling pooling = random.pick<Pooling>({Pooling::sum, Pooling::mean});
    FieldBatch batch = random_field_batch(random, rows, fields);
    DenseLookup dense = dense_lookup(batch, fields, table_rows, tables[table].padding_row(), pooling);
    return {table, std::move(batch), std::move(fields), pooling, std::move(dense)};
  }

  /// The loss of a task from its sources; 0 without a label.
  template <class View, class Beside>
  Tensor loss(int64_t t, View&& view, Beside&& around) const {
    const auto at = static_cast<size_t>(t);
    Tensor hidden = at::zeros({rows, 3}, at::kDouble);  // under a sine, which does not saturate: 1 − tanh² has no correct digits left there
    for (size_t l = 0; l < looks.size(); ++l) {
      hidden = hidden + view(t, l).mm(heads[at][l]);
      for (const int64_t other : other_views[at]) hidden = hidden + (view(other, l) * view(t, l)).mm(heads[at][l]);
    }
    for (const size_t b : reads_beside[at]) hidden = hidden + around(b).mm(heads[at][looks.size() + b]);
    const Tensor error = (hidden.sin().mm(heads[at].back()) - target[at]).square() * mask[at];
    return error.sum() / mask[at].sum().clamp_min(1.0);
  }

  TaskLosses losses(const std::vector<std::vector<Tensor>>& views, std::vector<Lookup>& around) const {
    TaskLosses result;
    for (int64_t t = 0; t < tasks; ++t)
      result.values.set("t" + std::to_string(t),
                        loss(
                            t, [&](int64_t task, size_t l) { return views[static_cast<size_t>(task)][l]; }, [&](size_t b) { return around[b].values(); }));
    result.active = active;
    return result;
  }

  /// G [T, P]: one backward a task through dense tables. P = all entries of all tables.
  Tensor dense_gradients() const {
    std::vector<Tensor> weights, rows_of_g;
    for (const RowTable& table : tables) weights.push_back(table.weight().detach().clone().requires_grad_());
    const auto dense = [&](const Look& l) { return l.dense.values(weights[l.table], rows); };
    for (int64_t t = 0; t < tasks; ++t) {
      const Tensor value = loss(
          t, [&](int64_t, size_t l) { return dense(looks[l]); }, [&](size_t b) { return dense(beside[b]); });
      const auto gradients = torch::autograd::grad({value}, weights, {}, false, false, /*allow_unused=*/true);
      std::vector<Tensor> flat;
      for (size_t i = 0; i < weights.size(); ++i) flat.push_back(zero_where_undefined(gradients[i], weights[i]).flatten());
      rows_of_g.push_back(at::cat(flat));
    }
    return at::stack(rows_of_g);
  }

  /// [T] the losses through dense tables.
  Tensor dense_losses() const {
    std::vector<Tensor> values;
    const auto dense = [&](const Look& l) { return l.dense.values(tables[l.table].weight().detach(), rows); };
    for (int64_t t = 0; t < tasks; ++t)
      values.push_back(loss(
          t, [&](int64_t, size_t l) { return dense(looks[l]); }, [&](size_t b) { return dense(beside[b]); }));
    return at::stack(values).detach();
  }

  std::vector<Tensor> head_parameters() const {
    std::vector<Tensor> all;
    for (const auto& layers : heads) all.insert(all.end(), layers.begin(), layers.end());
    return all;
  }

  std::vector<Tensor> dense_head_gradients() const {
    Tensor total = at::zeros({}, at::kDouble);
    const auto dense = [&](const Look& l) { return l.dense.values(tables[l.table].weight().detach(), rows); };
    for (int64_t t = 0; t < tasks; ++t)
      total = total + loss(
                          t, [&](int64_t, size_t l) { return dense(looks[l]); }, [&](size_t b) { return dense(beside[b]); });
    return torch::autograd::grad({total}, head_parameters(), {}, false, false, true);
  }

  std::vector<Lookup> look_up(const std::vector<Look>& which) const {
    std::vector<Lookup> result;
    for (const Look& l : which) result.push_back(lookup(tables[l.table], l.batch, l.fields, l.pooling));
    return result;
  }

  Tensor row_gradients() const {
    std::vector<Tensor> flat;
    for (const RowTable& table : tables) flat.push_back(dense_gradient(table).flatten());
    return at::cat(flat);
  }
  void clear() const {
    for (const RowTable& table : tables) table.gradient().clear();
    for (const Tensor& head : head_parameters()) head.mutable_grad() = Tensor();
  }

  template <class W>
  GradientReport step(GradientFork<W>& fork, const BackwardOptions& options = {}) const {
    std::vector<Lookup> shared = look_up(looks), around = look_up(beside);
    const auto views = fork->split(shared);
    return backward(losses(views, around), fork, options);
  }
};

/// What Algorithm 1 makes of gradients, and what it met.
struct Adjusted {
  Tensor gradient;
  double condition = 1.0;  // how far squares cancel: those of the cores in their sum, that of a task in what the projection leaves of it
  bool conflict = false, clipped_low = false, clipped_high = false;
};

/// Algorithm 1 on the gradients themselves, with moving averages left out.
Adjusted algorithm_1(const Tensor& g, const TaskSet& tasks, const CoreTask& method) {
  const std::vector<int64_t> cores = tasks.cores();
  Adjusted result{at::zeros({g.size(1)}, at::kDouble)};
  const auto square = [](const Tensor& t) { return t.square().sum().item<double>(); };
  const auto cancels = [&](double from, double to) {
    if (from > 0.0) result.condition = std::max(result.condition, from / std::max(to, 1e-300));
  };
  for (const int64_t c : cores) result.gradient = result.gradient + g[c];
  for (int64_t t = 0; t < tasks.size(); ++t) {
    if (std::find(cores.begin(), cores.end(), t) != cores.end()) continue;
    Tensor core = at::zeros({g.size(1)}, at::kDouble), own = g[t];
    double squares = 0.0;
    for (const int64_t c : cores)
      if (method.several_cores == SeveralCores::combined || tasks.precedes(t, c)) {
        core = core + g[c];
        squares += square(g[c]);
      }
    const double dot = own.dot(core).item<double>(), core_norm = core.norm().item<double>(), before = own.norm().item<double>();
    cancels(squares, core_norm * core_norm);
    double norm = before;
    if (dot < 0.0 && core_norm > 0.0) {
      own = own - core * (method.alpha * dot / (core_norm * core_norm));
      result.conflict = result.conflict || method.alpha > 0.0;
    }
    if (method.norm == NormReference::after_projection) {
      norm = own.norm().item<double>();
      cancels(before * before, norm * norm);
    }
    double ratio = 1.0;
    if (core_norm > 0.0 && norm > 0.0) {
      ratio = core_norm / norm;
      result.clipped_low = result.clipped_low || (method.gamma > 0.0 && ratio < 1.0 / method.clip_ratio);
      result.clipped_high = result.clipped_high || (method.gamma > 0.0 && ratio > method.clip_ratio);
      ratio = std::clamp(ratio, 1.0 / method.clip_ratio, method.clip_ratio);
    }
    result.gradient = result.gradient + own * (method.gamma * ratio + 1.0 - method.gamma);
  }
  return result;
}

/// Many tiny operations: a second thread would only wait.
class OneThread : public Seeded {
  Threads one_{1};
};
class Fork : public OneThread {};
class Backward : public OneThread {};
class Refusal : public OneThread {};

TEST_F(Fork, EqualsSeparateDenseBackwardsInTheGramianAndForGivenWeights) {
  Random random(11);
  int64_t inactive = 0, several_tables = 0, one_row = 0;
  for (int repetition = 0; repetition < 260; ++repetition) {
    SCOPED_TRACE(repetition);
    const Case c(random, random.integer(1, 6), false);
    Given method;
    for (int64_t t = 0; t < c.tasks; ++t) method.values.push_back(random.pick<double>({random.real(-3.0, 3.0), 0.0, 1e-3, 100.0}));
    GradientFork<Given> fork(task_set(c.tasks, {}), method);
    const GradientReport report = c.step(fork);
    const Tensor g = c.dense_gradients(), k = g.mm(g.t()), weights = at::tensor(method.values, at::kDouble), expected = weights.matmul(g);
    EXPECT_EQ(report.passes, 1);
    ASSERT_TRUE(is_gramian(report.gramian, g));
    ASSERT_TRUE(is_combination(c.row_gradients(), weights, g));
    const auto heads = c.dense_head_gradients();
    for (size_t i = 0; i < heads.size(); ++i)
      ASSERT_TRUE(close(zero_where_undefined(c.head_parameters()[i].grad(), c.head_parameters()[i]), zero_where_undefined(heads[i], c.head_parameters()[i])));
    for (const RowTable& table : c.tables) EXPECT_FALSE(table.weight().grad().defined()) << "the table also got a dense gradient";
    const Tensor norms = g.norm(2, 1), seen = norms > 1e-3, hidden = seen.unsqueeze(0).logical_and(seen.unsqueeze(1)).logical_not();
    EXPECT_TRUE(close(report.norms(), norms, 1e-12, 1e-12));
    EXPECT_TRUE(close(report.cosines().masked_fill(hidden, 0.0), (k / (norms.unsqueeze(0) * norms.unsqueeze(1))).masked_fill(hidden, 0.0), 0.0, 1e-9));
    const Tensor w = at::tensor(method.values, at::kDouble).abs();
    const double norm = expected.norm().item<double>(), terms = w.dot(k.abs().mv(w)).item<double>();  // what wᵀKw sums up, and may cancel
    EXPECT_NEAR(report.combined_norm().item<double>(), norm, 1e-12 * terms / std::max(norm, 1e-7 * std::sqrt(terms) + 1e-300));
    inactive += c.active.logical_not().any().item<bool>();
    several_tables += c.tables.size() > 1;
    one_row += c.rows <= 1;
  }
  EXPECT_GT(inactive, 50);
  EXPECT_GT(several_tables, 50);
  EXPECT_GT(one_row, 10);
}

TEST_F(Fork, WithCoreTaskIsAlgorithm1OnDenseGradients) {
  Random random(12);
  std::array<std::map<std::string, int64_t>, 7> compared;  // by T, what the compared cases had
  for (int repetition = 0; repetition < 900; ++repetition) {
    SCOPED_TRACE(repetition);
    const Case c(random, random.pick<int64_t>({1, 2, 2, 2, 3, 3, 4, 5, 6}), false);
    std::vector<int64_t> cores = {random.integer(0, c.tasks - 1)};
    if (c.tasks > 2 && random.chance(0.4)) cores = {1, c.tasks - 1};
    const CoreTask method{.alpha = random.pick<double>({0.0, 0.5, 1.0}),
                          .gamma = random.pick<double>({0.0, 0.5, 1.0}),
                          .clip_ratio = random.pick<double>({1.0, 1.5, 100.0, std::numeric_limits<double>::infinity()}),
                          .norm = random.pick<NormReference>({NormReference::before_projection, NormReference::after_projection}),
                          .several_cores = random.pick<SeveralCores>({SeveralCores::combined, SeveralCores::own})};
    const TaskSet tasks = task_set(c.tasks, cores);
    GradientFork<CoreTask> fork(tasks, method);
    const GradientReport report = c.step(fork);
    const Tensor g = c.dense_gradients();
    EXPECT_TRUE(at::isfinite(report.weights).all().item<bool>());
    ASSERT_TRUE(is_combination(c.row_gradients(), report.weights, g));
    const Adjusted expected = algorithm_1(g, tasks, method);
    if (expected.condition > 100.0) continue;
    ASSERT_TRUE(close(c.row_gradients(), expected.gradient, 0.0, 1e-12 * scale_of(report.weights.unsqueeze(1) * g)));
    const Tensor labelled = c.active.logical_and(g.abs().amax(1) > 0.0);
    if (labelled.sum().item<int64_t>() < std::min<int64_t>(c.tasks, 2)) continue;  // there is nothing to adjust
    std::map<std::string, int64_t>& had = compared[static_cast<size_t>(c.tasks)];
    ++had["gradients"];
    had["an inactive task"] += c.active.logical_not().any().item<bool>();
    had["an inactive core"] += c.active.index_select(0, at::tensor(cores)).logical_not().any().item<bool>();
    had["several cores"] += cores.size() > 1;
    had["a conflict"] += expected.conflict;
    had["the lower end of the clip"] += expected.clipped_low;
    had["the upper end of the clip"] += expected.clipped_high;
  }
  const auto expect = [&](const std::string& what, size_t from, int64_t least) {
    for (size_t t = from; t < compared.size(); ++t) EXPECT_GE(compared[t][what], least) << "cases of " << t << " tasks with " << what;
  };
  expect("gradients", 1, 45);
  expect("an inactive task", 3, 30);
  expect("an inactive core", 3, 15);
  expect("several cores", 3, 20);
  expect("a conflict", 2, 10);
  expect("the lower end of the clip", 2, 5);
  expect("the upper end of the clip", 2, 5);
}

TEST_F(Fork, CountsWaysAroundExactlyInAsManyPassesAsOverlapNeeds) {
  Random random(13);
  int64_t with_lookups = 0, several_passes = 0;
  for (int repetition = 0; repetition < 250; ++repetition) {
    SCOPED_TRACE(repetition);
    const Case c(random, random.integer(1, 6), true);
    Given method;
    for (int64_t t = 0; t < c.tasks; ++t) method.values.push_back(random.real(-2.0, 2.0));
    GradientFork<Given> fork(task_set(c.tasks, {}), method);
    const GradientReport report = c.step(fork);
    const Tensor g = c.dense_gradients();
    ASSERT_TRUE(is_gramian(report.gramian, g));
    ASSERT_TRUE(is_combination(c.row_gradients(), at::tensor(method.values, at::kDouble), g));
    const auto heads = c.dense_head_gradients();
    for (size_t i = 0; i < heads.size(); ++i)
      ASSERT_TRUE(close(zero_where_undefined(c.head_parameters()[i].grad(), c.head_parameters()[i]), zero_where_undefined(heads[i], c.head_parameters()[i])));
    EXPECT_LE(report.passes, c.tasks);
    bool overlap = false;
    for (int64_t t = 0; t < c.tasks; ++t)
      for (int64_t s = 0; s < t; ++s) {
        const auto& mine = c.reads_beside[static_cast<size_t>(t)];
        const auto& theirs = c.reads_beside[static_cast<size_t>(s)];
        for (const size_t b : mine) overlap = overlap || std::find(theirs.begin(), theirs.end(), b) != theirs.end();
        auto a = c.other_views[static_cast<size_t>(t)], b = c.other_views[static_cast<size_t>(s)];
        a.push_back(t);
        b.push_back(s);
        for (const int64_t view : a) overlap = overlap || std::find(b.begin(), b.end(), view) != b.end();
      }
    EXPECT_EQ(report.passes > 1, overlap);
    several_passes += report.passes > 1;
    with_lookups += std::any_of(c.reads_beside.begin(), c.reads_beside.end(), [](const auto& reads) { return !reads.empty(); });
  }
  EXPECT_GT(with_lookups, 100);
  EXPECT_GT(several_passes, 80);
}

/// One table under a fork of three tasks, for single properties.
struct Small {
  RowTable table{at::linspace(-1.0, 1.0, 18, at::kDouble).view({6, 3}).clone().requires_grad_(), "items"};
  FieldBatch batch = FieldBatch::of(at::tensor({0, 1, 2, 0, 5, 5, 1, 0}, at::kLong).view({4, 2}));
  std::vector<Tensor> heads;
  TaskSet tasks{binary("a"), binary("b"), regression("c").core()};
  Small() {
    for (int t = 0; t < 3; ++t) heads.push_back(at::sin(at::arange(6, at::kDouble) * (t + 1.3)).requires_grad_());
  }
  Lookup look() const { return lookup(table, batch); }
  Tensor loss(const Tensor& values, size_t t) const { return (values.tanh().mv(heads[t]) - static_cast<double>(t)).square().mean(); }
  TaskLosses losses(const std::vector<Tensor>& views) const {
    TaskLosses result;
    for (size_t t = 0; t < 3; ++t) result.values.set(std::string(1, static_cast<char>('a' + t)), loss(views[t], t));
    return result;
  }
  TaskLosses named(const Tensor& a, const Tensor& b, const Tensor& c) const {
    TaskLosses result;
    result.values.set("a", a).set("b", b).set("c", c);
    return result;
  }
  Tensor dense_gradients(double factor = 1.0) const {
    const Tensor weight = table.weight().detach().clone().requires_grad_();
    std::vector<Tensor> rows;
    for (size_t t = 0; t < 3; ++t)
      rows.push_back(torch::autograd::grad({loss(at::embedding(weight, batch.ids).view({4, 6}), t) * factor}, {weight})[0].flatten());
    return at::stack(rows);
  }
};

TEST_F(Fork, PassesFollowTheOverlap) {
  const Small m;
  GradientFork<Sum> fork(m.tasks);
  auto views = fork->split(m.look());
  EXPECT_EQ(backward(m.losses(views), fork).passes, 1);
  views = fork->split(m.look());  // as in ESMM: one loss is a product of two tasks' predictions
  const Tensor product = m.loss(views[0], 0) * m.loss(views[1], 1);
  EXPECT_EQ(backward(m.named(m.loss(views[0], 0), product, m.loss(views[2], 2)), fork).passes, 2);
  views = fork->split(m.look());
  const Tensor all = views[0] + views[1] + views[2];
  EXPECT_EQ(backward(m.named(m.loss(all, 0), m.loss(all, 1), m.loss(all, 2)), fork).passes, 3);
  views = fork->split(m.look());  // a chain without stop-gradient
  EXPECT_EQ(backward(m.named(m.loss(views[0], 0), m.loss(views[1] * views[0], 1), m.loss(views[2] * views[1], 2)), fork).passes, 2);
  views = fork->split(m.look());  // one tensor is the loss of two tasks
  const Tensor same = m.loss(views[0], 0);
  EXPECT_EQ(backward(m.named(same, same, m.loss(views[2], 2)), fork).passes, 2);
}

using Points = std::vector<std::set<size_t>>;

/// Tasks of which each pair conflicts, by a point of its own, where `conflict(s, t)` says so.
template <class Conflict>
Points points_of(size_t tasks, Conflict&& conflict) {
  Points points(tasks);
  for (size_t s = 0; s < tasks; ++s)
    for (size_t t = 0; t < s; ++t)
      if (conflict(s, t)) points[s].insert(s * tasks + t), points[t].insert(s * tasks + t);
  return points;
}
bool meet(const std::set<size_t>& a, const std::set<size_t>& b) {
  return std::any_of(a.begin(), a.end(), [&](size_t point) { return b.contains(point); });
}
/// How many passes; fails unless every task is in one of them, with none that it meets.
size_t checked_passes(const Points& points) {
  const std::vector<std::vector<size_t>> passes = htl::detail::colour(points);
  std::vector<size_t> tasks;
  for (const std::vector<size_t>& pass : passes) {
    EXPECT_FALSE(pass.empty());
    for (const size_t s : pass)
      for (const size_t t : pass) EXPECT_FALSE(s != t && meet(points[s], points[t])) << s << " and " << t << " in one pass";
    tasks.insert(tasks.end(), pass.begin(), pass.end());
  }
  std::sort(tasks.begin(), tasks.end());
  std::vector<size_t> all(points.size());
  std::iota(all.begin(), all.end(), size_t{0});
  EXPECT_EQ(tasks, all);
  return passes.size();
}
/// The fewest passes, by trying all: task by task into each pass so far, or into a new one.
size_t fewest_passes(const Points& points, std::vector<std::vector<size_t>> passes = {}, size_t next = 0) {
  if (next == points.size()) return passes.size();
  size_t best = points.size();
  for (size_t p = 0; p <= passes.size(); ++p) {
    auto tried = passes;
    if (p == passes.size()) tried.emplace_back();
    if (std::any_of(tried[p].begin(), tried[p].end(), [&](size_t t) { return meet(points[t], points[next]); })) continue;
    tried[p].push_back(next);
    best = std::min(best, fewest_passes(points, std::move(tried), next + 1));
  }
  return best;
}

TEST_F(Fork, PassesAreFewWhateverTheOrderOfTasks) {
  for (size_t half = 1; half <= 8; ++half) {  // the crown: a_i meets every b_j but b_i; in this order the first pass that fits makes it one for each pair
    SCOPED_TRACE(half);
    EXPECT_EQ(checked_passes(points_of(2 * half, [](size_t s, size_t t) { return s % 2 != t % 2 && s / 2 != t / 2; })), half == 1 ? 1U : 2U);
  }
  Random random(21);
  for (int repetition = 0; repetition < 300; ++repetition) {
    SCOPED_TRACE(repetition);
    const auto tasks = static_cast<size_t>(random.integer(1, 24));
    const double density = random.real();
    std::vector<bool> side;
    for (size_t t = 0; t < tasks; ++t) side.push_back(random.chance(0.5));
    EXPECT_LE(checked_passes(points_of(tasks, [&](size_t s, size_t t) { return side[s] != side[t] && random.chance(density); })), 2U) << "two sides";
    EXPECT_EQ(checked_passes(points_of(tasks, [](size_t, size_t) { return false; })), 1U);
    Points disjoint(tasks), common(tasks, {3});
    for (size_t t = 0; t < tasks; ++t) disjoint[t] = {2 * t, 2 * t + 1};
    EXPECT_EQ(checked_passes(disjoint), 1U);
    EXPECT_EQ(checked_passes(common), tasks);
  }
  int64_t more = 0;
  for (int repetition = 0; repetition < 1000; ++repetition) {
    SCOPED_TRACE(repetition);
    Points points(static_cast<size_t>(random.integer(1, 7)));
    const int64_t count = random.integer(1, 12);
    const double share = random.real(0.1, 0.5);
    for (std::set<size_t>& of_task : points)
      for (int64_t point = 0; point < count; ++point)
        if (random.chance(share)) of_task.insert(static_cast<size_t>(point));
    const size_t passes = checked_passes(points), fewest = fewest_passes(points);
    EXPECT_LE(passes, fewest + 1);
    more += passes > fewest;
  }
  EXPECT_LE(more, 1);  // of so few tasks hardly any order misleads
}

TEST_F(Fork, LeavesFrozenTablesAmongOthersAlone) {
  Random random(27);
  for (int repetition = 0; repetition < 60; ++repetition) {
    SCOPED_TRACE(repetition);
    const int64_t tasks = random.integer(1, 4), rows = random.integer(1, 8);
    std::vector<RowTable> tables;
    std::vector<FieldBatch> batches;
    std::vector<Tensor> dense, leaves, heads;
    for (int64_t i = 0, count = random.integer(2, 5); i < count; ++i) {
      const bool trains = i == repetition % count || random.chance(0.5);
      const Tensor weight = random.normal({random.integer(2, 6), 3});
      tables.emplace_back(weight.clone().requires_grad_(trains), "t" + std::to_string(i));
      batches.push_back(FieldBatch::of(random.ids({rows, 1}, weight.size(0))));
      dense.push_back(weight.clone().requires_grad_(trains));
      if (trains) leaves.push_back(dense.back());
    }
    const auto width = static_cast<int64_t>(3 * tables.size());
    for (int64_t t = 0; t < tasks; ++t) heads.push_back(random.normal({width}));
    const auto loss = [&](const std::vector<Tensor>& values, int64_t t) { return at::cat(values, 1).sin().mv(heads[static_cast<size_t>(t)]).square().mean(); };
    Given method;
    std::vector<TaskSpec> specs;
    for (int64_t t = 0; t < tasks; ++t) {
      method.values.push_back(random.real(-2.0, 2.0));
      specs.push_back(regression("t" + std::to_string(t)));
    }
    GradientFork<Given> fork(TaskSet(specs), method);
    std::vector<Lookup> looks;
    for (size_t i = 0; i < tables.size(); ++i) looks.push_back(lookup(tables[i], batches[i]));
    const auto views = fork->split(looks);
    TaskLosses losses;
    std::vector<Tensor> jacobian;
    for (int64_t t = 0; t < tasks; ++t) {
      losses.values.set("t" + std::to_string(t), loss(views[static_cast<size_t>(t)], t));
      std::vector<Tensor> values, flat;
      for (size_t i = 0; i < dense.size(); ++i) {
        values.push_back(at::embedding(dense[i], batches[i].ids.view({rows})));
        EXPECT_TRUE(same_bits(views[static_cast<size_t>(t)][i], values.back()));
        EXPECT_EQ(views[static_cast<size_t>(t)][i].requires_grad(), tables[i].weight().requires_grad());
      }
      for (const Tensor& gradient : torch::autograd::grad({loss(values, t)}, leaves)) flat.push_back(gradient.flatten());
      jacobian.push_back(at::cat(flat));
    }
    const Tensor g = at::stack(jacobian);
    EXPECT_TRUE(close(backward(losses, fork).gramian, g.mm(g.t()), 1e-12, 1e-12));
    std::vector<Tensor> got;
    for (const RowTable& table : tables) {
      EXPECT_EQ(table.gradient().defined(), table.weight().requires_grad());
      if (table.weight().requires_grad()) got.push_back(dense_gradient(table).flatten());
    }
    EXPECT_TRUE(close(at::cat(got), at::tensor(method.values, at::kDouble).matmul(g), 1e-12, 1e-12));
  }
}

TEST_F(Fork, CountsFactorisationMachinesAndSkipsBesideItExactly) {
  Random random(22);
  const std::vector<double> given = {1.0, -2.0, 0.5};
  for (const bool own_view : {true, false}) {  // what stands beside the towers reads the task's view, or a second lookup
    const RowTable table(random.normal({9, 3}).requires_grad_(), "items"), bias(random.normal({9, 1}).requires_grad_(), "bias");
    const FieldBatch batch = FieldBatch::of(random.ids({12, 4}, 9));
    const Tensor skip = random.normal({12});
    std::vector<Tensor> heads;
    for (int t = 0; t < 3; ++t) heads.push_back(random.normal({12}));
    const auto loss = [&](const Tensor& tower, const Tensor& beside, const Tensor& first_order, size_t t) {
      const Tensor fields = beside.view({12, 4, 3}), pairs = (fields.sum(1).square() - fields.square().sum(1)).sum(1) * 0.05;
      return (tower.tanh().mv(heads[t]) + first_order.sum(1) + pairs + beside.mv(skip) - static_cast<double>(t)).square().mean();
    };
    GradientFork<Given> fork(task_set(3, {}), {.values = given});
    Lookup look = lookup(table, batch), around = lookup(table, batch), biases = lookup(bias, batch);
    const auto views = fork->split(look);
    TaskLosses losses;
    for (size_t t = 0; t < 3; ++t) losses.values.set("t" + std::to_string(t), loss(views[t], own_view ? views[t] : around.values(), biases.values(), t));
    const GradientReport report = backward(losses, fork);
    EXPECT_EQ(report.passes, own_view ? 1 : 3);

    const Tensor w = table.weight().detach().clone().requires_grad_(), b = bias.weight().detach().clone().requires_grad_();
    const Tensor e = at::embedding(w, batch.ids).view({12, 12}), first_order = at::embedding(b, batch.ids).view({12, 4});
    std::vector<Tensor> g;
    Tensor plain = at::zeros_like(b);
    for (size_t t = 0; t < 3; ++t) {
      const auto both = torch::autograd::grad({loss(e, e, first_order, t)}, {w, b}, {}, /*retain_graph=*/true);
      g.push_back(both[0].flatten());
      plain = plain + both[1];
    }
    const Tensor gradients = at::stack(g), k = gradients.mm(gradients.t()), expected = at::tensor(given, at::kDouble).matmul(gradients);
    EXPECT_TRUE(close(report.gramian, k, 0.0, 1e-12 * scale_of(k)));
    EXPECT_TRUE(close(dense_gradient(table).flatten(), expected, 0.0, 1e-12 * scale_of(expected)));
    EXPECT_TRUE(close(dense_gradient(bias), plain, 0.0, 1e-12 * scale_of(plain))) << "a table that is not shared through the fork has the plain gradient";
  }
}

TEST_F(Fork, InFloatIsTheDoubleResultUpToRounding) {
  Random random(23);
  for (int repetition = 0; repetition < 40; ++repetition) {
    const int64_t tasks = random.integer(1, 6), rows = random.pick<int64_t>({1, 7, 300}), width = random.pick<int64_t>({1, 5, 8, 10});
    const Tensor start = random.normal({12, width}), ids = random.ids({rows, 3}, 12), target = random.normal({rows});
    std::vector<Tensor> heads;
    Given method;
    for (int64_t t = 0; t < tasks; ++t) {
      heads.push_back(random.normal({3 * width}));
      method.values.push_back(random.real(-2.0, 2.0));
    }
    const auto run = [&](at::ScalarType type) {
      GradientFork<Given> fork(task_set(tasks, {}), method);
      const RowTable table(start.to(type, /*non_blocking=*/false, /*copy=*/true).requires_grad_());
      const auto views = fork->split(lookup(table, FieldBatch::of(ids)));
      TaskLosses losses;
      for (size_t t = 0; t < heads.size(); ++t)
        losses.values.set("t" + std::to_string(t), (views[t].sin().mv(heads[t].to(type)) - target.to(type)).square().mean());
      const GradientReport report = backward(losses, fork);
      EXPECT_EQ(report.gramian.scalar_type(), at::kDouble);
      EXPECT_EQ(table.gradient().values.scalar_type(), type);
      return std::pair(report.gramian, dense_gradient(table));
    };
    const auto single = run(at::kFloat), exact = run(at::kDouble);
    EXPECT_TRUE(close(single.first, exact.first, 0.0, 2e-5 * scale_of(exact.first)));
    EXPECT_TRUE(close(single.second, exact.second, 0.0, 2e-5 * scale_of(exact.second)));
  }
}

TEST_F(Fork, StaleGraphsOfEarlierStepsChangeNothing) {
  const Small m;
  GradientFork<Given> fork(m.tasks, {.values = {1.0, 10.0, 100.0}});
  const auto step = [&](std::vector<TaskLosses>* kept) {
    Lookup look = m.look();
    const auto views = fork->split(look);
    TaskLosses losses = m.named(m.loss(views[0] + look.values(), 0), m.loss(views[1], 1), m.loss(views[2], 2));
    if (kept) kept->push_back(m.losses(fork->split(m.look())));  // a forward that nobody differentiates yet
    m.table.gradient().clear();
    const GradientReport report = backward(losses, fork);
    return std::pair(report.gramian, dense_gradient(m.table));
  };
  const auto alone = step(nullptr);
  std::vector<TaskLosses> kept;
  const auto first = step(&kept), second = step(&kept);
  EXPECT_TRUE(same_bits(alone.first, first.first));
  EXPECT_TRUE(same_bits(alone.second, second.second));
  EXPECT_EQ(backward(kept[0], fork).passes, 1) << "an older forward is still good for its one backward";
}

TEST_F(Fork, SplitsOneLookupTwiceAndOneTableInSeveralParts) {
  const Small m;
  GradientFork<Given> fork(m.tasks, {.values = {1.0, -2.0, 0.5}});
  const Lookup look = m.look();
  const auto views = fork->split(std::vector<Lookup>{look, look});
  TaskLosses losses;
  for (size_t t = 0; t < 3; ++t) losses.values.set(std::string(1, static_cast<char>('a' + t)), m.loss(views[t][0] * 0.25 + views[t][1] * 0.75, t));
  const GradientReport report = backward(losses, fork);
  const Tensor g = m.dense_gradients();
  EXPECT_TRUE(close(report.gramian, g.mm(g.t())));
  EXPECT_TRUE(close(dense_gradient(m.table).flatten(), at::tensor({1.0, -2.0, 0.5}, at::kDouble).matmul(g)));
}

TEST_F(Fork, TwoForksOnTwoTablesWorkInOneCall) {
  const Small m, n;
  GradientFork<Given> first(m.tasks, {.values = {1.0, 2.0, 3.0}}), second(m.tasks, {.values = {-1.0, 0.0, 5.0}});
  const auto views = first->split(m.look()), more = second->split(n.look());
  TaskLosses losses;
  for (size_t t = 0; t < 3; ++t) losses.values.set(std::string(1, static_cast<char>('a' + t)), m.loss(views[t], t) + n.loss(more[t], t) * 2.0);
  const auto reports = backward(losses, {first, second});
  const Tensor g = m.dense_gradients(), h = n.dense_gradients(2.0);
  EXPECT_TRUE(close(reports[0].gramian, g.mm(g.t())));
  EXPECT_TRUE(close(reports[1].gramian, h.mm(h.t())));
  EXPECT_TRUE(close(dense_gradient(m.table).flatten(), at::tensor({1.0, 2.0, 3.0}, at::kDouble).matmul(g)));
  EXPECT_TRUE(close(dense_gradient(n.table).flatten(), at::tensor({-1.0, 0.0, 5.0}, at::kDouble).matmul(h)));
}

TEST_F(Fork, OfARepresentationIsExactAtTheRepresentationAndPullsTheWeightedSumBack) {
  Random random(14);
  for (int repetition = 0; repetition < 120; ++repetition) {
    SCOPED_TRACE(repetition);
    const int64_t tasks = random.integer(1, 5), rows = random.integer(1, 9);
    const bool overlap = random.chance(0.5), leaf = random.chance(0.2);
    const Tensor x = random.normal({rows, 4}), bottom = random.normal({4, 5}).requires_grad_(), input = random.normal({rows, 5}).requires_grad_();
    std::vector<Tensor> heads;
    for (int64_t t = 0; t < tasks; ++t) heads.push_back(random.normal({5}).requires_grad_());
    const auto loss = [&](const std::vector<Tensor>& views, int64_t t) {
      const auto at = static_cast<size_t>(t);
      const Tensor read = overlap && t > 0 ? views[at] * views[at - 1] : views[at];
      return (read.tanh().mv(heads[at]) - 0.3).square().mean();
    };
    const auto representation = [&] { return leaf ? input : x.mm(bottom).tanh(); };
    Given method;
    for (int64_t t = 0; t < tasks; ++t) method.values.push_back(random.real(-2.0, 2.0));
    GradientFork<Given> fork(task_set(tasks, {}), method);
    const auto views = fork->split(representation());
    TaskLosses losses;
    for (int64_t t = 0; t < tasks; ++t) losses.values.set("t" + std::to_string(t), loss(views, t));
    const GradientReport report = backward(losses, fork);
    EXPECT_EQ(report.passes, overlap && tasks > 1 ? 2 : 1);

    const Tensor h = representation().detach().requires_grad_();
    std::vector<Tensor> d, head_gradients;
    Tensor total = at::zeros({}, at::kDouble);
    for (int64_t t = 0; t < tasks; ++t) {
      const Tensor value = loss(std::vector<Tensor>(static_cast<size_t>(tasks), h), t);
      d.push_back(torch::autograd::grad({value}, {h}, {}, /*retain_graph=*/true)[0]);
      total = total + value;
    }
    const Tensor flat = at::stack(d).flatten(1), pulled = at::tensor(method.values, at::kDouble).matmul(flat).view_as(h);
    const auto expected_heads = torch::autograd::grad({total}, heads);
    const Tensor expected = leaf ? pulled : torch::autograd::grad({representation()}, {bottom}, {pulled})[0];
    ASSERT_TRUE(is_gramian(report.gramian, flat));
    ASSERT_TRUE(close(leaf ? input.grad() : bottom.grad(), expected, 0.0, 1e-12 * std::max(1.0, scale_of(expected))));
    for (size_t t = 0; t < heads.size(); ++t) ASSERT_TRUE(close(heads[t].grad(), expected_heads[t]));
  }
}

TEST_F(Fork, OfARepresentationOverALookupWritesTheRowsBelow) {
  const Small m;
  GradientFork<Given> fork(m.tasks, {.values = {2.0, -1.0, 0.5}});
  for (const bool overlap : {false, true}) {
    m.table.gradient().clear();
    Lookup look = m.look();
    const auto views = fork->split(look.values() * 2.0);
    const GradientReport report = backward(m.named(m.loss(views[0], 0), m.loss(overlap ? views[1] + views[0] : views[1], 1), m.loss(views[2], 2)), fork);
    EXPECT_EQ(report.passes, overlap ? 2 : 1);
    const Tensor weight = m.table.weight().detach().clone().requires_grad_(), h = at::embedding(weight, m.batch.ids).view({4, 6}) * 2.0;
    const auto grads = torch::autograd::grad({m.loss(h, 0) * 2.0 - m.loss(overlap ? h + h : h, 1) + m.loss(h, 2) * 0.5}, {weight});
    EXPECT_TRUE(close(dense_gradient(m.table), grads[0]));
    EXPECT_FALSE(m.table.weight().grad().defined());
  }
}

TEST_F(Fork, IsTheIdentityWhereNothingIsRecorded) {
  const Small m;
  GradientFork<CoreTask> fork(m.tasks);
  const Tensor values = m.look().raw();
  const auto check = [&] {
    for (const Tensor& view : fork->split(m.look())) {
      EXPECT_TRUE(same_bits(view, values));
      EXPECT_FALSE(view.requires_grad());
    }
    const Tensor h = at::ones({2, 2});
    for (const Tensor& view : fork->split(h)) EXPECT_TRUE(view.is_same(h));
  };
  {
    const at::NoGradGuard guard;
    check();
  }
  {
    const c10::InferenceMode guard;
    check();
  }
  m.table.weight().requires_grad_(false);
  check();
  EXPECT_EQ(m.table.groupings(), 0);
}

TEST_F(Fork, ScalesDoNotMatter) {
  Random random(15);
  const TaskSet tasks = task_set(3, {2});
  for (const at::ScalarType type : {at::kFloat, at::kDouble})
    for (const NormReference norm : {NormReference::before_projection, NormReference::after_projection, NormReference::moving_average}) {
      const Tensor start = random.normal({40, 10}, 1.0, type), ids = random.ids({64, 3}, 40);
      std::vector<Tensor> heads;
      for (int t = 0; t < 3; ++t) heads.push_back(random.normal({30}, 1.0, type));
      const auto step = [&](double factor) {
        GradientFork<CoreTask> fork(tasks, {.norm = norm});
        const RowTable table(start.clone().requires_grad_());
        const auto views = fork->split(lookup(table, FieldBatch::of(ids)));
        TaskLosses losses;
        for (size_t t = 0; t < 3; ++t) losses.values.set("t" + std::to_string(t), (views[t].mv(heads[t]) * factor).mean());
        const GradientReport report = backward(losses, fork);
        return std::pair(report.weights, dense_gradient(table) / factor);
      };
      const auto plain = step(1.0);
      for (const double factor : {1e20, 1e-20, 1e10, 1e-10}) {
        const auto scaled = step(factor);
        EXPECT_TRUE(close(scaled.first, plain.first, type == at::kFloat ? 1e-6 : 1e-12, 0.0)) << factor << " " << type;
        EXPECT_TRUE(close(scaled.second, plain.second, 0.0, (type == at::kFloat ? 2e-6 : 1e-12) * scale_of(plain.second))) << factor << " " << type;
      }
    }
}

TEST_F(Fork, AntiparallelAndZeroGradientsAreFinite) {
  const Small m;
  for (const NormReference norm : {NormReference::before_projection, NormReference::after_projection, NormReference::moving_average})
    for (const double clip : {100.0, std::numeric_limits<double>::infinity()}) {
      GradientFork<CoreTask> fork(m.tasks, {.gamma = 1.0, .clip_ratio = clip, .norm = norm});
      const auto step = [&](double a, double b, double c) {
        m.table.gradient().clear();
        const auto views = fork->split(m.look());
        const GradientReport report = backward(m.named(m.loss(views[0], 0) * a, m.loss(views[1], 0) * b, m.loss(views[2], 0) * c), fork);
        EXPECT_TRUE(at::isfinite(report.weights).all().item<bool>()) << a << " " << b << " " << c;
        EXPECT_TRUE(at::isfinite(dense_gradient(m.table)).all().item<bool>());
        return report;
      };
      for (const double s : {1.0, 3.0, 1e-9, 1e9}) step(-s, -0.3, 1.0);
      step(0.0, 1.0, 1.0);
      step(1.0, 1.0, 0.0);
      const GradientReport zero = step(0.0, 0.0, 0.0);
      EXPECT_TRUE(close(dense_gradient(m.table), at::zeros({6, 3}, at::kDouble)));
      EXPECT_TRUE(close(zero.cosines(), at::zeros({3, 3}, at::kDouble)));
    }
}

TEST_F(Fork, ShufflingRowsChangesNothingBeyondRoundingAndDuplicatingTheBatchNothing) {
  Random random(16);
  const TaskSet tasks = task_set(3, {2});
  const Tensor start = random.normal({30, 4}), ids = random.ids({50, 3}, 30), targets = random.normal({50});
  std::vector<Tensor> heads;
  for (int t = 0; t < 3; ++t) heads.push_back(random.normal({12}));
  const auto step = [&](const Tensor& order) {
    GradientFork<CoreTask> fork(tasks);
    const RowTable table(start.clone().requires_grad_());
    const auto views = fork->split(lookup(table, FieldBatch::of(ids.index_select(0, order))));
    TaskLosses losses;
    for (size_t t = 0; t < 3; ++t) losses.values.set("t" + std::to_string(t), (views[t].tanh().mv(heads[t]) - targets.index_select(0, order)).square().mean());
    const GradientReport report = backward(losses, fork);
    return std::tuple(report.gramian, report.weights, dense_gradient(table));
  };
  const Tensor straight = at::arange(50);
  const auto [k, w, g] = step(straight);
  for (const Tensor& order : {random.permutation(50), at::cat({straight, straight}), at::cat({straight, straight, straight}).flip({0})}) {
    const auto [k2, w2, g2] = step(order);
    EXPECT_TRUE(close(k, k2, 1e-11));
    EXPECT_TRUE(close(w, w2, 1e-10));
    EXPECT_TRUE(close(g, g2, 1e-10, 1e-13));
  }
}

TEST_F(Fork, OfOneTaskIsPlainBackward) {
  Random random(17);
  for (int repetition = 0; repetition < 20; ++repetition) {
    const Case c(random, 1, false);
    GradientFork<CoreTask> fork(task_set(1, {0}));
    const GradientReport report = c.step(fork);
    EXPECT_EQ(report.weights[0].item<double>(), 1.0);
    EXPECT_TRUE(close(c.row_gradients(), c.dense_gradients()[0]));
  }
}

TEST_F(Fork, IsBitIdenticalOverRepetitionsAndThreads) {
  Random random(18);
  const TaskSet tasks = task_set(3, {2});
  std::vector<int64_t> sizes;
  for (int f = 0; f < 20; ++f) sizes.push_back(f < 2 ? 3000 : 5 + 7 * f);
  FieldEmbedding embedding(FieldEmbeddingOptions(sizes, 10).initial_sd(1.0));
  for (const int64_t rows : {1024, 8192}) {  // summed group by group, and in blocks
    std::vector<Tensor> columns, heads;
    for (const int64_t size : sizes) columns.push_back(random.ids({rows}, size));
    const Tensor ids = at::stack(columns, 1).to(at::kInt);
    for (int t = 0; t < 3; ++t) heads.push_back(random.normal({200, 1}, 0.1, at::kFloat).requires_grad_());
    const auto step = [&] {
      GradientFork<CoreTask> fork(tasks);
      embedding->table().gradient().clear();
      const auto views = fork->split(embedding->lookup(FieldBatch::of(ids)));
      TaskLosses losses;
      for (size_t t = 0; t < 3; ++t) losses.values.set("t" + std::to_string(t), views[t].mul(heads[t].view({1, -1})).tanh().sum(1).sub(1.0).square().mean());
      const GradientReport report = backward(losses, fork);
      return std::vector<Tensor>{report.gramian, report.weights, embedding->table().gradient().rows, embedding->table().gradient().values};
    };
    std::vector<Tensor> first;
    {
      const Threads two(2);
      first = step();
      for (int repetition = 0; repetition < 20; ++repetition) {
        const auto again = step();
        for (size_t i = 0; i < first.size(); ++i) ASSERT_TRUE(same_bits(first[i], again[i])) << "run " << repetition;
      }
    }
    const Threads one(1);
    const auto alone = step();
    for (size_t i = 0; i < first.size(); ++i) EXPECT_TRUE(same_bits(first[i], alone[i])) << "1 thread against 2";
  }
}

TEST_F(Fork, GroupsRowsOnceAStep) {
  Random random(19);
  FieldEmbedding embedding(std::vector<int64_t>{5, 6}, 4);
  GradientFork<CoreTask> fork(task_set(2, {1}));
  for (int64_t step = 1; step <= 5; ++step) {
    Lookup look = embedding->lookup(FieldBatch::of(random.ids({8, 2}, 5)));
    const auto views = fork->split(look);
    TaskLosses losses;
    losses.values.set("t0", views[0].sum()).set("t1", views[1].square().mean());
    backward(losses, fork);
    embedding->table().gradient().clear();
    EXPECT_EQ(embedding->table().groupings(), step);
  }
}

TEST_F(Fork, StateSurvivesCastingCloningAndIsForgottenOnDemand) {
  const Small m;
  GradientFork<CoreTask> fork(m.tasks, {.norm = NormReference::moving_average});
  const auto step = [&](GradientFork<CoreTask>& which) {
    const auto views = which->split(m.look());
    return backward(m.losses(views), which).weights;
  };
  const auto memory = [](GradientFork<CoreTask>& which) {
    std::vector<Tensor> copies;
    which->fields([&](const char*, Tensor& field) { copies.push_back(field.defined() ? field.clone() : Tensor()); });
    return copies;
  };
  step(fork);
  const auto before = memory(fork);
  ASSERT_EQ(before.size(), 2U);
  fork->to(at::kBFloat16);
  for (size_t i = 0; i < 2; ++i) EXPECT_TRUE(same_bits(before[i], memory(fork)[i]));
  GradientFork<CoreTask> copy(std::dynamic_pointer_cast<GradientForkImpl<CoreTask>>(fork->clone()));
  const Tensor next = step(fork);
  for (size_t i = 0; i < 2; ++i) EXPECT_TRUE(same_bits(before[i], memory(copy)[i])) << "the clone's memory moved with the original";
  EXPECT_TRUE(same_bits(step(copy), next));
  EXPECT_EQ(copy->step(), 2);
  GradientFork<CoreTask> loaded(m.tasks, {.norm = NormReference::moving_average});
  size_t i = 0;
  loaded->fields([&](const char*, Tensor& field) { field = before[i++]; });
  EXPECT_TRUE(same_bits(step(loaded), next));
  fork->forget();
  EXPECT_EQ(fork->step(), 0);
  EXPECT_FALSE(memory(fork)[0].defined());
  EXPECT_TRUE(fork->parameters().empty());
  EXPECT_TRUE(fork->buffers().empty());
}

TEST_F(Fork, LeavesNoGraphAlive) {
  const Small m;
  GradientFork<CoreTask> fork(m.tasks);
  std::vector<std::weak_ptr<torch::autograd::Node>> nodes;
  c10::weak_intrusive_ptr<c10::TensorImpl> bottom(Tensor(at::zeros({1})).getIntrusivePtr());
  for (int step = 0; step < 200; ++step) {
    Lookup look = m.look();
    const auto views = fork->split(look);
    nodes.emplace_back(views[0].grad_fn());
    nodes.emplace_back(look.values().grad_fn());
    if (step % 2 == 0) backward(m.named(m.loss(views[0] + look.values(), 0), m.loss(views[1], 1), m.loss(views[2], 2)), fork);
    const Tensor h = look.values() * 2.0;
    bottom = c10::weak_intrusive_ptr<c10::TensorImpl>(h.getIntrusivePtr());
    nodes.emplace_back(fork->split(h)[0].grad_fn());
    m.table.gradient().clear();
    EXPECT_LE(fork->state()->calls.size(), 3U);
  }
  for (const auto& node : nodes) EXPECT_TRUE(node.expired());
  EXPECT_TRUE(bottom.expired()) << "the fork keeps a representation's graph after its tensors died";
}

TEST_F(Backward, AccumulatesMicroBatchesToTheStepOfTheirSummedLosses) {
  Random random(20);
  for (int repetition = 0; repetition < 60; ++repetition) {
    SCOPED_TRACE(repetition);
    Case c(random, random.integer(1, 4), random.chance(0.5));
    GradientFork<CoreTask> fork(task_set(c.tasks, {c.tasks - 1}), {.norm = NormReference::after_projection});
    const int64_t parts = random.integer(2, 4);
    Tensor g, losses, active;
    GradientReport report;
    for (int64_t part = 0; part < parts; ++part) {
      for (auto* looks : {&c.looks, &c.beside})
        for (Case::Look& l : *looks) {
          l.batch = random_field_batch(random, c.rows, l.fields);
          l.dense = dense_lookup(l.batch, l.fields, c.tables[l.table].rows(), c.tables[l.table].padding_row(), l.pooling);
        }
      for (Tensor& m : c.mask) m = random.mask({c.rows, 1}, random.pick<double>({0.0, 0.7})).to(at::kDouble);
      std::vector<Tensor> labelled;
      for (const Tensor& m : c.mask) labelled.push_back(m.sum() > 0);
      c.active = at::stack(labelled);
      active = part ? active.logical_or(c.active) : c.active;
      g = part ? g + c.dense_gradients() : c.dense_gradients();
      losses = part ? losses + c.dense_losses() : c.dense_losses();
      report = c.step(fork, {.accumulate = part + 1 < parts});
      EXPECT_TRUE(close(report.losses, losses));
      EXPECT_EQ(report.gramian.defined(), part + 1 == parts);
      if (part + 1 < parts) {
        EXPECT_TRUE(close(c.row_gradients(), at::zeros_like(c.row_gradients()))) << "rows were written before the step";
        EXPECT_TRUE(contains(sentence_of([&] { report.norms(); }), "there is no Gramian yet"));
      }
    }
    EXPECT_EQ(fork->step(), 1);
    EXPECT_TRUE(at::equal(report.active, active));
    ASSERT_TRUE(is_gramian(report.gramian, g));
    ASSERT_TRUE(is_combination(c.row_gradients(), report.weights, g));
  }
}

TEST_F(Backward, AddsToARowGradientThatNobodyClearedAsGradDoes) {
  const Small m;
  GradientFork<Given> fork(m.tasks, {.values = {1.0, 2.0, -1.0}});
  Lookup look = m.look();
  m.loss(look.values(), 1).backward();
  backward(m.losses(fork->split(m.look())), fork);
  const FieldBatch other = FieldBatch::of(at::tensor({3, 3, 4, 0}, at::kInt).view({2, 2}));
  backward(m.losses(fork->split(lookup(m.table, other))), fork);
  const Tensor w = m.table.weight().detach().clone().requires_grad_();
  const auto at_ids = [&](const Tensor& ids) { return at::embedding(w, ids.to(at::kLong)).view({ids.size(0), 6}); };
  Tensor total = m.loss(at_ids(m.batch.ids), 1);
  for (const Tensor& ids : {m.batch.ids, other.ids}) total = total + m.loss(at_ids(ids), 0) + m.loss(at_ids(ids), 1) * 2.0 - m.loss(at_ids(ids), 2);
  EXPECT_TRUE(close(dense_gradient(m.table), torch::autograd::grad({total}, {w})[0]));
  EXPECT_EQ(m.table.gradient().rows.size(0), 6);
}

TEST_F(Backward, HandsTheSameGradientToForeignOptimizers) {
  Small m;
  m.table = RowTable(m.table.weight(), "items", {.coo_gradient = true});
  GradientFork<Given> fork(m.tasks, {.values = {1.0, 2.0, -1.0}});
  backward(m.losses(fork->split(m.look())), fork);
  ASSERT_TRUE(m.table.weight().grad().defined());
  EXPECT_TRUE(m.table.weight().grad().is_sparse());
  EXPECT_TRUE(close(m.table.weight().grad().to_dense(), dense_gradient(m.table)));
  backward(m.losses(fork->split(m.look())), fork);
  EXPECT_TRUE(close(m.table.weight().grad().to_dense(), dense_gradient(m.table))) << "a second backward adds to both";
  const Tensor both = dense_gradient(m.table);
  m.table.weight().mutable_grad() = Tensor();  // what zero_grad() does
  backward(m.losses(fork->split(m.look())), fork);
  EXPECT_TRUE(close(dense_gradient(m.table) * 2.0, both)) << "zero_grad() of a foreign optimizer clears the row gradient too";
  m.table.gradient().scale_(at::scalar_tensor(0.0, at::kDouble));
  EXPECT_GT(m.table.weight().grad().to_dense().abs().max().item<double>(), 0.0) << "the two share memory; clip_grad_norm() would scale it twice";
}

TEST_F(Backward, WorksAfterTheModuleWasCastOrCloned) {
  FieldEmbedding embedding(FieldEmbeddingOptions({5, 4}, 3).initial_sd(1.0).frozen_zero(true));
  embedding->to(at::kDouble);
  auto copy = std::dynamic_pointer_cast<FieldEmbeddingImpl>(embedding->clone());
  ASSERT_TRUE(at::equal(copy->weight, embedding->weight));
  EXPECT_FALSE(copy->table().is_same(embedding->table()));
  EXPECT_TRUE(copy->table().weight().is_same(copy->weight));
  GradientFork<Sum> fork(task_set(2, {}));
  const FieldBatch batch = FieldBatch::of(at::tensor({0, 1, 4, 3, 2, 0}, at::kInt).view({3, 2}));
  const auto views = fork->split(copy->lookup(batch));
  TaskLosses losses;
  losses.values.set("t0", views[0].square().sum()).set("t1", views[1].sum());
  backward(losses, fork);
  EXPECT_FALSE(embedding->table().gradient().defined());
  const Tensor dense = dense_gradient(copy->table());
  EXPECT_EQ(copy->table().gradient().values.scalar_type(), at::kDouble);
  EXPECT_TRUE(close(dense[4], 2.0 * copy->weight[4] + 1.0));
  EXPECT_TRUE(close(dense[0], at::zeros({3}, at::kDouble))) << "id 0 is frozen";
  EXPECT_TRUE(close(dense[5], at::zeros({3}, at::kDouble))) << "id 0 of the second field is frozen";
}

TEST_F(Backward, RunsHalfPrecisionTablesWithSumsInFloat) {
  Random random(21);
  for (const at::ScalarType type : {at::kBFloat16, at::kHalf}) {
    const RowTable table(random.normal({7, 3}, 1.0, type).requires_grad_());
    GradientFork<CoreTask> fork(task_set(2, {1}));
    const Tensor ids = random.ids({300, 2}, 7);
    const auto views = fork->split(lookup(table, FieldBatch::of(ids)));
    ASSERT_EQ(views[0].scalar_type(), type);
    TaskLosses losses;
    losses.values.set("t0", views[0].to(at::kFloat).square().mean()).set("t1", views[1].to(at::kFloat).sum() * 1e-3);
    const GradientReport report = backward(losses, fork);
    EXPECT_EQ(table.gradient().values.scalar_type(), type);
    const Tensor w = table.weight().detach().to(at::kDouble).requires_grad_(), dense = at::embedding(w, ids).view({300, 6});
    const Tensor a = torch::autograd::grad({dense.square().mean()}, {w}, {}, true)[0], b = torch::autograd::grad({dense.sum() * 1e-3}, {w})[0];
    EXPECT_TRUE(close(report.gramian[0][1], (a * b).sum(), 0.02, 1e-6));
    EXPECT_TRUE(close(dense_gradient(table), a * report.weights[0] + b * report.weights[1], 0.02, 1e-3));
  }
}

TEST_F(Backward, TakesEmptyBatchesAndOneRow) {
  for (const int64_t rows : {0, 1}) {
    const Small m;
    GradientFork<CoreTask> fork(m.tasks);
    const auto views = fork->split(lookup(m.table, FieldBatch::of(at::zeros({rows, 2}, at::kInt))));
    TaskLosses losses = m.named(views[0].sum(), views[1].square().sum(), views[2].sum() * 2.0);
    losses.active = at::full({3}, rows > 0);
    const GradientReport report = backward(losses, fork);
    EXPECT_TRUE(at::isfinite(report.weights).all().item<bool>());
    EXPECT_EQ(m.table.gradient().rows.size(0), rows);
  }
}

TEST_F(Refusal, PlainBackwardSecondBackwardAndSecondDerivatives) {
  const Small m;
  GradientFork<CoreTask> fork(m.tasks);
  auto losses = m.losses(fork->split(m.look()));
  EXPECT_TRUE(contains(sentence_of([&] { losses["a"].backward({}, true); }), "call htl::backward(losses, fork) instead"));
  EXPECT_FALSE(m.table.gradient().defined());
  backward(losses, fork);
  EXPECT_TRUE(contains(sentence_of([&] { backward(losses, fork); }), "compute the forward again"));
  losses = m.losses(fork->split(m.look()));
  EXPECT_TRUE(
      contains(sentence_of([&] { torch::autograd::grad({losses["a"]}, {m.table.weight()}, {}, true, /*create_graph=*/true, true); }), "second derivatives"));
  Lookup look = m.look();
  EXPECT_TRUE(contains(sentence_of([&] { torch::autograd::grad({m.loss(look.values(), 0)}, {m.table.weight()}, {}, true, /*create_graph=*/true, true); }),
                       "second derivatives"));
}

TEST_F(Refusal, PathsPastTheFork) {
  const Small m;
  GradientFork<CoreTask> fork(m.tasks);
  auto views = fork->split(m.look());
  const Tensor read = at::embedding(m.table.weight(), m.batch.ids).view({4, 6});
  EXPECT_TRUE(contains(sentence_of([&] { backward(m.named(m.loss(views[0], 0), m.loss(views[1] + read, 1), m.loss(views[2], 2)), fork); }), "task \"b\"",
                       "past the fork", "htl::lookup()"));
  EXPECT_TRUE(
      contains(sentence_of([&] { backward(m.named(m.loss(views[0], 0), m.loss(views[1], 1), m.loss(views[2], 2) + m.table.weight().square().sum()), fork); }),
               "past the fork"));
  const Tensor x = at::randn({4, 6}, at::kDouble), bottom = at::randn({6, 6}, at::kDouble).requires_grad_();
  const Tensor early = x.mm(bottom), h = early.tanh();
  for (const Tensor& skip : {h, early, bottom.sum() * at::ones({4, 6}, at::kDouble)}) {
    views = fork->split(h);
    EXPECT_TRUE(contains(sentence_of([&] { backward(m.named(m.loss(views[0] + skip, 0), m.loss(views[1], 1), m.loss(views[2], 2)), fork); }), "task \"a\"",
                         "read the task's own view"));
  }
  const RowTable second(m.table.weight(), "second");  // another handle on the same weight
  Lookup by_second = lookup(second, m.batch);
  views = fork->split(m.look());
  EXPECT_TRUE(contains(sentence_of([&] { backward(m.named(m.loss(views[0] + by_second.values(), 0), m.loss(views[1], 1), m.loss(views[2], 2)), fork); }),
                       "past the fork"));
  Lookup look = m.look(), other = m.look();  // a table below a representation
  views = fork->split(look.values().tanh());
  for (Lookup* beside : {&look, &other})
    EXPECT_TRUE(contains(sentence_of([&] { backward(m.named(m.loss(views[0] + beside->values(), 0), m.loss(views[1], 1), m.loss(views[2], 2)), fork); }),
                         "past the fork"));
}

TEST_F(Refusal, ForksOnTopOfEachOtherOrOnOneTable) {
  const Small m;
  GradientFork<Sum> lower(m.tasks), upper(m.tasks);
  const auto views = upper->split(lower->split(m.look())[0].tanh());
  const TaskLosses losses = m.losses(views);
  EXPECT_TRUE(contains(sentence_of([&] { backward(losses, {lower, upper}); }), "one fork stands below another"));
  EXPECT_TRUE(contains(sentence_of([&] { backward(losses, {upper, lower}); }), "one fork stands below another"));
  EXPECT_TRUE(contains(sentence_of([&] { backward(losses, upper); }), "plain backward() reached the fork"));
  const TaskLosses again = m.losses(upper->split(lower->split(m.look())[0].tanh()));
  EXPECT_TRUE(contains(sentence_of([&] { backward(again, lower); }), "plain backward() reached the fork"));
  const auto a = lower->split(m.look()), b = upper->split(m.look());
  const auto both = [&](const std::vector<Tensor>& x, const std::vector<Tensor>& y) {
    return m.named(m.loss(x[0] + y[0], 0), m.loss(x[1] + y[1], 1), m.loss(x[2] + y[2], 2));
  };
  EXPECT_TRUE(contains(sentence_of([&] { backward(both(a, b), {lower, upper}); }), "two forks stand on table \"items\""));
  Lookup look = m.look();
  const auto c = upper->split(look.values().tanh());
  EXPECT_TRUE(contains(sentence_of([&] { backward(both(a, c), {lower, upper}); }), "table \"items\" lies under two forks"));
  EXPECT_TRUE(contains(sentence_of([&] { backward(both(a, c), {upper, lower}); }), "table \"items\" lies under two forks"));
  const RowTable copy(m.table.weight(), "copy");  // its own row gradient beside the table's
  EXPECT_TRUE(contains(sentence_of([&] { lower->split({m.look(), lookup(copy, m.batch)}); }), "\"items\" and \"copy\" are two tables over one weight"));
  const auto d = lower->split(m.look()), e = upper->split(lookup(copy, m.batch));
  EXPECT_TRUE(contains(sentence_of([&] { backward(both(d, e), {lower, upper}); }), "two forks stand on table"));
  EXPECT_TRUE(contains(sentence_of([&] { backward(both(a, a), {lower, lower}); }), "each fork once"));
  EXPECT_TRUE(contains(sentence_of([&] { backward(losses, std::vector<AnyFork>{}); }), "at least one fork"));
}

TEST_F(Refusal, InPlaceChanges) {
  const Small m;
  GradientFork<Sum> fork(m.tasks);
  auto views = fork->split(m.look());
  EXPECT_TRUE(contains(sentence_of([&] { views[1].add_(1.0); }), "modified inplace"));
  Lookup look = m.look();
  Tensor values = look.values();
  EXPECT_NE(sentence_of([&] { values.mul_(2.0); }), "no error");
  const Tensor bottom = at::randn({6, 6}, at::kDouble).requires_grad_(), h = at::ones({4, 6}, at::kDouble).mm(bottom);
  views = fork->split(h);
  const TaskLosses losses = m.losses(views);
  h.mul_(2.0);
  EXPECT_TRUE(contains(sentence_of([&] { backward(losses, fork); }), "changed in place"));
  EXPECT_TRUE(contains(sentence_of([&] { m.losses(views); }), "modified inplace"));
}

TEST_F(Refusal, LossesThatDoNotBelong) {
  const Small m;
  GradientFork<CoreTask> fork(m.tasks);
  const auto views = fork->split(m.look());
  const Tensor a = m.loss(views[0], 0), b = m.loss(views[1], 1), c = m.loss(views[2], 2);
  TaskLosses wrong;
  wrong.values.set("a", a).set("c", c).set("b", b);
  EXPECT_TRUE(contains(sentence_of([&] { backward(wrong, fork); }), "expected losses of the fork's tasks \"a\", \"b\", \"c\", got \"a\", \"c\", \"b\""));
  wrong = {};
  wrong.values.set("a", a).set("b", b);
  EXPECT_TRUE(contains(sentence_of([&] { backward(wrong, fork); }), "got \"a\", \"b\""));
  EXPECT_TRUE(contains(sentence_of([&] { backward(m.named(a, Tensor(), c), fork); }), "task \"b\" to be one number, got shape undefined"));
  EXPECT_TRUE(contains(sentence_of([&] { backward(m.named(a, at::ones({2}), c), fork); }), "got shape [2]"));
  const Tensor zero = at::zeros({}, at::kDouble);
  EXPECT_TRUE(contains(sentence_of([&] { backward(m.named(zero, zero, zero), fork); }), "no loss reaches the fork"));
  for (const Tensor& active : {at::ones({2}, at::kBool), at::ones({3}), at::ones({1, 3}, at::kBool)}) {
    TaskLosses losses = m.named(a, b, c);
    losses.active = active;
    EXPECT_TRUE(contains(sentence_of([&] { backward(losses, fork); }), "one bool for each of 3 tasks"));
  }
  EXPECT_FALSE(m.table.gradient().defined());
  EXPECT_EQ(backward(m.named(a, zero, c), fork).gramian[1][1].item<double>(), 0.0) << "a loss without a graph is a task without gradient";
}

TEST_F(Refusal, LossesThatAreNotFinite) {
  const Small m;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  GradientFork<GradNorm> fork(m.tasks);
  const auto with = [&](const Tensor& b) {
    const auto views = fork->split(m.look());
    return m.named(m.loss(views[0], 0), b, m.loss(views[2], 2));
  };
  const Tensor bad = at::full({}, nan, at::kDouble);  // as the mean of no rows is: no gradient is wrong, but the method would remember the loss
  EXPECT_TRUE(contains(sentence_of([&] { backward(with(bad), fork); }), "the loss of task \"b\" is nan", "TaskLosses::active"));
  EXPECT_EQ(fork->step(), 0);
  fork->fields([](const char*, Tensor& field) { EXPECT_FALSE(field.defined()); });
  TaskLosses inactive = with(bad);
  inactive.active = at::tensor({1, 0, 1}, at::kInt).to(at::kBool);
  EXPECT_EQ(sentence_of([&] { backward(inactive, fork); }), "no error");
  inactive = with(bad);  // nor do micro-batches add it up
  inactive.active = at::tensor({1, 0, 1}, at::kInt).to(at::kBool);
  backward(inactive, fork, {.accumulate = true});
  EXPECT_EQ(backward(with(at::ones({}, at::kDouble)), fork).losses[1].item<double>(), 1.0);
  GradientFork<FAMO> hears(m.tasks);
  backward(m.losses(hears->split(m.look())), hears);
  TaskLosses after = m.named(at::ones({}), bad, at::ones({}));
  EXPECT_TRUE(contains(sentence_of([&] { hears->observe(after); }), "the loss of task \"b\" after the step is nan", "TaskLosses::active"));
  after.active = at::tensor({1, 0, 1}, at::kInt).to(at::kBool);
  EXPECT_EQ(sentence_of([&] { hears->observe(after); }), "no error");
  EXPECT_TRUE(backward(m.losses(hears->split(m.look())), hears).weights.isfinite().all().item<bool>());
}

/// Answers with what it is told to.
struct Answers {
  std::function<SharedGradient(const TaskGradients&)> answer;
  SharedGradient aggregate(const TaskGradients& gradients) const { return answer(gradients); }
};

TEST_F(Refusal, WhatAMethodMustNotAnswer) {
  const Small m;
  const auto says = [&](const std::function<SharedGradient(const TaskGradients&)>& answer) {
    GradientFork<Answers> fork(m.tasks, {answer});
    const std::string sentence = sentence_of([&] { backward(m.losses(fork->split(m.look())), fork); });
    EXPECT_EQ(m.table.gradient().defined(), sentence == "no error");
    return sentence;
  };
  const auto part = [](const TaskGradients& g) { return g.parts.front(); };
  EXPECT_TRUE(contains(says([&](const TaskGradients&) { return SharedGradient{}; }), "the gradient of 1 parts, got 0"));
  EXPECT_TRUE(contains(says([&](const TaskGradients& g) { return SharedGradient{{{Tensor(), part(g).rows}}}; }), "as [4, 3], got shape undefined"));
  EXPECT_TRUE(contains(says([&](const TaskGradients& g) {
                         return SharedGradient{{{part(g).values.sum(1).narrow(0, 0, 2), part(g).rows}}};
                       }),
                       "the method's gradient of \"items\" as [4, 3], got shape [2, 3]"));
  EXPECT_TRUE(contains(says([&](const TaskGradients& g) { return SharedGradient{{{part(g).values, part(g).rows}}}; }), "as [4, 3], got shape [4, 3, 3]"));
  EXPECT_TRUE(contains(says([&](const TaskGradients& g) { return SharedGradient{{{part(g).values.sum(1)}}}; }), "as [6, 3], got shape [4, 3]"));
  EXPECT_TRUE(contains(says([&](const TaskGradients& g) {
                         return SharedGradient{{{part(g).values.sum(1), part(g).rows.to(at::kInt)}}};
                       }),
                       "as [A] int64, got Int of shape [4]"));
  EXPECT_TRUE(contains(says([&](const TaskGradients& g) {
                         return SharedGradient{{{part(g).values.sum(1) / 0.0, part(g).rows}}};
                       }),
                       "has the squared norm", "a method must be finite"));
  // all rows, and a tensor that the method keeps
  const Tensor kept = at::arange(18, at::kDouble).view({6, 3});
  EXPECT_EQ(says([&](const TaskGradients&) { return SharedGradient{{{kept}}}; }), "no error");
  EXPECT_TRUE(same_bits(m.table.gradient().values, kept));
  EXPECT_TRUE(same_bits(m.table.gradient().rows, at::arange(6, at::kLong)));
  m.table.gradient().values.mul_(0.5);  // as clipping does
  EXPECT_EQ(kept[5][2].item<double>(), 17.0);
}

TEST_F(Refusal, AMemoryThatWouldGoToAnotherTable) {
  const RowTable history(at::ones({6, 3}, at::kDouble).requires_grad_(), "history"), items(at::ones({6, 3}, at::kDouble).requires_grad_(), "items");
  const FieldBatch batch = FieldBatch::of(at::tensor({0, 1, 2, 5}, at::kLong).view({4, 1}));
  const TaskSet tasks{regression("a"), regression("b").core()};
  const auto step = [&](auto& fork, const std::vector<RowTable>& tables) {
    TaskLosses losses;
    losses.values.set("a", at::zeros({}, at::kDouble)).set("b", at::zeros({}, at::kDouble));
    for (const RowTable& table : tables) {
      const auto views = fork->split(lookup(table, batch));
      losses.values.set("a", losses["a"] + views[0].square().sum()).set("b", losses["b"] - views[1].sum());
    }
    return sentence_of([&] { backward(losses, fork); });
  };
  const auto expect_refusal = [&](auto& fork) {
    EXPECT_EQ(step(fork, {history, items}), "no error");
    for (const std::vector<RowTable>& others : {std::vector<RowTable>{items}, {items, history}, {items, history, items}})
      EXPECT_TRUE(contains(step(fork, others), "the fork's method remembers what it saw of each shared tensor", "\"history [6, 3]\", \"items [6, 3]\"",
                           "htl::shared()"));
    EXPECT_EQ(step(fork, {history, items}), "no error");
    fork->forget();
    EXPECT_EQ(step(fork, {items}), "no error");
  };
  GradientFork<CoreTask> averages(tasks, {.norm = NormReference::moving_average}, GradientScope::tensor);
  expect_refusal(averages);
  GradientFork<ExcessMTL> numbers(tasks);
  expect_refusal(numbers);
  GradientFork<AnyWeighting> named(tasks, ExcessMTL{});
  expect_refusal(named);
  // what remembers nothing, or one thing of all tables, takes them as they come
  GradientFork<CoreTask> forgetful(tasks, {}, GradientScope::tensor), whole(tasks, {.norm = NormReference::moving_average});
  GradientFork<AnyWeighting> drops(tasks, GradDrop{});
  GradientFork<IMTLG> counts(tasks, {}, GradientScope::tensor);
  const auto expect_none = [&](auto& fork) {
    EXPECT_EQ(step(fork, {history, items}), "no error");
    EXPECT_EQ(step(fork, {items}), "no error");
  };
  expect_none(forgetful);
  expect_none(whole);
  expect_none(drops);
  expect_none(counts);
  // a loaded state of two memories does not fit one table either
  GradientFork<CoreTask> loaded(tasks, {.norm = NormReference::moving_average}, GradientScope::tensor);
  step(averages, {items});
  averages->forget();
  step(averages, {history, items});
  std::vector<Tensor> saved;
  averages->visit_state([&](const std::string&, Tensor& field) { saved.push_back(field.defined() ? field.clone() : field); });
  size_t next = 0;
  loaded->visit_state([&](const std::string&, Tensor& field) { field = saved.at(next++); });
  EXPECT_TRUE(contains(step(loaded, {items}), "expected those of the steps before, 2 in number, got \"items [6, 3]\""));
  EXPECT_EQ(step(loaded, {history, items}), "no error");
}

TEST_F(Refusal, NumbersThatAreNotFinite) {
  const Small m;
  GradientFork<CoreTask> fork(m.tasks, {.norm = NormReference::moving_average});
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    const auto views = fork->split(m.look());
    EXPECT_TRUE(contains(sentence_of([&] { backward(m.named(m.loss(views[0], 0), m.loss(views[1], 1) * bad, m.loss(views[2], 2)), fork); }),
                         "squared gradient norm of task \"b\" is"));
  }
  EXPECT_FALSE(m.table.gradient().defined());
  fork->fields([](const char*, Tensor& field) { EXPECT_FALSE(field.defined()) << "the method's memory saw the bad step"; });
  GradientFork<Given> wrong(m.tasks, {.values = {1.0, 2.0}}), infinite(m.tasks, {.values = {1.0, std::numeric_limits<double>::infinity(), 1.0}});
  EXPECT_TRUE(contains(sentence_of([&] { backward(m.losses(wrong->split(m.look())), wrong); }), "one weight for each of 3 tasks, got shape [2]"));
  EXPECT_TRUE(contains(sentence_of([&] { backward(m.losses(infinite->split(m.look())), infinite); }), "weight inf for task \"b\""));
  EXPECT_FALSE(m.table.gradient().defined());
  for (const bool representation : {false, true}) {  // a failed step leaves nothing armed behind
    const Tensor h = at::ones({4, 6}, at::kDouble).requires_grad_() * 1.0;
    const auto views = representation ? infinite->split(h) : infinite->split(m.look());
    const TaskLosses losses = m.losses(views);
    EXPECT_NE(sentence_of([&] { backward(losses, infinite); }), "no error");
    EXPECT_TRUE(contains(sentence_of([&] { m.losses(views)["a"].backward(); }), "plain backward() reached the fork"));
  }
}

TEST_F(Refusal, LeavesNothingOfTheStepInAnyRowGradient) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const bool representation : {false, true})
    for (const bool overlap : {false, true})
      for (const bool forked_before : {false, true}) {  // the table beside stood under the same fork in another forward
        SCOPED_TRACE(std::string(representation ? "representation" : "rows") + (overlap ? ", overlap" : "") + (forked_before ? ", forked before" : ""));
        const Small m;
        const RowTable beside(at::linspace(0.5, 1.5, 18, at::kDouble).view({6, 3}).clone().requires_grad_(), "beside");
        GradientFork<Counting> fork(m.tasks);
        Lookup held = lookup(beside, m.batch);
        const auto unused = forked_before ? fork->split(held) : std::vector<Tensor>{};
        const auto losses = [&](double factor) {
          Lookup look = m.look(), around = lookup(beside, m.batch);
          const auto views = representation ? fork->split(look.values() * 2.0) : fork->split(look);
          return m.named(m.loss(views[0] + around.values(), 0), m.loss(overlap ? views[1] * views[0] : views[1], 1), m.loss(views[2], 2) * factor);
        };
        m.loss(held.values(), 1).backward();  // of before, and it stays
        const Tensor before = dense_gradient(beside);
        EXPECT_TRUE(contains(sentence_of([&] { backward(losses(nan), fork); }), "squared gradient norm of task \"c\" is nan"));
        EXPECT_FALSE(m.table.gradient().defined());
        EXPECT_TRUE(same_bits(dense_gradient(beside), before));
        fork->fields([](const char*, Tensor& calls) { EXPECT_FALSE(calls.defined()); });
        m.loss(lookup(beside, m.batch).values(), 1).backward();  // nothing is left collecting
        EXPECT_TRUE(close(dense_gradient(beside), before * 2.0));

        beside.gradient().clear();
        EXPECT_EQ(backward(losses(1.0), fork).passes, overlap ? 2 : 1);
        const Tensor w = m.table.weight().detach().clone().requires_grad_(), b = beside.weight().detach().clone().requires_grad_();
        const Tensor h = at::embedding(w, m.batch.ids).view({4, 6}) * (representation ? 2.0 : 1.0), e = at::embedding(b, m.batch.ids).view({4, 6});
        const auto expected = torch::autograd::grad({m.loss(h + e, 0) + m.loss(overlap ? h * h : h, 1) + m.loss(h, 2)}, {w, b});
        EXPECT_TRUE(close(dense_gradient(m.table), expected[0]));
        EXPECT_TRUE(close(dense_gradient(beside), expected[1]));
      }
}

TEST_F(Refusal, DropsTheMicroBatchesOfTheStep) {
  const Small m;
  GradientFork<Given> fork(m.tasks, {.values = {1.0, -2.0, 0.5}});
  const auto scaled = [&](double factor) {
    TaskLosses losses = m.losses(fork->split(m.look()));
    losses.values.set("a", losses["a"] * factor);
    return losses;
  };
  backward(scaled(std::numeric_limits<double>::quiet_NaN()), fork, {.accumulate = true});  // found at the end of the step
  EXPECT_TRUE(contains(sentence_of([&] { backward(scaled(1.0), fork); }), "task \"a\" is nan"));
  EXPECT_FALSE(m.table.gradient().defined());
  const Tensor g = m.dense_gradients();
  EXPECT_TRUE(is_gramian(backward(scaled(1.0), fork).gramian, g));
  EXPECT_TRUE(is_combination(dense_gradient(m.table).flatten(), at::tensor({1.0, -2.0, 0.5}, at::kDouble), g));
}

TEST_F(Refusal, OfOneForkKeepsTheOthersRowsAndMemoryAsTheyWere) {
  const Small m, n;
  for (const bool bad_first : {true, false}) {
    GradientFork<Counting> good(m.tasks), bad(m.tasks);
    const auto a = good->split(m.look()), b = bad->split(n.look());
    TaskLosses losses;
    for (size_t t = 0; t < 3; ++t) {
      const Tensor finite = m.loss(a[t], t), infinite = n.loss(b[t], t) * std::numeric_limits<double>::infinity();
      losses.values.set(std::string(1, static_cast<char>('a' + t)), bad_first ? infinite + finite : finite + infinite);  // the walk meets them in this order
    }
    EXPECT_NE(sentence_of([&] { backward(losses, {good, bad}); }), "no error");
    EXPECT_FALSE(m.table.gradient().defined() || n.table.gradient().defined());
    for (auto* fork : {&good, &bad}) {
      EXPECT_EQ((*fork)->step(), 0);
      (*fork)->fields([](const char*, Tensor& calls) { EXPECT_FALSE(calls.defined()); });
    }
  }
}

TEST_F(Refusal, ForksWithoutLookupsOrCores) {
  const Small m;
  GradientFork<Sum> fork(m.tasks);
  EXPECT_TRUE(contains(sentence_of([&] { fork->split(std::vector<Lookup>{}); }), "at least one lookup"));
  EXPECT_TRUE(contains(sentence_of([&] { fork->split(Tensor()); }), "undefined"));
  GradientFork<CoreTask> coreless(TaskSet{binary("a"), binary("b"), binary("c")});
  EXPECT_TRUE(contains(sentence_of([&] { backward(m.losses(coreless->split(m.look())), coreless); }), "expected at least one core task"));
  const auto views = fork->split(at::ones({4, 6}, at::kDouble).requires_grad_() * 1.0);
  EXPECT_TRUE(contains(sentence_of([&] { backward(m.losses(views), fork, {.accumulate = true}); }), "belong to their own batch", "name what is shared"));
  EXPECT_TRUE(contains(sentence_of([&] { RowTable(m.table.weight() * 2.0, "half"); }), "leaf"));
}

TEST_F(Backward, AsksAMethodOnceAStepAndKeepsItsMemory) {
  const Small m;
  GradientFork<Counting> fork(m.tasks);
  for (int step = 1; step <= 3; ++step) {
    backward(m.losses(fork->split(m.look())), fork);
    fork->fields([&](const char* name, Tensor& field) {
      EXPECT_STREQ(name, "calls");
      EXPECT_EQ(field.item<double>(), step);
    });
    EXPECT_EQ(fork->step(), step);
  }
}

TEST_F(Backward, TellsAMethodAllThatItMayRead) {
  const Small m;
  GradientFork<Listening> fork(m.tasks);
  fork->generator() = at::detail::createCPUGenerator(5);
  for (const bool representation : {false, true})
    for (const bool with_active : {true, false}) {
      const int64_t step = fork->step();
      TaskLosses losses = m.losses(representation ? fork->split(at::ones({4, 6}, at::kDouble).requires_grad_() * 1.0) : fork->split(m.look()));
      if (with_active) losses.active = at::tensor({1, 0, 1}, at::kInt).to(at::kBool);
      const GradientReport report = backward(losses, fork);
      const TaskGramian& told = *fork->method().told;
      EXPECT_TRUE(same_bits(told.matrix, report.gramian));
      EXPECT_TRUE(same_bits(told.active, losses.active));
      EXPECT_TRUE(close(told.losses, at::stack({losses["a"], losses["b"], losses["c"]})));
      EXPECT_EQ(told.cores, (std::vector<int64_t>{2}));
      EXPECT_EQ(told.cores_after, (std::vector<std::vector<int64_t>>{{2}, {2}, {}}));
      EXPECT_EQ(told.step, step);
      EXPECT_TRUE(told.generator && *told.generator == *fork->generator());
      EXPECT_EQ(fork->step(), step + 1);
    }
}

TEST_F(Backward, SumEqualsPlainBackward) {
  const Small m;
  GradientFork<Sum> fork(m.tasks);
  backward(m.losses(fork->split(m.look())), fork);
  const Tensor forked = dense_gradient(m.table);
  m.table.gradient().clear();
  Lookup look = m.look();
  m.losses({look.values(), look.values(), look.values()}).sum().backward();
  EXPECT_TRUE(close(dense_gradient(m.table), forked));
  EXPECT_TRUE(close(m.dense_gradients().sum(0), forked.flatten()));
}

}  // namespace
