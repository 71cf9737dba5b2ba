// SPDX-License-Identifier: Apache-2.0
// CoreTask: golden numbers, the properties of Algorithm 1, loops against tensors, memory.
#include <htl/gradient/report.hpp>
#include <htl/weighting/core_task.hpp>
#include <htl/weighting/sum.hpp>

#include <support/seeded.hpp>

#include <ATen/ATen.h>

#include <limits>
#include <map>

namespace {

using namespace htl;
using namespace htl::test;
using at::Tensor;

constexpr double infinity = std::numeric_limits<double>::infinity();
using enum NormReference;

static_assert(StatefulWeighting<CoreTask> && GramianWeighting<CoreTask> && !StatelessWeighting<CoreTask>);
static_assert(StatelessWeighting<Sum> && GramianWeighting<Sum> && !StatefulWeighting<Sum>);
static_assert(!GramianWeighting<int>);

TaskGramian gramian_of(const Tensor& g, std::vector<int64_t> cores) { return {.matrix = g.mm(g.t()), .cores = std::move(cores)}; }

Tensor weights_of(const CoreTask& method, const TaskGramian& gramian) {
  CoreTask::State state;
  return method.weights(gramian, state);
}

class CoreTaskTest : public Seeded {};

TEST_F(CoreTaskTest, GivesTheGoldenNumbers) {
  const Tensor j3 = at::tensor({1., 2., -1., 0., -2., 1., .5, 1., .5, -1., 3., -2.}, at::kDouble).view({3, 4});
  const auto expect = [&](const CoreTask& method, int64_t core, const std::vector<double>& golden) {
    EXPECT_TRUE(close(weights_of(method, gramian_of(j3, {core})).matmul(j3), at::tensor(golden, at::kDouble), 0.0, 1e-6));
  };
  expect({.alpha = 0.5, .gamma = 0.1, .clip_ratio = 10.0}, 0, {-.110099, 2.839922, 1.99024, -.931798});
  expect({.alpha = 0.5, .gamma = 0.1, .clip_ratio = 10.0}, 2, {-.418567, 1.900586, 3.247281, -1.466266});
  expect({.alpha = 1.0, .gamma = 0.1, .clip_ratio = 10.0}, 2, {-.289252, 1.641955, 4.023175, -1.983528});
  expect({.alpha = 0.5, .gamma = 0.1, .clip_ratio = 10.0, .norm = after_projection}, 2, {-.409581, 1.933523, 3.242107, -1.467853});
  expect({.alpha = 0.5, .gamma = 0.1, .clip_ratio = 10.0, .norm = after_projection}, 0, {-.104748, 2.838522, 2.00785, -.944883});
  const CoreTask half{.alpha = 0.5, .gamma = 0.1, .clip_ratio = 10.0};
  const auto part = [&](int64_t first) {  // each half of the columns adjusted for itself, as a table of its own would be
    const Tensor columns = j3.slice(1, first, first + 2);
    return weights_of(half, gramian_of(columns, {2})).matmul(columns);
  };
  EXPECT_TRUE(close(at::cat({part(0), part(2)}), at::tensor({.215, .52, 2.857564, -1.115426}, at::kDouble), 0.0, 1e-6));
  // the inner steps against core 2: what the projection leaves of tasks 0 and 1, and their ratios of norms
  const Tensor adjusted = (weights_of(half, gramian_of(j3, {2})).slice(0, 0, 2) - 0.9) / 0.1;
  EXPECT_TRUE(close(adjusted, at::tensor({1.541104, 1.509967}, at::kDouble), 0.0, 1e-6));
  const std::vector<std::vector<double>> projected = {{1.078947, 1.842105, -.526316, -.315789}, {-1.95614, .912281, .763158, .824561}};
  for (int64_t t = 0; t < 2; ++t) {
    const Tensor pair = j3.index_select(0, at::tensor({t, int64_t{2}}));
    const Tensor sum = weights_of({.alpha = 0.5, .gamma = 0.0}, gramian_of(pair, {1})).matmul(pair);
    EXPECT_TRUE(close(sum - pair[1], at::tensor(projected[static_cast<size_t>(t)], at::kDouble), 0.0, 1e-6));
  }
}

TEST_F(CoreTaskTest, WithMovingAveragesGivesTheGoldenNumbersOfMetaBalance) {
  const Tensor j3 = at::tensor({1., 2., -1., 0., -2., 1., .5, 1., .5, -1., 3., -2.}, at::kDouble).view({3, 4});
  const CoreTask method{.alpha = 0.0, .gamma = 0.7, .clip_ratio = infinity, .norm = moving_average, .average_decay = 0.9};
  CoreTask::State state;
  const auto step = [&](const Tensor& g, const std::vector<double>& averages, const std::vector<double>& golden) {
    EXPECT_TRUE(close(method.weights(gramian_of(g, {0}), state).matmul(g), at::tensor(golden, at::kDouble), 0.0, 1e-6));
    for (const int64_t t : {1, 2}) {
      EXPECT_NEAR(state.core_norms[t].item<double>(), averages[0], 1e-6) << "of the core, beside task " << t;
      EXPECT_NEAR(state.task_norms[t].item<double>(), averages[static_cast<size_t>(t)], 1e-6) << "of task " << t;
    }
  };
  step(j3, {.244949, .25, .377492}, {-.594604, 2.231637, 1.755589, -.522583});
  step(j3 * at::tensor({2., 1., 4.}, at::kDouble).unsqueeze(1), {.710352, .475, 1.849709}, {.443979, 3.071538, 5.499306, -3.203758});
}

TEST_F(CoreTaskTest, SumAndReportGiveTheGoldenNumbers) {
  const Tensor j2 = at::tensor({-4., 1., 1., 6., 1., 1.}, at::kDouble).view({2, 3});
  const Tensor j3 = at::tensor({1., 2., -1., 0., -2., 1., .5, 1., .5, -1., 3., -2.}, at::kDouble).view({3, 4});
  EXPECT_TRUE(same_bits(Sum().weights(gramian_of(j2, {})).matmul(j2), at::tensor({2., 2., 2.}, at::kDouble)));
  EXPECT_TRUE(same_bits(Sum().weights(gramian_of(j3, {})).matmul(j3), at::tensor({-.5, 2., 2.5, -1.}, at::kDouble)));
  GradientReport report;
  report.gramian = gramian_of(j3, {}).matrix;
  report.weights = weights_of({.alpha = 0.5, .gamma = 0.1, .clip_ratio = 10.0}, gramian_of(j3, {2}));
  EXPECT_TRUE(close(report.norms().square(), at::tensor({6., 6.25, 14.25}, at::kDouble)));
  const Tensor cosines = report.cosines();
  EXPECT_TRUE(close(at::stack({cosines[0][1], cosines[0][2], cosines[1][2]}), at::tensor({-.081650, -.486664, -.264906}, at::kDouble), 0.0, 1e-6));
  EXPECT_TRUE(close(cosines.diagonal(), at::ones({3}, at::kDouble)));
  EXPECT_TRUE(close(report.combined_norm(), at::tensor({-.418567, 1.900586, 3.247281, -1.466266}, at::kDouble).norm(), 0.0, 2e-6));
}

/// Random gradients of 2…6 tasks with all kinds of trouble.
Tensor random_gradients(Random& random) {
  const int64_t tasks = random.integer(2, 6);
  Tensor g = random.normal({tasks, random.integer(1, 8)});
  for (int64_t t = 0; t < tasks; ++t) g[t].mul_(std::pow(10.0, random.pick<double>({0.0, 0.0, 0.0, -3.0, 3.0, -8.0})));
  if (random.chance(0.15)) g[0].zero_();
  if (random.chance(0.15)) g[tasks - 1].zero_();
  if (random.chance(0.2)) g[0].copy_(g[tasks - 1] * -random.pick<double>({1.0, 0.5, 1e-7, 1e7}));
  if (random.chance(0.1) && tasks > 2) g[1].copy_(-g[tasks - 1]);
  return g;
}

CoreTask random_method(Random& random) {
  return {.alpha = random.pick<double>({0.0, 0.5, 1.0, 2.0}),
          .gamma = random.pick<double>({0.0, 0.5, 1.0}),
          .clip_ratio = random.pick<double>({1.0, 3.0, 100.0, infinity}),
          .norm = random.pick<NormReference>({before_projection, after_projection, moving_average}),
          .several_cores = random.pick<SeveralCores>({SeveralCores::combined, SeveralCores::own}),
          .average_decay = random.pick<double>({0.0, 0.9})};
}

TEST_F(CoreTaskTest, LoopsEqualTensors) {
  Random random(31);
  for (int repetition = 0; repetition < 2000; ++repetition) {
    SCOPED_TRACE(repetition);
    Tensor g = random_gradients(random);
    const int64_t tasks = g.size(0);
    std::vector<int64_t> cores = {random.integer(0, tasks - 1)};
    if (random.chance(0.4) && cores[0] > 0) cores.insert(cores.begin(), random.integer(0, cores[0] - 1));
    TaskGramian gramian = gramian_of(g, cores);
    if (random.chance(0.7))
      for (int64_t t = 0; t < tasks; ++t) {
        std::vector<int64_t> after;
        for (const int64_t c : cores)
          if (c > t && random.chance(0.7)) after.push_back(c);
        gramian.cores_after.push_back(after);
      }
    const CoreTask method = random_method(random);
    CoreTask::State loops, tensors;
    for (int step = 0; step < 3; ++step) {
      if (random.chance(0.5)) gramian.active = random.mask({tasks}, 0.7);
      const Tensor mine = method.weights(gramian, loops);
      if (!tensors.core_norms.defined() && loops.core_norms.defined()) {
        tensors.core_norms = at::zeros({tasks}, at::kDouble);
        tensors.task_norms = at::zeros({tasks}, at::kDouble);
      }
      const Tensor theirs = method.weights_by_tensors(gramian, tensors);
      ASSERT_TRUE(at::isfinite(mine).all().item<bool>());
      ASSERT_TRUE(close(mine, theirs, 1e-13, 1e-14));
      if (loops.core_norms.defined()) {
        ASSERT_TRUE(close(loops.core_norms, tensors.core_norms, 1e-14, 0.0));
        ASSERT_TRUE(close(loops.task_norms, tensors.task_norms, 1e-14, 0.0));
      }
      gramian.matrix = gramian.matrix * random.real(0.5, 2.0);
    }
  }
}

TEST_F(CoreTaskTest, NoTaskOpposesTheCoreAfterFullProjection) {
  Random random(32);
  int64_t conflicts = 0;
  for (int repetition = 0; repetition < 500; ++repetition) {
    const Tensor g = random.normal({3, 5}), k = g.mm(g.t());
    for (const NormReference norm : {before_projection, after_projection}) {
      const CoreTask method{.alpha = 1.0, .gamma = random.real(), .norm = norm};
      for (const int64_t task : {0, 1}) {  // one task and the core, so that the weights say what became of it
        const Tensor pair = g.index_select(0, at::tensor({task, int64_t{2}})), w = weights_of(method, gramian_of(pair, {1}));
        const Tensor adjusted = w.matmul(pair) - pair[1];
        EXPECT_GE(adjusted.dot(pair[1]).item<double>(), -1e-12 * (adjusted.norm() * pair[1].norm()).item<double>());
        conflicts += k[task][2].item<double>() < 0.0;
      }
    }
  }
  EXPECT_GT(conflicts, 300);
}

TEST_F(CoreTaskTest, FullAdaptionWithoutClipGivesEqualNorms) {
  Random random(33);
  int64_t different = 0;
  for (int repetition = 0; repetition < 500; ++repetition) {
    const Tensor g = random.normal({2, 4});
    const double core = g[1].norm().item<double>();
    const auto norm_of_task = [&](NormReference norm) {
      const CoreTask method{.alpha = 1.0, .gamma = 1.0, .clip_ratio = infinity, .norm = norm};
      return (weights_of(method, gramian_of(g, {1})).matmul(g) - g[1]).norm().item<double>();
    };
    const bool conflict = g[0].dot(g[1]).item<double>() < 0.0;
    EXPECT_NEAR(norm_of_task(after_projection), core, 1e-10 * core);
    if (!conflict) {
      EXPECT_NEAR(norm_of_task(before_projection), core, 1e-12 * core);
    }
    different += conflict && norm_of_task(before_projection) < 0.999 * core;
  }
  EXPECT_GT(different, 100) << "before and after must differ where gradients conflict";
}

TEST_F(CoreTaskTest, WithoutProjectionAndAdaptionIsThePlainSum) {
  Random random(34);
  for (int repetition = 0; repetition < 100; ++repetition) {
    const Tensor g = random_gradients(random);
    for (const NormReference norm : {before_projection, after_projection, moving_average}) {
      const TaskGramian gramian = gramian_of(g, {g.size(0) - 1});
      EXPECT_TRUE(same_bits(weights_of({.alpha = 0.0, .gamma = 0.0, .norm = norm}, gramian), Sum().weights(gramian)));
    }
  }
}

TEST_F(CoreTaskTest, AntiparallelAndZeroGradientsHaveTheirDefinedWeights) {
  const auto weights = [](double task, double core, const CoreTask& method) {
    const Tensor g = at::tensor({task, core}, at::kDouble).view({2, 1}), w = weights_of(method, gramian_of(g, {1}));
    return std::pair(w[0].item<double>(), w[1].item<double>());
  };
  using Pair = std::pair<double, double>;
  const CoreTask half{.alpha = 1.0, .gamma = 0.5, .clip_ratio = 100.0}, half_after{.alpha = 1.0, .gamma = 0.5, .clip_ratio = 100.0, .norm = after_projection};
  EXPECT_EQ(weights(-1.0, 1.0, half), Pair(1.0, 2.0));                                                                            // ratio 1, whole projection
  EXPECT_EQ(weights(-1.0, 1.0, half_after), Pair(50.5, 51.5));                                                                    // cancelled: ratio C
  EXPECT_EQ(weights(-1.0, 1.0, {.alpha = 1.0, .gamma = 0.5, .clip_ratio = infinity, .norm = after_projection}), Pair(1.0, 2.0));  // … or 1
  EXPECT_EQ(weights(0.0, 1.0, half), Pair(1.0, 1.0));
  EXPECT_EQ(weights(0.0, 1.0, half_after), Pair(1.0, 1.0));
  EXPECT_EQ(weights(1.0, 0.0, half), Pair(1.0, 1.0));
  EXPECT_EQ(weights(0.0, 0.0, half), Pair(1.0, 1.0));
  EXPECT_EQ(weights(1.0, 1000.0, half), Pair(50.5, 1.0));                    // upper end of the clip
  EXPECT_EQ(weights(1000.0, 1.0, half), Pair(0.5 * 0.01 + 1.0 - 0.5, 1.0));  // lower end
  EXPECT_EQ(weights(1.0, 4.0, half), Pair(2.5, 1.0));
}

TEST_F(CoreTaskTest, SeveralCoresAreCombinedOrEachTasksOwn) {
  const Tensor g = at::tensor({1., 0., -1., 1., 3., 0., 0., -2.}, at::kDouble).view({4, 2});  // tasks 0, 1; cores 2 = (3, 0), 3 = (0, −2)
  TaskGramian gramian = gramian_of(g, {2, 3});
  gramian.cores_after = {{2}, {2, 3}, {3}, {}};
  const CoreTask combined{.alpha = 1.0, .gamma = 0.0}, own{.alpha = 1.0, .gamma = 0.0, .several_cores = SeveralCores::own};
  // combined core (3, −2): task 0 agrees, task 1 has −5 of 13
  EXPECT_TRUE(close(weights_of(combined, gramian), at::tensor({1.0, 1.0, 1.0 + 5.0 / 13.0, 1.0 + 5.0 / 13.0}, at::kDouble)));
  // own: task 0 against core 2 agrees; task 1 against both
  EXPECT_TRUE(close(weights_of(own, gramian), at::tensor({1.0, 1.0, 1.0 + 5.0 / 13.0, 1.0 + 5.0 / 13.0}, at::kDouble)));
  gramian.cores_after = {{2}, {2}, {3}, {}};  // task 1 only against core 2: −3 of 9
  EXPECT_TRUE(close(weights_of(own, gramian), at::tensor({1.0, 1.0, 1.0 + 1.0 / 3.0, 1.0}, at::kDouble)));
  gramian.cores_after = {{}, {}, {}, {}};  // they precede none
  EXPECT_TRUE(close(weights_of(own, gramian), at::ones({4}, at::kDouble)));
  const Tensor opposed = at::tensor({0.3, 1.1, -0.7 * 3, 0.2, 0.7 * 3, -0.2}, at::kDouble).view({3, 2});  // cores that cancel each other
  TaskGramian nothing = gramian_of(opposed, {1, 2});
  nothing.matrix[2][2].mul_(1.0 + 1e-15);
  for (const NormReference norm : {before_projection, after_projection}) EXPECT_TRUE(close(weights_of({.norm = norm}, nothing), at::ones({3}, at::kDouble)));
}

TEST_F(CoreTaskTest, MovingAveragesFollowTheActiveStepsOnly) {
  const CoreTask method{.alpha = 0.0, .gamma = 1.0, .clip_ratio = infinity, .norm = moving_average, .average_decay = 0.5};
  CoreTask::State state;
  const auto step = [&](double task, double core, bool active) {
    TaskGramian gramian = gramian_of(at::tensor({task, core}, at::kDouble).view({2, 1}), {1});
    gramian.active = at::tensor({active ? 1 : 0, 1}, at::kInt).to(at::kBool);
    return method.weights(gramian, state)[0].item<double>();
  };
  EXPECT_NEAR(step(2.0, 6.0, true), 3.0, 1e-15);            // averages 1 and 3
  EXPECT_NEAR(step(5.0, 1.0, true), 2.0 / 3.0, 1e-15);      // 3 and 2
  EXPECT_NEAR(step(0.0, 1000.0, false), 2.0 / 3.0, 1e-15);  // stands still
  EXPECT_NEAR(step(1.0, 0.0, true), 2.0 / 3.0, 1e-15);      // no core gradient: stands still
  EXPECT_NEAR(step(1.0, 4.0, true), 3.0 / 2.0, 1e-15);      // 2 and 3
  EXPECT_EQ(state.core_norms[1].item<double>(), 0.0);
  // masks and loaded averages of any stride mean the same
  const CoreTask::State before{state.core_norms.clone(), state.task_norms.clone()};
  const double plain = step(3.0, 5.0, true);
  const auto strided = [](const Tensor& t) { return at::stack({t, at::ones_like(t)}, 1).select(1, 0); };
  CoreTask::State loaded{strided(before.core_norms), strided(before.task_norms)};
  TaskGramian gramian = gramian_of(at::tensor({3.0, 5.0}, at::kDouble).view({2, 1}), {1});
  gramian.active = at::tensor({1, 0, 1, 1}, at::kInt).to(at::kBool).view({2, 2}).select(1, 0);
  EXPECT_EQ(method.weights(gramian, loaded)[0].item<double>(), plain);
  gramian.active = at::tensor({0, 1, 1, 1}, at::kInt).to(at::kBool).view({2, 2}).select(1, 0);
  const Tensor standing = loaded.task_norms.clone();
  method.weights(gramian, loaded);
  EXPECT_TRUE(same_bits(loaded.task_norms, standing));
}

TEST_F(CoreTaskTest, StateNamesItsFieldsAndContinuesFromThem) {
  Random random(35);
  const CoreTask method{.norm = moving_average};
  CoreTask::State state, restored;
  const Tensor g = random.normal({3, 4});
  method.weights(gramian_of(g, {2}), state);
  std::map<std::string, Tensor> saved;
  state.fields([&](const char* name, Tensor& field) { saved[name] = field.clone(); });
  ASSERT_EQ(saved.size(), 2U);
  restored.fields([&](const char* name, Tensor& field) { field = saved.at(name); });
  const TaskGramian next = gramian_of(random.normal({3, 4}), {2});
  EXPECT_TRUE(same_bits(method.weights(next, state), method.weights(next, restored)));
  EXPECT_TRUE(contains(sentence_of([&] { method.weights(gramian_of(random.normal({2, 4}), {1}), state); }), "[3] tasks, this batch has 2"));
}

TEST_F(CoreTaskTest, IgnoresScale) {
  Random random(36);
  for (int repetition = 0; repetition < 200; ++repetition) {
    const Tensor g = random_gradients(random);
    CoreTask method = random_method(random);
    const TaskGramian gramian = gramian_of(g, {g.size(0) - 1});
    const Tensor w = weights_of(method, gramian);
    for (const double scale : {0x1p130, 0x1p-130}) {
      TaskGramian scaled = gramian;
      scaled.matrix = gramian.matrix * scale;
      EXPECT_TRUE(close(weights_of(method, scaled), w, 1e-13, 0.0));
    }
  }
}

TEST_F(CoreTaskTest, TakesTheCoreThatTheOptionNames) {
  Random random(37);
  for (const NormReference norm : {before_projection, after_projection, moving_average}) {
    TaskGramian gramian = gramian_of(random.normal({3, 4}), {2});
    const Tensor reference = weights_of({.norm = norm}, gramian);
    for (const std::vector<int64_t>& others : {std::vector<int64_t>{}, {0}, {0, 1}}) {
      gramian.cores = others;
      gramian.cores_after = {{}, {0}, {}};
      EXPECT_TRUE(same_bits(weights_of({.norm = norm, .several_cores = SeveralCores::own, .core = 2}, gramian), reference));
    }
  }
}

TEST_F(CoreTaskTest, RefusesBadOptionsAndMissingCores) {
  const TaskGramian good = gramian_of(at::eye(2, at::kDouble), {1}), coreless = gramian_of(at::eye(2, at::kDouble), {});
  EXPECT_TRUE(contains(sentence_of([&] { weights_of({}, coreless); }), "expected at least one core task"));
  EXPECT_TRUE(contains(sentence_of([&] { weights_of({.alpha = -1.0}, good); }), "alpha ≥ 0, got -1"));
  EXPECT_TRUE(contains(sentence_of([&] { weights_of({.alpha = infinity}, good); }), "finite alpha"));
  EXPECT_TRUE(contains(sentence_of([&] { weights_of({.gamma = 1.5}, good); }), "gamma in [0, 1], got 1.5"));
  EXPECT_TRUE(contains(sentence_of([&] { weights_of({.gamma = std::nan("")}, good); }), "gamma in [0, 1], got nan"));
  EXPECT_TRUE(contains(sentence_of([&] { weights_of({.clip_ratio = 0.5}, good); }), "clip_ratio ≥ 1, got 0.5"));
  EXPECT_TRUE(contains(sentence_of([&] { weights_of({.average_decay = 1.0}, good); }), "average_decay in [0, 1), got 1"));
  for (const int64_t wrong : {-1, 2})
    EXPECT_TRUE(contains(sentence_of([&] { weights_of({.core = wrong}, good); }), "core in 0 … 1, got " + std::to_string(wrong)));
}

}  // namespace
