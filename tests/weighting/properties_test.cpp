// SPDX-License-Identifier: Apache-2.0
// Which properties each method has, shown on random cases; and of each property that a method is said not to have, a case where it fails.
//
// A new method is one line in `methods` below: a struct with `make`, which gives the method for the given tasks, and `claims`.
#include <htl/weighting/aligned_mtl.hpp>
#include <htl/weighting/apply.hpp>
#include <htl/weighting/config.hpp>
#include <htl/weighting/constant.hpp>
#include <htl/weighting/core_task.hpp>
#include <htl/weighting/famo.hpp>
#include <htl/weighting/gradnorm.hpp>
#include <htl/weighting/gradvac.hpp>
#include <htl/weighting/imtlg.hpp>
#include <htl/weighting/krum.hpp>
#include <htl/weighting/mean.hpp>
#include <htl/weighting/metabalance.hpp>
#include <htl/weighting/pcgrad.hpp>
#include <htl/weighting/random_weighting.hpp>
#include <htl/weighting/sum.hpp>

#include <support/seeded.hpp>

#include <functional>
#include <numeric>

namespace {

using namespace htl;
using namespace htl::test;
using at::Tensor;

/// What is said of a property.
enum class Claim {
  yes,  ///< in every case
  no,   ///< in at least one of the cases it fails
  open  ///< nothing is said
};
using enum Claim;

/// A(J) = Jᵀ w is what a method makes of the gradients J [T, P]. The memory of a method is one step old, with the same J.
struct Claims {
  Claim non_conflicting;        ///< J A(J) ≥ 0: no task's loss grows
  Claim permutation_invariant;  ///< A(P J) = A(J) for permutations P (cores, losses move with their tasks)
  Claim linear_under_scaling;   ///< A(diag(c) J) is linear in c > 0
  Claim stationary;             ///< A(J) = 0 where Jᵀ v = 0 for some v > 0
  Claim scale_equivariant;      ///< A(s J) = s A(J) for s > 0
  Claim ignores_inactive;       ///< the weights of the others are those without the inactive task
  double alone = 1.0;           ///< the weight of one task by itself
  int64_t least_tasks = 1;      ///< what the method needs
  double tolerance = 1e-9;      ///< relative to Σ ‖g_t‖, or to the largest weight
};

using Tasks = std::vector<int64_t>;  // numbers of the tasks; what a method has for each of them goes by these

std::vector<double> constants(const Tasks& tasks) {
  std::vector<double> result;
  for (const int64_t t : tasks) result.push_back(0.5 + static_cast<double>(t));
  return result;
}

namespace methods {
// clang-format off
// in the order of Claims: not conflicting, any order, linear, stationary, any scale, without the inactive
struct OfSum { static Sum make(const Tasks&) { return {}; } static constexpr Claims claims{no, yes, yes, no, yes, yes}; };
struct OfMean { static Mean make(const Tasks&) { return {}; } static constexpr Claims claims{no, yes, yes, no, yes, yes}; };
struct OfConstant { static Constant make(const Tasks& tasks) { return {constants(tasks)}; } static constexpr Claims claims{no, no, yes, no, yes, yes, 0.5}; };
struct OfRandomWeighting { static RandomWeighting make(const Tasks&) { return {}; } static constexpr Claims claims{no, no, yes, no, yes, no}; };
struct OfCoreTask { static CoreTask make(const Tasks&) { return {}; } static constexpr Claims claims{no, yes, no, no, yes, yes}; };
struct OfCoreTaskAfter {
  static CoreTask make(const Tasks&) { return {.norm = NormReference::after_projection}; }
  static constexpr Claims claims{no, yes, no, no, yes, yes};
};
struct OfCoreTaskAverage {
  static CoreTask make(const Tasks&) { return {.norm = NormReference::moving_average}; }
  static constexpr Claims claims{no, yes, no, no, yes, yes};
};
// without a clip of the ratio every task has r ‖g_core‖ of its own direction, and 1 − r of itself
struct OfMetaBalance { static MetaBalance make(const Tasks&) { return {}; } static constexpr Claims claims{no, yes, yes, no, yes, yes}; };
// each projection scales with its own gradient alone, so a fixed order, or a known draw, is linear
struct OfPCGrad { static PCGrad make(const Tasks&) { return {}; } static constexpr Claims claims{no, no, yes, no, yes, yes}; };
struct OfPCGradAscending {
  static PCGrad make(const Tasks&) { return {.order = Order::ascending}; }
  static constexpr Claims claims{no, no, yes, no, yes, yes};
};
struct OfPCGradMean {
  static PCGrad make(const Tasks&) { return {.order = Order::descending, .reduction = Reduction::mean}; }
  static constexpr Claims claims{no, no, yes, no, yes, yes};
};
struct OfGradVac { static GradVac make(const Tasks&) { return {}; } static constexpr Claims claims{no, no, yes, no, yes, yes}; };
struct OfIMTLG { static IMTLG make(const Tasks&) { return {}; } static constexpr Claims claims{no, yes, no, no, yes, yes}; };
struct OfAlignedMTL { static AlignedMTL make(const Tasks&) { return {}; } static constexpr Claims claims{no, yes, no, no, yes, yes}; };
struct OfAlignedMTLMedian {
  static AlignedMTL make(const Tasks&) { return {.scale = AlignedScale::median}; }
  static constexpr Claims claims{no, yes, no, no, yes, yes};
};
struct OfAlignedMTLMean {
  static AlignedMTL make(const Tasks&) { return {.scale = AlignedScale::rmse, .preference = Preference::mean}; }
  static constexpr Claims claims{no, yes, no, no, yes, yes};
};
// opposes a task only where gradients depend on each other
struct OfConFIG { static ConFIG make(const Tasks&) { return {}; } static constexpr Claims claims{no, yes, yes, no, yes, yes}; };
struct OfKrum { static Krum make(const Tasks&) { return {.selected = 2}; } static constexpr Claims claims{no, yes, no, no, yes, yes, 1.0, 3}; };
struct OfGradNorm { static GradNorm make(const Tasks&) { return {}; } static constexpr Claims claims{no, yes, no, no, no, yes}; };
// sees losses only, so its weights are constants to these tests
struct OfFAMO { static FAMO make(const Tasks&) { return {}; } static constexpr Claims claims{no, yes, yes, no, yes, yes}; };
// clang-format on
}  // namespace methods

using Methods = ::testing::Types<methods::OfSum, methods::OfMean, methods::OfConstant, methods::OfRandomWeighting, methods::OfCoreTask,
                                 methods::OfCoreTaskAfter, methods::OfCoreTaskAverage, methods::OfMetaBalance, methods::OfPCGrad, methods::OfPCGradAscending,
                                 methods::OfPCGradMean, methods::OfGradVac, methods::OfIMTLG, methods::OfAlignedMTL, methods::OfAlignedMTLMedian,
                                 methods::OfAlignedMTLMean, methods::OfConFIG, methods::OfKrum, methods::OfGradNorm, methods::OfFAMO>;

Tasks all(int64_t count) {
  Tasks result(static_cast<size_t>(count));
  std::iota(result.begin(), result.end(), int64_t{0});
  return result;
}

/// A problem: gradients, and what else a method may read.
struct Problem {
  Tensor j;                   // [T, P]
  Tensor losses;              // [T]
  Tensor active = {};         // [T]
  Tasks tasks;                // numbers
  std::vector<int64_t> core;  // position

