// SPDX-License-Identifier: Apache-2.0
// The methods that need a solver: golden numbers, the identities between them, what they promise of G_t · g, inactive tasks, memory, options.
#include <htl/weighting/aligned_mtl.hpp>
#include <htl/weighting/apply.hpp>
#include <htl/weighting/cagrad.hpp>
#include <htl/weighting/config.hpp>
#include <htl/weighting/dual_proj.hpp>
#include <htl/weighting/fair_grad.hpp>
#include <htl/weighting/gradvac.hpp>
#include <htl/weighting/imtlg.hpp>
#include <htl/weighting/krum.hpp>
#include <htl/weighting/mgda.hpp>
#include <htl/weighting/modo.hpp>
#include <htl/weighting/nash_mtl.hpp>
#include <htl/weighting/pcgrad.hpp>
#include <htl/weighting/pe_ltr.hpp>
#include <htl/weighting/sdmgrad.hpp>
#include <htl/weighting/upgrad.hpp>

#include <support/troubled_gradients.hpp>

#include <ATen/ATen.h>

#include <limits>
#include <map>

namespace {

using namespace htl;
using namespace htl::test;
using at::Tensor;

constexpr double infinity = std::numeric_limits<double>::infinity();

static_assert(StatelessWeighting<MGDA> && StatelessWeighting<CAGrad> && StatelessWeighting<PELTR> && StatelessWeighting<SDMGrad>);
static_assert(StatelessWeighting<UPGrad> && StatelessWeighting<DualProj> && StatefulWeighting<MoDo> && StatefulWeighting<NashMTL> &&
              StatefulWeighting<FairGrad>);
static_assert(BatchesWeighting<SDMGrad> && BatchesWeighting<MoDo> && !BatchesWeighting<MGDA>);

Tensor vector(const std::vector<double>& values) { return at::tensor(values, at::kDouble); }
Tensor j2() { return vector({-4., 1., 1., 6., 1., 1.}).view({2, 3}); }
Tensor j3() { return vector({1., 2., -1., 0., -2., 1., .5, 1., .5, -1., 3., -2.}).view({3, 4}); }
TaskGramian gramian_of(const Tensor& g) { return {.matrix = gramian_matrix(g)}; }

/// All methods of this file, as `call("name", method)`.
template <class Call>
void each_method(Call&& call) {
  call("MGDA", MGDA{});
  call("MGDA times T", MGDA{.scale = WeightScale::tasks});
  call("CAGrad", CAGrad{});
  call("CAGrad 1.5", CAGrad{.c = 1.5, .rescale = 2, .scale = WeightScale::tasks});
  call("PELTR", PELTR{.bound = 0.5 / 64});
  call("SDMGrad", SDMGrad{});
  call("MoDo", MoDo{});
  call("UPGrad", UPGrad{});
  call("DualProj", DualProj{.preference = Preference::sum});
  call("NashMTL", NashMTL{});
  call("NashMTL unclipped", NashMTL{.max_norm = infinity});
  call("FairGrad", FairGrad{});
  call("FairGrad 2", FairGrad{.alpha = 2.0});
}

/// The methods that go by angles and distances, for T tasks. Their weights may be negative.
template <class Call>
void each_method_of_angles(int64_t tasks, Call&& call) {
  call("IMTLG", IMTLG{});
  call("ConFIG", ConFIG{});
  call("AlignedMTL", AlignedMTL{});
  call("AlignedMTL median", AlignedMTL{.scale = AlignedScale::median});
  call("AlignedMTL rmse", AlignedMTL{.scale = AlignedScale::rmse, .preference = Preference::mean});
  call("PCGrad", PCGrad{.order = Order::ascending});
  call("PCGrad mean", PCGrad{.order = Order::descending, .reduction = Reduction::mean});
  call("GradVac", GradVac{.order = Order::ascending});
  if (tasks < 3) return;
  call("Krum", Krum{.selected = 1 + tasks / 2});
  call("Krum of few", Krum{.byzantine = tasks - 3});
}

class SolverMethodsTest : public Seeded {
 protected:
  /// Weights by the golden numbers, and with them the shared gradient.
  template <class M>
  static void expect_weights(const M& method, const Tensor& j, const std::vector<double>& golden) {
    EXPECT_TRUE(close(weights(method, gramian_of(j)), vector(golden), 0.0, 1e-6));
  }
  template <class M>
  static void expect_gradient(const M& method, const Tensor& j, const std::vector<double>& golden, double tolerance = 1e-6) {
    EXPECT_TRUE(close(aggregate(method, j), vector(golden), 0.0, tolerance));
  }
};

TEST_F(SolverMethodsTest, MgdaAndItsKinGiveTheGoldenNumbers) {
  expect_weights(MGDA{}, j2(), {.6, .4});
  expect_gradient(MGDA{}, j2(), {0., 1., 1.});
  expect_weights(MGDA{}, j3(), {.414073, .319921, .266006});
  expect_gradient(MGDA{}, j3(), {-.092765, .882061, .543905, -.212091});
  expect_weights(MGDA{.scale = WeightScale::tasks}, j2(), {1.2, .8});
  for (const PELTR& method : {PELTR{.bound = 0.1}, PELTR{.bounds = {.1, .1, .1}}}) expect_weights(method, j3(), {.414073, .319921, .266006});
  expect_weights(PELTR{.bounds = {.5, .5}}, j2(), {.5, .5});
  expect_weights(PELTR{.bounds = {0., .5}}, j2(), {.5, .5});
  expect_weights(SDMGrad{.lambda = 0.3}, j3(), {.414073, .319921, .266006});
  for (const Tensor& cross : {Tensor(), gramian_matrix(j3())})  // and before they are drawn to the mean
    EXPECT_TRUE(close(weights(SDMGrad{.lambda = 0.3}, {.matrix = gramian_matrix(j3()), .cross = cross}) * 1.3 - 0.3 / 3.0, vector({.438295, .315897, .245808}),
                      0.0, 1e-6));
  expect_weights(SDMGrad{.lambda = 0.0}, j2(), {.6, .4});
  expect_weights(MoDo{.gamma = 0.1, .rho = 0.1}, j3(), {.427778, .352778, .219444});
}

TEST_F(SolverMethodsTest, CAGradGivesTheGoldenNumbers) {
  expect_weights(CAGrad{.c = 0.5}, j2(), {.704124, .5});
  expect_gradient(CAGrad{.c = 0.5}, j2(), {.183503, 1.204124, 1.204124});
  expect_gradient(CAGrad{.c = 0.5, .rescale = 1}, j2(), {.146803, .963299, .963299});
  expect_gradient(CAGrad{.c = 0.5, .rescale = 2}, j2(), {.122336, .802749, .802749});
  expect_weights(CAGrad{.c = 0.5}, j3(), {.574444, .443826, .36903});
  expect_gradient(CAGrad{.c = 0.5}, j3(), {-.128693, 1.223684, .754559, -.294234});
  expect_gradient(CAGrad{.c = 0.5, .rescale = 1}, j3(), {-.102954, .978947, .603647, -.235387});
  expect_gradient(CAGrad{.c = 0.5, .rescale = 1, .scale = WeightScale::tasks}, j3(), {3 * -.102954, 3 * .978947, 3 * .603647, 3 * -.235387}, 3e-6);
  expect_weights(CAGrad{.c = 0.4}, j2(), {.663299, .5});
  expect_weights(CAGrad{.c = 0.4}, j3(), {.512224, .394487, .333333});
  expect_weights(CAGrad{.c = 0.0}, j3(), {1. / 3, 1. / 3, 1. / 3});
}

TEST_F(SolverMethodsTest, ProjectionsGiveTheGoldenNumbers) {
  expect_weights(UPGrad{}, j2(), {1.111111, .789474});
  expect_gradient(UPGrad{}, j2(), {.292398, 1.900585, 1.900585});
  expect_weights(UPGrad{.preference = Preference::sum}, j2(), {2.222222, 1.578947});
  expect_weights(UPGrad{}, j3(), {.690067, .561658, .539695});
  expect_gradient(UPGrad{}, j3(), {-.163402, 1.402096, 1.209847, -.517732});
  expect_weights(DualProj{}, j2(), {.611111, .5});
  expect_gradient(DualProj{}, j2(), {.555556, 1.111111, 1.111111});
  expect_weights(DualProj{}, j3(), {1. / 3, 1. / 3, 1. / 3});
  expect_weights(DualProj{.preference = Preference::sum}, j2(), {1.222222, 1.});
}

TEST_F(SolverMethodsTest, ProjectionsAreExactWhereTorchJDRegularises) {
  // TorchJD solves with R = K / trace + 1e-4 I. Of two tasks, one that u opposes gains −(Ru)_i / R_ii, and the other nothing.
  const Tensor k = gramian_matrix(j2()) / gramian_matrix(j2()).trace(), regularised = k + 1e-4 * at::eye(2, at::kDouble);
  const auto above = [](const Tensor& r, const Tensor& u) { return u + (-r.mv(u) / r.diagonal()).clamp_min(0.0); };
  const auto dual = [&](const Tensor& r) { return above(r, vector({.5, .5})); };
  const auto up = [&](const Tensor& r) { return above(r, vector({.5, 0.})) + above(r, vector({0., .5})); };
  EXPECT_TRUE(close(weights(DualProj{}, gramian_of(j2())), dual(k)));
  EXPECT_TRUE(close(weights(UPGrad{}, gramian_of(j2())), up(k)));
  EXPECT_TRUE(close(dual(regularised).matmul(j2()), vector({.5563, 1.1109, 1.1109}), 0.0, 5e-5)) << "TorchJD's own numbers";
  EXPECT_TRUE(close(up(regularised).matmul(j2()), vector({.2929, 1.9004, 1.9004}), 0.0, 5e-5));
  for (const Tensor& moved : {dual(regularised) - dual(k), up(regularised) - up(k)}) {
    EXPECT_LE(moved.abs().max().item<double>(), 2e-4);
    EXPECT_GE(moved.abs().max().item<double>(), 1.8e-4) << "what an exact projection has to differ by";
    EXPECT_LE(moved.matmul(j2()).abs().max().item<double>(), 7.7e-4);
  }
}

TEST_F(SolverMethodsTest, BargainingGivesTheGoldenNumbers) {
  for (const Tensor& j : {j2(), j3()})
    EXPECT_TRUE(close(weights(NashMTL{.max_norm = infinity}, gramian_of(j)), weights(FairGrad{}, gramian_of(j)), 1e-14, 0.0));
  expect_weights(FairGrad{}, j2(), {.591461, .407071});
  expect_gradient(FairGrad{}, j2(), {.076584, .998533, .998533});
  expect_weights(FairGrad{}, j3(), {.642537, .532532, .451694});
  expect_gradient(FairGrad{}, j3(), {-.19668, 1.365911, .97881, -.370855});
  expect_weights(FairGrad{.alpha = 2.0}, j2(), {.471363, .319454});
  expect_weights(FairGrad{.alpha = 2.0}, j3(), {.534761, .430994, .361243});
  expect_weights(FairGrad{.alpha = 0.0}, j3(), {1. / 3, 1. / 3, 1. / 3});
  expect_gradient(NashMTL{}, j2(), {.054153, .706069, .706069});
  expect_gradient(NashMTL{}, j3(), {-.113553, .788609, .565116, -.214113});
}

TEST_F(SolverMethodsTest, AreTheSameProblemWhereTheySay) {
  Random random(421);
  for (int repetition = 0; repetition < 500; ++repetition) {
    SCOPED_TRACE(repetition);
    Trouble trouble = Trouble::any(random);
    trouble.few_dimensions = trouble.copies = trouble.near_copies = trouble.balanced = trouble.whole = trouble.zeros = false;  // weights are unique
    trouble.sizes = false;
    const int64_t tasks = random_task_count(random);
    const TaskGramian gramian = gramian_of(troubled_gradients(random, tasks, trouble));
    EXPECT_TRUE(same_bits(weights(PELTR{}, gramian), weights(MGDA{}, gramian)));
    const double lambda = random.real(0.0, 3.0);
    const Tensor bounded = weights(PELTR{.bound = lambda / (1.0 + lambda) / static_cast<double>(tasks)}, gramian);
    EXPECT_TRUE(close(weights(SDMGrad{.lambda = lambda}, gramian), bounded, 0.0, 1e-9));
    TaskGramian crossed = gramian;  // two batches with the same gradients
    crossed.cross = gramian.matrix;
    EXPECT_TRUE(close(weights(SDMGrad{.lambda = lambda}, crossed), bounded, 0.0, 1e-7));
    MoDo::State one, two;
    EXPECT_TRUE(same_bits(MoDo{}.weights(gramian, one), MoDo{}.weights(crossed, two)));
    const Tensor nash = weights(NashMTL{.max_norm = infinity}, gramian);
    EXPECT_TRUE(close(weights(FairGrad{}, gramian), nash, 0.0, 0.0));
    EXPECT_NEAR(nash.dot(gramian.matrix.mv(nash)).item<double>(), static_cast<double>(tasks), 1e-9 * static_cast<double>(tasks));
    EXPECT_TRUE(close(weights(CAGrad{.c = 0.0}, gramian), at::full({tasks}, 1.0 / static_cast<double>(tasks), at::kDouble), 0.0, 0.0));
    for (const auto preference : {Preference::mean, Preference::sum}) {
      const double p = preference == Preference::sum ? 1.0 : 1.0 / static_cast<double>(tasks);
      EXPECT_TRUE(weights(UPGrad{preference}, gramian).ge(p).all().item<bool>());
      EXPECT_TRUE(weights(DualProj{preference}, gramian).ge(p).all().item<bool>());
    }
  }
}

TEST_F(SolverMethodsTest, UPGradOfTwoTasksIsPcGrad) {
  Random random(422);
  for (int repetition = 0; repetition < 500; ++repetition) {
    Trouble trouble = Trouble::any(random);
    trouble.near_copies = false;
    const TaskGramian gramian = gramian_of(troubled_gradients(random, 2, trouble));
    const double conflict = std::min(gramian.matrix[0][1].item<double>(), 0.0);
    Tensor expected = at::ones({2}, at::kDouble);  // w_s = 1 − min(K_01, 0) / K_ss: what the other task's projection subtracts
    for (int64_t s = 0; s < 2; ++s)
      if (conflict < 0.0) expected[s] -= conflict / gramian.matrix[s][s].item<double>();
    EXPECT_TRUE(close(weights(UPGrad{.preference = Preference::sum}, gramian), expected, 1e-12, 0.0));
  }
}

TEST_F(SolverMethodsTest, CAGradServesTheWorstServedAlike) {
  const Tensor served = gramian_matrix(j3()).mv(weights(CAGrad{.c = 0.5}, gramian_of(j3())));
  EXPECT_TRUE(close(served, at::full({3}, 1.564, at::kDouble), 0.0, 5e-4));
  Random random(423);
  for (int repetition = 0; repetition < 300; ++repetition) {
    SCOPED_TRACE(repetition);
    const int64_t tasks = random.integer(2, 16);
    const Tensor k = gramian_matrix(troubled_gradients(random, tasks, {.aligned = random.chance(0.5)}));
    const double c = random.real(0.1, 2.0), mean = 1.0 / static_cast<double>(tasks);
    const Tensor w = weights(CAGrad{.c = c}, {.matrix = k}), y = k.mv(w), uniform = at::full({tasks}, mean, at::kDouble);
    for (int64_t t = 0; t < tasks; ++t)
      if (w[t].item<double>() > mean * (1.0 + 1e-6)) {
        EXPECT_NEAR(y[t].item<double>(), y.min().item<double>(), 1e-9 * k.trace().item<double>());
      }
    const Tensor from_mean = w - uniform;  // on the ball
    const double radius = std::sqrt(from_mean.dot(k.mv(from_mean)).item<double>()), g0 = std::sqrt(uniform.dot(k.mv(uniform)).item<double>());
    EXPECT_NEAR(radius, c * g0, 1e-9 * c * g0);
  }
}

TEST_F(SolverMethodsTest, OpposeNoTask) {
  Random random(424);
  for (int repetition = 0; repetition < 1000; ++repetition) {
    SCOPED_TRACE(repetition);
    Trouble trouble = Trouble::any(random);
    trouble.scale = 1.0;
    const int64_t tasks = random_task_count(random);
    Tensor k = gramian_matrix(troubled_gradients(random, tasks, trouble));
    if (const double trace = k.trace().item<double>(); trace > 0.0) k = k / trace;
    const TaskGramian gramian{.matrix = k};
    const auto expect_none = [&](const char* name, const auto& method) {
      const Tensor w = weights(method, gramian);
      EXPECT_GE(k.mv(w).min().item<double>(), -1e-10 * std::max(1.0, w.max().item<double>())) << name;
    };
    expect_none("MGDA", MGDA{});
    expect_none("UPGrad", UPGrad{});
    expect_none("DualProj", DualProj{});
    expect_none("CAGrad 1", CAGrad{.c = 1.0});
    expect_none("CAGrad 3", CAGrad{.c = 3.0});
    FairGrad::State state;
    const Tensor fair = FairGrad{.alpha = random.pick<double>({0.5, 1.0, 2.0})}.weights(gramian, state);
    if (state.fallbacks.item<int64_t>() == 0) {
      EXPECT_GE(k.mv(fair).min().item<double>(), -1e-10 * std::max(1.0, fair.max().item<double>()));
    }
    const Tensor shortest = weights(MGDA{}, gramian), y = k.mv(shortest);
    EXPECT_GE(y.min().item<double>(), shortest.dot(y).item<double>() - 1e-10) << "MGDA: G_t · g ≥ ‖g‖²";
  }
}

TEST_F(SolverMethodsTest, AreFiniteForEveryGramian) {
  Random random(425);
  for (int repetition = 0; repetition < 400; ++repetition) {
    SCOPED_TRACE(repetition);
    const int64_t tasks = random.chance(0.1) ? 64 : random.integer(1, 20);
    const TaskGramian gramian = gramian_of(troubled_gradients(random, tasks, Trouble::any(random)));
    each_method([&](const char* name, const auto& method) {
      const Tensor w = weights(method, gramian);
      EXPECT_TRUE(w.isfinite().all().template item<bool>()) << name;
      EXPECT_TRUE(w.ge(0.0).all().template item<bool>()) << name;
      EXPECT_TRUE(same_bits(weights(method, gramian), w)) << name;
    });
    each_method_of_angles(tasks, [&](const char* name, const auto& method) {
      auto memory = htl::detail::initial_state(method), other = memory;
      for (int call = 0; call < 3; ++call) {  // GradVac's first one is PCGrad's
        const Tensor w = weights(method, gramian, memory);
        EXPECT_TRUE(w.isfinite().all().template item<bool>()) << name << ", call " << call;
        EXPECT_TRUE(same_bits(weights(method, gramian, other), w)) << name << ", call " << call;
      }
    });
  }
  for (const double entry : {0.0, 1e-300, 1e300}) {
    const auto expect_finite = [&](const char* name, const auto& method) {
      const Tensor w = weights(method, {.matrix = at::full({3, 3}, entry, at::kDouble)});
      EXPECT_TRUE(w.isfinite().all().template item<bool>()) << name << " " << entry;
    };
    each_method(expect_finite);
    each_method_of_angles(3, expect_finite);
  }
}

TEST_F(SolverMethodsTest, DoNotDependOnTheScaleOrScaleAsTheySay) {
  Random random(426);
  for (int repetition = 0; repetition < 100; ++repetition) {
    SCOPED_TRACE(repetition);
    const TaskGramian gramian = gramian_of(random.normal({random.integer(1, 12), 14}));
    for (const double scale : {0x1p132, 0x1p-132}) {
      TaskGramian scaled = gramian;
      scaled.matrix = gramian.matrix * scale;
      const auto expect = [&](const auto& method, double factor) {
        EXPECT_TRUE(close(weights(method, scaled), weights(method, gramian) * factor, 1e-12, 0.0));
      };
      expect(MGDA{}, 1.0);
      expect(CAGrad{}, 1.0);
      expect(PELTR{.bound = 0.02}, 1.0);
      expect(SDMGrad{}, 1.0);
      expect(UPGrad{}, 1.0);
      expect(DualProj{}, 1.0);
      expect(NashMTL{.max_norm = infinity}, 1.0 / std::sqrt(scale));  // K w = w^(−1/α): w ∝ K^(−α/(1+α))
      expect(FairGrad{.alpha = 2.0}, std::pow(scale, -2.0 / 3.0));
    }
  }
}

TEST_F(SolverMethodsTest, OneTaskIsLeftAsItIs) {
  const TaskGramian one{.matrix = at::full({1, 1}, 4.0, at::kDouble)};
  for (const double weight :
       {weights(MGDA{}, one).item<double>(), weights(MGDA{.scale = WeightScale::tasks}, one).item<double>(), weights(PELTR{.bound = 0.3}, one).item<double>(),
        weights(SDMGrad{}, one).item<double>(), weights(MoDo{}, one).item<double>(), weights(UPGrad{}, one).item<double>(),
        weights(DualProj{}, one).item<double>(), weights(CAGrad{.c = 0.0}, one).item<double>(), weights(CAGrad{.c = 0.5, .rescale = 2}, one).item<double>()})
    EXPECT_NEAR(weight, 1.0, 1e-15);
  EXPECT_NEAR(weights(CAGrad{.c = 0.5}, one).item<double>(), 1.5, 1e-15);                           // its ball's farthest point
  EXPECT_NEAR(weights(FairGrad{}, one).item<double>(), 0.5, 1e-15);                                 // 4 w = 1 / w
  EXPECT_NEAR(weights(NashMTL{.max_norm = infinity}, one).item<double>(), 0.5, 1e-15);              // the gradient's norm is 1
  EXPECT_NEAR(weights(FairGrad{.alpha = 0.5}, one).item<double>(), std::pow(4.0, -1. / 3), 1e-15);  // 4 w = w⁻²
}

TEST_F(SolverMethodsTest, InactiveTasksLeaveTheProblem) {
  Random random(427);
  for (int repetition = 0; repetition < 200; ++repetition) {
    SCOPED_TRACE(repetition);
    const int64_t tasks = random.integer(2, 10);
    const Tensor active = random.mask({tasks}, 0.6), positions = active.nonzero().squeeze(1);
    Tensor g = random.normal({tasks, 12});
    g.mul_(active.unsqueeze(1));
    TaskGramian gramian = gramian_of(g);
    gramian.active = active;
    each_method([&](const char* name, const auto& method) {
      const Tensor w = weights(method, gramian);
      EXPECT_TRUE(close(w.masked_select(active.logical_not()).sum(), at::zeros({}, at::kDouble), 0.0, 0.0)) << name;
      if (positions.numel() == 0) return;
      EXPECT_TRUE(close(w.index_select(0, positions), weights(method, gramian_of(g.index_select(0, positions))), 1e-13, 0.0)) << name;
    });
  }
  TaskGramian gramian = gramian_of(j3());
  gramian.active = at::tensor({1, 0, 1}, at::kInt).to(at::kBool);
  const Tensor bounded = weights(PELTR{.bounds = {.7, .1, .2}}, gramian);  // its own bounds for the tasks that are left: .9 of 1
  EXPECT_TRUE(close(bounded, vector({.7, 0., .3}), 0.0, 1e-12));
}

TEST_F(SolverMethodsTest, UndefinedPointsHaveTheirDocumentedWeights) {
  const TaskGramian zero{.matrix = at::zeros({2, 2}, at::kDouble)}, opposed = gramian_of(vector({1., -2.}).view({2, 1}));
  EXPECT_TRUE(close(weights(MGDA{}, zero), vector({.5, .5}), 0.0, 0.0));
  EXPECT_TRUE(close(weights(CAGrad{}, zero), vector({.5, .5}), 0.0, 0.0));
  EXPECT_TRUE(close(weights(MGDA{}, opposed), vector({2. / 3, 1. / 3})));
  EXPECT_TRUE(close(weights(MGDA{}, gramian_of(vector({1., 2., 0., 0.}).view({2, 2}))), vector({0., 1.}))) << "a task without gradient";
  EXPECT_TRUE(close(weights(FairGrad{}, opposed), vector({.5, .5}), 0.0, 0.0));
  // CAGrad at a stationary point: the optimal d that is nearest to the mean gradient, which is DualProj's
  const TaskGramian plane = gramian_of(vector({1., 0., -1., 0., 0., 1.}).view({3, 2}));
  EXPECT_TRUE(same_bits(weights(CAGrad{.c = 0.5}, plane), weights(DualProj{}, plane)));
  EXPECT_TRUE(close(weights(CAGrad{.c = 0.5}, plane), vector({1. / 3, 1. / 3, 1. / 3})));
  const Tensor uneven = vector({1., 0., -2., 0., 0., 1.}).view({3, 2});
  EXPECT_TRUE(close(aggregate(CAGrad{.c = 1.5}, uneven), vector({0., 1. / 3}))) << "the mean's conflict with the first task is gone";
  EXPECT_TRUE(close(aggregate(CAGrad{.c = 1.5, .rescale = 2}, uneven), vector({0., 1. / 7.5})));
}

TEST_F(SolverMethodsTest, NashMtlRemembersAndCountsFallbacks) {
  const TaskGramian good = gramian_of(j3());
  TaskGramian bad = gramian_of(vector({1., -1., 2.}).view({3, 1}));
  const NashMTL method{.max_norm = infinity};
  NashMTL::State state;
  EXPECT_TRUE(close(method.weights(bad, state), vector({1. / 3, 1. / 3, 1. / 3}), 0.0, 0.0)) << "nothing to fall back on";
  EXPECT_EQ(state.fallbacks.item<int64_t>(), 1);
  const Tensor solved = method.weights(good, state);
  EXPECT_TRUE(close(solved, vector({.642537, .532532, .451694}), 0.0, 1e-6));
  EXPECT_EQ(state.fallbacks.item<int64_t>(), 1);
  EXPECT_TRUE(same_bits(method.weights(bad, state), solved)) << "the last solution";
  EXPECT_EQ(state.fallbacks.item<int64_t>(), 2);
  EXPECT_TRUE(same_bits(state.previous, solved));
  // clipping: the solution is remembered, not what clipping leaves of it; by the present K
  const NashMTL clipping{.max_norm = 1.0, .update_every = 2};
  NashMTL::State clipped;
  TaskGramian at_zero = good, at_one = good;
  at_one.matrix = good.matrix * 4.0;
  at_one.step = 1;
  const Tensor first = clipping.weights(at_zero, clipped);
  EXPECT_NEAR(first.dot(good.matrix.mv(first)).item<double>(), 1.0, 1e-12);
  EXPECT_TRUE(close(clipped.previous, solved, 1e-14, 0.0));
  const Tensor second = clipping.weights(at_one, clipped);
  EXPECT_NEAR(second.dot(at_one.matrix.mv(second)).item<double>(), 1.0, 1e-12);
  EXPECT_TRUE(close(clipped.previous, solved, 1e-14, 0.0)) << "step 1 of update_every 2 does not solve";
  at_one.step = 2;
  clipping.weights(at_one, clipped);
  EXPECT_TRUE(close(clipped.previous, solved / 2.0, 1e-12, 0.0));
  EXPECT_TRUE(close(NashMTL{.max_norm = 100.0}.weights(good, state), solved, 1e-14, 0.0)) << "a norm below the bound stays";
  const Tensor large = weights(NashMTL{.max_norm = 1e-3}, {.matrix = good.matrix * 1e300});
  EXPECT_NEAR((large * 1e150).dot(good.matrix.mv(large * 1e150)).item<double>(), 1e-6, 1e-15);
  // a task that comes later: solved at once, others' memory stands still
  NashMTL::State later;
  TaskGramian partly = good;
  partly.active = at::tensor({1, 1, 0}, at::kInt).to(at::kBool);
  clipping.weights(partly, later);
  EXPECT_EQ(later.previous[2].item<double>(), 0.0);
  const Tensor both = later.previous.clone();
  TaskGramian next = good;
  next.step = 1;
  clipping.weights(next, later);
  EXPECT_TRUE(close(later.previous, solved, 1e-14, 0.0));
  next.step = 2;
  next.active = at::tensor({1, 0, 0}, at::kInt).to(at::kBool);
  clipping.weights(next, later);
  EXPECT_NEAR(later.previous[0].item<double>(), 1.0 / std::sqrt(6.0), 1e-14);
  EXPECT_EQ(later.previous[1].item<double>(), solved[1].item<double>());
}

TEST_F(SolverMethodsTest, FairGradCountsFallbacks) {
  FairGrad::State state;
  const TaskGramian bad = gramian_of(vector({1., -1.}).view({2, 1}));
  FairGrad{.alpha = 0.0}.weights(bad, state);
  EXPECT_EQ(state.fallbacks.item<int64_t>(), 0);
  for (int64_t call = 1; call < 4; ++call) {
    EXPECT_TRUE(close(FairGrad{.alpha = 2.0}.weights(bad, state), vector({.5, .5}), 0.0, 0.0));
    EXPECT_EQ(state.fallbacks.item<int64_t>(), call);
  }
  FairGrad{}.weights(gramian_of(j2()), state);
  EXPECT_EQ(state.fallbacks.item<int64_t>(), 3);
}

TEST_F(SolverMethodsTest, MoDoFollowsItsStepsAndKeepsWhatIsInactive) {
  Random random(428);
  const MoDo method{.gamma = 0.05, .rho = 0.2};
  MoDo::State state;
  Tensor lambda = at::full({4}, 0.25, at::kDouble);
  for (int step = 0; step < 50; ++step) {
    TaskGramian gramian = gramian_of(random.normal({4, 6}));
    gramian.cross = random.normal({4, 6}).mm(random.normal({6, 4}));
    std::vector<double> next = numbers(lambda - 0.05 * (gramian.cross.mv(lambda) + 0.2 * lambda));
    simplex_projection(next);
    lambda = vector(next);
    EXPECT_TRUE(close(method.weights(gramian, state), lambda, 0.0, 1e-13));
    EXPECT_TRUE(close(state.lambda, lambda, 0.0, 1e-13));
  }
  state.lambda = vector({.1, .2, .3, .4});
  TaskGramian partly = gramian_of(random.normal({4, 6}));
  partly.active = at::tensor({1, 0, 1, 0}, at::kInt).to(at::kBool);
  const Tensor w = method.weights(partly, state);
  EXPECT_NEAR(w.sum().item<double>(), 1.0, 1e-15);
  EXPECT_TRUE(close(state.lambda, vector({.4 * w[0].item<double>(), .2, .4 * w[2].item<double>(), .4}), 0.0, 1e-15));
  // a state from its fields, of any stride
  std::map<std::string, Tensor> saved;
  state.fields([&](const char* name, Tensor& field) { saved[name] = field.clone(); });
  ASSERT_EQ(saved.size(), 1U);
  MoDo::State restored{at::stack({saved.at("lambda"), saved.at("lambda")}, 1).select(1, 0)};
  EXPECT_TRUE(same_bits(method.weights(partly, restored), method.weights(partly, state)));
}

TEST_F(SolverMethodsTest, SdmGradSolvesItsProblemOnCrossGramians) {
  Random random(429);
  for (int repetition = 0; repetition < 100; ++repetition) {
    const int64_t tasks = random.integer(1, 6);
    const double lambda = random.real(0.0, 2.0), mean = 1.0 / static_cast<double>(tasks);
    TaskGramian gramian = gramian_of(random.normal({tasks, 8}));
    gramian.cross = random.normal({tasks, 4}).mm(random.normal({4, tasks})) + gramian.matrix * random.real();
    const std::vector<double> a = numbers(gramian.cross);
    const Tensor s = vector(positive_symmetric_part({a.data(), tasks})).view({tasks, tasks}), pull = gramian.cross.sum(1) * (lambda * mean);
    const auto value = [&](const Tensor& w) { return (0.5 * w.dot(s.mv(w)) + pull.dot(w)).item<double>(); };
    const Tensor w = weights(SDMGrad{.lambda = lambda}, gramian) * (1.0 + lambda) - lambda * mean;
    EXPECT_NEAR(w.sum().item<double>(), 1.0, 1e-12);
    EXPECT_GE(w.min().item<double>(), -1e-14);
    for (int sample = 0; sample < 20; ++sample) {
      Tensor other = random.uniform({tasks}) * random.mask({tasks}, 0.7).to(at::kDouble) + 1e-9;
      EXPECT_LE(value(w), value(other / other.sum()) + 1e-10);
    }
  }
}

TEST_F(SolverMethodsTest, RefuseWhatIsOutOfRange) {
  const TaskGramian two = gramian_of(j2());
  const auto says = [&](const auto& method, const char* part) { EXPECT_TRUE(contains(sentence_of([&] { weights(method, two); }), part)); };
  says(CAGrad{.c = -0.1}, "htl::CAGrad: expected a finite c ≥ 0, got -0.1");
  says(CAGrad{.c = infinity}, "finite c");
  says(CAGrad{.rescale = 3}, "expected rescale 0 (as it is), 1 (divided by 1 + c²) or 2 (by 1 + c), got 3");
  says(PELTR{.bounds = {.1}}, "htl::PELTR: expected one bound for each of 2 tasks, got 1");
  says(PELTR{.bounds = {.1, .1}, .bound = .1}, "expected bounds or bound, got both");
  says(PELTR{.bounds = {.1, -.1}}, "expected bounds ≥ 0, got -0.1 for task 1");
  says(PELTR{.bound = std::nan("")}, "expected bounds ≥ 0, got nan");
  says(PELTR{.bound = .6}, "add up to at most 1, the sum of the weights; got 1.2 over 2 tasks");
  says(SDMGrad{.lambda = -1.0}, "htl::SDMGrad: expected a finite lambda ≥ 0, got -1");
  says(MoDo{.gamma = -1.0}, "htl::MoDo: expected a finite gamma ≥ 0, got -1");
  says(MoDo{.rho = std::nan("")}, "expected a finite rho ≥ 0, got nan");
  says(NashMTL{.max_norm = 0.0}, "htl::NashMTL: expected max_norm > 0 (infinity = no bound), got 0");
  says(NashMTL{.update_every = 0}, "expected update_every ≥ 1, got 0");
  says(FairGrad{.alpha = -1.0}, "htl::FairGrad: expected a finite alpha ≥ 0, got -1");
  MoDo::State modo{at::zeros({3}, at::kDouble)};
  EXPECT_TRUE(contains(sentence_of([&] { MoDo{}.weights(two, modo); }), "htl::MoDo: the state was made for [3] tasks, this batch has 2; forget it"));
  NashMTL::State nash;
  nash.previous = at::zeros({3}, at::kDouble);
  EXPECT_TRUE(contains(sentence_of([&] { NashMTL{}.weights(two, nash); }), "htl::NashMTL: the state was made for [3] tasks, this batch has 2"));
}

}  // namespace
