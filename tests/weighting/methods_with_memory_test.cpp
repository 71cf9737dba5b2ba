// SPDX-License-Identifier: Apache-2.0
// MetaBalance, GradNorm and FAMO: golden numbers, plain loops over many steps, inactive tasks, memory.
#include <htl/weighting/apply.hpp>
#include <htl/weighting/core_task.hpp>
#include <htl/weighting/famo.hpp>
#include <htl/weighting/gradnorm.hpp>
#include <htl/weighting/metabalance.hpp>

#include <support/seeded.hpp>

#include <limits>
#include <map>
#include <numeric>

namespace {

using namespace htl;
using namespace htl::test;
using at::Tensor;

constexpr double infinity = std::numeric_limits<double>::infinity();

static_assert(GramianWeighting<MetaBalance> && GramianWeighting<GradNorm> && GramianWeighting<FAMO>);
static_assert(LossObserver<FAMO> && !LossObserver<GradNorm>);

Tensor row(std::initializer_list<double> values) { return at::tensor(std::vector<double>(values), at::kDouble); }
Tensor mask(std::initializer_list<int> values) { return at::tensor(std::vector<int>(values), at::kInt).to(at::kBool); }
Tensor j3() { return row({1., 2., -1., 0., -2., 1., .5, 1., .5, -1., 3., -2.}).view({3, 4}); }
TaskGramian gramian_of(const Tensor& j, const Tensor& losses = {}) { return {.matrix = j.mm(j.t()), .cores = {0}, .losses = losses}; }
std::vector<double> numbers(const Tensor& tensor) { return {tensor.const_data_ptr<double>(), tensor.const_data_ptr<double>() + tensor.numel()}; }
bool is_active(const TaskGramian& gramian, int64_t t) { return !gramian.active.defined() || gramian.active[t].item<bool>(); }

::testing::AssertionResult golden(const Tensor& result, std::initializer_list<double> values) { return close(result, row(values), 0.0, 1e-6); }

template <class State>
std::map<std::string, Tensor> saved(State& state) {
  std::map<std::string, Tensor> result;
  state.fields([&](const char* name, Tensor& field) { result[name] = field.clone(); });
  return result;
}
/// A state from saved fields, in another type and stride than they had, as a file may give them.
template <class State>
State loaded(const std::map<std::string, Tensor>& fields) {
  State result;
  result.fields([&](const char* name, Tensor& field) { field = at::stack({fields.at(name), fields.at(name)}, -1).select(-1, 1); });
  return result;
}

/// Five steps with tasks that come and go; `each` sees every step.
template <class Each>
void steps(Random& random, int64_t tasks, Each&& each) {
  for (int step = 0; step < 5; ++step) {
    TaskGramian gramian = gramian_of(random.normal({tasks, 5}) * at::pow(10.0, random.uniform({tasks, 1}, -3.0, 3.0)), random.uniform({tasks}, 0.1, 3.0));
    if (random.chance(0.6)) gramian.active = random.mask({tasks}, 0.7);
    if (gramian.active.defined()) {
      gramian.matrix = gramian.matrix * gramian.active * gramian.active.unsqueeze(1);
      gramian.losses = gramian.losses.masked_fill(gramian.active.logical_not(), std::numeric_limits<double>::quiet_NaN());
    }
    each(gramian);
  }
}

class MethodsWithMemoryTest : public Seeded {};

// ------------------------------------------------------------------------------------------------------------------------ MetaBalance

TEST_F(MethodsWithMemoryTest, MetaBalanceGivesTheGoldenNumbers) {
  MetaBalance::State state;
  EXPECT_TRUE(golden(weights(MetaBalance{.core = 0}, gramian_of(j3()), state).matmul(j3()), {-.594604, 2.231637, 1.755589, -.522583}));
  EXPECT_TRUE(golden(state.norms, {.244949, .25, .377492}));
  const Tensor next = j3() * row({2., 1., 4.}).unsqueeze(1);
  EXPECT_TRUE(golden(weights(MetaBalance{.core = 0}, gramian_of(next), state).matmul(next), {.443979, 3.071538, 5.499306, -3.203758}));
  EXPECT_TRUE(golden(state.norms, {.710352, .475, 1.849709}));
  MetaBalance::State left, right;  // each half of the columns by itself
  const Tensor halves = at::cat({weights(MetaBalance{}, gramian_of(j3().slice(1, 0, 2)), left).matmul(j3().slice(1, 0, 2)),
                                 weights(MetaBalance{}, gramian_of(j3().slice(1, 2, 4)), right).matmul(j3().slice(1, 2, 4))});
  EXPECT_TRUE(golden(halves, {-.15, 1.3, .945485, -.062191}));
  EXPECT_TRUE(golden(left.norms, {.223607, .223607, .111803}));
  EXPECT_TRUE(golden(right.norms, {.1, .111803, .360555}));
}

TEST_F(MethodsWithMemoryTest, MetaBalanceEqualsPlainLoops) {
  Random random(81);
  for (int repetition = 0; repetition < 200; ++repetition) {
    SCOPED_TRACE(repetition);
    const int64_t tasks = random.integer(1, 6);
    const MetaBalance method{.relax = random.real(), .beta = random.pick<double>({0.0, 0.5, 0.9})};
    std::vector<int64_t> cores = {random.integer(0, tasks - 1)};
    if (random.chance(0.4) && cores[0] > 0) cores.insert(cores.begin(), 0);
    MetaBalance::State state;
    std::vector<double> norms(static_cast<size_t>(tasks), 0.0);
    double core = 0.0;
    steps(random, tasks, [&](TaskGramian gramian) {
      gramian.cores = cores;
      double square = 0.0;
      bool any = false;
      for (const int64_t c : cores)
        for (const int64_t d : cores)
          if (is_active(gramian, c) && is_active(gramian, d)) square += gramian.matrix[c][d].item<double>(), any = true;
      if (any) core = method.beta * core + (1 - method.beta) * std::sqrt(std::max(square, 0.0));
      std::vector<double> reference;
      for (int64_t t = 0; t < tasks; ++t) {
        const bool is_core = std::find(cores.begin(), cores.end(), t) != cores.end();
        double& norm = norms[static_cast<size_t>(t)];
        if (!is_core && is_active(gramian, t)) norm = method.beta * norm + (1 - method.beta) * std::sqrt(gramian.matrix[t][t].item<double>());
        const double ratio = core > 0.0 && norm > 0.0 ? core / norm : 1.0;
        reference.push_back(!is_active(gramian, t) ? 0.0 : is_core ? 1.0 : method.relax * ratio + 1 - method.relax);
        if (is_core) norm = core;
      }
      ASSERT_TRUE(close(weights(method, gramian, state), at::tensor(reference, at::kDouble), 1e-12, 0.0));
      ASSERT_TRUE(close(state.norms, at::tensor(norms, at::kDouble), 1e-12, 0.0));
    });
  }
}

TEST_F(MethodsWithMemoryTest, MetaBalanceIsCoreTaskWithMovingAverages) {
  Random random(82);
  const CoreTask adjusted{.alpha = 0.0, .gamma = 0.7, .clip_ratio = infinity, .norm = NormReference::moving_average, .core = 2};
  CoreTask::State its;
  MetaBalance::State mine;
  for (int step = 0; step < 20; ++step) {
    const TaskGramian gramian = gramian_of(random.normal({4, 5}));
    EXPECT_TRUE(close(weights(MetaBalance{.core = 2}, gramian, mine), weights(adjusted, gramian, its), 1e-13, 0.0));
  }
}

TEST_F(MethodsWithMemoryTest, MetaBalanceIsFiniteWhereNormsVanish) {
  MetaBalance::State state;
  Tensor j = j3();
  j[1].zero_();
  EXPECT_EQ(weights(MetaBalance{}, gramian_of(j), state)[1].item<double>(), 1.0);
  state.norms[1] = 1e-310;  // after thousands of steps without a gradient
  EXPECT_EQ(weights(MetaBalance{}, gramian_of(j), state)[1].item<double>(), 1.0);
  MetaBalance::State coreless;
  j[0].zero_();
  EXPECT_TRUE(same_bits(weights(MetaBalance{}, gramian_of(j), coreless), row({1., 1., 1.})));
}

// --------------------------------------------------------------------------------------------------------------------------- GradNorm

TEST_F(MethodsWithMemoryTest, GradNormGivesTheGoldenNumbers) {
  GradNorm::State state;
  state.initial_losses = row({4., .5, 2.});
  EXPECT_TRUE(same_bits(weights(GradNorm{}, gramian_of(j3(), row({2., .5, 1.})), state), row({1., 1., 1.}))) << "the weights before the step";
  EXPECT_TRUE(golden(state.weights, {.968832, 1.096533, .934635}));
  EXPECT_TRUE(same_bits(state.initial_losses, row({4., .5, 2.})));
  EXPECT_TRUE(golden(weights(GradNorm{}, gramian_of(j3(), row({2., .5, 1.})), state), {.968832, 1.096533, .934635}));
}

TEST_F(MethodsWithMemoryTest, GradNormEqualsPlainLoops) {
  Random random(83);
  int64_t moved = 0;
  for (int repetition = 0; repetition < 200; ++repetition) {
    SCOPED_TRACE(repetition);
    const int64_t tasks = random.integer(1, 6);
    const GradNorm method{.alpha = random.pick<double>({0.0, 0.5, 1.5}), .learning_rate = random.pick<double>({1e-4, 0.025})};
    GradNorm::State state;
    std::vector<double> w(static_cast<size_t>(tasks), 1.0), initial(static_cast<size_t>(tasks), 0.0);
    steps(random, tasks, [&](const TaskGramian& gramian) {
      std::vector<size_t> active;
      for (int64_t t = 0; t < tasks; ++t)
        if (is_active(gramian, t)) active.push_back(static_cast<size_t>(t));
      const std::vector<double> losses = numbers(gramian.losses);
      std::vector<double> reference(static_cast<size_t>(tasks), 0.0), norms(reference), relative(reference), next = w;
      double mean_norm = 0.0, mean_relative = 0.0, before = 0.0, after = 0.0;
      for (const size_t t : active) {
        reference[t] = w[t];
        if (initial[t] == 0.0) initial[t] = losses[t];
        norms[t] = std::sqrt(gramian.matrix[static_cast<int64_t>(t)][static_cast<int64_t>(t)].item<double>());
        relative[t] = losses[t] / initial[t];
        mean_norm += w[t] * norms[t] / static_cast<double>(active.size());
        mean_relative += relative[t] / static_cast<double>(active.size());
        before += w[t];
      }
      for (const size_t t : active) {
        const double target = mean_norm * std::pow(relative[t] / mean_relative, method.alpha), difference = w[t] * norms[t] - target;
        const double sign = std::abs(difference) < 1e-12 * target ? 0.0 : difference > 0.0 ? 1.0 : -1.0;
        next[t] = std::max(w[t] - method.learning_rate * sign * norms[t], 1e-3);
        after += next[t];
      }
      for (const size_t t : active) next[t] *= before / after;
      ASSERT_TRUE(close(weights(method, gramian, state), at::tensor(reference, at::kDouble), 1e-12, 0.0));
      if (active.size() != 1) {
        ASSERT_TRUE(close(state.weights, at::tensor(next, at::kDouble), 1e-12, 0.0));
      }
      ASSERT_TRUE(close(state.initial_losses, at::tensor(initial, at::kDouble), 1e-15, 0.0));
      ASSERT_NEAR(state.weights.sum().item<double>(), static_cast<double>(tasks), 1e-12);
      ASSERT_GT(state.weights.min().item<double>(), 0.0);
      moved += active.size() > 1 && std::abs(next[active[0]] - w[active[0]]) > 1e-6;
      w = numbers(state.weights);
    });
  }
  EXPECT_GT(moved, 300);
}

TEST_F(MethodsWithMemoryTest, GradNormEqualsTheDerivativeOfItsLoss) {
  // the paper's gradient: of Σ |w_t ‖g_t‖ − target| with respect to w, by differences
  Random random(84);
  for (int repetition = 0; repetition < 50; ++repetition) {
    const Tensor j = random.normal({4, 6}), losses = random.uniform({4}, 0.5, 2.0);
    GradNorm::State state;
    state.initial_losses = random.uniform({4}, 0.5, 2.0);
    state.weights = random.uniform({4}, 0.5, 1.5);
    state.weights = state.weights * (4.0 / state.weights.sum());
    const Tensor w = state.weights.clone(), norms = j.norm(2, 1), relative = losses / state.initial_losses;
    const Tensor target = (w * norms).mean() * (relative / relative.mean()).pow(1.5);
    const double h = 1e-7;
    std::vector<double> slope;
    for (int64_t t = 0; t < 4; ++t) {
      Tensor up = w.clone(), down = w.clone();
      up[t] += h, down[t] -= h;
      slope.push_back((((up * norms - target).abs().sum() - (down * norms - target).abs().sum()) / (2 * h)).item<double>());
    }
    weights(GradNorm{}, gramian_of(j, losses), state);
    const Tensor next = w - 0.025 * at::tensor(slope, at::kDouble);
    EXPECT_TRUE(close(state.weights, next * 4.0 / next.sum(), 1e-6, 0.0));
  }
}

TEST_F(MethodsWithMemoryTest, GradNormIsFiniteWithLossesOfAnyKind) {
  for (const Tensor& losses : {row({0., 0., 0.}), row({-1., 2., 3.}), row({1e30, 1e-30, 0.}), row({-1., -1., -1.})})
    for (const double scale : {0.0, 1e-20, 1.0, 1e20}) {
      GradNorm::State state;
      for (int step = 0; step < 3; ++step) {
        EXPECT_TRUE(at::isfinite(weights(GradNorm{}, gramian_of(j3() * scale, losses / (step + 1)), state)).all().item<bool>());
        EXPECT_GT(state.weights.min().item<double>(), 0.0);
      }
    }
}

// ------------------------------------------------------------------------------------------------------------------------------- FAMO

TEST_F(MethodsWithMemoryTest, FAMOGivesTheGoldenNumbers) {
  FAMO::State state;
  const FAMO method{.weight_decay = 0.0};
  const Tensor w = weights(method, gramian_of(j3(), row({2., .5, 1.})), state);
  EXPECT_TRUE(golden(w, {.142857, .571429, .285714}));
  method.observe(row({1.8, .52, .7}), state);
  EXPECT_TRUE(golden(state.first / 0.1, {-.011859, -.060053, .071912})) << "the gradient with respect to the logits";
  EXPECT_TRUE(golden(state.logits, {.025, .025, -.025}));
  EXPECT_TRUE(golden(at::softmax(state.logits, 0), {.338842, .338842, .322316}));
  EXPECT_TRUE(same_bits(state.steps, row({1., 1., 1.})));
  const Tensor parts = row({.338842, .338842, .322316}) / row({1.8, .52, .7});
  EXPECT_TRUE(close(weights(method, gramian_of(j3(), row({1.8, .52, .7})), state), parts / parts.sum(), 0.0, 1e-6));
}

TEST_F(MethodsWithMemoryTest, FAMOEqualsPlainLoops) {
  Random random(85);
  for (int repetition = 0; repetition < 200; ++repetition) {
    SCOPED_TRACE(repetition);
    const int64_t tasks = random.integer(1, 6);
    const auto size = static_cast<size_t>(tasks);
    FAMO method{.learning_rate = random.pick<double>({0.025, 0.5}), .weight_decay = random.pick<double>({0.0, 1e-3, 0.1})};
    if (random.chance(0.5)) method.min_losses = numbers(random.uniform({tasks}, -1.0, 0.05));
    if (random.chance(0.5)) method.max_norm = random.pick<double>({0.01, 1.0, 100.0});
    FAMO::State state;
    std::vector<double> logits(size, 0.0), first(size, 0.0), second(size, 0.0), count(size, 0.0);
    const auto least = [&](size_t t) { return method.min_losses.empty() ? 0.0 : method.min_losses[t]; };
    steps(random, tasks, [&](const TaskGramian& gramian) {
      std::vector<size_t> active;
      for (int64_t t = 0; t < tasks; ++t)
        if (is_active(gramian, t)) active.push_back(static_cast<size_t>(t));
      const std::vector<double> before = numbers(gramian.losses), after = numbers(random.uniform({tasks}, 0.1, 3.0));
      std::vector<double> z(size, 0.0), reference(size, 0.0);
      double sum = 0.0, total = 0.0, square = 0.0, mean = 0.0;
      for (const size_t t : active) sum += std::exp(logits[t]);
      for (const size_t t : active) z[t] = std::exp(logits[t]) / sum;
      for (const size_t t : active) total += reference[t] = z[t] / (before[t] - least(t) + 1e-8);
      for (const size_t t : active) reference[t] /= total;
      for (const size_t s : active)
        for (const size_t t : active) square += reference[s] * reference[t] * gramian.matrix[static_cast<int64_t>(s)][static_cast<int64_t>(t)].item<double>();
      if (std::sqrt(square) > method.max_norm)
        for (double& w : reference) w *= method.max_norm / std::sqrt(square);
      ASSERT_TRUE(close(weights(method, gramian, state), at::tensor(reference, at::kDouble), 1e-11, 1e-300));
      if (random.chance(0.2)) return;  // nobody told the losses: no step
      std::vector<double> progress(size, 0.0);
      for (const size_t t : active) mean += z[t] * (progress[t] = std::log(before[t] - least(t) + 1e-8) - std::log(after[t] - least(t) + 1e-8));
      for (const size_t t : active) {
        const double gradient = z[t] * (progress[t] - mean) + method.weight_decay * logits[t];
        first[t] = 0.9 * first[t] + 0.1 * gradient;
        second[t] = 0.999 * second[t] + 0.001 * gradient * gradient;
        count[t] += 1.0;
        logits[t] -= method.learning_rate * first[t] / (1 - std::pow(0.9, count[t])) / (std::sqrt(second[t] / (1 - std::pow(0.999, count[t]))) + 1e-8);
      }
      method.observe(at::tensor(after, at::kDouble), state);
      if (active.size() == 1) {  // its own progress is the mean: what Adam makes of the rounding is of no use to anybody
        logits = numbers(state.logits), first = numbers(state.first), second = numbers(state.second);
        return;
      }
      ASSERT_TRUE(close(state.logits, at::tensor(logits, at::kDouble), 0.0, 1e-9));
      ASSERT_TRUE(close(state.steps, at::tensor(count, at::kDouble), 0.0, 0.0));
    });
  }
}

TEST_F(MethodsWithMemoryTest, FAMOMovesWeightToTheTaskThatLags) {
  FAMO::State state;
  const FAMO method{.weight_decay = 0.0};
  Tensor losses = row({1., 1., 1.});
  for (int step = 0; step < 200; ++step) {
    weights(method, gramian_of(j3(), losses), state);
    losses = losses * row({.99, .999, .99});
    method.observe(losses, state);
  }
  const Tensor z = at::softmax(state.logits, 0);
  EXPECT_GT(z[1].item<double>(), 0.9);
  EXPECT_NEAR(z[0].item<double>(), z[2].item<double>(), 1e-9);
}

TEST_F(MethodsWithMemoryTest, FAMOLimitsTheNormAndIsFiniteWithLossesOfAnyKind) {
  for (const Tensor& losses : {row({0., 0., 0.}), row({-1., 2., 3.}), row({1e30, 1e-30, 0.})})
    for (const double scale : {0.0, 1e-20, 1.0, 1e20}) {
      FAMO::State state;
      const FAMO method{.max_norm = 0.5};
      for (int step = 0; step < 3; ++step) {
        const Tensor w = weights(method, gramian_of(j3() * scale, losses), state);
        EXPECT_TRUE(at::isfinite(w).all().item<bool>());
        EXPECT_LE(w.matmul(j3() * scale).norm().item<double>(), 0.5 * (1.0 + 1e-12));
        method.observe(losses * -0.5, state);
        EXPECT_TRUE(at::isfinite(state.logits).all().item<bool>());
      }
    }
  EXPECT_NEAR(weights(FAMO{.max_norm = 0.5}, gramian_of(j3() * 1e20, row({1., 1., 1.}))).matmul(j3() * 1e20).norm().item<double>(), 0.5, 1e-12);
}

// ------------------------------------------------------------------------------------------------------------------- memory, mistakes

TEST_F(MethodsWithMemoryTest, LoopsEqualTensors) {
  Random random(87);
  const auto compare = [&](const auto& method, int64_t tasks, const std::vector<int64_t>& cores) {
    typename std::decay_t<decltype(method)>::State loops, tensors;
    bool started = false;
    steps(random, tasks, [&](TaskGramian gramian) {
      gramian.cores = cores;
      const Tensor mine = method.weights(gramian, loops);
      if (!started) {  // as `weights` prepares it
        started = true;
        tensors.fields([&](const char* name, Tensor& field) {
          field = std::string(name) == "weights" ? at::ones({tasks}, at::kDouble) : at::zeros({tasks}, at::kDouble);
        });
      }
      ASSERT_TRUE(close(mine, method.weights_by_tensors(gramian, tensors), 1e-12, 0.0));
      for (const auto& [name, field] : saved(loops)) ASSERT_TRUE(close(field, saved(tensors).at(name), 1e-12, 0.0)) << name;
    });
  };
  for (int repetition = 0; repetition < 200; ++repetition) {
    SCOPED_TRACE(repetition);
    const int64_t tasks = random.integer(1, 6);
    std::vector<int64_t> cores = {random.integer(0, tasks - 1)};
    if (random.chance(0.4) && cores[0] > 0) cores.insert(cores.begin(), 0);
    compare(MetaBalance{.relax = random.real(), .beta = random.pick<double>({0.0, 0.9})}, tasks, cores);
    compare(GradNorm{.alpha = random.pick<double>({0.0, 1.5}), .learning_rate = random.pick<double>({1e-4, 0.025})}, tasks, {});
  }
}

template <class M>
void continues(const M& method, size_t fields) {
  Random random(86);
  typename M::State state;
  const auto next = [&](const TaskGramian& gramian, typename M::State& memory, const Tensor& after) {
    const Tensor w = weights(method, gramian, memory);
    if constexpr (LossObserver<M>) method.observe(after, memory);
    return w;
  };
  const auto problem = [&] { return gramian_of(random.normal({3, 4}), random.uniform({3}, 0.5, 2.0)); };
  next(problem(), state, random.uniform({3}, 0.5, 2.0));
  const std::map<std::string, Tensor> fields_now = saved(state);
  EXPECT_EQ(fields_now.size(), fields);
  auto restored = loaded<typename M::State>(fields_now);
  for (int step = 0; step < 3; ++step) {
    const TaskGramian gramian = problem();
    const Tensor after = random.uniform({3}, 0.5, 2.0);
    EXPECT_TRUE(same_bits(next(gramian, state, after), next(gramian, restored, after)));
  }
  for (const auto& [name, field] : saved(state)) EXPECT_TRUE(same_bits(field, saved(restored).at(name))) << name;
  const std::string sentence = sentence_of([&] { weights(method, gramian_of(random.normal({2, 4}), row({1., 1.})), state); });
  EXPECT_TRUE(contains(sentence, "made for [3] tasks, this batch has 2; forget it"));
  // a memory is where it was left for inactive tasks
  TaskGramian nobody = problem();
  nobody.active = mask({0, 0, 0});
  const std::map<std::string, Tensor> before = saved(state);
  EXPECT_TRUE(same_bits(next(nobody, state, row({1., 2., 3.})), row({0., 0., 0.})));
  for (const auto& [name, field] : saved(state))
    if (name != "active" && name != "log_before") {
      EXPECT_TRUE(same_bits(field, before.at(name))) << name;
    }
}

TEST_F(MethodsWithMemoryTest, ContinueFromTheirFields) {
  continues(MetaBalance{}, 1);
  continues(GradNorm{}, 2);
  continues(FAMO{.max_norm = 0.1}, 6);
}

TEST_F(MethodsWithMemoryTest, RefuseBadOptionsAndMissingLosses) {
  const TaskGramian good = gramian_of(j3(), row({1., 1., 1.})), lossless = gramian_of(j3()), short_of_one = gramian_of(j3(), row({1., 1.}));
  TaskGramian coreless = good;
  coreless.cores.clear();
  const auto says = [&](const auto& method, const TaskGramian& gramian, const char* part) {
    EXPECT_TRUE(contains(sentence_of([&] { weights(method, gramian); }), part));
  };
  says(MetaBalance{}, coreless, "htl::MetaBalance: expected a core task, got none; mark one with .core(), or set .core");
  says(MetaBalance{.core = 3}, good, "htl::MetaBalance: expected core in 0 … 2, got 3");
  says(MetaBalance{.core = -1}, good, "htl::MetaBalance: expected core in 0 … 2, got -1");
  says(MetaBalance{.relax = 1.1}, good, "relax in [0, 1], got 1.1");
  says(MetaBalance{.beta = 1.0}, good, "beta in [0, 1), got 1");
  EXPECT_TRUE(same_bits(weights(MetaBalance{.core = 1}, coreless), weights(MetaBalance{.core = 1}, good)));
  says(GradNorm{}, lossless, "htl::GradNorm: expected the tasks' losses in TaskGramian::losses, got none");
  says(GradNorm{}, short_of_one, "htl::GradNorm: expected the losses of shape [3], got [2]");
  says(GradNorm{.alpha = -1.0}, good, "alpha ≥ 0, got -1");
  says(GradNorm{.learning_rate = infinity}, good, "learning_rate ≥ 0, got inf");
  says(FAMO{}, lossless, "htl::FAMO: expected the tasks' losses in TaskGramian::losses, got none");
  says(FAMO{}, short_of_one, "htl::FAMO: expected the losses of shape [3], got [2]");
  says(FAMO{.learning_rate = -1.0}, good, "learning_rate ≥ 0, got -1");
  says(FAMO{.weight_decay = std::nan("")}, good, "weight_decay ≥ 0, got nan");
  says(FAMO{.max_norm = 0.0}, good, "max_norm > 0, got 0");
  says(FAMO{.min_losses = {0.0}}, good, "min_losses of 3 tasks or none, got 1");
  says(FAMO{.min_losses = {0.0, infinity, 0.0}}, good, "finite min_losses, got inf");
  FAMO::State fresh, asked;
  EXPECT_TRUE(contains(sentence_of([&] { FAMO{}.observe(row({1.}), fresh); }), "expected weights() before observe()"));
  weights(FAMO{}, good, asked);
  EXPECT_TRUE(contains(sentence_of([&] { FAMO{}.observe(row({1., 1.}), asked); }), "the losses after the step of shape [3], got [2]"));
}

}  // namespace