  explicit Problem(const Tensor& gradients)
      : j(gradients), losses(at::arange(1, gradients.size(0) + 1, at::kDouble).reciprocal()), tasks(all(gradients.size(0))), core{gradients.size(0) - 1} {}
};

/// The weights of the second of two steps with the same problem. The same random numbers every time.
template <class Of>
Tensor weights_of(const Problem& problem) {
  const auto method = Of::make(problem.tasks);
  auto memory = htl::detail::initial_state(method);
  TaskGramian gramian{.matrix = problem.j.mm(problem.j.t()), .active = problem.active, .cores = problem.core, .losses = problem.losses};
  gramian.cross = gramian.matrix;  // both batches are the same one
  gramian.generator = at::detail::createCPUGenerator(11);
  Tensor result;
  for (; gramian.step < 2; ++gramian.step) {
    result = htl::weights(method, gramian, memory);
    if constexpr (LossObserver<std::remove_const_t<decltype(method)>>) method.observe(problem.losses.square() * 0.5, memory);
  }
  return result;
}
template <class Of>
Tensor direction_of(const Problem& problem) {
  return weights_of<Of>(problem).matmul(problem.j);
}

double size_of(const Tensor& j) { return std::max(j.norm(2, 1).sum().item<double>(), 1e-300); }

/// Gradients with and without conflicts, of like and unlike sizes, more tasks than numbers and fewer.
Tensor random_gradients(Random& random, int64_t least_tasks) {
  const int64_t tasks = random.integer(std::max<int64_t>(least_tasks, 2), 6);
  Tensor j = random.normal({tasks, random.integer(2, 9)});
  if (random.chance(0.3)) j = j + 2.0 * random.normal({1, j.size(1)});
  if (random.chance(0.3)) j = j * at::pow(10.0, random.uniform({tasks, 1}, -1.5, 1.5));
  return j;
}

/// Whether rounding may decide a method's rank of J: such cases say nothing about its formulas.
bool is_borderline(const Tensor& j) {
  const auto between = [](const Tensor& matrix) {
    const Tensor values = at::linalg_svdvals(matrix);
    return values.gt(1e-9 * values.max()).logical_and(values.lt(1e-3 * values.max())).any().item<bool>();
  };
  return between(j) || between(j / j.norm(2, 1, true));
}

template <class Of>
class PropertiesTest : public Seeded {
 protected:
  static constexpr Claims claims = Of::claims;

