// SPDX-License-Identifier: Apache-2.0
/// @file method_properties.hpp
/// @brief Which properties a gradient method has, shown on random cases; and of each property that it is said not to have, a case where it fails.
///
/// A method is a struct with `make`, which gives the method for the given tasks, and `claims`; `PropertiesTest` is instantiated with such structs.
#pragma once

#include <htl/weighting/apply.hpp>

#include <support/seeded.hpp>

#include <functional>
#include <numeric>

namespace htl::test {

/// @brief What is said of a property.
enum class Claim {
  yes,  ///< in every case
  no,   ///< in at least one of the cases it fails
  open  ///< nothing is said
};

/// @brief factor · (‖g‖ + offset)^power
struct Alone {
  constexpr Alone(double f, double p = 0.0, double o = 0.0) : factor(f), power(p), offset(o) {}  // NOLINT(google-explicit-constructor): a number is one
  double factor, power, offset;
  double operator()(double norm) const { return factor * std::pow(norm + offset, power); }
};

/// @brief A(J) is what a method makes of the gradients J [T, P], Jᵀ w where it has weights. The memory of a method is one step old, with the same J.
struct Claims {
  Claim non_conflicting;        ///< J A(J) ≥ 0: no task's loss grows
  Claim permutation_invariant;  ///< A(P J) = A(J) for permutations P (cores, losses move with their tasks)
  Claim linear_under_scaling;   ///< A(diag(c) J) is linear in c > 0
  Claim stationary;             ///< A(J) = 0 where Jᵀ v = 0 for some v > 0
  Claim scale_equivariant;      ///< A(s J) = s A(J) for s > 0
  Claim ignores_inactive;       ///< the weights of the others (without weights: A(J)) are those without the inactive task
  Alone alone = 1.0;            ///< A(g) / g for one task by itself
  int64_t least_tasks = 1;      ///< what the method needs
  double tolerance = 1e-9;      ///< relative to Σ ‖g_t‖, or to the largest weight
};

using Tasks = std::vector<int64_t>;  // numbers of the tasks; what a method has for each of them goes by these

inline Tasks all(int64_t count) {
  Tasks result(static_cast<size_t>(count));
  std::iota(result.begin(), result.end(), int64_t{0});
  return result;
}

/// @brief A problem: gradients, and what else a method may read.
struct Problem {
  at::Tensor j;               // [T, P]
  at::Tensor losses;          // [T]
  at::Tensor active = {};     // [T]
  Tasks tasks;                // numbers
  std::vector<int64_t> core;  // position

  explicit Problem(const at::Tensor& gradients)
      : j(gradients), losses(at::arange(1, gradients.size(0) + 1, at::kDouble).reciprocal()), tasks(all(gradients.size(0))), core{gradients.size(0) - 1} {}
};

/// @brief What a method makes of a problem.
struct Outcome {
  at::Tensor weights;    // [T]; undefined where the method has none
  at::Tensor direction;  // [P]
};

/// @brief The second of two steps with the same problem. The same random numbers every time.
template <class Of>
Outcome outcome_of(const Problem& problem) {
  const auto method = Of::make(problem.tasks);
  auto memory = htl::detail::initial_state(method);
  TaskGradients gradients = task_gradients(problem.j);
  TaskGramian& gramian = gradients.gramian;
  gramian.active = problem.active;
  gramian.cores = problem.core;
  gramian.losses = problem.losses;
  gramian.cross = gramian.matrix;  // both batches are the same one
  gramian.generator = at::detail::createCPUGenerator(11);
  Outcome result;
  for (; gramian.step < 2; ++gramian.step) {
    const SharedGradient shared = htl::aggregate(method, gradients, memory);
    result = {shared.weights, shared.parts.front().values.squeeze(0)};
    if constexpr (LossObserver<std::remove_const_t<decltype(method)>>) method.observe(problem.losses.square() * 0.5, memory);
  }
  return result;
}
template <class Of>
at::Tensor direction_of(const Problem& problem) {
  return outcome_of<Of>(problem).direction;
}

inline double size_of(const at::Tensor& j) { return std::max(j.norm(2, 1).sum().item<double>(), 1e-300); }

/// @brief Gradients with and without conflicts, of like and unlike sizes, more tasks than numbers and fewer.
inline at::Tensor random_gradients(Random& random, int64_t least_tasks) {
  const int64_t tasks = random.integer(std::max<int64_t>(least_tasks, 2), 6);
  at::Tensor j = random.normal({tasks, random.integer(2, 9)});
  if (random.chance(0.3)) j = j + 2.0 * random.normal({1, j.size(1)});
  if (random.chance(0.3)) j = j * at::pow(10.0, random.uniform({tasks, 1}, -1.5, 1.5));
  return j;
}

/// @brief Whether rounding may decide a method's rank of J: such cases say nothing about its formulas.
inline bool is_borderline(const at::Tensor& j) {
  const auto between = [](const at::Tensor& matrix) {
    const at::Tensor values = at::linalg_svdvals(matrix);
    return values.gt(1e-9 * values.max()).logical_and(values.lt(1e-3 * values.max())).any().item<bool>();
  };
  return between(j) || between(j / j.norm(2, 1, true));
}

template <class Of>
class PropertiesTest : public Seeded {
 protected:
  static constexpr Claims claims = Of::claims;

