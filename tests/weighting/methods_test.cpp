// SPDX-License-Identifier: Apache-2.0
// Methods that need no quadratic program: golden numbers, and the published algorithms on explicit gradients.
#include <htl/weighting/aligned_mtl.hpp>
#include <htl/weighting/apply.hpp>
#include <htl/weighting/config.hpp>
#include <htl/weighting/constant.hpp>
#include <htl/weighting/gradvac.hpp>
#include <htl/weighting/imtlg.hpp>
#include <htl/weighting/krum.hpp>
#include <htl/weighting/mean.hpp>
#include <htl/weighting/pcgrad.hpp>
#include <htl/weighting/random_weighting.hpp>
#include <htl/weighting/sum.hpp>

#include <support/seeded.hpp>

#include <array>
#include <map>
#include <numeric>
#include <set>

namespace {

using namespace htl;
using namespace htl::test;
using at::Tensor;

static_assert(StatelessWeighting<Mean> && StatelessWeighting<Constant> && StatelessWeighting<PCGrad> && StatefulWeighting<IMTLG>);
static_assert(StatelessWeighting<AlignedMTL> && StatefulWeighting<ConFIG> && StatelessWeighting<Krum> && StatelessWeighting<RandomWeighting>);
static_assert(GramianWeighting<GradVac> && StatefulWeighting<GradVac> && !StatelessWeighting<GradVac>);

Tensor row(std::initializer_list<double> values) { return at::tensor(std::vector<double>(values), at::kDouble); }
Tensor j2() { return row({-4., 1., 1., 6., 1., 1.}).view({2, 3}); }
Tensor j3() { return row({1., 2., -1., 0., -2., 1., .5, 1., .5, -1., 3., -2.}).view({3, 4}); }
TaskGramian gramian_of(const Tensor& j) { return {.matrix = j.mm(j.t())}; }
at::Generator seeded(uint64_t seed) { return at::detail::createCPUGenerator(seed); }

::testing::AssertionResult golden(const Tensor& result, std::initializer_list<double> values) { return close(result, row(values), 0.0, 1e-6); }

/// Condition number of the unit gradients.
double condition_of(const Tensor& j) {
  const Tensor values = at::linalg_svdvals(j / j.norm(2, 1, true));
  return (values.max() / values.min()).item<double>();
}

/// Random gradients of 2…7 tasks of very different norms, sometimes more tasks than numbers, zeros, duplicates and opposed ones.
Tensor random_gradients(Random& random, bool degenerate) {
  const int64_t tasks = random.integer(2, 7);
  Tensor j = random.normal({tasks, degenerate ? random.integer(1, 9) : tasks + random.integer(0, 8)});
  if (random.chance(0.5)) j = j * at::pow(10.0, random.uniform({tasks, 1}, -4.0, 4.0));
  if (random.chance(0.3)) j = j + 3.0 * random.normal({1, j.size(1)});
  if (!degenerate) return j;
  if (random.chance(0.3)) j[tasks - 1].copy_(j[random.integer(0, tasks - 2)] * random.pick<double>({1.0, 2.0, -1.0, -3.0}));
  if (random.chance(0.2)) j[0].zero_();
  return j;
}

class MethodsTest : public Seeded {};

TEST_F(MethodsTest, MeanAndConstantGiveTheirWeights) {
  EXPECT_TRUE(same_bits(aggregate(Mean{}, j2()), row({1., 1., 1.})));
  EXPECT_TRUE(golden(aggregate(Mean{}, j3()), {-.166667, .666667, .833333, -.333333}));
  TaskGramian some = gramian_of(j3());
  some.active = at::tensor({1, 0, 1}, at::kInt).to(at::kBool);
  EXPECT_TRUE(same_bits(weights(Mean{}, some), row({.5, 0., .5})));
  some.active.zero_();
  EXPECT_TRUE(same_bits(weights(Mean{}, some), row({0., 0., 0.})));
  EXPECT_TRUE(same_bits(weights(Constant{{2.0, -1.0, 0.5}}, gramian_of(j3())), row({2.0, -1.0, 0.5})));
  EXPECT_TRUE(contains(sentence_of([&] { weights(Constant{{1.0}}, gramian_of(j3())); }), "each of 3 tasks, got 1"));
  EXPECT_TRUE(contains(sentence_of([&] { weights(Constant{{1.0, 2.0, std::nan("")}}, gramian_of(j3())); }), "finite weights, got nan for task 2"));
}

TEST_F(MethodsTest, GiveTheGoldenNumbers) {
  const PCGrad ascending{.order = Order::ascending}, descending{.order = Order::descending};
  EXPECT_TRUE(golden(weights(ascending, gramian_of(j2())), {2.222222, 1.578947}));
  EXPECT_TRUE(golden(aggregate(ascending, j2()), {.584795, 3.80117, 3.80117}));
  EXPECT_TRUE(golden(aggregate(PCGrad{}, j2()), {.584795, 3.80117, 3.80117})) << "two tasks have one order";
  EXPECT_TRUE(golden(weights(ascending, gramian_of(j3())), {1.833333, 1.54, 1.531579}));
  EXPECT_TRUE(golden(aggregate(ascending, j3()), {-.480877, 3.675088, 3.531404, -1.523158}));
  EXPECT_TRUE(golden(weights(descending, gramian_of(j3())), {1.998246, 1.606316, 1.491228}));
  EXPECT_TRUE(golden(aggregate(descending, j3()), {-.468772, 4.111579, 3.278596, -1.37614}));
  EXPECT_TRUE(close(aggregate(PCGrad{.order = Order::ascending, .reduction = Reduction::mean}, j3()) * 3.0, aggregate(ascending, j3())));

  GradVac::State two, three;
  const GradVac vaccine{.order = Order::ascending};
  EXPECT_TRUE(golden(weights(vaccine, gramian_of(j2()), two), {2.222222, 1.578947}));
  EXPECT_TRUE(golden(two.targets[0], {0., -.420596}));
  EXPECT_TRUE(golden(weights(vaccine, gramian_of(j2()), two), {1.857988, 1.406415}));
  EXPECT_TRUE(golden(weights(vaccine, gramian_of(j3()), three), {1.833333, 1.54, 1.531579}));
  EXPECT_TRUE(golden(three.targets.view(-1), {0., -.040825, -.254998, -.040825, 0., -.152832, -.243332, -.174363, 0.}));
  EXPECT_TRUE(golden(weights(vaccine, gramian_of(j3()), three), {1.454024, 1.244795, 1.265599}));

  EXPECT_TRUE(golden(weights(IMTLG{}, gramian_of(j2())), {.59233, .40767}));
  EXPECT_TRUE(golden(aggregate(IMTLG{}, j2()), {.076697, 1., 1.}));
  EXPECT_TRUE(golden(weights(IMTLG{}, gramian_of(j3())), {.404756, .307501, .287743}));
  EXPECT_TRUE(golden(aggregate(IMTLG{}, j3()), {-.066375, .829269, .612225, -.267985}));

  EXPECT_TRUE(golden(weights(AlignedMTL{}, gramian_of(j2())), {1.118144, .816522}));
  EXPECT_TRUE(golden(aggregate(AlignedMTL{}, j2()), {.426557, 1.934666, 1.934666}));
  EXPECT_TRUE(golden(weights(AlignedMTL{}, gramian_of(j3())), {1.118923, .955443, .833329}));
  EXPECT_TRUE(golden(aggregate(AlignedMTL{}, j3()), {-.375297, 2.35996, 1.858784, -.711215}));
  EXPECT_TRUE(golden(weights(AlignedMTL{.scale = AlignedScale::median}, gramian_of(j2())), {1.118144, .816522}));
  EXPECT_TRUE(golden(weights(AlignedMTL{.scale = AlignedScale::median}, gramian_of(j3())), {1.603573, 1.369282, 1.194276}));
  EXPECT_TRUE(golden(weights(AlignedMTL{.scale = AlignedScale::rmse}, gramian_of(j2())), {3.021731, 2.206613}));
  EXPECT_TRUE(golden(weights(AlignedMTL{.scale = AlignedScale::rmse}, gramian_of(j3())), {1.852183, 1.581569, 1.379431}));
  EXPECT_TRUE(close(aggregate(AlignedMTL{.preference = Preference::mean}, j2()), row({.2133, .9673, .9673}), 0.0, 5e-5));

  EXPECT_TRUE(golden(aggregate(ConFIG{}, j2()), {.158809, 2.070607, 2.070607}));
  EXPECT_TRUE(golden(aggregate(ConFIG{}, j3()), {-.203443, 2.541762, 1.876506, -.821392}));

  // distances 0–1: 12.75, 0–2: 29.25, 1–2: 25.5; with T = 3 and f = 0 the nearest one counts
  EXPECT_TRUE(same_bits(weights(Krum{}, gramian_of(j3())), row({1., 0., 0.})));
  EXPECT_TRUE(same_bits(weights(Krum{.selected = 2}, gramian_of(j3())), row({.5, .5, 0.})));
}

// ---------------------------------------------------------------------------------------------------------------- PCGrad and GradVac

using Orders = std::vector<std::vector<int64_t>>;  // for each task the others, as it visits them

Orders orders_of(Order order, const std::vector<int64_t>& given, const Tensor& keys, int64_t tasks) {
  Orders result;
  for (int64_t i = 0; i < tasks; ++i) {
    std::vector<int64_t> visits = given;
    if (order == Order::random) {
      const Tensor sorted = keys[i].argsort();
      for (int64_t j = 0; j < tasks; ++j) visits.push_back(sorted[j].item<int64_t>());
    } else if (order != Order::given) {
      for (int64_t j = 0; j < tasks; ++j) visits.push_back(order == Order::ascending ? j : tasks - 1 - j);
    }
    std::erase(visits, i);
    result.push_back(visits);
  }
  return result;
}

/// Yu et al., Algorithm 1, number by number.
Tensor naive_pcgrad(const Tensor& j, const Orders& orders) {
  Tensor sum = at::zeros({j.size(1)}, at::kDouble);
  for (int64_t i = 0; i < j.size(0); ++i) {
    Tensor own = j[i].clone();
    for (const int64_t other : orders[static_cast<size_t>(i)]) {
      const Tensor product = own.dot(j[other]);
      if (product.item<double>() < 0.0) own = own - product / j[other].dot(j[other]) * j[other];
    }
    sum += own;
  }
  return sum;
}

/// Wang et al., Algorithm 1, number by number.
Tensor naive_gradvac(const Tensor& j, const Orders& orders, double beta, Tensor& targets) {
  Tensor sum = at::zeros({j.size(1)}, at::kDouble);
  for (int64_t i = 0; i < j.size(0); ++i) {
    Tensor own = j[i].clone();
    for (const int64_t other : orders[static_cast<size_t>(i)]) {
      const double norm = own.norm().item<double>(), length = j[other].norm().item<double>();
      const double phi = own.dot(j[other]).item<double>() / norm / length, target = targets[i][other].item<double>();
      if (phi < target)
        own = own + norm * (target * std::sqrt(1 - phi * phi) - phi * std::sqrt(1 - target * target)) / (length * std::sqrt(1 - target * target)) * j[other];
      targets[i][other] = (1 - beta) * target + beta * phi;
    }
    sum += own;
  }
  return sum;
}

double size_of(const Tensor& j) { return j.norm(2, 1).sum().item<double>(); }

TEST_F(MethodsTest, PCGradEqualsProjectionsOfVectors) {
  Random random(71);
  for (int repetition = 0; repetition < 600; ++repetition) {
    SCOPED_TRACE(repetition);
    const Tensor j = random_gradients(random, repetition % 2 == 1);
    const int64_t tasks = j.size(0);
    PCGrad method{.order = random.pick<Order>({Order::ascending, Order::descending, Order::random, Order::given})};
    if (method.order == Order::given) {
      const Tensor permutation = random.permutation(tasks);
      method.given.assign(permutation.const_data_ptr<int64_t>(), permutation.const_data_ptr<int64_t>() + tasks);
    }
    const Tensor keys = at::rand({tasks, tasks}, seeded(static_cast<uint64_t>(repetition)), at::kDouble);
    TaskGramian gramian = gramian_of(j);
    gramian.generator = seeded(static_cast<uint64_t>(repetition));
    const Tensor reference = naive_pcgrad(j, orders_of(method.order, method.given, keys, tasks));
    ASSERT_TRUE(close(weights(method, gramian).matmul(j) / size_of(j), reference / size_of(j), 0.0, 1e-12));
  }
}

TEST_F(MethodsTest, GradVacEqualsItsStepsOnVectors) {
  Random random(72);
  for (int repetition = 0; repetition < 200; ++repetition) {
    SCOPED_TRACE(repetition);
    const GradVac method{.beta = random.pick<double>({0.0, 0.1, 0.5, 1.0}), .order = random.pick<Order>({Order::ascending, Order::descending})};
    const int64_t tasks = random.integer(2, 6);
    const Orders orders = orders_of(method.order, {}, {}, tasks);
    GradVac::State state;
    Tensor targets = at::zeros({tasks, tasks}, at::kDouble);
    const Tensor common = 2.0 * random.normal({1, tasks + 3});  // so that usual angles are not right ones
    for (int step = 0; step < 5; ++step) {
      const Tensor j = (random.normal({tasks, tasks + 3}) + common) * at::pow(10.0, random.uniform({tasks, 1}, -3.0, 3.0));
      const Tensor reference = naive_gradvac(j, orders, method.beta, targets);
      ASSERT_TRUE(close(weights(method, gramian_of(j), state).matmul(j) / size_of(j), reference / size_of(j), 0.0, 1e-10));
      ASSERT_TRUE(close(state.targets, targets, 0.0, 1e-12));
    }
  }
}

TEST_F(MethodsTest, RandomOrdersAreDrawnForEachTask) {
  TaskGramian gramian = gramian_of(j3());
  gramian.generator = seeded(5);
  std::map<int64_t, int64_t> first_components;
  double least = 1.0, most = -1.0;
  for (int repetition = 0; repetition < 800; ++repetition) {
    const double first = weights(PCGrad{}, gramian).matmul(j3())[0].item<double>();
    least = std::min(least, first);
    most = std::max(most, first);
    ++first_components[std::llround(first * 1e9)];
  }
  EXPECT_NEAR(least, -.740526, 1e-6);
  EXPECT_NEAR(most, -.209123, 1e-6);
  EXPECT_EQ(first_components.size(), 8U);  // two orders for each of three tasks
  for (const auto& [value, count] : first_components) EXPECT_NEAR(static_cast<double>(count), 100.0, 40.0);

  gramian.generator = seeded(6);
  GradVac::State state, other;
  const Tensor once = weights(GradVac{}, gramian, state);
  gramian.generator = seeded(6);
  EXPECT_TRUE(same_bits(weights(GradVac{}, gramian, other), once));
  gramian.generator.reset();
  at::manual_seed(3);
  const Tensor by_default = weights(PCGrad{}, gramian);
  at::manual_seed(3);
  EXPECT_TRUE(same_bits(weights(PCGrad{}, gramian), by_default));
}

TEST_F(MethodsTest, GivenOrdersSkipInactiveTasks) {
  Random random(73);
  const Tensor j = random.normal({5, 3});
  TaskGramian gramian = gramian_of(j);
  gramian.active = at::tensor({1, 1, 0, 1, 1}, at::kInt).to(at::kBool);
  const Tensor w = weights(PCGrad{.order = Order::given, .given = {4, 2, 0, 3, 1}}, gramian);
  const Tensor kept = at::tensor({0, 1, 3, 4}, at::kLong);
  EXPECT_TRUE(same_bits(w.index_select(0, kept), weights(PCGrad{.order = Order::given, .given = {3, 0, 2, 1}}, gramian_of(j.index_select(0, kept)))));
  EXPECT_EQ(w[2].item<double>(), 0.0);

  GradVac::State state;
  weights(GradVac{.order = Order::ascending}, gramian, state);
  EXPECT_TRUE(same_bits(state.targets[2], at::zeros({5}, at::kDouble)));
  EXPECT_TRUE(same_bits(state.targets.select(1, 2), at::zeros({5}, at::kDouble)));
  EXPECT_NE(state.targets[3][4].item<double>(), 0.0);
}

TEST_F(MethodsTest, OrdersAreChecked) {
  const TaskGramian gramian = gramian_of(j3());
  for (const std::vector<int64_t>& wrong : {std::vector<int64_t>{}, {0, 1}, {0, 1, 1}, {0, 1, 3}, {-1, 0, 1}}) {
    EXPECT_TRUE(contains(sentence_of([&] { weights(PCGrad{.order = Order::given, .given = wrong}, gramian); }), "htl::PCGrad", "a permutation of 0 … 2"));
    EXPECT_TRUE(contains(sentence_of([&] { weights(GradVac{.order = Order::given, .given = wrong}, gramian); }), "htl::GradVac", "a permutation of 0 … 2"));
  }
  EXPECT_TRUE(contains(sentence_of([&] { weights(PCGrad{.given = {0, 1, 2}}, gramian); }), "but another order"));
  EXPECT_TRUE(contains(sentence_of([&] { weights(GradVac{.beta = 1.5}, gramian); }), "beta in [0, 1], got 1.5"));
}

TEST_F(MethodsTest, GradVacKeepsItsTargetsAndSkipsGradientsWithoutAngle) {
  Random random(74);
  const GradVac method{.order = Order::ascending};
  GradVac::State state, restored;
  weights(method, gramian_of(random.normal({3, 4})), state);
  std::map<std::string, Tensor> saved;
  state.fields([&](const char* name, Tensor& field) { saved[name] = field.clone(); });
  ASSERT_EQ(saved.size(), 1U);
  restored.fields([&](const char* name, Tensor& field) { field = at::stack({saved.at(name), saved.at(name)}, -1).select(-1, 1); });  // of any stride
  const TaskGramian next = gramian_of(random.normal({3, 4}));
  EXPECT_TRUE(same_bits(weights(method, next, state), weights(method, next, restored)));
  EXPECT_TRUE(same_bits(state.targets, restored.targets));
  EXPECT_TRUE(contains(sentence_of([&] { weights(method, gramian_of(j2()), state); }), "made for [3, 3] tasks, this batch has 2"));

  const Tensor before = state.targets.clone();
  Tensor j = random.normal({3, 4});
  j[1].zero_();
  weights(method, gramian_of(j), state);
  EXPECT_TRUE(same_bits(state.targets[1], before[1]));
  EXPECT_FALSE(same_bits(state.targets[0], before[0]));

  // opposed gradients: 0 against 1 is projected to nothing, which has no angle with 2
  GradVac::State fresh;
  const Tensor opposed = row({0.3, 1.1, -0.6, -2.2, 0.7, 0.1}).view({3, 2});
  weights(method, gramian_of(opposed), fresh);
  EXPECT_NEAR(fresh.targets[0][1].item<double>(), -0.5, 1e-15);
  EXPECT_EQ(fresh.targets[0][2].item<double>(), 0.0);

  // a target of 1 (always parallel so far) and a right angle now: turned, but not beyond all measure
  GradVac::State parallel;
  const GradVac follows{.beta = 1.0, .order = Order::ascending};
  weights(follows, gramian_of(row({1., 0., 1., 0.}).view({2, 2})), parallel);
  EXPECT_EQ(parallel.targets[0][1].item<double>(), 1.0);
  const Tensor turned = weights(follows, gramian_of(at::eye(2, at::kDouble)), parallel);
  EXPECT_NEAR(turned[0].item<double>(), 1.0 / std::sqrt(2e-8), 2.0);
}

// ------------------------------------------------------------------------------------------------------------- the spectral methods

TEST_F(MethodsTest, IMTLGHasEqualProjections) {
  Random random(75);
  int64_t compared = 0;
  for (int repetition = 0; repetition < 500; ++repetition) {
    SCOPED_TRACE(repetition);
    const Tensor j = random_gradients(random, false);
    const Tensor norms = j.norm(2, 1), w = weights(IMTLG{}, gramian_of(j));
    const double condition = condition_of(j);
    if (condition > 1e3) continue;
    ++compared;
    const Tensor g = w.matmul(j), projections = j.mv(g) / norms;
    const double size = (w.abs() * norms).sum().item<double>();
    EXPECT_TRUE(close(projections / size, projections.mean().expand_as(projections) / size, 0.0, 1e-15 * condition * condition));
    EXPECT_NEAR(w.sum().item<double>(), 1.0, 1e-12 * w.abs().sum().item<double>());
    // and the formula of K where K itself can be inverted
    const Tensor k = j.mm(j.t());
    if ((norms.max() / norms.min()).item<double>() > 1e2) continue;
    const Tensor v = at::linalg_solve(k, norms.unsqueeze(1)).squeeze(1);
    if ((v.sum().abs() / v.abs().sum()).item<double>() > 1e-3) {
      EXPECT_TRUE(close(w, v / v.sum(), 1e-6, 1e-6));
    }
  }
  EXPECT_GT(compared, 300);
}

TEST_F(MethodsTest, ConFIGAndIMTLGEqualThePseudoInverseOfUnitGradients) {
  Random random(76);
  int64_t singular = 0;
  for (int repetition = 0; repetition < 600; ++repetition) {
    SCOPED_TRACE(repetition);
    const Tensor j = random_gradients(random, repetition % 2 == 1), norms = j.norm(2, 1);
    const Tensor units = j / at::where(norms > 0.0, norms, 1.0).unsqueeze(1);
    const Tensor values = std::get<1>(at::linalg_svd(units)) / std::get<1>(at::linalg_svd(units)).max();
    if (values.gt(1e-12).logical_and(values.lt(1e-3)).any().item<bool>()) continue;  // neither singular nor well-conditioned
    singular += values.lt(1e-12).any().item<bool>() || j.size(0) > j.size(1);
    const Tensor inverse = at::linalg_pinv(units, 1e-6), direction = inverse.mv((norms > 0.0).to(at::kDouble));
    const Tensor w = weights(ConFIG{}, gramian_of(j));
    if (direction.norm().item<double>() < 1e-9) {
      EXPECT_TRUE(same_bits(w, at::zeros_like(w)));
      EXPECT_TRUE(same_bits(weights(IMTLG{}, gramian_of(j)), at::zeros_like(w)));
      continue;
    }
    const Tensor d = direction / direction.norm(), reference = j.mv(d).sum() * d;
    EXPECT_TRUE(close(w.matmul(j) / size_of(j), reference / size_of(j), 0.0, 1e-9));
    const Tensor v = at::where(norms > 0.0, inverse.t().mv(direction) / at::where(norms > 0.0, norms, 1.0), 0.0);
    if ((v.sum().abs() / v.abs().sum()).item<double>() > 1e-3) {
      EXPECT_TRUE(close(weights(IMTLG{}, gramian_of(j)), v / v.sum(), 1e-6, 1e-8));
    }
  }
  EXPECT_GT(singular, 100);
}

TEST_F(MethodsTest, AlignedMTLEqualsTheSingularValueDecomposition) {
  Random random(77);
  int64_t compared = 0, singular = 0;
  for (int repetition = 0; repetition < 600; ++repetition) {
    SCOPED_TRACE(repetition);
    const Tensor j = random_gradients(random, repetition % 2 == 1);
    const AlignedMTL method{.scale = random.pick<AlignedScale>({AlignedScale::min, AlignedScale::median, AlignedScale::rmse}),
                            .preference = random.pick<Preference>({Preference::mean, Preference::sum})};
    const auto [left, values, right] = at::linalg_svd(j, false);
    const Tensor relative = values / values.max();
    if (relative.gt(1e-11).logical_and(relative.lt(2e-3)).any().item<bool>()) continue;
    const int64_t rank = relative.gt(1e-6).sum().item<int64_t>();
    const Tensor kept = values.slice(0, 0, rank);  // descending
    const double size = method.scale == AlignedScale::min      ? kept[rank - 1].item<double>()
                        : method.scale == AlignedScale::median ? kept[rank / 2].item<double>()
                                                               : kept.square().mean().sqrt().item<double>();
    const double preference = method.preference == Preference::sum ? 1.0 : 1.0 / static_cast<double>(j.size(0));
    const Tensor reference = size * preference * right.slice(0, 0, rank).t().mv(left.slice(1, 0, rank).sum(0));
    const Tensor w = weights(method, gramian_of(j));
    ASSERT_TRUE(close(w.matmul(j) / size, reference / size, 0.0, 1e-8));
    ++compared;
    singular += rank < j.size(0);
  }
  EXPECT_GT(compared, 300);
  EXPECT_GT(singular, 60);
  EXPECT_TRUE(same_bits(weights(AlignedMTL{}, gramian_of(at::zeros({3, 2}, at::kDouble))), at::ones({3}, at::kDouble)));
  EXPECT_TRUE(
      close(weights(AlignedMTL{.preference = Preference::mean}, gramian_of(5.0 * at::eye(4, at::kDouble))), at::full({4}, 0.25, at::kDouble), 1e-15, 0.0));
}

TEST_F(MethodsTest, DependentGradientsHaveTheirDefinedWeights) {
  const auto imtlg = [](const Tensor& j) { return weights(IMTLG{}, gramian_of(j)); };
  EXPECT_TRUE(close(imtlg(row({1., 2., 1., 2.}).view({2, 2})), row({.5, .5}), 1e-14, 0.0));
  EXPECT_TRUE(close(imtlg(row({1., 2., 2., 4.}).view({2, 2})), row({2. / 3., 1. / 3.}), 1e-14, 0.0)) << "blind to sizes";
  EXPECT_TRUE(close(imtlg(row({1., 2., 2., 4.0001}).view({2, 2})), row({2. / 3., 1. / 3.}), 1e-3, 0.0)) << "and the limit of nearly parallel ones";
  EXPECT_TRUE(same_bits(imtlg(row({1., 2., -2., -4.}).view({2, 2})), row({0., 0.}))) << "opposed";
  EXPECT_TRUE(close(imtlg(row({3., 0., 0., 0., 0., 1.}).view({3, 2})), row({.25, 0., .75}), 1e-14, 0.0)) << "a zero gradient";
  EXPECT_TRUE(close(imtlg(row({1e-12, 0., 0., 1.}).view({2, 2})), row({1.0, 1e-12}), 2e-12, 0.0)) << "a tiny gradient counts in full";
  const Tensor third = imtlg(row({.3, .1, 0., -.6, -.2, 0., 0., 0., 2.}).view({3, 3}));  // opposed, and one apart from them
  EXPECT_TRUE(same_bits(third, row({0., 0., 1.})));
  const auto config = [](const Tensor& j) { return weights(ConFIG{}, gramian_of(j)); };
  EXPECT_TRUE(same_bits(config(row({1., 2., -2., -4.}).view({2, 2})), row({0., 0.})));
  EXPECT_TRUE(close(config(row({1., 2., 1., 2.}).view({2, 2})), row({1., 1.}), 1e-14, 0.0));
  EXPECT_TRUE(close(weights(AlignedMTL{}, gramian_of(row({1., 2., 1., 2.}).view({2, 2}))), row({1., 1.}), 1e-14, 0.0));
}

TEST_F(MethodsTest, CutoffsDecideWhatCountsAsDependent) {
  const Tensor nearly = row({1., 0., 1., 1e-4}).view({2, 2});  // at an angle of 1e-4: the smaller eigenvalue is 2.5e-9 of the larger
  const Tensor apart = weights(IMTLG{.cutoff = 1e-10}, gramian_of(nearly)), together = weights(IMTLG{.cutoff = 1e-8}, gramian_of(nearly));
  EXPECT_TRUE(close(apart.matmul(nearly), row({1., 5e-5}), 1e-6, 0.0));
  EXPECT_TRUE(close(together, row({.5, .5}), 1e-6, 0.0));
  EXPECT_LT(weights(AlignedMTL{.cutoff = 1e-10}, gramian_of(nearly)).sum().item<double>(), 1e-3) << "scaled to the small component";
  EXPECT_NEAR(weights(AlignedMTL{.cutoff = 1e-8}, gramian_of(nearly)).sum().item<double>(), 2.0, 1e-6);
  const Tensor turned = row({1., 0., -1., 1e-4}).view({2, 2});
  EXPECT_NE(weights(ConFIG{.cutoff = 1e-10}, gramian_of(turned)).abs().sum().item<double>(), 0.0);
  EXPECT_EQ(weights(ConFIG{.cutoff = 1e-8}, gramian_of(turned)).abs().sum().item<double>(), 0.0);
  for (const double wrong : {-1e-9, 1.0, std::nan("")}) {
    EXPECT_TRUE(contains(sentence_of([&] { weights(IMTLG{.cutoff = wrong}, gramian_of(j2())); }), "htl::IMTLG: expected cutoff in [0, 1), got"));
    EXPECT_TRUE(contains(sentence_of([&] { weights(ConFIG{.cutoff = wrong}, gramian_of(j2())); }), "htl::ConFIG: expected cutoff in [0, 1), got"));
    EXPECT_TRUE(contains(sentence_of([&] { weights(AlignedMTL{.cutoff = wrong}, gramian_of(j2())); }), "htl::AlignedMTL: expected cutoff in [0, 1), got"));
  }
}

// --------------------------------------------------------------------------------------------------------------------- Krum, random

TEST_F(MethodsTest, KrumEqualsExplicitDistances) {
  Random random(78);
  for (int repetition = 0; repetition < 400; ++repetition) {
    SCOPED_TRACE(repetition);
    const int64_t tasks = random.integer(3, 9), byzantine = random.integer(0, tasks - 3), selected = random.integer(1, tasks);
    // far from the origin, so that the distances are small differences of large numbers
    const Tensor j = random.normal({tasks, 6}) + random.pick<double>({0.0, 1e3, 1e5}) * random.normal({1, 6});
    std::vector<std::pair<double, int64_t>> scores;
    for (int64_t i = 0; i < tasks; ++i) {
      const Tensor sorted = std::get<0>((j - j[i]).square().sum(1).sort());  // the first is i itself
      scores.emplace_back(sorted.slice(0, 1, tasks - byzantine - 1).sum().item<double>(), i);
    }
    std::sort(scores.begin(), scores.end());
    if (selected < tasks && scores[static_cast<size_t>(selected)].first < 1.001 * scores[static_cast<size_t>(selected - 1)].first) continue;  // nearly a tie
    Tensor reference = at::zeros({tasks}, at::kDouble);
    for (int64_t i = 0; i < selected; ++i) reference[scores[static_cast<size_t>(i)].second] = 1.0 / static_cast<double>(selected);
    ASSERT_TRUE(same_bits(weights(Krum{.byzantine = byzantine, .selected = selected}, gramian_of(j)), reference));
  }
}

TEST_F(MethodsTest, KrumLeavesOutliersAndBreaksTiesByPosition) {
  const Tensor j = row({1., 1., 1., 1., 0., 1., 75., -888., 163., 2., 1., 2., 1., 1., 2.}).view({5, 3});
  const Tensor w = weights(Krum{.byzantine = 1, .selected = 4}, gramian_of(j));
  EXPECT_TRUE(same_bits(w, row({.25, .25, 0., .25, .25})));
  EXPECT_TRUE(same_bits(w.matmul(j), row({1.25, .75, 1.5})));
  const Tensor equal = row({.1, .7, .1, .7, .1, .7, .1, .7}).view({4, 2});
  EXPECT_TRUE(same_bits(weights(Krum{.byzantine = 1, .selected = 2}, gramian_of(equal)), row({.5, .5, 0., 0.})));
  TaskGramian few = gramian_of(j);  // fewer active tasks than byzantine + 3
  few.active = at::tensor({0, 1, 0, 1, 0}, at::kInt).to(at::kBool);
  EXPECT_TRUE(same_bits(weights(Krum{.byzantine = 2}, few), row({0., 1., 0., 0., 0.})));
  EXPECT_TRUE(same_bits(weights(Krum{.byzantine = 2, .selected = 4}, few), row({0., .5, 0., .5, 0.})));
  few.active = at::tensor({0, 0, 0, 1, 0}, at::kInt).to(at::kBool);
  EXPECT_TRUE(same_bits(weights(Krum{.byzantine = 2}, few), row({0., 0., 0., 1., 0.})));
  EXPECT_TRUE(contains(sentence_of([&] { weights(Krum{}, gramian_of(j2())); }), "at least byzantine + 3 = 3 tasks, got 2"));
  EXPECT_TRUE(contains(sentence_of([&] { weights(Krum{.byzantine = 1}, gramian_of(j3())); }), "at least byzantine + 3 = 4 tasks, got 3"));
  EXPECT_TRUE(contains(sentence_of([&] { weights(Krum{.byzantine = -1}, gramian_of(j3())); }), "byzantine ≥ 0, got -1"));
  EXPECT_TRUE(contains(sentence_of([&] { weights(Krum{.selected = 4}, gramian_of(j3())); }), "selected in 1 … 3, got 4"));
  EXPECT_TRUE(contains(sentence_of([&] { weights(Krum{.selected = 0}, gramian_of(j3())); }), "selected in 1 … 3, got 0"));
}

TEST_F(MethodsTest, RandomWeightingIsTheSoftmaxOfNormalNumbers) {
  TaskGramian gramian = gramian_of(j3());
  gramian.generator = seeded(9);
  const Tensor normal = at::randn({3}, seeded(9), at::kDouble);
  EXPECT_TRUE(close(weights(RandomWeighting{}, gramian), at::softmax(normal, 0), 1e-14, 0.0));
  Tensor mean = at::zeros({3}, at::kDouble);
  for (int repetition = 0; repetition < 2000; ++repetition) {
    const Tensor w = weights(RandomWeighting{}, gramian);
    ASSERT_NEAR(w.sum().item<double>(), 1.0, 1e-15);
    mean += w / 2000.0;
  }
  EXPECT_TRUE(close(mean, at::full({3}, 1.0 / 3.0, at::kDouble), 0.0, 0.02));
  gramian.generator = seeded(9);
  gramian.active = at::tensor({1, 0, 1}, at::kInt).to(at::kBool);
  const Tensor two = at::softmax(at::stack({normal[0], normal[2]}), 0), w = weights(RandomWeighting{}, gramian);
  EXPECT_TRUE(close(w, at::stack({two[0], at::zeros({}, at::kDouble), two[1]}), 1e-14, 0.0));
  gramian.active.zero_();
  EXPECT_TRUE(same_bits(weights(RandomWeighting{}, gramian), at::zeros({3}, at::kDouble)));
  gramian.generator.reset();  // the default one, which the fixture seeds
  gramian.active = Tensor();
  at::manual_seed(4);
  const Tensor first = weights(RandomWeighting{}, gramian);
  at::manual_seed(4);
  EXPECT_TRUE(same_bits(weights(RandomWeighting{}, gramian), first));
}

TEST_F(MethodsTest, RefuseWhatIsNotOfTheirTasks) {
  const Tensor k = at::eye(3, at::kDouble);
  const auto says = [](const TaskGramian& gramian) { return sentence_of([&] { weights(Sum{}, gramian); }); };
  EXPECT_EQ(says({.matrix = k, .active = at::ones({3}, at::kBool), .cross = k, .cores = {0, 2}, .cores_after = {{2}, {}, {0}}}), "no error");
  EXPECT_TRUE(contains(says({.matrix = k.narrow(0, 0, 2)}), "htl::weights: expected the Gramian of shape"));
  EXPECT_TRUE(contains(says({.matrix = k.to(at::kFloat)}), "expected the Gramian in float64, got Float"));
  for (const Tensor& active : {at::ones({2}, at::kBool), at::ones({3, 1}, at::kBool), at::ones({3})})
    EXPECT_TRUE(contains(says({.matrix = k, .active = active}), "expected TaskGramian::active as one bool for each of 3 tasks on cpu, got " +
                                                                    std::string(toString(active.scalar_type())) + " of shape [" +
                                                                    std::to_string(active.size(0))));
  EXPECT_TRUE(contains(says({.matrix = k, .cross = at::eye(2, at::kDouble)}), "the products of two batches (TaskGramian::cross) of shape [3, 3], got [2, 2]"));
  for (const int64_t core : {int64_t{3}, int64_t{-1}}) {
    const std::string got = "as positions of tasks, 0 … 2, got " + std::to_string(core);
    EXPECT_TRUE(contains(says({.matrix = k, .cores = {1, core}}), "expected TaskGramian::cores " + got));
    EXPECT_TRUE(contains(says({.matrix = k, .cores_after = {{}, {core}, {}}}), "expected TaskGramian::cores_after " + got));
  }
  EXPECT_TRUE(contains(says({.matrix = k, .cores_after = {{1}}}), "expected TaskGramian::cores_after for 3 tasks, or for none, got 1"));
  EXPECT_TRUE(contains(sentence_of([&] { weights(AlignedMTL{}, {.matrix = k / 0.0}); }), "expected a finite Gramian, got inf for tasks 0 and 0"));
}

}  // namespace