  /// Counts the cases in which `deviation` is above the tolerance, and compares with the claim.
  static void examine(Claim claim, uint64_t seed, const std::function<double(Random&, const Tensor&)>& deviation) {
    Random random(seed);
    int64_t cases = 0, failures = 0;
    double worst = 0.0;
    while (cases < 150) {
      const Tensor j = random_gradients(random, claims.least_tasks);
      if (is_borderline(j)) continue;
      ++cases;
      const double found = deviation(random, j);
      const bool failed = !(found <= claims.tolerance);
      failures += failed;
      worst = std::max(worst, found);
      if (claim == yes) {
        ASSERT_FALSE(failed) << "deviates by " << found << " in case " << cases << ":\n" << j;
      }
    }
    if (claim == no) {
      EXPECT_GT(failures, 0) << "is said to fail, but held in " << cases << " cases; the worst deviation is " << worst;
    }
  }
  static double difference(const Tensor& a, const Tensor& b, double size) { return (a - b).abs().max().template item<double>() / size; }
};

struct Name {
  template <class Of>
  static std::string GetName(int) {
    const std::string full = ::testing::internal::GetTypeName<Of>();
    return full.substr(full.rfind("::Of") + 4);
  }
};

TYPED_TEST_SUITE(PropertiesTest, Methods, Name);

TYPED_TEST(PropertiesTest, NoTaskIsOpposed) {
  this->examine(TestFixture::claims.non_conflicting, 101, [](Random&, const Tensor& j) {
    const Tensor products = j.mv(direction_of<TypeParam>(Problem(j))) / j.norm(2, 1);
    return -products.min().template item<double>() / size_of(j);
  });
}

TYPED_TEST(PropertiesTest, TheOrderOfTasksDoesNotMatter) {
  this->examine(TestFixture::claims.permutation_invariant, 102, [this](Random& random, const Tensor& j) {
    const Problem problem(j);
    Problem permuted = problem;
    const Tensor order = random.permutation(j.size(0));
    permuted.j = j.index_select(0, order);
    permuted.losses = problem.losses.index_select(0, order);
    permuted.core = {order.eq(problem.core[0]).nonzero().template item<int64_t>()};
    return this->difference(direction_of<TypeParam>(permuted), direction_of<TypeParam>(problem), size_of(j));
  });
}

TYPED_TEST(PropertiesTest, IsLinearInTheSizesOfGradients) {
  this->examine(TestFixture::claims.linear_under_scaling, 103, [this](Random& random, const Tensor& j) {
    const Tensor first = at::pow(10.0, random.uniform({j.size(0), 1}, -1.0, 1.0)), second = at::pow(10.0, random.uniform({j.size(0), 1}, -1.0, 1.0));
    const auto scaled = [&](const Tensor& c) { return direction_of<TypeParam>(Problem(c * j)); };
    return this->difference(scaled(2.0 * first + second), 2.0 * scaled(first) + scaled(second), size_of((first + second) * j));
  });
}

TYPED_TEST(PropertiesTest, StopsAtParetoStationaryPoints) {
  this->examine(TestFixture::claims.stationary, 104, [](Random& random, const Tensor& j) {
    Tensor stationary = j.clone();  // the last gradient is what the others leave: Jᵀ v = 0 with v > 0
    const Tensor v = random.uniform({j.size(0)}, 0.2, 2.0);
    stationary[-1] = -v.slice(0, 0, -1).matmul(j.slice(0, 0, -1)) / v[-1];
    return direction_of<TypeParam>(Problem(stationary)).norm().template item<double>() / size_of(stationary);
  });
}

TYPED_TEST(PropertiesTest, ScalesWithTheGradients) {
  this->examine(TestFixture::claims.scale_equivariant, 105, [this](Random&, const Tensor& j) {
    const Tensor plain = direction_of<TypeParam>(Problem(j));
    double worst = 0.0;
    for (const double scale : {1e-20, 1e-10, 0.3, 1e3, 1e10, 1e20})
      worst = std::max(worst, this->difference(direction_of<TypeParam>(Problem(scale * j)) / scale, plain, size_of(j)));
    return worst;
  });
}

TYPED_TEST(PropertiesTest, InactiveTasksLeaveTheProblem) {
  this->examine(TestFixture::claims.ignores_inactive, 106, [this](Random& random, const Tensor& drawn) {
    Tensor j = drawn.size(0) > TestFixture::claims.least_tasks ? drawn : at::cat({drawn, random.normal({1, drawn.size(1)})});
    const int64_t gone = random.integer(0, j.size(0) - 2);  // the last one is the core
    Problem with(j), without(j);
    with.j = j.clone();
    with.j[gone].zero_();
    with.active = at::ones({j.size(0)}, at::kBool);
    with.active[gone] = false;
    const Tensor kept = with.active.nonzero().view(-1);
    without.j = j.index_select(0, kept);
    without.losses = with.losses.index_select(0, kept);
    without.tasks.erase(without.tasks.begin() + gone);
    without.core = {kept.size(0) - 1};
    const Tensor rest = weights_of<TypeParam>(with).index_select(0, kept), reference = weights_of<TypeParam>(without);
    return this->difference(rest, reference, std::max(reference.abs().max().template item<double>(), 1e-300));
  });
}

TYPED_TEST(PropertiesTest, OneTaskAloneHasItsWeight) {
  if (TestFixture::claims.least_tasks > 1) {
    EXPECT_NE(sentence_of([] { weights_of<TypeParam>(Problem(at::ones({1, 3}, at::kDouble))); }), "no error");
    return;
  }
  for (const double scale : {1e-20, 1e-3, 1.0, 1e20}) {
    const Tensor w = weights_of<TypeParam>(Problem(scale * at::tensor({0.3, -0.7, 1.1}, at::kDouble).unsqueeze(0)));
    EXPECT_TRUE(close(w, at::full({1}, TestFixture::claims.alone, at::kDouble), 1e-12, 0.0)) << "at the scale " << scale;
  }
}

TYPED_TEST(PropertiesTest, IsFiniteAtEveryScaleAndForEveryDegenerateMatrix) {
  Random random(107);
  std::vector<Tensor> matrices;
  for (const int64_t tasks : {1, 2, 3, 5}) {
    if (tasks < TestFixture::claims.least_tasks) continue;
    const Tensor j = random.normal({tasks, 4});
    matrices.insert(matrices.end(), {j, at::zeros_like(j), j[0].expand_as(j).contiguous(), random.normal({tasks, 1})});
    Tensor zero_row = j.clone(), opposed = j.clone(), nearly = j.clone(), unlike = j.clone(), cancelling = j.clone();
    zero_row[0].zero_();
    opposed[tasks - 1] = -j[0];
    nearly[tasks - 1] = j[0] * -(1.0 + 1e-15);
    unlike[0] *= 1e-20;
    cancelling[tasks - 1] -= cancelling.sum(0);
    Tensor only = at::zeros_like(j);
    only[tasks - 1] = j[0];
    matrices.insert(matrices.end(), {zero_row, opposed, nearly, unlike, cancelling, only, at::eye(tasks, at::kDouble)});
  }
  for (size_t i = 0; i < matrices.size(); ++i)
    for (const double scale : {0.0, 1e-20, 1e-10, 1.0, 1e3, 1e10, 1e20})
      for (const bool all_active : {true, false}) {
        Problem problem(scale * matrices[i]);
        const int64_t tasks = problem.j.size(0);
        if (!all_active) problem.active = at::arange(tasks, at::kLong).remainder(2).eq(tasks % 2);  // without the core
        if (!all_active) problem.j = problem.j * problem.active.unsqueeze(1);
        const Tensor w = weights_of<TypeParam>(problem);
        ASSERT_EQ(w.sizes(), at::IntArrayRef({tasks}));
        ASSERT_EQ(w.scalar_type(), at::kDouble);
        ASSERT_TRUE(at::isfinite(w).all().template item<bool>()) << w << "\nfor gradients " << problem.j;
        ASSERT_TRUE(at::isfinite(w.matmul(problem.j)).all().template item<bool>());
        ASSERT_TRUE(same_bits(weights_of<TypeParam>(problem), w)) << "the same seed must give the same bits";
      }
}

}  // namespace