  /// Counts the cases in which `deviation` is above the tolerance, and compares with the claim.
  static void examine(Claim claim, uint64_t seed, const std::function<double(Random&, const at::Tensor&)>& deviation) {
    Random random(seed);
    int64_t cases = 0, failures = 0;
    double worst = 0.0;
    while (cases < 150) {
      const at::Tensor j = random_gradients(random, claims.least_tasks);
      if (is_borderline(j)) continue;
      ++cases;
      const double found = deviation(random, j);
      const bool failed = !(found <= claims.tolerance);
      failures += failed;
      worst = std::max(worst, found);
      if (claim == Claim::yes) {
        ASSERT_FALSE(failed) << "deviates by " << found << " in case " << cases << ":\n" << j;
      }
    }
    if (claim == Claim::no) {
      EXPECT_GT(failures, 0) << "is said to fail, but held in " << cases << " cases; the worst deviation is " << worst;
    }
  }
  static double difference(const at::Tensor& a, const at::Tensor& b, double size) { return (a - b).abs().max().template item<double>() / size; }
};

/// @brief What gtest calls a method.
struct NameOfMethod {
  template <class Of>
  static std::string GetName(int) {
    const std::string full = ::testing::internal::GetTypeName<Of>();
    return full.substr(full.rfind("::Of") + 4);
  }
};

TYPED_TEST_SUITE_P(PropertiesTest);

TYPED_TEST_P(PropertiesTest, NoTaskIsOpposed) {
  this->examine(TestFixture::claims.non_conflicting, 101, [](Random&, const at::Tensor& j) {
    const at::Tensor products = j.mv(direction_of<TypeParam>(Problem(j))) / j.norm(2, 1);
    return -products.min().template item<double>() / size_of(j);
  });
}

TYPED_TEST_P(PropertiesTest, TheOrderOfTasksDoesNotMatter) {
  this->examine(TestFixture::claims.permutation_invariant, 102, [this](Random& random, const at::Tensor& j) {
    const Problem problem(j);
    Problem permuted = problem;
    const at::Tensor order = random.permutation(j.size(0));
    permuted.j = j.index_select(0, order);
    permuted.losses = problem.losses.index_select(0, order);
    permuted.core = {order.eq(problem.core[0]).nonzero().template item<int64_t>()};
    return this->difference(direction_of<TypeParam>(permuted), direction_of<TypeParam>(problem), size_of(j));
  });
}

TYPED_TEST_P(PropertiesTest, IsLinearInTheSizesOfGradients) {
  this->examine(TestFixture::claims.linear_under_scaling, 103, [this](Random& random, const at::Tensor& j) {
    const at::Tensor first = at::pow(10.0, random.uniform({j.size(0), 1}, -1.0, 1.0)), second = at::pow(10.0, random.uniform({j.size(0), 1}, -1.0, 1.0));
    const auto scaled = [&](const at::Tensor& c) { return direction_of<TypeParam>(Problem(c * j)); };
    return this->difference(scaled(2.0 * first + second), 2.0 * scaled(first) + scaled(second), size_of((first + second) * j));
  });
}

TYPED_TEST_P(PropertiesTest, StopsAtParetoStationaryPoints) {
  this->examine(TestFixture::claims.stationary, 104, [](Random& random, const at::Tensor& j) {
    at::Tensor stationary = j.clone();  // the last gradient is what the others leave: Jᵀ v = 0 with v > 0
    const at::Tensor v = random.uniform({j.size(0)}, 0.2, 2.0);
    stationary[-1] = -v.slice(0, 0, -1).matmul(j.slice(0, 0, -1)) / v[-1];
    return direction_of<TypeParam>(Problem(stationary)).norm().template item<double>() / size_of(stationary);
  });
}

TYPED_TEST_P(PropertiesTest, ScalesWithTheGradients) {
  this->examine(TestFixture::claims.scale_equivariant, 105, [this](Random&, const at::Tensor& j) {
    const at::Tensor plain = direction_of<TypeParam>(Problem(j));
    double worst = 0.0;
    for (const double scale : {1e-20, 1e-10, 0.3, 1e3, 1e10, 1e20})
      worst = std::max(worst, this->difference(direction_of<TypeParam>(Problem(scale * j)) / scale, plain, size_of(j)));
    return worst;
  });
}

TYPED_TEST_P(PropertiesTest, InactiveTasksLeaveTheProblem) {
  this->examine(TestFixture::claims.ignores_inactive, 106, [this](Random& random, const at::Tensor& drawn) {
    at::Tensor j = drawn.size(0) > TestFixture::claims.least_tasks ? drawn : at::cat({drawn, random.normal({1, drawn.size(1)})});
    const int64_t gone = random.integer(0, j.size(0) - 2);  // the last one is the core
    Problem with(j), without(j);
    with.j = j.clone();
    with.j[gone].zero_();
    with.active = at::ones({j.size(0)}, at::kBool);
    with.active[gone] = false;
    const at::Tensor kept = with.active.nonzero().view(-1);
    without.j = j.index_select(0, kept);
    without.losses = with.losses.index_select(0, kept);
    without.tasks.erase(without.tasks.begin() + gone);
    without.core = {kept.size(0) - 1};
    const Outcome rest = outcome_of<TypeParam>(with), reference = outcome_of<TypeParam>(without);
    if (!rest.weights.defined()) return this->difference(rest.direction, reference.direction, size_of(j));
    return this->difference(rest.weights.index_select(0, kept), reference.weights, std::max(reference.weights.abs().max().template item<double>(), 1e-300));
  });
}

TYPED_TEST_P(PropertiesTest, OneTaskAloneHasItsWeight) {
  if (TestFixture::claims.least_tasks > 1) {
    EXPECT_NE(sentence_of([] { outcome_of<TypeParam>(Problem(at::ones({1, 3}, at::kDouble))); }), "no error");
    return;
  }
  for (const double scale : {1e-20, 1e-3, 1.0, 1e20}) {
    const at::Tensor g = scale * at::tensor({0.3, -0.7, 1.1}, at::kDouble);
    const Outcome outcome = outcome_of<TypeParam>(Problem(g.unsqueeze(0)));
    const double expected = TestFixture::claims.alone(g.norm().template item<double>());
    EXPECT_TRUE(close(outcome.direction, expected * g, 1e-12, 0.0)) << "at the scale " << scale;
  }
}

TYPED_TEST_P(PropertiesTest, IsFiniteAtEveryScaleAndForEveryDegenerateMatrix) {
  Random random(107);
  std::vector<at::Tensor> matrices;
  for (const int64_t tasks : {1, 2, 3, 5}) {
    if (tasks < TestFixture::claims.least_tasks) continue;
    const at::Tensor j = random.normal({tasks, 4});
    matrices.insert(matrices.end(), {j, at::zeros_like(j), j[0].expand_as(j).contiguous(), random.normal({tasks, 1})});
    at::Tensor zero_row = j.clone(), opposed = j.clone(), nearly = j.clone(), unlike = j.clone(), cancelling = j.clone();
    zero_row[0].zero_();
    opposed[tasks - 1] = -j[0];
    nearly[tasks - 1] = j[0] * -(1.0 + 1e-15);
    unlike[0] *= 1e-20;
    cancelling[tasks - 1] -= cancelling.sum(0);
    at::Tensor only = at::zeros_like(j);
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
        const Outcome outcome = outcome_of<TypeParam>(problem), again = outcome_of<TypeParam>(problem);
        ASSERT_EQ(outcome.direction.sizes(), at::IntArrayRef({problem.j.size(1)}));
        ASSERT_TRUE(at::isfinite(outcome.direction).all().template item<bool>()) << outcome.direction << "\nfor gradients " << problem.j;
        ASSERT_TRUE(same_bits(again.direction, outcome.direction)) << "the same seed must give the same bits";
        if (!outcome.weights.defined()) continue;
        ASSERT_EQ(outcome.weights.sizes(), at::IntArrayRef({tasks}));
        ASSERT_EQ(outcome.weights.scalar_type(), at::kDouble);
        ASSERT_TRUE(at::isfinite(outcome.weights).all().template item<bool>()) << outcome.weights << "\nfor gradients " << problem.j;
        ASSERT_TRUE(same_bits(again.weights, outcome.weights)) << "the same seed must give the same bits";
      }
}

REGISTER_TYPED_TEST_SUITE_P(PropertiesTest, NoTaskIsOpposed, TheOrderOfTasksDoesNotMatter, IsLinearInTheSizesOfGradients, StopsAtParetoStationaryPoints,
                            ScalesWithTheGradients, InactiveTasksLeaveTheProblem, OneTaskAloneHasItsWeight, IsFiniteAtEveryScaleAndForEveryDegenerateMatrix);

}  // namespace htl::test
